"""Holds strokes to a range of image values and away from locked organs.

napari tells of a stroke when it is done. One that oversteps is undone and written again without what it may not change;
that is one step for the person's undo, as the stroke was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.annotation.corrections import allowed_stroke
from napari_transunet.annotation.session import Write
from napari_transunet.viewer.undo import is_newest, stroke_box, write_as_one_step

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
        self._strokes: list[Any] = []
        # napari tells of a fill before it writes it, so strokes are looked at when the event is over.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self.check)

    def follow(self, layer: Labels | None, image: NDArray[Any] | None) -> None:
        """Watch this layer, painted on an image of the same shape."""
        self._strokes = []
        if self._layer is not None:
            self._layer.events.paint.disconnect(self._on_paint)
        self._layer, self._image = layer, image
        if layer is not None:
            layer.events.paint.connect(self._on_paint)

    def check(self) -> None:
        """Hold the strokes that were made since to the rules; called by itself when the event loop is free."""
        layer, strokes = self._layer, self._strokes
        self._strokes = []
        if layer is None or not strokes or not layer.editable or not is_newest(layer, strokes[-1]):
            return
        box = stroke_box(atom for stroke in strokes for atom in stroke)
        if box is None:
            return
        wanted = layer.data[box].copy()
        self._working = True
        try:
            for _ in strokes:
                layer.undo()
            image = self._image[box] if self._image is not None else None
            before = layer.data[box].copy()
            allowed = allowed_stroke(before, wanted, image=image, between=self.between, locked=self.locked)
            refused = int(np.count_nonzero(allowed != wanted))
            if refused:
                write_as_one_step(layer, [Write(box, before, allowed)])
            else:
                for _ in strokes:
                    layer.redo()
        finally:
            self._working = False
        if refused:
            self.held.emit(refused)

    def _on_paint(self, event: Any) -> None:
        if not self._working and (self.between is not None or self.locked):
            self._strokes.append(event.value)
            self._soon.start()
