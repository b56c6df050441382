"""The masked loss against brute force, and that what nobody vouches for has no gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from napari_transunet.training.losses import UNKNOWN, PartialDiceCELoss


def _example(seed: int = 0, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (3, 5, 6), generator=generator).to(torch.uint8)
    return logits, labels


@pytest.mark.parametrize("background", [False, True])
def test_it_is_monais_loss_where_everything_is_known(background: bool) -> None:
    logits, labels = _example()
    theirs = DiceCELoss(
        include_background=background,
        to_onehot_y=True,
        softmax=True,
        squared_pred=True,
        batch=True,
        lambda_dice=0.5,
        lambda_ce=0.5,
    )(logits, labels[:, None].long())
    loss = PartialDiceCELoss(background=background)
    assert loss(logits, labels).item() == pytest.approx(theirs.item(), rel=1e-6)
    assert loss(logits, labels, torch.ones(3, 4, dtype=torch.bool)).item() == pytest.approx(theirs.item())


def test_it_is_what_brute_force_finds_voxel_by_voxel() -> None:
    logits, labels = _example(1)
    labels[0, :2] = UNKNOWN
    annotated = torch.tensor([[True, True, False, True], [True, False, True, True], [True, True, True, True]])
    labels[
        ~(
            annotated[:, None, None, :]
            .expand(3, 5, 6, 4)
            .gather(3, (labels.long() % UNKNOWN)[..., None])[..., 0]
        )
    ] = 0
    p = logits.softmax(1).numpy()
    terms = []
    both, first, second = np.zeros(4), np.zeros(4), np.zeros(4)
    for image, row, column in np.ndindex(3, 5, 6):
        label = int(labels[image, row, column])
        if label == UNKNOWN:
            continue
        here, known = p[image, :, row, column], annotated[image].numpy()
        terms.append(-math.log(here[label] if label else here[0] + here[~known].sum()))
        for value in range(1, 4):
            if known[value]:
                both[value] += here[value] * (label == value)
                first[value] += here[value] ** 2
                second[value] += label == value
    dice = [1 - (2 * both[c] + 1e-5) / (first[c] + second[c] + 1e-5) for c in range(1, 4)]
    expected = 0.5 * np.mean(terms) + 0.5 * np.mean(dice)
    assert PartialDiceCELoss()(logits, labels, annotated).item() == pytest.approx(expected, rel=1e-6)


def test_unknown_voxels_have_no_gradient_and_change_none() -> None:
    logits, labels = _example(2)
    labels[:, 3:] = UNKNOWN
    logits.requires_grad_()
    PartialDiceCELoss(background=True)(logits, labels).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 3:].any()
    assert logits.grad[:, :, :3].abs().min() > 0
    before = logits.grad.clone()
    with torch.no_grad():
        logits[:, :, 3:] += 5
    logits.grad = None
    PartialDiceCELoss(background=True)(logits, labels).backward()
    assert torch.equal(logits.grad, before)


def test_organs_that_were_not_annotated_keep_their_share_of_the_background() -> None:
    """In the background, the gradient does not tell the background from an organ that may hide in it."""
    logits, labels = _example(3)
    labels.zero_()
    annotated = torch.ones(3, 4, dtype=torch.bool)
    annotated[:, 2] = False
    logits.requires_grad_()
    PartialDiceCELoss()(logits, labels, annotated).backward()
    assert logits.grad is not None
    share = logits.grad / logits.softmax(1)
    assert torch.allclose(share[:, 0], share[:, 2])
    assert (share[:, 1] > share[:, 0]).all(), "organs that were annotated are pushed out of the background"


def test_nothing_known_is_no_loss() -> None:
    logits, labels = _example(4)
    labels.fill_(UNKNOWN)
    logits.requires_grad_()
    loss = PartialDiceCELoss()(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
