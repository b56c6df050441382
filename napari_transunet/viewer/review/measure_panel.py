"""Measures of the organs as a table that can be sorted, copied and saved, and a comparison with other labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_transunet.errors import TransUNetError
from napari_transunet.metrics.difference_map import Matching
from napari_transunet.metrics.region_properties import as_csv, write_measures
from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.widgets.collapsible import CollapsibleSection
from napari_transunet.viewer.widgets.messages import millilitres, organ, organs

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_transunet.metrics.difference_map import Disagreement
    from napari_transunet.metrics.region_properties import OrganMeasure
    from napari_transunet.viewer.review.measurement_controller import Reference

_ROLE = int(Qt.ItemDataRole.UserRole)
_MEASURES = (
    ("Organ", "Name of the label"),
    ("Volume", "mL"),
    ("Surface", "mm², estimated by Crofton's formula"),
    ("Mean", "Mean of the image's values (HU in CT)"),
    ("SD", "Standard deviation of the image's values"),
    ("Extent", "Size of the bounding box along z × y × x, in mm"),
    ("Parts", "Parts that do not touch"),
    ("Slices", "Slices that show it"),
    ("By hand", "Share of its voxels that you edited by hand"),
)
_SCORES = (
    ("Organ", "Name of the label"),
    ("Dice", "Overlap: 2 |A ∩ B| / (|A| + |B|)"),
    ("HD95", "95th percentile of the surface distances, mm"),
    ("NSD", "Share of the surfaces that lie within 2 mm of each other"),
)


class MeasurePanel(QWidget):
    """Emits `wanted` when the organs are to be measured, and `jump` with the voxel (z, y, x) of a chosen organ."""

    wanted = Signal()
    jump = Signal(int, int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._measures: Sequence[OrganMeasure] = ()
        self._measure = QPushButton(ACTIONS["measure"].title, self)
        self._measure.setObjectName("measure")
        self._measure.setToolTip(ACTIONS["measure"].hint)
        self._measure.clicked.connect(self.wanted)
        self._copy = QPushButton("Copy", self)
        self._copy.setObjectName("copy_measures")
        self._copy.setToolTip("Copy the table, to paste it into a spreadsheet")
        self._copy.clicked.connect(self._on_copy)
        self._save = QPushButton("Save CSV…", self)
        self._save.setObjectName("save_measures")
        self._save.setToolTip("Write the table, with units and exact numbers")
        self._save.clicked.connect(self._on_save)
        self._status = _wrapped(self, "measure_status")
        self._table = _table(self, "measures", _MEASURES)
        self._table.itemSelectionChanged.connect(self._on_selected)
        buttons = QHBoxLayout()
        for button in (self._measure, self._copy, self._save):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self._status)
        layout.addWidget(self._table, 1)
        self.show_measures((), ())

    def show_measures(self, measures: Sequence[OrganMeasure], warnings: Sequence[str]) -> None:
        """Show measures, and warnings above them."""
        self._measures = measures
        self._status.setText("\n".join(warnings) if warnings else "")
        self._copy.setEnabled(bool(measures))
        self._save.setEnabled(bool(measures))
        rows = [_measure_row(at, measure) for at, measure in enumerate(measures)]
        _fill(self._table, rows)

    def set_status(self, sentence: str) -> None:
        """Say something above the table."""
        self._status.setText(sentence)

    def set_busy(self, busy: bool) -> None:
        """Whether it is measuring."""
        self._measure.setEnabled(not busy)
        if busy:
            self.set_status("Measuring …")

    def _on_selected(self) -> None:
        items = self._table.selectedItems()
        if not items:
            return
        first = self._table.item(items[0].row(), 0)
        centre = self._measures[int(first.data(_ROLE + 1))].centre if first is not None else None
        if centre is not None:
            self.jump.emit(*centre)

    def _on_copy(self) -> None:
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(as_csv(self._measures, delimiter="\t"))
        self.set_status("Copied.")

    def _on_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save measures", "measures.csv", "Table (*.csv)")
        if not name:
            return
        path = Path(name if name.lower().endswith(".csv") else f"{name}.csv")
        try:
            write_measures(path, self._measures, overwrite=path == Path(name))
        except (TransUNetError, OSError) as error:
            self.set_status(str(error))
            return
        self.set_status(f"Saved to {path}.")


class ComparePanel(QWidget):
    """Compares with another labels layer, whose values stand for the organs that a table says.

    Signals
    -------
    chosen(object): another layer is to be compared with; `show_reference` answers.
    wanted(object, object): compare with this layer by this `Matching`, or by what is found out, where it is None.
    jump_slice(int): the index of a slice.
    map_wanted(bool): show or hide the map of where both differ.
    """

    chosen = Signal(object)
    wanted = Signal(object, object)
    jump_slice = Signal(int)
    map_wanted = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._reference: Reference | None = None
        self._choices: dict[int, QComboBox] = {}
        self._other = QComboBox(self)
        self._other.setObjectName("compare_with")
        self._other.setToolTip("The labels to compare with")
        self._other.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._other.activated.connect(lambda _at: self._on_chosen())
        self.button = QPushButton(ACTIONS["compare"].title, self)
        self.button.setObjectName("compare")
        self.button.setToolTip(ACTIONS["compare"].hint)
        self.button.clicked.connect(self.press)
        self._table = QTableWidget(0, 2, self)
        self._table.setObjectName("reference_table")
        self._table.setHorizontalHeaderLabels(["Reference", "These labels"])
        self._table.setMinimumHeight(120)
        header = self._table.verticalHeader()
        if header is not None:
            header.setVisible(False)
        self._section = CollapsibleSection(
            "What the reference's labels stand for", self._table, "reference_fold", self
        )
        self._map = QCheckBox("Show disagreement as a layer", self)
        self._map.setObjectName("show_disagreement")
        self._map.toggled.connect(self.map_wanted)
        self._status = _wrapped(self, "compare_status")
        self._scores = _table(self, "scores", _SCORES)
        self._slices = _table(
            self, "worst_slices", (("Worst slices", "Click to go there"), ("mm²", "Area that differs"))
        )
        self._slices.itemSelectionChanged.connect(self._on_selected)
        first = QHBoxLayout()
        first.addWidget(self._other, 2)
        first.addWidget(self.button, 1)  # with no share of its own it would have no width
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addLayout(first)
        layout.addWidget(self._section)
        layout.addWidget(self._map)
        layout.addWidget(self._status)
        layout.addWidget(self._scores, 1)
        layout.addWidget(self._slices, 1)
        self.show_choices((), ())

    @property
    def map_shown(self) -> bool:
        """Whether the disagreement is to be shown as a layer."""
        return self._map.isChecked()

    @property
    def reference(self) -> Labels | None:
        """The labels layer that is chosen to compare with."""
        layer: Labels | None = self._other.currentData()
        return layer

    def show_choices(self, fitting: Sequence[Labels], elsewhere: Sequence[Labels]) -> None:
        """Offer these labels layers; say of the others that they lie on another grid."""
        chosen = self.reference
        self._other.clear()
        for layer in fitting:
            self._other.addItem(str(layer.name), layer)
        at = next((at for at, layer in enumerate(fitting) if layer is chosen), -1)
        # With several to choose from, a person chooses: their order means nothing.
        self._other.setCurrentIndex(0 if len(fitting) == 1 else at)
        self._other.setPlaceholderText(
            "Choose labels to compare with" if fitting else "No other labels of this scan"
        )
        self.button.setEnabled(bool(fitting))
        apart = ", ".join(f"“{layer.name}”" for layer in elsewhere)
        self.button.setToolTip(
            ACTIONS["compare"].hint
            if fitting
            else f"{apart} lies on another grid."
            if apart
            else "Open other labels of this scan first."
        )
        if self.reference is not chosen or self.reference is None:
            self._on_chosen()

    def show_reference(self, found: Reference, names: Mapping[int, str]) -> None:
        """Show what the reference's values stand for, to be changed; `names` are those of the labels."""
        if found.layer is not self.reference:
            return
        self._reference, self._choices = found, {}
        self._table.setRowCount(len(found.matching.organs))
        for row, (value, stands_for) in enumerate(found.matching.organs.items()):
            name = found.names.get(value)
            item = QTableWidgetItem(f"{value}: {organ(name, first=True)}" if name else f"Label {value}")
            item.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self._table.setItem(row, 0, item)
            choice = QComboBox(self._table)
            choice.setObjectName(f"stands_for_{value}")
            choice.addItem("– (left out)", None)
            for number, own in names.items():
                choice.addItem(organ(own, first=True), number)
            choice.setCurrentIndex(max(0, choice.findData(stands_for)))
            self._table.setCellWidget(row, 1, choice)
            self._choices[value] = choice
        self._table.resizeColumnsToContents()
        stretching = self._table.horizontalHeader()
        if stretching is not None:
            stretching.setStretchLastSection(True)
        unsure = found.matching.by == "number" or None in found.matching.organs.values()
        self._section.setEnabled(bool(self._choices))
        self._section.set_open(unsure and bool(self._choices))
        if found.matching.by == "number" and self._choices:
            self.set_status(
                "The reference has no names; its numbers are taken for those of these labels. Check the table."
            )

    def press(self) -> None:
        """Compare with the chosen layer, as the button does."""
        if self.reference is None:
            self.set_status("Choose the labels to compare with.")
            return
        self.wanted.emit(self.reference, self._matching())

    def show_result(
        self,
        found: Disagreement,
        matching: Matching,
        names: Mapping[int, str],
        number: Callable[[int], int] = int,
    ) -> None:
        """Show scores and the worst slices, which `number` names, and which organs could not be compared."""
        rows = []
        for at, (value, scores) in enumerate(found.scores.items()):
            name = organ(names.get(value, f"label {value}"), first=True)
            rows.append([(name, name, at), *(_score(scores[key], key) for key in ("dice", "hd95", "nsd"))])
        rows.append(
            [("Mean", "\U0010ffff", -1), *(_score(found.means[key], key) for key in ("dice", "hd95", "nsd"))]
        )
        _fill(self._scores, rows)
        worst = found.worst_slices(50)
        _fill(
            self._slices,
            [[(f"Slice {number(at)}", number(at), at), (f"{area:,.0f}", area, at)] for at, area in worst],
        )
        sentences = [] if worst else ["Both are the same."]
        if matching.by == "number":
            sentences.append("Matched by number alone: the reference has no names.")
        if unknown := [name for value, name in names.items() if value not in matching.known]:
            sentences.append(f"Not in the reference, and not in the mean: {organs(unknown)}.")
        if left := [value for value, own in matching.organs.items() if own is None]:
            sentences.append(f"Labels of the reference that were left out: {', '.join(map(str, left))}.")
        self.set_status(" ".join(sentences))

    def set_status(self, sentence: str) -> None:
        """Say something above the tables."""
        self._status.setText(sentence)

    def set_busy(self, busy: bool) -> None:
        """Whether it is comparing."""
        self.button.setEnabled(not busy and self._other.count() > 0)
        if busy:
            self.set_status("Comparing …")
        elif self._status.text() == "Comparing …":
            self.set_status("")

    def clear(self) -> None:
        """Forget what was compared: it says nothing about other labels."""
        self._reference, self._choices = None, {}
        self._table.setRowCount(0)
        self._section.set_open(False)
        for table in (self._scores, self._slices):
            _fill(table, [])
        self.set_busy(False)
        self.set_status("")

    def _matching(self) -> Matching | None:
        if self._reference is None or self._reference.layer is not self.reference:
            return None
        table = {value: choice.currentData() for value, choice in self._choices.items()}
        proposed = self._reference.matching
        return proposed if table == dict(proposed.organs) else Matching(table, "person")

    def _on_chosen(self) -> None:
        self._reference, self._choices = None, {}
        self._table.setRowCount(0)
        self._section.setEnabled(False)
        self._section.set_open(False)
        if self.reference is not None:
            self.chosen.emit(self.reference)

    def _on_selected(self) -> None:
        items = self._slices.selectedItems()
        first = self._slices.item(items[0].row(), 0) if items else None
        if first is not None:
            self.jump_slice.emit(int(first.data(_ROLE + 1)))


class _Item(QTableWidgetItem):
    """Sorted by the value that it stands for, not by its text."""

    def __lt__(self, other: QTableWidgetItem) -> bool:
        mine, theirs = self.data(_ROLE), other.data(_ROLE)
        if isinstance(mine, str) or isinstance(theirs, str):
            return str(mine) < str(theirs)
        return (float("-inf") if mine is None else mine) < (float("-inf") if theirs is None else theirs)


_Cell = tuple[str, Any, int]  # text, value to sort by, row in the source


def _measure_row(at: int, measure: OrganMeasure) -> list[_Cell]:
    name = organ(measure.name, first=True)
    size = " × ".join(f"{part:.0f}" for part in measure.extent_mm)
    return [
        (name, name, at),
        (millilitres(measure.volume_ml) if measure.voxels else "–", measure.volume_ml, at),
        (f"{measure.surface_mm2:,.0f}" if measure.voxels else "–", measure.surface_mm2, at),
        _number(measure.mean, ".0f", at),
        _number(measure.sd, ".0f", at),
        (size if measure.voxels else "–", max(measure.extent_mm), at),
        (str(measure.components) if measure.voxels else "–", measure.components, at),
        (str(measure.slices) if measure.voxels else "–", measure.slices, at),
        (_number(measure.by_hand * 100, ".1f", at, " %")),
    ]


def _number(value: float, form: str, at: int, unit: str = "") -> _Cell:
    known = math.isfinite(value)
    return (f"{value:{form}}{unit}" if known else "–", value if known else None, at)


def _score(value: float, key: str) -> _Cell:
    if math.isnan(value):
        return ("–", None, 0)
    if math.isinf(value):
        return ("∞", value, 0)
    return (f"{value:.1f} mm" if key == "hd95" else f"{value:.3f}", value, 0)


def _table(parent: QWidget, name: str, columns: Sequence[tuple[str, str]]) -> QTableWidget:
    table = QTableWidget(0, len(columns), parent)
    table.setObjectName(name)
    for at, (title, tip) in enumerate(columns):
        item = QTableWidgetItem(title)
        item.setToolTip(tip)
        table.setHorizontalHeaderItem(at, item)
    table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
    table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSortingEnabled(True)
    header = table.verticalHeader()
    if header is not None:
        header.setVisible(False)
        header.setDefaultSectionSize(22)
    table.setMinimumHeight(110)
    return table


def _fill(table: QTableWidget, rows: Sequence[Sequence[_Cell]]) -> None:
    table.setSortingEnabled(False)
    table.clearSelection()
    table.setRowCount(len(rows))
    for row, cells in enumerate(rows):
        for column, (text, value, source) in enumerate(cells):
            item = _Item(text)
            item.setData(_ROLE, value)
            item.setData(_ROLE + 1, source)
            side = Qt.AlignmentFlag.AlignLeft if column == 0 else Qt.AlignmentFlag.AlignRight
            item.setTextAlignment(int(side | Qt.AlignmentFlag.AlignVCenter))
            table.setItem(row, column, item)
    header = table.horizontalHeader()
    if header is not None:
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)  # as given, until a person sorts
    table.setSortingEnabled(True)
    table.resizeColumnsToContents()


def _wrapped(parent: QWidget, name: str) -> QLabel:
    label = QLabel(parent)
    label.setObjectName(name)
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
    return label
