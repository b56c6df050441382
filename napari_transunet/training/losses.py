"""The loss of partly labelled slices: only what somebody vouches for gives a gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_transunet.volumes import label_values

UNKNOWN = label_values.UNKNOWN
"""The class of voxels of which nobody says what they are."""

_SMOOTH = 1e-5  # MONAI's, in the numerator and the denominator


class PartialDiceCELoss(nn.Module):
    """Half cross-entropy, half Dice, where some voxels are unknown and some organs were never annotated.

    A voxel of an unknown class (`UNKNOWN`) counts for nothing. A background voxel of a slice in which some classes are
    not annotated may be any of these: its cross-entropy is that of the background and these classes together (the
    marginal loss of Shi et al., Medical Image Analysis 2021, doi 10.1016/j.media.2021.101979), and they have no Dice
    term there. Where everything is known this is MONAI's `DiceCELoss` with `softmax`, `squared_pred` and `batch`.

    Parameters
    ----------
    background : whether the Dice loss has a term for the background
    absent : how much the cross-entropy takes classes that were not annotated to be absent: 0 where that is unknown, up
        to 1 where they are
    """

    def __init__(self, *, background: bool = False, absent: float = 0.0) -> None:
        super().__init__()
        self._absent = absent
        self._first = 0 if background else 1

    def forward(self, logits: Tensor, labels: Tensor, annotated: Tensor | None = None) -> Tensor:
        """(B, C, H, W) float32, (B, H, W) classes or `UNKNOWN`, (B, C) bool -> a scalar.

        `annotated` says of each slice which classes were annotated in it, None that all were; the background always
        counts as annotated.
        """
        known = labels != UNKNOWN
        target = labels.long().masked_fill(~known, 0)
        log_p = functional.log_softmax(logits, dim=1)
        missing = (
            torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
            if annotated is None
            else ~annotated
        )
        missing[:, 0] = False
        # The background's probability, with that of all classes which may hide in it.
        hidden = ~missing
        hidden[:, 0] = False
        background = log_p.masked_fill(hidden[:, :, None, None], -torch.inf).logsumexp(1)
        of_background = torch.lerp(background, log_p[:, 0], self._absent)
        of_target = torch.where(target == 0, of_background, log_p.gather(1, target[:, None])[:, 0])
        cross_entropy = -(of_target * known).sum() / known.sum().clamp_min(1)

        probabilities = torch.cat((background[:, None], log_p[:, 1:]), 1)[:, self._first :].exp()
        counted = known[:, None] & ~missing[:, self._first :, None, None]
        truth = functional.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2)[:, self._first :]
        truth = truth * counted
        probabilities = probabilities * counted
        axes = (0, 2, 3)
        both = (probabilities * truth).sum(axes)
        each = probabilities.square().sum(axes) + truth.sum(axes)
        dice = 1 - (2 * both + _SMOOTH) / (each + _SMOOTH)
        scored = counted.any(-1).any(-1).any(0)
        return 0.5 * cross_entropy + 0.5 * (dice * scored).sum() / scored.sum().clamp_min(1)


def change_of_known_classes(logits: Tensor, before: Tensor, labels: Tensor, new: Sequence[int]) -> Tensor:
    """How far the classes that were known are no longer as they were: mean Kullback-Leibler divergence, a scalar.

    New classes count as background, and pixels that are labelled as such, or unknown, not at all (distillation as of
    Cermelli et al., CVPR 2020, arXiv 2002.00718).

    Parameters
    ----------
    logits, before : (B, C, H, W) float32, now and as they were; of `new` classes there was none before
    labels : (B, H, W) classes or `UNKNOWN`
    new : the classes that were not known
    """
    old = [value for value in range(1, logits.shape[1]) if value not in new]
    log_p = functional.log_softmax(logits, 1)
    background = log_p[:, [0, *new]].logsumexp(1, keepdim=True)
    log_p = torch.cat((background, log_p[:, old]), 1)
    was = functional.log_softmax(before[:, [0, *old]], 1)
    counted = labels != UNKNOWN
    for value in new:
        counted &= labels != value
    divergence = functional.kl_div(log_p, was, reduction="none", log_target=True).sum(1)
    return (divergence * counted).sum() / counted.sum().clamp_min(1)
