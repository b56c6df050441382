"""Segmenting the cases of a project while somebody works, on a thread that gives way to the window's runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.closing import Unfinished
from napari_transunet.viewer.widgets.priority import be_nice
from napari_transunet.viewer.widgets.tasks import BackgroundTasks, emit

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_transunet.inference.options import PredictorOptions
    from napari_transunet.project.project import Project

_LOOK = 150  # ms between two looks at whether the window's own run wants the processor
_STEP = 0.05


class BackgroundSegmentation(QObject):
    """Segments what is due in a project, one case after the other.

    Signals
    -------
    progressed(str, int, int, int, int): name of the case, its slices done and in all, cases done and in all.
    segmented(object): what became of a case, a `SegmentOutcome`.
    finished(str): a sentence that sums it up.
    """

    progressed = Signal(str, int, int, int, int)
    segmented = Signal(object)
    finished = Signal(str)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._stop = threading.Event()
        self._waiting = threading.Event()
        self._tasks = BackgroundTasks(self)
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK)
        self._timer.timeout.connect(self._give_way)

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self._tasks.finishing

    @property
    def waiting(self) -> bool:
        """Whether it gives way to a run of the window at present."""
        return self._waiting.is_set()

    def start(
        self,
        project: Project,
        options: PredictorOptions,
        annotator: str,
        *,
        only: Collection[str] | None = None,
        checkpoint: str | None = None,
    ) -> None:
        """Begin; nothing happens where it goes on already. `only` and `checkpoint` are as for `tasks_due`."""
        if self.running:
            return
        self._stop.clear()
        self._give_way()
        self._timer.start()
        # To its end: a program must not end in the middle of a network's native code.
        which = {"annotator": annotator, "only": only, "checkpoint": checkpoint}
        work = partial(self._work, project, options, which)
        self._tasks.run(work, self._on_end, self._on_end, what="Segmenting all", finish=True)

    def stop(self) -> None:
        """End after the current batch; the case that it was at is done the next time."""
        self._stop.set()

    def unfinished(self) -> list[Unfinished]:
        """What has to be waited for when the window closes."""
        self.stop()
        return [Unfinished("the batch in hand", lambda: not self.running)]

    def _give_way(self) -> None:
        dock = docks.find_dock(self._viewer, docks.SEGMENT)
        if dock is not None and dock.running:
            self._waiting.set()
        else:
            self._waiting.clear()

    def _cancelled(self) -> bool:
        """Asked before every batch, on the worker's thread: waits while the window computes."""
        while self._waiting.is_set() and not self._stop.is_set():
            time.sleep(_STEP)
        return self._stop.is_set()

    def _on_end(self, sentence: str) -> None:
        self._timer.stop()
        self.finished.emit(sentence)

    def _work(self, project: Project, options: PredictorOptions, which: Mapping[str, Any]) -> str:
        from napari_transunet.project.segmenting import Predictors, segment_case, tasks_due

        be_nice()
        done = failed = 0
        tasks = tasks_due(project, options=options, **which)
        predictors = Predictors(options, project.adapted_paths())
        for number, task in enumerate(tasks):
            if self._cancelled():
                break

            def progress(
                name: str, slices: int, total: int, at: int = number, count: int = len(tasks)
            ) -> None:
                emit(self, "progressed", name, slices, total, at, count)

            outcome = segment_case(task, predictors, progress=progress, cancelled=self._cancelled)
            done += outcome.state in ("segmented", "ranked")
            failed += outcome.state == "failed"
            emit(self, "segmented", outcome)
        if not tasks:
            return "All cases are segmented with this checkpoint."
        more = f" {failed} failed; their rows say why." if failed else ""
        return f"{done} of {len(tasks)} cases segmented.{more}"
