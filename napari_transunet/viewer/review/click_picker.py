"""Clicks in the image that mean something other than painting.

What holds here: a click that is caught reaches no layer's tool, whatever tool a person takes up while it is waited for;
and a click is only ever given to the layer for which it was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

Voxel = tuple[int, int, int]
_RESTING = "pan_zoom"


class ClickPicker(QObject):
    """Gives clicks to a function, as voxels (z, y, x) of a layer, while the layer's brush rests.

    Escape, another tool in hand, or the end of the layer ends the waiting; `given_up` then tells so.
    """

    given_up = Signal()

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Labels | None = None
        self._then: Callable[[Voxel], None] | None = None
        self._again = False
        self._mode: Any = None
        self._escapes: list[tuple[Any, Any]] = []
        # The tool comes back when the click is over: the layer's own handlers see it after ours.
        self._after = QTimer(self)
        self._after.setSingleShot(True)
        self._after.setInterval(0)
        self._after.timeout.connect(self._give_back)

    @property
    def waiting(self) -> bool:
        """Whether a click is waited for."""
        return self._then is not None

    def once(self, layer: Labels, then: Callable[[Voxel], None]) -> None:
        """Give the next click to `then`."""
        self._start(layer, then, again=False)

    def always(self, layer: Labels, then: Callable[[Voxel], None]) -> None:
        """Give every click to `then`, until `stop`."""
        self._start(layer, then, again=True)

    def stop(self) -> None:
        """Wait for no click any more, and give the brush back."""
        self._let_go()
        self._after.stop()
        self._give_back()

    def _start(self, layer: Labels, then: Callable[[Voxel], None], *, again: bool) -> None:
        self.stop()
        self._layer, self._then, self._again, self._mode = layer, then, again, layer.mode
        layer.mode = _RESTING
        self._viewer.layers.selection.active = layer
        self._viewer.mouse_drag_callbacks.append(self._on_mouse)
        self._viewer.layers.events.removed.connect(self._on_removed)
        layer.events.mode.connect(self._on_mode)
        layer.events.editable.connect(self._on_mode)
        # A layer's own Escape comes before the viewer's.
        self._escapes = [
            (owner, owner.bind_key("Escape", self._on_escape, overwrite=True))
            for owner in (layer, self._viewer)
        ]

    def _let_go(self) -> None:
        if self._then is None or self._layer is None:
            return
        self._then = None
        self._viewer.mouse_drag_callbacks.remove(self._on_mouse)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._layer.events.mode.disconnect(self._on_mode)
        self._layer.events.editable.disconnect(self._on_mode)
        for owner, usual in self._escapes:
            owner.bind_key("Escape", usual, overwrite=True)
        self._escapes = []

    def _give_back(self) -> None:
        layer, self._layer = self._layer, None
        mode, self._mode = self._mode, None
        if layer is not None and mode is not None and layer in self._viewer.layers and layer.editable:
            layer.mode = mode

    def _give_up(self, *, brush: bool) -> None:
        if not brush:
            self._mode = None
        self.stop()
        self.given_up.emit()

    def _on_escape(self, _owner: Any = None) -> None:
        self._give_up(brush=True)

    def _on_mode(self, _event: Any = None) -> None:
        # Another tool was taken up, or a run writes into the layer.
        if self._layer is not None and (self._layer.mode != _RESTING or not self._layer.editable):
            self._give_up(brush=False)

    def _on_removed(self, event: Any) -> None:
        if event.value is self._layer:
            self._give_up(brush=False)

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
