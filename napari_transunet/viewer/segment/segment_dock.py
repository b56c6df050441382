"""The dock *Segment volume*: puts its parts together and decides what happens when."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QGridLayout,
    QLabel,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_transunet.errors import TransUNetError
from napari_transunet.inference.compatibility import doubt_about, doubt_about_augmentation
from napari_transunet.viewer.layers.fingerprints import fingerprinted_volume
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, looks_like_labels, volume_of
from napari_transunet.viewer.layers.slice_numbers import is_outside
from napari_transunet.viewer.segment.advanced import AdvancedOptions
from napari_transunet.viewer.segment.checkpoint_chooser import (
    Candidate,
    CheckpointChooser,
    VariantChooser,
    find_checkpoints,
    find_default,
    look_at,
)
from napari_transunet.viewer.segment.device_chooser import DeviceChooser, find_devices
from napari_transunet.viewer.segment.predictors import PredictorCache, PredictorSettings, load_engine
from napari_transunet.viewer.segment.result_panel import ResultPanel
from napari_transunet.viewer.segment.run_bar import RunBar
from napari_transunet.viewer.segment.segmentation_run import (
    RunOutcome,
    RunProgress,
    RunRequest,
    SegmentationRun,
)
from napari_transunet.viewer.segment.show_volume import show_volume
from napari_transunet.viewer.segment.volume_loader import VolumeLoader
from napari_transunet.viewer.sessions.autosave_controller import (
    AutosaveController,
    autosave_of,
    start_autosave,
)
from napari_transunet.viewer.sessions.recovery import Recovery, recovery_question
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.closing import Unfinished, wait_for
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.dock_events import DockEvents
from napari_transunet.viewer.widgets.fitting_area import FittingArea
from napari_transunet.viewer.widgets.labels_chooser import LabelsChooser
from napari_transunet.viewer.widgets.messages import (
    across_sentence,
    conflict_sentence,
    edits_sentence,
    error_sentence,
    outcome_detail,
    outcome_sentence,
    progress_sentence,
    reopened_sentence,
    restored_sentence,
)
from napari_transunet.viewer.widgets.preferences import load_preferences, watch_preferences
from napari_transunet.viewer.widgets.tab_group import join_tabs
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.viewer.widgets.volume_chooser import VolumeChooser
from napari_transunet.viewer.widgets.widget_state import WidgetState

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.annotation.session_store import SessionInfo
    from napari_transunet.inference.options import PredictorOptions
    from napari_transunet.viewer.export.exporter import Exporter
    from napari_transunet.viewer.segment.device_chooser import FoundDevice
    from napari_transunet.viewer.sessions.results import Result

logger = logging.getLogger(__name__)

_READY = "Ready. The slice in view comes first, then its neighbours."
_PATIENCE = 20.0  # s to wait for the current batch when the window closes


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


@dataclass(frozen=True)
class _Plan:
    """A run as it was asked for, before its questions are answered; `into` no labels it makes new ones.

    `again` leaves reviewed slices alone; `values` are the label values of the network's classes, None where they are
    the same.
    """

    image: Image
    candidate: Candidate
    only_this_slice: bool
    into: Result | None = None
    again: bool = False
    values: tuple[int, ...] | None = None


class SegmentDock(QWidget):
    """The widget behind *Plugins > TransUNet > Segment volume*.

    `run_started` is emitted when a run begins, `run_finished` with its `RunOutcome` when it is over and its
    result drawn.

    Parameters
    ----------
    napari_viewer
        The viewer whose layers are segmented.
    """

    dock_name = docks.SEGMENT

    run_started = Signal()
    run_finished = Signal(object)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # Plugins get the viewer in a wrapper that slows down every access to a layer in the drawing loop.
        self._viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._run: SegmentationRun | None = None
        self._sessions = sessions_of(self._viewer)
        self._begun: Labels | None = None  # the labels layer that was made for the run that goes on
        self._newest: Callable[[], Any] = lambda: None  # the image that came last
        self._wants_new = False
        self._cache = PredictorCache()
        self._tasks = BackgroundTasks(self)
        self._ended: list[AutosaveController] = []  # whose labels went while a run wrote into them
        self._heard: weakref.WeakSet[AutosaveController] = weakref.WeakSet()
        self._statuses: weakref.WeakKeyDictionary[Labels, ResultStatus] = weakref.WeakKeyDictionary()
        self._attached = False
        self._stop_watching: Callable[[], None] = lambda: None
        preferences = load_preferences()

        self.volume = VolumeChooser(self._viewer, self)
        self.labels = LabelsChooser(self)
        self.checkpoint = CheckpointChooser(self)
        self.variant = VariantChooser(self)
        self.device = DeviceChooser(preferences.options.device, self)
        self.advanced = AdvancedOptions(preferences.options, self)
        self.bar = RunBar(self)
        self.question = ConfirmBar(self)
        self.panel = ResultPanel(self._viewer, self)
        self.loader = VolumeLoader(self._viewer, self)
        self.recovery = Recovery(self._viewer, self)
        self._status = QLabel(self)
        self._dock_events = DockEvents(self)
        self._lay_out()
        self._widget_state = WidgetState(self, "segment", ("advanced", "orthogonal_planes", "mirror_tta"))
        self._connect()
        self._attach()

    @property
    def _predictor_options(self) -> PredictorOptions:
        return replace(self.advanced.options, device=self.device.device)

    @property
    def running(self) -> bool:
        """Whether a run is going on."""
        return self._run is not None

    @property
    def ready(self) -> bool:
        """Whether a run can be started now."""
        return self._why_not() is None and not self.running

    @property
    def exporter(self) -> Exporter:
        """What writes the labels; the demo uses it with a path instead of a dialog."""
        return self.panel.exporter

    @property
    def status(self) -> str:
        """The sentence in the status line."""
        return self._status.text()

    @property
    def result(self) -> Result | None:
        """The labels of the chosen volume that are meant: those that were chosen or used last."""
        image = self.volume.layer
        return None if image is None or self._wants_new else self._sessions.result_on(image)

    def add_checkpoint(self, path: str | Path) -> None:
        """Look at a checkpoint file, list it and choose it; what is wrong with it is said in its line."""
        path = Path(path)
        self._set_status(f"Looking at {path.name} …")

        def listed(candidate: Candidate) -> None:
            self.checkpoint.add(candidate)
            self._set_status(candidate.problem or f"{candidate.title}: {candidate.summary}.")

        self._tasks.run(lambda: look_at(path), listed, self._set_status, what=f"Looking at {path.name}")

    def segment_volume(self) -> None:
        """What the button *Segment volume* does."""
        self._ask_to_run(only_this_slice=False)

    def segment_slice(self) -> None:
        """What the button *This slice* does."""
        self._ask_to_run(only_this_slice=True)

    def review(self) -> None:
        """What the button *Review these labels* does: the other dock comes to the front, with these labels."""
        if self.panel.layer is not None:
            docks.show_dock(self._viewer, docks.REVIEW, tabify=True).follow(self.panel.layer)

    def segment_again(
        self, result: Result, candidate: Candidate, values: tuple[int, ...] | None = None
    ) -> str | None:
        """Choose a checkpoint and let it label anew what is neither edited nor reviewed: one undo step.

        `values` are the label values of the network's classes; None where they are the same. Returns why it cannot be
        done now, None where it has begun.
        """
        image = self._sessions.image_of(result)
        if self.running:
            return "Wait until the segmentation is done, or cancel it."
        if image is None or image not in self._viewer.layers:
            return "The image of these labels is gone."
        self.checkpoint.add(candidate)
        self.volume.choose(image)
        result.session.names = dict((candidate.label_set if values is None else result.label_set).names)
        self._start(_Plan(image, candidate, only_this_slice=False, into=result, again=True, values=values))
        return None if self.running else self.status

    def cancel(self) -> None:
        """What the button *Cancel* does: the run ends after the current batch and keeps what it has."""
        if self._run is not None:
            self._run.stop()

    # -- construction ---------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        form = QGridLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setVerticalSpacing(6)
        form.setHorizontalSpacing(8)
        form.setColumnStretch(1, 1)
        rows: tuple[tuple[str, QWidget], ...] = (
            ("Volume", self.volume),
            ("Labels", self.labels),
            ("Checkpoint", self.checkpoint),
            ("Names", self.checkpoint.names),
            ("Variant", self.variant),
            ("Device", self.device),
        )
        for row, (text, chooser) in enumerate(rows):
            label = QLabel(text, self)
            label.setContentsMargins(0, 4, 0, 0)
            form.addWidget(label, row, 0, Qt.AlignmentFlag.AlignTop)
            form.addWidget(chooser, row, 1)
            if chooser is self.checkpoint.names:
                self.checkpoint.names.set_label(label)

        self._status.setObjectName("status")
        self._status.setWordWrap(True)
        self._status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
        self._status.setMinimumHeight(34)
        self._status.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)

        # What is chosen once may scroll away in a low window; the buttons, what goes on and the result may not.
        choices = QWidget(self)
        above = QVBoxLayout(choices)
        above.setContentsMargins(0, 0, 0, 0)
        above.setSpacing(6)
        above.addLayout(form)
        above.addWidget(self.advanced)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.setSpacing(6)
        for widget in (FittingArea(choices, self), self.bar, self.question, self._status, self.panel):
            layout.addWidget(widget)
        layout.addStretch(1)

    def _connect(self) -> None:
        self.volume.changed.connect(self._on_volume)
        self.volume.picked.connect(self._on_volume_picked)
        self.labels.chosen.connect(self._on_labels)
        self.volume.open_button.clicked.connect(self.loader.ask_file)
        self.volume.open_menu.setMenu(self.loader.menu(self))
        self.checkpoint.changed.connect(self._on_checkpoint)
        self.checkpoint.renamed.connect(self._on_names)
        self.checkpoint.browsed.connect(self.add_checkpoint)
        self.variant.wanted.connect(self._on_variant_wanted)
        self.device.changed.connect(self._on_options)
        self.advanced.changed.connect(self._on_options)
        self.bar.segment_volume.connect(self.segment_volume)
        self.bar.segment_slice.connect(self.segment_slice)
        self.bar.cancel.connect(self.cancel)
        self.loader.started.connect(self._set_status)
        self.loader.failed.connect(self._set_status)
        self.loader.opened.connect(self._on_opened)
        self.loader.labels_opened.connect(self._on_labels_opened)
        self.loader.choice_needed.connect(self._on_choice_needed)
        self.loader.cancelled.connect(self._refresh)
        self.recovery.found.connect(self._on_saved_labels)
        self.recovery.restored.connect(self._on_restored)
        self.recovery.failed.connect(self._set_status)
        self.panel.message.connect(self._set_status)
        self.panel.edited.connect(self._on_edited)
        self.panel.review_wanted.connect(self.review)
        self._dock_events.settled.connect(lambda: join_tabs(self, "Segment volume"))
        self._dock_events.arrived.connect(self._attach)
        self._dock_events.left.connect(self._detach)
        self._dock_events.window_closed.connect(self._shut_down)

    def _attach(self) -> None:
        """Follow the viewer; also when a closed dock is shown again."""
        if self._attached:
            return
        self._attached = True
        self.volume.attach()
        self._viewer.events.theme.connect(self._on_theme)
        self._on_theme()
        self._viewer.layers.events.removed.connect(self._on_layers)
        self._viewer.layers.events.inserted.connect(self._on_layers)
        self._sessions.changed.connect(self._on_sessions)
        self._stop_watching = watch_preferences(self._on_preferences)
        self._tasks.run(find_devices, self._on_devices, self._set_status, what="Looking for devices")
        self._list_checkpoints()
        self._refresh()

    def _detach(self) -> None:
        """Let go of everything, because the dock was closed: no timer, no callback and no run goes on."""
        if not self._attached:
            return
        self._attached = False
        self._widget_state.keep()
        if self._run is not None:
            self._run.abandon()
        self._tasks.drop()
        self._stop_watching()
        self.panel.detach()
        self.recovery.detach()
        self.volume.detach()
        self._viewer.events.theme.disconnect(self._on_theme)
        self._viewer.layers.events.removed.disconnect(self._on_layers)
        self._viewer.layers.events.inserted.disconnect(self._on_layers)
        self._sessions.changed.disconnect(self._on_sessions)
        self._cache.clear()

    def _shut_down(self) -> None:
        """The window closes: leave no thread behind, and wait in sight for what is not saved or written yet."""
        run = self._run
        self._detach()
        left = []
        if run is not None and not run.loading:  # what only loads is dropped: it ends by itself
            left.append(Unfinished("the segmentation's last slices", lambda: run.wait(0)))
        for layer in self._viewer.layers:
            result = self._sessions.result_of(layer)
            autosave = autosave_of(result) if result is not None else None
            if autosave is not None:
                autosave.close(wait=False)
                self._heard.add(autosave)
        left.extend(
            Unfinished(f"the saving of {autosave.result.quoted_name}", partial(_is_saved, autosave))
            for autosave in self._heard
            if autosave.saving
        )
        if not wait_for(left, _PATIENCE, self):
            names = ", ".join(job.name for job in left if not job.done())
            logger.warning("Not done within %d seconds: %s.", _PATIENCE, names)
        self.exporter.finish_in_sight(self)

    # -- what can be chosen ---------------------------------------------------------------------------------

    def _list_checkpoints(self) -> None:
        folder = load_preferences().checkpoint_folder
        self._tasks.run(
            lambda: (find_checkpoints(folder), find_default()),
            self._on_checkpoints,
            self._on_no_checkpoints,
            what="Looking for checkpoints",
        )

    def _on_checkpoints(self, found: tuple[list[Candidate], Path | None]) -> None:
        candidates, default = found
        self.checkpoint.show_candidates(candidates, prefer=default)
        self._suggest_checkpoint()

    def _on_no_checkpoints(self, sentence: str) -> None:
        self.checkpoint.show_candidates([])
        self._set_status(sentence)

    def _on_devices(self, devices: Sequence[FoundDevice]) -> None:
        self.device.show_devices(devices)
        self._tasks.run(load_engine, lambda _: None)

    def _on_preferences(self) -> None:
        self._list_checkpoints()

    def _on_opened(self, layer: Any) -> None:
        self.volume.choose(layer)
        self._refresh()

    def _offer_as_labels(self) -> None:
        """Ask about the newest image if it looks like labels of another one, however it was opened."""
        layer = self._newest()
        if not self._attached or self.running or layer is None or layer not in self._viewer.layers:
            return
        others = self._sessions.other_images_on_grid(layer) if looks_like_labels(layer) else []
        if others:
            self.question.ask(
                f"“{layer.name}” looks like labels of “{others[0].name}”, on whose grid it lies. Open it as labels?",
                yes="Open as labels",
                no="Keep as an image",
                on_yes=lambda: self.loader.reopen_as_labels(layer),
                on_no=self._refresh,
            )

    def _on_choice_needed(self, _several: Any) -> None:
        self._set_status("There are several volumes; choose one in the list.")

    def _on_volume_picked(self, image: Image) -> None:
        if image is not None and self.volume.problem is None:
            show_volume(self._viewer, self._sessions, image)

    def _on_labels(self, layer: Labels | None) -> None:
        """A person chose labels of the volume, or new ones."""
        self.question.withdraw()
        image = self.volume.layer
        self._wants_new = layer is None
        if layer is None or image is None:
            self._refresh()
            return
        try:
            self._sessions.set_current(self._sessions.assign_image(layer, image))
        except TransUNetError as error:
            self._refresh()
            self._set_status(str(error))

    def _on_labels_opened(self, layer: Labels) -> None:
        result = self._sessions.result_of(layer)
        image = self._sessions.image_of(result) if result is not None else None
        if image is not None:
            self.volume.choose(image)
            self._refresh()
            self._set_status(f"“{layer.name}” opened as labels of “{image.name}”.")
        elif self._sessions.images_on_grid_of(layer):
            self._set_status(
                f"“{layer.name}” lies on the grid of several images; choose it under “Labels” of its image."
            )
        else:
            self._set_status(
                f"“{layer.name}” does not lie on the grid of an image that is open; open its scan."
            )

    def _on_sessions(self) -> None:
        self._wants_new = False
        self._refresh()

    def _on_volume(self) -> None:
        self.question.withdraw()
        self._wants_new = False
        self._suggest_checkpoint()
        self._refresh()
        image = self.volume.layer
        if image is not None and not self.running:
            self.recovery.find_saved(image)

    def _on_saved_labels(self, image: Image, info: SessionInfo, others: int) -> None:
        if self.running or self.question.open or self.volume.layer is not image:
            return
        self.question.ask(
            recovery_question(info, others),
            yes="Restore",
            no="Not now",
            on_yes=lambda: self.recovery.restore(image, info),
            on_no=self._refresh,
        )

    def _on_restored(self, result: Result) -> None:
        self._watch_autosave(result)
        run = result.session.runs[-1] if result.session.runs else None
        done, total = (run.slices, run.total) if run is not None and not run.complete else (0, 0)
        self._statuses[result.layer] = ResultStatus(restored_sentence(done, total), done, total, {})
        self._refresh()

    def _watch_autosave(self, result: Result) -> None:
        """From now on, what is done to a result is saved by itself."""
        autosave = start_autosave(self._viewer, result)
        if autosave is None:
            return
        if autosave not in self._heard:
            self._heard.add(autosave)
            autosave.problem.connect(self._set_status)
        autosave.touch()

    def _suggest_checkpoint(self) -> None:
        """Choose what fits the volume, where that can be told without computing its voxels."""
        image = self.volume.layer
        if image is not None and self.volume.problem is None and not is_lazy(image):
            self.checkpoint.suggest_for(volume_of(image))

    def _on_checkpoint(self) -> None:
        self.question.withdraw()
        candidate = self.checkpoint.candidate
        self.variant.show_variants(candidate, self.checkpoint.candidates)
        if candidate is not None and candidate.problem is None:
            self.advanced.offer_sizes(candidate.img_size, candidate.patch or 16)
            image = self.volume.layer
            same = self._sessions.result_on(image, candidate.label_set) if image is not None else None
            if same is not None and same is not self.result:
                self._sessions.set_current(same)
        self._refresh()

    def _on_names(self) -> None:
        """Other names were picked for the classes: also those of labels that are there already change."""
        self.question.withdraw()
        candidate = self.checkpoint.candidate
        if candidate is None:
            return
        possible = [label_set.names for label_set in candidate.namings]
        for layer in self._sessions.recently_used():
            result = self._sessions.result_of(layer)
            if result is None or result.checkpoints != {candidate.path}:
                continue
            if result.label_set.names not in possible:
                continue
            result.rename(candidate.label_set)
            result.session.names = candidate.label_set.names
            story = self._statuses.get(result.layer)
            if story is not None:
                self._statuses[result.layer] = story.renamed(result.session.names)
        self._refresh()

    def _on_variant_wanted(self, name: str) -> None:
        for candidate in self.checkpoint.candidates:
            if candidate.variant == name and candidate.problem is None:
                self.checkpoint.choose(candidate)
                return

    def _on_options(self) -> None:
        self.question.withdraw()
        self._refresh()

    def _on_layers(self, event: Any = None) -> None:
        self._refresh()
        if event is not None and event.type == "inserted" and event.value._type_string == "image":
            # Dropped onto the window, perhaps; after this event, when everybody knows the layer.
            self._newest = weakref.ref(event.value)
            QTimer.singleShot(0, self._offer_as_labels)

    def _on_theme(self, _event: Any = None) -> None:
        from napari.utils.theme import get_theme

        self.bar.set_accent(get_theme(self._viewer.theme).current.as_hex())

    def _why_not(self) -> str | None:
        """Why no run can be started; None where one can."""
        return self.volume.problem or self.checkpoint.problem or self.advanced.problem

    # -- running --------------------------------------------------------------------------------------------

    def _ask_to_run(self, *, only_this_slice: bool) -> None:
        image, candidate = self.volume.layer, self.checkpoint.candidate
        if self.running or self._why_not() is not None or image is None or candidate is None:
            return
        if only_this_slice and is_outside(self._viewer, image):
            self._set_status(f"The slider stands outside of “{image.name}”; go to one of its slices first.")
            return
        self._ask_about_fit(_Plan(image, candidate, only_this_slice))

    def _ask_about_fit(self, plan: _Plan) -> None:
        card, doubts = plan.candidate.card, []
        if card is not None:
            if not is_lazy(plan.image):
                doubts.append(doubt_about(volume_of(plan.image), card))
            doubts.append(doubt_about_augmentation(card, self._predictor_options))
        doubt = " ".join(sentence for sentence in doubts if sentence)
        if not doubt:
            self._ask_about_labels(plan)
            return
        self.question.ask(
            f"{doubt} Segment anyway?",
            yes="Segment anyway",
            no="Cancel",
            on_yes=lambda: self._ask_about_labels(plan),
            on_no=self._refresh,
        )

    def _ask_about_labels(self, plan: _Plan) -> None:
        """Labels that no run made are changed by one only where a person says so."""
        into = self._destination()
        if into is None or into.created_by_run or into.session.runs or not into.layer.data.any():
            self._start(replace(plan, into=into))
            return
        self.question.ask(
            f"“{into.layer.name}” was not made by a run. Shall this one replace what you did not edit in it?",
            yes="Replace",
            no="Make new labels",
            on_yes=lambda: self._start(replace(plan, into=into)),
            on_no=lambda: self._start(plan),
        )

    def _destination(self) -> Result | None:
        """The labels that the next run would write into; None where it would make new ones."""
        image, candidate, shown = self.volume.layer, self.checkpoint.candidate, self.result
        if image is None or candidate is None or candidate.problem is not None or self._wants_new:
            return None
        if shown is not None and shown.session.names == candidate.label_set.names:
            return shown
        other = self._sessions.result_on(image, candidate.label_set)
        return other if other is not None and other.created_by_run else None

    def _start(self, plan: _Plan) -> None:
        image, candidate = plan.image, plan.candidate
        if self.running or image not in self._viewer.layers:
            return
        try:
            volume = None if is_lazy(image) else volume_of(image)
            result, self._begun = plan.into, None
            if result is None or result.layer not in self._viewer.layers or not result.lies_on(image):
                result = self._sessions.new_result(image, volume or geometry_of(image), candidate.label_set)
                self._begun = result.layer
                result.layer.opacity = load_preferences().label_opacity
                self._viewer.add_layer(result.layer)
        except TransUNetError as error:
            self._set_status(str(error))
            return
        except MemoryError as error:
            self._set_status(error_sentence(error))
            return
        result.checkpoints |= {candidate.path}
        self._sessions.set_current(result)
        request = RunRequest(
            settings=PredictorSettings(
                candidate.path, self._predictor_options, img_size=self.advanced.img_size
            ),
            checkpoint_name=candidate.name,
            cache=self._cache,
            volume=(lambda: fingerprinted_volume(image)) if volume is None else (lambda: volume),
            only_this_slice=plan.only_this_slice,
            between=None if plan.again else self.advanced.between,
            keep_reviewed=plan.again,
            values=plan.values,
        )
        self._run = SegmentationRun(self._viewer, image, result, request, self)
        self._run.progressed.connect(self._on_progress)
        self._run.wrote.connect(partial(self._watch_autosave, result))
        self._run.finished.connect(self._on_finished)
        self._statuses.pop(result.layer, None)
        self.question.withdraw()
        self._refresh()
        self.run_started.emit()
        self._run.start()

    def _on_progress(self, progress: RunProgress) -> None:
        self.bar.show_running(progress)
        self._set_status(progress_sentence(progress))

    def _on_finished(self, outcome: RunOutcome) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        layer = run.result.layer
        run.deleteLater()
        begun, self._begun = self._begun, None
        if outcome.done == 0 and layer is begun and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)
        told = (
            outcome_sentence(outcome, run.result.session.names),
            conflict_sentence(outcome.conflicts, outcome.numbers.number),
            reopened_sentence(outcome.reopened, run.reviewed_numbers.number),
            across_sentence(outcome.axis, run.result.session.axis) if outcome.done else "",
        )
        sentence = " ".join(part for part in told if part)
        if layer in self._viewer.layers:
            volumes = outcome.volumes if outcome.whole else {}
            kept = outcome if outcome.error is None else None
            self._statuses[layer] = ResultStatus(sentence, outcome.done, outcome.total, volumes, kept)
            self._watch_autosave(run.result)
        elif outcome.done:
            # The labels went while it ran, by the person or with the window: what it found can be restored.
            autosave = autosave_of(run.result) or AutosaveController(self._viewer, run.result, run.image)
            self._heard.add(autosave)
            self._ended.append(autosave)
            autosave.touch()
            autosave.close(wait=False)
        self._refresh()
        self._set_status(sentence, outcome_detail(outcome))
        self.run_finished.emit(outcome)

    # -- the result -----------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Bring buttons, legend and status line in line with what is chosen."""
        if not self._attached:
            return
        running = self._run.result if self._run is not None else None
        result = running or self.result
        layer = result.layer if result is not None else None
        candidate = self.checkpoint.candidate
        usable = candidate is not None and candidate.problem is None
        self.panel.show_result(
            layer, self.volume.layer, candidate.label_set if candidate is not None and usable else None
        )
        wait = "Wait until the segmentation is done, or cancel it." if running is not None else None
        self._show_labels(layer)
        self.panel.set_locked(wait)
        self.labels.set_locked(wait)
        self.checkpoint.names.set_locked(wait)
        if running is not None:
            return
        story = self._statuses.get(layer) if layer is not None else None
        self.panel.legend.set_volumes(story.volumes if story is not None else {})
        self.bar.show_idle(
            self._why_not(),
            done=story.done if story is not None else 0,
            total=story.total if story is not None else 0,
        )
        if self.question.open:
            return
        self._set_status(
            self._why_not() or (story.sentence if story is not None else _READY),
            outcome_detail(story.outcome) if story is not None and story.outcome is not None else "",
        )
        if story is not None:
            self.panel.count_edits()

    def _show_labels(self, current: Labels | None) -> None:
        """Name the labels that are meant, and say what the next run does with them."""
        image = self.volume.layer
        if image is None:
            self.labels.show_labels((), None, "")
            return
        choices = [result.layer for result in self._sessions.results_on(image)]
        choices += self._sessions.unassigned_labels_on(image)
        into = self._destination()
        if current is None or self.running or self._why_not() is not None:
            told = ""
        elif into is None:
            told = "Segmenting makes new labels beside these."
        elif into.layer is current:
            told = "Segmenting writes into these labels; what you edited stays."
        else:
            told = f"Segmenting writes into “{into.layer.name}”."
        self.labels.show_labels(choices, current, told)

    def _on_edited(self, voxels: int, volumes: Mapping[int, float]) -> None:
        layer = self.panel.layer
        story = self._statuses.get(layer) if layer is not None else None
        result = self._sessions.result_of(layer)
        if story is not None and result is not None and _is_whole(result):
            story = self._statuses[result.layer] = replace(story, volumes=volumes)
            self.panel.legend.set_volumes(volumes)
        if story is not None and self._run is None and not self.question.open and self._why_not() is None:
            self._set_status(f"{story.sentence} {edits_sentence(voxels, bool(volumes))}".strip())

    def _set_status(self, sentence: str, detail: str = "") -> None:
        self._status.setText(sentence)
        self._status.setToolTip(detail)


def _is_whole(result: Result) -> bool:
    """Whether a run wrote every slice, so that what the labels hold are whole organs."""
    session = result.session
    return any(run.slices == session.shape[run.axis] for run in session.runs)


def _is_saved(autosave: AutosaveController) -> bool:
    return not autosave.saving
