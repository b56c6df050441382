"""Measures of the organs as a table that can be sorted, copied and saved."""

import math
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QApplication, QFileDialog, QWidget

from napari_transunet.errors import TransUNetError
from napari_transunet.metrics.region_properties import OrganMeasure, as_csv, write_measures
from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.widgets.messages import millilitres, organ
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tables import Cell, RowTable

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


class MeasurePanel(QWidget):
    """Emits `wanted` when the organs are to be measured, and `jump` with the voxel (z, y, x) of a chosen organ."""

    wanted = Signal()
    jump = Signal(int, int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._measures: Sequence[OrganMeasure] = ()
        action = ACTIONS["measure"]
        self._measure = push_button(action.title, "measure", self, self.wanted, action.hint)
        self._copy = push_button(
            "Copy", "copy_measures", self, self._on_copy, "Copy the table, to paste it into a spreadsheet"
        )
        self._save = push_button(
            "Save CSV…", "save_measures", self, self._on_save, "Write the table, with units and exact numbers"
        )
        self.status = StatusLine("measure_status", self)
        self._table = RowTable("measures", _MEASURES, self, sortable=True)
        self._table.itemSelectionChanged.connect(self._on_selected)
        column(row(self._measure, self._copy, self._save), self.status, (self._table, 1), within=self, top=6)
        self.show_measures((), ())

    def show_measures(self, measures: Sequence[OrganMeasure], warnings: Sequence[str]) -> None:
        """Show measures, and warnings above them."""
        self._measures = measures
        self.status.setText("\n".join(warnings))
        self._copy.setEnabled(bool(measures))
        self._save.setEnabled(bool(measures))
        self._table.show_rows([_row(measure) for measure in measures])

    def set_busy(self, busy: bool) -> None:
        """Whether it is measuring."""
        self._measure.setEnabled(not busy)
        if busy:
            self.status.setText("Measuring …")

    def _on_selected(self) -> None:
        at = self._table.chosen
        centre = self._measures[at].centre if at is not None else None
        if centre is not None:
            self.jump.emit(*centre)

    def _on_copy(self) -> None:
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(as_csv(self._measures, delimiter="\t"))
        self.status.setText("Copied.")

    def _on_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save measures", "measures.csv", "Table (*.csv)")
        if not name:
            return
        path = Path(name if name.lower().endswith(".csv") else f"{name}.csv")
        try:
            write_measures(path, self._measures, overwrite=path == Path(name))
        except (TransUNetError, OSError) as error:
            self.status.setText(str(error))
            return
        self.status.setText(f"Saved to {path}.")


def _row(measure: OrganMeasure) -> list[Cell]:
    name = organ(measure.name, first=True)
    size = " × ".join(f"{part:.0f}" for part in measure.extent_mm)
    return [
        name,
        (millilitres(measure.volume_ml) if measure.voxels else "–", measure.volume_ml),
        (f"{measure.surface_mm2:,.0f}" if measure.voxels else "–", measure.surface_mm2),
        _number(measure.mean, ".0f"),
        _number(measure.sd, ".0f"),
        (size if measure.voxels else "–", max(measure.extent_mm)),
        (str(measure.components) if measure.voxels else "–", measure.components),
        (str(measure.slices) if measure.voxels else "–", measure.slices),
        (_number(measure.by_hand * 100, ".1f", " %")),
    ]


def _number(value: float, form: str, unit: str = "") -> Cell:
    known = math.isfinite(value)
    return (f"{value:{form}}{unit}" if known else "–", value if known else None)
