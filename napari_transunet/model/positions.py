"""Learned position embeddings for a grid other than the one they were learned on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def square_grid(length: int) -> tuple[int, int]:
    """The square grid of that many tokens.

    Raises
    ------
    InputError
        `length` is no square number.
    """
    side = math.isqrt(length)
    if side * side != length:
        raise InputError(
            f"{length} position embeddings make no square grid; give the grid's height and width."
        )
    return side, side


def resize_position_embeddings(
    embeddings: Tensor, grid: tuple[int, int], *, source_grid: tuple[int, int] | None = None
) -> Tensor:
    """Corner-aligned linear resampling: (1, n, hidden) -> (1, grid[0]·grid[1], hidden).

    `source_grid` is the grid of the given embeddings, (height, width), square where it is not said.

    Raises
    ------
    InputError
        The embeddings' number does not fit `source_grid`, or is no square number where none is given.
    """
    length = embeddings.shape[1]
    source = source_grid or square_grid(length)
    if source[0] * source[1] != length:
        raise InputError(f"{length} position embeddings do not fill a grid of {source[0]}×{source[1]}.")
    if source == tuple(grid):
        return embeddings
    plane = embeddings.transpose(1, 2).unflatten(2, source)
    resized = functional.interpolate(plane.double(), size=grid, mode="bilinear", align_corners=True)
    return resized.to(embeddings.dtype).flatten(2).transpose(1, 2)


def fit_pretrained_positions(embeddings: Tensor, grid: tuple[int, int]) -> Tensor:
    """ImageNet position embeddings, whose first entry is the class token's: (1, 1 + n, hidden) -> (1, N, hidden).

    As many as the grid has tokens are taken as they are; else the class token goes and the rest is resampled.
    """
    if embeddings.shape[1] == grid[0] * grid[1]:
        return embeddings
    return resize_position_embeddings(embeddings[:, 1:], grid)
