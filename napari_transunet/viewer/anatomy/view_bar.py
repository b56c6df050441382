"""The tool bar with planes, windows, and what is drawn over the canvas. It knows no layers."""

from functools import partial

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QMenu, QToolBar, QToolButton, QWidget

from napari_transunet.viewer.anatomy.actions import VIEW_ACTIONS

OVERLAYS = {"letters": "Sides of the patient", "scale_bar": "Scale bar in mm"}
"""What can be shown over the canvas, by name."""


class ViewBar(QToolBar):
    """Emits `wanted` with an action's name, and `overlay_wanted` with an overlay's name and whether to show it."""

    wanted = Signal(str)
    overlay_wanted = Signal(str, bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Anatomical views", parent)
        self.setObjectName("anatomical_views")
        self.setMovable(False)
        # Its menu would hide a bar that nobody finds again.
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.PreventContextMenu)
        windows, overlays = QMenu(self), QMenu(self)
        for name, action in VIEW_ACTIONS.items():
            if name.startswith("window_"):
                entry = windows.addAction(f"{action.title}\t{action.key}")
                assert entry is not None
                entry.setToolTip(action.tip)
                entry.triggered.connect(partial(self._emit, name))
            elif name != "here":  # done with the mouse over a canvas, so by its key
                button = QToolButton(self)
                button.setText(action.title)
                button.setToolTip(action.hint)
                button.setObjectName(f"view_{name}")
                button.clicked.connect(partial(self._emit, name))
                self.addWidget(button)
        windows.setToolTipsVisible(True)
        for name, title in OVERLAYS.items():
            entry = overlays.addAction(title)
            assert entry is not None
            entry.setCheckable(True)
            entry.setChecked(True)
            entry.toggled.connect(partial(self.overlay_wanted.emit, name))
        self.addSeparator()
        self._add_menu("Window", "view_window", windows, "Grey-scale windows for CT")
        self._add_menu("Show", "view_show", overlays, "What is drawn over the canvas")

    def _add_menu(self, text: str, name: str, menu: QMenu, tip: str) -> None:
        button = QToolButton(self)
        button.setText(text)
        button.setObjectName(name)
        button.setToolTip(tip)
        button.setMenu(menu)
        button.setStyleSheet("QToolButton { padding-right: 14px; }")  # or the arrow lies on the text
        button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.addWidget(button)

    def _emit(self, name: str, _checked: bool = False) -> None:
        self.wanted.emit(name)
