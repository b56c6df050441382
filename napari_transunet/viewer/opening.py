"""*Open…*: a file or a DICOM folder, read off the GUI thread; several series become a short list to choose from."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QHeaderView,
    QLabel,
    QMenu,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_transunet.errors import TransUNetError
from napari_transunet.viewer.background import Chores
from napari_transunet.viewer.layers import add_volume, warm_up

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_transunet.volumes.reading import SeriesInfo
    from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

_PATTERNS = (
    "*.nii *.nii.gz *.hdr *.img *.hdr.gz *.img.gz *.nrrd *.nhdr *.mha *.mhd *.dcm *.dicom *.ima "
    "*.tif *.tiff *.npy *.npz *.npy.h5 *.npz.h5 *.h5 *.hdf5"
)
_OPENER = "transunet_opener"
_FILTERS = f"Volumes ({_PATTERNS});;All files (*)"


class VolumeOpener(QObject):
    """Opens volumes into one viewer, one at a time and without blocking the window.

    Signals
    -------
    started(str)
        A sentence; reading has begun.
    opened(object)
        The new layer.
    failed(str)
        A sentence that says why nothing was opened.
    choice_needed(object)
        The list of `SeriesInfo` of which one must be chosen; a list is shown, too.
    """

    started = Signal(str)
    opened = Signal(object)
    failed = Signal(str)
    choice_needed = Signal(object)

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._widget = parent
        self._chores = Chores(self)
        warm_up()  # while the dock comes up nobody waits for it; while a network runs, the window would stand still
        self._path: Path | None = None
        self._chooser: SeriesChooser | None = None
        self._last_folder = ""

    @property
    def busy(self) -> bool:
        """Whether a volume is being read."""
        return self._chores.busy

    @property
    def chooser(self) -> SeriesChooser | None:
        """The list of series while it is open."""
        return self._chooser

    def menu(self, parent: QWidget | None = None) -> QMenu:
        """The small menu of the *Open…* button."""
        menu = QMenu(parent or self._widget)
        menu.addAction("File…", self.ask_file)
        menu.addAction("DICOM folder…", self.ask_folder)
        return menu

    def ask_file(self) -> None:
        """Ask for a file and open it."""
        name, _ = QFileDialog.getOpenFileName(self._widget, "Open volume", self._last_folder, _FILTERS)
        if name:
            self._last_folder = str(Path(name).parent)
            self.open_path(name)

    def ask_folder(self) -> None:
        """Ask for a folder and open its DICOM series."""
        name = QFileDialog.getExistingDirectory(self._widget, "Open DICOM folder", self._last_folder)
        if name:
            self._last_folder = str(Path(name).parent)
            self.open_path(name)

    def open_path(self, path: str | os.PathLike[str], *, series: str | None = None) -> None:
        """Read a file or folder without asking; the outcome comes as a signal.

        Where the folder holds several series and none is named, the list to choose from is shown.
        """
        if self.busy:
            self.failed.emit("A volume is still being read; wait for it to finish.")
            return
        self._close_chooser()
        wanted = Path(path)
        self._path = wanted
        self.started.emit(f"Reading {wanted.name} …")
        self._chores.run(lambda: _attempt(wanted, series), self._on_read, self._on_error)

    def _on_read(self, result: Volume | list[SeriesInfo] | TransUNetError) -> None:
        if isinstance(result, TransUNetError):
            self.failed.emit(str(result))
            return
        if isinstance(result, list):
            self._choose(result)
            return
        try:
            layer = add_volume(self._viewer, result)
        except TransUNetError as error:
            self.failed.emit(str(error))
            return
        self.opened.emit(layer)

    def _on_error(self, error: Exception) -> None:
        name = self._path.name if self._path is not None else "the file"
        if isinstance(error, MemoryError):
            self.failed.emit(f"There is not enough memory for {name}; close other volumes and try again.")
        else:
            self.failed.emit(f"{name} could not be read ({type(error).__name__}: {error}).")

    def _choose(self, series: list[SeriesInfo]) -> None:
        path = self._path
        if path is None:
            return
        chooser = SeriesChooser(path.name, series, self._widget)
        chooser.chosen.connect(lambda uid: self.open_path(path, series=uid))
        chooser.finished.connect(self._forget_chooser)
        self._chooser = chooser
        chooser.show()
        self.choice_needed.emit(series)

    def _forget_chooser(self) -> None:
        self._chooser = None

    def _close_chooser(self) -> None:
        if self._chooser is not None:
            self._chooser.close()
            self._chooser = None


class SeriesChooser(QDialog):
    """A list of the series in a folder; nothing else is blocked while it is open."""

    chosen = Signal(str)

    def __init__(self, folder: str, series: Sequence[SeriesInfo], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("series_chooser")
        self.setWindowTitle("Choose a series")
        self.setModal(False)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._uids = [info.uid for info in series]
        self._table = QTableWidget(len(series), 4, self)
        self._table.setObjectName("series")
        self._table.setHorizontalHeaderLabels(["Series", "Modality", "Slices", "Size"])
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        for row, info in enumerate(series):
            for column, text in enumerate(_row(info)):
                self._table.setItem(row, column, QTableWidgetItem(text))
        numbers = self._table.verticalHeader()
        if numbers is not None:
            numbers.hide()
        header = self._table.horizontalHeader()
        if header is not None:
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        # Most often the series with the most slices is the volume, the others are localisers.
        self._table.selectRow(max(range(len(series)), key=lambda row: series[row].slices))
        self._table.doubleClicked.connect(self._accept_row)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel, self
        )
        buttons.accepted.connect(self._accept_row)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.addWidget(QLabel(f"{folder} holds {len(series)} series. Which one?", self))
        layout.addWidget(self._table)
        layout.addWidget(buttons)
        self.resize(560, 260)

    def select(self, row: int) -> None:
        """Select a row, as a click does."""
        self._table.selectRow(row)

    def _accept_row(self) -> None:
        row = self._table.currentRow()
        self.accept()
        if 0 <= row < len(self._uids):
            self.chosen.emit(self._uids[row])


def read_or_list(path: Path, series: str | None = None) -> Volume | list[SeriesInfo]:
    """The volume, or the series to choose from where there are several and none is named; for any thread.

    Raises
    ------
    TransUNetError
        What `read_volume` raises.
    """
    from napari_transunet.volumes.reading import SeveralSeriesError, read_volume

    try:
        return read_volume(path, series=series)
    except SeveralSeriesError as error:
        return list(error.series)


def _attempt(path: Path, series: str | None) -> Volume | list[SeriesInfo] | TransUNetError:
    """`read_or_list`, with what is wrong with the file as an answer: that is news for the window, not for the log."""
    try:
        return read_or_list(path, series)
    except TransUNetError as error:
        return error


def open_path(viewer: Viewer, path: str | os.PathLike[str], *, series: str | None = None) -> VolumeOpener:
    """Open a file or folder into a viewer without a dialog; returns the opener, whose signals tell the outcome."""
    opener = opener_for(viewer)
    opener.open_path(path, series=series)
    return opener


def opener_for(viewer: Viewer) -> VolumeOpener:
    """The viewer's opener for use without the dock: what it has to say appears as napari notifications."""
    from napari.utils.notifications import show_error, show_info

    window = viewer.window._qt_window
    opener = window.findChild(VolumeOpener, _OPENER)
    if isinstance(opener, VolumeOpener):
        return opener
    opener = VolumeOpener(viewer, window)
    opener.setObjectName(_OPENER)
    opener.failed.connect(show_error)
    opener.started.connect(show_info)
    return opener


def _row(info: SeriesInfo) -> tuple[str, str, str, str]:
    rows, columns = info.size
    return (
        info.description or "(no description)",
        info.modality or "",
        str(info.slices),
        f"{columns} × {rows}",
    )
