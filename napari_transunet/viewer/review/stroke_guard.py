"""Holds strokes to a range of image values and away from locked organs.

napari tells of a stroke when it is done. One that oversteps is undone and written again without what it may not change;
that is one step for the person's undo, as the stroke was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation.corrections import allowed_stroke
from napari_transunet.annotation.session import Write
from napari_transunet.viewer.undo import stroke_boxes, write_as_one_step

if TYPE_CHECKING:
    from napari.layers import Labels
    from numpy.typing import NDArray


class StrokeGuard(QObject):
    """Follows one labels layer. Emits `held` with how many voxels of a stroke were not changed.

    Attributes
    ----------
    between : lowest and highest image value that may be painted on; None for all.
    locked : labels that no stroke may give a voxel or take one from.
    """

    held = Signal(int)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.between: tuple[float, float] | None = None
        self.locked: frozenset[int] = frozenset()
        self._layer: Labels | None = None
        self._image: NDArray[Any] | None = None
        self._working = False

    def follow(self, layer: Labels | None, image: NDArray[Any] | None) -> None:
        """Watch this layer, painted on an image of the same shape."""
        if self._layer is not None:
            self._layer.events.paint.disconnect(self._on_paint)
        self._layer, self._image = layer, image
        if layer is not None:
            layer.events.paint.connect(self._on_paint)

    def _on_paint(self, event: Any) -> None:
        layer = self._layer
        if layer is None or self._working or not layer.editable or not (self.between or self.locked):
            return
        boxes = stroke_boxes(event.value)
        if boxes is None:
            return
        after = [(box, layer.data[box].copy()) for box in boxes]
        self._working = True
        try:
            layer.undo()
            writes, refused = [], 0
            for box, wanted in after:
                before = layer.data[box].copy()
                image = self._image[box] if self._image is not None else None
                allowed = allowed_stroke(
                    before, wanted, image=image, between=self.between, locked=self.locked
                )
                refused += int(np.count_nonzero(allowed != wanted))
                writes.append(Write(box, before, allowed))
            if not refused:
                layer.redo()
                return
            write_as_one_step(layer, writes)
        finally:
            self._working = False
        self.held.emit(refused)
