"""The masked loss against brute force, and that what nobody vouches for has no gradient."""

import math

import numpy as np
import pytest
import torch

from napari_transunet.training.losses import UNKNOWN, PartialDiceCELoss, change_of_known_classes


def _example(seed: int = 0, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (3, 5, 6), generator=generator).to(torch.uint8)
    return logits, labels


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_it_is_monais_loss_where_everything_is_known(background: bool) -> None:
    from monai.losses import DiceCELoss  # takes seconds to import

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


@pytest.mark.parametrize(("absent", "background"), [(0.0, False), (0.3, False), (0.0, True)])
def test_it_is_what_brute_force_finds_voxel_by_voxel(absent: float, background: bool) -> None:
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
        unknown = (1 - absent) * math.log(here[0] + here[~known].sum()) + absent * math.log(here[0])
        terms.append(-math.log(here[label]) if label else -unknown)
        for value in range(4):
            if known[value]:
                found = here[value] if value else here[0] + here[~known].sum()
                both[value] += found * (label == value)
                first[value] += found**2
                second[value] += label == value
    dice = [1 - (2 * both[c] + 1e-5) / (first[c] + second[c] + 1e-5) for c in range(not background, 4)]
    expected = 0.5 * np.mean(terms) + 0.5 * np.mean(dice)
    loss = PartialDiceCELoss(background=background, absent=absent)
    assert loss(logits, labels, annotated).item() == pytest.approx(expected, rel=1e-6)


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


def test_what_was_known_is_held_pixel_by_pixel_but_for_new_organs() -> None:
    logits, labels = _example(5)
    before, _ = _example(6)
    labels[0, 0] = UNKNOWN
    found = change_of_known_classes(logits, before, labels, [2])

    terms = []
    for image, row, column in np.ndindex(3, 5, 6):
        if int(labels[image, row, column]) in (2, UNKNOWN):
            continue
        here = logits[image, :, row, column].softmax(0).numpy()
        was = before[image, [0, 1, 3], row, column].softmax(0).numpy()
        now = np.array([here[0] + here[2], here[1], here[3]])
        terms.append(float((was * np.log(was / now)).sum()))
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-6)

    same = before.clone()
    same[:, 2] = -30.0
    assert change_of_known_classes(same, before, labels, [2]).item() == pytest.approx(0, abs=1e-9)
