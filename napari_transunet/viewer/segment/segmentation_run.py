"""One run of the network over a volume: a worker that computes, and a timer on the GUI thread that draws.

The worker loads the checkpoint, prepares the predictor and computes slices; it never touches a layer or the
viewer. Everything it finds goes into a `_RunState`. The GUI thread looks into the state thirty times a second.

What holds here: the GUI thread waits for neither the worker nor a lock, but in `wait`, when the window closes; what a
run computed after it was ended is dropped; and however it ends, what it wrote is one undo step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.annotation.provenance import RunRecord, now
from napari_transunet.errors import InputError
from napari_transunet.inference.prediction import renumbered
from napari_transunet.viewer.layers.slice_numbers import SliceNumbers, slice_numbers
from napari_transunet.viewer.layers.undo import UndoStep
from napari_transunet.viewer.sessions.live_update import LivePainter, SliceBuffer, position_in_view
from napari_transunet.viewer.widgets.priority import be_nice
from napari_transunet.volumes.geometry import voxel_ml

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from napari_transunet.viewer.segment.predictors import PredictorCache, PredictorSettings
    from napari_transunet.viewer.sessions.results import Result
    from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

_TICK = 33  # ms

Kind = Literal["finished", "cancelled", "failed"]
Stage = Literal["loading", "segmenting", "stopping"]


@dataclass(frozen=True)
class RunRequest:
    """What to compute.

    Attributes
    ----------
    settings, checkpoint_name
        What the predictor is made from, and the name of its checkpoint for the record.
    cache
        Where prepared predictors are kept.
    volume
        Gives the volume; called on the worker's thread, because a lazy array may have to be computed.
    only_this_slice
        Compute the slice in view alone instead of the whole volume.
    between
        First and last slice of the range to compute, by the slider's numbers; None for all.
    keep_reviewed
        Whether slices that were reviewed stay as they are.
    values
        Label value of each of the network's classes, where they are not the same.
    """

    settings: PredictorSettings
    checkpoint_name: str
    cache: PredictorCache
    volume: Callable[[], Volume]
    only_this_slice: bool = False
    between: tuple[int, int] | None = None
    keep_reviewed: bool = False
    values: tuple[int, ...] | None = None


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    `left` is the estimated remaining time in seconds, None while it cannot be known; `number` is the slider's of the
    slice that it started at.
    """

    stage: Stage
    done: int
    total: int
    number: int
    left: float | None


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes
    ----------
    kind
        "finished", "cancelled" (also where `reason` says why it had to stop), or "failed" with an `error`.
    done, total, first, axis
        Slices written, slices asked for, the slice it started at, and the array axis along which they lie.
    seconds
        From the start, loading included, to the last slice.
    volumes
        Label value -> mL of what these slices hold now, for the labels that were found.
    whole
        Whether that is the whole volume: every slice was asked for and written.
    numbers
        The slider's numbers of the slices along `axis`.
    record
        For the session's provenance; None where nothing was written.
    conflicts
        Slice -> voxels in which what was computed disagrees with a person's edits, which stayed.
    reopened
        Slices that had been reviewed and were changed.
    """

    kind: Kind
    done: int
    total: int
    first: int
    axis: int
    seconds: float
    volumes: dict[int, float]
    record: RunRecord | None
    only_this_slice: bool
    conflicts: Mapping[int, int] = field(default_factory=dict)
    reopened: tuple[int, ...] = ()
    reason: str | None = None
    error: Exception | None = None
    whole: bool = True
    numbers: SliceNumbers = field(default_factory=lambda: SliceNumbers(1))


class _RunState:
    """What the worker and the GUI thread share. Each field is written by one side only."""

    def __init__(
        self,
        request: RunRequest,
        position: tuple[int, int, int],
        numbers: Sequence[SliceNumbers],
    ) -> None:
        self.numbers = tuple(numbers)  # along each axis
        self.request: RunRequest | None = request
        self.only_this_slice = request.only_this_slice
        self.keep_reviewed = request.keep_reviewed
        self.started = time.perf_counter()
        self.date = now()
        # GUI thread -> worker
        self.position = position
        self.stop = threading.Event()
        self.aborted: Callable[[], bool] = lambda: False
        # worker -> GUI thread
        self.buffer = SliceBuffer()
        self.slicing = threading.Event()
        self.warm: tuple[int, float] | None = None  # slices of the first batch, and when it was done
        self.last_slice = self.started
        self.axis = 0
        self.first = 0
        self.total = 0
        self.voxels: NDArray[np.int64] = np.zeros(1, np.int64)
        self.voxel_ml = 0.0
        self.record: RunRecord | None = None  # as it is before the first slice
        self.card: dict[str, Any] = {}
        self.img_size: tuple[int, int] = (0, 0)
        self.error: Exception | None = None
        self.ended = threading.Event()

    def cancelled(self) -> bool:
        """Whether the person, or napari on closing its window, wants the run to stop."""
        return self.stop.is_set() or self.aborted()


class _Task(partial[Generator[None, None, None]]):
    """The worker's function with a name that napari can show in its list of running tasks."""

    title: str = ""

    def __str__(self) -> str:
        return self.title


def _work(state: _RunState) -> Generator[None, None, None]:
    """Load, prepare, compute; one yield per batch. Errors go into the state, never into napari's popups."""
    request = state.request
    assert request is not None
    try:
        be_nice()
        prepared = request.cache.get(request.settings)
        if state.cancelled():  # the window may have been closed since: nobody waits for the rest
            return
        yield
        volume = request.volume()
        predictor = prepared.predictor
        state.card = prepared.checkpoint.card.model_dump(mode="json", exclude_none=True)
        state.img_size = predictor.card.img_size
        state.axis = int(predictor.slice_axis(volume))
        state.first = state.position[state.axis]
        slices = _wanted_slices(request, state.first, state.numbers[state.axis])
        if slices is not None and state.first not in slices:
            state.first = min(slices, key=lambda index: abs(index - state.first))
        wanted = range(volume.data.shape[state.axis]) if slices is None else slices
        state.total = len(wanted)
        state.record = RunRecord.from_predictor(
            predictor,
            date=state.date,
            seconds=0.0,
            slices=0,
            total=state.total,
            axis=state.axis,
            between=(wanted[0], wanted[-1]),
            name=request.checkpoint_name,
        )
        state.voxel_ml = voxel_ml(volume.geometry.spacing)
        state.slicing.set()
        yield
        for batch in predictor.iter_batches(
            volume, first=state.first, slices=slices, cancelled=state.cancelled, uncertainty=True
        ):
            state.last_slice = time.perf_counter()
            if state.warm is None:
                state.warm = len(batch), state.last_slice
            for prediction in renumbered(batch, request.values):
                state.voxels = _added(state.voxels, np.bincount(prediction.plane.ravel()))
                state.buffer.put(int(prediction.index), prediction.plane, prediction.uncertainty)
            yield
    except Exception as error:
        logger.exception("The segmentation failed.")
        state.error = error
    finally:
        # napari keeps every worker, with its arguments, for as long as the window lives.
        state.request = None
        state.ended.set()


def _wanted_slices(request: RunRequest, shown: int, numbers: SliceNumbers) -> Sequence[int] | None:
    """The indices of the slices to compute; None for all."""
    if request.only_this_slice:
        return [shown]
    if request.between is None:
        return None
    found = [numbers.index(number) for number in request.between]
    ends = sorted(index for index in found if index is not None)
    if len(ends) < len(found):
        first, last = request.between
        raise InputError(
            f"There are no slices {first} to {last}; this volume's slices are {numbers.lowest} to "
            f"{numbers.highest}. Change “Slices” under Advanced."
        )
    return range(ends[0], ends[1] + 1)


def _added(total: NDArray[np.int64], more: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(more) > len(total):
        total, more = more, total
    summed = total.copy()
    summed[: len(more)] += more
    return summed


class SegmentationRun(QObject):
    """A run from its start to its last drawn slice. GUI thread only; make a new one for every run.

    While it goes on, the layer is not editable; when it ends, however it ends, what was written is one
    undo step. Emits `progressed` with a `RunProgress`, `wrote` when slices were drawn and, exactly once,
    `finished` with a `RunOutcome`.
    """

    progressed = Signal(object)
    wrote = Signal()
    finished = Signal(object)

    def __init__(
        self, viewer: Viewer, image: Image, result: Result, request: RunRequest, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._image = image
        self.result = result
        numbers = [slice_numbers(viewer, image, axis) for axis in range(3)]
        self._state = _RunState(request, position_in_view(viewer, image), numbers)
        self._title = f"the segmentation of {image.name}"
        self._image_data = image.data
        self._reason: str | None = None
        self._over = False
        self._painter: LivePainter | None = None
        self._step: UndoStep | None = None
        self._worker: Any = None
        self._estimated_at = (0, 0.0)  # slices done, and when the last one will be
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Lock the layer and start the worker."""
        from napari.qt.threading import create_worker

        from napari_transunet.viewer.widgets.worker import QuietWorker, serve_window_first

        self.result.undo.check_pending_strokes()
        self._step = UndoStep(self.result.layer)
        task = _Task(_work, self._state)
        task.title = self._title
        worker = create_worker(task, _worker_class=QuietWorker, _ignore_errors=True, _start_thread=False)
        # Only a weak tie from the state: the worker holds the state through its generator.
        self._state.aborted = _AbortRequested(worker)
        worker.finished.connect(self._state.ended.set)
        self._viewer.layers.events.removed.connect(self._on_layer_removed)
        self._image.events.data.connect(self._on_image_data)
        self._timer.start()
        serve_window_first(True)
        self._worker = worker
        worker.start()
        self._report()

    @property
    def image(self) -> Image:
        """The layer that is segmented."""
        return self._image

    @property
    def over(self) -> bool:
        """Whether the run has ended and its layer is editable again."""
        return self._over

    @property
    def reviewed_numbers(self) -> SliceNumbers:
        """The slider's numbers of the slices that are reviewed, which may lie along another axis than the run's."""
        return self._state.numbers[self.result.session.axis]

    @property
    def loading(self) -> bool:
        """Whether its checkpoint is still being read: nothing was computed yet that could be lost."""
        return not self._state.slicing.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._state.stop.is_set()

    def stop(self, reason: str | None = None) -> None:
        """Ask the run to end after the current batch, keeping what there is; `reason` goes into the outcome."""
        if self._reason is None:
            self._reason = reason
        self._state.stop.set()
        if not self._over:
            self._report()

    def abandon(self) -> None:
        """End now, because nobody watches any more: draw what is there and let the worker run out by itself."""
        self.stop()
        self._conclude()

    def wait(self, seconds: float) -> bool:
        """Block until the worker's thread is done with this run, at most so long; whether it is."""
        return self._worker is None or bool(self._worker.wait(seconds))

    def _tick(self) -> None:
        if self._over:
            return
        state = self._state
        if state.slicing.is_set():
            self._paint()
        elif not state.only_this_slice and self._image in self._viewer.layers:
            # The person may scroll while the checkpoint loads; start where they are then.
            state.position = position_in_view(self._viewer, self._image)
        if self._over:
            return
        if state.ended.is_set() and not len(state.buffer):
            self._conclude()
        else:
            self._report()

    def _paint(self, *, everything: bool = False) -> None:
        assert self._step is not None
        if not self._step.intact:
            self.stop("the labels were replaced while it ran")
            while self._state.buffer.take() is not None:
                pass
            return
        if self._painter is None:
            state, session = self._state, self.result.session
            if not session.reviewed and not session.notes:
                session.axis = state.axis
            record = state.record
            assert record is not None  # there since the first slice
            session.unsure_along(state.axis).begin(record.sha256, record.pipeline, state.img_size)
            if record.sha256 is not None:
                session.cards[record.sha256] = state.card
            self._painter = LivePainter(
                self._viewer, self.result, self._step, state.axis, keep_reviewed=state.keep_reviewed
            )
        before = self._painter.written
        if everything:
            self._painter.paint(self._state.buffer, budget=None)
        else:
            self._painter.paint(self._state.buffer)
        if self._painter.written > before:
            self.result.run = self._record()
            self.wrote.emit()

    def _report(self) -> None:
        state = self._state
        done = self._painter.written if self._painter is not None else 0
        stage: Stage = "segmenting" if state.slicing.is_set() else "loading"
        left = self._left(done) if done and state.total else None
        if state.stop.is_set():
            stage = "stopping"
        self.progressed.emit(RunProgress(stage, done, state.total, self._numbers.number(state.first), left))

    @property
    def _numbers(self) -> SliceNumbers:
        return self._state.numbers[self._state.axis]

    def _left(self, done: int) -> float | None:
        """Estimated seconds to the end: from the mean time per slice, counting down between two batches.

        The first batch is left out, for much of its time goes into what happens but once; until the second is there,
        nothing can be said.
        """
        state, present = self._state, time.perf_counter()
        first, began = state.warm or (done, present)
        if done <= first:
            return None
        if done != self._estimated_at[0]:
            mean = (state.last_slice - began) / (done - first)
            self._estimated_at = (done, present + mean * (state.total - done))
        return max(0.0, self._estimated_at[1] - present)

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self._image:
            self.stop("the volume was removed")
        elif event.value is self.result.layer:
            self.stop("its labels were removed")

    def _on_image_data(self, _event: Any = None) -> None:
        if self._image.data is not self._image_data:
            self.stop("the volume was replaced by another one")

    def _conclude(self) -> None:
        if self._over:
            return
        from napari_transunet.viewer.widgets.worker import serve_window_first

        self._timer.stop()
        serve_window_first(False)
        if self._state.slicing.is_set():
            self._paint(everything=True)
        self._over = True
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)
        self._image.events.data.disconnect(self._on_image_data)
        mark = self._step.close() if self._step is not None else None
        if self._painter is not None:
            self.result.undo.add(mark, self._painter.session_step)
        if self.result.layer in self._viewer.layers:
            self.result.layer.refresh(extent=False)
        outcome = self._outcome()
        self.result.run = None
        if outcome.record is not None and self._painter is not None:
            self.result.session.add_run(outcome.record, self._painter.session_step)
        self.finished.emit(outcome)

    def _outcome(self) -> RunOutcome:
        state = self._state
        done = self._painter.written if self._painter is not None else 0
        step = self._painter.session_step if self._painter is not None else None
        seconds = state.last_slice - state.started
        voxels = state.voxels
        if self._painter is not None:
            voxels = _added(voxels, self._painter.kept)
        kind: Kind = "finished"
        if state.error is not None:
            kind = "failed"
        elif not state.slicing.is_set() or done < state.total:
            kind = "cancelled"
        return RunOutcome(
            kind=kind,
            done=done,
            total=state.total,
            first=state.first,
            axis=state.axis,
            seconds=seconds,
            volumes={
                value: float(count) * state.voxel_ml for value, count in enumerate(voxels) if value and count
            },
            record=self._record() if done else None,
            only_this_slice=state.only_this_slice,
            conflicts=dict(sorted(step.conflicts.items())) if step is not None else {},
            reopened=step.reopened if step is not None else (),
            reason=self._reason,
            error=state.error,
            whole=kind == "finished" and done == self.result.session.shape[state.axis],
            numbers=self._numbers,
        )

    def _record(self) -> RunRecord:
        """What is known of the run, whose painter has begun."""
        state = self._state
        assert self._painter is not None
        assert state.record is not None
        seconds = round(state.last_slice - state.started, 2)
        return replace(state.record, slices=self._painter.written, seconds=seconds)


class _AbortRequested:
    """Whether napari asked a worker to quit, as it does when its window closes."""

    def __init__(self, worker: Any) -> None:
        import weakref

        self._worker = weakref.ref(worker)

    def __call__(self) -> bool:
        worker = self._worker()
        return worker is not None and bool(worker.abort_requested)
