"""Comparison with other labels: which stand for which organ, scores, and the slices that differ most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QTableWidget, QTableWidgetItem, QWidget

from napari_transunet.metrics.difference_map import Matching
from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.widgets.collapsible import CollapsibleSection
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import organ, organs
from napari_transunet.viewer.widgets.qt_helpers import check_box, column, push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tables import Cell, RowTable
from napari_transunet.volumes.label_values import UNKNOWN

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_transunet.metrics.difference_map import Disagreement
    from napari_transunet.viewer.review.measurement_controller import Reference

SCORES = (
    ("Organ", "Name of the label"),
    ("Dice", "Overlap: 2 |A ∩ B| / (|A| + |B|)"),
    ("HD95", "95th percentile of the surface distances, mm"),
    ("NSD", "Share of the surfaces that lie within 2 mm of each other"),
)
_WORST = (("Worst slices", "Click to go there"), ("mm²", "Area that differs"))


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
        self._other = ElidingCombo("compare_with", self, "The labels to compare with")
        self._other.activated.connect(lambda _at: self._on_chosen())
        action = ACTIONS["compare"]
        self.button = push_button(action.title, "compare", self, self.press, action.hint)
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
        self._map = check_box("Show disagreement as a layer", "show_disagreement", self, self.map_wanted)
        self.status = StatusLine("compare_status", self)
        self._scores = RowTable("scores", SCORES, self, sortable=True)
        self._slices = RowTable("worst_slices", _WORST, self, sortable=True)
        self._worst: list[int] = []  # indices of the slices that are listed
        self._slices.itemSelectionChanged.connect(self._on_selected)
        column(
            row(
                (self._other, 2), (self.button, 1)
            ),  # with no share of its own the button would have no width
            self._section,
            self._map,
            self.status,
            (self._scores, 1),
            (self._slices, 1),
            within=self,
            top=6,
        )
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
        # With several to choose from, a person chooses: their order means nothing.
        only = 0 if len(fitting) == 1 else -1
        self._other.offer([(str(layer.name), layer) for layer in fitting], chosen, otherwise=only)
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
        own = [(organ(name, first=True), number) for number, name in names.items()]
        for at, (value, stands_for) in enumerate(found.matching.organs.items()):
            name = found.names.get(value)
            item = QTableWidgetItem(f"{value}: {organ(name, first=True)}" if name else f"Label {value}")
            item.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self._table.setItem(at, 0, item)
            choice = ElidingCombo(f"stands_for_{value}", self._table)
            choice.offer([("– (left out)", None), *own], stands_for)
            self._table.setCellWidget(at, 1, choice)
            self._choices[value] = choice
        self._table.resizeColumnsToContents()
        stretching = self._table.horizontalHeader()
        if stretching is not None:
            stretching.setStretchLastSection(True)
        unsure = found.matching.by == "number" or None in found.matching.organs.values()
        self._section.setEnabled(bool(self._choices))
        self._section.set_open(unsure and bool(self._choices))
        if found.matching.by == "number" and self._choices:
            self.status.setText("It has no names, so its labels are matched by number. Check the table.")

    def press(self) -> None:
        """Compare with the chosen layer, as the button does."""
        if self.reference is None:
            self.status.setText("Choose the labels to compare with.")
            return
        self.wanted.emit(self.reference, self._matching())

    def show_result(
        self,
        found: Disagreement,
        matching: Matching,
        names: Mapping[int, str],
        number: Callable[[int], int] = int,
        *,
        unknown: bool = False,
        coverage: str = "",
    ) -> None:
        """Show scores and the worst slices, which `number` names, and what could not be compared.

        `unknown`: the reference has voxels of which nobody says what they are; `coverage`: a sentence where it covers a
        part of the labels' grid.
        """
        rows: list[list[Cell]] = [
            [organ(names.get(value, f"label {value}"), first=True), *score_cells(scores)]
            for value, scores in found.scores.items()
        ]
        self._scores.show_rows([*rows, [("Mean", "\U0010ffff"), *score_cells(found.means)]])
        worst = found.worst_slices(50)
        self._worst = [at for at, _ in worst]
        self._slices.show_rows(
            [[(f"Slice {number(at)}", number(at)), (f"{area:,.0f}", area)] for at, area in worst]
        )
        sentences = [] if worst else ["Both are the same."]
        if matching.by == "number":
            sentences.append("Matched by number, because it has no names.")
        if missing := [name for value, name in names.items() if value not in matching.known]:
            sentences.append(f"Not in the reference, and not in the mean: {organs(missing)}.")
        if unknown:
            sentences.append(f"Voxels labelled {UNKNOWN} in the reference are unknown and not counted.")
        left = [value for value, own in matching.organs.items() if own is None]
        if left := [value for value in left if not unknown or value != UNKNOWN]:
            sentences.append(f"Labels of the reference that were left out: {', '.join(map(str, left))}.")
        if coverage:
            sentences.append(coverage)
        self.status.setText(" ".join(sentences))

    def set_busy(self, busy: bool) -> None:
        """Whether it is comparing."""
        self.button.setEnabled(not busy and self._other.count() > 0)
        if busy:
            self.status.setText("Comparing …")
        elif self.status.text() == "Comparing …":
            self.status.setText("")

    def clear(self) -> None:
        """Forget what was compared: it says nothing about other labels."""
        self._reference, self._choices = None, {}
        self._table.setRowCount(0)
        self._section.set_open(False)
        for table in (self._scores, self._slices):
            table.show_rows([])
        self.set_busy(False)
        self.status.setText("")

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
        if (at := self._slices.chosen) is not None:
            self.jump_slice.emit(self._worst[at])


def score_cells(scores: Mapping[str, float]) -> list[Cell]:
    """Dice, HD95 and NSD as a table shows them."""
    return [_score(scores[key], key) for key in ("dice", "hd95", "nsd")]


def _score(value: float, key: str) -> Cell:
    if math.isnan(value):
        return ("–", None)
    if math.isinf(value):
        return ("∞", value)
    return (f"{value:.1f} mm" if key == "hd95" else f"{value:.3f}", value)
