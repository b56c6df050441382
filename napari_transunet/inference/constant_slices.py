"""Slices of one value, whose labels are computed once a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_transunet.inference.prediction import SlicePrediction
    from napari_transunet.inference.slices import SliceStack

_MOST_KEPT = 8
"""Different slices of one value whose labels are kept: air, and whatever else a volume is padded with."""

_Key = int | tuple[float, ...]
"""A slice's index, or the values of its channels where each holds but one."""


class ConstantSliceCache:
    """Labels of slices of one value (air, once clipped to the window): the same input wherever they lie."""

    def __init__(self) -> None:
        self._known: dict[_Key, SlicePrediction] = {}

    def predictions(
        self,
        indices: Sequence[int],
        stack: SliceStack,
        compute: Callable[[SliceStack, Sequence[int]], list[SlicePrediction]],
    ) -> list[SlicePrediction]:
        """What `compute` makes of the images of `stack`, which are the slices `indices`; each input only once."""
        keys: list[_Key] = [
            index if values is None else values
            for index, values in zip(indices, stack.constants(), strict=True)
        ]
        fresh = {key: position for position, key in enumerate(keys) if key not in self._known}
        found = dict(self._known)
        if fresh:
            positions = list(fresh.values())
            computed = compute(stack.pick(positions), [indices[position] for position in positions])
            found.update(zip(fresh, computed, strict=True))
        for key in fresh:
            if isinstance(key, tuple) and len(self._known) < _MOST_KEPT:
                self._known[key] = found[key]
        # Copies, so that writing into one empty slice does not write into the others.
        return [
            replace(found[key], index=index, plane=found[key].plane.copy())
            if isinstance(key, tuple)
            else found[key]
            for index, key in zip(indices, keys, strict=True)
        ]
