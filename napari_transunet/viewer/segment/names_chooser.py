"""Which names the classes of a checkpoint get that names none itself: a person's choice, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal

from napari_transunet.viewer.widgets.combo import ElidingCombo

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_transunet.checkpoints.presets import LabelPreset

_TIP = (
    "The checkpoint does not say what its classes are, and their number does not tell.\n"
    "Pick the names of the dataset that it was trained on, if you know it."
)


class NamesChooser(ElidingCombo):
    """A list of presets, for a form that shows it only while there is one to pick from.

    Emits `picked` with the name of a preset, or "" for none.
    """

    picked = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("label_names", parent, _TIP)
        self._why_not: str | None = None
        self.currentIndexChanged.connect(self._on_index)

    def offer_presets(self, presets: Mapping[str, LabelPreset], picked: str | None) -> None:
        """Offer these presets, of which one may have been picked before."""
        entries = [(preset.title, name) for name, preset in presets.items()]
        self.offer([("No names (class 1, class 2, …)", ""), *entries], picked or "")
        for at, preset in enumerate(presets.values(), start=1):
            self.explain(at, ", ".join(f"{value} {organ}" for value, organ in preset.names.items()))
        self._explain()

    def set_locked(self, why_not: str | None) -> None:
        """Say why nothing can be picked now; None where it can."""
        self._why_not = why_not
        self.setEnabled(why_not is None)
        self._explain()

    def _on_index(self, _index: int) -> None:
        self._explain()
        self.picked.emit(str(self.currentData()))

    def _explain(self) -> None:
        chosen = self.currentText()
        self.setToolTip(self._why_not or (f"{chosen}\n{_TIP}" if self.currentData() else _TIP))
