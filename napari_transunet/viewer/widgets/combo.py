"""A list to choose from that stays as narrow as its dock."""

from collections.abc import Iterable
from typing import Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import QComboBox, QSizePolicy, QWidget


class ElidingCombo(QComboBox):
    """A combo box that may become narrower than its longest entry."""

    def __init__(self, name: str, parent: QWidget | None = None, tip: str = "") -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setToolTip(tip)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(9)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def offer(self, entries: Iterable[tuple[str, Any]], chosen: Any = None, *, otherwise: int = 0) -> None:
        """Replace the entries, each a text with what it stands for, without a signal.

        The one that stands for `chosen` is chosen, else the one at `otherwise` (-1 for none).
        """
        with QSignalBlocker(self):
            self.clear()
            at = -1
            for text, value in entries:
                if at < 0 and (value is chosen or value == chosen):
                    at = self.count()
                self.addItem(text, value)
            self.setCurrentIndex(at if at >= 0 else min(otherwise, self.count() - 1))

    def explain(self, index: int, tip: str, *, enabled: bool = True) -> None:
        """Give one entry a tooltip, and grey it where it cannot be chosen."""
        self.setItemData(index, tip, Qt.ItemDataRole.ToolTipRole)
        model = self.model()
        if isinstance(model, QStandardItemModel) and (item := model.item(index)) is not None:
            item.setEnabled(enabled)
