"""The table of a project's cases: sorted and filtered in one pass, so that ten thousand take no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QPainter, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

if TYPE_CHECKING:
    from qtpy.QtCore import QObject
    from qtpy.QtGui import QKeyEvent

    from napari_transunet.project.case import Case
    from napari_transunet.project.leases import Holder

COLUMNS = ("case", "modality", "status", "uncertainty", "edited", "annotator")

_TIPS = (
    "Name of the case",
    "As the scan says",
    "How far it is",
    "How unsure the network was, from 0 to 1",
    "Share of the labelled voxels that a person changed",
    "Who works or worked on it",
)
_PICTURE = 32
_QUIET = QColor(140, 140, 140)
_BAD = QColor(214, 120, 90)

_Key = Callable[["Case"], Any]


class CasesModel(QAbstractTableModel):
    """Shows cases, those that fit a filter, in the order of a column."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._cases: Sequence[Case] = ()
        self._holders: Mapping[str, Holder] = {}
        self._shown: list[Case] = []
        self._text, self._status = "", ""
        self._column, self._descending = 0, False
        self._current: str | None = None
        self.annotator = ""
        """Who looks: of what others read blind they see that it is read, and no more."""
        self._thumbnails: Path | None = None
        self._pictures: dict[str, tuple[str, QPixmap]] = {}

    @property
    def shown(self) -> Sequence[Case]:
        """The cases in the order of the rows."""
        return self._shown

    @property
    def cases(self) -> Sequence[Case]:
        """All cases, shown or not."""
        return self._cases

    def show_cases(
        self, cases: Sequence[Case], holders: Mapping[str, Holder], thumbnails: Path | None
    ) -> None:
        """Show these cases, and who holds which; thumbnails lie in a folder, each named after its case's id."""
        if (cases, holders, thumbnails) == (self._cases, self._holders, self._thumbnails):
            return
        self._cases, self._holders, self._thumbnails = cases, holders, thumbnails
        self._arrange()

    def filter(self, text: str, status: str) -> None:
        """Show only cases whose name, annotator or reason holds a text, and of one status; empty for all."""
        self._text, self._status = text.casefold().strip(), status
        self._arrange()

    def mark(self, identifier: str | None) -> None:
        """Show which case is open."""
        self._current = identifier
        if self._shown:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._shown) - 1, len(COLUMNS) - 1))

    def row_of(self, identifier: str) -> int | None:
        """The row of a case; None where it is not shown."""
        return next((row for row, case in enumerate(self._shown) if case.id == identifier), None)

    # -- Qt's questions -----------------------------------------------------------------------------------

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008
        """How many cases are shown."""
        return 0 if parent.isValid() else len(self._shown)

    def columnCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: N802, B008
        """How many facts of each."""
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Titles of the columns."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section]
        return _TIPS[section] if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """What a cell shows."""
        case, column = self._shown[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._cell(case, column)
        if role == Qt.ItemDataRole.DecorationRole and column == 0:
            return self._picture(case)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(case)
        if role == Qt.ItemDataRole.ForegroundRole:
            return _BAD if case.problem else _QUIET if case.status == "excluded" else None
        if role == Qt.ItemDataRole.FontRole and case.id == self._current:
            font = QFont()
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.TextAlignmentRole and column in (3, 4):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; cases without a value come last."""
        self._column, self._descending = max(0, column), order == Qt.SortOrder.DescendingOrder
        self._arrange()

    # -- inside -------------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        self.beginResetModel()
        text, status = self._text, self._status
        kept = [
            case
            for case in self._cases
            if (not status or case.status == status)
            and (
                not text
                or text in case.name.casefold()
                or text in self._who(case).casefold()
                or text in case.reason.casefold()
            )
        ]
        keys: tuple[_Key, ...] = (
            lambda case: case.name.casefold(),
            lambda case: case.modality or None,
            lambda case: case.status,
            lambda case: case.uncertainty,
            lambda case: case.edited if case.has_labels else None,
            lambda case: self._who(case) or None,
        )
        key = keys[self._column]
        known = [case for case in kept if key(case) is not None]
        known.sort(key=key, reverse=self._descending)
        self._shown = known + [case for case in kept if key(case) is None]
        self.endResetModel()

    def _cell(self, case: Case, column: int) -> str:
        if column == 0:
            return case.name
        if column == 1:
            return case.modality or "–"
        if column == 2:
            return case.status
        if self._is_hidden(case) and column in (3, 4):
            return "–"
        if column == 3:
            return "–" if case.uncertainty is None else f"{case.uncertainty:.2f}"
        if column == 4:
            return f"{100 * case.edited:.1f} %" if case.has_labels else "–"
        return self._who(case)

    def _who(self, case: Case) -> str:
        holder = self._holders.get(case.id)
        if holder is not None:
            return f"{holder.annotator}{' (not responding)' if holder.stale else ' …'}"
        return case.reader or case.annotator

    def _is_hidden(self, case: Case) -> bool:
        """Whether it is read blind by somebody else."""
        return case.reader not in ("", self.annotator)

    def _tip(self, case: Case) -> str:
        if self._is_hidden(case):
            return f"{case.name}\nRead blind by {case.reader}"
        holder = self._holders.get(case.id)
        lines = [
            case.name,
            case.problem or case.reason,
            f"Held by {holder.sentence()}" if holder is not None else "",
            f"{case.reviewed} of {case.slices} slices reviewed" if case.reviewed else "",
            f"Segmented by {case.run.name}" if case.run is not None else "",
            ", ".join(f"{organ} {ml:,.0f} mL" for organ, ml in case.volumes.items()),
            f"{case.minutes:.0f} minutes at work" if case.seconds else "",
            f"Approved by {case.sign_off.by}. {case.sign_off.note}" if case.sign_off is not None else "",
        ]
        return "\n".join(line for line in lines if line)

    def _picture(self, case: Case) -> QPixmap | None:
        """A case's thumbnail, read when its row comes into sight, and again when it was segmented anew."""
        if self._thumbnails is None or not case.has_labels:
            return None
        known = self._pictures.get(case.id)
        if known is not None and known[0] == case.segmented:
            return known[1]
        source = self._thumbnails / f"{case.of or case.id}.png"
        picture = QPixmap(_PICTURE, _PICTURE)
        picture.fill(Qt.GlobalColor.transparent)
        whole = QPixmap(str(source))
        if not whole.isNull():  # labels that were never segmented have none
            small = whole.scaled(
                picture.size(), Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
            painter = QPainter(picture)
            painter.drawPixmap((_PICTURE - small.width()) // 2, (_PICTURE - small.height()) // 2, small)
            painter.end()
        self._pictures[case.id] = case.segmented, picture
        return picture


class CasesTable(QTableView):
    """The table itself.

    Signals
    -------
    wanted(str): this case is to be opened, by a double click or by Enter.
    unwanted(str): this case is to be excluded, by Delete.
    """

    wanted = Signal(str)
    unwanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("cases")
        self.cases = CasesModel(self)
        self._chosen: str | None = None  # before the rows change
        self.cases.modelAboutToBeReset.connect(self._remember)
        self.setModel(self.cases)
        self.cases.modelReset.connect(self._choose_again)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setIconSize(QSize(_PICTURE, _PICTURE))
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setMinimumHeight(160)
        self.setTabKeyNavigation(False)  # Tab leads on to the buttons
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        rows, columns = self.verticalHeader(), self.horizontalHeader()
        if rows is not None and columns is not None:
            rows.setVisible(False)
            rows.setDefaultSectionSize(_PICTURE + 4)
            rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
            columns.setHighlightSections(False)
            columns.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
            for at, width in enumerate((168, 58, 88, 76, 54, 56)):
                columns.resizeSection(at, width)
            columns.setStretchLastSection(True)
        self.setSortingEnabled(True)
        self.doubleClicked.connect(lambda index: self.wanted.emit(self.cases.shown[index.row()].id))

    @property
    def chosen(self) -> Case | None:
        """The case whose row is selected."""
        index = self.currentIndex()
        return self.cases.shown[index.row()] if index.isValid() else None

    def choose(self, identifier: str) -> None:
        """Select a case's row, and bring it into sight."""
        row = self.cases.row_of(identifier)
        if row is not None:
            self.selectRow(row)

    def show_cases(
        self, cases: Sequence[Case], holders: Mapping[str, Holder], thumbnails: Path | None
    ) -> None:
        """As `CasesModel.show_cases`; the same case stays selected."""
        place = self.verticalScrollBar()
        at = place.value() if place is not None else 0
        self.cases.show_cases(cases, holders, thumbnails)
        if place is not None:
            place.setValue(at)

    def _remember(self) -> None:
        chosen = self.chosen
        self._chosen = None if chosen is None else chosen.id

    def _choose_again(self) -> None:
        if self._chosen is not None:
            self.choose(self._chosen)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802
        """Enter opens the selected case, Delete excludes it, Menu shows what else can be done; Ctrl and 1 to 6 sort."""
        chosen = self.chosen
        columns = self.horizontalHeader()
        if (
            event is not None
            and columns is not None
            and event.modifiers() == Qt.KeyboardModifier.ControlModifier
        ):
            at, order = event.key() - Qt.Key.Key_1, Qt.SortOrder.AscendingOrder
            if 0 <= at < len(COLUMNS):
                if at == columns.sortIndicatorSection() and columns.sortIndicatorOrder() == order:
                    order = Qt.SortOrder.DescendingOrder
                self.sortByColumn(at, order)
                return
        if event is not None and chosen is not None:
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self.wanted.emit(chosen.id)
                return
            if event.key() == Qt.Key.Key_Delete:
                self.unwanted.emit(chosen.id)
                return
            if event.key() == Qt.Key.Key_Menu:  # beside the case, and not where the mouse happens to be
                self.customContextMenuRequested.emit(self.visualRect(self.currentIndex()).center())
                return
        super().keyPressEvent(event)
