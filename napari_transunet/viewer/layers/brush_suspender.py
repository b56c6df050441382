"""The brush rests while the slider stands outside of the labels, where napari's own would raise an IndexError."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.slice_numbers import is_outside

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

_WRITING = ("paint", "erase", "fill", "polygon")


class BrushSuspender(QObject):
    """Follows one labels layer: takes the tool out of hand outside of it, and gives it back inside.

    Emits `suspended` when it takes one, and where one is taken up outside.
    """

    suspended = Signal()

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Labels | None = None
        self._mode: Any = None
        self._links = EventLinks()

    def follow(self, layer: Labels | None) -> None:
        """Watch this layer from now on, or none."""
        if layer is self._layer:
            return
        if self._layer is not None:
            self._give_back()
        self._links.clear()
        self._layer = layer
        if layer is not None:
            self._links.connect(self._look, layer.events.mode, self._viewer.dims.events.current_step)
            self._look()

    def _look(self, _event: Any = None) -> None:
        layer = self._layer
        if layer is None or layer.ndim != 3:
            return
        if not is_outside(self._viewer, layer):
            self._give_back()
        elif str(layer.mode) in _WRITING:
            mode = layer.mode
            layer.mode = "pan_zoom"
            self._mode = mode
            self.suspended.emit()

    def _give_back(self) -> None:
        mode, self._mode = self._mode, None
        layer = self._layer
        if mode is not None and layer is not None and layer.editable and layer.mode == "pan_zoom":
            layer.mode = mode
