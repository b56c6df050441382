"""When a dock widget comes and goes.

napari takes the widget out of its dock when a person closes the dock, and keeps it; nothing tells the widget.
Closing the whole window does not tell it either. Both show in events, which are watched here.
"""

import weakref
from collections.abc import Callable

from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from napari_transunet.viewer.widgets.priority import spare_nothing
from napari_transunet.viewer.widgets.qt_helpers import single_shot

_MARK = "transunet_tab"  # of docks that were put into the group of tabs once


class DockEvents(QObject):
    """Watches a widget and the window around it, from when the widget is made.

    Parameters
    ----------
    widget : what is put into a dock.
    tab : what its tab is called beside those of the plugin's other docks; none where it does not join them.
    window : where it will be put.

    Attributes
    ----------
    here : whether the widget is in use: made, put into a dock or shown, and not closed since.

    Signals
    -------
    arrived: the widget was put into a dock or shown again, after it had left.
    settled: it is in its window, a moment after it came there.
    left(bool): it is not in use any more; true where that is because its window closes for good.
    window_closed
        The window around it closes for good, whether or not the widget was still in use; comes after `left`.
    """

    arrived = Signal()
    settled = Signal()
    left = Signal(bool)
    window_closed = Signal()

    def __init__(self, widget: QWidget, tab: str = "", window: QWidget | None = None) -> None:
        super().__init__(widget)
        self.here = True
        self._widget = widget
        self._tab = tab
        self._window: Callable[[], QWidget | None] = lambda: None
        self._closing = False
        self._height = 0 if window is None else window.height()  # before the dock is in it
        # napari puts the widget into its dock first, and the dock into the window then.
        self._soon = single_shot(self, 0, self._watch_now)
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Qt's hook; lets every event pass."""
        widget = getattr(self, "_widget", None)  # gone where garbage collection takes both apart
        if event is not None and widget is not None:
            if watched is widget:
                self._on_own(event)
            elif watched is self._window():
                self._on_window(event)
        return super().eventFilter(watched, event)

    def _on_own(self, event: QEvent) -> None:
        kind = event.type()
        if kind == QEvent.Type.Close or (kind == QEvent.Type.ParentChange and self._widget.parent() is None):
            self._leave(closing=False)
        elif kind in (QEvent.Type.ParentChange, QEvent.Type.Show):
            self._closing = False
            self._watch(self._widget.window())
            self._soon.start()
            if not self.here:
                self.here = True
                self.arrived.emit()

    def _on_window(self, event: QEvent) -> None:
        by_person = event.spontaneous()
        closing = event.type() == QEvent.Type.Close
        self._closing |= closing
        # A click on the window's cross may be taken back in napari's dialog; the window then stays.
        hidden = event.type() == QEvent.Type.Hide and self._closing
        if not by_person and (closing or hidden):
            self._leave(closing=True)
            self.window_closed.emit()
            spare_nothing()

    def _leave(self, *, closing: bool) -> None:
        if self.here:
            self.here = False
            self.left.emit(closing)

    def _watch_now(self) -> None:
        self._watch(self._widget.window())
        if self._tab:
            _join_tabs(self._widget, self._tab, self._height)
        self.settled.emit()

    def _watch(self, window: QWidget | None) -> None:
        known = self._window()
        if window is None or window is known or window is self._widget:
            return
        if known is not None:
            known.removeEventFilter(self)
        self._window = weakref.ref(window)  # a window that is gone must not be kept by what it held
        window.installEventFilter(self)


def _join_tabs(widget: QWidget, title: str, height: int) -> None:
    """Put the dock around this widget into one group of tabs with the plugin's other docks, in front of them.

    The tab bears this title, short enough for both to be read. This happens once for every dock: one that a person
    has moved or floated since stays where it is. The window gets back the height that it had: napari puts docks one
    below the other first, for which it may have to grow beyond the screen.
    """
    dock = _dock_of(widget)
    window = dock.parentWidget() if dock is not None else None
    if dock is None or not isinstance(window, QMainWindow) or dock.property(_MARK):
        return
    others = [
        other for other in window.findChildren(QDockWidget) if other is not dock and other.property(_MARK)
    ]
    dock.setProperty(_MARK, True)
    dock.setWindowTitle(title)
    together = next((other for other in others if not other.isFloating()), None)
    if together is None or dock.isFloating() or dock in window.tabifiedDockWidgets(together):
        return
    window.tabifyDockWidget(together, dock)
    dock.show()
    dock.raise_()
    layout = window.layout()
    if layout is not None and not window.isMaximized() and not window.isFullScreen():
        layout.activate()  # what it needs at least is less now
        window.resize(window.width(), height)


def _dock_of(widget: QWidget) -> QDockWidget | None:
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
