"""Sentences in a dock, in as many lines as its width needs."""

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget


class StatusLine(QLabel):
    """What goes on, or what came of it; hidden while there is nothing to say."""

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


class InfoLine(QLabel):
    """A quiet line under a chooser; long text wraps instead of widening the dock."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setContentsMargins(2, 0, 0, 2)
        self.setStyleSheet("font-size: 11px;")

    def setText(self, text: str | None) -> None:  # noqa: N802
        """Show a text, in as many lines as the width needs."""
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802
        """Another width may need another number of lines; nested layouts do not find that out by themselves."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # a label never proposes less than its minimum, so the last one would stay
        self.setFixedHeight(max(0, self.heightForWidth(self.width())))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """No width of its own: the width is the dock's."""
        return QSize(10, self.fontMetrics().height())
