"""A section of a dock that is folded away until somebody opens it."""

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QToolButton, QVBoxLayout, QWidget


class CollapsibleSection(QWidget):
    """A heading that shows and hides what is under it.

    `toggled` is emitted with whether it is open now.
    """

    toggled = Signal(bool)

    def __init__(
        self, title: str, content: QWidget, name: str, parent: QWidget | None = None, *, is_open: bool = False
    ) -> None:
        super().__init__(parent)
        self.content = content
        self.header = QToolButton(self)
        self.header.setObjectName(name)
        self.header.setText(title)
        self.header.setCheckable(True)
        self.header.setAutoRaise(True)
        self.header.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.header.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.header)
        layout.addWidget(content)
        self.header.toggled.connect(self._show)
        self.header.toggled.connect(self.toggled)
        self.header.setChecked(is_open)
        self._show(is_open)

    def set_open(self, on: bool) -> None:
        """Open or close it."""
        self.header.setChecked(on)

    def _show(self, on: bool) -> None:
        self.header.setArrowType(Qt.ArrowType.DownArrow if on else Qt.ArrowType.RightArrow)
        self.content.setVisible(on)
