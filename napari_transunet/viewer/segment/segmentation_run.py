"""One run of the network over a volume, as the GUI thread sees it: a timer draws what the worker has computed.

What holds here: the GUI thread waits for neither the worker nor a lock, but in `wait`, when the window closes; what a
run computed after it was ended is dropped; and however it ends, what it wrote is one undo step.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.slice_numbers import SliceNumbers, position_in_view
from napari_transunet.viewer.layers.undo import UndoStep
from napari_transunet.viewer.segment.run_messages import Kind, RunOutcome, RunProgress, RunRequest, Stage
from napari_transunet.viewer.segment.segmentation_worker import RunStart, SegmentationWorker
from napari_transunet.viewer.sessions.live_update import BUDGET, LivePainter

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_transunet.annotation.provenance import RunRecord
    from napari_transunet.viewer.widgets.worker import QuietWorker

_TICK = 33  # ms


class _Task(partial[Generator[None, None, None]]):
    """The worker's function with a name that napari can show in its list of running tasks."""

    title: str = ""

    def __str__(self) -> str:
        return self.title


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
        self, viewer: Viewer, request: RunRequest, worker: SegmentationWorker, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        assert request.into is not None
        self._viewer = viewer
        self._request = request
        self.image, self.result = request.image, request.into
        self._worker = worker
        self._image_data = self.image.data
        self._reason: str | None = None
        self._over = False
        self._links = EventLinks()
        self._painter: LivePainter | None = None
        self._step: UndoStep | None = None
        self._thread: QuietWorker | None = None
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
        self.result.run_under_way = True
        task = _Task(SegmentationWorker.work, self._worker)
        task.title = f"the segmentation of {self.image.name}"
        thread = create_worker(task, _worker_class=QuietWorker, _ignore_errors=True, _start_thread=False)
        self._worker.run_in(thread)
        self._links.connect(self._on_layer_removed, self._viewer.layers.events.removed)
        self._links.connect(self._on_image_data, self.image.events.data)
        self._timer.start()
        serve_window_first(True)
        self._thread = thread
        thread.start()
        self._report()

    @property
    def reviewed_numbers(self) -> SliceNumbers:
        """The slider's numbers of the slices that are reviewed, which may lie along another axis than the run's."""
        return self._worker.numbers[self.result.session.axis]

    @property
    def loading(self) -> bool:
        """Whether its checkpoint is still being read: nothing was computed yet that could be lost."""
        return self._worker.start is None

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._worker.stop.is_set()

    def stop(self, reason: str | None = None) -> None:
        """Ask the run to end after the current batch, keeping what there is; `reason` goes into the outcome."""
        if self._reason is None:
            self._reason = reason
        self._worker.stop.set()
        if not self._over:
            self._report()

    def abandon(self) -> None:
        """End now, because nobody watches any more: draw what is there and let the worker run out by itself."""
        self.stop()
        self._conclude()

    def wait(self, seconds: float) -> bool:
        """Block until the worker's thread is done with this run, at most so long; whether it is."""
        return self._thread is None or self._thread.wait(seconds)

    def _tick(self) -> None:
        if self._over:
            return
        worker = self._worker
        if worker.start is not None:
            self._paint(worker.start)
        elif not self._request.only_this_slice and self.image in self._viewer.layers:
            # The person may scroll while the checkpoint loads; start where they are then.
            worker.position = position_in_view(self._viewer, self.image)
        if self._over:
            return
        # What only loads or waits for the network is not waited for: nothing was computed, and it ends by itself.
        if (worker.ended.is_set() and not worker.finished) or (self.stopping and self.loading):
            self._conclude()
        else:
            self._report()

    def _paint(self, start: RunStart, *, everything: bool = False) -> None:
        assert self._step is not None
        if not self._step.intact:
            self.stop("the labels were replaced while it ran")
            self._worker.finished.clear()
            return
        if self._painter is None:
            session, sha256 = self.result.session, start.record.sha256
            if not session.reviewed and not session.notes:
                session.axis = start.axis
            session.unsure_along(start.axis).begin(sha256, start.record.pipeline, start.img_size)
            if sha256 is not None:
                session.cards[sha256] = start.card
            self._painter = LivePainter(
                self._viewer, self.result, self._step, start.axis, keep_reviewed=self._request.keep_reviewed
            )
        if self._painter.paint(self._worker.finished, budget=None if everything else BUDGET):
            self.result.run = self._record(start)
            self.wrote.emit()

    def _report(self) -> None:
        start, done = self._worker.start, self._done
        stage: Stage = "stopping" if self.stopping else "loading" if start is None else "segmenting"
        total, first = (start.total, start.first) if start is not None else (0, 0)
        left = self._left(done, total) if done and total else None
        self.progressed.emit(
            RunProgress(stage, done, total, self._numbers.number(first), left, self._worker.on)
        )

    @property
    def _done(self) -> int:
        start, painter = self._worker.start, self._painter
        return len(painter.drawn & start.slices) if painter is not None and start is not None else 0

    @property
    def _numbers(self) -> SliceNumbers:
        return self._worker.numbers[self._worker.start.axis if self._worker.start is not None else 0]

    def _left(self, done: int, total: int) -> float | None:
        """Estimated seconds to the end: from the mean time per slice, counting down between two batches.

        The first batch is left out, for much of its time goes into what happens but once; until the second is there,
        nothing can be said.
        """
        worker, present = self._worker, time.perf_counter()
        first, began = worker.first_batch or (done, present)
        if done <= first:
            return None
        if done != self._estimated_at[0]:
            mean = (worker.last_slice - began) / (done - first)
            self._estimated_at = (done, present + mean * (total - done))
        return max(0.0, self._estimated_at[1] - present)

    def _on_layer_removed(self, event: Any) -> None:
        if event.value is self.image:
            self.stop("the volume was removed")
        elif event.value is self.result.layer:
            self.stop("its labels were removed")

    def _on_image_data(self, _event: Any = None) -> None:
        if self.image.data is not self._image_data:
            self.stop("the volume was replaced by another one")

    def _conclude(self) -> None:
        if self._over:
            return
        from napari_transunet.viewer.widgets.worker import serve_window_first

        self._timer.stop()
        serve_window_first(False)
        if self._worker.start is not None:
            self._paint(self._worker.start, everything=True)
        self._over = True
        self._links.clear()
        mark = self._step.close() if self._step is not None else None
        if self._painter is not None:
            self.result.undo.add(mark, self._painter.session_step)
        if self.result.layer in self._viewer.layers:
            self.result.layer.refresh(extent=False)
        outcome = self._outcome()
        self.result.run, self.result.run_under_way = None, False
        if outcome.record is not None and self._painter is not None:
            self.result.session.add_run(outcome.record, self._painter.session_step)
        self.finished.emit(outcome)

    def _outcome(self) -> RunOutcome:
        worker, painter, done = self._worker, self._painter, self._done
        start, step = worker.start, painter.session_step if painter is not None else None
        known, worker.known = worker.known, {}  # napari keeps the worker
        kind: Kind = "finished"
        if worker.error is not None:
            kind = "failed"
        elif start is None or done < start.total:
            kind = "cancelled"
        axis = start.axis if start is not None else 0
        one = start.voxel_ml if start is not None else 0.0
        return RunOutcome(
            kind=kind,
            done=done,
            total=start.total if start is not None else 0,
            first=start.first if start is not None else 0,
            axis=axis,
            seconds=worker.seconds,
            volumes={
                value: float(count) * one for value, count in enumerate(self._voxels()) if value and count
            },
            record=self._record(start) if start is not None and done else None,
            only_this_slice=self._request.only_this_slice,
            conflicts=dict(sorted(step.conflicts.items())) if step is not None else {},
            reopened=step.reopened if step is not None else (),
            reason=self._reason,
            error=worker.error,
            whole=kind == "finished" and done == self.result.session.shape[axis],
            numbers=self._numbers,
            missing=tuple(sorted(worker.missing)),
            known=known if worker.error is not None else {},
        )

    def _voxels(self) -> NDArray[np.int64]:
        """By label, how many voxels the slices that were asked for hold now."""
        start, painter = self._worker.start, self._painter
        kept = painter.kept if painter is not None else {}
        counts = [
            found
            for index, found in (*self._worker.voxels.copy().items(), *kept.items())
            if start is not None and index in start.slices
        ]
        total = np.zeros(max(map(len, counts), default=1), np.int64)
        for found in counts:
            total[: len(found)] += found
        return total

    def _record(self, start: RunStart) -> RunRecord:
        """What is known of the run as far as it is."""
        return replace(start.record, slices=self._done, seconds=round(self._worker.seconds, 2))
