"""From the button to the labels: what is asked before a run, the run itself, and what is said of its labels later."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_transunet.errors import ExistsError, TransUNetError
from napari_transunet.inference.compatibility import doubt_about, doubt_about_augmentation
from napari_transunet.viewer.layers.fingerprints import fingerprinted_volume
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, volume_of
from napari_transunet.viewer.layers.slice_numbers import position_in_view, slice_numbers
from napari_transunet.viewer.segment.predictors import PredictorCache
from napari_transunet.viewer.segment.preloading import prepare_ahead
from napari_transunet.viewer.segment.segmentation_run import SegmentationRun
from napari_transunet.viewer.segment.segmentation_worker import SegmentationWorker
from napari_transunet.viewer.segment.streamed_run import (
    StreamedRun,
    add_written_labels,
    inside,
    place_for,
    question_about,
    written_labels,
)
from napari_transunet.viewer.sessions.autosave_controller import AutosaveController, autosave_of, save_soon
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.closing import Unfinished
from napari_transunet.viewer.widgets.messages import (
    across_sentence,
    conflict_sentence,
    error_sentence,
    outcome_sentence,
    reopened_sentence,
    restored_sentence,
)
from napari_transunet.viewer.widgets.preferences import load_preferences
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.labels import LabelSet

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.io.ome_zarr.labels import LabelsPlace
    from napari_transunet.viewer.segment.predictors import PredictorSettings
    from napari_transunet.viewer.segment.run_messages import RunOutcome, RunRequest
    from napari_transunet.viewer.sessions.results import Result
    from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar


@dataclass(frozen=True)
class ResultStatus:
    """What was said about a result, to be said again when its volume is chosen again.

    `outcome` is what it was said of, where names may change; an error is not kept, for its frames hold the window.
    """

    sentence: str
    done: int
    total: int
    volumes: Mapping[int, float]
    outcome: RunOutcome | None = None

    def renamed(self, names: Mapping[int, str]) -> ResultStatus:
        """The same with other names for what was found."""
        return self if self.outcome is None else replace(self, sentence=outcome_sentence(self.outcome, names))


class SegmentationController(QObject):
    """Runs the network over volumes, one run at a time.

    Signals
    -------
    started(): a run has begun.
    progressed(object): how far it is, a `RunProgress`.
    finished(object, str): how it ended, a `RunOutcome`, and a sentence about it.
    refused(): no run was begun, because of an answer.
    message(str): a sentence, such as why no run was begun, or that labels are not saved.
    """

    started = Signal()
    progressed = Signal(object)
    finished = Signal(object, str)
    refused = Signal()
    message = Signal(str)

    def __init__(self, viewer: Viewer, confirm: ConfirmBar, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._confirm = confirm
        self._sessions = sessions_of(viewer)
        self._cache = PredictorCache()
        self._tasks = BackgroundTasks(self)
        self._ahead: PredictorSettings | None = None  # what was prepared unasked last
        self.run: SegmentationRun | StreamedRun | None = None
        """The run that goes on."""
        self._abandoned: SegmentationRun | StreamedRun | None = None
        self._new_layer: Labels | None = None  # that was made for it
        self._last: RunRequest | None = None  # the run that goes on, or went on last
        self._autosaves: weakref.WeakSet[AutosaveController] = weakref.WeakSet()  # that the window waits for
        self._last_saves: list[AutosaveController] = []  # whose labels went while a run wrote into them
        self._statuses: weakref.WeakKeyDictionary[Image | Labels, ResultStatus] = weakref.WeakKeyDictionary()

    # -- before a run ---------------------------------------------------------------------------------------

    def prepare(self, settings: PredictorSettings) -> None:
        """Make the network ready that the next run is likely to take; a run that comes meanwhile waits for it."""
        if self.run is None and settings.cluster is None and settings != self._ahead:
            self._ahead = settings
            # A program must not end in the middle of a network's native code.
            self._tasks.run(partial(prepare_ahead, self._cache, settings), lambda _: None, finish=True)

    def ask(self, request: RunRequest, destination: Callable[[], Result | None]) -> None:
        """Begin a run, once a person has answered what is doubtful about it; `destination` says into which labels."""

        def go_on() -> None:
            self._ask_about_labels(replace(request, into=destination()))

        card, doubts = request.candidate.card, []
        if card is not None:
            if not is_lazy(request.image):
                doubts.append(doubt_about(volume_of(request.image), card))
            doubts.append(doubt_about_augmentation(card, request.settings.options))
        doubt = " ".join(sentence for sentence in doubts if sentence)
        if not doubt:
            go_on()
            return
        self._confirm.ask(
            f"{doubt} Segment anyway?",
            yes="Segment anyway",
            no="Cancel",
            on_yes=go_on,
            on_no=self.refused.emit,
        )

    def _ask_about_labels(self, request: RunRequest) -> None:
        """Labels that no run made are changed by one only where a person says so."""
        into = request.into
        if into is None or into.created_by_run or into.session.runs or not into.layer.data.any():
            self.start(request)
            return
        self._confirm.ask(
            f"“{into.layer.name}” was not made by a run. Shall this one replace what you did not edit in it?",
            yes="Replace",
            no="Make new labels",
            on_yes=lambda: self.start(request),
            on_no=lambda: self.start(replace(request, into=None)),
        )

    # -- a run ----------------------------------------------------------------------------------------------

    def start(self, request: RunRequest) -> None:
        """Begin a run without a question."""
        image, candidate = request.image, request.candidate
        if self.run is not None or image not in self._viewer.layers:
            return
        try:
            volume = None if is_lazy(image) else volume_of(image)
            result, self._new_layer = request.into, None
            if result is None or result.layer not in self._viewer.layers or not result.lies_on(image):
                if (place := place_for(request)) is not None:
                    self._ask_about_file(request, place)
                    return
                result = self._sessions.new_result(image, volume or geometry_of(image), candidate.label_set)
                self._new_layer = result.layer
                result.layer.opacity = load_preferences().label_opacity
                self._viewer.add_layer(result.layer)
        except (TransUNetError, MemoryError) as error:
            self.message.emit(error_sentence(error))
            return
        named = result.label_set
        if unnamed := [organ for organ in request.organs if named.get(organ.value) is None]:
            result.rename(LabelSet((*named, *unnamed)))  # deleted, say, since another run named them
        result.checkpoints |= {candidate.path}
        self._sessions.set_current(result)
        self._last = request = replace(request, into=result)
        read = (lambda: fingerprinted_volume(image)) if volume is None else (lambda: volume)
        worker = SegmentationWorker(
            request,
            self._cache,
            read,
            numbers=[slice_numbers(self._viewer, image, axis) for axis in range(3)],
            position=position_in_view(self._viewer, image),
        )
        run = self.run = SegmentationRun(self._viewer, request, worker, self)
        run.progressed.connect(self.progressed)
        run.wrote.connect(partial(self.autosave, result))
        run.finished.connect(self._on_finished)
        self._statuses.pop(result.layer, None)
        self._confirm.withdraw()
        self.started.emit()
        run.start()

    def _ask_about_file(self, request: RunRequest, place: LabelsPlace) -> None:
        """Labels that memory cannot hold go into the image's file, where a person says so or has said so."""
        stream = partial(self._stream, request, place)
        if place.unfinished:
            stream()
        elif place.folder.exists():
            self._confirm.ask(
                f"{inside(place)} is there already. Segment anew and replace it?",
                yes="Replace",
                no="Show it",
                on_yes=partial(stream, overwrite=True),
                on_no=partial(self._show_written, request.image, place),
            )
        else:
            self._confirm.ask(
                question_about(request, place),
                yes="Write into the OME-Zarr",
                no="Cancel",
                on_yes=stream,
                on_no=self.refused.emit,
            )

    def _stream(self, request: RunRequest, place: LabelsPlace, *, overwrite: bool = False) -> None:
        if self.run is not None or request.image not in self._viewer.layers:
            return
        run = self.run = StreamedRun(
            self._viewer, request, self._cache, place, overwrite=overwrite, parent=self
        )
        run.progressed.connect(self.progressed)
        run.finished.connect(self._on_streamed)
        self._statuses.pop(request.image, None)
        self.started.emit()
        run.start()

    def _on_streamed(self, outcome: RunOutcome, sentence: str) -> None:
        run, self.run = self.run, None
        if not isinstance(run, StreamedRun):
            return
        run.deleteLater()
        kept = ResultStatus(sentence, outcome.done, outcome.total, outcome.volumes)
        self._statuses[run.image] = kept
        if isinstance(outcome.error, ExistsError):
            self._confirm.ask(
                f"{inside(run.place)} was started with another checkpoint or other options. Start again?",
                yes="Start again",
                no="Cancel",
                on_yes=partial(self._stream, run.request, run.place, overwrite=True),
                on_no=self.refused.emit,
            )
        self.finished.emit(outcome, sentence)

    def _show_written(self, image: Image, place: LabelsPlace) -> None:
        try:
            add_written_labels(self._viewer, image, place, *written_labels(place, image))
        except TransUNetError as error:
            self.message.emit(error_sentence(error))

    def go_on(self, outcome: RunOutcome, *, here: bool) -> None:
        """Compute what the last run did not, where it was, or on this machine."""
        last = self._last
        if last is None:
            return
        settings = replace(last.settings, cluster=None) if here else last.settings
        self.start(replace(last, settings=settings, slices=outcome.missing or None, known=outcome.known))

    def cancel(self) -> None:
        """The run ends after the current batch and keeps what it has."""
        if self.run is not None:
            self.run.stop()

    def detach(self) -> None:
        """Nobody watches any more: end the run, and let the networks go."""
        if (run := self.run) is not None:
            run.abandon()
            self._abandoned = run
        self._tasks.drop()
        self._cache.clear()
        self._ahead = None

    def unfinished(self) -> list[Unfinished]:
        """What the window has to wait for that closes now."""
        left, run = [], self._abandoned
        if run is not None and not run.loading:  # what only loads is dropped: it ends by itself
            left.append(Unfinished("the segmentation's last slices", lambda: run.wait(0)))
        for layer in self._viewer.layers:
            result = self._sessions.result_of(layer)
            autosave = autosave_of(result) if result is not None else None
            if autosave is not None:
                autosave.close(wait=False)
                self._autosaves.add(autosave)
        return left + [
            Unfinished(f"the saving of {autosave.result.quoted_name}", partial(_is_saved, autosave))
            for autosave in self._autosaves
            if autosave.saving
        ]

    def _on_finished(self, outcome: RunOutcome) -> None:
        run, self.run = self.run, None
        if not isinstance(run, SegmentationRun):
            return
        layer, session = run.result.layer, run.result.session
        run.deleteLater()
        new_layer, self._new_layer = self._new_layer, None
        if outcome.done == 0 and layer is new_layer and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        sentences = (
            outcome_sentence(outcome, session.names),
            conflict_sentence(outcome.conflicts, outcome.numbers.number),
            reopened_sentence(outcome.reopened, run.reviewed_numbers.number),
            across_sentence(outcome.axis, session.axis) if outcome.done else "",
        )
        sentence = " ".join(part for part in sentences if part)
        if layer in self._viewer.layers:
            volumes = outcome.volumes if outcome.whole else {}
            kept = outcome if outcome.error is None else None
            self._statuses[layer] = ResultStatus(sentence, outcome.done, outcome.total, volumes, kept)
            self.autosave(run.result)
        elif outcome.done or autosave_of(run.result) is not None:
            # The labels went while it ran, by the person or with the window: what it found can be restored.
            autosave = autosave_of(run.result) or AutosaveController(self._viewer, run.result, run.image)
            self._autosaves.add(autosave)
            self._last_saves.append(autosave)
            autosave.touch()
            autosave.close(wait=False)
        self.finished.emit(outcome, sentence)

    # -- its labels -----------------------------------------------------------------------------------------

    def status_of(self, layer: Image | Labels | None) -> ResultStatus | None:
        """What was said about labels, or about an image whose labels went into its file; None where no run ended."""
        return self._statuses.get(layer) if layer is not None else None

    def set_volumes(self, result: Result, volumes: Mapping[int, float]) -> None:
        """The volumes of a result's organs are others, because it was edited; what is said of them, too."""
        status, names = self._statuses[result.layer], result.session.names
        sentence, outcome = status.sentence, status.outcome
        if outcome is not None and outcome.whole:
            before, outcome = outcome_sentence(outcome, names), replace(outcome, volumes=dict(volumes))
            sentence = sentence.replace(before, outcome_sentence(outcome, names))
        self._statuses[result.layer] = replace(status, sentence=sentence, volumes=volumes, outcome=outcome)

    def rename(self, result: Result, candidate: CheckpointInfo) -> None:
        """Give a result the names that were picked for its checkpoint."""
        result.rename(candidate.label_set)
        result.session.names = candidate.label_set.names
        status = self._statuses.get(result.layer)
        if status is not None:
            self._statuses[result.layer] = status.renamed(result.session.names)

    def restored(self, result: Result) -> None:
        """Labels of an earlier session were put back."""
        self.autosave(result)
        run = result.session.runs[-1] if result.session.runs else None
        done, total = (run.slices, run.total) if run is not None and not run.complete else (0, 0)
        self._statuses[result.layer] = ResultStatus(restored_sentence(done, total), done, total, {})

    def autosave(self, result: Result) -> None:
        """From now on, what is done to a result is saved by itself."""
        if (autosave := save_soon(self._viewer, result)) is not None:
            self._autosaves.add(autosave)


def _is_saved(autosave: AutosaveController) -> bool:
    return not autosave.saving
