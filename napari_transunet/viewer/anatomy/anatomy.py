"""What a window shows of the patient's anatomy while a dock of the plugin is open: letters, scale bar, planes, keys."""

import weakref
from functools import partial
from typing import Any

from napari.layers import Image, Layer
from napari.viewer import Viewer
from qtpy.QtCore import QObject, Qt
from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from napari_transunet.errors import TransUNetError
from napari_transunet.viewer.anatomy.actions import VIEW_ACTIONS
from napari_transunet.viewer.anatomy.directions import (
    Plane,
    edges_of,
    keep_hand,
    patient_directions,
    under_cursor,
)
from napari_transunet.viewer.anatomy.edge_letters import EdgeLetters
from napari_transunet.viewer.anatomy.three_planes import TITLE, ThreePlanes
from napari_transunet.viewer.anatomy.view_bar import ViewBar
from napari_transunet.viewer.anatomy.views import Views
from napari_transunet.viewer.anatomy.windows import WINDOWS, apply_window
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.layer_record import is_scan
from napari_transunet.viewer.layers.napari_versions import camera_of, scale_bar_of, show_scale_bar
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.keys import KeyBindings
from napari_transunet.viewer.widgets.qt_helpers import single_shot, window_object

_NAME = "napari_transunet_anatomy"


class Anatomy(QObject):
    """Follows the layers and the view of one window."""

    def __init__(self, viewer: Viewer, window: QWidget) -> None:
        super().__init__(window)
        assert isinstance(window, QMainWindow)
        self._viewer, self._window = viewer, window
        self._docks: weakref.WeakSet[QWidget] = weakref.WeakSet()
        self._shown = {"letters": True, "scale_bar": True}
        self._had_scale_bar = False
        self._scale_bar_due = False
        self._keys = KeyBindings()
        self._letters: EdgeLetters | None = None
        self._bar: ViewBar | None = None
        self._readout: QLabel | None = None
        self._watched: Layer | None = None
        self._links, self._layer_links = EventLinks(), EventLinks()
        self.views = Views(viewer)
        self._soon = single_shot(self, 0, self._look)

    @property
    def letters(self) -> dict[str, str]:
        """The letters at the edges of the canvas."""
        return self._letters.texts if self._letters is not None else {}

    @property
    def readout(self) -> str:
        """What the status bar says of the place under the cursor."""
        return self._readout.text() if self._readout is not None else ""

    def attach(self, dock: QWidget) -> None:
        """Show all of it for as long as this dock is open, or another one."""
        first = not self._docks
        self._docks.add(dock)
        if not first:
            return
        central, status = self._window.centralWidget(), self._window.statusBar()
        if central is not None:
            self._letters = EdgeLetters(central)
        self._bar = ViewBar(self._window)
        self._bar.wanted.connect(self.do)
        self._bar.overlay_wanted.connect(self._show_overlay)
        menus = self._window.menuBar()
        if menus is not None and not menus.isNativeMenuBar():
            menus.setCornerWidget(self._bar)  # takes no height from a small window
            self._bar.show()
        else:  # macOS
            self._window.addToolBar(Qt.ToolBarArea.TopToolBarArea, self._bar)
        if status is not None:
            self._readout = QLabel(status)
            self._readout.setObjectName("position_readout")
            status.addPermanentWidget(self._readout)
        self._had_scale_bar = bool(scale_bar_of(self._viewer).visible)
        # Its letters are drawn for the first time: 0.2 s, which an empty canvas need not take.
        self._scale_bar_due = True
        self._links.connect(self._later, *self._emitters())
        self._links.connect(self._on_cursor, self._viewer.cursor.events.position)
        handlers = {name: partial(self.do, name) for name in VIEW_ACTIONS}
        self._keys.bind_actions(self._viewer, VIEW_ACTIONS, handlers)
        self._look()

    def detach(self, dock: QWidget) -> None:
        """Tell that a dock is closed; with the last one goes all that was shown."""
        if dock not in self._docks:
            return
        self._docks.discard(dock)
        if self._docks:
            return
        self._soon.stop()
        self._watch(None)
        self._links.clear()
        self._keys.release()
        show_scale_bar(self._viewer, self._had_scale_bar)
        if self.three_planes is not None:
            self.toggle_three_planes()
        if self._letters is not None:
            self._letters.remove()
        if self._bar is not None:
            menus = self._window.menuBar()
            if menus is not None and menus.cornerWidget() is self._bar:
                menus.setCornerWidget(None)
            else:
                self._window.removeToolBar(self._bar)
            self._bar.hide()
        for widget in (self._bar, self._readout, self._letters):
            if widget is not None:
                widget.deleteLater()
        self._letters = self._bar = self._readout = None

    def do(self, name: str) -> None:
        """Do one of `VIEW_ACTIONS`."""
        planes = {plane.title: plane for plane in Plane}
        if name in planes:
            self.views.show_plane(planes[name])
        elif name == "front":
            self.views.show_front()
        elif name == "planes":
            self.toggle_three_planes()
        elif name == "here":
            if (planes_shown := self.three_planes) is not None:
                planes_shown.meet_at_cursor()
        else:
            self._set_window(name)

    @property
    def three_planes(self) -> ThreePlanes | None:
        """The other two planes, while they are shown."""
        return next(
            (each for each in self._viewer.window.dock_widgets.values() if isinstance(each, ThreePlanes)),
            None,
        )

    def toggle_three_planes(self) -> None:
        """Show the axial plane with the other two below it, or hide those."""
        shown = self.three_planes
        if shown is not None:
            shown.release()
            self._viewer.window.remove_dock_widget(shown)
            return
        self.views.show_plane(Plane.AXIAL)
        self._viewer.window.add_dock_widget(ThreePlanes(self._viewer), name=TITLE, area="bottom")

    # -- inside ---------------------------------------------------------------------------------------------

    def _emitters(self) -> tuple[Any, ...]:
        viewer = self._viewer
        return (
            viewer.dims.events.order,
            viewer.dims.events.ndisplay,
            viewer.dims.events.ndim,
            camera_of(viewer).events.orientation,
            camera_of(viewer).events.angles,
            viewer.layers.selection.events.active,
            viewer.layers.events.inserted,
            viewer.layers.events.removed,
        )

    def _later(self, _event: Any = None) -> None:
        self._soon.start()

    def _look(self) -> None:
        """Bring the letters in line with what is shown."""
        self._on_cursor()
        if self._scale_bar_due and self._viewer.layers:
            self._scale_bar_due = False
            show_scale_bar(self._viewer, self._shown["scale_bar"])
        layer = self.views.reference()
        self._watch(layer)
        directions = patient_directions(layer) if layer is not None else None
        if directions is not None and self._viewer.dims.ndisplay == 3:
            keep_hand(self._viewer, directions)
        if self._letters is not None:
            edges = edges_of(self._viewer, directions) if directions is not None else None
            self._letters.show_edges(edges if self._shown["letters"] else None)

    def _watch(self, layer: Layer | None) -> None:
        """Follow how the layer lies that the letters are taken from."""
        if layer is self._watched:
            return
        self._layer_links.clear()
        self._watched = layer
        if layer is not None:
            names = ("scale", "rotate", "shear", "affine", "data", "visible")
            self._layer_links.connect(self._later, *(getattr(layer.events, name) for name in names))

    def _show_overlay(self, name: str, on: bool) -> None:
        self._shown[name] = on
        if name == "scale_bar":
            self._scale_bar_due = False
            show_scale_bar(self._viewer, on)
        self._later()

    def _set_window(self, name: str) -> None:
        from napari.utils.notifications import show_info

        window = next(window for window in WINDOWS if VIEW_ACTIONS[name].title == window.name)
        image = self._image()
        if image is None:
            show_info("There is no image whose window could be set.")
            return
        try:
            apply_window(image, window)
        except TransUNetError as error:
            show_info(str(error))

    def _image(self) -> Image | None:
        """The image that is looked at: the active one, that of the active labels, else the topmost that is shown."""
        viewer = self._viewer
        active = viewer.layers.selection.active
        if active is not None and is_scan(active):
            return active
        sessions = sessions_of(viewer)
        result = sessions.result_of(active)
        image = sessions.image_of(result) if result is not None else None
        if image is not None:
            return image
        return next((each for each in reversed(list(viewer.layers)) if is_scan(each) and each.visible), None)

    def _on_cursor(self, _event: Any = None) -> None:
        if self._readout is None:
            return
        image = self._image() if self._viewer.dims.ndisplay == 2 else None
        self._readout.setText(under_cursor(image, self._viewer.cursor.position) if image is not None else "")


def anatomy_of(viewer: Viewer) -> Anatomy:
    """What shows the anatomy in a viewer's window; it lives as long as the window."""
    return window_object(viewer, Anatomy, _NAME, Anatomy)
