"""Clicks in the image that mean something other than painting.

What holds here: a click that is caught reaches no layer's tool, whatever tool a person takes up while it is waited for;
and a click is only ever given to the layer for which it was asked.
"""

from collections.abc import Callable
from typing import Any

from napari.layers import Labels
from napari.viewer import Viewer
from qtpy.QtCore import QObject

from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.widgets.keys import KeyBindings
from napari_transunet.viewer.widgets.qt_helpers import single_shot

Voxel = tuple[int, int, int]
_RESTING = "pan_zoom"


class ClickPicker(QObject):
    """Gives clicks to a function, as voxels (z, y, x) of a layer, while the layer's brush rests.

    Escape, another tool in hand, somebody else who wants clicks, or the end of the layer ends the waiting; then
    `on_cancel` is called of whoever waited. `stop` ends it without a word.
    """

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Labels | None = None
        self._then: Callable[[Voxel], None] | None = None
        self._on_cancel: Callable[[], None] = lambda: None
        self._again = False
        self._mode: Any = None
        self._keys = KeyBindings()
        self._links = EventLinks()
        # The tool comes back when the click is over: the layer's own handlers see it after ours.
        self._after = single_shot(self, 0, self._give_back)

    @property
    def waiting(self) -> bool:
        """Whether a click is waited for."""
        return self._then is not None

    def once(self, layer: Labels, then: Callable[[Voxel], None], on_cancel: Callable[[], None]) -> None:
        """Give the next click to `then`."""
        self._start(layer, then, on_cancel, again=False)

    def always(self, layer: Labels, then: Callable[[Voxel], None], on_cancel: Callable[[], None]) -> None:
        """Give every click to `then`, until `stop`."""
        self._start(layer, then, on_cancel, again=True)

    def cancel(self) -> None:
        """Wait for no click any more, give the brush back, and tell whoever waited."""
        waiting, on_cancel = self.waiting, self._on_cancel
        self.stop()
        if waiting:
            on_cancel()

    def stop(self) -> None:
        """Wait for no click any more, and give the brush back."""
        self._let_go()
        self._after.stop()
        self._give_back()

    def _start(
        self, layer: Labels, then: Callable[[Voxel], None], on_cancel: Callable[[], None], *, again: bool
    ) -> None:
        self.cancel()
        self._layer, self._then, self._again, self._mode = layer, then, again, layer.mode
        self._on_cancel = on_cancel
        layer.mode = _RESTING
        self._viewer.layers.selection.active = layer
        self._viewer.mouse_drag_callbacks.append(self._on_mouse)
        self._links.connect(self._on_removed, self._viewer.layers.events.removed)
        self._links.connect(self._on_mode, layer.events.mode, layer.events.editable)
        for owner in (layer, self._viewer):  # a layer's own Escape comes before the viewer's
            self._keys.override(owner, "Escape", self._on_escape)

    def _let_go(self) -> None:
        if self._then is None or self._layer is None:
            return
        self._then = None
        self._viewer.mouse_drag_callbacks.remove(self._on_mouse)
        self._links.clear()
        self._keys.release()

    def _give_back(self) -> None:
        layer, self._layer = self._layer, None
        mode, self._mode = self._mode, None
        if layer is not None and mode is not None and layer in self._viewer.layers and layer.editable:
            layer.mode = mode

    def _on_escape(self, _owner: Any = None) -> None:
        self.cancel()

    def _on_mode(self, _event: Any = None) -> None:
        # Another tool was taken up, or a run writes into the layer.
        if self._layer is not None and (self._layer.mode != _RESTING or not self._layer.editable):
            self._mode = None
            self.cancel()

    def _on_removed(self, event: Any) -> None:
        if event.value is self._layer:
            self._mode = None
            self.cancel()

    def _on_mouse(self, viewer: Any, event: Any) -> None:
        layer, then = self._layer, self._then
        if layer is None or then is None or event.type != "mouse_press" or event.button not in (None, 1):
            return
        viewer.layers.selection.active = layer  # no other layer's tool acts on this click
        found = layer.world_to_data(event.position)[-3:]
        voxel = tuple(round(float(at)) for at in found)
        if any(not 0 <= at < size for at, size in zip(voxel, layer.data.shape, strict=True)):
            return
        if not self._again:
            self._let_go()
            self._after.start()
        then((voxel[0], voxel[1], voxel[2]))
