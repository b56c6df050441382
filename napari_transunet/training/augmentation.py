"""Random views of slices: geometry and intensity, on whole batches where they lie.

Nothing is mirrored: the liver is on the right, and a network may know it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a random view may depart from the slice; each number is a bound, drawn evenly up to it.

    Attributes
    ----------
    rotation : degrees either way
    scale : factor either way, 1.25 for 0.8 to 1.25
    stretch : further factor for one axis alone
    shift : fraction of the image's size
    bend : displacement of a coarse random field, as a fraction of the image's size
    contrast, brightness : of intensities in 0..1
    gamma : exponent either way
    phase_chance : how often an organ is given another mean intensity, as if the contrast agent had been given
        earlier, later, or not at all
    noise : standard deviation
    blur_chance : how often a slice is shown at a lower resolution, down to `coarsest` of its size
    """

    rotation: float = 12.0
    scale: float = 1.25
    stretch: float = 1.12
    shift: float = 0.08
    bend: float = 0.02
    contrast: float = 0.2
    brightness: float = 0.1
    gamma: float = 1.4
    phase_chance: float = 0.25
    noise: float = 0.04
    blur_chance: float = 0.25
    coarsest: float = 0.5

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) float in 0..1 and (B, H, W) uint8 -> the same shapes and types, seen anew."""
        grid = self._grid(images)
        images = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
        seen = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
        seen = seen[:, 0].to(labels.dtype)
        return self._intensity(self._phase(images, seen)), seen

    def _grid(self, images: Tensor) -> Tensor:
        batch, device = images.shape[0], images.device
        angle = math.radians(self.rotation) * _signed(batch, device)
        scale = self.scale ** _signed(batch, device)
        stretch = self.stretch ** _signed(batch, device)
        shift = 2 * self.shift * _signed((batch, 2), device)
        # Rotation in pixels, not in the grid's -1..1, so that rectangular images are not sheared.
        aspect = images.shape[-2] / images.shape[-1]
        cos, sin = torch.cos(angle), torch.sin(angle)
        matrix = torch.stack(
            (
                torch.stack((cos * scale, -sin * scale * aspect, shift[:, 0]), 1),
                torch.stack((sin * scale * stretch / aspect, cos * scale * stretch, shift[:, 1]), 1),
            ),
            1,
        )
        grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
        coarse = 2 * self.bend * _signed((batch, 2, 5, 5), device)
        field = functional.interpolate(coarse, size=images.shape[-2:], mode="bicubic", align_corners=True)
        return grid + field.permute(0, 2, 3, 1)

    def _phase(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) with the organs of `labels` (B, H, W) at other mean intensities, edges softened."""
        for index, organ in [(i, k) for i, plane in enumerate(labels) for k in plane.unique().tolist() if k]:
            if torch.rand(()) >= self.phase_chance:
                continue
            mask = (labels[index] == organ).float()
            mean = (images[index] * mask).sum((-2, -1), keepdim=True) / mask.sum()
            level = 0.35 + 0.6 * torch.rand((), device=images.device)
            share = functional.avg_pool2d(mask[None, None], 3, stride=1, padding=1)[0]
            images[index] += share * (level - mean)
        return images

    def _intensity(self, images: Tensor) -> Tensor:
        batch, device = images.shape[0], images.device
        shape = (batch, 1, 1, 1)
        padding = images == 0  # air and padding stay what they are at inference
        images = images.clamp(0, 1) ** (self.gamma ** _signed(shape, device))
        images = images * (1 + self.contrast * _signed(shape, device)) + self.brightness * _signed(
            shape, device
        )
        images = images + torch.randn_like(images) * (self.noise * torch.rand(shape, device=device))
        images = images.clamp(0, 1).masked_fill(padding, 0)
        if torch.rand(()) < self.blur_chance:
            factor = self.coarsest + (1 - self.coarsest) * float(torch.rand(()))
            small = functional.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
            images = functional.interpolate(small, size=images.shape[-2:], mode="bilinear")
        return images


def _signed(shape: int | tuple[int, ...], device: torch.device) -> Tensor:
    """Evenly distributed between -1 and 1."""
    return 2 * torch.rand(shape, device=device) - 1
