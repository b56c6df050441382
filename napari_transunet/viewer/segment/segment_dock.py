"""The dock *Segment volume*: puts its parts together and decides what happens when."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFormLayout, QWidget

from napari_transunet.cluster.address import ClusterProblem
from napari_transunet.errors import TransUNetError, some
from napari_transunet.viewer.anatomy.anatomy import anatomy_of
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.grids import images_labelled_by
from napari_transunet.viewer.layers.slice_numbers import is_outside
from napari_transunet.viewer.segment.advanced import AdvancedOptions
from napari_transunet.viewer.segment.checkpoint_chooser import CheckpointChooser, VariantChooser
from napari_transunet.viewer.segment.checkpoint_controller import CheckpointController
from napari_transunet.viewer.segment.cluster_dialog import ClusterDialog
from napari_transunet.viewer.segment.device_chooser import DeviceChooser, find_devices
from napari_transunet.viewer.segment.labels_offer import labels_offer_of
from napari_transunet.viewer.segment.predictors import PredictorSettings
from napari_transunet.viewer.segment.preloading import load_engine, load_torch_libraries
from napari_transunet.viewer.segment.result_panel import ResultPanel
from napari_transunet.viewer.segment.run_bar import RunBar
from napari_transunet.viewer.segment.run_messages import RunRequest
from napari_transunet.viewer.segment.segmentation_controller import SegmentationController
from napari_transunet.viewer.segment.show_volume import show_volume
from napari_transunet.viewer.segment.volume_loader import VolumeLoader
from napari_transunet.viewer.sessions.recovery import Recovery, recovery_question
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.sessions.save_warning import SaveWarning
from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.closing import wait_for
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.dock_events import DockEvents
from napari_transunet.viewer.widgets.fitting_area import FittingArea
from napari_transunet.viewer.widgets.messages import edits_sentence, outcome_detail, progress_sentence
from napari_transunet.viewer.widgets.preferences import load_preferences
from napari_transunet.viewer.widgets.priority import spare_what_is_loaded
from napari_transunet.viewer.widgets.qt_helpers import column, single_shot, window_of
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.viewer.widgets.volume_chooser import LabelsChooser, VolumeChooser
from napari_transunet.viewer.widgets.widget_state import WidgetState

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.annotation.session_store import SessionInfo
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.cluster.address import ClusterAddress
    from napari_transunet.inference.devices import DeviceInfo
    from napari_transunet.viewer.export.exporter import Exporter
    from napari_transunet.viewer.segment.run_messages import RunOutcome, RunProgress
    from napari_transunet.viewer.sessions.results import Result

logger = logging.getLogger(__name__)

_READY = "Ready. The slice in view comes first, then its neighbours."
_KEPT = (
    *("advanced", "orthogonal_planes", "mirror_tta"),
    *("cluster_address", "cluster_ca", "cluster_cert", "cluster_key"),
)
_SHOWN = 50  # ms until a new dock is drawn; what imports torch begins then, for it slows the window down
_IDLE = 500  # ms without another choice, after which the network is made ready
_PATIENCE = 20.0  # s to wait for the current batch when the window closes


class SegmentDock(QWidget):
    """The widget behind *Plugins > TransUNet > Segment volume*.

    `run_started` is emitted when a run begins, `run_finished` with its `RunOutcome` when it is over and its
    result drawn.
    """

    dock_name = docks.SEGMENT

    run_started = Signal()
    run_finished = Signal(object)

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # Plugins get the viewer in a wrapper that slows down every access to a layer in the drawing loop.
        self._viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._sessions = sessions_of(self._viewer)
        self._wants_new = False
        self._tasks = BackgroundTasks(self)
        self._links = EventLinks()
        self._idle = single_shot(self, _IDLE, self._prepare)
        self._shown = single_shot(self, _SHOWN, self._look_around)
        preferences = load_preferences()

        self.volume = VolumeChooser(self._viewer, self)
        self.labels = LabelsChooser(self)
        self.checkpoint = CheckpointChooser(self)
        self.variant = VariantChooser(self)
        self.device = DeviceChooser(preferences.options.device, self)
        self.cluster_dialog = ClusterDialog(self)
        self.advanced = AdvancedOptions(preferences.options, self)
        self.checkpoints = CheckpointController(
            self.checkpoint, self.variant, self.advanced, self.volume, self
        )
        self.bar = RunBar(self)
        self.question = ConfirmBar(self)
        self.segmentation = SegmentationController(self._viewer, self.question, self)
        self.panel = ResultPanel(self._viewer, self)
        self.loader = VolumeLoader(self._viewer, self)
        self.recovery = Recovery(self._viewer, self)
        self._status = StatusLine("status", self)
        self._dock_events = DockEvents(self, "Segment volume", window_of(self._viewer))
        self._lay_out()
        self._widget_state = WidgetState(self, "segment", _KEPT)
        self.device.show_cluster(self.cluster_dialog.remembered(), choose=False)
        self._connect()
        self._attach()

    @property
    def running(self) -> bool:
        """Whether a run is going on."""
        return self.segmentation.run is not None

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

    def segment_volume(self, *, only_this_slice: bool = False) -> None:
        """What the buttons *Segment volume* and *This slice* do."""
        image, candidate = self.volume.layer, self.checkpoint.candidate
        if self.running or self._why_not() is not None or image is None or candidate is None:
            return
        if only_this_slice and is_outside(self._viewer, image):
            self._set_status(f"The slider is outside of “{image.name}”; go to one of its slices first.")
            return
        self.segmentation.ask(
            RunRequest(
                image,
                candidate,
                self._settings(candidate),
                only_this_slice=only_this_slice,
                between=self.advanced.between,
            ),
            self._destination,
        )

    def review(self) -> None:
        """What the button *Review these labels* does: the other dock comes to the front, with these labels."""
        if self.panel.layer is not None:
            docks.show_dock(self._viewer, docks.REVIEW).follow(self.panel.layer)

    def segment_again(
        self, result: Result, candidate: CheckpointInfo, values: tuple[int, ...] | None = None
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
        self.segmentation.start(
            RunRequest(image, candidate, self._settings(candidate), result, keep_reviewed=True, values=values)
        )
        return None if self.running else self.status

    def cancel(self) -> None:
        """What the button *Cancel* does: the run ends after the current batch and keeps what it has."""
        self.segmentation.cancel()

    # -- construction ---------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        form = self._form = QFormLayout()
        form.setVerticalSpacing(6)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows: tuple[tuple[str, QWidget], ...] = (
            ("Volume", self.volume),
            ("Labels", self.labels),
            ("Checkpoint", self.checkpoint),
            ("Names", self.checkpoint.names),
            ("Variant", self.variant),
            ("Device", self.device),
        )
        for text, chooser in rows:
            form.addRow(text, chooser)

        self._status.setMinimumHeight(34)
        self._status.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)

        # What is chosen once may scroll away in a low window; the buttons, what goes on and the result may not.
        choices = QWidget(self)
        column(form, self.advanced, within=choices, spacing=6)
        above = FittingArea(choices, self), self.bar, self.question, SaveWarning(self._viewer, self)
        column(*above, self._status, self.panel, None, within=self, spacing=6, margin=8)

    def _connect(self) -> None:
        self.volume.changed.connect(self._on_volume)
        self.volume.picked.connect(self._on_volume_picked)
        self.labels.chosen.connect(self._on_labels)
        self.volume.open_button.clicked.connect(self.loader.ask_file)
        self.volume.open_menu.setMenu(self.loader.menu(self))
        self.checkpoint.changed.connect(self._on_checkpoint)
        self.checkpoint.renamed.connect(self._on_names)
        self.checkpoints.message.connect(self._set_status)
        self.device.changed.connect(self._on_options)
        self.device.cluster_wanted.connect(self.cluster_dialog.open)
        self.cluster_dialog.chosen.connect(self._on_cluster)
        self.advanced.changed.connect(self._on_options)
        self.bar.segment_volume.connect(self.segment_volume)
        self.bar.segment_slice.connect(lambda: self.segment_volume(only_this_slice=True))
        self.bar.cancel.connect(self.cancel)
        self.loader.started.connect(self._set_status)
        self.loader.failed.connect(self._set_status)
        self.loader.opened.connect(self._on_opened)
        self.loader.labels_opened.connect(self._on_labels_opened)
        offer = labels_offer_of(self._viewer)
        offer.opened.connect(self._on_labels_opened)
        offer.kept.connect(self.volume.choose)
        offer.ask_in(self.question, lambda: self.running)
        self.loader.choice_needed.connect(
            lambda _several: self._set_status("There are several volumes; choose one in the list.")
        )
        self.loader.cancelled.connect(self._refresh)
        self.segmentation.started.connect(self._on_started)
        self.segmentation.progressed.connect(self._on_progress)
        self.segmentation.finished.connect(self._on_finished)
        self.segmentation.refused.connect(self._refresh)
        self.segmentation.message.connect(self._set_status)
        self.recovery.found.connect(self._on_saved_labels)
        self.recovery.restored.connect(self._on_restored)
        self.recovery.failed.connect(self._set_status)
        self.recovery.incomplete.connect(self._set_status)
        self.exporter.message.connect(self._set_status)
        self.panel.edited.connect(self._on_edited)
        self.panel.review_wanted.connect(self.review)
        self._dock_events.arrived.connect(self._attach)
        self._dock_events.left.connect(self._detach)
        self._dock_events.window_closed.connect(self._shut_down)

    def _attach(self) -> None:
        """Follow the viewer; also when a closed dock is shown again."""
        self.volume.attach()
        anatomy_of(self._viewer).attach(self)
        events = self._viewer.events, self._viewer.layers.events
        self._links.connect(self._on_theme, events[0].theme)
        self._links.connect(self._on_layers, events[1].removed, events[1].inserted)
        self._links.connect(self._on_sessions, self._sessions.changed)
        self._links.connect(self._on_selected, self._sessions.selected)
        self._on_theme()
        self._refresh()
        self._shown.start()

    def _look_around(self) -> None:
        """Find what can be chosen, once torch's libraries are loaded.

        Both imports below would wait for these, and with them, since the import holds Python's lock, the window.
        """
        self._tasks.run(load_torch_libraries, lambda _: self._find_choices())

    def _find_choices(self) -> None:
        self._tasks.run(find_devices, self._on_devices, self._set_status, what="Looking for devices")
        self.checkpoints.attach()

    def _detach(self) -> None:
        """Let go of everything, because the dock was closed: no timer, no callback and no run goes on."""
        self._widget_state.keep()
        self._idle.stop()
        self._shown.stop()
        self.segmentation.detach()
        self._tasks.drop()
        self.checkpoints.detach()
        self.panel.detach()
        self.recovery.detach()
        self.volume.detach()
        anatomy_of(self._viewer).detach(self)
        self._links.clear()

    def _shut_down(self) -> None:
        """The window closes: leave no thread behind, and wait in sight for what is not saved or written yet."""
        left = self.segmentation.unfinished()
        if not wait_for(left, _PATIENCE, self):
            names = ", ".join(job.name for job in left if not job.done())
            logger.warning("Not done within %d seconds: %s.", _PATIENCE, names)
        self.exporter.finish_in_sight(self)

    # -- what can be chosen ---------------------------------------------------------------------------------

    def _on_devices(self, found: tuple[Sequence[DeviceInfo], str]) -> None:
        self.device.show_devices(*found)
        self._tasks.run(load_engine, lambda _: spare_what_is_loaded(self._viewer))

    def _on_cluster(self, cluster: ClusterAddress) -> None:
        self.device.show_cluster(cluster, choose=True)
        self._widget_state.keep()

    def _on_opened(self, layer: Any) -> None:
        if not images_labelled_by(layer, self._viewer.layers):
            self.volume.choose(layer)
        self._refresh()

    def _on_volume_picked(self, image: Image) -> None:
        if image is not None and self.volume.problem is None:
            show_volume(self._viewer, self._sessions, image)

    def _on_labels(self, layer: Labels | None) -> None:
        """A person chose labels of the volume, or new ones."""
        self._withdraw()
        image = self.volume.layer
        self._wants_new = layer is None
        if layer is None or image is None:
            self._refresh()
            return
        try:
            result = self._sessions.assign_image(layer, image)
            self._sessions.set_current(result)
            told = result.session.coverage
        except TransUNetError as error:
            told = str(error)
            self._refresh()
        if told:
            self._set_status(told)

    def _on_labels_opened(self, layer: Labels) -> None:
        result = self._sessions.result_of(layer)
        image = self._sessions.image_of(result) if result is not None else None
        if result is not None and image is not None:
            self.volume.choose(image)
            self._refresh()
            told = f"“{layer.name}” opened as labels of “{image.name}”. {result.session.coverage}"
            self._set_status(told.strip())
        elif self._sessions.images_on_grid_of(layer):
            self._set_status(
                f"“{layer.name}” lies on the grid of several images; choose it under “Labels” of its image."
            )
        elif larger := self._sessions.images_covered_by(layer):
            names = some([f"“{one.name}”" for one in larger])
            self._set_status(
                f"“{layer.name}” covers a part of {names}; choose it under “Labels” to take it as labels of it."
            )
        else:
            self._set_status(
                f"“{layer.name}” does not lie on the grid of an image that is open; open its scan."
            )

    def _on_sessions(self) -> None:
        self._wants_new = False
        self._refresh()

    def _on_selected(self, layer: Labels) -> None:
        """A person selected labels: what is segmented and exported is theirs, also where they lie on another image."""
        result = self._sessions.result_of(layer)
        image = None if result is None else self._sessions.image_of(result)
        if (
            image is not None
            and image is not self.volume.layer
            and not self.running
            and not self.question.open
        ):
            self.volume.choose(image)

    def _on_volume(self) -> None:
        self._withdraw()
        self._wants_new = False
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
            on_yes=lambda: self._on_answered(info, image),
            on_no=lambda: self._on_answered(info),
            about=image,
        )

    def _on_answered(self, info: SessionInfo, restore_on: Image | None = None) -> None:
        self.recovery.dismiss(info)
        if restore_on is not None:
            self.recovery.restore(restore_on, info)
        self._refresh()

    def _withdraw(self) -> None:
        """Take back what was asked about a run; whether to restore labels hangs on their image and its labels alone."""
        image = self.volume.layer
        if image is None or self.question.about is not image or self._sessions.result_on(image) is not None:
            self.question.withdraw()

    def _on_restored(self, result: Result) -> None:
        self.segmentation.restored(result)
        self._refresh()

    def _on_checkpoint(self) -> None:
        self._withdraw()
        candidate, image = self.checkpoint.usable, self.volume.layer
        if candidate is not None and image is not None:
            same = self._sessions.result_on(image, candidate.label_set)
            if same is not None and same is not self.result:
                self._sessions.set_current(same)
        self._refresh()

    def _on_names(self) -> None:
        """Other names were picked for the classes: also those of labels that are there already change."""
        self._withdraw()
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
            self.segmentation.rename(result, candidate)
        self._refresh()

    def _on_options(self) -> None:
        self._withdraw()
        self._refresh()

    def _on_layers(self, _event: Any = None) -> None:
        self._refresh()

    def _on_theme(self, _event: Any = None) -> None:
        from napari.utils.theme import get_theme

        self.bar.set_accent(get_theme(self._viewer.theme).current.as_hex())

    def _why_not(self) -> str | None:
        """Why no run can be started; None where one can."""
        return self.volume.problem or self.checkpoint.problem or self.advanced.problem

    # -- running --------------------------------------------------------------------------------------------

    def _settings(self, candidate: CheckpointInfo) -> PredictorSettings:
        options = replace(self.advanced.options, device=self.device.device)
        return PredictorSettings(
            candidate.path, options, img_size=self.advanced.img_size, cluster=self.device.cluster
        )

    def _prepare(self) -> None:
        candidate = self.checkpoint.candidate
        if self._dock_events.here and self.ready and candidate is not None:
            self.segmentation.prepare(self._settings(candidate))

    def _destination(self) -> Result | None:
        """The labels that the next run would write into; None where it would make new ones."""
        image, candidate, shown = self.volume.layer, self.checkpoint.usable, self.result
        if image is None or candidate is None or self._wants_new:
            return None
        if shown is not None and shown.session.names == candidate.label_set.names:
            return shown
        other = self._sessions.result_on(image, candidate.label_set)
        return other if other is not None and other.created_by_run else None

    def _on_started(self) -> None:
        self._refresh()
        self.run_started.emit()

    def _on_progress(self, progress: RunProgress) -> None:
        self.bar.show_running(progress)
        self._set_status(progress_sentence(progress))
        if progress.on:
            self.device.show_runs_on(progress.on)

    def _on_finished(self, outcome: RunOutcome, sentence: str) -> None:
        self._refresh()
        self._set_status(sentence, outcome_detail(outcome))
        if isinstance(outcome.error, ClusterProblem):
            self._ask_to_go_on(outcome, sentence)
        self.run_finished.emit(outcome)

    def _ask_to_go_on(self, outcome: RunOutcome, sentence: str) -> None:
        """The cluster went away: what came stays, and the rest can be computed there or here."""
        self.device.show_runs_on("")
        self.question.ask(
            sentence,
            yes="Go on there" if outcome.done else "Try again",
            no="Go on here" if outcome.done else "Segment here",
            on_yes=lambda: self.segmentation.go_on(outcome, here=False),
            on_no=lambda: self.segmentation.go_on(outcome, here=True),
        )

    # -- the result -----------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Bring buttons, legend and status line in line with what is chosen."""
        if not self._dock_events.here:
            return
        run = self.segmentation.run
        running = run.result if run is not None else None
        result = running or self.result
        layer = result.layer if result is not None else None
        candidate = self.checkpoint.usable
        self._form.setRowVisible(self.checkpoint.names, candidate is not None and bool(candidate.presets))
        self.panel.show_result(layer, self.volume.layer, None if candidate is None else candidate.label_set)
        wait = "Wait until the segmentation is done, or cancel it." if self.running else None
        self._show_labels(layer)
        self.panel.set_locked(wait)
        self.labels.set_locked(wait)
        self.checkpoint.names.set_locked(wait)
        if self.running:
            return
        status = self.segmentation.status_of(self.volume.layer if layer is None else layer)
        self.panel.legend.set_volumes(status.volumes if status is not None else {})
        self.bar.show_idle(
            self._why_not(),
            done=status.done if status is not None else 0,
            total=status.total if status is not None else 0,
        )
        self._idle.start()
        if self.question.open and self.question.about is None:
            return
        self._set_status(
            self._why_not() or (status.sentence if status is not None else _READY),
            outcome_detail(status.outcome) if status is not None and status.outcome is not None else "",
        )
        if status is not None:
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
        status, result = self.segmentation.status_of(layer), self._sessions.result_of(layer)
        if status is None or result is None:
            return
        if _is_whole(result):
            self.segmentation.set_volumes(result, volumes)
            status = self.segmentation.status_of(layer) or status
            self.panel.legend.set_volumes(volumes)
        if not self.running and not self.question.open and self._why_not() is None:
            self._set_status(f"{status.sentence} {edits_sentence(voxels, bool(volumes))}".strip())

    def _set_status(self, sentence: str, detail: str = "") -> None:
        self._status.setText(sentence)
        self._status.setToolTip(detail)


def _is_whole(result: Result) -> bool:
    """Whether a run wrote every slice, so that what the labels hold are whole organs."""
    session = result.session
    return any(run.slices == session.shape[run.axis] for run in session.runs)
