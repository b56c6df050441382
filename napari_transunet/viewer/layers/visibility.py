"""The organs of a labels layer as they are shown: their colours, which are hidden, and which the brush paints."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.viewer.layers.layers import label_set_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_transunet.volumes.labels import Color


def shown_colormap(layer: Labels, hidden: Collection[int]) -> Any:
    """The layer's colours with these labels clear, so that their voxels stay, and all others solid."""
    from napari.utils.colormaps import DirectLabelColormap

    colors = dict(getattr(layer.colormap, "color_dict", {None: np.zeros(4)}))
    for value in {label.value for label in label_set_of(layer)} | set(hidden):
        rgba = np.array(colors.get(value, colors.get(None, np.ones(4))), dtype=np.float32)
        rgba[3] = 0.0 if value in hidden else 1.0
        colors[value] = rgba
    return DirectLabelColormap(color_dict=colors)


def colors_of(layer: Labels) -> dict[int, Color]:
    """The colour of each label value that the layer's colours name, as red, green and blue from 0 to 1."""
    return {
        int(value): (float(rgba[0]), float(rgba[1]), float(rgba[2]))
        for value, rgba in getattr(layer.colormap, "color_dict", {}).items()
        if value is not None
    }


def pick_label(viewer: ViewerModel, layer: Labels, value: int) -> None:
    """Take a label as the brush, where the layer can be painted on."""
    viewer.layers.selection.active = layer
    layer.selected_label = value
    if layer.editable and viewer.dims.ndisplay == 2:
        layer.mode = "paint"
