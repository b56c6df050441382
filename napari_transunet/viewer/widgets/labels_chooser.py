"""Which labels of the chosen volume are meant: shown, exported, and written into by the next run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.qt_helpers import column
from napari_transunet.viewer.widgets.status_line import InfoLine

if TYPE_CHECKING:
    from napari.layers import Labels

_NEW = "New labels"


class LabelsChooser(QWidget):
    """Emits `chosen` with a labels layer, or with None for new labels, when a person chooses."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._combo = ElidingCombo(
            "labels", self, "The labels that are shown and exported, and into which the next run writes"
        )
        self._combo.activated.connect(lambda _at: self.chosen.emit(self._combo.currentData()))
        self._info = InfoLine("labels_info", self)
        column(self._combo, self._info, within=self, spacing=0)

    def show_labels(self, choices: Sequence[Labels], current: Labels | None, info: str) -> None:
        """Offer these labels and new ones; say under them what the next run does."""
        entries = [*((str(layer.name), layer) for layer in choices), (_NEW, None)]
        self._combo.offer(entries, current, otherwise=len(choices))
        self._combo.setEnabled(bool(choices))
        self._info.setText(info)
        self._info.setVisible(bool(info))

    def set_locked(self, why_not: str | None) -> None:
        """Say why no other labels can be chosen now; None where they can."""
        self._combo.setEnabled(why_not is None and self._combo.count() > 1)
