"""Crops of slices: half of what a network sees at once, so that the time of a lesson holds twice as many steps."""

import math

import torch
from torch import Tensor

from napari_transunet.training.losses import UNKNOWN

_SIDE = 0.7
"""Of a slice's height and width, rounded up to whole patches. With 0.6, organs that one slice shows may be lost."""


def random_crops(images: Tensor, labels: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """A crop of each slice: (B, C, H, W) and (B, H, W) -> (B, C, h, w), (B, h, w), and (B, 2) corners in patches.

    Each holds a pixel drawn from those that are known: where single voxels are, it shows one.
    """
    grid = [side // patch for side in labels.shape[1:]]
    size = [math.ceil(_SIDE * side) for side in grid]
    parts, corners = [], []
    for image, own in zip(images, labels, strict=True):
        corner = [
            _start(int(pixel) // patch, length, side)
            for pixel, length, side in zip(_pixel(own), size, grid, strict=True)
        ]
        crop = [
            slice(patch * start, patch * (start + length)) for start, length in zip(corner, size, strict=True)
        ]
        parts.append((image[:, *crop], own[*crop]))
        corners.append(corner)
    of_images, of_labels = (torch.stack(side) for side in zip(*parts, strict=True))
    return of_images, of_labels, torch.tensor(corners, device=images.device)


def _pixel(labels: Tensor) -> Tensor:
    """(2,) row and column of a known pixel (H, W), or of any where none is known."""
    known = torch.nonzero(labels != UNKNOWN)
    pixels = known if len(known) else torch.nonzero(torch.ones_like(labels))
    return pixels[int(torch.randint(len(pixels), ()))]


def _start(patch: int, length: int, side: int) -> int:
    """Where a crop of so many patches starts that holds this one, of a side of so many."""
    first, last = max(0, patch - length + 1), min(patch, side - length)
    return int(torch.randint(first, last + 1, ()))
