"""Which labels are reviewed, and on which image they lie: two lists that follow the viewer's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.layer_record import is_scan
from napari_transunet.viewer.layers.layers import is_lazy, notes_of, problem_with
from napari_transunet.viewer.sessions.registry import is_reviewable
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.status_line import InfoLine

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_transunet.viewer.review.review_model import ReviewModel


class LayerChooser(QWidget):
    """Shows what the model follows, and lets a person choose.

    Attributes
    ----------
    notes : what was assumed when the image was read; laid out elsewhere.

    Signals
    -------
    chosen(object): these labels are to be reviewed; None where there are none.
    refreshed(): layers came, went, or got other names.
    message(str): why labels cannot lie on an image.
    """

    chosen = Signal(object)
    refreshed = Signal()
    message = Signal(str)

    def __init__(self, model: ReviewModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model = model
        self._layers = EventLinks()
        self._names = EventLinks()
        self._labels = ElidingCombo("review_labels", self, "The labels layer that is reviewed and corrected")
        self._labels.activated.connect(lambda _at: self.chosen.emit(self._labels.currentData()))
        self._image = ElidingCombo("review_image", self)
        self._image.activated.connect(lambda _at: self._on_image(self._image.currentData()))
        self._model.overview_changed.connect(self._fix_image)
        self.notes = InfoLine("review_notes", self)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setColumnStretch(1, 1)
        for at, (text, combo) in enumerate((("Labels", self._labels), ("Image", self._image))):
            layout.addWidget(QLabel(text, self), at, 0)
            layout.addWidget(combo, at, 1)

    def attach(self) -> None:
        """Follow the viewer's layers."""
        events = self._model.viewer.layers.events
        self._layers.connect(self._on_layers, events.inserted, events.removed)
        self._layers.connect(self._on_selected, self._model.sessions.selected)
        self._on_layers()

    def detach(self) -> None:
        """Follow the viewer's layers no more."""
        self._layers.clear()
        self._names.clear()

    @property
    def restorable_image(self) -> Image | None:
        """The image whose saved labels can be restored: the reviewed one, else the selected one, else the only one."""
        images = [
            layer
            for layer in self._model.viewer.layers
            if is_scan(layer) and problem_with(layer) is None and not is_lazy(layer)
        ]
        for candidate in (self._model.image, self._model.viewer.layers.selection.active):
            if candidate in images:
                return candidate
        return images[0] if len(images) == 1 else None

    def refresh(self, _event: Any = None) -> None:
        """Name the labels that are meant and the image on which they lie, and offer others."""
        model, sessions = self._model, self._model.sessions
        current, image = self._current, model.image
        entries = [(str(layer.name), layer) for layer in reversed(self._reviewable)]
        self._labels.offer(entries, current, otherwise=-1)
        self._labels.setPlaceholderText("No labels yet")
        images = sessions.assignable_images(current) if current is not None else {}
        listed = images if image is None or image in images else {image: "", **images}
        self._image.offer(
            [
                (f"{one.name} ({why})" if why and one is not image else str(one.name), one)
                for one, why in listed.items()
            ],
            image,
            otherwise=-1,
        )
        self._image.setPlaceholderText(
            "Choose the image of these labels" if images else "No image of this size"
        )
        self._fix_image()
        shown = current if image is None else image
        notes = [] if shown is None else [*notes_of(shown)]
        if (result := sessions.result_of(current)) is not None and result.session.coverage:
            notes.append(result.session.coverage)
        self.notes.setText("\n".join(notes))
        self.notes.setVisible(bool(self.notes.text()))
        self.refreshed.emit()

    # -- inside ---------------------------------------------------------------------------------------------

    @property
    def _is_fixed(self) -> bool:
        """Whether a run made the labels, or makes them now: what it writes on one image are no labels of another."""
        image, result = self._model.image, self._model.result
        return (
            image is not None and result is not None and (result.run is not None or bool(result.session.runs))
        )

    def _fix_image(self) -> None:
        fixed = self._is_fixed
        self._image.setEnabled(self._image.count() > 0 and not fixed)
        self._image.setToolTip(
            "A run made these labels on this image" if fixed else "The image on which these labels lie"
        )

    @property
    def _current(self) -> Labels | None:
        return self._model.undecided or self._model.layer

    @property
    def _reviewable(self) -> list[Labels]:
        return [layer for layer in self._model.viewer.layers if is_reviewable(layer)]

    def _on_layers(self, _event: Any = None) -> None:
        choices = self._reviewable
        self._names.clear()
        for layer in self._model.viewer.layers:
            if layer in choices or layer._type_string == "image":
                self._names.connect(self.refresh, layer.events.name)
        current = self._current
        if current not in choices or self._model.undecided is not None:
            self.chosen.emit(current if current in choices else self._first_choice(choices))
        else:
            self.refresh()

    def _first_choice(self, choices: list[Labels]) -> Labels | None:
        """What is shown before a person chose anything: the selected labels, else those that were used last."""
        active = self._model.viewer.layers.selection.active
        if active in choices:
            return active
        used = [layer for layer in self._model.sessions.recently_used() if layer in choices]
        return used[0] if used else (choices[-1] if choices else None)

    def _on_selected(self, layer: Labels) -> None:
        if layer is not self._current:
            self.chosen.emit(layer)

    def _on_image(self, image: Image | None) -> None:
        """A person says on which image the labels lie."""
        layer = self._current
        if layer is None or image is None or image is self._model.image:
            return
        if self._is_fixed:  # by a run that ended while the list was open
            self.refresh()
            return
        try:
            self._model.sessions.assign_image(layer, image)
        except VolumeError as error:
            self.message.emit(str(error))
            self.refresh()
            return
        self._model.follow(None)
        self.chosen.emit(layer)
