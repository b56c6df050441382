"""What a checkpoint that learnt from corrections came from, as its model card tells: hashes, never paths."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Dice = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Slices = Annotated[tuple[Count, ...], Field(max_length=65536)]

MAX_GENERATIONS = 50
"""Adaptations that a card tells of; older ones are left out."""


_WORTH_TELLING = 0.05
"""By so much an organ's Dice has to fall on what was known before, to be named."""


class LearntScan(BaseModel):
    """What was learnt from one scan.

    Attributes
    ----------
    fingerprint : as `scan_fingerprint` has it
    slices, held_out : the slices vouched for, along the axis that the network takes slices along; those that were
        scored while the network had not learnt from them
    voxels : single voxels vouched for in other slices
    organs : names of those that were vouched for
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    fingerprint: Sha256
    slices: Slices = ()
    held_out: Slices = ()
    voxels: Count = 0
    organs: tuple[Name, ...] = Field(default=(), max_length=65536)


class DiceChange(BaseModel):
    """Dice of one organ on the same slices, at the network's size; None where neither side has it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    before: Dice | None = None
    after: Dice | None = None


class Adaptation(BaseModel):
    """One time that a network learnt from corrections.

    Attributes
    ----------
    parent, parent_name : SHA-256 and name of the checkpoint that it started from; None: from scratch
    scans : what it learnt from
    added, dropped : names of organs that it was given, or lost
    dice : organ → Dice on the held-out slices, before and after `steps`; empty where nothing was held out
    steps : optimiser steps without the held-out slices
    further_steps : those that followed, which learnt from the held-out slices too and were not scored
    replayed : slices of earlier scans that were learnt from again
    retained : organ → Dice on slices that the parent learnt from and that were not replayed, before and at the end:
        what was forgotten. Empty where there are none
    seconds, seed, device : how long it took, of all random draws, and where it ran
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    parent: Sha256 | None = None
    parent_name: Name | None = None
    scans: tuple[LearntScan, ...] = Field(default=(), max_length=4096)
    added: tuple[Name, ...] = Field(default=(), max_length=65536)
    dropped: tuple[Name, ...] = Field(default=(), max_length=65536)
    dice: Mapping[Name, DiceChange] = Field(default_factory=dict)
    steps: Count = 0
    further_steps: Count = 0
    replayed: Count = 0
    retained: Mapping[Name, DiceChange] = Field(default_factory=dict)
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    seed: int = 0
    device: str = Field(default="", max_length=100)

    @property
    def mean_dice(self) -> tuple[float, float] | None:
        """Mean Dice before and after, over the organs that the held-out slices tell something about."""
        return _mean(self.dice)

    @property
    def better(self) -> bool | None:
        """Whether the held-out slices came out better; None where they cannot tell."""
        mean = self.mean_dice
        return None if mean is None else mean[1] > mean[0]

    def sentence(self) -> str:
        """All of it in words: "abdominal-organs-ct (1a2b3c4d) learnt from 8 slices of 1 scan; liver 0.92 → 0.96"."""
        slices = sum(len(scan.slices) for scan in self.scans)
        origin = f"{self.parent_name or 'unnamed'} ({self.parent[:8]})" if self.parent else "a new network"
        parts = [f"{origin} learnt from {_counted(slices, 'slice')} of {_counted(len(self.scans), 'scan')}"]
        parts += [f"new: {', '.join(self.added)}"] if self.added else []
        parts += [f"without {', '.join(self.dropped)}"] if self.dropped else []
        changes = [
            f"{name} {one.before or 0:.2f} → {one.after:.2f}"
            for name, one in self.dice.items()
            if one.after is not None
        ]
        if changes:
            held = sum(len(scan.held_out) for scan in self.scans)
            parts.append(f"Dice on {_counted(held, 'held-out slice')}: {', '.join(changes)}")
        if kept := self.retained_sentence():
            parts.append(kept)
        return "; ".join(parts)

    def retained_sentence(self) -> str | None:
        """What became of what was known; None where nothing tells.

        "Dice on slices known before: 0.93 → 0.84, the most lost by aorta, 0.93 → 0.45"
        """
        mean = _mean(self.retained)
        if mean is None:
            return None
        told = f"Dice on slices known before: {mean[0]:.2f} → {mean[1]:.2f}"
        lost = {name: (one.before or 0) - (one.after or 0) for name, one in self.retained.items()}
        worst = max(lost, key=lost.__getitem__)
        if lost[worst] < _WORTH_TELLING:
            return told
        one = self.retained[worst]
        return f"{told}, the most lost by {worst}, {one.before or 0:.2f} → {one.after or 0:.2f}"


def _mean(dice: Mapping[str, DiceChange]) -> tuple[float, float] | None:
    known = [(one.before or 0.0, one.after) for one in dice.values() if one.after is not None]
    if not known:
        return None
    before, after = (sum(side) / len(known) for side in zip(*known, strict=True))
    return before, after


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
