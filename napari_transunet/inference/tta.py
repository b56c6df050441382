"""Several looks at one slice: mirrored, and along three axes. Their probabilities are averaged.

Averaging what a network says of transformed copies of its input is called test-time augmentation. Each look costs as
much as the first; what it gains depends on the organ, and is measured in docs/performance.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.checkpoints.card import ModelCard

MIRRORS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes of an image (..., H, W) that each look turns round; the first leaves it as it is."""


def check_three_planes(card: ModelCard) -> None:
    """Refuse to look along all three axes with a network whose card does not say at what size.

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


@torch.inference_mode()
def mean_over_mirrors(
    network: Callable[[Tensor], Tensor], images: Tensor, cancelled: Callable[[], bool] | None = None
) -> Tensor | None:
    """The logarithm of the classes' mean probabilities over all `MIRRORS`; None once `cancelled` says so.

    It takes the place of logits: its softmax is the mean probability, and for looks that agree its argmax is theirs,
    between pixels too, since logits differ from log-probabilities by the same number for all classes of a pixel.

    Parameters
    ----------
    network : (B, channels, H, W) -> float32 logits (B, classes, H, W)
    images : (B, channels, H, W)
    cancelled : asked between two looks
    """
    total: Tensor | None = None
    for axes in MIRRORS:
        if total is not None and cancelled is not None and cancelled():
            return None
        # One look after the other, so that a batch needs no more memory than without them.
        logits = network(images.flip(axes) if axes else images)
        shares = (logits.flip(axes) if axes else logits).log_softmax(dim=1)
        total = shares if total is None else torch.logaddexp(total, shares)
    assert total is not None
    return total - math.log(len(MIRRORS))
