"""Which labels of the chosen volume are meant: shown, exported, and written into by the next run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_transunet.viewer.widgets.volume_chooser import ElidingCombo, InfoLine

if TYPE_CHECKING:
    from napari.layers import Labels

_NEW = "New labels"


class LabelsChooser(QWidget):
    """Emits `chosen` with a labels layer, or with None for new labels, when a person chooses."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._combo = ElidingCombo("labels", self)
        self._combo.setToolTip("The labels that are shown and exported, and into which the next run writes")
        self._combo.activated.connect(lambda _at: self.chosen.emit(self._combo.currentData()))
        self._info = InfoLine("labels_info", self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._combo)
        layout.addWidget(self._info)

    def show_labels(self, choices: Sequence[Labels], current: Labels | None, info: str) -> None:
        """Offer these labels and new ones; say under them what the next run does."""
        with QSignalBlocker(self._combo):
            self._combo.clear()
            for layer in choices:
                self._combo.addItem(str(layer.name), layer)
            self._combo.addItem(_NEW, None)
            at = next((at for at, layer in enumerate(choices) if layer is current), len(choices))
            self._combo.setCurrentIndex(at)
        self._combo.setEnabled(bool(choices))
        self._info.setText(info)
        self._info.setVisible(bool(info))

    def set_locked(self, why_not: str | None) -> None:
        """Say why no other labels can be chosen now; None where they can."""
        self._combo.setEnabled(why_not is None and self._combo.count() > 1)
