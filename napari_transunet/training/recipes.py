"""How to train: what an optimiser, a schedule, a loss and augmentation amount to together.

A recipe speaks of passes over the slices ("epochs"), so that it means the same for a small and a large dataset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from napari_transunet.errors import InputError
from napari_transunet.training.augmentation import Augmentation, Rot90Flip

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_INTERVAL = 500
"""Steps between two validations, at most; a pass over a large dataset has several."""

MIN_INTERVALS = 10
"""Validations in a training, at least."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    name : on the card
    optimiser : "sgd" (with `momentum`) or "adamw"
    learning_rate, weight_decay : of the optimiser; norms, biases and position embeddings do not decay with AdamW
    schedule : "polynomial" ((1 − done) to the power 0.9) or "cosine", both to zero at the end
    warmup : share of the steps over which the learning rate rises linearly
    batch, epochs : slices a step, over all devices; and passes over the training slices
    steps : optimiser steps in all, in place of `epochs`; a few more, so that all validation intervals are of one length
    ema : decay of the averaged weights, which are then the result; None for the weights themselves
    foreground : share of slices drawn from those that hold a label, each case alike; None takes every slice once a pass
    organs_alike : whether these slices are drawn organ by organ, each organ alike, so that small ones are seen as often
    slant : degrees up to which half of the slices are cut at a slant out of their volume, with neighbours 1 to 8 mm
        away; None takes slices and neighbours as they lie
    background_in_dice : whether the Dice loss has a term for the background
    clip : norm to which gradients are cut; None for never
    context : 1, or 3 for the slices below and above as further channels
    dropout : of the network's embeddings and feed-forward layers
    augmentation : (images, labels) -> the same seen anew; see `Augmentation`
    patience : validation intervals without a better validation Dice after which training ends; None for never
    seed : of every random draw
    """

    name: str
    optimiser: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.05
    schedule: Literal["polynomial", "cosine"] = "cosine"
    warmup: float = 0.05
    batch: int = 16
    epochs: int = 100
    steps: int | None = None
    ema: float | None = 0.995
    foreground: float | None = 0.8
    organs_alike: bool = False
    slant: float | None = None
    background_in_dice: bool = False
    clip: float | None = 1.0
    context: Literal[1, 3] = 3
    dropout: float = 0.1
    augmentation: Augmentation | Rot90Flip = field(default_factory=Augmentation)
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            f"{name} must be {what}"
            for name, what, holds in (
                ("learning_rate", "positive", 0 < self.learning_rate < math.inf),
                ("batch", "at least 1", self.batch >= 1),
                ("epochs", "at least 1", self.epochs >= 1),
                ("steps", "at least 1", self.steps is None or self.steps >= 1),
                ("warmup", "from 0 to below 1", 0 <= self.warmup < 1),
                ("slant", "from 0 to 45 degrees", self.slant is None or 0 <= self.slant <= 45),
                (
                    "organs_alike and slant",
                    "left out where every slice is taken once a pass",
                    self.foreground is not None or not (self.organs_alike or self.slant is not None),
                ),
                ("ema", "from 0 to below 1", self.ema is None or 0 <= self.ema < 1),
                ("foreground", "from 0 to 1", self.foreground is None or 0 <= self.foreground <= 1),
                ("dropout", "from 0 to below 1", 0 <= self.dropout < 1),
                ("patience", "at least 1", self.patience is None or self.patience >= 1),
            )
            if not holds
        ]
        if wrong:
            raise InputError(f"This recipe cannot be followed: {', '.join(wrong)}.")

    def with_changes(self, **changes: Any) -> Recipe:
        """The recipe with what is not None replaced."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def plan(self, slices: int) -> Plan:
        """The steps and validation intervals of a training on that many slices."""
        one_pass = max(1, math.ceil(slices / self.batch))
        wanted = self.steps or self.epochs * one_pass
        intervals = math.ceil(wanted / min(one_pass, MAX_INTERVAL, math.ceil(wanted / MIN_INTERVALS)))
        return Plan(intervals, math.ceil(wanted / intervals))

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The factor of the learning rate at a step, counted from 0."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else (1 - done) ** 0.9

    def sentence(self) -> str:
        """The recipe in words, for the model card."""
        kind = f"SGD {self.learning_rate:g}, momentum {self.momentum:g}"
        if self.optimiser == "adamw":
            kind = f"AdamW {self.learning_rate:g}"
        averaged = "" if self.ema is None else f", averaged weights ({self.ema:g})"
        drawn = (
            "every slice once a pass"
            if self.foreground is None
            else f"{self.foreground:.0%} of slices with a label"
            + (", organs alike" if self.organs_alike else "")
            + ("" if self.slant is None else f", cut at slants to ±{self.slant:g}°")
        )
        return (
            f"{self.name}: {kind}, weight decay {self.weight_decay:g}, {self.schedule} schedule, batch {self.batch}, "
            f"0.5 cross-entropy + 0.5 Dice{averaged}, {drawn}, {self.augmentation.sentence()}"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A training in intervals, each of so many steps and ended by a validation."""

    intervals: int
    interval_steps: int

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.intervals * self.interval_steps


PAPER = Recipe(
    "paper",
    optimiser="sgd",
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=1e-4,
    schedule="polynomial",
    warmup=0.0,
    batch=24,
    epochs=150,
    ema=None,
    foreground=None,
    background_in_dice=True,
    clip=None,
    context=1,
    augmentation=Rot90Flip(),
)
"""As published (Chen et al., arXiv 2102.04306, and its implementation)."""

DEFAULT = Recipe("default")
"""This project's own: AdamW with warm-up and averaged weights, 2.5D, foreground oversampling, and augmentation of
geometry, intensity and resolution that never mirrors the anatomy."""

RECIPES: Mapping[str, Recipe] = MappingProxyType({recipe.name: recipe for recipe in (DEFAULT, PAPER)})


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises
    ------
    InputError
        There is none; the sentence lists those that exist.
    """
    if name not in RECIPES:
        raise InputError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
