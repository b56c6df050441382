from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from napari_transunet.errors import InputError
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.cases import Case
from napari_transunet.training.trainer import Progress, Recipe, train
from tests.training.test_augmentation import STILL

TWO_SLICES = Recipe(steps=60, batch=2, learning_rate=2e-3, warmup=5, ema=0.8, context=1, augmentation=STILL)


@pytest.fixture
def squares() -> Case:
    """Two slices with a bright and a dark organ."""
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    labels[0, 6:18, 4:16] = 1
    labels[1, 12:28, 14:28] = 2
    torch.manual_seed(1)
    planes = torch.tensor([0.4, 0.9, 0.1])[labels.long()] + 0.05 * torch.rand(2, 32, 32)
    return Case("squares", "someone", planes, labels)


@pytest.fixture
def net() -> TransUNet:
    torch.manual_seed(0)
    return TransUNet("R50-ViT-Ti_16", 3, 32)


def test_it_learns_two_slices_by_heart(net: TransUNet, squares: Case) -> None:
    train(net, [squares], TWO_SLICES)
    with torch.no_grad():
        predicted = net(squares.planes[:, None]).argmax(1)
    for organ in (1, 2):
        got, wanted = predicted == organ, squares.labels == organ
        assert 2 * (got & wanted).sum() / (got.sum() + wanted.sum()) > 0.95


def test_the_same_seed_gives_the_same_weights(squares: Case) -> None:
    recipe = dataclasses.replace(TWO_SLICES, steps=3, augmentation=Augmentation(), context=3)
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        results.append(train(TransUNet("R50-ViT-Ti_16", 3, 32), [squares], recipe).state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_progress_is_told_and_cancelling_stops(net: TransUNet, squares: Case) -> None:
    told: list[Progress] = []

    def listen(progress: Progress, averaged: nn.Module) -> None:
        assert isinstance(averaged, TransUNet)
        told.append(progress)

    train(
        net,
        [squares],
        TWO_SLICES,
        report_every=2,
        on_progress=listen,
        cancelled=lambda: bool(told) and told[-1].step == 4,
    )
    assert [progress.step for progress in told] == [2, 4]
    assert all(progress.loss > 0 and progress.remaining > 0 for progress in told)
    assert not net.training


def test_a_loss_that_is_not_finite_stops_with_a_sentence(net: TransUNet, squares: Case) -> None:
    broken = dataclasses.replace(squares, planes=squares.planes * float("nan"))
    with pytest.raises(InputError, match="at step 1; try a lower learning rate"):
        train(net, [broken], TWO_SLICES)


def test_training_on_nothing_is_refused(net: TransUNet) -> None:
    with pytest.raises(InputError, match="no cases"):
        train(net, [], TWO_SLICES)
