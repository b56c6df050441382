"""The tools of the correction kit on the labels that are followed: off the GUI thread, one undo step each.

What holds here: what a tool found is applied only to labels and locks that are still what it saw, and a tool for the
slice in view works only while one is in view.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation import corrections
from napari_transunet.annotation.corrections import Correction, Scope
from napari_transunet.annotation.interpolation import interpolate
from napari_transunet.annotation.slice_registration import SliceRegistration
from napari_transunet.errors import InputError, VolumeError
from napari_transunet.viewer.anatomy.windows import is_ct
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, volume_of, voxels_of
from napari_transunet.viewer.layers.undo import AlongStep, write_as_one_step
from napari_transunet.viewer.sessions.paint_constraint import (
    BlockedVoxels,
    PaintConstraint,
    blocked_sentence,
)
from napari_transunet.viewer.widgets.messages import count, organ, reopened_sentence, value_text
from napari_transunet.viewer.widgets.tasks import BackgroundTasks, emit
from napari_transunet.volumes.intensity import sampled
from napari_transunet.volumes.label_values import values_in

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_transunet.viewer.review.click_picker import ClickPicker
    from napari_transunet.viewer.review.correction_panel import CorrectionPanel, CorrectionRequest
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.sessions.results import Result


_PACE = 0.2  # s between two changes of the progress bar
_COPIES = ("above", "below")
_FEW = 20  # voxels of an organ from which its range of values cannot be estimated
_MOST_DECIMALS = 9
_FAR = 4.0  # robust standard deviations from the median beyond which voxels are no part of the organ


class CorrectionController(QObject):
    """Uses the tools that are asked for in the panel, and says there what they did, or why they did nothing.

    Attributes
    ----------
    between : lowest and highest image value on which the brush paints in the labels that are followed; None for all.
    """

    _registered = Signal(object, float, float)

    def __init__(
        self, model: ReviewModel, panel: CorrectionPanel, clicks: ClickPicker, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._model = model
        self._panel = panel
        self._clicks = clicks
        self._tasks = BackgroundTasks(self)
        self._stop: threading.Event | None = None
        """Of the tool that works; None while none does."""
        self._registrations: WeakKeyDictionary[Image, SliceRegistration] = WeakKeyDictionary()
        self.between: tuple[float, float] | None = None
        self._constraint: PaintConstraint | None = None
        model.followed.connect(self._on_followed)
        panel.wanted.connect(self._on_wanted)
        panel.progress.cancelled.connect(self.cancel)
        self._registered.connect(self._on_registered)
        panel.range_changed.connect(self._on_range)
        panel.range_suggestion_wanted.connect(self.suggest_range)

    @property
    def busy(self) -> bool:
        """Whether a tool is working."""
        return self._stop is not None

    @property
    def locked(self) -> frozenset[int]:
        """The organs that are locked in the labels that are followed."""
        return self._constraint.locked if self._constraint is not None else frozenset()

    def detach(self) -> None:
        """Forget what is under way."""
        self._tasks.drop()
        self._end()

    def cancel(self) -> None:
        """End the tool that works; it changes nothing."""
        if self.busy:
            self.detach()
            self._panel.status.setText("Cancelled; nothing was changed.")

    def correct(
        self,
        request: CorrectionRequest,
        voxel: tuple[int, int, int] | None = None,
        along: AlongStep | None = None,
    ) -> None:
        """Use a tool: one undo step.

        `voxel` is the one that was clicked, for the tool that needs it; `along` as for `apply`.
        """
        by_slice = request.tool in _COPIES or not (request.whole_volume or request.tool == "interpolate")
        why = self._model.no_slice_reason if by_slice else self._model.disabled_reason
        if why is not None or self._model.result is None:
            self._panel.status.setText(why or "")
            return
        if self.busy:
            self._panel.status.setText("The last tool is still working.")
            return
        result = self._model.result
        layer, session = result.layer, result.session
        chosen = int(layer.selected_label)
        if chosen == 0 and not request.all_organs:
            self._panel.status.setText("The brush paints background; pick an organ first.")
            return
        named = tuple(sorted(self._model.names)) if request.all_organs else (chosen,)
        data, index, reviewed = layer.data, self._model.slice_in_view, tuple(session.reviewed)
        try:
            job = _job(request, session.axis, index, voxel, upward=self._model.numbers.upward)
            spacing = geometry_of(layer).spacing
        except InputError as error:
            self._panel.status.setText(str(error))
            return
        plane = (
            None
            if request.whole_volume or request.tool in ("interpolate", *_COPIES)
            else (session.axis, index)
        )

        registration = self._registration(session.axis, data.shape) if request.tool == "interpolate" else None
        seen: list[frozenset[int]] = []

        def work() -> Correction:
            # What is painted meanwhile is noticed when the change is applied.
            copy = data.copy()
            organs = named or tuple(values_in(copy))
            session.allocate_baseline()
            seen.append(session.locked)
            protected = None if request.include_manual_edits else session.manual_edit_mask(copy)
            scope = Scope(organs, plane, seen[0], protected)
            if request.tool != "interpolate":
                return job(copy, spacing, scope)
            others = tuple(axis for axis in range(3) if axis != session.axis)
            painted_or_erased = np.isin(copy, organs) | np.isin(session.found, organs)
            by_hand = session.manual_edit_mask(copy) & painted_or_erased
            right = {*np.flatnonzero(by_hand.any(axis=others)).tolist(), *reviewed}
            if registration is not None and len(right) > 1:
                self._register(registration, min(right), max(right), stop)
            return job(copy, spacing, scope, slices=right, found=session.found, registration=registration)

        def done(found: Correction) -> None:
            self._end()
            self.apply(result, found, seen[0], along, interpolated=request.tool == "interpolate")

        def failed(sentence: str) -> None:
            self._end()
            self._panel.status.setText(sentence)

        stop = self._stop = threading.Event()
        self._panel.status.setText("Working …")
        self._panel.progress.begin()
        self._tasks.run(work, done, failed, what="The tool")

    def lock(self, value: int, on: bool) -> None:
        """Lock an organ against change, or let it change again."""
        if self._model.result is None:
            return
        session = self._model.result.session
        session.locked = session.locked | {value} if on else session.locked - {value}
        self._model.save_soon()

    def suggest_range(self) -> None:
        """Find which values the organ that the brush paints has, mean ± 2 SD without what was dabbed astray."""
        result, image = self._model.result, self._model.image
        if result is None or image is None:
            self._panel.status.setText("There is no image to take values from.")
            return
        layer, axis, index = result.layer, result.session.axis, self._model.slice_in_view
        at: list[Any] = [slice(None)] * 3
        at[axis] = index
        chosen, labels, voxels = int(layer.selected_label), layer.data, voxels_of(image)
        places: tuple[tuple[Any, ...], ...] = (tuple(at), (slice(None, None, 4),) * 3)
        for place in places:
            values = voxels[place][labels[place] == chosen]
            values = values[np.isfinite(values)]
            if values.size > _FEW:
                low, high = _usual_range(values)
                self._panel.status.setText(f"The organ's values: {value_text(low)} to {value_text(high)}.")
                self._panel.set_range(low, high)
                return
        self._panel.status.setText("That organ has no voxels yet; paint a little of it first.")

    def apply(
        self,
        result: Result,
        found: Correction,
        locked: frozenset[int],
        along: AlongStep | None = None,
        *,
        interpolated: bool = False,
    ) -> None:
        """Make what was found so, unless labels or locks are not those that it was found for: one undo step.

        `along` is done with it, and undone and done again with it; not where a lock kept the tool from anything.
        """
        layer = result.layer
        if self._model.result is not result or not layer.editable:
            return
        result.undo.check_pending_strokes()
        same = all(np.array_equal(layer.data[write.index], write.before) for write in found.writes)
        if not same or result.session.locked - locked:
            self._panel.status.setText("The labels were changed meanwhile; use the tool again.")
            return
        again = ""
        if found.left_locked:
            along = None
        if along is not None:
            along.redo()
        if found.changed:
            step = result.session.record_correction(found.writes, interpolated=interpolated)
            mark = write_as_one_step(layer, found.writes)
            result.undo.add(mark, step)
            if along is not None:
                result.undo.add(mark, along)
            again = reopened_sentence(step.reopened, self._model.numbers.number)
            self._model.save_soon()
            self._model.update_overview()
            self._model.slice_changed.emit()  # its mark as reviewed may be gone
        sentences = (correction_sentence(found, self._model.names), again)
        self._panel.status.setText(" ".join(part for part in sentences if part))

    def _register(
        self, registration: SliceRegistration, first: int, last: int, stop: threading.Event
    ) -> None:
        """Register slices with one another, and tell how far that is; not on the GUI thread."""
        began = told = time.monotonic()
        for done, total in registration.register(first, last):
            if stop.is_set():
                raise InputError("The tool was cancelled.")
            now = time.monotonic()
            if now - told > _PACE:
                told = now
                emit(self, "_registered", stop, done / total, (now - began) * (total - done) / done)

    def _on_registered(self, stop: threading.Event, done: float, left: float) -> None:
        if stop is self._stop:
            self._panel.status.setText("Working … The image's slices are registered with one another, once.")
            self._panel.progress.show_progress(done, left)

    def _end(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._stop = None
        self._panel.progress.end()

    def _registration(self, axis: int, shape: tuple[int, ...]) -> SliceRegistration | None:
        """Of the slices of the image, as long as which it is kept; None where none of that shape is in memory."""
        image = self._model.image
        if image is None or is_lazy(image):
            return None
        try:
            volume = volume_of(image)
        except VolumeError:
            return None
        if volume.data.shape != shape:
            return None
        known = self._registrations.get(image)
        if known is None or known.axis != axis or known.data is not volume.data:
            known = self._registrations[image] = SliceRegistration(volume, axis)
        return known

    def _on_wanted(self, request: CorrectionRequest) -> None:
        layer = self._model.layer
        if request.tool == "strokes" or layer is None:
            return
        if request.tool != "clicked":
            self.correct(request)
        elif (why := self._model.disabled_reason) is not None:
            self._panel.status.setText(why)
        else:
            self._clicks.once(
                layer,
                lambda voxel: self.correct(request, voxel),
                on_cancel=lambda: self._panel.status.setText("Cancelled: nothing was changed."),
            )
            self._panel.status.setText("Click in the image on the part to keep; Escape cancels.")

    def _on_range(self, between: tuple[float, float] | None) -> None:
        self.between = between
        if self._constraint is not None:
            self._constraint.between = between

    def _on_blocked(self, blocked: BlockedVoxels) -> bool:
        status = self._panel.status
        status.setText(blocked_sentence(blocked, self._model.names, self.between))
        around = status.parentWidget()  # the dock, which may lie behind another
        return around is not None and not around.visibleRegion().isEmpty()

    def _on_followed(self) -> None:
        result, image = self._model.result, self._model.image
        if self._constraint is not None:
            self._constraint.let_go()
        self._constraint = result.constraint if result is not None else None
        if self._constraint is None:
            return
        voxels = None if image is None or is_lazy(image) else voxels_of(image)
        if image is not None and voxels is not None:
            hounsfield = is_ct(image)
            self._panel.set_values(hounsfield=hounsfield, decimals=0 if hounsfield else _decimals(voxels))
        self._constraint.image, self._constraint.between = voxels, self.between
        self._constraint.say = self._on_blocked


def _decimals(voxels: NDArray[Any]) -> int:
    """How many decimals tell some thousand values of an image apart."""
    if voxels.dtype.kind != "f":
        return 0
    sample = sampled(voxels).astype(np.float64)
    span = float(sample.max() - sample.min()) if sample.size else 0.0
    return min(max(3 - math.floor(math.log10(span)), 0), _MOST_DECIMALS) if span else 0


def _usual_range(values: NDArray[Any]) -> tuple[float, float]:
    """Mean ± 2 SD of values, without those that lie far from the median."""
    values = np.asarray(values, np.float64)
    middle = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    if spread:
        values = values[np.abs(values - middle) <= _FAR * spread]
    mean, sd = float(values.mean()), float(values.std())
    return mean - 2 * sd, mean + 2 * sd


def correction_sentence(found: Correction, names: Mapping[int, str]) -> str:
    """What a tool did."""
    left = []
    if found.left_by_hand:
        left.append(f"{count(found.left_by_hand, 'voxel')} edited by hand")
    if found.left_locked:
        left.append(f"{count(found.left_locked, 'voxel')} of locked organs")
    stayed = f" Left alone: {' and '.join(left)}." if left else ""
    if not found.changed:
        return f"Nothing to change.{stayed}"
    parts = [
        f"{organ(names.get(value, f'label {value}'))} {number:+,}"
        for value, number in found.per_organ.items()
    ]
    shown = ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    return f"{count(found.changed, 'voxel')} in {count(found.slices, 'slice')} changed: {shown}.{stayed}"


def _job(
    request: CorrectionRequest, axis: int, index: int, voxel: tuple[int, int, int] | None, *, upward: int
) -> Callable[..., Correction]:
    """The tool with all that it needs but labels, spacing and scope."""
    sizes = dict(request.sizes)
    if request.tool == "clicked":
        if voxel is None:
            raise InputError("Click in the image on the part to keep.")
        return partial(corrections.keep_component_at, voxel=voxel)
    if request.tool == "holes":
        along = axis if sizes.get("each_slice") and request.whole_volume else None
        return partial(corrections.fill_holes, along=along)
    if request.tool == "interpolate":
        return partial(interpolate, axis=axis)
    if request.tool in _COPIES:
        source = index + (upward if request.tool == "above" else -upward)
        return partial(corrections.copy_slice, axis=axis, source=source, target=index)
    tools: Mapping[str, Callable[..., Correction]] = {
        "largest": corrections.keep_largest,
        "islands": corrections.remove_islands,
        "smooth": corrections.smooth,
        "grow": corrections.grow,
        "shrink": corrections.shrink,
        "replace": corrections.replace_label,
    }
    return partial(tools[request.tool], **sizes)
