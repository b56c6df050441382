"""When a dock widget comes and goes.

napari takes the widget out of its dock when a person closes the dock, and keeps it; nothing tells the widget.
Closing the whole window does not tell it either. Both show in events, which are watched here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QObject, Signal

from napari_transunet.viewer.widgets.qt_helpers import single_shot

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget


class DockEvents(QObject):
    """Watches a widget and the window around it.

    Signals
    -------
    arrived
        The widget was put into a dock, or shown.
    settled
        It is in its window, a moment after it arrived.
    left
        It was taken out of its dock, or closed where it is a window of its own.
    window_closed
        The window around it closes for good.
    """

    arrived = Signal()
    settled = Signal()
    left = Signal()
    window_closed = Signal()

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        self._window: Callable[[], QWidget | None] = lambda: None
        self._closing = False
        # napari puts the widget into its dock first, and the dock into the window then.
        self._soon = single_shot(self, 0, self._watch_now)
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Qt's hook; lets every event pass."""
        if event is not None and watched is self._widget:
            self._on_own(event)
        elif event is not None and watched is self._window():
            self._on_window(event)
        return super().eventFilter(watched, event)

    def _on_own(self, event: QEvent) -> None:
        kind = event.type()
        if kind == QEvent.Type.Close or (kind == QEvent.Type.ParentChange and self._widget.parent() is None):
            self.left.emit()
        elif kind in (QEvent.Type.ParentChange, QEvent.Type.Show):
            self._closing = False
            self._watch(self._widget.window())
            self._soon.start()
            self.arrived.emit()

    def _on_window(self, event: QEvent) -> None:
        by_person = event.spontaneous()
        closing = event.type() == QEvent.Type.Close
        self._closing |= closing
        # A click on the window's cross may be taken back in napari's dialog; the window then stays.
        hidden = event.type() == QEvent.Type.Hide and self._closing
        if not by_person and (closing or hidden):
            self.window_closed.emit()

    def _watch_now(self) -> None:
        self._watch(self._widget.window())
        self.settled.emit()

    def _watch(self, window: QWidget | None) -> None:
        known = self._window()
        if window is None or window is known or window is self._widget:
            return
        if known is not None:
            known.removeEventFilter(self)
        self._window = weakref.ref(window)  # a window that is gone must not be kept by what it held
        window.installEventFilter(self)
