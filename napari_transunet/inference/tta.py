"""Test-time augmentation: the mean of what a network says of a slice and of its mirror images.

Each mirror image costs as much as the slice; what it gains depends on the organ, and is measured in
docs/performance.md.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from napari_transunet.inference.prediction import PredictionCancelled

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes of an image (..., H, W) that are mirrored; the first image stays as it is."""


@torch.inference_mode()
def mean_over_mirrors(
    network: Callable[[Tensor], Tensor], images: Tensor, cancelled: Callable[[], bool] | None = None
) -> Tensor:
    """The logarithm of the classes' mean probabilities over all `MIRRORS`.

    It takes the place of logits: its softmax is the mean probability, and where all agree its argmax is theirs,
    between pixels too, since logits differ from log-probabilities by the same number for all classes of a pixel.

    Parameters
    ----------
    network : (B, channels, H, W) -> float32 logits (B, classes, H, W)
    images : (B, channels, H, W)
    cancelled : asked between two mirror images

    Raises
    ------
    PredictionCancelled
        `cancelled` said so.
    """
    total: Tensor | None = None
    for axes in MIRRORS:
        if total is not None and cancelled is not None and cancelled():
            raise PredictionCancelled("Cancelled between two mirror images of a batch.")
        # One image after the other, so that a batch needs no more memory than without them.
        logits = network(images.flip(axes) if axes else images)
        log_probabilities = (logits.flip(axes) if axes else logits).log_softmax(dim=1)
        total = log_probabilities if total is None else torch.logaddexp(total, log_probabilities)
    assert total is not None
    return total - math.log(len(MIRRORS))
