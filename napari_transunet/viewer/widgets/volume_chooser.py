"""Which image layer to segment: a list that follows the viewer's layers, and what the chosen one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QComboBox, QGridLayout, QLabel, QPushButton, QSizePolicy, QToolButton, QWidget

from napari_transunet.errors import VolumeError
from napari_transunet.viewer.layers.layer_record import is_overlay
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, notes_of, problem_with, volume_of
from napari_transunet.viewer.widgets.messages import size_and_spacing

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer
    from qtpy.QtGui import QResizeEvent


class ElidingCombo(QComboBox):
    """A combo box that may become narrower than its longest entry, so that the dock stays narrow."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)


class InfoLine(QLabel):
    """A quiet line under a chooser; long text wraps instead of widening the dock."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setContentsMargins(2, 0, 0, 2)
        self.setStyleSheet("font-size: 11px;")

    def setText(self, text: str | None) -> None:  # noqa: N802
        """Show a text, in as many lines as the width needs."""
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802
        """Another width may need another number of lines; nested layouts do not find that out by themselves."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setMinimumHeight(0)  # a label never proposes less than its minimum, so the last one would stay
        self.setFixedHeight(max(0, self.heightForWidth(self.width())))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """No width of its own: the width is the dock's."""
        return QSize(10, self.fontMetrics().height())


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
        self._layers: list[Image] = []
        self._watched: Image | None = None
        self._attached = False
        self.problem: str | None = None
        """Why the chosen layer cannot be segmented, or that there is none; None where it can."""

        self._combo = ElidingCombo("volume", self)
        self._combo.currentIndexChanged.connect(self._on_index)
        self._combo.activated.connect(lambda _at: self.picked.emit(self.layer))
        self.open_button = QPushButton("Open…", self)
        self.open_button.setObjectName("open_volume")
        self.open_button.setToolTip("Open a volume: NIfTI, NRRD, MetaImage, DICOM, TIFF, NumPy.")
        self.open_menu = QToolButton(self)
        self.open_menu.setObjectName("open_menu")
        self.open_menu.setArrowType(Qt.ArrowType.DownArrow)
        self.open_menu.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.open_menu.setToolTip("Open a file, or a folder of DICOM files.")
        self.open_menu.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        self._info = InfoLine("volume_info", self)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(0)
        layout.setHorizontalSpacing(4)
        layout.addWidget(self._combo, 0, 0)
        layout.addWidget(self.open_button, 0, 1)
        layout.addWidget(self.open_menu, 0, 2)
        layout.addWidget(self._info, 1, 0, 1, 3)
        layout.setColumnStretch(0, 1)
        self.attach()

    @property
    def layer(self) -> Image | None:
        """The chosen image layer."""
        index = self._combo.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Any) -> None:
        """Choose an image layer; one that is not in the viewer is ignored."""
        for index, candidate in enumerate(self._layers):
            if candidate is layer:
                self._combo.setCurrentIndex(index)

    def attach(self) -> None:
        """Follow the viewer's layers."""
        if self._attached:
            return
        self._attached = True
        events = self._viewer.layers.events
        events.inserted.connect(self._on_inserted)
        events.removed.connect(self._on_layers)
        events.reordered.connect(self._on_layers)
        self._on_layers()
        active = self._viewer.layers.selection.active
        if active is not None:
            self.choose(active)

    def detach(self) -> None:
        """Stop following the viewer's layers."""
        if not self._attached:
            return
        self._attached = False
        events = self._viewer.layers.events
        events.inserted.disconnect(self._on_inserted)
        events.removed.disconnect(self._on_layers)
        events.reordered.disconnect(self._on_layers)
        for layer in self._layers:
            layer.events.name.disconnect(self._on_name)
        self._watch(None)
        self._layers = []

    def _on_inserted(self, event: Any) -> None:
        self._on_layers()
        # What was opened last is what the person wants to work on, unless it cannot be segmented.
        if self.layer is not event.value and self._is_choosable(event.value):
            self.choose(event.value)

    @staticmethod
    def _is_choosable(layer: Any) -> bool:
        # A copy is made to keep something safe or to try something out, not to take over.
        return problem_with(layer) is None and not is_overlay(layer) and layer.source.parent is None

    def _on_layers(self, _event: Any = None) -> None:
        from napari.layers import Image

        chosen = self.layer
        for layer in self._layers:
            layer.events.name.disconnect(self._on_name)
        self._layers = [
            layer for layer in self._viewer.layers if isinstance(layer, Image) and not is_overlay(layer)
        ]
        for layer in self._layers:
            layer.events.name.connect(self._on_name)
        self._combo.blockSignals(True)
        self._combo.clear()
        self._combo.addItems([layer.name for layer in self._layers])
        at = next((at for at, layer in enumerate(self._layers) if layer is chosen), len(self._layers) - 1)
        self._combo.setCurrentIndex(at)
        self._combo.blockSignals(False)
        self._combo.setEnabled(bool(self._layers))
        self._on_index()

    def _on_name(self, _event: Any = None) -> None:
        for index, layer in enumerate(self._layers):
            self._combo.setItemText(index, layer.name)

    def _on_index(self, _index: int = 0) -> None:
        self._watch(self.layer)
        self._describe()
        self.changed.emit()

    def _on_data(self, _event: Any = None) -> None:
        self._describe()
        self.changed.emit()

    def _watch(self, layer: Image | None) -> None:
        for emitters, wanted in ((self._watched, False), (layer, True)):
            if emitters is None:
                continue
            for emitter in (emitters.events.data, emitters.events.scale):
                (emitter.connect if wanted else emitter.disconnect)(self._on_data)
        self._watched = layer

    def _describe(self) -> None:
        layer = self.layer
        if layer is None:
            self.problem = "Open a volume, or drop one on the window."
            self._info.setText(self.problem)
            self._combo.setToolTip("")
            return
        self.problem = problem_with(layer)
        self._combo.setToolTip(layer.name)
        if self.problem is not None:
            self._info.setText(self.problem)
            return
        try:
            geometry = geometry_of(layer)
            modality = None if is_lazy(layer) else volume_of(layer).modality
        except VolumeError as error:
            self.problem = str(error)
            self._info.setText(self.problem)
            return
        facts_line = size_and_spacing(geometry.shape, geometry.spacing, modality)
        self._info.setText("\n".join((facts_line, *notes_of(layer))))
