"""Random views of slices: geometry and intensity, on whole batches where they lie.

No view needs to know on the host what is in the batch, so a GPU never waits for one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from napari_transunet.training.losses import UNKNOWN


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
    mirror : whether half of the views are mirrored left to right. Off, for the liver is on the right and a network
        may know it; on for a single organ of which left and right ones are in the data
    beyond : what lies outside of the image: "zeros" where slices are padded with air, "reflection" of the inside
        where they fill the image
    contrast, brightness : of intensities in 0..1
    gamma : exponent either way
    phase_chance : how often an organ is given another mean intensity, as if the contrast agent had been given
        earlier, later, or not at all
    invert_chance : how often intensities are turned over, as between MR sequences, and CT
    bias : a smooth factor over the image either way, as MR coils make it: 0.3 for 1/1.3 to 1.3
    crop_chance : how often a view is cut to a smaller field: a box or a circle, outside of which it is as if padded
    noise : standard deviation
    blur_chance : how often a batch is shown at a lower resolution, down to `coarsest` of its size
    """

    rotation: float = 15.0
    scale: float = 1.25
    stretch: float = 1.12
    shift: float = 0.08
    bend: float = 0.02
    mirror: bool = False
    beyond: Literal["zeros", "reflection"] = "zeros"
    contrast: float = 0.2
    brightness: float = 0.1
    gamma: float = 1.4
    phase_chance: float = 0.0
    invert_chance: float = 0.0
    bias: float = 0.0
    crop_chance: float = 0.0
    noise: float = 0.04
    blur_chance: float = 0.2
    coarsest: float = 0.5

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) float in 0..1 and (B, H, W) uint8 -> the same shapes and types, seen anew."""
        images, labels = _sampled(images, labels, self._grid(images), "bilinear", self.beyond)
        if self.phase_chance:
            images = self._phase(images, labels)
        images = self._intensity(images)
        if self.crop_chance:
            images, labels = self._cropped(images, labels)
        return images, labels

    def sentence(self) -> str:
        """The views in words, for the model card."""
        return (
            f"random rotation to ±{self.rotation:g}°, scale {1 / self.scale:.2g} to {self.scale:.3g}, shift, bending, "
            "contrast, brightness, gamma, noise and resolution"
            + (", inversion" if self.invert_chance else "")
            + (", smooth bias" if self.bias else "")
            + (", smaller fields of view" if self.crop_chance else "")
            + (", contrast phase of organs" if self.phase_chance else "")
            + (", mirrored left to right" if self.mirror else "; nothing is mirrored")
        )

    def _grid(self, images: Tensor) -> Tensor:
        batch, device = images.shape[0], images.device
        scale = self.scale ** _signed(batch, device)
        side = torch.where(torch.rand(batch, device=device) < 0.5 * self.mirror, -1.0, 1.0)
        grid = _affine_grid(
            images,
            angle=math.radians(self.rotation) * _signed(batch, device),
            rows=scale * self.stretch ** _signed(batch, device),
            columns=scale * side,
            shift=2 * self.shift * _signed((batch, 2), device),
        )
        coarse = 2 * self.bend * _signed((batch, 2, 5, 5), device)
        field = functional.interpolate(coarse, size=images.shape[-2:], mode="bicubic", align_corners=True)
        return grid + field.permute(0, 2, 3, 1)

    def _phase(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) with the organs of `labels` (B, H, W) at other mean intensities, edges softened."""
        device = images.device
        labels = labels.long().masked_fill(labels == UNKNOWN, 0)
        masks = functional.one_hot(labels, int(labels.max()) + 1).permute(0, 3, 1, 2)[:, 1:].float()
        area = masks.sum((-2, -1)).clamp_min(1)
        mean = torch.einsum("bkhw,bchw->bck", masks, images) / area[:, None]
        level = 0.35 + 0.6 * torch.rand(area.shape, device=device)
        chosen = (torch.rand(area.shape, device=device) < self.phase_chance).float()
        offset = (level[:, None] - mean) * chosen[:, None]
        shares = functional.avg_pool2d(masks, 3, stride=1, padding=1)
        return images + torch.einsum("bkhw,bck->bchw", shares, offset)

    def _cropped(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Some views cut to a box or a circle that holds from a quarter of the image's area up."""
        batch, device = images.shape[0], images.device
        height, width = images.shape[-2:]
        rows = torch.linspace(-1, 1, height, device=device)[None, :, None]
        columns = torch.linspace(-1, 1, width, device=device)[None, None, :]
        half = 0.5 + 0.5 * torch.rand((2, batch, 1, 1), device=device)
        centre = (1 - half) * _signed((2, batch, 1, 1), device)
        y, x = (rows - centre[0]).abs() / half[0], (columns - centre[1]).abs() / half[1]
        chance = torch.rand((batch, 1, 1), device=device)
        inside = torch.where(chance < self.crop_chance / 2, (y <= 1) & (x <= 1), y.square() + x.square() <= 1)
        inside = inside | (chance >= self.crop_chance)
        return images * inside[:, None], labels * inside

    def _intensity(self, images: Tensor) -> Tensor:
        batch, device = images.shape[0], images.device
        shape = (batch, 1, 1, 1)
        padding = images == 0  # air and padding stay what they are at inference
        images = images.clamp(0, 1)
        if self.invert_chance:
            images = torch.where(torch.rand(shape, device=device) < self.invert_chance, 1 - images, images)
        images = images ** (self.gamma ** _signed(shape, device))
        if self.bias:
            coarse = _signed((batch, 1, 4, 4), device) * math.log1p(self.bias)
            images = (
                images
                * functional.interpolate(
                    coarse, size=images.shape[-2:], mode="bicubic", align_corners=True
                ).exp()
            )
        images = images * (1 + self.contrast * _signed(shape, device))
        images = images + self.brightness * _signed(shape, device)
        images = images + torch.randn_like(images) * (self.noise * torch.rand(shape, device=device))
        images = images.clamp(0, 1).masked_fill(padding, 0)
        # One factor for the batch, drawn on the host: sizes of tensors have to be known there.
        if float(torch.rand(())) < self.blur_chance:
            factor = self.coarsest + (1 - self.coarsest) * float(torch.rand(()))
            small = functional.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
            images = functional.interpolate(small, size=images.shape[-2:], mode="bilinear")
        return images


@dataclass(frozen=True, slots=True)
class Rot90Flip:
    """The published views (implementation of Chen et al., arXiv 2102.04306): half are turned by a random number of
    quarters and mirrored along a random axis, a quarter rotated by up to `rotation` degrees, the rest left as they are.

    Images that are not square are turned by halves, not by quarters.
    """

    rotation: float = 20.0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) float in 0..1 and (B, H, W) uint8 -> the same shapes and types, seen anew."""
        batch, device = images.shape[0], images.device
        kind = torch.randint(4, (batch,), device=device)
        turned, rotated = kind < 2, kind == 2
        step = 1 if images.shape[-1] == images.shape[-2] else 2
        quarters = step * torch.randint(4 // step, (batch,), device=device)
        degrees = torch.where(
            turned, 90.0 * quarters, torch.where(rotated, self.rotation * _signed(batch, device), 0.0)
        )
        axis = torch.randint(2, (batch,), device=device)
        one = torch.ones(batch, device=device)
        grid = _affine_grid(
            images,
            angle=torch.deg2rad(degrees),
            rows=torch.where(turned & (axis == 0), -one, one),
            columns=torch.where(turned & (axis == 1), -one, one),
            shift=torch.zeros((batch, 2), device=device),
        )
        return _sampled(images, labels, grid, "nearest", "zeros")

    def sentence(self) -> str:
        """The views in words, for the model card."""
        return f"random quarter turns with mirroring, or rotation to ±{self.rotation:g}°"


def _affine_grid(images: Tensor, *, angle: Tensor, rows: Tensor, columns: Tensor, shift: Tensor) -> Tensor:
    """Where each pixel of a view is taken from: (B, H, W, 2) in the coordinates of `grid_sample`.

    `angle` (B,) in radians; `rows` and `columns` (B,) factors; `shift` (B, 2) along columns and rows, in halves of
    the image's size.
    """
    # Rotation in pixels, not in the grid's -1..1, so that rectangular images are not sheared.
    aspect = images.shape[-2] / images.shape[-1]
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack(
        (
            torch.stack((cos * columns, -sin * columns * aspect, shift[:, 0]), 1),
            torch.stack((sin * rows / aspect, cos * rows, shift[:, 1]), 1),
        ),
        1,
    )
    return functional.affine_grid(matrix, list(images.shape), align_corners=False)


def _sampled(
    images: Tensor,
    labels: Tensor,
    grid: Tensor,
    mode: Literal["bilinear", "nearest"],
    beyond: Literal["zeros", "reflection"],
) -> tuple[Tensor, Tensor]:
    seen = functional.grid_sample(images, grid, mode=mode, padding_mode=beyond, align_corners=False)
    seen_labels = functional.grid_sample(
        labels[:, None].float(), grid, mode="nearest", padding_mode=beyond, align_corners=False
    )
    return seen, seen_labels[:, 0].to(labels.dtype)


def _signed(shape: int | tuple[int, ...], device: torch.device) -> Tensor:
    """Evenly distributed between -1 and 1."""
    return 2 * torch.rand(shape, device=device) - 1
