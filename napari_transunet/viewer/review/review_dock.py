"""The dock *Review and correct*: puts its panels and their controllers together."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from napari.layers import Labels
from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QPushButton, QSizePolicy, QTableWidget, QWidget

from napari_transunet.viewer.anatomy.anatomy import anatomy_of
from napari_transunet.viewer.export.exporter import exporter_of
from napari_transunet.viewer.layers.brush_suspender import BrushSuspender
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layers import is_lazy
from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.adaptation_controller import AdaptationController
from napari_transunet.viewer.review.adaptation_panel import AdaptationPanel
from napari_transunet.viewer.review.attention_controller import AttentionController
from napari_transunet.viewer.review.attention_panel import AttentionPanel
from napari_transunet.viewer.review.click_picker import ClickPicker
from napari_transunet.viewer.review.compare_panel import ComparePanel
from napari_transunet.viewer.review.correction_controller import CorrectionController
from napari_transunet.viewer.review.correction_panel import REMEMBERED, CorrectionPanel
from napari_transunet.viewer.review.cursor_readout import CursorReadout
from napari_transunet.viewer.review.help_page import HelpPage
from napari_transunet.viewer.review.layer_chooser import LayerChooser
from napari_transunet.viewer.review.measure_panel import MeasurePanel
from napari_transunet.viewer.review.measurement_controller import MeasurementController
from napari_transunet.viewer.review.organ_controller import OrganController
from napari_transunet.viewer.review.organ_list import OrganList
from napari_transunet.viewer.review.overlay_layers import OverlayLayers
from napari_transunet.viewer.review.review_model import ReviewModel
from napari_transunet.viewer.review.review_panel import ReviewPanel
from napari_transunet.viewer.review.stroke_controller import StrokeController
from napari_transunet.viewer.segment.labels_offer import labels_offer_of
from napari_transunet.viewer.sessions.recovery import Recovery
from napari_transunet.viewer.sessions.save_warning import SaveWarning
from napari_transunet.viewer.sessions.sessions_dialog import SessionsDialog
from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.closing import Unfinished, wait_for
from napari_transunet.viewer.widgets.collapsible import CollapsibleSection
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.dock_events import DockEvents
from napari_transunet.viewer.widgets.fitting_area import FittingArea
from napari_transunet.viewer.widgets.keys import KeyBindings
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row, single_shot, window_of
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.viewer.widgets.widget_state import WidgetState

_PATIENCE = 120.0  # s that a window that closes waits for a step of learning to end
_SECTIONS = ("section_correct", "section_learn", "section_measure", "section_compare", "section_advanced")
"""Object names of the sections' headings, open or folded as they were left."""

_NO_RANGE = (
    "This image is computed where it is shown, so that strokes cannot be held to a range of its values."
)


class ReviewDock(QWidget):
    """The widget behind *Plugins > TransUNet > Review and correct*."""

    dock_name = docks.REVIEW

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # Plugins get the viewer in a wrapper that slows down every access to a layer in the drawing loop.
        viewer = self._viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._tasks = BackgroundTasks(self)
        self._waiting = False
        self._links = EventLinks()  # to the followed layer
        # Panels know numbers and signals alone.
        self.review = ReviewPanel(self)
        self.organs = OrganList(self)
        self.tools = CorrectionPanel(self)
        self.measures = MeasurePanel(self)
        self.comparison = ComparePanel(self)
        self.learning = AdaptationPanel(self)
        self.attention = AttentionPanel(self)
        self._confirm = ConfirmBar(self)
        self._status = StatusLine("review_status", self)
        # Controllers do what is asked for in them.
        self.model = model = ReviewModel(viewer, self)
        self.clicks = ClickPicker(viewer, self)
        self.overlays = OverlayLayers(model, self)
        self.corrections = CorrectionController(model, self.tools, self.clicks, self)
        self.strokes = StrokeController(model, self.corrections, self.tools, self.overlays, self.clicks, self)
        self.organ_actions = OrganController(model, self.corrections, self.organs, self._confirm, self)
        self.measurements = MeasurementController(model, self.measures, self.comparison, self.overlays, self)
        self.attention_maps = AttentionController(model, self.overlays, self.attention, self.clicks, self)
        self.adaptation = AdaptationController(model, self.learning, self)
        self.keys = KeyBindings()
        self.readout = CursorReadout(model, self.corrections)
        self.brush_suspender = BrushSuspender(viewer, self)
        self.exporter = exporter_of(viewer)
        self.recovery = Recovery(viewer, self)
        self.layers = LayerChooser(model, self)
        self._export = push_button(ACTIONS["export"].title, "review_export", self, self.export)
        self._sessions = push_button(
            "Saved…",
            "sessions",
            self,
            self.show_sessions,
            "Labels that were saved while you worked: restore, export, delete",
        )
        self._help = push_button(ACTIONS["help"].title, "help", self, self.show_help, ACTIONS["help"].hint)
        self._help_page: HelpPage | None = None
        self._sessions_dialog: SessionsDialog | None = None
        self._sections: dict[QWidget, CollapsibleSection] = {}
        self._opened: QWidget | None = None
        # What was just unfolded has its place only after the layout's turn.
        self._into_view = single_shot(self, 0, self._bring_into_view)
        self._dock_events = DockEvents(self, "Review and correct", window_of(viewer))
        self._lay_out()
        self._widget_state = WidgetState(self, "review", (*REMEMBERED, *_SECTIONS))
        self._connect()
        self._attach()

    @property
    def status(self) -> str:
        """The sentence in the status line."""
        return self._status.text()

    def follow(self, layer: Labels | None) -> None:
        """Review this labels layer."""
        self.review.finish_note()
        self.model.follow(layer)
        self._show_layer()
        self.layers.refresh()

    def export(self) -> None:
        """What the button *Export…* does: ask which formats, and where to."""
        if self.model.result is not None and self.model.disabled_reason is None:
            self.exporter.ask(self.model.result, self.model.image)

    def show_sessions(self) -> None:
        """Show the saved sessions; those of the image that is reviewed, or of the selected one, can be restored."""
        if self._sessions_dialog is None:
            self._sessions_dialog = SessionsDialog(self)
            self._sessions_dialog.restore_wanted.connect(self.recovery.restore)
        dialog, image = self._sessions_dialog, self.layers.restorable_image
        dialog.show_for(None, None)
        if image is not None:
            self._tasks.run(fingerprint_job(image), lambda found: dialog.show_for(image, found))

    def show_help(self) -> None:
        """Show or hide the page with all keys."""
        if self._help_page is None:
            self._help_page = HelpPage(self)
        self._help_page.setVisible(not self._help_page.isVisible())

    # -- construction ---------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        content = QWidget(self)  # what scrolls in a low window
        for title, name, panel in (
            ("Correct", "section_correct", self.tools),
            ("Learn", "section_learn", self.learning),
            ("Measure", "section_measure", self.measures),
            ("Compare", "section_compare", self.comparison),
            ("Advanced: attention", "section_advanced", self.attention),
        ):
            is_open = panel is self.tools
            self._sections[panel] = CollapsibleSection(title, panel, name, content, is_open=is_open)
        sections = column(*self._sections.values(), spacing=2)
        column(self.review.more, self.organs, sections, self.layers.notes, None, within=content, spacing=6)
        # Which labels, which slice, what was done and what to do next are always in sight.
        self._area = FittingArea(content, self)
        above = self.layers, self.review, self._area, self._confirm, SaveWarning(self._viewer, self)
        buttons = row((self._export, 1), (self._sessions, 1), (self._help, 1))
        below = self.tools.progress, self.tools.status, self._status, buttons
        column(*above, *below, None, within=self, spacing=6, margin=8)
        for child in self.findChildren(QWidget):
            if isinstance(child, QComboBox | QTableWidget):
                # They take what width there is, instead of making the dock as wide as the longest name.
                child.setSizePolicy(QSizePolicy.Policy.Ignored, child.sizePolicy().verticalPolicy())
            if isinstance(child, QPushButton):
                # A click leaves the keyboard to the canvas: Space moves the view and repeats no tool.
                child.setFocusPolicy(Qt.FocusPolicy.TabFocus)

    def _connect(self) -> None:
        model = self.model
        labels_offer_of(self._viewer).ask_in(self._confirm)
        model.overview_changed.connect(self._on_overview)
        model.slice_changed.connect(self._on_slice)
        model.message.connect(self.tools.status.setText)
        self.layers.chosen.connect(self.follow)
        self.layers.refreshed.connect(self._on_layers)
        self.review.slice_chosen.connect(model.go_to)
        self.review.next_wanted.connect(model.next_slice)
        self.review.marked.connect(lambda on: model.mark_reviewed(on, go_on=on))
        self.review.organ_chosen.connect(self._on_filter)
        self.review.note_changed.connect(model.note)
        self.review.conflict_wanted.connect(model.next_conflict)
        self.review.prediction_wanted.connect(lambda every: model.accept_prediction(everywhere=every))
        self.review.uncertainty_wanted.connect(self.overlays.show_uncertainty)
        self.organ_actions.listed.connect(self._on_organs)
        self.measurements.working.connect(self._open)
        self.learning.next_wanted.connect(model.next_slice_to_learn_from)
        self.tools.next_wanted.connect(model.next_slice_to_interpolate_from)
        self.learning.answered.connect(self._open)
        self.attention.turned.connect(lambda on: self._open(self.attention) if on else None)
        self.overlays.changed.connect(self._refresh)
        self.overlays.failed.connect(self._on_no_overlay)
        self.brush_suspender.suspended.connect(lambda: self.tools.status.setText(model.no_slice_reason or ""))
        self.recovery.restored.connect(lambda result: self.follow(result.layer))
        for message in (
            self.layers.message,
            self.organ_actions.message,
            self.measurements.message,
            self.exporter.message,
            self.recovery.failed,
            self.recovery.incomplete,
        ):
            message.connect(self._status.setText)
        self._dock_events.arrived.connect(self._attach)
        self._dock_events.settled.connect(lambda: self.readout.attach(self))
        self._dock_events.left.connect(self._detach)
        self._dock_events.window_closed.connect(self._shut_down)

    def _attach(self) -> None:
        anatomy_of(self._viewer).attach(self)
        self.keys.bind_actions(self._viewer, ACTIONS, self._handlers())
        self.layers.attach()
        self.adaptation.attach()

    def _detach(self, closing: bool) -> None:
        """Let go of everything, because the dock was closed, perhaps with its window."""
        if not closing:
            self.overlays.drop_all()
        self._widget_state.keep()
        anatomy_of(self._viewer).detach(self)
        self.review.finish_note()
        self.keys.release()
        self.clicks.stop()
        self.brush_suspender.follow(None)
        self._links.clear()
        for part in (
            self.readout,
            self.layers,
            self.organ_actions,
            self.adaptation,
            self.attention_maps,
            self.strokes,
            self.corrections,
            self.measurements,
            self.overlays,
            self.model,
            self.recovery,
        ):
            part.detach()
        self._tasks.drop()
        for window in (self._help_page, self._sessions_dialog):
            if window is not None:
                window.close()

    def _shut_down(self) -> None:
        """The window closes: wait in sight for what is being written."""
        self.exporter.finish_in_sight(self)
        adaptation = self.adaptation
        wait_for([Unfinished("the last step of learning", lambda: not adaptation.busy)], _PATIENCE, self)

    def _handlers(self) -> Mapping[str, Callable[[], object]]:
        """What the keys of the actions do."""
        model, organs = self.model, self.organ_actions
        handlers: dict[str, Callable[[], object]] = {
            "next": model.next_slice,
            "reviewed": lambda: model.mark_reviewed(True, go_on=True),
            "unmark": model.toggle_reviewed,
            "conflict": model.next_conflict,
            "take_slice": lambda: model.accept_prediction(everywhere=False),
            "lock": organs.toggle_lock,
            "hide": organs.toggle_hidden,
            "only": organs.toggle_only,
            "range": self.tools.toggle_range,
            "uncertainty": self.overlays.toggle_uncertainty,
            "attention": self.attention.toggle,
            "learn_next": model.next_slice_to_learn_from,
            "interpolate_next": model.next_slice_to_interpolate_from,
            "learn": self.learning.button.click,
            "measure": self.measurements.measure,
            "compare": self.comparison.press,
            "export": self.export,
            "help": self.show_help,
        }
        handlers |= {tool: partial(self.tools.press, tool) for tool in self.tools.names}
        handlers |= {f"organ_{number}": partial(organs.pick_at, number - 1) for number in range(1, 10)}
        return handlers

    # -- what is shown --------------------------------------------------------------------------------------

    def _show_layer(self) -> None:
        """Show what the model follows now."""
        layer = self.model.layer
        self.clicks.stop()  # a click was waited for on other labels
        self.attention.set_on(False)
        self._links.clear()
        if layer is not None:
            self._links.connect(self._refresh, layer.events.editable)
            self._links.connect(self.layers.refresh, layer.events.editable)  # a run fixes the image
        self.brush_suspender.follow(layer)
        self.organ_actions.follow()
        self.measurements.clear()
        self._refresh()
        self._on_overview()
        self.measurements.check_sides()

    def _refresh(self, _event: Any = None) -> None:
        """Say what can be done now, and why the rest cannot."""
        model = self.model
        why = model.disabled_reason
        self.review.set_disabled_reason(why, model.no_slice_reason)
        self.tools.set_disabled_reason(why)
        self.tools.offer_range(_NO_RANGE if model.image is not None and is_lazy(model.image) else None)
        self.organs.set_pickable(why)
        self._export.setEnabled(why is None)
        self._export.setToolTip(why or ACTIONS["export"].hint)
        if why is not None:
            if not self._waiting:
                self.tools.status.setText("")  # what a tool did is no news any more
            self._status.setText(why)
        elif self._waiting:
            self._status.setText("")
            self.measurements.check_sides()
        self._waiting = why is not None
        known = model.result is not None and model.result.session.uncertainty is not None
        self.review.set_uncertainty_shown(
            self.overlays.shows("uncertainty"),
            None if known else "Only after a run: how unsure the network was is kept with its labels.",
        )

    def _on_layers(self) -> None:
        self.measurements.offer_references()
        self._refresh()

    def _on_organs(self) -> None:
        self.review.show_organs(self.model.names)
        self.tools.show_organs(self.model.names)

    def _on_no_overlay(self, sentence: str) -> None:
        self._refresh()
        self._status.setText(sentence)

    def _on_overview(self) -> None:
        found = self.model.overview
        self.review.strip.set_data(found.strip if found is not None else None)
        self.review.show_conflicts(found.conflicts if found is not None else {})
        if self.model.labels != self.organs.legend.labels:
            self.organ_actions.refresh()
        self._on_slice()  # a run may have taken its mark away
        self._refresh()

    def _on_slice(self) -> None:
        model = self.model
        session = model.result.session if model.result is not None else None
        index = model.slice_in_view if model.no_slice_reason is None else None
        self.review.show_numbers(model.numbers if session is not None else None)
        self.review.show_slice(
            index,
            reviewed=session is not None and index in session.reviewed,
            note=lambda: session.notes.get(index, "") if session is not None and index is not None else "",
        )
        self.review.set_disabled_reason(model.disabled_reason, model.no_slice_reason)
        self.review.show_progress(*model.progress())

    def _on_filter(self, value: int | None) -> None:
        self.model.organ_filter = value
        self.model.update_overview()

    def _open(self, panel: QWidget) -> None:
        """Open a panel's section and bring it into view, if it is not there."""
        self._sections[panel].set_open(True)
        self._opened = self._sections[panel]
        self._into_view.start()

    def _bring_into_view(self) -> None:
        if self._opened is not None:
            self._area.ensureWidgetVisible(self._opened, 0, 0)
