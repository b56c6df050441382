"""Fix from strokes: what is painted from now on corrects the structure around it, once a person has seen how.

What holds here: only strokes that were painted since, one after the other, count, and not those that were undone; an
answer is shown only while the labels are still those that it was found for, and taken back when they change; and
accepting is one undo step above the strokes, which stay what they are, ordinary edits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject

from napari_transunet.annotation.corrections import Correction, Scope, finished
from napari_transunet.annotation.stroke_correction import BACKGROUND, box_around, correct_from_strokes
from napari_transunet.errors import InputError
from napari_transunet.viewer.layers.event_links import EventLinks
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
from napari_transunet.viewer.widgets.keys import KeyBindings
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_transunet.viewer.review.click_picker import ClickPicker
    from napari_transunet.viewer.review.correction_controller import CorrectionController
    from napari_transunet.viewer.review.correction_panel import CorrectionPanel, CorrectionRequest
    from napari_transunet.viewer.review.overlay_layers import OverlayLayers
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.sessions.results import Result

_ASK = "Paint a few strokes of the organ, or erase some; then press Preview (Enter)."


class StrokeController(QObject):
    """Collects strokes, previews what follows from them, and accepts that, as the panel of tools asks."""

    def __init__(
        self,
        model: ReviewModel,
        corrections: CorrectionController,
        panel: CorrectionPanel,
        overlays: OverlayLayers,
        clicks: ClickPicker,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._model = model
        self._corrections = corrections
        self._panel = panel
        self._overlays = overlays
        self._clicks = clicks
        self._tasks = BackgroundTasks(self)
        self._result: Result | None = None
        self._by_hand_too = False
        self._strokes: list[list[Any]] = []
        self._found: tuple[Correction, frozenset[int]] | None = None
        self._keys = KeyBindings()
        self._links = EventLinks()
        model.followed.connect(self.stop)
        panel.wanted.connect(self._on_wanted)
        panel.preview_wanted.connect(self.preview)
        panel.accepted.connect(self.accept)
        panel.discarded.connect(self.discard)

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
            why = "These labels have no image whose edges could be followed."
        if why is not None or self._model.result is None:
            self._show(why or "")
            return
        self._result, self._by_hand_too = self._model.result, include_manual_edits
        layer = self._result.layer
        self._links.connect(self._on_paint, layer.events.paint)
        self._links.connect(self._on_drawn, layer.events.set_data)
        self._links.connect(self._bind_keys, layer.events.mode)
        self._model.viewer.layers.selection.active = layer
        self._bind_keys()
        self._show(_ASK)

    def stop(self) -> None:
        """Collect no strokes any more; those that were painted stay."""
        if self._result is None:
            return
        self._result = None
        self._links.clear()
        self._keys.release()
        self._strokes = []
        self._forget()
        self._panel.show_strokes(armed=self.armed, previewed=self.previewed)

    def detach(self) -> None:
        """Forget what is under way."""
        self.stop()
        self._tasks.drop()

    def preview(self) -> None:
        """Find what follows from the strokes and show it; changes nothing."""
        result, image = self._result, self._model.image
        if result is None or image is None:
            return
        if (why := self._model.disabled_reason) is not None:
            self._panel.status.setText(why)
            return
        result.undo.check_pending_strokes()  # a stroke that oversteps is cut back first
        layer, session = result.layer, result.session
        self._forget()
        strokes = self._strokes = still_done(layer, self._strokes)
        inner = stroke_box(atom for stroke in strokes for atom in stroke)
        if inner is None:
            self._panel.status.setText(f"No stroke changed a label yet. {_ASK}")
            return
        try:
            spacing = geometry_of(layer).spacing
            box = box_around(inner, layer.data.shape, spacing)
        except InputError as error:
            self._panel.status.setText(str(error))
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
                self._panel.status.setText("The labels were changed meanwhile; press Preview again.")
                return
            told = correction_sentence(found, self._model.names)
            if not found.changed:
                self._panel.status.setText(f"{told} Paint more strokes, or longer ones.")
                return
            self._found = (found, locked)
            self._overlays.show_preview(found, box)
            self._show(f"Preview: {told} Accept (Enter) or discard (Escape).")

        self._panel.status.setText("Working …")
        self._tasks.run(work, done, self._panel.status.setText, what="Fix from strokes", latest="strokes")

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
            self._show(f"Discarded; your strokes are still there. {_ASK}")
        elif self.armed:
            self.stop()
            self._panel.status.setText("Your strokes stay as you painted them.")

    # -- inside ---------------------------------------------------------------------------------------------

    def _on_wanted(self, request: CorrectionRequest) -> None:
        if request.tool != "strokes":
            return
        if self.armed:
            self.stop()
            self._panel.status.setText("Your strokes stay as you painted them.")
        else:
            self._clicks.cancel()
            self.start(include_manual_edits=request.include_manual_edits)

    def _show(self, sentence: str) -> None:
        self._panel.status.setText(sentence)
        self._panel.show_strokes(armed=self.armed, previewed=self.previewed)

    def _forget(self) -> None:
        """Drop the preview, and the answer that is still to come."""
        self._tasks.drop()
        self._overlays.show_preview(None)
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
            self._show("The labels were changed; press Preview again.")

    def _bind_keys(self, _event: Any = None) -> None:
        """Enter and Escape, on the layer and the viewer, but for napari's polygon, which needs them itself."""
        self._keys.release()
        if self._result is None or self._result.layer.mode == "polygon":
            return
        for owner in (self._result.layer, self._model.viewer):
            self._keys.override(owner, "Enter", self._on_enter)
            self._keys.override(owner, "Escape", self._on_escape)

    def _on_enter(self, _owner: Labels | Any = None) -> None:
        if self.previewed:
            self.accept()
        else:
            self.preview()

    def _on_escape(self, _owner: Labels | Any = None) -> None:
        self.discard()
