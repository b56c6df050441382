"""The dock *Review and correct*: puts its parts together and passes on what is pressed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.export.exporter import exporter_of
from napari_transunet.viewer.layers.brush_suspender import BrushSuspender
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layer_record import is_overlay
from napari_transunet.viewer.layers.layers import is_lazy, notes_of, problem_with
from napari_transunet.viewer.layers.visibility import shown_colormap
from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.adaptation_controller import AdaptationController
from napari_transunet.viewer.review.adaptation_panel import AdaptationPanel
from napari_transunet.viewer.review.attention import AttentionClicks
from napari_transunet.viewer.review.attention_panel import AttentionPanel
from napari_transunet.viewer.review.click_picker import ClickPicker
from napari_transunet.viewer.review.correction_controller import CorrectionController
from napari_transunet.viewer.review.correction_panel import REMEMBERED, CorrectionPanel, CorrectionRequest
from napari_transunet.viewer.review.cursor_readout import CursorReadout
from napari_transunet.viewer.review.help_page import HelpPage
from napari_transunet.viewer.review.keys import ReviewKeys
from napari_transunet.viewer.review.label_editing import LabelEditor, highest_value
from napari_transunet.viewer.review.measure_panel import ComparePanel, MeasurePanel
from napari_transunet.viewer.review.measurement_controller import MeasurementController
from napari_transunet.viewer.review.organ_list import OrganList
from napari_transunet.viewer.review.overlay_layers import OverlayLayers
from napari_transunet.viewer.review.review_model import ReviewModel
from napari_transunet.viewer.review.review_panel import ReviewPanel
from napari_transunet.viewer.review.stroke_controller import StrokeController
from napari_transunet.viewer.sessions.recovery import Recovery
from napari_transunet.viewer.sessions.registry import is_reviewable
from napari_transunet.viewer.sessions.sessions_dialog import SessionsDialog
from napari_transunet.viewer.widgets import docks
from napari_transunet.viewer.widgets.closing import Unfinished, wait_for
from napari_transunet.viewer.widgets.collapsible import CollapsibleSection
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.dock_events import DockEvents
from napari_transunet.viewer.widgets.fitting_area import FittingArea
from napari_transunet.viewer.widgets.messages import organ
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tab_group import join_tabs
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.viewer.widgets.volume_chooser import InfoLine
from napari_transunet.viewer.widgets.widget_state import WidgetState
from napari_transunet.volumes.labels import LabelSet

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.metrics.difference_map import Disagreement, Matching
    from napari_transunet.viewer.sessions.results import Result
    from napari_transunet.volumes.labels import Label

logger = logging.getLogger(__name__)

_PATIENCE = 120.0  # s that a window that closes waits for a step of learning to end
_SECTIONS = ("section_correct", "section_learn", "section_measure", "section_compare", "section_advanced")
"""Object names of the sections' headings, open or folded as they were left."""

_NO_RANGE = (
    "This image is computed where it is shown, so that strokes cannot be held to a range of its values."
)
_TOOLS = (
    "largest",
    "islands",
    "holes",
    "smooth",
    "grow",
    "shrink",
    "interpolate",
    "replace",
    "above",
    "below",
)


class ReviewDock(QWidget):
    """The widget behind *Plugins > TransUNet > Review and correct*.

    Parameters
    ----------
    napari_viewer
        The viewer whose labels are reviewed.
    """

    dock_name = docks.REVIEW

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # Plugins get the viewer in a wrapper that slows down every access to a layer in the drawing loop.
        self._viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self._tasks = BackgroundTasks(self)
        self._attached = False
        self._waiting = False
        self._watched: Labels | None = None
        self._found: Disagreement | None = None
        self._named: list[Any] = []
        self.model = ReviewModel(self._viewer, self)
        self.corrections = CorrectionController(self.model, self)
        self.measurements = MeasurementController(self.model, self)
        self.overlays = OverlayLayers(self.model, self)
        self.strokes = StrokeController(self.model, self.corrections, self.overlays, self)
        self.keys = ReviewKeys(self._viewer)
        self.readout = CursorReadout(self.model)
        self.clicks = ClickPicker(self._viewer, self)
        self.brush_suspender = BrushSuspender(self._viewer, self)
        self.exporter = exporter_of(self._viewer)
        self.recovery = Recovery(self._viewer, self)
        self._labels = QComboBox(self)
        self._labels.setObjectName("review_labels")
        self._labels.setToolTip("The labels layer that is reviewed and corrected")
        self._labels.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._image = QComboBox(self)
        self._image.setObjectName("review_image")
        self._image.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._notes = InfoLine("review_notes", self)
        self.review = ReviewPanel(self)
        self.organs = OrganList(self)
        self.editor = LabelEditor(self)
        self._question = ConfirmBar(self)
        self._add_label, self._edit_label, self._delete_label = (
            self._small_button(text, name, tip)
            for text, name, tip in (
                ("Add label…", "add_label", "Add a label to these labels"),
                ("Edit…", "edit_label", "Give the label that the brush paints another name or colour"),
                ("Delete…", "delete_label", "Delete the label that the brush paints, with its voxels"),
            )
        )
        self.tools = CorrectionPanel(self)
        self.measures = MeasurePanel(self)
        self.comparison = ComparePanel(self)
        self.learning = AdaptationPanel(self)
        self.adaptation = AdaptationController(self.model, self.learning, self)
        self.attention = AttentionPanel(self)
        self.attention_clicks = AttentionClicks(self.model, self.overlays, self.attention, self)
        self._content = QWidget(self)  # what scrolls in a low window
        self._sections = QVBoxLayout()
        self._opened: CollapsibleSection | None = None
        self._into_view = QTimer(self)  # what was just unfolded has its place only after the layout's turn
        self._into_view.setSingleShot(True)
        self._into_view.setInterval(0)
        self._into_view.timeout.connect(self._bring_into_view)
        self._status = StatusLine("review_status", self)
        self._export = QPushButton(ACTIONS["export"].title, self)
        self._export.setObjectName("review_export")
        self._sessions = QPushButton("Saved…", self)
        self._sessions.setObjectName("sessions")
        self._sessions.setToolTip("Labels that were saved while you worked: restore, export, delete")
        self._help = QPushButton(ACTIONS["help"].title, self)
        self._help.setObjectName("help")
        self._page: HelpPage | None = None
        self._saved: SessionsDialog | None = None
        self._dock_events = DockEvents(self)
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
        self._show_choices()

    # -- construction ---------------------------------------------------------------------------------------

    def add_section(
        self, title: str, name: str, panel: QWidget, *, is_open: bool = False
    ) -> CollapsibleSection:
        """Add a section that folds below those that are there; `name` is the object name of its heading."""
        section = CollapsibleSection(title, panel, name, self._content, is_open=is_open)
        self._sections.addWidget(section)
        return section

    def _lay_out(self) -> None:
        self._sections.setSpacing(2)
        self.add_section("Correct", "section_correct", self.tools, is_open=True)
        self.add_section("Learn", "section_learn", self.learning)
        self._measure_section = self.add_section("Measure", "section_measure", self.measures)
        self._compare_section = self.add_section("Compare", "section_compare", self.comparison)
        self._advanced_section = self.add_section("Advanced: attention", "section_advanced", self.attention)
        buttons = QHBoxLayout()
        buttons.addWidget(self._export, 1)
        buttons.addWidget(self._sessions, 1)
        buttons.addWidget(self._help, 1)
        which = QGridLayout()
        which.setColumnStretch(1, 1)
        for row, (text, chooser) in enumerate((("Labels", self._labels), ("Image", self._image))):
            which.addWidget(QLabel(text, self), row, 0)
            which.addWidget(chooser, row, 1)
        editing = QHBoxLayout()
        for tool in (self._add_label, self._edit_label, self._delete_label):
            editing.addWidget(tool)
        editing.addStretch(1)
        scrolled = QVBoxLayout(self._content)
        scrolled.setContentsMargins(0, 0, 0, 0)
        scrolled.setSpacing(6)
        for above in (self.review.more, self.organs):
            scrolled.addWidget(above)
        scrolled.addLayout(editing)
        scrolled.addWidget(self.editor)
        scrolled.addLayout(self._sections)
        scrolled.addWidget(self._notes)
        scrolled.addStretch(1)
        # Which labels, which slice, what was done and what to do next are always in sight.
        self._area = FittingArea(self._content, self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 8, 8, 8)
        layout.setSpacing(6)
        layout.addLayout(which)
        for part in (self.review, self._area, self._question, self.tools.status, self._status):
            layout.addWidget(part)
        layout.addLayout(buttons)
        layout.addStretch(1)
        for child in self.findChildren(QWidget):
            if isinstance(child, QComboBox | QTableWidget):
                # They take what width there is, instead of making the dock as wide as the longest name.
                child.setSizePolicy(QSizePolicy.Policy.Ignored, child.sizePolicy().verticalPolicy())
            if isinstance(child, QPushButton):
                # A click leaves the keyboard to the canvas: Space moves the view and repeats no tool.
                child.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        for button, name in ((self._export, "export"), (self._help, "help")):
            button.setToolTip(ACTIONS[name].hint)

    def _connect(self) -> None:
        model = self.model
        model.overview_changed.connect(self._on_overview)
        model.slice_changed.connect(self._on_slice)
        model.message.connect(self.tools.set_status)
        self.corrections.message.connect(self.tools.set_status)
        self.strokes.message.connect(self.tools.set_status)
        self.strokes.changed.connect(self._on_strokes)
        self.tools.preview_wanted.connect(self.strokes.preview)
        self.tools.accepted.connect(self.strokes.accept)
        self.tools.discarded.connect(self.strokes.discard)
        self.measurements.measured.connect(self._on_measured)
        self.measurements.compared.connect(self._on_compared)
        self.measurements.failed.connect(self._on_failed)
        self.measurements.doubted.connect(self._on_doubted)
        self.overlays.failed.connect(self._on_failed)
        self.overlays.changed.connect(self._refresh)
        self._labels.activated.connect(lambda _at: self.follow(self._labels.currentData()))
        self._image.activated.connect(lambda _at: self._on_image(self._image.currentData()))
        self.review.slice_chosen.connect(model.go_to)
        self.review.next_wanted.connect(model.next_slice)
        self.review.marked.connect(lambda on: model.mark_reviewed(on, go_on=on))
        self.review.organ_chosen.connect(self._on_filter)
        self.review.note_changed.connect(model.note)
        self.review.conflict_wanted.connect(model.next_conflict)
        self.review.prediction_wanted.connect(lambda every: model.accept_prediction(everywhere=every))
        self.review.uncertainty_wanted.connect(self.overlays.show_uncertainty)
        self.organs.picked.connect(self._on_picked)
        self.organs.visibility_changed.connect(self._on_visibility)
        self.organs.lock_changed.connect(self.corrections.lock)
        self.tools.wanted.connect(self._on_tool)
        self.tools.range_changed.connect(self._on_range)
        self.tools.range_suggestion_wanted.connect(self.corrections.suggest_range)
        self.corrections.range_found.connect(self.tools.set_range)
        self.measures.wanted.connect(self._on_measure)
        self.measures.jump.connect(model.go_to_voxel)
        self.measurements.described.connect(
            lambda found: self.comparison.show_reference(found, self.model.names)
        )
        self.comparison.chosen.connect(self.measurements.describe)
        self.comparison.wanted.connect(self._on_compare)
        self.comparison.jump_slice.connect(model.go_to)
        self.comparison.map_wanted.connect(
            lambda on: self.overlays.show_disagreement(self._found if on else None)
        )
        self.attention.turned.connect(self._on_attention)
        self._add_label.clicked.connect(self._on_add_label)
        self._edit_label.clicked.connect(self._on_edit_label)
        self._delete_label.clicked.connect(self._on_delete_label)
        self.editor.done.connect(self._on_label)
        self.clicks.given_up.connect(self._on_click_given_up)
        self.brush_suspender.suspended.connect(lambda: self.tools.set_status(model.no_slice_reason or ""))
        self._export.clicked.connect(self.export)
        self._sessions.clicked.connect(self.show_sessions)
        self._help.clicked.connect(self.show_help)
        self.recovery.restored.connect(lambda result: self.follow(result.layer))
        self.recovery.failed.connect(self._status.setText)
        self.exporter.message.connect(self._status.setText)
        self._dock_events.arrived.connect(self._attach)
        self._dock_events.settled.connect(self._on_settled)
        self._dock_events.left.connect(self._on_left)
        self._dock_events.window_closed.connect(self._shut_down)

    def _attach(self) -> None:
        if self._attached:
            return
        self._attached = True
        layers = self._viewer.layers
        layers.events.inserted.connect(self._on_layers)
        layers.events.removed.connect(self._on_layers)
        self.model.sessions.selected.connect(self._on_selected)
        self.keys.bind(self._handlers())
        self._on_layers()
        self.adaptation.attach()

    def _on_settled(self) -> None:
        join_tabs(self, "Review and correct")
        if self._attached:
            self.readout.attach(self)

    def _on_left(self) -> None:
        if self._attached:
            self.overlays.drop_all()
        self._detach()

    def _detach(self) -> None:
        """Let go of everything, because the dock was closed."""
        if not self._attached:
            return
        self._attached = False
        self._widget_state.keep()
        self.readout.detach()
        self.review.finish_note()
        self.keys.unbind()
        self.clicks.stop()
        self.brush_suspender.follow(None)
        layers = self._viewer.layers
        layers.events.inserted.disconnect(self._on_layers)
        layers.events.removed.disconnect(self._on_layers)
        self.model.sessions.selected.disconnect(self._on_selected)
        self._follow_names(())
        self._unwatch()
        for part in (
            self.adaptation,
            self.attention_clicks,
            self.strokes,
            self.corrections,
            self.measurements,
            self.overlays,
            self.model,
        ):
            part.detach()
        self.recovery.detach()
        self._tasks.drop()
        for window in (self._page, self._saved):
            if window is not None:
                window.close()

    def _shut_down(self) -> None:
        """The window closes: wait in sight for what is being written."""
        self._detach()
        self.exporter.finish_in_sight(self)
        adaptation = self.adaptation
        wait_for([Unfinished("the last step of learning", lambda: not adaptation.busy)], _PATIENCE, self)

    def _handlers(self) -> Mapping[str, Callable[[], object]]:
        model = self.model
        handlers: dict[str, Callable[[], object]] = {
            "next": model.next_slice,
            "reviewed": lambda: model.mark_reviewed(True, go_on=True),
            "unmark": self._toggle_mark,
            "conflict": model.next_conflict,
            "take_slice": lambda: model.accept_prediction(everywhere=False),
            "lock": self._toggle_lock,
            "hide": self._toggle_hidden,
            "only": self._toggle_only,
            "clicked": lambda: self.tools.press("clicked"),
            "strokes": lambda: self.tools.press("strokes"),
            "range": self.tools.toggle_range,
            "uncertainty": self._toggle_uncertainty,
            "attention": self.attention.toggle,
            "learn": self.learning.button.click,
            "measure": self._on_measure,
            "compare": self.comparison.press,
            "export": self.export,
            "help": self.show_help,
        }
        for tool in _TOOLS:
            handlers[tool] = partial(self.tools.press, tool)
        for number in range(1, 10):
            handlers[f"organ_{number}"] = partial(self._pick_at, number - 1)
        return handlers

    # -- which labels ---------------------------------------------------------------------------------------

    def _on_layers(self, _event: Any = None) -> None:
        choices = [layer for layer in self._viewer.layers if is_reviewable(layer)]
        self._follow_names(
            [layer for layer in self._viewer.layers if layer in choices or layer._type_string == "image"]
        )
        current = self.model.undecided or self.model.layer
        if current not in choices or self.model.undecided is not None:
            self.follow(current if current in choices else self._first_choice(choices))
        else:
            self._show_choices()
            self._refresh()

    def _first_choice(self, choices: list[Labels]) -> Labels | None:
        """What is shown before a person chose anything: the selected labels, else those that were used last."""
        active = self._viewer.layers.selection.active
        if active in choices:
            return active
        used = [layer for layer in self.model.sessions.recently_used() if layer in choices]
        return used[0] if used else (choices[-1] if choices else None)

    def _show_choices(self, _event: Any = None) -> None:
        """Name the labels that are meant and the image on which they lie, and offer others."""
        choices = [layer for layer in self._viewer.layers if is_reviewable(layer)]
        self._labels.clear()
        for layer in reversed(choices):
            self._labels.addItem(str(layer.name), layer)
        current = self.model.undecided or self.model.layer
        self._labels.setCurrentIndex(self._labels.findData(current) if current is not None else -1)
        self._labels.setPlaceholderText("No labels yet")
        self._image.clear()
        image = self.model.image
        images = self.model.sessions.images_of_same_shape(current) if current is not None else []
        on_grid = self.model.sessions.images_on_grid_of(current) if current is not None else []
        for candidate in [*([image] if image is not None and image not in images else []), *images]:
            elsewhere = candidate not in on_grid and candidate is not image
            self._image.addItem(
                f"{candidate.name} (lies elsewhere)" if elsewhere else str(candidate.name), candidate
            )
        self._image.setCurrentIndex(self._image.findData(image) if image is not None else -1)
        self._image.setPlaceholderText(
            "Choose the image of these labels" if images else "No image of this size"
        )
        # What a run wrote on one image are no labels of another.
        result = self.model.result
        fixed = image is not None and result is not None and bool(result.session.runs)
        self._image.setEnabled(self._image.count() > 0 and not fixed)
        self._image.setToolTip(
            "A run made these labels on this image" if fixed else "The image on which these labels lie"
        )
        self._notes.setText("\n".join(notes_of(image) if image is not None else ()))
        self._notes.setVisible(bool(self._notes.text()))
        self.comparison.show_choices(*self.measurements.others())

    def _follow_names(self, layers: Sequence[Any]) -> None:
        for layer in self._named:
            layer.events.name.disconnect(self._show_choices)
        self._named = list(layers)
        for layer in self._named:
            layer.events.name.connect(self._show_choices)

    def _on_image(self, image: Image | None) -> None:
        """A person says on which image the labels lie."""
        layer = self.model.undecided or self.model.layer
        if layer is None or image is None or image is self.model.image:
            return
        try:
            self.model.sessions.assign_image(layer, image)
        except VolumeError as error:
            self._status.setText(str(error))
            self._show_choices()
            return
        self.model.follow(None)
        self.follow(layer)

    def _on_selected(self, layer: Labels) -> None:
        if layer is not self.model.layer and layer is not self.model.undecided:
            self.follow(layer)

    def _show_layer(self) -> None:
        layer = self.model.layer
        self.clicks.stop()  # a click was waited for on other labels
        self.attention.set_on(False)
        self._unwatch()
        self._watched = layer
        self.brush_suspender.follow(layer)
        self.editor.hide()
        self._show_organs()
        self.measures.set_busy(False)
        self.measures.show_measures((), ())
        self.comparison.clear()
        self._found = None
        if layer is not None:
            layer.events.selected_label.connect(self._on_selected_label)
            layer.events.colormap.connect(self._on_colormap)
            layer.events.editable.connect(self._refresh)
            result = self.model.result
            assert result is not None
            self.organs.set_locked(result.session.locked)
            self.organs.set_hidden(result.hidden)
        self._on_colormap()
        self._on_selected_label()
        self._refresh()
        self._on_overview()
        self._on_slice()
        self.measurements.check_sides()

    def _unwatch(self) -> None:
        layer, self._watched = self._watched, None
        if layer is not None:
            layer.events.selected_label.disconnect(self._on_selected_label)
            layer.events.colormap.disconnect(self._on_colormap)
            layer.events.editable.disconnect(self._refresh)

    def _refresh(self, _event: Any = None) -> None:
        why = self.model.disabled_reason
        self.review.set_disabled_reason(why, self.model.no_slice_reason)
        self.tools.set_disabled_reason(why)
        image = self.model.image
        self.tools.offer_range(_NO_RANGE if image is not None and is_lazy(image) else None)
        self.organs.set_pickable(why)
        for tool in (self._add_label, self._edit_label, self._delete_label):
            tool.setEnabled(why is None)
        self._export.setEnabled(why is None)
        self._export.setToolTip(why or ACTIONS["export"].hint)
        if why is not None:
            self._status.setText(why)
        elif self._waiting:
            self._status.setText("")
            self.measurements.check_sides()
        self._waiting = why is not None
        result = self.model.result
        known = result is not None and result.session.uncertainty is not None
        shown = self.overlays.shows("uncertainty")
        self.review.set_uncertainty_shown(
            shown, None if known else "Only after a run: how unsure the network was is kept with its labels."
        )

    def _show_organs(self) -> None:
        """List the labels, also those that occur without a name."""
        result = self.model.result
        self.organs.show_labels(self.model.labels)
        self.review.show_organs(self.model.names)
        self.tools.show_organs(self.model.names)
        if result is not None:
            self.organs.set_locked(result.session.locked)
            self.organs.set_hidden(result.hidden)
        self._on_colormap()
        self._on_selected_label()

    # -- what is shown --------------------------------------------------------------------------------------

    def _on_overview(self) -> None:
        found = self.model.overview
        self.review.show_data(found.strip if found is not None else None)
        self.review.show_conflicts(found.conflicts if found is not None else {})
        if self.model.labels != self.organs.labels:
            self._show_organs()
        self._on_slice()  # a run may have taken its mark away
        self._refresh()

    def _on_slice(self) -> None:
        result = self.model.result
        session = result.session if result is not None else None
        index = self.model.slice_in_view if self.model.no_slice_reason is None else None
        self.review.show_numbers(self.model.numbers if result is not None else None)
        self.review.show_slice(
            index,
            reviewed=session is not None and index in session.reviewed,
            note=lambda: session.notes.get(index, "") if session is not None and index is not None else "",
        )
        self.review.set_disabled_reason(self.model.disabled_reason, self.model.no_slice_reason)
        self.review.show_progress(*self.model.progress())

    def _on_filter(self, value: int | None) -> None:
        self.model.organ_filter = value
        self.model.look()

    def _on_selected_label(self, _event: Any = None) -> None:
        layer = self.model.layer
        self.organs.set_current(int(layer.selected_label) if layer is not None else None)

    def _on_colormap(self, _event: Any = None) -> None:
        colors = getattr(self.model.layer.colormap, "color_dict", {}) if self.model.layer is not None else {}
        self.organs.set_colors(
            {
                int(value): (float(rgba[0]), float(rgba[1]), float(rgba[2]))
                for value, rgba in colors.items()
                if value is not None
            }
        )

    # -- organs ---------------------------------------------------------------------------------------------

    def _on_picked(self, value: int) -> None:
        layer = self.model.layer
        if layer is None:
            return
        self._viewer.layers.selection.active = layer
        layer.selected_label = value
        if layer.editable and self._viewer.dims.ndisplay == 2:
            layer.mode = "paint"

    def _pick_at(self, at: int) -> None:
        values = self.organs.values
        if at < len(values):
            self._on_picked(values[at])

    def _small_button(self, text: str, name: str, tip: str) -> QToolButton:
        button = QToolButton(self)
        button.setText(text)
        button.setObjectName(name)
        button.setToolTip(tip)
        button.setAutoRaise(True)
        return button

    def _on_add_label(self) -> None:
        if self.model.result is not None:
            self.editor.add(self.model.labels, highest_value(self.model.result.layer))

    def _on_edit_label(self) -> None:
        value = self._selected()
        label = self.model.labels.get(value) if value is not None else None
        if label is None:
            self._status.setText("Pick the label to change in the list first.")
        else:
            self.editor.edit(label, self.model.labels)

    def _on_label(self, before: Label | None, after: Label) -> None:
        result = self.model.result
        if result is None:
            return
        others = [label for label in result.label_set if label.value != after.value]
        self._relabel(LabelSet((*others, after)))
        if before is None:
            self._on_picked(after.value)

    def _on_delete_label(self) -> None:
        result, value = self.model.result, self._selected()
        label = self.model.labels.get(value) if value is not None else None
        if result is None or label is None or value is None:
            self._status.setText("Pick the label to delete in the list first.")
            return
        if value in result.session.locked:
            self._status.setText(f"“{organ(label.name, first=True)}” is locked; unlock it first.")
            return
        self._question.ask(
            f"Delete “{organ(label.name, first=True)}” with all its voxels? Undo brings the voxels back.",
            yes="Delete",
            no="Keep",
            on_yes=lambda: self._delete(result, value),
        )

    def _delete(self, result: Result, value: int) -> None:
        if self.model.result is not result or self.model.disabled_reason is not None:
            return
        result.layer.selected_label = value
        self.corrections.correct(CorrectionRequest("replace", False, True, True, {"by": 0}))
        self._relabel(LabelSet(tuple(label for label in result.label_set if label.value != value)))

    def _relabel(self, label_set: LabelSet) -> None:
        """Give the followed layer these names and colours."""
        result = self.model.result
        if result is None:
            return
        result.rename(label_set)
        if result.hidden:
            result.layer.colormap = shown_colormap(result.layer, result.hidden)
        self._show_organs()
        self.model.save_soon()
        self.model.look()

    def _hidden(self) -> frozenset[int]:
        result = self.model.result
        return result.hidden if result is not None else frozenset()

    def _hide(self, hidden: frozenset[int]) -> None:
        result = self.model.result
        if result is None:
            return
        result.hidden = hidden
        result.layer.colormap = shown_colormap(result.layer, hidden)
        self.organs.set_hidden(hidden)

    def _on_visibility(self, value: int, on: bool) -> None:
        self._hide(self._hidden() - {value} if on else self._hidden() | {value})

    def _selected(self) -> int | None:
        layer = self.model.layer
        value = int(layer.selected_label) if layer is not None else 0
        return value if value in self.organs.values else None

    def _toggle_hidden(self) -> None:
        if (value := self._selected()) is not None:
            self._hide(self._hidden() ^ {value})

    def _toggle_only(self) -> None:
        value = self._selected()
        others = frozenset(self.organs.values) - {value}
        if value is not None:
            self._hide(frozenset() if self._hidden() == others else others)

    def _toggle_lock(self) -> None:
        result, value = self.model.result, self._selected()
        if result is not None and value is not None:
            self.corrections.lock(value, value not in result.session.locked)
            self.organs.set_locked(result.session.locked)

    # -- tools ----------------------------------------------------------------------------------------------

    def _toggle_mark(self) -> None:
        result = self.model.result
        if result is not None:
            self.model.mark_reviewed(self.model.slice_in_view not in result.session.reviewed)

    def _on_strokes(self) -> None:
        self.tools.show_strokes(armed=self.strokes.armed, previewed=self.strokes.previewed)

    def _on_tool(self, request: Any) -> None:
        if request.tool == "strokes":
            self._on_stroke_tool(request)
            return
        if request.tool != "clicked":
            self.corrections.correct(request)
            return
        layer = self.model.layer
        if layer is None:
            return
        if (why := self.model.disabled_reason) is not None:
            self.tools.set_status(why)
            return
        self.attention.set_on(False)
        self.tools.set_status("Click in the image on the part to keep; Escape cancels.")

        def clicked(voxel: tuple[int, int, int]) -> None:
            self.corrections.correct(request, voxel)

        self.clicks.once(layer, clicked)

    def _on_stroke_tool(self, request: CorrectionRequest) -> None:
        if self.strokes.armed:
            self.strokes.stop()
            self.tools.set_status("Your strokes stay as you painted them.")
            return
        self.clicks.stop()
        self.attention.set_on(False)
        self.strokes.start(include_manual_edits=request.include_manual_edits)

    def _on_click_given_up(self) -> None:
        if self.attention.on:
            self.attention.set_on(False)
        else:
            self.tools.set_status("Cancelled: nothing was changed.")

    def _on_range(self, between: tuple[float, float] | None) -> None:
        self.corrections.constraint.between = self.readout.between = between

    def _toggle_uncertainty(self) -> None:
        shown = self.overlays.shows("uncertainty")
        self.overlays.show_uncertainty(not shown)

    def _open(self, section: CollapsibleSection) -> None:
        """Open a section and bring it into view, if it is not there."""
        section.set_open(True)
        self._opened = section
        self._into_view.start()

    def _bring_into_view(self) -> None:
        if self._opened is not None:
            self._area.ensureWidgetVisible(self._opened, 0, 0)

    def _on_measure(self) -> None:
        if self.model.result is not None:
            self._open(self._measure_section)
            self.measures.set_busy(True)
            self.measurements.measure()

    def _on_measured(self, found: Any, warnings: Any) -> None:
        self.measures.set_busy(False)
        self.measures.show_measures(found, warnings)

    def _on_compare(self, other: Labels, matching: Matching | None) -> None:
        self._open(self._compare_section)
        self.comparison.set_busy(True)
        self.measurements.compare(other, matching)

    def _on_compared(self, found: Disagreement, matching: Matching) -> None:
        self._found = found
        self.comparison.set_busy(False)
        self.comparison.show_result(found, matching, self.model.names, self.model.numbers.number)
        if self.comparison.map_shown:
            self.overlays.show_disagreement(found)

    def _on_doubted(self, warnings: list[str]) -> None:
        if warnings:
            self._status.setText(" ".join(warnings))

    def _on_failed(self, sentence: str) -> None:
        self.measures.set_busy(False)
        self.comparison.set_busy(False)
        self._status.setText(sentence)
        self._refresh()

    def _on_attention(self, on: bool) -> None:
        layer = self.model.layer
        if on and layer is not None:
            self._open(self._advanced_section)
            self.clicks.always(layer, self.attention_clicks.show)
        else:
            self.clicks.stop()
            self.overlays.drop_plane("attention")

    def export(self) -> None:
        """What the button *Export…* does: ask which formats, and where to."""
        if self.model.result is not None and self.model.disabled_reason is None:
            self.exporter.ask(self.model.result, self.model.image)

    def show_sessions(self) -> None:
        """Show the saved sessions; those of the image that is reviewed, or of the selected one, can be restored."""
        if self._saved is None:
            self._saved = SessionsDialog(self)
            self._saved.restore_wanted.connect(self.recovery.restore)
        dialog, image = self._saved, self._restorable_image()
        dialog.show_for(None, None)
        if image is not None:
            self._tasks.run(fingerprint_job(image), lambda found: dialog.show_for(image, found))

    def _restorable_image(self) -> Image | None:
        """The image that is reviewed, else the selected one, else the only one."""
        images = [
            layer
            for layer in self._viewer.layers
            if layer._type_string == "image"
            and not is_overlay(layer)
            and problem_with(layer) is None
            and not is_lazy(layer)
        ]
        for candidate in (self.model.image, self._viewer.layers.selection.active):
            if candidate in images:
                return candidate
        return images[0] if len(images) == 1 else None

    def show_help(self) -> None:
        """Show or hide the page with all keys."""
        if self._page is None:
            self._page = HelpPage(self)
        self._page.setVisible(not self._page.isVisible())
