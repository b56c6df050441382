"""The organs of the followed labels: which one the brush paints, which are hidden or locked, and their names."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.visibility import colors_of, pick_label, shown_colormap, shows
from napari_transunet.viewer.review.correction_panel import CorrectionRequest
from napari_transunet.viewer.review.label_editing import highest_value
from napari_transunet.viewer.widgets.messages import organ
from napari_transunet.volumes.labels import LabelSet

if TYPE_CHECKING:
    from napari_transunet.viewer.review.correction_controller import CorrectionController
    from napari_transunet.viewer.review.organ_list import OrganList
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.sessions.results import Result
    from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
    from napari_transunet.volumes.labels import Label


class _Unlisting:
    """Takes a label out of the list with its voxels; undo, which brings these back, brings its name back too."""

    def __init__(self, result: Result, value: int) -> None:
        self._result, self._value = weakref.proxy(result), value
        self._taken: Label | None = None

    def redo(self) -> None:
        """Take it out."""
        named = self._result.label_set
        if self._taken is None and (label := named.get(self._value)) is not None:
            self._taken = label
            self._result.rename(LabelSet(tuple(other for other in named if other is not label)))

    def undo(self) -> None:
        """Put it back, unless another label has its value now."""
        label, self._taken = self._taken, None
        named = self._result.label_set
        if label is not None and named.get(self._value) is None:
            self._result.rename(LabelSet((*named, label)))


class OrganController(QObject):
    """Does what is asked for in the list of organs, and keeps it in line with the layer.

    Signals
    -------
    message(str): why something was not done.
    listed(): other organs are listed, or they have other names.
    """

    message = Signal(str)
    listed = Signal()

    def __init__(
        self,
        model: ReviewModel,
        corrections: CorrectionController,
        panel: OrganList,
        confirm: ConfirmBar,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._model = model
        self._corrections = corrections
        self._panel = panel
        self._confirm = confirm
        self._links = EventLinks()
        panel.picked.connect(self.pick)
        panel.visibility_changed.connect(
            lambda value, on: self._hide(self._hidden - {value} if on else self._hidden | {value})
        )
        panel.lock_changed.connect(corrections.lock)
        panel.add_wanted.connect(self._on_add)
        panel.edit_wanted.connect(self._on_edit)
        panel.delete_wanted.connect(self._on_delete)
        panel.editor.done.connect(self.put_label)

    def follow(self) -> None:
        """Follow the layer that the model follows now."""
        self._links.clear()
        self._panel.editor.hide()
        if (layer := self._model.layer) is not None:
            self._links.connect(self._on_selected_label, layer.events.selected_label)
            self._links.connect(self._on_colormap, layer.events.colormap)
            self._links.connect(lambda _event: self.refresh(), layer.events.features)
        self.refresh()

    def detach(self) -> None:
        """Follow nothing any more."""
        self._links.clear()

    def refresh(self) -> None:
        """List the labels, also those that occur without a name."""
        self._panel.show_labels(self._model.labels)
        if (result := self._model.result) is not None:
            self._panel.set_locked(result.session.locked)
            self._panel.set_hidden(result.hidden)
        self._on_colormap()
        self._on_selected_label()
        self.listed.emit()

    def pick(self, value: int) -> None:
        """Take an organ as the brush."""
        if (layer := self._model.layer) is not None:
            pick_label(self._model.viewer, layer, value)

    def pick_at(self, at: int) -> None:
        """Take the organ at this place of the list, from 0, as the brush."""
        if at < len(self._panel.values):
            self.pick(self._panel.values[at])

    def toggle_hidden(self) -> None:
        """Hide or show the organ that the brush paints."""
        if (value := self._selected) is not None:
            self._hide(self._hidden ^ {value})

    def toggle_only(self) -> None:
        """Show the organ that the brush paints alone, or all again."""
        value = self._selected
        others = frozenset(self._panel.values) - {value}
        if value is not None:
            self._hide(frozenset() if self._hidden == others else others)

    def toggle_lock(self) -> None:
        """Lock or unlock the organ that the brush paints."""
        result, value = self._model.result, self._selected
        if result is not None and value is not None:
            self._corrections.lock(value, value not in result.session.locked)
            self._panel.set_locked(result.session.locked)

    def put_label(self, before: Label | None, after: Label) -> None:
        """Give a label (None for a new one) another name and colour."""
        result = self._model.result
        if result is None:
            return
        others = [label for label in result.label_set if label.value != after.value]
        self._rename(result, LabelSet((*others, after)))
        if before is None:
            self.pick(after.value)

    # -- inside ---------------------------------------------------------------------------------------------

    @property
    def _hidden(self) -> frozenset[int]:
        result = self._model.result
        return result.hidden if result is not None else frozenset()

    @property
    def _selected(self) -> int | None:
        """The organ that the brush paints, if it is listed."""
        layer = self._model.layer
        value = int(layer.selected_label) if layer is not None else 0
        return value if value in self._panel.values else None

    def _hide(self, hidden: frozenset[int]) -> None:
        if (result := self._model.result) is not None:
            result.hidden = hidden
            result.layer.colormap = shown_colormap(result.layer, hidden)
            self._panel.set_hidden(hidden)

    def _rename(self, result: Result, label_set: LabelSet) -> None:
        result.rename(label_set)
        if result.hidden:
            result.layer.colormap = shown_colormap(result.layer, result.hidden)
        self._model.save_soon()
        self._model.update_overview()

    def _on_add(self) -> None:
        if (result := self._model.result) is not None:
            taken = {**self._model.names, **result.session.names}  # the network may write a deleted one again
            self._panel.editor.add(self._model.labels, taken, highest_value(result.layer))

    def _on_edit(self) -> None:
        if (label := self._label("change")) is not None:
            self._panel.editor.edit(label, self._model.labels)

    def _on_delete(self) -> None:
        result, label = self._model.result, self._label("delete")
        if result is None or label is None:
            return
        name = organ(label.name, first=True)
        if label.value in result.session.locked:
            self.message.emit(f"“{name}” is locked; unlock it first.")
            return
        self._confirm.ask(
            f"Delete “{name}” with all its voxels? Undo brings the voxels back.",
            yes="Delete",
            no="Keep",
            on_yes=lambda: self._delete(result, label.value),
        )

    def _delete(self, result: Result, value: int) -> None:
        if self._model.result is not result or self._model.disabled_reason is not None:
            return
        result.layer.selected_label = value
        request = CorrectionRequest("replace", False, True, True, {"by": 0})
        self._corrections.correct(request, along=_Unlisting(result, value))

    def _label(self, action: str) -> Label | None:
        """The label that the brush paints; without one, a sentence says what to do before the action."""
        value = self._selected
        label = self._model.labels.get(value) if value is not None else None
        if label is None:
            self.message.emit(f"Pick the label to {action} in the list first.")
        return label

    def _on_selected_label(self, _event: object = None) -> None:
        layer = self._model.layer
        self._panel.legend.set_current(int(layer.selected_label) if layer is not None else None)

    def _on_colormap(self, _event: object = None) -> None:
        layer, hidden = self._model.layer, self._hidden
        if layer is None:
            return
        self._panel.legend.set_colors(colors_of(layer, self._panel.values))
        if shows(layer, hidden):
            layer.colormap = shown_colormap(layer, hidden)
