"""What is shown of a result: the legend that picks the brush, the count of edits, and *Export…*."""

from typing import Any

from napari.layers import Image, Labels
from napari.viewer import Viewer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QWidget

from napari_transunet.viewer.export.exporter import exporter_of
from napari_transunet.viewer.layers.brush_suspender import BrushSuspender
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.layers import geometry_of, label_set_of
from napari_transunet.viewer.layers.visibility import colors_of, pick_label
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.fitting_area import FittingArea
from napari_transunet.viewer.widgets.legend import Legend
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row, single_shot
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.geometry import voxel_ml
from napari_transunet.volumes.label_values import voxels_by_label
from napari_transunet.volumes.labels import LabelSet

_QUIET = 600  # ms without a change before edits are counted
_HEIGHT = 168  # px; longer legends scroll


class ResultPanel(QWidget):
    """Follows one Labels layer at a time.

    Emits `edited` with the number of voxels that differ from the prediction and the volume of each label in mL, and
    `review_wanted`.
    """

    edited = Signal(int, object)
    review_wanted = Signal()

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._sessions = sessions_of(viewer)
        self._layer: Labels | None = None
        self._image: Image | None = None
        self._tasks = BackgroundTasks(self)
        self._brush_suspender = BrushSuspender(viewer, self)
        self.legend = Legend(self)
        self.legend.picked.connect(self._on_picked)
        self._area = FittingArea(self.legend, self, least=2)
        self._area.setMaximumHeight(_HEIGHT)
        self._review = push_button("Review these labels ▸", "review_these", self, self.review_wanted)
        self._button = push_button("Export…", "export_labels", self, self.export_labels)
        self.exporter = exporter_of(viewer)
        self._links = EventLinks()
        self._pause = single_shot(self, _QUIET, self.count_edits)
        column(self._area, row((self._review, 2), (self._button, 1)), within=self, spacing=6)

    @property
    def layer(self) -> Labels | None:
        """The layer that is shown."""
        return self._layer

    def show_result(
        self, layer: Labels | None, image: Image | None, otherwise: LabelSet | None = None
    ) -> None:
        """Follow this layer, made on this image; without one show the organs that could be found."""
        self._image = image
        if layer is not self._layer:
            self._layer = layer
            self._links.clear()
            if layer is not None:
                self._links.connect(self._on_selected_label, layer.events.selected_label)
                self._links.connect(self._on_colormap, layer.events.colormap)
                self._links.connect(self._on_edit, layer.events.paint, layer.events.set_data)
            self._brush_suspender.follow(layer)
        self.legend.show_labels(label_set_of(layer) if layer is not None else otherwise)
        self._on_colormap()
        self._on_selected_label()
        self._area.setVisible(len(self.legend) > 0)

    def set_locked(self, why_not: str | None) -> None:
        """Say why the result can be neither edited nor exported now; None where it can."""
        if self._layer is None:
            why_not = "Segment a volume first."
        self.legend.set_pickable(why_not)
        self._button.setEnabled(why_not is None)
        self._review.setEnabled(why_not is None)
        self._review.setToolTip(why_not or "Go through the slices, most to correct first, and correct them.")
        self._button.setToolTip(why_not or "Write the labels on the scan's grid, with their names.")

    def count_edits(self) -> None:
        """Count in the background what was changed since the prediction, and what there is now; `edited` tells."""
        layer = self._layer
        result = self._sessions.result_of(layer)
        session = result.session if result is not None else None
        if layer is None or session is None or not session.runs or not layer.editable:
            return
        labels = layer.data
        if tuple(labels.shape) != session.shape:
            return
        one = voxel_ml(geometry_of(layer).spacing)

        def volumes() -> dict[int, float]:
            return {value: count * one for value, count in voxels_by_label(labels).items()}

        def counted(found: tuple[int, dict[int, float]]) -> None:
            if self._layer is layer:
                self.edited.emit(*found)

        self._tasks.run(lambda: (session.edited_voxels(labels), volumes()), counted, latest="edits")

    def export_labels(self) -> None:
        """What the button *Export…* does: ask for formats and a folder."""
        result = self._sessions.result_of(self._layer)
        if result is not None:
            self.exporter.ask(result, self._image)

    def detach(self) -> None:
        """Follow no layer any more, and forget counts that are under way."""
        self._pause.stop()
        self._tasks.drop()
        self._links.clear()
        self._brush_suspender.follow(None)
        self._layer = None

    def _on_picked(self, value: int) -> None:
        if self._layer is not None:
            pick_label(self._viewer, self._layer, value)

    def _on_selected_label(self, _event: Any = None) -> None:
        self.legend.set_current(int(self._layer.selected_label) if self._layer is not None else None)

    def _on_colormap(self, _event: Any = None) -> None:
        if self._layer is not None:
            self.legend.set_colors(
                colors_of(self._layer, [label.value for label in self.legend.labels or ()])
            )

    def _on_edit(self, _event: Any = None) -> None:
        # Also called on every repaint, as undo tells nothing else; the timer makes one count of many.
        if self._layer is not None and self._layer.editable:
            self._pause.start()
