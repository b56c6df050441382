import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.errors import InputError
from napari_transunet.training.recipes import DEFAULT, MAX_INTERVAL, PAPER, RECIPES, Recipe, get_recipe
from tests.training.samples import case


def test_recipes_are_found_by_name() -> None:
    assert {get_recipe(name).name for name in RECIPES} == {"default", "paper"}
    with pytest.raises(InputError, match=r"no recipe 'papers'; choose one of default, paper\."):
        get_recipe("papers")


def test_the_paper_s_numbers() -> None:
    assert (PAPER.optimiser, PAPER.learning_rate, PAPER.momentum, PAPER.weight_decay) == (
        "sgd",
        0.01,
        0.9,
        1e-4,
    )
    assert (PAPER.batch, PAPER.epochs, PAPER.context, PAPER.ema, PAPER.clip) == (24, 150, 1, None, None)
    assert PAPER.background_in_dice
    assert [PAPER.learning_rate_at(step, 100) for step in (0, 50, 99)] == pytest.approx(
        [1.0, 0.5**0.9, 0.01**0.9]
    )


def test_nothing_is_mirrored_by_default() -> None:
    assert not DEFAULT.augmentation.mirror
    assert "nothing is mirrored" in DEFAULT.sentence()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("steps", [1, 7, 500])
def test_the_learning_rate_rises_then_falls_to_zero(recipe: Recipe, steps: int) -> None:
    rates = [recipe.learning_rate_at(step, steps) for step in range(steps + 1)]
    top = round(recipe.warmup * steps)
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[:top] == pytest.approx([(step + 1) / top for step in range(top)])
    assert rates[top] == 1
    assert all(before >= after for before, after in itertools.pairwise(rates[top:]))
    assert rates[-1] == pytest.approx(0)


def test_the_cosine_is_half_way_down_in_the_middle() -> None:
    assert DEFAULT.with_changes(warmup=0.2).learning_rate_at(60, 100) == pytest.approx(0.5)


@given(
    st.integers(1, 100_000),
    st.integers(1, 64),
    st.integers(1, 300),
    st.none() | st.integers(1, 100_000),
)
def test_rounds_are_of_one_length_and_hold_all_steps(
    slices: int, batch: int, epochs: int, steps: int | None
) -> None:
    plan = DEFAULT.with_changes(batch=batch, epochs=epochs, steps=steps).plan(slices)
    one_pass = math.ceil(slices / batch)
    wanted = steps or epochs * one_pass
    assert wanted <= plan.steps == plan.intervals * plan.interval_steps < wanted + plan.intervals
    assert 1 <= plan.interval_steps <= min(MAX_INTERVAL, one_pass)
    assert plan.intervals >= min(5, wanted)


def test_a_change_to_none_is_no_change() -> None:
    changed = DEFAULT.with_changes(batch=3, epochs=None)
    assert (changed.batch, changed.epochs) == (3, DEFAULT.epochs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"learning_rate": math.inf}, "learning_rate must be positive"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"warmup": 1.0}, "warmup must be from 0 to below 1"),
        ({"ema": 1.0}, "ema must be from 0 to below 1"),
        ({"foreground": 1.1}, "foreground must be from 0 to 1"),
        ({"slant": 60.0}, "slant must be from 0 to 45 degrees"),
        ({"slant": math.nan}, "slant must be from 0 to 45 degrees"),
        ({"dropout": -0.1}, "dropout must be from 0 to below 1"),
        ({"patience": 0, "batch": 0}, "batch must be at least 1, patience must be at least 1"),
    ],
)
def test_recipes_that_cannot_be_followed(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        DEFAULT.with_changes(**changes)


@pytest.mark.parametrize("changes", [{"slant": 10.0}, {"organs_alike": True}])
def test_passes_over_all_slices_take_them_as_they_lie(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="every slice is taken once a pass"):
        PAPER.with_changes(**changes)


def test_how_slices_are_drawn_is_told() -> None:
    assert "80% of slices with a label, random" in DEFAULT.sentence()
    changed = DEFAULT.with_changes(organs_alike=True, slant=12.5)
    assert "80% of slices with a label, organs alike, cut at slants to ±12.5°, random" in changed.sentence()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_recipe_is_told_in_one_sentence(recipe: Recipe) -> None:
    sentence = recipe.sentence()
    assert sentence.startswith(f"{recipe.name}: ")
    assert recipe.augmentation.sentence() in sentence
    assert f"batch {recipe.batch}" in sentence


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_views_keep_shapes_and_types(recipe: Recipe) -> None:
    one = case()
    images, labels = recipe.augmentation(one.planes[:, None].float(), one.labels)
    assert (images.shape, images.dtype) == ((6, 1, 32, 32), torch.float32)
    assert (labels.shape, labels.dtype) == ((6, 32, 32), torch.uint8)
