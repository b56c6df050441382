"""Which image layer to segment, a list that follows the viewer's layers, and which of its labels are meant."""

from collections.abc import Sequence
from typing import Any

from napari.layers import Image, Labels
from napari.viewer import Viewer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QToolButton, QWidget

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.grids import images_labelled_by
from napari_transunet.viewer.layers.layer_record import is_scan
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, notes_of, problem_with, volume_of
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import size_and_spacing
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row
from napari_transunet.viewer.widgets.status_line import InfoLine


class VolumeChooser(QWidget):
    """Lists the image layers.

    Signals
    -------
    changed(): another one is chosen, or the chosen one changed.
    picked(object): a person chose this one in the list.
    """

    changed = Signal()
    picked = Signal(object)

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._viewer_links = EventLinks()
        self._name_links = EventLinks()
        self._image_links = EventLinks()  # to the chosen one
        self.problem: str | None = None
        """Why the chosen layer cannot be segmented, or that there is none; None where it can."""

        self._combo = ElidingCombo("volume", self)
        self._combo.currentIndexChanged.connect(self._on_index)
        self._combo.activated.connect(lambda _at: self.picked.emit(self.layer))
        self.open_button = push_button(
            "Open…", "open_volume", self, tip="Open a volume: NIfTI, NRRD, MetaImage, DICOM, TIFF, NumPy."
        )
        self.open_menu = QToolButton(self)
        self.open_menu.setObjectName("open_menu")
        self.open_menu.setArrowType(Qt.ArrowType.DownArrow)
        self.open_menu.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.open_menu.setToolTip("Open a file, or a folder of DICOM files.")
        self.open_menu.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        self._info = InfoLine("volume_info", self)
        line = row((self._combo, 1), self.open_button, self.open_menu)
        line.setSpacing(4)
        column(line, self._info, within=self, spacing=0)
        self.attach()

    @property
    def layer(self) -> Image | None:
        """The chosen image layer."""
        layer: Image | None = self._combo.currentData()
        return layer

    def choose(self, layer: Any) -> None:
        """Choose an image layer; one that is not in the viewer is ignored."""
        for index in range(self._combo.count()):
            if self._combo.itemData(index) is layer:
                self._combo.setCurrentIndex(index)

    def attach(self) -> None:
        """Follow the viewer's layers."""
        if self._viewer_links:
            return
        events = self._viewer.layers.events
        self._viewer_links.connect(self._on_inserted, events.inserted)
        self._viewer_links.connect(self._on_layers, events.removed, events.reordered)
        self._on_layers()
        active = self._viewer.layers.selection.active
        if active is not None and not self._is_of_another(active):
            self.choose(active)

    def detach(self) -> None:
        """Stop following the viewer's layers."""
        for links in (self._viewer_links, self._name_links, self._image_links):
            links.clear()
        self._combo.offer(())  # an entry holds its layer

    def _on_inserted(self, event: Any) -> None:
        self._on_layers()
        # What was opened last is what the person wants to work on, unless it cannot be segmented.
        if self.layer is not event.value and self._is_choosable(event.value):
            self.choose(event.value)

    def _is_choosable(self, layer: Any) -> bool:
        # A copy is made to keep something safe or to try something out, not to take over.
        fits = problem_with(layer) is None and is_scan(layer) and layer.source.parent is None
        return fits and not self._is_of_another(layer)

    def _is_of_another(self, layer: Any) -> bool:
        """Whether it looks like the labels of another image; those are no volume to segment unless a person says so."""
        return bool(images_labelled_by(layer, self._viewer.layers))

    def _on_layers(self, _event: Any = None) -> None:
        layers: list[Any] = [layer for layer in self._viewer.layers if is_scan(layer)]
        self._name_links.clear()
        for layer in layers:
            self._name_links.connect(self._on_name, layer.events.name)
        otherwise = len(layers) - 1
        if self.layer not in layers:
            otherwise = next(
                (at for at in range(otherwise, -1, -1) if not self._is_of_another(layers[at])), otherwise
            )
        self._combo.offer([(str(layer.name), layer) for layer in layers], self.layer, otherwise=otherwise)
        self._combo.setEnabled(bool(layers))
        self._on_index()

    def _on_name(self, _event: Any = None) -> None:
        for index in range(self._combo.count()):
            self._combo.setItemText(index, str(self._combo.itemData(index).name))

    def _on_index(self, _index: int = 0) -> None:
        self._image_links.clear()
        if (layer := self.layer) is not None:
            self._image_links.connect(self._on_data, layer.events.data, layer.events.scale)
        self._on_data()

    def _on_data(self, _event: Any = None) -> None:
        self._describe()
        self.changed.emit()

    def _describe(self) -> None:
        layer = self.layer
        self._combo.setToolTip("" if layer is None else str(layer.name))
        self.problem = "Open a volume, or drop one on the window." if layer is None else problem_with(layer)
        if layer is not None and self.problem is None:
            try:
                geometry = geometry_of(layer)
                modality = None if is_lazy(layer) else volume_of(layer).modality
                line = size_and_spacing(geometry.shape, geometry.spacing, modality)
                self._info.setText("\n".join((line, *notes_of(layer))))
            except VolumeError as error:
                self.problem = str(error)
        if self.problem is not None:
            self._info.setText(self.problem)


_NEW = "New labels"


class LabelsChooser(QWidget):
    """Emits `chosen` with a labels layer, or with None for new labels, when a person chooses."""

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._combo = ElidingCombo(
            "labels", self, "The labels that are shown and exported, and into which the next run writes"
        )
        self._combo.activated.connect(lambda _at: self.chosen.emit(self._combo.currentData()))
        self._info = InfoLine("labels_info", self)
        column(self._combo, self._info, within=self, spacing=0)

    def show_labels(self, choices: Sequence[Labels], current: Labels | None, info: str) -> None:
        """Offer these labels and new ones; say under them what the next run does."""
        entries = [*((str(layer.name), layer) for layer in choices), (_NEW, None)]
        self._combo.offer(entries, current, otherwise=len(choices))
        self._combo.setEnabled(bool(choices))
        self._info.setText(info)
        self._info.setVisible(bool(info))

    def set_locked(self, why_not: str | None) -> None:
        """Say why no other labels can be chosen now; None where they can."""
        self._combo.setEnabled(why_not is None and self._combo.count() > 1)
