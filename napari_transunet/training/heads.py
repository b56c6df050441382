"""A network with other classes: organs added to its head, or taken out of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from napari_transunet.model.transunet import TransUNet

_RARER = 1.0
"""By how much the logit of a new class lies below that of the background, before anything is learnt about it."""


def with_classes(net: TransUNet, origins: Sequence[int | None]) -> TransUNet:
    """A copy of `net` whose class i is its class `origins[i]`, or a new one where that is None.

    Everything else, and so the logits of the classes that stay, is the same. A new class starts from the background's
    weights with a lower bias: nowhere is it the most probable, and it learns fast.

    Raises
    ------
    InputError
        The background does not stay the background, or `origins` names a class that `net` lacks, or one twice.
    """
    kept = [origin for origin in origins if origin is not None]
    if not origins or origins[0] != 0:
        raise InputError("The background has to stay class 0.")
    if len(set(kept)) < len(kept) or not all(0 <= origin < net.num_classes for origin in kept):
        raise InputError(f"Classes {kept} cannot be taken from a network with {net.num_classes}.")
    changed = copy.deepcopy(net)
    old = changed.segmentation_head[0]
    assert isinstance(old, nn.Conv2d)
    new = nn.Conv2d(old.in_channels, len(origins), old.kernel_size, padding=old.padding)  # type: ignore[arg-type]
    rows = [0 if origin is None else origin for origin in origins]
    lower = torch.tensor([_RARER if origin is None else 0.0 for origin in origins])
    assert old.bias is not None
    assert new.bias is not None
    with torch.no_grad():
        new.weight.copy_(old.weight[rows])
        new.bias.copy_(old.bias[rows] - lower.to(old.bias))
    changed.segmentation_head[0] = new.to(old.weight.device)
    changed.num_classes = len(origins)
    changed.train(net.training)
    return changed
