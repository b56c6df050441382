"""Layers that show something about the labels that are followed: uncertainty, disagreement, attention."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_transunet.metrics.difference_map import KINDS, Disagreement
from napari_transunet.viewer.layers.layer_record import METADATA_KEY, LayerRecord
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, label_colormap, placement, volume_of
from napari_transunet.viewer.widgets.messages import error_sentence
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.labels import Label, LabelSet

if TYPE_CHECKING:
    from napari_transunet.annotation.corrections import Correction
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.volumes.boxes import Box


class OverlayLayers(QObject):
    """Adds and removes them. Emits `failed` with a sentence where one cannot be made, `changed` where one came."""

    failed = Signal(str)
    changed = Signal()

    def __init__(self, model: ReviewModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model = model
        self._tasks = BackgroundTasks(self)
        self._maps: dict[str, weakref.ref[Any]] = {}
        self._pending: set[str] = set()
        model.followed.connect(self.drop_all)

    def detach(self) -> None:
        """Forget what is under way."""
        self._tasks.drop()
        self._pending.clear()
        self._maps.clear()

    def drop_all(self) -> None:
        """Take all away: they say nothing about other labels."""
        self._tasks.drop()
        self._pending.clear()
        for name in list(self._maps):
            self._drop_map(name)

    def show_disagreement(self, found: Disagreement | None) -> None:
        """Show where two labels differ as a layer; take it away for None."""
        self._drop_map("disagreement")
        if found is None or self._model.result is None:
            return
        colors = ((0.9, 0.1, 0.5), (0.1, 0.6, 0.95), (0.95, 0.75, 0.1))
        kinds = LabelSet(tuple(Label(v, name, c) for (v, name), c in zip(KINDS.items(), colors, strict=True)))
        layer = self._model.viewer.add_labels(
            found.map,
            name=f"{self._model.result.layer.name}: disagreement",
            colormap=label_colormap(kinds),
            features={"index": [0, *KINDS], "name": ["agree", *KINDS.values()]},
            metadata={METADATA_KEY: LayerRecord(overlay=True)},
            **placement(geometry_of(self._model.result.layer)),
        )
        layer.editable = False
        self._put_map("disagreement", layer)
        self._model.viewer.layers.selection.active = self._model.layer

    def show_uncertainty(self, on: bool) -> None:
        """Show how unsure the runs were of every voxel as a layer, or take it away."""
        self._tasks.drop()  # a map that is still being made is not wanted any more, or not twice
        self._pending.discard("uncertainty")
        self._drop_map("uncertainty")
        if not on or self._model.result is None or self._model.image is None:
            return
        result, image = self._model.result, self._model.image
        geometry = geometry_of(result.layer)
        unsure, cards = result.session.uncertainty, result.session.cards
        ready = None if is_lazy(image) else volume_of(image)
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

            volume = ready or volume_of(image)
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
            layer = self._model.viewer.add_image(
                values,
                name=f"{result.layer.name}: uncertainty",
                colormap="inferno",
                contrast_limits=(0, 1),
                blending="additive",
                opacity=0.7,
                metadata={METADATA_KEY: LayerRecord(overlay=True)},
                **placement(geometry),
            )
            self._put_map("uncertainty", layer)
            self._model.viewer.layers.selection.active = result.layer

        self._pending.add("uncertainty")
        self._tasks.run(work, show, self._fail)
        self.changed.emit()

    def show_preview(self, found: Correction | None, box: Box | None = None) -> None:
        """Show what a correction would change within a box of the labels as a layer; take it away for None."""
        self._drop_map("preview")
        if found is None or box is None or self._model.result is None:
            return
        start = np.array([part.start for part in box])
        shown = np.zeros([part.stop - part.start for part in box], np.uint8)
        for write in found.writes:
            at = tuple(slice(a.start - s, a.stop - s) for a, s in zip(write.index, start, strict=True))
            differs = write.after != write.before
            shown[at][differs] = np.where(write.after[differs] > 0, 1, 2)
        kinds = LabelSet((Label(1, "added", (0.2, 0.9, 0.9)), Label(2, "removed", (0.95, 0.1, 0.5))))
        layer = self._model.result.layer
        where = placement(geometry_of(layer))
        translate = np.asarray(where["translate"]) + start * np.asarray(where["scale"])
        overlay = self._model.viewer.add_labels(
            shown,
            name=f"{layer.name}: preview",
            colormap=label_colormap(kinds),
            opacity=0.6,
            features={"index": [0, 1, 2], "name": ["stays", "added", "removed"]},
            metadata={METADATA_KEY: LayerRecord(overlay=True)},
            **{**where, "translate": translate},
        )
        overlay.editable = False
        self._put_map("preview", overlay)
        self._model.viewer.layers.selection.active = layer

    def show_plane(self, plane: NDArray[np.float32], index: int, name: str) -> None:
        """Show one slice of values from 0 to 1 as a layer, in place of the last one of that name."""
        if self._model.result is None:
            return
        axis, geometry = self._model.result.session.axis, geometry_of(self._model.result.layer)
        where = placement(geometry)
        translate = list(where["translate"])
        translate[axis] += index * where["scale"][axis]
        held = self._maps.get(name, lambda: None)()
        data = np.expand_dims(plane, axis)
        if held is not None and held in self._model.viewer.layers:
            held.data, held.translate = data, translate
            return
        active = self._model.viewer.layers.selection.active
        layer = self._model.viewer.add_image(
            data,
            name=f"{self._model.result.layer.name}: {name}",
            colormap="viridis",
            contrast_limits=(0, 1),
            blending="additive",
            opacity=0.6,
            metadata={METADATA_KEY: LayerRecord(overlay=True)},
            **{**where, "translate": translate},
        )
        self._put_map(name, layer)
        self._model.viewer.layers.selection.active = active

    def drop_plane(self, name: str) -> None:
        """Take that layer away."""
        self._drop_map(name)

    def shows(self, name: str) -> bool:
        """Whether the map of that name is shown, or will be soon: "uncertainty", "disagreement" or "attention"."""
        if name in self._pending:
            return True
        layer = self._maps.get(name, lambda: None)()
        return layer is not None and layer in self._model.viewer.layers

    def _fail(self, error: Exception) -> None:
        self._pending.discard("uncertainty")
        self.failed.emit(error_sentence(error, "The map of uncertainty"))

    def _put_map(self, name: str, layer: Any) -> None:
        self._maps[name] = weakref.ref(layer)
        self.changed.emit()

    def _drop_map(self, name: str) -> None:
        layer = self._maps.pop(name, lambda: None)()
        if layer is not None and layer in self._model.viewer.layers:
            self._model.viewer.layers.remove(layer)
