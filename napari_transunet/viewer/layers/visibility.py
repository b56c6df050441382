"""The organs of a labels layer as they are shown: their colours, which are hidden, and which the brush paints."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.viewer.layers.layers import UNNAMED_COLOR, colors_in, label_set_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

    from napari_transunet.volumes.labels import Color


def shown_colormap(layer: Labels, hidden: Collection[int]) -> Any:
    """The layer's colours with these labels clear, so that their voxels stay, and all others solid."""
    from napari.utils.colormaps import DirectLabelColormap

    named: Any = getattr(layer.colormap, "color_dict", None)
    if named is None:  # a cycle of colours: labels that are not listed keep theirs, too
        named = colors_in(layer.colormap, range(1, 256))
    colors = {None: np.array(UNNAMED_COLOR), 0: np.zeros(4), **named}
    listed = (
        {value for value in colors if value} | {label.value for label in label_set_of(layer)} | set(hidden)
    )
    for value, rgba in colors_in(layer.colormap, listed).items():
        colors[value] = np.array([*rgba[:3], 0.0 if value in hidden else 1.0], dtype=np.float32)
    return DirectLabelColormap(color_dict=colors)


def colors_of(layer: Labels, values: Iterable[int]) -> dict[int, Color]:
    """The colour in which the layer shows each of these labels, as red, green and blue from 0 to 1."""
    return {
        value: (float(rgba[0]), float(rgba[1]), float(rgba[2]))
        for value, rgba in colors_in(layer.colormap, values).items()
    }


def shows(layer: Labels, hidden: Collection[int]) -> bool:
    """Whether the layer's colours show a label that is hidden, since a person chose others in napari."""
    return any(rgba[3] > 0 for rgba in colors_in(layer.colormap, hidden).values())


def pick_label(viewer: ViewerModel, layer: Labels, value: int) -> None:
    """Take a label as the brush, where the layer can be painted on."""
    viewer.layers.selection.active = layer
    layer.selected_label = value
    if layer.editable and viewer.dims.ndisplay == 2:
        layer.mode = "paint"
