"""Tables of which whole rows are chosen, and nothing is edited."""

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

_SORT, _SOURCE = int(Qt.ItemDataRole.UserRole), int(Qt.ItemDataRole.UserRole) + 1

Cell = str | tuple[str, Any]
"""What a cell says, and the value by which it is sorted where that is not its text."""


class RowTable(QTableWidget):
    """Chooses one row at a time.

    Parameters
    ----------
    name : object name.
    columns : titles, each alone or with the tooltip that explains it.
    sortable : whether a click on a title sorts; columns after the first are then flush right, as numbers are.
    fitting : whether the first column takes the room that the others leave, and gives way where there is too little.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[str | tuple[str, str]],
        parent: QWidget,
        *,
        sortable: bool = False,
        fitting: bool = False,
    ) -> None:
        super().__init__(0, len(columns), parent)
        self.setObjectName(name)
        self._sortable, self._fitting = sortable, fitting
        for at, column in enumerate(columns):
            title, tip = (column, "") if isinstance(column, str) else column
            item = QTableWidgetItem(title)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(at, item)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSortingEnabled(sortable)
        titles = self.horizontalHeader()
        if fitting and titles is not None:
            titles.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            titles.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
            self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        numbers = self.verticalHeader()
        if numbers is not None:
            numbers.setVisible(False)
            if sortable:
                numbers.setDefaultSectionSize(22)
                self.setMinimumHeight(110)

    @property
    def chosen(self) -> int | None:
        """Which of the rows that were shown is chosen, however they are sorted now; None where none is."""
        items = self.selectedItems()
        first = self.item(items[0].row(), 0) if items else None
        return int(first.data(_SOURCE)) if first is not None else None

    def show_rows(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Show these rows, in this order until a person sorts; none is chosen."""
        self.setSortingEnabled(False)
        self.clearSelection()
        self.setRowCount(len(rows))
        for at, cells in enumerate(rows):
            for place, cell in enumerate(cells):
                text, value = (cell, cell) if isinstance(cell, str) else cell
                item = _Item(text)
                item.setData(_SORT, value)
                item.setData(_SOURCE, at)
                if self._fitting and not place:
                    item.setToolTip(text)
                if self._sortable and place:
                    item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
                self.setItem(at, place, item)
        header = self.horizontalHeader()
        if header is not None:
            header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(self._sortable)
        if not self._fitting:
            self.resizeColumnsToContents()


class _Item(QTableWidgetItem):
    """Sorted by the value that it stands for, not by its text."""

    def __lt__(self, other: QTableWidgetItem) -> bool:
        mine, theirs = self.data(_SORT), other.data(_SORT)
        if isinstance(mine, str) or isinstance(theirs, str):
            return str(mine) < str(theirs)
        return (float("-inf") if mine is None else mine) < (float("-inf") if theirs is None else theirs)
