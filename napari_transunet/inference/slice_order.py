"""In which order slices are computed: the one in view first, then outward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable


def outward(n: int, first: int) -> list[int]:
    """The numbers 0..n−1 by their distance from `first`, the higher one first: 3 of 5 gives 3, 4, 2, 1, 0."""
    if not 0 <= first < n:
        raise InputError(f"There is no slice {first}; this volume's slices are 0 to {n - 1}.")
    return nearest_first(range(n), first)


def nearest_first(slices: Iterable[int], first: int) -> list[int]:
    """`slices`, each once, by their distance from `first`, the higher one first."""
    return sorted(set(slices), key=lambda index: (abs(index - first), -index))
