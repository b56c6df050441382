"""Holds strokes to a range of image values and away from locked organs, which the status bar tells meanwhile.

napari tells of a stroke when it is done. One that oversteps is taken back and written again without what it may not
change; that is one step for the person's undo, as the stroke was, and redo does not bring the refused one back.

What holds here: only strokes are held to the rules, never what a run, a tool or a script writes; whatever fails, a
stroke is either as it was drawn or as it may be; and the image is never computed here, so that a lazy one has no range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from napari_transunet.annotation.corrections import allowed_stroke
from napari_transunet.annotation.session import Write
from napari_transunet.viewer.layers.undo import (
    TrimmedStroke,
    are_newest,
    forget_undone,
    is_stroke,
    labels_before,
    stroke_box,
    take_back,
    write_as_one_step,
)
from napari_transunet.viewer.widgets.messages import organ, organs, value_text
from napari_transunet.viewer.widgets.qt_helpers import single_shot

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari.layers import Labels
    from numpy.typing import NDArray

    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.sessions.results import Result


@dataclass(frozen=True)
class BlockedVoxels:
    """What a stroke was not let change: voxels in all, those outside of the range, and the locked organs it met."""

    voxels: int
    outside: int
    locked: frozenset[int]


class PaintConstraint(QObject):
    """Follows one labels layer. Emits `blocked` with a `BlockedVoxels` where a stroke may not change all that it did.

    Attributes
    ----------
    between : lowest and highest image value that may be painted on; None for all.
    locked : labels that no stroke may give a voxel or take one from.
    """

    blocked = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.between: tuple[float, float] | None = None
        self.locked: frozenset[int] = frozenset()
        self._result: Result | None = None
        self._image: NDArray[Any] | None = None
        self._working = False
        self._strokes: list[Any] = []
        # napari tells of a fill before it writes it, so strokes are looked at when the event is over.
        self._soon = single_shot(self, 0, self.check)

    def follow(self, result: Result | None, image: NDArray[Any] | None) -> None:
        """Watch the layer of this result, painted on an image of the same shape (None where it is not in memory)."""
        if self._result is not None:
            self.check()
            self._result.layer.events.paint.disconnect(self._on_paint)
            self._result.undo.call_before_write(self.check, on=False)
        self._strokes = []
        self._result, self._image = result, image
        if result is not None:
            result.layer.events.paint.connect(self._on_paint)
            result.undo.call_before_write(self.check)

    def check(self) -> None:
        """Hold the strokes that were made since to the rules; called by itself when the event loop is free."""
        strokes, self._strokes = self._strokes, []
        if self._result is None or not strokes or not self._result.layer.editable:
            return
        layer = self._result.layer
        strokes = forget_undone(layer, strokes)
        if not strokes or not are_newest(layer, strokes):
            return
        self._working = True
        try:
            blocked = self._hold(layer, strokes)
        finally:
            self._working = False
        if blocked is not None:
            self.blocked.emit(blocked)

    def _hold(self, layer: Labels, strokes: list[Any]) -> BlockedVoxels | None:
        box = stroke_box(atom for stroke in strokes for atom in stroke)
        if box is None:
            return None
        # What may fail comes before the stroke is taken back.
        image = self._image[box] if self._image is not None else None
        wanted = layer.data[box].copy()
        before = labels_before(strokes, box, wanted)
        changed = before != wanted
        between, locked = self.between if image is not None else None, self.locked
        allowed = allowed_stroke(before, wanted, image=image, between=between, locked=locked)
        refused = allowed != wanted
        if not refused.any():
            return None
        take_back(layer, len(strokes))
        write_as_one_step(layer, [Write(box, before, allowed)], TrimmedStroke)
        outside = (
            int(np.count_nonzero(changed & ~((image >= between[0]) & (image <= between[1]))))
            if image is not None and between is not None
            else 0
        )
        met = {int(value) for side in (before, wanted) for value in np.unique(side[refused])} & locked
        return BlockedVoxels(int(np.count_nonzero(refused)), outside, frozenset(met))

    def _on_paint(self, event: Any) -> None:
        if self._working or not is_stroke(event.value):
            return
        if self.between is not None or self.locked:
            self._strokes.append(event.value)
            self._soon.start()


class CursorReadout:
    """Tells what strokes cannot change, while labels are painted."""

    def __init__(self, model: ReviewModel, constraint: PaintConstraint) -> None:
        self._model = model
        self._constraint = constraint
        self._label: QLabel | None = None

    @property
    def text(self) -> str:
        """What the status bar says."""
        return self._label.text() if self._label is not None else ""

    def attach(self, dock: QWidget) -> None:
        """Say it in the status bar of the window around this dock, as long as the dock is open."""
        window = dock.window()
        bar = window.statusBar() if isinstance(window, QMainWindow) else None
        if self._label is not None or bar is None:
            return
        self._label = QLabel(bar)
        self._label.setObjectName("cursor_readout")
        bar.addPermanentWidget(self._label)
        self._model.viewer.cursor.events.position.connect(self._look)

    def detach(self) -> None:
        """Take it out of the status bar."""
        if self._label is not None:
            self._model.viewer.cursor.events.position.disconnect(self._look)
            self._label.hide()
            self._label.deleteLater()
            self._label = None

    def _look(self, _event: Any = None) -> None:
        if self._label is None:
            return
        viewer, layer = self._model.viewer, self._model.layer
        shown = layer is not None and viewer.layers.selection.active is layer and viewer.dims.ndisplay == 2
        text = ""
        if shown and layer is not None and layer.mode != "pan_zoom":
            names, rules = self._model.names, self._constraint
            locked = [names.get(value, f"label {value}") for value in sorted(rules.locked)]
            text = held_back(rules.between, locked)
        self._label.setText(text)


def held_back(between: tuple[float, float] | None, locked: Collection[str]) -> str:
    """What the brush does not change: values outside of a range, and locked organs."""
    told = (
        [f"brush: only {value_text(between[0])} to {value_text(between[1])}"] if between is not None else []
    )
    if locked:
        told.append(f"locked: {organ(organs(list(locked), limit=4))}")
    return ", ".join(told)
