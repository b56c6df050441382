import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_transunet.training.cases import Case
from napari_transunet.training.fitting import fit
from napari_transunet.training.recipes import DEFAULT, PAPER, RECIPES, Recipe
from napari_transunet.training.segmentation_module import SegmentationModule, case_batch, dice_of, overlap
from tests.training.samples import BRIEF, ON_CPU, STILL, case, network, pixelwise


def learner_for(recipe: Recipe, net: nn.Module | None = None) -> SegmentationModule:
    cases = [case()]
    return SegmentationModule(
        pixelwise() if net is None else net, cases, [], recipe, recipe.plan(len(cases[0]))
    )


def test_overlaps_are_counted_class_by_class() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randint(0, 4, (3, 8, 9), generator=generator) for _ in range(2))
    second[second == 2] = 0  # a class that only one has
    counts = overlap(first, second.to(torch.uint8), 6)
    expected = [
        [int(((first == k) & (second == k)).sum()), int((first == k).sum()), int((second == k).sum())]
        for k in range(1, 6)
    ]
    assert counts.T.tolist() == expected
    dice = dice_of(counts)
    for (both, one, other), found in zip(expected, dice.tolist(), strict=True):
        if one + other:
            assert found == pytest.approx(2 * both / (one + other))
        else:
            assert math.isnan(found)
    assert dice[1] == 0


@pytest.mark.parametrize("context", [1, 3])
def test_slices_of_a_case_come_in_order_with_their_neighbours(context: int) -> None:
    planes = torch.arange(7)[:, None, None].expand(-1, 2, 2).half()
    one = Case("one", "one", planes, torch.arange(7, dtype=torch.uint8)[:, None, None].expand(-1, 2, 2))
    images, labels = zip(*(case_batch(one, begin, 3, context) for begin in (0, 3, 6)), strict=True)
    assert [len(part) for part in images] == [3, 3, 1]
    around = torch.cat(images)[:, :, 0, 0].tolist()
    expected = [[z] if context == 1 else [max(z - 1, 0), z, min(z + 1, 6)] for z in range(7)]
    assert around == expected
    assert torch.cat(labels)[:, 0, 0].tolist() == list(range(7))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_the_loss_is_half_cross_entropy_and_half_dice(recipe: Recipe) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 8, 8), torch.randint(0, 3, (4, 8, 8))
    shares, truth = logits.softmax(1), functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    first = 0 if recipe.background_in_dice else 1
    dice = np.mean([
        1 - 2 * float((shares[:, k] * truth[:, k]).sum())
        / float((shares[:, k] ** 2).sum() + truth[:, k].sum())
        for k in range(first, 3)
    ])  # fmt: skip
    expected = 0.5 * float(functional.cross_entropy(logits, labels)) + 0.5 * dice
    assert float(learner_for(recipe).loss_of(logits, labels)) == pytest.approx(expected, abs=1e-4)


def test_only_weights_decay_with_adamw() -> None:
    net = network()
    seen: list[torch.optim.Optimizer] = []
    learner = learner_for(BRIEF.with_changes(weight_decay=0.07), net)
    learner._trainer = type("Trainer", (), {"precision": "32-true"})()
    optimiser = learner.configure_optimizers()["optimizer"]
    seen.append(optimiser)
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert len(decay) == len(list(net.parameters()))
    for name, parameter in net.named_parameters():
        plain = name.endswith("bias") or "norm" in name or "position_embeddings" in name
        assert decay[id(parameter)] == (0 if plain or parameter.ndim == 1 else 0.07), name


def test_the_paper_s_optimiser_decays_all_alike() -> None:
    learner = learner_for(PAPER)
    optimiser = learner.configure_optimizers()["optimizer"]
    assert isinstance(optimiser, torch.optim.SGD)
    (group,) = optimiser.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)


def test_the_result_is_the_running_average_of_the_weights() -> None:
    recipe = BRIEF.with_changes(steps=12, ema=0.6, augmentation=STILL)
    net = pixelwise()
    name = "layers.0.weight"
    average: torch.Tensor | None = None
    step = 0

    def after_each_step() -> bool:
        nonlocal average, step
        step += 1
        weights = net.state_dict()[name].clone()
        decay = min(0.6, (1 + step) / (10 + step))
        average = weights if average is None else decay * average + (1 - decay) * weights
        return False

    outcome = fit(net, [case()], recipe, cancelled=after_each_step, **ON_CPU)
    assert outcome.steps == step == 12
    assert average is not None
    torch.testing.assert_close(net.state_dict()[name], average)


def test_without_averaging_the_result_is_the_network() -> None:
    learner = learner_for(PAPER)
    assert learner.averaged is None
    assert learner.result is learner.net


def test_the_validation_dice_is_the_mean_over_cases_and_classes_that_there_are() -> None:
    class Knowing(nn.Module):
        """Tells the class from the brightness, and overlooks class 2."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(50.0))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            bright = images[:, images.shape[1] // 2]
            return self.scale * torch.stack((0.5 - bright, bright - 0.5, -1 - 0 * bright), 1)

    labels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    labels[:, 2:4] = 1
    only_one = Case("a", "a", labels.half(), labels)
    both = Case("b", "b", labels.half(), labels.clone())
    both.labels[:, 6:] = 2
    recipe = DEFAULT.with_changes(steps=1, batch=2, learning_rate=1e-9, augmentation=STILL)
    outcome = fit(Knowing(), [only_one], recipe, validation=[only_one, both], **ON_CPU)
    assert outcome.dice == pytest.approx((1 + 1 + 0) / 3)
