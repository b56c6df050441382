"""One step to an anatomical plane, or to the organs in 3D as seen from the front."""

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Layer

from napari_transunet.viewer.anatomy.directions import Plane, patient_directions, view_of
from napari_transunet.viewer.layers.layer_record import is_overlay
from napari_transunet.viewer.layers.napari_versions import camera_of

_UNKNOWN = np.eye(3)[::-1]  # z, y and x of a scan that says nothing: towards head, back and left


class Views:
    """Shows a viewer's volumes along anatomical planes and in 3D."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._hidden: list[weakref.ref[Layer]] = []

    def reference(self) -> Layer | None:
        """The layer whose patient is meant: the active one, else the topmost that is shown and knows how it lies."""
        return next((layer for layer in self._candidates() if patient_directions(layer) is not None), None)

    def show_plane(self, plane: Plane) -> None:
        """Show this plane, head or front up, as it is seen from the feet, the front, or the left."""
        viewer = self._viewer
        self._set_view(plane)
        viewer.dims.ndisplay = 2
        for layer in self._taken_back():
            layer.visible = True
        viewer.reset_view()

    def show_front(self) -> None:
        """Show the labels in 3D from the front; scans, which would cover them, are hidden until a plane is shown."""
        viewer = self._viewer
        labels = [
            layer for layer in viewer.layers if layer._type_string == "labels" and not is_overlay(layer)
        ]
        if any(layer.visible for layer in labels):
            for layer in viewer.layers:
                if layer.visible and layer._type_string == "image":
                    layer.visible = False
                    self._hidden.append(weakref.ref(layer))
        self._set_view(Plane.CORONAL)
        viewer.dims.ndisplay = 3
        viewer.reset_view()  # also turns the camera to where it looks along the third axis

    def _set_view(self, plane: Plane) -> None:
        viewer, layer = self._viewer, self.reference()
        known = patient_directions(layer) if layer is not None else None
        ndim = viewer.dims.ndim
        if ndim < 3:
            return
        view = view_of(plane, known if known is not None else _UNKNOWN)
        before = tuple(range(ndim - 3))
        viewer.dims.order = (*before, *(axis + ndim - 3 for axis in view.order))
        camera_of(viewer).orientation = view.orientation

    def _candidates(self) -> Iterator[Layer]:
        active = self._viewer.layers.selection.active
        if active is not None:
            yield active
        for layer in reversed(list(self._viewer.layers)):
            if layer is not active and (layer.visible or any(ref() is layer for ref in self._hidden)):
                yield layer

    def _taken_back(self) -> list[Any]:
        hidden, self._hidden = self._hidden, []
        return [layer for ref in hidden if (layer := ref()) is not None and layer in self._viewer.layers]
