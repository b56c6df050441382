"""The training slices of all cases in one place, drawn by number so that any step can be repeated."""

from __future__ import annotations

import math
from dataclasses import dataclass
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

_CUT_FREELY = 0.5
"""How many slices of a slanted recipe are cut anew; the others stay as they lie."""

_NEIGHBOURS_MM = (1.0, 8.0)
"""Between which distances their neighbours lie: what scanners have."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """How the slices of a batch are cut out of their stacks.

    Attributes
    ----------
    slices : (B,) the number in the store of the slice in which a cut has its middle
    distance : (B,) slices from a cut to its neighbours; whole numbers, unless cuts may lie between slices
    slant : (B, 2) slices by which a cut rises over the height and the width of the image; None for straight ones
    """

    slices: Tensor
    distance: Tensor
    slant: Tensor | None = None

    def share(self, part: slice) -> Cuts:
        """Some of them."""
        slant = None if self.slant is None else self.slant[part]
        return Cuts(self.slices[part], self.distance[part], slant)


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
        self._step = torch.tensor([case.step or math.nan for case in cases])[self.case]
        self._pixel = torch.tensor([case.pixel or math.nan for case in cases])[self.case]
        ends = lengths.cumsum(0)
        self._first, self._last = (ends - lengths)[self.case], ends[self.case] - 1
        # Short cases count for more than their slices, long ones still for more than short ones.
        weight = lengths.double().rsqrt()[self.case]
        self._anywhere = weight / weight.sum()
        shown = self._shown()
        held = torch.where(shown.any(1), weight, 0.0)
        self._with_label = held / held.sum() if shown.any() else self._anywhere
        by_organ = torch.where(shown, weight[:, None], 0.0)
        self._organs_alike = (by_organ / by_organ.sum(0)).mean(1) if shown.any() else self._anywhere

    def __len__(self) -> int:
        return len(self.planes)

    def _shown(self) -> Tensor:
        """(N, classes) bool: which classes each slice shows, of those that any shows; the background is none."""
        held = torch.stack([labels.flatten().bincount(minlength=256) for labels in self.labels]) > 0
        held[:, [0, UNKNOWN]] = False
        return held[:, held.any(0)]

    def to(self, device: torch.device) -> SliceStore:
        """Moves the images there where they leave room for the network, and stays where it is where they do not."""
        size = sum(part.numel() * part.element_size() for part in (self.planes, self.labels))
        if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] // 3:
            self.planes, self.labels = self.planes.to(device), self.labels.to(device)
        return self

    def drawn(self, step: int, recipe: Recipe) -> Cuts:
        """The cuts that make the batch of a step.

        They depend on the recipe's seed and the step alone, so a training that is resumed goes on as it would have.
        """
        if recipe.foreground is None:
            return Cuts(self._in_passes(step, recipe), torch.ones(recipe.batch, dtype=torch.long))
        generator = _generator(recipe.seed, step)
        labelled = self._organs_alike if recipe.organs_alike else self._with_label
        mixed = recipe.foreground * labelled + (1 - recipe.foreground) * self._anywhere
        chosen = torch.multinomial(mixed, recipe.batch, replacement=True, generator=generator)
        distance = neighbour_distances(recipe.batch, generator)
        if recipe.slant is None:
            return Cuts(chosen, distance)
        return self._slanted(chosen, distance, recipe.slant, generator)

    def _slanted(self, chosen: Tensor, distance: Tensor, degrees: float, generator: torch.Generator) -> Cuts:
        """Half of the cuts at random slants, with neighbours as far away as a scanner may have them.

        A cut rises by no more than its stack is high. The other half stay as they are, and all of cases that do not
        say what lies between their slices and pixels.
        """
        step, pixel = self._step[chosen], self._pixel[chosen]
        nearest, farthest = (math.log(mm) for mm in _NEIGHBOURS_MM)
        mm = (nearest + (farthest - nearest) * torch.rand(len(chosen), generator=generator)).exp()
        size = torch.tensor(self.planes.shape[1:]).float()
        angles = math.radians(degrees) * (2 * torch.rand(len(chosen), 2, generator=generator) - 1)
        height = (self._last - self._first)[chosen, None].float()
        rise = (angles.tan() * size * (pixel / step)[:, None]).clamp(-height, height)
        freely = torch.rand(len(chosen), generator=generator) < _CUT_FREELY
        freely &= step.isfinite() & pixel.isfinite()
        return Cuts(
            chosen,
            torch.where(freely, mm / step, distance.float()),
            torch.where(freely[:, None], rise, 0.0),
        )

    def _in_passes(self, step: int, recipe: Recipe) -> Tensor:
        """Every slice once a pass, in an order of its own each time."""
        begin = step * recipe.batch
        passes = range(begin // len(self), (begin + recipe.batch - 1) // len(self) + 1)
        order = torch.cat(
            [torch.randperm(len(self), generator=_generator(recipe.seed, number)) for number in passes]
        )
        start = begin - passes[0] * len(self)
        return order[start : start + recipe.batch]

    def batch(self, cuts: Cuts, context: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Slices on the device: (B, context, H, W) float32, (B, H, W) uint8, `annotated` (B, classes)."""
        images, labels = (self._straight if cuts.slant is None else self._cut)(cuts, context)
        images = images.to(device, non_blocking=True).float()
        labels = labels.to(device, non_blocking=True)
        if self.annotated is None:
            return images, labels, None
        return images, labels, self.annotated[cuts.slices].to(device, non_blocking=True)

    def _straight(self, cuts: Cuts, context: int) -> tuple[Tensor, Tensor]:
        """Slices as they lie in their stacks."""
        numbers, there = cuts.slices[:, None], self.planes.device
        if context == 3:
            around = cuts.distance[:, None] * torch.tensor([-1, 0, 1])
            numbers = (numbers + around).clamp(self._first[numbers], self._last[numbers])
        return self.planes[numbers.to(there)], self.labels[cuts.slices.to(there)]

    def _cut(self, cuts: Cuts, context: int) -> tuple[Tensor, Tensor]:
        """Slices that may lie between those of the stack, and at a slant to them.

        Images are interpolated between slices, labels are those of the nearest. Beyond its ends a stack goes on as it
        ends, in image and labels alike.
        """
        there = self.planes.device
        assert cuts.slant is not None
        own, distance, slant, first, last = (
            part.to(there, non_blocking=True)
            for part in (
                cuts.slices,
                cuts.distance.float(),
                cuts.slant,
                self._first[cuts.slices],
                self._last[cuts.slices],
            )
        )
        height, width = self.planes.shape[1:]
        rows = torch.arange(height, device=there)[:, None]
        columns = torch.arange(width, device=there)
        rise = slant[:, 0, None, None] * ((rows + 0.5) / height - 0.5)
        rise = rise + slant[:, 1, None, None] * ((columns + 0.5) / width - 0.5)
        # Counted from the first slice of the stack, for a number in the store is too large for float32's fractions.
        middle = (own - first)[:, None, None] + rise
        highest = (last - first)[:, None, None]
        labels = self.labels[
            (middle.round().long().clamp_min(0).minimum(highest)) + first[:, None, None], rows, columns
        ]
        around = torch.arange(-(context // 2), context // 2 + 1, device=there)
        heights = middle[:, None] + (distance[:, None] * around)[:, :, None, None]
        heights = heights.clamp_min(0).minimum(highest[:, None].float())
        below = heights.floor()
        share = (heights - below).half()
        lower = below.long() + first[:, None, None, None]
        upper = (lower + 1).minimum(last[:, None, None, None])
        planes = self.planes
        return torch.lerp(planes[lower, rows, columns], planes[upper, rows, columns], share), labels


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


def neighbour_distances(count: int, generator: torch.Generator) -> Tensor:
    """(count,) int64: how many slices away the neighbours of each of so many slices are taken from."""
    shares = torch.tensor(_DISTANCE_SHARES)
    return torch.tensor(_DISTANCES)[torch.multinomial(shares, count, replacement=True, generator=generator)]


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(mixed_seed(seed, number))


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers, such that neighbours share nothing."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ (number + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9 % (1 << 64)
        mixed ^= mixed >> 31
    return mixed % (1 << 63)
