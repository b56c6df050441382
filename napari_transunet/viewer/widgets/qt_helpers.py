"""What every panel does with Qt: buttons with a name and a tooltip, rows and columns, short timers."""

from collections.abc import Callable
from typing import Any, TypeVar

from napari.viewer import Viewer
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import (
    QBoxLayout,
    QCheckBox,
    QHBoxLayout,
    QLayout,
    QLineEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

_Button = TypeVar("_Button", QPushButton, QToolButton)
_Object = TypeVar("_Object", bound=QObject)

Item = QWidget | QLayout | tuple[QWidget, int] | None
"""What a row or column holds: a widget (with its share of the room), another layout, or None for what is left."""


def push_button(text: str, name: str, parent: QWidget, clicked: Any = None, tip: str = "") -> QPushButton:
    """A button with its object name and tooltip, which calls, or emits, `clicked`."""
    return _set_up(QPushButton(text, parent), name, clicked, tip)


def tool_button(text: str, name: str, parent: QWidget, clicked: Any = None, tip: str = "") -> QToolButton:
    """A small button without a frame."""
    button = QToolButton(parent)
    button.setText(text)
    button.setAutoRaise(True)
    return _set_up(button, name, clicked, tip)


def check_box(text: str, name: str, parent: QWidget, toggled: Any = None, tip: str = "") -> QCheckBox:
    """A box to tick with its object name and tooltip, which calls, or emits, `toggled` with whether it is."""
    box = QCheckBox(text, parent)
    box.setObjectName(name)
    box.setToolTip(tip)
    if toggled is not None:
        box.toggled.connect(toggled)
    return box


def line_edit(name: str, parent: QWidget, hint: str = "", *, clearable: bool = False) -> QLineEdit:
    """A line to write in, which shows a hint while it is empty."""
    line = QLineEdit(parent)
    line.setObjectName(name)
    line.setPlaceholderText(hint)
    line.setClearButtonEnabled(clearable)
    return line


def row(*items: Item, within: QWidget | None = None) -> QHBoxLayout:
    """Items side by side, without a margin; `within` gets them as its layout."""
    return _filled(QHBoxLayout(within) if within is not None else QHBoxLayout(), items)


def column(
    *items: Item, within: QWidget | None = None, spacing: int | None = None, top: int = 0, margin: int = 0
) -> QVBoxLayout:
    """Items one below the other, without a margin but for `top` above; `within` gets them as its layout."""
    layout = _filled(QVBoxLayout(within) if within is not None else QVBoxLayout(), items)
    layout.setContentsMargins(margin, top or margin, margin, margin)
    if spacing is not None:
        layout.setSpacing(spacing)
    return layout


def single_shot(parent: QObject | None, milliseconds: int, slot: Callable[[], Any]) -> QTimer:
    """A timer that calls `slot` once, so long after it was last started."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(slot)
    return timer


def window_of(viewer: Viewer) -> QWidget:
    """The window that a viewer is shown in."""
    window: QWidget = viewer.window._qt_window
    return window


def window_object(
    viewer: Viewer, kind: type[_Object], name: str, make: Callable[[Viewer, QWidget], _Object]
) -> _Object:
    """The one object of its kind in a viewer's window, made where there is none; it lives as long as the window."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins may get the viewer in a wrapper
    window = window_of(viewer)
    found = window.findChild(kind, name, Qt.FindChildOption.FindDirectChildrenOnly)
    if isinstance(found, kind):
        return found
    made = make(viewer, window)
    made.setObjectName(name)
    return made


def _set_up(button: _Button, name: str, clicked: Any, tip: str) -> _Button:
    button.setObjectName(name)
    button.setToolTip(tip)
    if clicked is not None:
        button.clicked.connect(clicked)
    return button


_Box = TypeVar("_Box", bound=QBoxLayout)


def _filled(layout: _Box, items: tuple[Item, ...]) -> _Box:
    layout.setContentsMargins(0, 0, 0, 0)
    for item in items:
        if item is None:
            layout.addStretch(1)
        elif isinstance(item, QLayout):
            layout.addLayout(item)
        elif isinstance(item, tuple):
            layout.addWidget(item[0], item[1])
        else:
            layout.addWidget(item)
    return layout
