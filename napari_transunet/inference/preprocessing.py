"""Intensities as a model card wants them: a window in the volume's own units, scaled to 0..1."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_transunet.checkpoints.card import CT_WINDOW, ModelCard
from napari_transunet.errors import InputError
from napari_transunet.volumes.intensity import as_float32
from napari_transunet.volumes.lazy_array import LazyArray

_MAX_SAMPLES = 1 << 21


@dataclass(frozen=True, slots=True)
class IntensityScaling:
    """Clip to [low, high], in the volume's units (HU for CT), and scale to [0, 1]."""

    low: float
    high: float

    def apply(self, values: Tensor) -> Tensor:
        """Any real tensor -> float32 of the same shape in [0, 1]. NaN, which scanners write outside the field of
        view, becomes 0.
        """
        values = torch.nan_to_num(values.float(), nan=self.low, posinf=self.high, neginf=self.low)
        return (values.clamp(self.low, self.high) - self.low) / (self.high - self.low)


PAPER_SCALING = IntensityScaling(*CT_WINDOW)
"""Of the published procedure (Chen et al., arXiv 2102.04306)."""


def scaling_for(card: ModelCard, data: npt.NDArray[Any]) -> IntensityScaling:
    """The scaling that the card asks for, of a (z, y, x) volume."""
    if card.normalisation == "window":
        return IntensityScaling(*(card.window or CT_WINDOW))
    return percentile_scaling(data, *card.percentiles)


def percentile_scaling(data: npt.NDArray[Any], lower: float, upper: float) -> IntensityScaling:
    """Between two percentiles (0..100) of a (z, y, x) volume's finite values.

    Of a large volume every n-th voxel along each axis is looked at, about two million in all, so the cost and the
    memory do not grow with it and the same volume always gives the same numbers. Of a `LazyArray` its sample is.
    """
    if isinstance(data, LazyArray):
        data = data.sample()
        data = data if data.ndim == 3 else data.reshape(1, 1, -1)
    step = 1
    while data[::step, ::step, ::step].size > _MAX_SAMPLES:
        step += 1
    values = as_float32(data[::step, ::step, ::step]).ravel()
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError("The volume holds no finite number, so its intensities cannot be scaled.")
    low, high = (float(value) for value in np.percentile(values, (lower, upper)))
    # A volume of one value has no width: every voxel at or below it becomes 0.
    return IntensityScaling(low, high if high > low else low + 1.0)
