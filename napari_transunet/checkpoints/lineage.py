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
    """Dice of one organ on the held-out slices, at the network's size; None where neither side has it."""

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
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    seed: int = 0
    device: str = Field(default="", max_length=100)

    @property
    def mean_dice(self) -> tuple[float, float] | None:
        """Mean Dice before and after, over the organs that the held-out slices tell something about."""
        known = [(one.before or 0.0, one.after) for one in self.dice.values() if one.after is not None]
        if not known:
            return None
        before, after = (sum(side) / len(known) for side in zip(*known, strict=True))
        return before, after

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
        return "; ".join(parts)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
