"""Export of a labels layer: on the grid of its scan, with names and provenance, off the GUI thread.

A *snapshot* takes everything that an export needs out of the layers on the GUI thread; writing it then touches
no layer, so that a person may go on painting meanwhile.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image, Labels

from napari_transunet.errors import VolumeError
from napari_transunet.export.source import SourceState, check_source
from napari_transunet.export.writing import ExportRequest, export
from napari_transunet.files import is_taken
from napari_transunet.io.sidecar import sidecar_path, stem_of
from napari_transunet.viewer.layers.grids import reorientation_between
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import (
    as_shown,
    geometry_of,
    label_set_of,
    labels_dtype,
    sizes,
    source_of,
)
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.label_values import HIGHEST_LABEL, values_in
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.orientation import IDENTITY
from napari_transunet.volumes.volume import Source

Provenance = Callable[[npt.NDArray[Any]], Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one export writes, taken at one moment.

    Attributes
    ----------
    labels : (z, y, x), unsigned integers; a copy.
    geometry : the scan's exact grid.
    label_set : names and colours.
    colormap : in which the labels are shown, for those without a name.
    provenance : a function of the labels that says where they come from, as was known at that moment, or None.
    source, state
        The scan, and what its file was like when the labels were begun; where it is another now, nothing is written.
    """

    labels: npt.NDArray[Any]
    geometry: Geometry
    label_set: LabelSet
    colormap: Any
    provenance: Provenance | None = None
    source: Source | None = None
    state: SourceState | None = None


def snapshot(layer: Labels, *, image: Image | None = None, provenance: Provenance | None = None) -> Snapshot:
    """Copy what an export of this layer needs (GUI thread; about 10 ms for 512 x 512 x 133).

    Parameters
    ----------
    layer : the labels to write.
    image : the image they were made on, where it is still there; its shape is checked, and a labels layer that does
        not know its own grid (one made with napari's own button) takes the image's.
    provenance : what it gives goes into the file and the JSON beside it; called with the labels off the GUI thread.

    Raises
    ------
    VolumeError
        The labels are not three-dimensional, or the image has another shape than they have.
    """
    if layer.data.ndim != 3:
        raise VolumeError(f"“{layer.name}” has {layer.data.ndim} dimensions; an export needs three.")
    if image is not None and tuple(image.data.shape) != tuple(layer.data.shape):
        raise VolumeError(
            f"“{layer.name}” ({sizes(layer.data.shape)} voxels) no longer fits “{image.name}” "
            f"({sizes(image.data.shape)}): the image was replaced or cropped. Choose the image that the labels "
            "were made on."
        )
    geometry, turn = geometry_of(layer), IDENTITY
    if image is not None and record_of(layer).geometry is None:
        # Labels that napari made may run the other way along an axis than the image does.
        found = reorientation_between(layer, image)
        if found is not None:
            geometry, turn = geometry_of(image), found
    source = source_of(layer) or (source_of(image) if image is not None else None)
    return Snapshot(
        labels=np.array(turn.apply(layer.data), copy=True, order="C"),
        geometry=geometry,
        label_set=label_set_of(layer),
        colormap=layer.colormap,
        provenance=provenance,
        source=source,
        state=record_of(layer).scan_state,
    )


def write_snapshot(
    taken: Snapshot,
    request: ExportRequest,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    noted: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the labels and the JSON beside them; returns all paths. Touches no layer: fit for any thread.

    Raises
    ------
    InputError
        It was cancelled, or a format cannot be made of this scan.
    ExistsError
        A file exists and may not be replaced.
    FileProblem
        The folder cannot be written to, a file would be the scan itself, or the scan's file is gone.
    VolumeError
        The scan's file was changed since the labels were begun.
    """
    check_source(taken.source, taken.state)
    labels = labels_dtype(taken.labels)
    # Which those above are, the export says.
    values = [value for value in values_in(labels) if value <= HIGHEST_LABEL]
    return export(
        labels,
        taken.geometry,
        as_shown(taken.label_set.completed(values), taken.colormap),
        request,
        source=taken.source,
        provenance=taken.provenance(labels) if taken.provenance is not None else None,
        progress=progress,
        cancelled=cancelled,
        noted=noted,
    )


def propose_path(layer: Labels, *, suffix: str = ".nii.gz", scan: Path | None = None) -> Path:
    """A name beside the scan that is not taken yet, e.g. `ct_labels.nii.gz`, `ct_labels_2.nii.gz`.

    Where the scan's folder cannot be written to, or there is none, the name is in the home folder.
    """
    source, file = source_of(layer), record_of(layer).file
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
    while is_taken(candidate) or is_taken(sidecar_path(candidate)):
        candidate, number = folder / f"{stem}_{number}{suffix}", number + 1
    return candidate


def _safe(name: str) -> str:
    """A layer's name as a file name."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip("._")
    return kept or "labels"
