"""The training slices of all cases in one place, drawn by number so that any step can be repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_transunet.training.losses import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_transunet.training.cases import Case
    from napari_transunet.training.recipes import Recipe

_DISTANCES = (0, 1, 2)
_DISTANCE_SHARES = (0.15, 0.65, 0.2)
"""How far the neighbours of a slice are taken from: other distances stand for thicker and thinner slices."""


class SliceStore:
    """All slices of some cases, on one device.

    Attributes
    ----------
    planes : (N, H, W) float16, scaled to 0..1
    labels : (N, H, W) uint8 classes, or `UNKNOWN`
    annotated : (N, classes) bool, which classes were annotated in each slice; None where all were in all
    case : (N,) the case of each slice, counted from 0
    """

    def __init__(self, cases: Sequence[Case]) -> None:
        lengths = torch.tensor([len(case) for case in cases])
        self.planes = torch.cat([case.planes.half() for case in cases])
        self.labels = torch.cat([case.labels for case in cases])
        self.annotated = _annotated(cases)
        self.case = torch.repeat_interleave(torch.arange(len(cases)), lengths)
        ends = lengths.cumsum(0)
        self._first, self._last = (ends - lengths)[self.case], ends[self.case] - 1
        has_label = ((self.labels > 0) & (self.labels != UNKNOWN)).flatten(1).any(1)
        # Short cases count for more than their slices, long ones still for more than short ones.
        weight = lengths.double().rsqrt()[self.case]
        self._anywhere = weight / weight.sum()
        held = torch.where(has_label, weight, 0.0)
        self._with_label = held / held.sum() if has_label.any() else self._anywhere

    def __len__(self) -> int:
        return len(self.planes)

    def to(self, device: torch.device) -> SliceStore:
        """Moves the images there where they leave room for the network, and stays where it is where they do not."""
        size = sum(part.numel() * part.element_size() for part in (self.planes, self.labels))
        if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 3:
            self.planes, self.labels = self.planes.to(device), self.labels.to(device)
        return self

    def drawn(self, step: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
        """Which slices make the batch of a step, and how far their neighbours are: (batch,) each.

        They depend on the recipe's seed and the step alone, so a training that is resumed goes on as it would have.
        """
        if recipe.foreground is None:
            return self._in_passes(step, recipe), torch.ones(recipe.batch, dtype=torch.long)
        generator = _generator(recipe.seed, step)
        mixed = recipe.foreground * self._with_label + (1 - recipe.foreground) * self._anywhere
        chosen = torch.multinomial(mixed, recipe.batch, replacement=True, generator=generator)
        shares = torch.tensor(_DISTANCE_SHARES)
        which = torch.multinomial(shares, recipe.batch, replacement=True, generator=generator)
        return chosen, torch.tensor(_DISTANCES)[which]

    def _in_passes(self, step: int, recipe: Recipe) -> Tensor:
        """Every slice once a pass, in an order of its own each time."""
        begin = step * recipe.batch
        passes = range(begin // len(self), (begin + recipe.batch - 1) // len(self) + 1)
        order = torch.cat(
            [torch.randperm(len(self), generator=_generator(recipe.seed, number)) for number in passes]
        )
        start = begin - passes[0] * len(self)
        return order[start : start + recipe.batch]

    def batch(
        self, chosen: Tensor, distance: Tensor | int, context: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Slices by number, on the device: (B, context, H, W) float32, (B, H, W) uint8, `annotated` (B, classes)."""
        numbers = chosen[:, None]
        if context == 3:
            around = torch.as_tensor(distance).expand(len(chosen))[:, None] * torch.tensor([-1, 0, 1])
            numbers = (numbers + around).clamp(self._first[chosen, None], self._last[chosen, None])
        there = self.planes.device
        images = self.planes[numbers.to(there)].to(device, non_blocking=True).float()
        labels = self.labels[chosen.to(there)].to(device, non_blocking=True)
        if self.annotated is None:
            return images, labels, None
        return images, labels, self.annotated[chosen].to(device, non_blocking=True)


def _annotated(cases: Sequence[Case]) -> Tensor | None:
    """`annotated` of all slices of all cases."""
    widths = {case.annotated.shape[1] for case in cases if case.annotated is not None}
    if not widths:
        return None
    (width,) = widths
    return torch.cat(
        [
            torch.ones(len(case), width, dtype=torch.bool) if case.annotated is None else case.annotated
            for case in cases
        ]
    )


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(mixed_seed(seed, number))


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers, such that neighbours share nothing."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        mixed ^= mixed >> 31
    return mixed % (1 << 63)
