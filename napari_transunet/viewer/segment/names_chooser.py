"""Which names the classes of a checkpoint get that names none itself: a person's choice, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_transunet.viewer.widgets.volume_chooser import ElidingCombo

if TYPE_CHECKING:
    from napari_transunet.checkpoints.presets import LabelPreset

_TIP = (
    "The checkpoint does not say what its classes are, and their number does not tell.\n"
    "Pick the names of the dataset that it was trained on, if you know it."
)


class NamesChooser(QWidget):
    """A list of presets that is there, with its label, only while there is one to pick from.

    Emits `picked` with the name of a preset, or "" for none.
    """

    picked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._why_not: str | None = None
        self._combo = ElidingCombo("label_names", self)
        self._combo.currentIndexChanged.connect(self._on_index)
        self._combo.setToolTip(_TIP)
        self._label: QLabel | None = None
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        self.hide()

    def set_label(self, label: QLabel) -> None:
        """The label beside it, which comes and goes with it."""
        self._label = label
        label.setBuddy(self._combo)
        label.setVisible(not self.isHidden())

    def offer(self, presets: Mapping[str, LabelPreset], picked: str | None) -> None:
        """Offer these presets, of which one may have been picked before; without any, disappear."""
        self._combo.blockSignals(True)
        self._combo.clear()
        self._combo.addItem("No names (class 1, class 2, …)", "")
        for name, preset in presets.items():
            self._combo.addItem(preset.title, name)
            tip = ", ".join(f"{value} {organ}" for value, organ in preset.names.items())
            self._combo.setItemData(self._combo.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self._combo.setCurrentIndex(max(0, self._combo.findData(picked or "")))
        self._combo.blockSignals(False)
        self._explain()
        self.setVisible(bool(presets))
        if self._label is not None:
            self._label.setVisible(bool(presets))

    def set_locked(self, why_not: str | None) -> None:
        """Say why nothing can be picked now; None where it can."""
        self._why_not = why_not
        self._combo.setEnabled(why_not is None)
        self._explain()

    def _on_index(self, _index: int) -> None:
        self._explain()
        self.picked.emit(str(self._combo.currentData()))

    def _explain(self) -> None:
        chosen = self._combo.currentText()
        self._combo.setToolTip(self._why_not or (f"{chosen}\n{_TIP}" if self._combo.currentData() else _TIP))
