"""How sure a network is of its labels, from the logits that gave them.

The measure is the entropy of the classes' probabilities, −Σ p ln p / ln(classes): 0 where one class has it all, 1 where
all are equally likely. It is found on the device, at the network's own resolution, where a slice takes a few kilobytes.

Its mean says how unsure the network is of a pixel, not how much of a slice is wrong: it is largest at the tips of
organs, where there is little to correct. What leads the review is therefore the mean times the square root of the area,
which stands for the length of the outline (`benchmarks/review_order.py` holds it against other measures).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.inference.resize import Resize
    from napari_transunet.inference.slices import SliceSource

_POSSIBLE = 0.2
"""A class this likely counts as present, so that an organ which the network nearly found does not look certain."""


@dataclass(frozen=True, eq=False)
class SliceUncertainty:
    """How unsure the network was of one slice, from 0 to 1.

    Attributes
    ----------
    mean : mean entropy over the foreground and its rim; 0 where there is none.
    per_class : float16 (classes,), the same over each class and its rim; NaN where there is none, and for class 0.
    expected_error : `mean` times the square root of the share of the slice that foreground and rim take: greater where
        more is expected to be wrong. From 0 to 1, to be compared within one volume.
    expected_error_per_class : float32 (classes,), the same of each class and its rim; 0 where there is none, NaN for
        class 0.
    entropy : float16 (H, W), on the network's grid; 0 in padding.
    """

    mean: float
    per_class: npt.NDArray[np.float16]
    expected_error: float
    expected_error_per_class: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float16]


def inside_of(resize: Resize) -> Tensor:
    """Which pixels of the network's grid show the slice rather than padding: bool (H, W)."""
    rows, columns = (matrix.any(dim=1) for matrix in (resize.rows, resize.columns))
    return rows[:, None] & columns[None, :]


def uncertainty_of(logits: Tensor, inside: Tensor) -> list[SliceUncertainty]:
    """The uncertainty of each slice.

    Parameters
    ----------
    logits : float32 (B, classes, H, W)
    inside : bool (H, W), as `inside_of` gives it; the rest does not count
    """
    log_probabilities = logits.log_softmax(dim=1)
    probabilities = log_probabilities.exp()
    return _measured(-(probabilities * log_probabilities).sum(dim=1), probabilities, inside)


def uncertainty_of_probabilities(probabilities: Tensor, inside: Tensor) -> list[SliceUncertainty]:
    """The same from probabilities (B, classes, H, W) that sum to 1, or to 0 in padding."""
    return _measured(-torch.xlogy(probabilities, probabilities).sum(dim=1), probabilities, inside)


def _measured(entropy: Tensor, probabilities: Tensor, inside: Tensor) -> list[SliceUncertainty]:
    classes = probabilities.shape[1]
    entropy = (entropy / math.log(max(2, classes))).clamp(0, 1) * inside
    present = (probabilities > _POSSIBLE) | (
        probabilities == probabilities.amax(dim=1, keepdim=True)  # ties count for all of them
    )
    present[:, 0] = present[:, 1:].any(dim=1)
    weights = (_with_rim(present & inside) & inside).float()
    area = weights.sum(dim=(2, 3))
    sums = (weights * entropy[:, None]).sum(dim=(2, 3))
    means = sums / area  # NaN where there is nothing
    expected = sums / (area * inside.sum()).clamp_min(1).sqrt()  # mean · √(area / inside)
    per_class = means.half().cpu().numpy()
    errors = expected.float().cpu().numpy()
    kept = entropy.half().cpu().numpy()
    overall, overall_errors = per_class[:, 0].astype(np.float64), errors[:, 0].tolist()
    per_class[:, 0] = errors[:, 0] = np.nan
    return [
        SliceUncertainty(0.0 if math.isnan(mean) else float(mean), own, error, own_error, plane)
        for mean, own, error, own_error, plane in zip(
            overall, per_class, overall_errors, errors, kept, strict=True
        )
    ]


def _with_rim(regions: Tensor) -> Tensor:
    """Each region (..., H, W) and one pixel around it, diagonals too. Max pooling takes 60 times as long on the CPU."""
    tall = regions.clone()
    tall[..., 1:, :] |= regions[..., :-1, :]
    tall[..., :-1, :] |= regions[..., 1:, :]
    wide = tall.clone()
    wide[..., 1:] |= tall[..., :-1]
    wide[..., :-1] |= tall[..., 1:]
    return wide


def uncertainty_volume(maps: Mapping[int, npt.NDArray[Any]], source: SliceSource) -> npt.NDArray[np.float16]:
    """Kept entropies as a volume: float16 of the shape of the volume's array, 0 where nothing was kept.

    Parameters
    ----------
    maps : index along the volume's slice axis -> `SliceUncertainty.entropy`
    source : how the slices were made, for the same volume, card and size; its network is not needed

    Raises
    ------
    InputError
        A map is of another slice or size than the source has, as one kept for another volume or card would be.
    """
    source = source.on(torch.device("cpu"))  # where the maps are kept; a predictor's source may be elsewhere
    for index, plane in maps.items():
        if not 0 <= index < len(source) or plane.shape != source.resize.size:
            raise InputError(
                f"The uncertainty kept for slice {index} does not fit this volume and checkpoint; segment again."
            )
    volume = np.zeros(source.orientation.invert(source.data).shape, np.float16)
    along = np.moveaxis(volume, source.orientation.slice_axis, 0)
    for index, plane in maps.items():
        values = source.resize.inverse(torch.from_numpy(plane.astype(np.float32))).clamp(0, 1)
        along[index] = source.to_volume(values.numpy().astype(np.float16))
    return volume
