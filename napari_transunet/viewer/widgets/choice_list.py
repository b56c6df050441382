"""A list to choose one volume from, where a file or folder holds several; nothing else is blocked meanwhile."""

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QDialog, QDialogButtonBox, QHeaderView, QLabel, QWidget

from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.dicom.series import SeriesInfo, SeveralSeriesError
from napari_transunet.viewer.widgets.qt_helpers import column
from napari_transunet.viewer.widgets.tables import RowTable

_LONGEST = 5000  # rows; a header can claim any number of time points


class ChoiceList(QDialog):
    """A table of which one row is chosen. Emits `chosen` with its number, from 0.

    Parameters
    ----------
    title, question : what the window is called, and what it asks.
    headers, rows : titles of the columns, and the text of each row; one column needs no titles.
    likely : the row that is selected at first.
    """

    chosen = Signal(int)

    def __init__(
        self,
        title: str,
        question: str,
        headers: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        likely: int = 0,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("choice_list")
        self.setWindowTitle(title)
        self.setModal(False)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._table = RowTable("choices", headers, self)
        self._table.show_rows(rows)
        header = self._table.horizontalHeader()
        if header is not None:
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
            header.setVisible(len(headers) > 1)
        self._table.selectRow(likely)
        self._table.doubleClicked.connect(self._accept_row)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel, self
        )
        buttons.accepted.connect(self._accept_row)
        buttons.rejected.connect(self.reject)
        asked = QLabel(question, self)
        asked.setWordWrap(True)
        column(asked, self._table, buttons, within=self, margin=9)
        self.resize(560 if len(headers) > 1 else 420, 260)

    def _accept_row(self) -> None:
        row = self._table.currentRow()
        self.accept()
        if row >= 0:
            self.chosen.emit(row)


def series_list(folder: str, several: SeveralSeriesError, parent: QWidget | None = None) -> ChoiceList:
    """The list of the series in a DICOM folder."""
    series = several.series
    return ChoiceList(
        "Choose a series",
        f"{folder} holds {len(series)} series. Which one?",
        ["Series", "Modality", "Slices", "Size"],
        [_series_row(info) for info in series],
        # Most often the series with the most slices is the volume, the others are localisers.
        likely=max(range(len(series)), key=lambda row: series[row].slices),
        parent=parent,
    )


def volumes_list(file: str, several: SeveralVolumesError, parent: QWidget | None = None) -> ChoiceList:
    """The list of the time points, channels, segments or arrays in a file or series."""
    listed = min(several.count, _LONGEST)
    question = f"{file} holds {several.count:,} {several.plural}. Which one?"
    if listed < several.count:
        question += (
            f" The first {listed:,} are listed; the command “convert” takes any other out of the file."
        )
    return ChoiceList(
        f"Choose {'an' if several.noun[:1] in 'aeiou' else 'a'} {several.noun}",
        question,
        [several.noun],
        [[several.row(index)] for index in range(listed)],
        parent=parent,
    )


def _series_row(info: SeriesInfo) -> tuple[str, str, str, str]:
    rows, columns = info.size
    return (
        info.description or "(no description)",
        info.modality or "",
        str(info.slices),
        f"{columns} × {rows}",
    )
