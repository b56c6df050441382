"""Clicks become attention: the network looks at the slice, off the GUI thread, and the map is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_transunet.inference.options import PredictorOptions
from napari_transunet.viewer.layers.layers import volume_job
from napari_transunet.viewer.segment.predictors import PredictorCache, PredictorSettings
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari_transunet.viewer.review.attention_panel import AttentionPanel
    from napari_transunet.viewer.review.click_picker import ClickPicker
    from napari_transunet.viewer.review.overlay_layers import OverlayLayers
    from napari_transunet.viewer.review.review_model import ReviewModel

_NAME = "attention"


class AttentionController(QObject):
    """Shows what the patch under a clicked voxel attends to, by the checkpoint that wrote the labels."""

    def __init__(
        self,
        model: ReviewModel,
        overlays: OverlayLayers,
        panel: AttentionPanel,
        clicks: ClickPicker,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._model = model
        self._overlays = overlays
        self._panel = panel
        self._clicks = clicks
        self._cache = PredictorCache(1)
        self._tasks = BackgroundTasks(self)
        self._voxel: tuple[int, int, int] | None = None
        panel.changed.connect(self._again)
        panel.turned.connect(self._on_turned)

    def show(self, voxel: tuple[int, int, int]) -> None:
        """Show the attention of the patch that holds this voxel."""
        result, image = self._model.result, self._model.image
        if result is None or image is None or self._tasks.busy:
            return
        self._voxel = voxel
        checkpoints = result.checkpoints
        run = result.session.runs[-1] if result.session.runs else None
        if run is None or len(checkpoints) != 1:
            self._panel.status.setText(
                "Segment this volume first: attention is that of the one checkpoint that wrote its labels."
            )
            return
        options = PredictorOptions(pipeline="paper" if run.pipeline == "paper" else "card")
        settings = PredictorSettings(next(iter(checkpoints)), options)
        block, head = self._panel.block, self._panel.head
        volume_at_hand = volume_job(image)
        self._panel.status.setText("Looking …")

        def work() -> tuple[Any, int, int, int]:
            from napari_transunet.inference.attention import attention_plane
            from napari_transunet.inference.predictor import Predictor
            from napari_transunet.model.variants import VARIANTS

            predictor = self._cache.get(settings).predictor
            assert isinstance(predictor, Predictor)  # no cluster was asked for
            volume = volume_at_hand()
            plane = attention_plane(predictor, volume, voxel, block=block, head=head)
            variant = VARIANTS[predictor.card.variant]
            return plane, predictor.slice_axis(volume), variant.blocks, variant.heads

        def show(found: tuple[Any, int, int, int]) -> None:
            plane, axis, blocks, heads = found
            self._panel.show_blocks(blocks, heads)
            if self._panel.on and self._model.result is result:
                self._overlays.show_plane(plane, voxel[axis], _NAME)
                self._panel.status.setText(
                    f"Brighter is attended to more by the patch at ({', '.join(map(str, voxel))})."
                )

        self._tasks.run(work, show, self._panel.status.setText, what="The attention map")

    def detach(self) -> None:
        """Forget what is under way, and let the network go."""
        self._tasks.drop()
        self._cache.clear()

    def _again(self) -> None:
        if self._voxel is not None and self._panel.on:
            self.show(self._voxel)

    def _on_turned(self, on: bool) -> None:
        layer = self._model.layer
        if on and layer is not None:
            self._clicks.always(layer, self.show, on_cancel=lambda: self._panel.set_on(False))
        else:
            self._clicks.stop()
            self._overlays.drop(_NAME)
