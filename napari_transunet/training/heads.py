"""A network with other classes: organs added to its head, or taken out of it."""

import copy
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_transunet.errors import InputError
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.losses import UNKNOWN

_RARER = 1.0
"""By how much the logit of a new class lies below that of the background, before anything is learnt about it."""

_PIXELS = 4096
"""So many pixels a batch are taken within a new organ, and as many without, to fit its weights to."""

_RIDGE, _NEWTON_STEPS = 1e-3, 12
_SHARE = 0.25
"""The weight of the pixels within a new organ, of all: what is small would else not be worth finding."""


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


def unlearnt_classes(net: TransUNet) -> list[int]:
    """The classes that `with_classes` added and that nothing was learnt about since."""
    weight = net.segmentation_head[0].weight
    assert isinstance(weight, torch.Tensor)
    return [value for value in range(1, net.num_classes) if torch.equal(weight[value], weight[0])]


def fit_new_classes(
    net: TransUNet,
    new: Collection[int],
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    generator: torch.Generator,
    autocast: torch.dtype = torch.float32,
) -> None:
    """Give the head's rows of new classes the weights with which they are found best by what the network sees already.

    The rest of the network stays as it is. Each row is a logistic regression on the decoder's features, of the new
    class against all others by the logits that these have: convex, so Newton's method solves it in a few steps. A
    class that no batch shows keeps its weights.

    Parameters
    ----------
    new : the classes
    batches : images (B, C, H, W), labels (B, H, W), annotated (B, classes), as `PartialSlices.batch` gives them
    generator : draws the pixels that are taken
    autocast : type in which the features are computed
    """
    head = net.segmentation_head[0]
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    assert not isinstance(head.padding, str)
    old = [value for value in range(net.num_classes) if value not in new]
    taken: dict[int, list[tuple[Tensor, ...]]] = {value: [] for value in new}
    net.eval()
    with torch.no_grad():
        for images, labels, annotated in batches:
            with torch.autocast(images.device.type, autocast, enabled=autocast != torch.float32):
                seen = net.decoder(*net.encode(images))
            # Behind the head of networks with large patches, logits are resized.
            here = functional.interpolate(labels[:, None].float(), size=seen.shape[-2:])[:, 0]
            features = functional.unfold(seen.float(), head.kernel_size, padding=head.padding).transpose(1, 2)
            features = features.flatten(0, 1)
            others = torch.logsumexp(
                features @ head.weight[old].flatten(1).float().T + head.bias[old].float(), 1
            )
            for value in new:
                own = (here == value).flatten()
                known = (here != UNKNOWN) & (annotated[:, value, None, None] | (here != 0))
                inside, outside = torch.nonzero(own)[:, 0], torch.nonzero(known.flatten() & ~own)[:, 0]
                for pixels in (inside, outside):
                    some = pixels[
                        torch.randperm(len(pixels), generator=generator)[:_PIXELS].to(pixels.device)
                    ]
                    share = torch.full((len(some),), len(pixels) / max(1, len(some)), device=some.device)
                    taken[value].append((features[some], others[some], own[some], share))
        for value, parts in taken.items():
            seen, others, own, weight = (torch.cat(side) for side in zip(*parts, strict=True))
            if not own.any() or own.all():
                continue
            weight = torch.where(
                own, weight * _SHARE / weight[own].sum(), weight * (1 - _SHARE) / weight[~own].sum()
            )
            row = _logistic_regression(seen, own, weight, -others)
            head.weight[value] = row[:-1].reshape(head.weight[value].shape).to(head.weight)
            head.bias[value] = row[-1].to(head.bias)


def _logistic_regression(seen: Tensor, own: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Ridge-penalised logistic regression of `own` (N,) on `seen` (N, F), by Newton's method: F weights and a bias.

    `weight` (N,) sums to 1; `offset` (N,) is added to each logit.
    """
    own = own.float()
    scale = seen.std(0).clamp_min(1e-6)
    seen = torch.cat((seen / scale, torch.ones_like(seen[:, :1])), 1)
    ridge = torch.full((seen.shape[1],), _RIDGE, device=seen.device)
    ridge[-1] = 0
    row = torch.zeros_like(ridge)
    row[-1] = -(weight * offset).sum()

    def loss_of(row: Tensor) -> Tensor:
        logits = seen @ row + offset
        errors = functional.binary_cross_entropy_with_logits(logits, own, reduction="none")
        return (weight * errors).sum() + 0.5 * (ridge * row.square()).sum()

    loss = loss_of(row)
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(seen @ row + offset)
        slope = seen.T @ (weight * (p - own)) + ridge * row
        bend = (seen.T * (weight * p * (1 - p))) @ seen + torch.diag(ridge + 1e-6)
        step = torch.linalg.solve(bend.cpu().double(), slope.cpu().double()).to(row)
        for _ in range(8):
            if (tried := loss_of(row - step)) <= loss:
                row, loss = row - step, tried
                break
            step = step / 2
        else:
            break
    return torch.cat((row[:-1] / scale, row[-1:]))
