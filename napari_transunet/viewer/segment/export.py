"""Export of a labels layer: on the grid of its scan, with names and provenance, off the GUI thread.

A *snapshot* takes everything that an export needs out of the layers on the GUI thread; writing it then touches
no layer, so that a person may go on painting meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_transunet.annotation.exporting import check_source
from napari_transunet.errors import FileProblem, TransUNetError, VolumeError
from napari_transunet.io.sidecar import sidecar_path, stem_of
from napari_transunet.viewer.layers.grids import AS_IT_IS, turn_between
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import (
    geometry_of,
    label_file_of,
    label_set_of,
    labels_dtype,
    source_of,
)
from napari_transunet.viewer.widgets.preferences import load_preferences

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_transunet.annotation.exporting import SourceState
    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.volume import Source

logger = logging.getLogger(__name__)

FORMATS: Mapping[str, str] = {
    ".nii.gz": "NIfTI, compressed (*.nii.gz)",
    ".nii": "NIfTI (*.nii)",
    ".seg.nrrd": "3D Slicer segmentation (*.seg.nrrd)",
    ".nrrd": "NRRD (*.nrrd)",
    ".mha": "MetaImage (*.mha)",
}

Provenance = Mapping[str, Any] | Callable[[npt.NDArray[Any]], Mapping[str, Any]] | None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one export writes, taken at one moment.

    Attributes
    ----------
    labels
        (z, y, x), unsigned integers; a copy.
    geometry
        The scan's exact grid.
    label_set
        Names and colours.
    provenance
        Where the labels come from: a mapping, a function of the labels that gives one, or None.
    scan
        File or folder of the scan, where known; never written to.
    source, state
        The scan, and what its file was like when the labels were begun; where it is another now, nothing is written.
    """

    labels: npt.NDArray[Any]
    geometry: Geometry
    label_set: LabelSet
    provenance: Provenance = None
    scan: Path | None = None
    source: Source | None = None
    state: SourceState | None = None


def snapshot(layer: Labels, *, image: Image | None = None, provenance: Provenance = None) -> Snapshot:
    """Copy what an export of this layer needs (GUI thread; about 10 ms for 512 x 512 x 133).

    Parameters
    ----------
    layer
        The labels to write.
    image
        The image they were made on, where it is still there; its shape is checked, and a labels layer that
        does not know its own grid (one made with napari's own button) takes the image's.
    provenance
        Goes into the file and the JSON beside it; a function is called with the labels off the GUI thread.

    Raises
    ------
    VolumeError
        The labels are not three-dimensional, or the image has another shape than they have.
    """
    if layer.data.ndim != 3:
        raise VolumeError(f"“{layer.name}” has {layer.data.ndim} dimensions; an export needs three.")
    if image is not None and tuple(image.data.shape) != tuple(layer.data.shape):
        raise VolumeError(
            f"“{layer.name}” ({_sizes(layer.data.shape)} voxels) no longer fits “{image.name}” "
            f"({_sizes(image.data.shape)}): the image was replaced or cropped. Choose the image that the labels "
            "were made on."
        )
    geometry = geometry_of(layer)
    if image is not None and record_of(layer).geometry is None and turn_between(layer, image) == AS_IT_IS:
        geometry = geometry_of(image)
    source = source_of(layer) or (source_of(image) if image is not None else None)
    return Snapshot(
        labels=np.array(layer.data, copy=True),
        geometry=geometry,
        label_set=label_set_of(layer),
        provenance=provenance,
        scan=source.path if source is not None else None,
        source=source,
        state=record_of(layer).scan_state,
    )


def write_snapshot(
    taken: Snapshot, path: str | os.PathLike[str], *, overwrite: bool = False
) -> tuple[Path, Path]:
    """Write the labels and the JSON beside them; returns both paths. Touches no layer: fit for any thread.

    Raises
    ------
    ExistsError
        The file exists and `overwrite` is false.
    FileProblem
        The folder cannot be written to, the path is the scan itself, or the scan's file is gone.
    VolumeError
        The scan's file was changed since the labels were begun.
    """
    from napari_transunet.io.writing import write_labels

    target = Path(path)
    check_source(taken.source, taken.state)
    if taken.scan is not None and _same_file(target, taken.scan):
        raise FileProblem(f"{target.name} is the scan itself; give the labels another name.")
    labels = labels_dtype(taken.labels)
    provenance = taken.provenance(labels) if callable(taken.provenance) else taken.provenance
    if taken.source is not None and taken.source.notes:
        provenance = {**(provenance or {}), "reading_notes": list(taken.source.notes)}
    written = write_labels(
        target, labels, taken.geometry, taken.label_set, provenance=provenance, overwrite=overwrite
    )
    return written, sidecar_path(written)


def export_labels(
    layer: Labels,
    path: str | os.PathLike[str],
    *,
    image: Image | None = None,
    provenance: Provenance = None,
    overwrite: bool = False,
) -> Path:
    """Write a labels layer now, in this thread; for scripts and tests. Raises as its two steps do."""
    return write_snapshot(snapshot(layer, image=image, provenance=provenance), path, overwrite=overwrite)[0]


def propose_path(layer: Labels, *, suffix: str = ".nii.gz", scan: Path | None = None) -> Path:
    """A name beside the scan that is not taken yet, e.g. `ct_labels.nii.gz`, `ct_labels_2.nii.gz`.

    Where the scan's folder cannot be written to, or there is none, the name is in the home folder.
    """
    source, file = source_of(layer), label_file_of(layer)
    scan = scan or (source.path if source is not None else None)
    folder, stem = Path.home(), _safe(str(layer.name))
    beside = scan or (file.path if file is not None else None)
    if scan is not None:
        # The name of a DICOM folder is often a UID, whose last number is no suffix.
        stem = f"{scan.name if scan.is_dir() else stem_of(scan)}_labels"
    elif beside is not None:
        stem = stem_of(beside)
    if beside is not None and os.access(beside.parent, os.W_OK):
        folder = beside.parent  # of a DICOM folder: beside the folder, not among its slices
    candidate, number = folder / f"{stem}{suffix}", 2
    while candidate.exists() or sidecar_path(candidate).exists():
        candidate, number = folder / f"{stem}_{number}{suffix}", number + 1
    return candidate


class ExportAction(QObject):
    """What the dock's *Export…* button does: ask for a name, write off the GUI thread, say what happened.

    Signals
    -------
    started(str)
        A sentence; writing has begun.
    exported(str, str)
        The path, and a sentence that names it.
    failed(str)
        A sentence that says why nothing was written.
    """

    started = Signal(str)
    exported = Signal(str, str)
    failed = Signal(str)
    _ended = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._widget = parent
        self._busy = False
        self._ended.connect(self._on_ended)

    @property
    def busy(self) -> bool:
        """Whether an export is being written."""
        return self._busy

    def ask(self, layer: Labels, *, image: Image | None = None, provenance: Provenance = None) -> None:
        """Ask for a file name (the dialog confirms replacing an existing one) and export."""
        source = source_of(image) if image is not None else None
        preferred = load_preferences().export_format
        proposal = propose_path(layer, suffix=preferred, scan=source.path if source is not None else None)
        filters = [FORMATS[preferred], *(text for suffix, text in FORMATS.items() if suffix != preferred)]
        name, chosen = QFileDialog.getSaveFileName(
            self._widget, "Export labels", str(proposal), ";;".join(filters)
        )
        if not name:
            return
        suffix = next((s for s, text in FORMATS.items() if text == chosen), preferred)
        path, confirmed = complete_name(Path(name), suffix)
        self.save(layer, path, image=image, provenance=provenance, overwrite=confirmed)

    def save(
        self,
        layer: Labels,
        path: str | os.PathLike[str],
        *,
        image: Image | None = None,
        provenance: Provenance = None,
        overwrite: bool = False,
    ) -> None:
        """Export to a path without asking; the outcome comes as a signal."""
        if self.busy:
            self.failed.emit("The last export is still being written; wait for it to finish.")
            return
        try:
            taken = snapshot(layer, image=image, provenance=provenance)
        except TransUNetError as error:
            self.failed.emit(str(error))
            return
        self.started.emit(f"Writing {Path(path).name} …")
        self._busy = True
        # Not a daemon: a window that is closed now must not take the file with it that a person asked for.
        threading.Thread(target=self._write, args=(taken, path, overwrite), name="export").start()

    def _write(self, taken: Snapshot, path: str | os.PathLike[str], overwrite: bool) -> None:
        outcome = _attempt(taken, path, overwrite)
        try:
            self._ended.emit(outcome)
        except RuntimeError:
            logger.info("The window was closed before the export ended: %s", outcome)

    def _on_ended(self, outcome: tuple[Path, Path] | Exception) -> None:
        self._busy = False
        if isinstance(outcome, Exception):
            self._on_error(outcome)
        else:
            self._on_written(outcome)

    def _on_written(self, paths: tuple[Path, Path]) -> None:
        labels, sidecar = paths
        self.exported.emit(str(labels), f"Exported to {labels}; names and provenance are in {sidecar.name}.")

    def _on_error(self, error: Exception) -> None:
        self.failed.emit(_sentence(error))


def _attempt(taken: Snapshot, path: str | os.PathLike[str], overwrite: bool) -> tuple[Path, Path] | Exception:
    """The two paths, or the error, without a traceback: its frames would keep the window in memory."""
    try:
        return write_snapshot(taken, path, overwrite=overwrite)
    except Exception as error:  # noqa: BLE001  handed over to the GUI thread, which says it
        if not isinstance(error, TransUNetError):
            logger.error("The export failed.\n%s", "".join(traceback.format_exception(error)))
        return error.with_traceback(None)


def complete_name(path: Path, suffix: str) -> tuple[Path, bool]:
    """The name with a suffix that can be written, and whether a dialog that saw `path` asked about this very file.

    A name without one of the known suffixes gets `suffix`; then the file that will be written is not the one
    that the dialog looked at, and its confirmation does not count.
    """
    if any(path.name.lower().endswith(known) for known in FORMATS):
        return path, True
    return path.with_name(path.name + suffix), False


def _sentence(error: Exception) -> str:
    if isinstance(error, TransUNetError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory to write the labels; close other programs and try again."
    if isinstance(error, OSError):
        return f"The labels could not be written: {error.strerror or error}."
    return f"The labels could not be written ({type(error).__name__}: {error})."


def _same_file(path: Path, scan: Path) -> bool:
    try:
        return path.samefile(scan)
    except OSError:
        return path.absolute() == scan.absolute()


def _safe(name: str) -> str:
    """A layer's name as a file name."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip("._")
    return kept or "labels"


def _sizes(shape: Iterable[int]) -> str:
    return " × ".join(str(int(n)) for n in shape)
