"""Layers that show something about the labels that are followed: uncertainty, disagreement, attention."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.transforms import Affine
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_transunet.metrics.difference_map import (
    ANOTHER_ORGAN,
    KINDS,
    ONLY_HERE,
    ONLY_THERE,
    Disagreement,
)
from napari_transunet.viewer.layers.layer_record import METADATA_KEY, LayerRecord
from napari_transunet.viewer.layers.layers import label_colormap, placement_of, volume_job
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.labels import Label, LabelSet

if TYPE_CHECKING:
    from napari_transunet.annotation.corrections import Correction
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.volumes.boxes import Box


def difference_kinds(first: str = KINDS[ONLY_HERE], second: str = KINDS[ONLY_THERE]) -> LabelSet:
    """Names and colours of the values of a map of where two label volumes differ."""
    return LabelSet(
        (
            Label(ONLY_HERE, first, (0.9, 0.1, 0.5)),
            Label(ONLY_THERE, second, (0.1, 0.6, 0.95)),
            Label(ANOTHER_ORGAN, KINDS[ANOTHER_ORGAN], (0.95, 0.75, 0.1)),
        )
    )


class OverlayLayers(QObject):
    """Adds and removes them. Emits `failed` with a sentence where one cannot be made, `changed` where one came."""

    failed = Signal(str)
    changed = Signal()

    def __init__(self, model: ReviewModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model = model
        self._tasks = BackgroundTasks(self)
        self._shown: dict[str, weakref.ref[Any]] = {}
        self._pending: set[str] = set()
        model.followed.connect(self.drop_all)

    def detach(self) -> None:
        """Forget what is under way."""
        self._tasks.drop()
        self._pending.clear()
        self._shown.clear()

    def drop_all(self) -> None:
        """Take all away: they say nothing about other labels."""
        self._tasks.drop()
        self._pending.clear()
        for name in list(self._shown):
            self.drop(name)

    def show_disagreement(self, found: Disagreement | None) -> None:
        """Show where two labels differ as a layer; take it away for None."""
        self.drop("disagreement")
        if found is None or self._model.layer is None:
            return
        self._add_labels("disagreement", found.map, difference_kinds(), "agree")

    def show_uncertainty(self, on: bool) -> None:
        """Show how unsure the runs were of every voxel as a layer, or take it away."""
        self._tasks.drop()  # a map that is still being made is not wanted any more, or not twice
        self._pending.discard("uncertainty")
        self.drop("uncertainty")
        if not on or self._model.result is None or self._model.image is None:
            return
        result, image = self._model.result, self._model.image
        unsure, cards = result.session.uncertainty, result.session.cards
        volume_at_hand = volume_job(image)
        if unsure is None or not unsure.maps() or unsure.img_size is None:
            self.failed.emit(
                "There is no uncertainty to show: these labels are not from a run in this session."
            )
            return
        kept, size, card = unsure.maps(), unsure.img_size, cards.get(unsure.sha256 or "")
        paper = unsure.pipeline == "paper"
        if card is None and not paper:
            self.failed.emit(
                "The checkpoint of that run is not known any more; segment again to see its uncertainty."
            )
            return

        def work() -> NDArray[np.float32]:
            from napari_transunet.checkpoints.card import ModelCard
            from napari_transunet.inference.slices import SliceSource
            from napari_transunet.inference.uncertainty import uncertainty_volume

            volume = volume_at_hand()
            if paper:
                source = SliceSource.from_paper(volume, size)
            else:
                read: ModelCard = ModelCard.model_validate(card)
                source = SliceSource.from_card(volume, read, size)
            return uncertainty_volume(kept, source).astype(np.float32)

        def show(values: NDArray[np.float32]) -> None:
            self._pending.discard("uncertainty")
            if self._model.result is not result:
                return
            self._add_image("uncertainty", values, colormap="inferno", opacity=0.7)
            self._model.viewer.layers.selection.active = result.layer

        self._pending.add("uncertainty")
        self._tasks.run(work, show, self._fail, what="The map of uncertainty")
        self.changed.emit()

    def toggle_uncertainty(self) -> None:
        """Show how unsure the runs were, or take it away where it is shown or comes soon."""
        self.show_uncertainty(not self.shows("uncertainty"))

    def show_preview(self, found: Correction | None, box: Box | None = None) -> None:
        """Show what a correction would change within a box of the labels as a layer; take it away for None."""
        self.drop("preview")
        if found is None or box is None or self._model.result is None:
            return
        start = np.array([part.start for part in box])
        shown = np.zeros([part.stop - part.start for part in box], np.uint8)
        for write in found.writes:
            at = tuple(slice(a.start - s, a.stop - s) for a, s in zip(write.index, start, strict=True))
            differs = write.after != write.before
            shown[at][differs] = np.where(write.after[differs] > 0, 1, 2)
        kinds = LabelSet((Label(1, "added", (0.2, 0.9, 0.9)), Label(2, "removed", (0.95, 0.1, 0.5))))
        self._add_labels("preview", shown, kinds, "stays", first=start, opacity=0.6)

    def show_plane(self, plane: NDArray[np.float32], index: int, name: str) -> None:
        """Show one slice of values from 0 to 1 as a layer, in place of the last one of that name."""
        if self._model.result is None:
            return
        axis = self._model.result.session.axis
        first = np.zeros(3, np.int64)
        first[axis] = index
        shown = self._layer(name)
        data = np.expand_dims(plane, axis)
        if shown is not None:
            shown.data, shown.translate = data, self._placement(first)["translate"]
            return
        active = self._model.viewer.layers.selection.active
        self._add_image(name, data, first=first, colormap="viridis", opacity=0.6)
        self._model.viewer.layers.selection.active = active

    def shows(self, name: str) -> bool:
        """Whether the map of that name is shown, or will be soon: "uncertainty", "disagreement" or "attention"."""
        return name in self._pending or self._layer(name) is not None

    def drop(self, name: str) -> None:
        """Take the layer of that name away."""
        layer = self._layer(name)
        self._shown.pop(name, None)
        if layer is not None:
            self._model.viewer.layers.remove(layer)

    def _fail(self, sentence: str) -> None:
        self._pending.discard("uncertainty")
        self.failed.emit(sentence)

    def _layer(self, name: str) -> Any:
        """The layer of that name; None where it is not shown."""
        layer = self._shown.get(name, lambda: None)()
        return layer if layer in self._model.viewer.layers else None

    def _placement(self, first: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """Where a layer lies on the followed labels that begins at this voxel of them."""
        assert self._model.layer is not None
        where = placement_of(self._model.layer)
        if first is not None:
            matrix = {name: where[name] for name in ("scale", "translate", "rotate", "shear")}
            where["translate"] = Affine(**matrix)(first)
        return where

    def _add_labels(
        self,
        name: str,
        data: NDArray[Any],
        kinds: LabelSet,
        background: str,
        *,
        first: NDArray[np.int64] | None = None,
        **looks: Any,
    ) -> None:
        looks["colormap"] = label_colormap(kinds)
        looks["features"] = {"index": [0, *kinds.names], "name": [background, *kinds.names.values()]}
        self._add(name, self._model.viewer.add_labels, data, first, looks).editable = False
        self._model.viewer.layers.selection.active = self._model.layer

    def _add_image(
        self, name: str, data: NDArray[Any], *, first: NDArray[np.int64] | None = None, **looks: Any
    ) -> None:
        looks |= {"contrast_limits": (0, 1), "blending": "additive"}
        self._add(name, self._model.viewer.add_image, data, first, looks)

    def _add(
        self,
        name: str,
        add: Callable[..., Any],
        data: NDArray[Any],
        first: NDArray[np.int64] | None,
        looks: dict[str, Any],
    ) -> Any:
        assert self._model.layer is not None
        about = {METADATA_KEY: LayerRecord(overlay=True)}
        title = f"{self._model.layer.name}: {name}"
        layer = add(data, name=title, metadata=about, **self._placement(first), **looks)
        self._shown[name] = weakref.ref(layer)
        self.changed.emit()
        return layer
