"""*Open…*: a file, a folder, or an address in the web, read off the GUI thread.

Where it holds several series, time points or channels, they become a list to choose from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMenu, QWidget

from napari_transunet.errors import TransUNetError
from napari_transunet.export.source import provenance_of_file
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.dicom.series import SeveralSeriesError
from napari_transunet.io.ome_zarr.metadata import web_address
from napari_transunet.viewer.layers.layers import add_volume, new_labels_layer
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.choice_list import series_list, volumes_list
from napari_transunet.viewer.widgets.qt_helpers import window_object
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.intensity import sampled
from napari_transunet.volumes.labels import LabelSet

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

    from napari_transunet.viewer.widgets.choice_list import ChoiceList
    from napari_transunet.volumes.volume import Volume

_PATTERNS = (
    "*.nii *.nii.gz *.hdr *.img *.hdr.gz *.img.gz *.nrrd *.nhdr *.mha *.mhd *.mgz *.mgh *.dcm *.dicom *.ima "
    "*.tif *.tiff *.npy *.npz *.npy.h5 *.npz.h5 *.h5 *.hdf5"
)
_LOADER = "transunet_opener"
_FILTERS = f"Volumes ({_PATTERNS});;All files (*)"

Several = SeveralSeriesError | SeveralVolumesError


@dataclass(frozen=True)
class Wanted:
    """What to read: a file or folder, what was chosen in it, how that is called in a layer's name, and as what."""

    path: Path
    picks: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    titles: tuple[str, ...] = ()
    as_labels: bool = False

    def with_choice(self, several: Several, index: int) -> Wanted:
        """The same with one more choice made: the one at `index` (from 0) of what `several` lists."""
        if isinstance(several, SeveralSeriesError):
            return replace(self, picks={**self.picks, "series": several.series[index].uid})
        picks = {**self.picks, several.which: several.choice(index)}
        return replace(self, picks=picks, titles=(*self.titles, several.title(index)))


class VolumeLoader(QObject):
    """Opens volumes into one viewer, one at a time and without blocking the window.

    Signals
    -------
    started(str): a sentence; reading has begun.
    opened(object): the new layer.
    labels_opened(object): the new labels layer; it is tied to its image where that is certain.
    failed(str): a sentence that says why nothing was opened.
    choice_needed(object)
        A `SeveralSeriesError` or `SeveralVolumesError` that says of what one must be chosen; the list is shown.
    cancelled(): the list was closed without choosing.
    """

    started = Signal(str)
    opened = Signal(object)
    labels_opened = Signal(object)
    failed = Signal(str)
    choice_needed = Signal(object)
    cancelled = Signal()

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._widget = parent
        self._tasks = BackgroundTasks(self)
        self._chooser: ChoiceList | None = None
        self._last_folder = ""

    @property
    def busy(self) -> bool:
        """Whether a volume is being read."""
        return self._tasks.busy

    @property
    def chooser(self) -> ChoiceList | None:
        """The list of what can be chosen while it is open."""
        return self._chooser

    def menu(self, parent: QWidget | None = None) -> QMenu:
        """The small menu of the *Open…* button."""
        menu = QMenu(parent or self._widget)
        menu.addAction("File…", self.ask_file)
        menu.addAction("Folder (DICOM, OME-Zarr)…", self.ask_folder)
        menu.addAction("Web address (OME-Zarr)…", self.ask_address)
        menu.addAction("Labels…", self.ask_labels)
        return menu

    def ask_file(self) -> None:
        """Ask for a file and open it."""
        if name := self._ask("Open volume"):
            self.open_path(name)

    def ask_folder(self) -> None:
        """Ask for a folder and open its DICOM series, or the OME-Zarr that it is."""
        name = QFileDialog.getExistingDirectory(
            self._widget, "Open a folder of DICOM files, or an OME-Zarr", self._last_folder
        )
        if name:
            self._last_folder = str(Path(name).parent)
            self.open_path(name)

    def ask_address(self) -> None:
        """Ask for the http(s) address of an OME-Zarr and open it."""
        text, good = QInputDialog.getText(
            self._widget,
            "Open web address",
            "Address of an OME-Zarr, such as https://example.org/scan.ome.zarr",
        )
        if not good or not text.strip():
            return
        address = web_address(text.strip())
        if address is None:
            self.failed.emit(f"“{text.strip()}” is no web address; it begins with https:// or http://.")
            return
        self.open_path(address)

    def ask_labels(self) -> None:
        """Ask for a file and open it as labels, whatever it looks like."""
        if name := self._ask("Open labels"):
            self.open_labels(name)

    def open_labels(self, path: str | os.PathLike[str]) -> None:
        """Read a file as labels without asking, and tie them to the image on whose grid they lie."""
        self._open(Wanted(Path(path), as_labels=True))

    def open_path(self, path: str | os.PathLike[str], *, series: str | None = None) -> None:
        """Read a file or folder without asking; the outcome comes as a signal.

        Where there are several series, time points or channels and none is named, the list to choose from is shown.
        """
        self._open(Wanted(Path(path), {} if series is None else {"series": series}))

    def offer(self, path: str | os.PathLike[str], several: Several) -> bool:
        """Show the list for a file or folder that somebody else tried to read; whether there is room for one now."""
        if self.busy or self._chooser is not None:
            return False
        self._choose(Wanted(Path(path)), several)
        return True

    def _ask(self, title: str) -> str:
        name, _ = QFileDialog.getOpenFileName(self._widget, title, self._last_folder, _FILTERS)
        if name:
            self._last_folder = str(Path(name).parent)
        return name

    def _open(self, wanted: Wanted) -> None:
        if self.busy:
            self.failed.emit("A volume is still being read; wait for it to finish.")
            return
        self._close_chooser()
        self.started.emit(f"Reading {wanted.path.name} …")
        self._tasks.run(
            lambda: read_wanted(wanted),
            lambda result: self._on_read(wanted, result),
            self.failed.emit,
            what=f"Reading {wanted.path.name}",
        )

    def _on_read(self, wanted: Wanted, result: Volume | Several) -> None:
        if isinstance(result, SeveralSeriesError | SeveralVolumesError):
            self._choose(wanted, result)
            return
        try:
            name = ", ".join((result.source.name, *wanted.titles)) if wanted.titles else None
            if wanted.as_labels:
                labels = labels_of(result, name or result.source.name)
                sessions_of(self._viewer).result_for(labels)  # tied to its image before anybody sees it
                self._viewer.add_layer(labels)
                self.labels_opened.emit(labels)
                return
            layer = add_volume(self._viewer, result, name=name)
        except TransUNetError as error:
            self.failed.emit(str(error))
            return
        self.opened.emit(layer)

    def _choose(self, wanted: Wanted, several: Several) -> None:
        if isinstance(several, SeveralSeriesError):
            chooser = series_list(wanted.path.name, several, self._widget)
        else:
            chooser = volumes_list(wanted.path.name, several, self._widget)
        chooser.chosen.connect(lambda index: self._open(wanted.with_choice(several, index)))
        chooser.rejected.connect(self.cancelled)
        chooser.finished.connect(self._forget_chooser)
        self._chooser = chooser
        chooser.show()
        self.choice_needed.emit(several)

    def _forget_chooser(self) -> None:
        self._chooser = None

    def _close_chooser(self) -> None:
        if self._chooser is not None:
            self._chooser.close()
            self._chooser = None


def read_wanted(wanted: Wanted) -> Volume | Several:
    """The volume as it was chosen, or of what one must be chosen; for any thread. Raises what `read_volume` raises."""
    from napari_transunet.io.reading import read_volume

    try:
        volume = read_volume(wanted.path, lazy="large", **wanted.picks)
        sampled(volume.data)  # of a lazy one it is read now, and known when the layer is made
        if wanted.as_labels or volume.labels is not None:
            provenance_of_file(wanted.path, dict(volume.source.picks).get("time"))  # so is the file's hash
        return volume
    except (SeveralSeriesError, SeveralVolumesError) as several:
        return several


def labels_of(volume: Volume, name: str) -> Labels:
    """A labels layer with the names that the file gives."""
    label_set = volume.labels if volume.labels is not None else LabelSet()
    return new_labels_layer(volume.data, replace(volume, labels=label_set), label_set, name)


def loader_for(viewer: Viewer) -> VolumeLoader:
    """The viewer's loader for use without the dock: what it has to say appears as napari notifications."""
    from napari.utils.notifications import show_error, show_info

    def make(viewer: Viewer, window: QWidget) -> VolumeLoader:
        loader = VolumeLoader(viewer, window)
        loader.failed.connect(show_error)
        loader.started.connect(show_info)
        return loader

    return window_object(viewer, VolumeLoader, _LOADER, make)
