"""Clicks in the image that mean something other than painting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

Voxel = tuple[int, int, int]


class ClickCatcher(QObject):
    """Gives clicks to a function, as voxels (z, y, x) of a layer, while the layer's brush rests."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Labels | None = None
        self._then: Callable[[Voxel], None] | None = None
        self._again = False
        self._mode: Any = None

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
        if self._then is None:
            return
        self._then = None
        self._viewer.mouse_drag_callbacks.remove(self._on_mouse)
        layer, self._layer = self._layer, None
        if layer is not None and layer in self._viewer.layers and self._mode is not None and layer.editable:
            layer.mode = self._mode

    def _start(self, layer: Labels, then: Callable[[Voxel], None], *, again: bool) -> None:
        self.stop()
        self._layer, self._then, self._again, self._mode = layer, then, again, layer.mode
        layer.mode = "pan_zoom"
        self._viewer.mouse_drag_callbacks.append(self._on_mouse)

    def _on_mouse(self, _viewer: Any, event: Any) -> None:
        layer, then = self._layer, self._then
        if layer is None or then is None or event.type != "mouse_press" or event.button not in (None, 1):
            return
        found = layer.world_to_data(event.position)[-3:]
        voxel = tuple(round(float(at)) for at in found)
        if any(not 0 <= at < size for at, size in zip(voxel, layer.data.shape, strict=True)):
            return
        if not self._again:
            self.stop()
        then((voxel[0], voxel[1], voxel[2]))
