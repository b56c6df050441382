"""Learning beside the person's work: when it can begin, how far it is, and what is done with what came of it.

What holds here: one lesson at a time; an answer is heard only from the lesson that goes on, and only while its labels
and their image are what they were; nothing is written before a person says *Use it*.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer

from napari_transunet.viewer.layers.layers import volume_job
from napari_transunet.viewer.review.adaptation import (
    AdaptationInput,
    AdaptationPlan,
    AdaptationResult,
    ClassMapping,
    RelatedCheckpoint,
    find_file,
    import_ahead,
    learn,
    relatives,
    save_adapted,
)
from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.messages import count, countdown, duration, organ, organs
from napari_transunet.viewer.widgets.preferences import load_preferences
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Image, Labels

    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.checkpoints.lineage import Adaptation
    from napari_transunet.training.fine_tuning import AdaptationProgress
    from napari_transunet.viewer.review.adaptation_panel import AdaptationPanel
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.segment.segment_dock import SegmentDock
    from napari_transunet.viewer.sessions.results import Result

_FEWEST = 2  # reviewed slices: one to learn from and one to hold back
_TICK = 150  # ms


@dataclass(eq=False)
class _Job:
    """A lesson that goes on. The worker writes `progress` alone, the GUI thread all else."""

    result: Result
    labels: Callable[[], Any]  # the array that the layer held, weakly
    stop: threading.Event = field(default_factory=threading.Event)
    progress: AdaptationProgress | None = None
    because: str = ""

    def told(self, progress: AdaptationProgress) -> None:
        """On the worker's thread."""
        self.progress = progress


class AdaptationController(QObject):
    """Lets the checkpoint that is chosen in *Segment volume* learn from the reviewed slices of the followed labels."""

    def __init__(self, model: ReviewModel, panel: AdaptationPanel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model = model
        self._panel = panel
        self._tasks = BackgroundTasks(self)
        self._looks = BackgroundTasks(self)  # at checkpoint files
        self._job: _Job | None = None
        self._attached = False
        self._saving = False
        self._imported = False
        self._answer: tuple[_Job, AdaptationResult] | None = None
        self._dock: Callable[[], SegmentDock | None] = lambda: None
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK)
        self._timer.timeout.connect(self._tick)
        panel.looked_at.connect(self.refresh)
        panel.wanted.connect(self.start)
        panel.cancelled.connect(self.cancel)
        panel.used.connect(self.use)
        panel.discarded.connect(self.discard)
        panel.relative_wanted.connect(self.choose_relative)
        for signal in (model.overview_changed, model.followed):
            signal.connect(self.refresh)

    @property
    def busy(self) -> bool:
        """Whether it learns, or writes what it learnt; also while a cancelled lesson ends."""
        return self._tasks.finishing

    def start(self) -> None:
        """What the button does."""
        from napari_transunet.viewer.widgets.worker import serve_window_first

        self.refresh()
        result, image, plan = self._model.result, self._model.image, self._plan()
        if result is None or image is None or isinstance(plan, str) or self.busy:
            return
        lesson = _taken(plan, result, image)
        self._answer = None
        self._job = job = _Job(result, weakref.ref(result.layer.data))
        serve_window_first(True)
        self._timer.start()
        self._panel.show_working("Getting ready …", None)
        self._tasks.run(
            partial(learn, lesson, job.told, job.stop.is_set),
            partial(self._on_learnt, job),
            partial(self._on_failed, job),
            what="Learning",
            finish=True,
        )
        self.refresh()

    def cancel(self, because: str = "") -> None:
        """Stop learning within a step; nothing changes."""
        if self._job is not None:
            self._job.stop.set()
            self._job.because = self._job.because or because
            self._tick()

    def discard(self) -> None:
        """Forget what was learnt."""
        self._answer = None
        self._panel.show_idle("Discarded; nothing was written.")
        self.refresh()

    def use(self) -> None:
        """Write the new checkpoint, choose it, and label again what is neither edited nor reviewed."""
        if self._answer is None or self._saving:
            return
        job, learnt = self._answer
        if (why := self._gone(job)) is not None:
            self._answer = None
            self._panel.show_idle(why)
            return
        if (why := self._not_now()) is not None:
            self._panel.status.setText(why)
            return
        self._saving = True
        self._panel.show_working("Saving the new checkpoint …", None, stoppable=False)
        folder = load_preferences().checkpoint_folder
        self._tasks.run(
            partial(save_adapted, learnt, folder),
            partial(self._on_written, job, learnt),
            self._on_not_written,
            what="Saving",
            finish=True,
        )

    def choose_relative(self, wanted: RelatedCheckpoint) -> None:
        """Choose a checkpoint of the lineage in *Segment volume*."""
        dock = self._dock()
        if dock is None:
            return
        listed = dock.checkpoint.candidates
        self._looks.run(
            lambda: find_file(wanted, listed),
            partial(self._on_found, wanted),
            latest="relative",
        )

    def attach(self) -> None:
        """The dock is there."""
        self._attached = True
        self.refresh()

    def detach(self) -> None:
        """The dock goes: stop learning, and hear of nothing any more."""
        self._attached = False
        self._end()
        self._answer, self._saving = None, False
        self._tasks.drop()
        self._looks.drop()
        self._follow_dock(None)
        self._panel.show_idle("")

    def refresh(self, _event: Any = None) -> None:
        """Say what would be learnt from, or why nothing can be."""
        if not self._attached:
            return
        dock = docks.find_dock(self._model.viewer, docks.SEGMENT)
        if dock is not self._dock():
            self._follow_dock(dock)
        plan = self._plan()
        if isinstance(plan, str):
            self._panel.offer("", plan)
        else:
            told = f"{count(len(plan.reviewed), 'reviewed slice')}, {count(len(plan.organs), 'organ')}"
            if plan.organs.added:
                told += f" (new: {organs(list(plan.organs.new_names.values()))})"
            self._import_ahead()
            busy = "It is learning; wait, or cancel it." if self._job is not None or self._saving else None
            where = f", on a worker at {plan.cluster.address}" if plan.cluster is not None else ""
            self._panel.offer(f"Learns from {told}, starting from “{plan.candidate.title}”{where}.", busy)
        self._panel.set_usable(self._not_now())

    def _import_ahead(self) -> None:
        """Once it is known that something can be learnt, and not when the button is pressed."""
        if not self._imported:
            self._imported = True
            self._looks.run(import_ahead, lambda _: None, lambda _: None)

    # -- what can be done -----------------------------------------------------------------------------------

    def _plan(self) -> AdaptationPlan | str:
        """What would be learnt from now, or why nothing can be."""
        model, dock = self._model, self._dock()
        candidate = None if dock is None else dock.checkpoint.usable
        result, image, overview = model.result, model.image, model.overview
        if model.undecided is not None or result is None:
            return model.disabled_reason or "Segment a volume first, or open its labels."
        if image is None:
            return "The image of these labels is gone; open it again."
        session = result.session
        reviewed = sorted(index for index in session.reviewed if index < session.shape[session.axis])
        if len(reviewed) < _FEWEST:
            missing = _FEWEST - len(reviewed)
            return (
                f"Correct slices and mark them as reviewed: {missing} more "
                f"{'is' if missing == 1 else 'are'} needed to learn from."
            )
        if dock is None:
            return f"Open “{docks.SEGMENT}” and choose the checkpoint that shall learn."
        if candidate is None:
            return dock.checkpoint.problem or f"Choose a checkpoint in “{docks.SEGMENT}” first."
        if overview is None:
            return "Comparing the slices …"
        shown = {value for value, voxels in overview.areas.items() if voxels[reviewed].any()}
        names = model.names
        named = {value: names[value] for value in names if value not in overview.unnamed}
        found = ClassMapping.of(candidate, named, shown)
        if not len(found):
            return (
                f"“{candidate.title}” knows none of these labels, and no reviewed slice shows a new one; "
                "name what you drew with “Edit…”, or choose another checkpoint."
            )
        device = dock.device
        return AdaptationPlan(candidate, device.device, device.cluster, tuple(reviewed), found, tuple(named))

    def _not_now(self) -> str | None:
        """Why labels cannot be made anew now; None where they can."""
        dock = self._dock()
        if dock is not None and dock.running:
            return "Wait until the segmentation is done, or cancel it."
        return None

    def _gone(self, job: _Job) -> str | None:
        """Why an answer about these labels would be too late; None where it would not."""
        layer = self._layer_of(job.result)
        if layer is None:
            return "Stopped learning, because the labels were removed."
        if layer.data is not job.labels():
            return "Stopped learning, because the labels were replaced by others."
        if self._model.sessions.image_of(job.result) is None:
            return "Stopped learning, because the image of these labels was removed or replaced."
        return None

    def _layer_of(self, result: Result) -> Labels | None:
        try:
            layer = result.layer
        except ReferenceError:
            return None
        return layer if layer in self._model.viewer.layers else None

    # -- while it goes on -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        job = self._job
        if job is None:
            return
        if not job.stop.is_set() and (why := self._gone(job)) is not None:
            job.stop.set()
            job.because = why
        progress = job.progress
        if job.stop.is_set():
            self._panel.show_working("Stopping …", None, stoppable=False)
        elif progress is not None:
            dice = "" if progress.dice is None else f" · Dice on slices held back {progress.dice:.2f}"
            self._panel.show_working(f"Learning · {countdown(progress.remaining)} left{dice}", progress.done)

    def _end(self) -> None:
        """The lesson is over, or nobody waits for it any more."""
        from napari_transunet.viewer.widgets.worker import serve_window_first

        job, self._job = self._job, None
        if job is not None:
            job.stop.set()
            self._timer.stop()
            serve_window_first(False)

    def _on_learnt(self, job: _Job, learnt: AdaptationResult | None) -> None:
        if job is not self._job:
            return
        self._end()
        if (why := self._gone(job)) is not None:
            self._panel.show_idle(why)
        elif learnt is None or job.because:
            self._panel.show_idle(job.because or "Cancelled; nothing has changed.")
        else:
            self._answer = job, learnt
            story = learnt.story
            self._panel.show_answer(_answer_sentence(story), recommended=bool(story.better))
        self.refresh()

    def _on_failed(self, job: _Job, sentence: str) -> None:
        if job is not self._job:
            return
        self._end()
        self._panel.show_idle(sentence)
        self.refresh()

    def _on_written(self, job: _Job, learnt: AdaptationResult, candidate: CheckpointInfo) -> None:
        self._saving, self._answer = False, None
        told = f"Saved as {candidate.path.name}, with a few slices of this scan beside it to be learnt from again."
        if (why := self._gone(job)) is not None:
            self._panel.show_idle(f"{told} The labels that it learnt from are gone.")
            self.refresh()
            return
        dock = self._dock() or docks.show_dock(self._model.viewer, docks.SEGMENT)
        why = dock.segment_again(job.result, candidate, learnt.values)
        if why is None:
            told += " It labels again what is neither edited nor reviewed; one undo takes that back."
        else:
            told += f" {why}"
        self._panel.show_idle(told)
        self.refresh()

    def _on_not_written(self, sentence: str) -> None:
        self._saving = False
        if self._answer is not None:
            self._panel.show_answer(sentence, recommended=bool(self._answer[1].story.better))
        self.refresh()

    # -- lineage --------------------------------------------------------------------------------------------

    def _follow_dock(self, dock: SegmentDock | None) -> None:
        before = self._dock()
        if before is not None:
            with contextlib.suppress(RuntimeError, TypeError):  # Qt may have deleted it
                before.checkpoint.changed.disconnect(self._on_checkpoint)
                before.device.changed.disconnect(self.refresh)
                before.run_started.disconnect(self.refresh)
                before.run_finished.disconnect(self.refresh)
        self._dock = (lambda: None) if dock is None else weakref.ref(dock)
        if dock is not None:
            dock.checkpoint.changed.connect(self._on_checkpoint)
            dock.device.changed.connect(self.refresh)
            dock.run_started.connect(self.refresh)
            dock.run_finished.connect(self.refresh)
        self._on_checkpoint()

    def _on_checkpoint(self) -> None:
        dock = self._dock()
        candidate = None if dock is None else dock.checkpoint.usable
        if candidate is None or dock is None:
            self._panel.show_relatives(())
        else:
            listed = dock.checkpoint.candidates
            self._looks.run(
                lambda: relatives(candidate, listed),
                self._panel.show_relatives,
                latest="relatives",
            )
            self.refresh()

    def _on_found(self, wanted: RelatedCheckpoint, path: Any) -> None:
        dock = self._dock()
        if dock is None:
            return
        known = next((one for one in dock.checkpoint.candidates if one.path == path), None)
        if known is None or known.problem is not None:
            hint = f" ({wanted.sha256[:8]})" if wanted.sha256 else ""
            self._panel.status.setText(
                f"“{wanted.name}”{hint} is not among your checkpoints; add its file with “…” in “{docks.SEGMENT}”."
            )
            return
        dock.checkpoint.choose(known)
        self._panel.status.setText(
            f"“{known.title}” is chosen in “{docks.SEGMENT}”. Undo takes back labels that came of another."
        )


def _taken(plan: AdaptationPlan, result: Result, image: Image) -> AdaptationInput:
    """What is planned, with the labels as they are now."""
    session = result.session
    along = np.moveaxis(result.layer.data, session.axis, 0)
    planes = {index: along[index].copy() for index in plan.reviewed}
    return AdaptationInput(plan, volume_job(image), planes, session.axis, session.shape)


def _answer_sentence(story: Adaptation) -> str:
    """What came of it: Liver 0.92 → 0.96, right kidney 0.36 → 0.94 on 2 slices held back."""
    changes = [
        f"{organ(name)} {one.before or 0:.2f} → {one.after:.2f}"
        for name, one in story.dice.items()
        if one.after is not None
    ]
    took = f"Learnt for {duration(story.seconds)}."
    kept = story.retained_sentence()
    forgot = f" {kept}." if kept else ""
    if not changes:
        return f"{took} No slice could be held back, so it is not known whether it is better.{forgot}"
    held = sum(len(scan.held_out) for scan in story.scans)
    told = ", ".join(changes)
    where = f"{told[:1].upper()}{told[1:]} on {count(held, 'slice')} held back (Dice)."
    return f"{took} {where}{forgot}" if story.better else f"{took} It did not get better: {where}"
