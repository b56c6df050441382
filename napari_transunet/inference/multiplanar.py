"""Slices along all three axes, whose probabilities are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.errors import InputError
from napari_transunet.inference.batching import BatchRunner, fits_in_memory
from napari_transunet.inference.prediction import SlicePrediction
from napari_transunet.inference.uncertainty import uncertainty_of_probabilities

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.inference.slices import SliceSource

Probabilities = npt.NDArray[np.float16]
ProbabilitiesOf = Callable[["SliceSource", Sequence[int]], list[Probabilities]]
"""Of slices of a source, the probabilities (classes, …) on the volume's grid."""


def check_three_planes(card: ModelCard) -> None:
    """Refuse to take slices along all three axes for a network whose card does not say at what size.

    Raises
    ------
    InputError
        Slices are scaled to the card's spacing, and it has none for one of the axes. A network that learnt from all
        three planes learnt without it, and is not refused.
    """
    if card.planes == 3 or card.resize != "pad" or card.spacing is None or None not in card.spacing:
        return
    axes = " and ".join(axis for axis, step in zip("zyx", card.spacing, strict=True) if step is None)
    raise InputError(
        f"{card.name or 'This checkpoint'} cannot look along three axes: its card has no spacing along {axes}, which "
        "slices along the other axes would be scaled to; use one plane."
    )


class MultiplanarPredictions:
    """Labels of the slices along one axis of a volume, by probabilities of the slices along all three.

    Parameters
    ----------
    sources
        The slices along each axis; the first are those to be labelled.
    classes
        How many there are.
    runner
        Takes the slices along the other axes a batch at a time. Once its `cancelled` says so, what is made here is
        incomplete.
    probabilities_of
        What the network says of slices.
    labels_dtype
        uint8 or uint16.
    inside
        Where uncertainty is wanted: which pixels of the network's grid show the slice (H, W).
    """

    def __init__(
        self,
        sources: Sequence[SliceSource],
        classes: int,
        runner: BatchRunner,
        probabilities_of: ProbabilitiesOf,
        *,
        labels_dtype: np.dtype[Any],
        inside: Tensor | None,
    ) -> None:
        self._source, *others = sources
        self._planes = len(sources)
        self._probabilities_of = probabilities_of
        self._labels_dtype = labels_dtype
        self._inside = inside
        probability_sum = _probability_sum(others, classes, runner, probabilities_of)
        self._probability_sum = _slices_first(probability_sum, self._source)

    def __call__(self, indices: Sequence[int]) -> list[SlicePrediction]:
        """Labels of these slices of the first source."""
        own = self._probabilities_of(self._source, indices)
        return [
            self._labelled(index, self._probability_sum[:, index].astype(np.float32) + probabilities)
            for index, probabilities in zip(indices, own, strict=True)
        ]

    def _labelled(self, index: int, probability_sum: npt.NDArray[np.float32]) -> SlicePrediction:
        """By probabilities (classes, …) of one slice, summed up over the planes."""
        labels = probability_sum.argmax(0).astype(self._labels_dtype)
        if self._inside is None:
            return SlicePrediction(index, labels)
        source = self._source
        mean = np.stack([source.from_volume(plane) for plane in probability_sum / self._planes])
        on_grid = source.resize.forward(torch.from_numpy(mean).to(source.resize.rows.device))[None]
        return SlicePrediction(index, labels, uncertainty_of_probabilities(on_grid, self._inside)[0])


def _probability_sum(
    sources: Sequence[SliceSource], classes: int, runner: BatchRunner, probabilities_of: ProbabilitiesOf
) -> Probabilities:
    """Probabilities (classes, *the volume's shape), summed up over the slices of all sources."""
    shape = (classes, *sources[0].orientation.invert(sources[0].data).shape)
    size = 2 * math.prod(shape)
    if not fits_in_memory(size):
        raise InputError(
            f"Looking at three planes takes {size / 1e9:.1f} GB for this volume, more than is free; close other "
            "programs, crop the volume, or look at one plane."
        )
    total = np.zeros(shape, np.float16)
    for source in sources:
        along = _slices_first(total, source)
        for indices, found in runner.run(range(len(source)), partial(probabilities_of, source)):
            for index, probabilities in zip(indices, found, strict=True):
                along[:, index] += probabilities
    return total


def _slices_first(probabilities: Probabilities, source: SliceSource) -> Probabilities:
    """A view of (classes, *the volume's shape) with the source's slices along the second axis."""
    return np.moveaxis(probabilities, source.orientation.slice_axis + 1, 1)
