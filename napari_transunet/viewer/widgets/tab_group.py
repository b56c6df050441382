"""The plugin's docks share one place of the window, as tabs, however they are opened."""

from __future__ import annotations

from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

_MARK = "transunet_tab"


def join_tabs(widget: QWidget, title: str) -> None:
    """Put the dock around this widget into one group of tabs with the plugin's other docks, in front of them.

    The tab bears this title, short enough for both to be read. This happens once for every dock: one that a person
    has moved or floated since stays where it is.
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


def _dock_of(widget: QWidget) -> QDockWidget | None:
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
