"""A scroll area that takes the height of what it holds, and scrolls only where there is less room."""

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QSizePolicy, QWidget

_NESTED = 8
"""So often the content may be resized within its being resized; one that settles takes two."""


class FittingArea(QScrollArea):
    """Scrolls upright alone; what it holds is as wide as the area.

    Qt shows and hides the scroll bar by turns, within one call, where the content is lower beside the bar than without
    it, until the stack is full. Here the bar stays then.

    Parameters
    ----------
    content : what is shown.
    least : lines of text that are visible at least, where the content has as many.
    """

    def __init__(self, content: QWidget, parent: QWidget | None = None, *, least: int = 4) -> None:
        super().__init__(parent)
        self._least = least
        self._nested = 0
        self._margin = 4  # px; styles draw around what is shown, without saying how much
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.setWidget(content)
        content.installEventFilter(self)

    def sizeHint(self) -> QSize:  # noqa: N802
        """As high as the content is at this width."""
        content = self.widget()
        if content is None:
            return super().sizeHint()
        wanted = content.sizeHint()
        layout = content.layout()
        if layout is not None and layout.hasHeightForWidth():
            wanted.setHeight(layout.totalHeightForWidth(max(1, (self.viewport() or self).width())))
        return wanted + QSize(0, self._margin)

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """A few lines, and the width that the content needs."""
        content = self.widget()
        width = content.minimumSizeHint().width() if content is not None else 0
        bar = self.verticalScrollBar()
        width += bar.sizeHint().width() if bar is not None else 0
        lines = self._least * self.fontMetrics().lineSpacing()
        return QSize(width + self._margin, min(lines, self.sizeHint().height()))

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Qt's hook: the content has, or wants, another height."""
        if event is not None and watched is self.widget() and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        self._nested += 1
        try:
            if self._nested > _NESTED:
                self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)
            return super().eventFilter(watched, event)
        finally:
            self._nested -= 1
