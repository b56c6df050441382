"""A sentence at the foot of a dock, always in sight; it takes no room while there is nothing to say."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget


class StatusLine(QLabel):
    """Wraps what it says, and is hidden while it says nothing."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
        self.hide()

    def setText(self, text: str | None) -> None:  # noqa: N802
        """Say a sentence; nothing for an empty one."""
        super().setText(text)
        self.setVisible(bool(text))
