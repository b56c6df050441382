"""Fix from strokes: what is painted from now on corrects the structure around it, once a person has seen how.

What holds here: only strokes that were painted since, one after the other, count, and not those that were undone; an
answer is shown only while the labels are still those that it was found for, and taken back when they change; and
accepting is one undo step above the strokes, which stay what they are, ordinary edits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation.corrections import Correction, Scope, finished
from napari_transunet.annotation.stroke_correction import BACKGROUND, box_around, correct_from_strokes
from napari_transunet.errors import InputError
from napari_transunet.viewer.layers.layers import geometry_of, voxels_of
from napari_transunet.viewer.layers.undo import (
    TrimmedStroke,
    history_of,
    is_stroke,
    labels_before,
    still_done,
    stroke_box,
)
from napari_transunet.viewer.review.correction_controller import correction_sentence
from napari_transunet.viewer.widgets.messages import error_sentence
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_transunet.viewer.review.correction_controller import CorrectionController
    from napari_transunet.viewer.review.overlay_layers import OverlayLayers
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.sessions.results import Result

_ASK = "Paint a few strokes of the organ, or erase some; then press Preview (Enter)."


class StrokeController(QObject):
    """Emits `message` with a sentence, and `changed` where `armed` or `previewed` is another."""

    message = Signal(str)
    changed = Signal()

    def __init__(
        self,
        model: ReviewModel,
        corrections: CorrectionController,
        maps: OverlayLayers,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._model = model
        self._corrections = corrections
        self._maps = maps
        self._tasks = BackgroundTasks(self)
        self._result: Result | None = None
        self._by_hand_too = False
        self._strokes: list[list[Any]] = []
        self._found: tuple[Correction, frozenset[int]] | None = None
        self._keys: list[tuple[Any, str, Any]] = []
        model.followed.connect(self.stop)

    @property
    def armed(self) -> bool:
        """Whether strokes are collected."""
        return self._result is not None

    @property
    def previewed(self) -> bool:
        """Whether there is something to accept."""
        return self._found is not None

    def start(self, *, include_manual_edits: bool) -> None:
        """Collect strokes from now on."""
        self.stop()
        why = self._model.disabled_reason
        if why is None and self._model.image is None:
            why = "These labels lie on no image whose edges could be followed."
        if why is not None or self._model.result is None:
            self.message.emit(why or "")
            self.changed.emit()
            return
        self._result, self._by_hand_too = self._model.result, include_manual_edits
        layer = self._result.layer
        layer.events.paint.connect(self._on_paint)
        layer.events.set_data.connect(self._on_drawn)
        layer.events.mode.connect(self._bind_keys)
        self._model.viewer.layers.selection.active = layer
        self._bind_keys()
        self.message.emit(_ASK)
        self.changed.emit()

    def stop(self) -> None:
        """Collect no strokes any more; those that were painted stay."""
        if self._result is None:
            return
        layer, self._result = self._result.layer, None
        layer.events.paint.disconnect(self._on_paint)
        layer.events.set_data.disconnect(self._on_drawn)
        layer.events.mode.disconnect(self._bind_keys)
        self._release_keys()
        self._strokes = []
        self._forget()
        self.changed.emit()

    def detach(self) -> None:
        """Forget what is under way."""
        self.stop()
        self._tasks.drop()

    def preview(self) -> None:
        """Find what follows from the strokes and show it; changes nothing."""
        result, image = self._result, self._model.image
        if result is None or image is None or self._refused():
            return
        result.undo.check_pending_strokes()  # a stroke that oversteps is cut back first
        layer, session = result.layer, result.session
        self._forget()
        strokes = self._strokes = still_done(layer, self._strokes)
        inner = stroke_box(atom for stroke in strokes for atom in stroke)
        if inner is None:
            self.message.emit(f"No stroke changed a label yet. {_ASK}")
            return
        try:
            spacing = geometry_of(layer).spacing
            box = box_around(inner, layer.data.shape, spacing)
        except InputError as error:
            self.message.emit(str(error))
            return
        data, voxels, locked, seen = layer.data, voxels_of(image), session.locked, history_of(layer)
        include_manual_edits = self._by_hand_too

        def work() -> Correction:
            present = data[box].copy()
            before = present.copy()
            part = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, box, strict=True))
            before[part] = labels_before(strokes, inner, present[part])
            drawn = np.where(present != before, present.astype(np.int32), 0)
            drawn[(present != before) & (present == 0)] = BACKGROUND
            fixed = np.isin(present, list(locked))
            session.allocate_baseline()
            if not include_manual_edits:
                fixed |= session.manual_edit_mask(present, box)
            wanted = correct_from_strokes(np.asarray(voxels[box]), before, drawn, spacing, fixed=fixed)
            return finished(data, box, wanted, Scope((), locked=locked))

        def done(found: Correction) -> None:
            if self._result is not result:
                return
            if history_of(layer) != seen or session.locked != locked:
                self.message.emit("The labels were changed meanwhile; press Preview again.")
                return
            told = correction_sentence(found, self._model.names)
            if not found.changed:
                self.message.emit(f"{told} Paint more strokes, or longer ones.")
                return
            self._found = (found, locked)
            self._maps.show_preview(found, box)
            self.message.emit(f"Preview: {told} Accept (Enter) or discard (Escape).")
            self.changed.emit()

        self.message.emit("Working …")
        self._tasks.run(work, done, self._fail, latest="strokes")

    def accept(self) -> None:
        """Make what is previewed so: one undo step."""
        result, found = self._result, self._found
        if result is None or found is None:
            return
        self.stop()
        self._corrections.apply(result, *found)

    def discard(self) -> None:
        """Take the preview back and go on collecting; without a preview, stop."""
        if self._found is not None:
            self._forget()
            self.message.emit(f"Discarded; your strokes are still there. {_ASK}")
            self.changed.emit()
        elif self.armed:
            self.stop()
            self.message.emit("Your strokes stay as you painted them.")

    # -- inside ---------------------------------------------------------------------------------------------

    def _refused(self) -> bool:
        why = self._model.disabled_reason
        if why is not None:
            self.message.emit(why)
        return why is not None

    def _fail(self, error: Exception) -> None:
        self.message.emit(error_sentence(error, "Fix from strokes"))

    def _forget(self) -> None:
        """Drop the preview, and the answer that is still to come."""
        self._tasks.drop()
        self._maps.show_preview(None)
        self._found = None

    def _on_paint(self, event: Any) -> None:
        if is_stroke(event.value) or isinstance(event.value, TrimmedStroke):
            self._strokes.append(event.value)
        else:
            self._strokes = []  # a tool or a run wrote: what was painted before is part of the labels
        self._outdate()

    def _on_drawn(self, _event: Any = None) -> None:
        """Another stroke, or undo: what is previewed was found for other labels."""
        if self._result is None or self._found is None:
            return
        data, (found, _) = self._result.layer.data, self._found
        if not all(np.array_equal(data[write.index], write.before) for write in found.writes) or (
            still_done(self._result.layer, self._strokes) != self._strokes
        ):
            self._outdate()

    def _outdate(self) -> None:
        if self._found is not None:
            self._forget()
            self.message.emit("The labels were changed; press Preview again.")
            self.changed.emit()

    def _bind_keys(self, _event: Any = None) -> None:
        """Enter and Escape, on the layer and the viewer, but for napari's polygon, which needs them itself."""
        self._release_keys()
        if self._result is None or self._result.layer.mode == "polygon":
            return
        for owner in (self._result.layer, self._model.viewer):
            for key, act in (("Enter", self._on_enter), ("Escape", self._on_escape)):
                self._keys.append((owner, key, owner.bind_key(key, act, overwrite=True)))

    def _release_keys(self) -> None:
        for owner, key, usual in reversed(self._keys):
            owner.bind_key(key, usual, overwrite=True)
        self._keys = []

    def _on_enter(self, _owner: Labels | Any = None) -> None:
        if self.previewed:
            self.accept()
        else:
            self.preview()

    def _on_escape(self, _owner: Labels | Any = None) -> None:
        self.discard()
