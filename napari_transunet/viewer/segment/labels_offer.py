"""A label file without names opens as an image, by dropping it for one; whether it shall be labels is asked here."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from napari.layers import Image
from napari.viewer import Viewer
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_transunet.errors import TransUNetError
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.grids import images_labelled_by
from napari_transunet.viewer.layers.layers import volume_of
from napari_transunet.viewer.segment.volume_loader import labels_of
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.qt_helpers import single_shot, window_object

_OBJECT = "transunet_labels_offer"


class LabelsOffer(QObject):
    """Asks about images that look like labels of another image; one in a window, see `labels_offer_of`.

    Signals
    -------
    opened(object): the labels layer that took an image's place; it is tied to its image where that is certain.
    kept(object): this image is to stay one.
    """

    opened = Signal(object)
    kept = Signal(object)

    def __init__(self, viewer: Viewer, window: QWidget) -> None:
        super().__init__(window)
        self._viewer = viewer
        self._bars: list[tuple[ConfirmBar, Callable[[], bool]]] = []
        self._images: weakref.WeakSet[Image] = weakref.WeakSet()  # those that a person said are none
        self._soon = single_shot(self, 0, self._look)  # after an event, when everybody knows the layer
        self._links = EventLinks()
        self._links.connect(self._on_inserted, viewer.layers.events.inserted)

    def ask_in(self, bar: ConfirmBar, busy: Callable[[], bool] = lambda: False) -> None:
        """Ask in this bar, too, where it is in sight and its dock is not `busy`."""
        self._bars.append((bar, busy))
        self._soon.start()

    def _on_inserted(self, event: Any) -> None:
        if event.value._type_string == "image":
            self._soon.start()

    def _look(self) -> None:
        # Asked, not told by `destroyed`: a closed window's bars are destroyed as garbage, with what would be called.
        self._bars = [(bar, busy) for bar, busy in self._bars if isalive(bar)]
        bars = [bar for bar, busy in self._bars if not busy()]
        bar = next((bar for bar in bars if _in_sight(bar.parentWidget())), bars[-1] if bars else None)
        if bar is None:
            return
        for layer in reversed(self._viewer.layers):
            if layer not in self._images and (on := images_labelled_by(layer, self._viewer.layers)):
                bar.ask(
                    f"“{layer.name}” looks like labels of “{on[0].name}”, on whose grid it lies. Open it as labels?",
                    yes="Open as labels",
                    no="Keep as an image",
                    on_yes=partial(self._open, layer, on),
                    on_no=partial(self._keep, layer),
                )
                return

    def _keep(self, layer: Image) -> None:
        self._images.add(layer)
        self.kept.emit(layer)

    def _open(self, layer: Image, on: Sequence[Image]) -> None:
        """Show labels in the place of what was opened as an image, without reading it again."""
        from napari.utils.notifications import show_error

        if layer not in self._viewer.layers:
            return
        try:
            labels = labels_of(volume_of(layer), str(layer.name))
        except TransUNetError as error:
            show_error(str(error))
            return
        self._viewer.layers.remove(layer)
        # Only now the image itself is no candidate for what its labels lie on.
        sessions = sessions_of(self._viewer)
        if sessions.result_for(labels) is None and len(on) == 1 and on[0] in self._viewer.layers:
            try:
                sessions.assign_image(labels, on[0])  # it was named in the question
            except TransUNetError as error:
                show_error(str(error))
        self._viewer.add_layer(labels)
        self.opened.emit(labels)
        self._soon.start()  # there may be more


def _in_sight(dock: QWidget | None) -> bool:
    return dock is not None and not dock.visibleRegion().isEmpty()  # behind another tab it is “visible”, too


def labels_offer_of(viewer: Viewer) -> LabelsOffer:
    """The one of the viewer's window."""
    return window_object(viewer, LabelsOffer, _OBJECT, LabelsOffer)
