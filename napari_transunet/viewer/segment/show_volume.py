"""Bringing a volume that a person chose into view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_transunet.viewer.layers.layer_record import is_scan
from napari_transunet.viewer.layers.napari_versions import camera_of

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from napari_transunet.viewer.sessions.registry import Sessions


def show_volume(viewer: Viewer, sessions: Sessions, image: Image) -> None:
    """Show a volume and the labels of it that are meant; hide other volumes and their labels, which would cover it."""
    meant = sessions.result_on(image)
    for layer in viewer.layers:
        result = sessions.result_of(layer)
        if layer is image or (meant is not None and layer is meant.layer):
            layer.visible = True
        elif is_scan(layer) or (result is not None and not result.lies_on(image)):
            layer.visible = False
    extent = np.asarray(image.extent.world)
    low, high = extent.min(axis=0), extent.max(axis=0)
    middle = (low + high) / 2
    offset = viewer.dims.ndim - len(middle)
    for axis, (first, last, centre) in enumerate(zip(low, high, middle, strict=True), start=offset):
        if axis not in viewer.dims.displayed and not first <= viewer.dims.point[axis] <= last:
            viewer.dims.set_point(axis, centre)
    shown = [axis - offset for axis in viewer.dims.displayed if axis >= offset]
    at = np.asarray(camera_of(viewer).center)[-len(shown) :]
    if ((at < low[shown]) | (at > high[shown])).any():
        viewer.reset_view()
