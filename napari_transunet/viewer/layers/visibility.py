"""Hiding organs of a labels layer without touching its labels: their colour becomes clear."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.viewer.layers.layers import label_set_of

if TYPE_CHECKING:
    from napari.layers import Labels


def shown_colormap(layer: Labels, hidden: Collection[int]) -> Any:
    """The layer's colours with these labels clear, and all others solid."""
    from napari.utils.colormaps import DirectLabelColormap

    colors = dict(getattr(layer.colormap, "color_dict", {None: np.zeros(4)}))
    for value in {label.value for label in label_set_of(layer)} | set(hidden):
        rgba = np.array(colors.get(value, colors.get(None, np.ones(4))), dtype=np.float32)
        rgba[3] = 0.0 if value in hidden else 1.0
        colors[value] = rgba
    return DirectLabelColormap(color_dict=colors)
