"""Filling slices between those that are right: by their shapes, or by what was corrected in them, along the image."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_transunet.annotation.corrections import Correction, Scope, finished
from napari_transunet.annotation.slice_registration import Displacement, SliceRegistration
from napari_transunet.errors import InputError
from napari_transunet.volumes.boxes import Mask

Array = NDArray[Any]
_Distance = NDArray[np.float32]

_FARTHEST = 10.0
"""mm from an outline beyond which distances count as this; so far an organ goes on, too, that one slice shows alone."""

_WELL = 0.8  # Dice in the slices given


def interpolate(
    labels: Array,
    spacing: Sequence[float],
    scope: Scope,
    *,
    axis: int,
    slices: Iterable[int],
    found: Array | None = None,
    registration: SliceRegistration | None = None,
) -> Correction:
    """Fill the slices between those given, which are right.

    By shape: signed distances to the outlines are interpolated linearly, after Raya and Udupa, "Shape-based
    interpolation of multidimensional objects", IEEE TMI 9 (1990), where both slices show an organ. Where two organs
    meet, the one further inside has the voxel.

    By what was corrected, where `found` is given: what the corrections in both slices added to the signed distances
    of what a network found there is interpolated, and added to those of what it found in between, up to 10 mm from the
    outlines. An organ that one slice shows alone is gone after 10 mm, or half the way.

    Where both slices show an organ, that way is taken which would have come nearer to the slices given, each from its
    neighbours. Where no three of these in a row show it, it is by corrections if the network had found it well. Where
    one of both slices shows it, or none, corrections alone tell anything.

    Either way, distances are first brought to where the image shows the same, where `registration` is given and so
    brings outlines from one slice given to the next nearer to those there.

    Parameters
    ----------
    labels : (z, y, x), as they are now
    slices : which slices along `axis` are right
    found : (z, y, x) what a network found, before anything was corrected
    registration : of the image's slices along `axis`

    Raises
    ------
    InputError
        Fewer than two slices, or one that is not there; or the image has another shape.
    """
    given = sorted(set(slices))
    if len(given) < 2:
        raise InputError(
            "Correct the organ in at least two slices first; what lies between is then filled in."
        )
    if given[0] < 0 or given[-1] >= labels.shape[axis]:
        raise InputError(f"There are slices 0 to {labels.shape[axis] - 1} only.")
    right = np.moveaxis(labels, axis, 0)
    if registration is not None and registration.shape != right.shape:
        raise InputError(
            f"The image's slices are {registration.shape}, and those of the labels {right.shape}."
        )
    told = None if found is None else np.moveaxis(found, axis, 0)
    steps = spacing[axis], [step for at, step in enumerate(spacing) if at != axis]
    alignment = None if registration is None else _Alignment(registration, given)
    outlines = [_Outlines(right, told, organ, steps, given, alignment) for organ in scope.organs]
    wanted = labels.copy()
    result = np.moveaxis(wanted, axis, 0)
    for first, last in pairwise(given):
        gap = slice(first + 1, last)
        depth = np.zeros(right[gap].shape, np.float32)
        winner = np.zeros(depth.shape, labels.dtype)
        touched = np.zeros(depth.shape, np.bool_)
        for outline in outlines:
            if not outline.fills(first, last):
                continue
            touched |= right[gap] == outline.organ
            rows, columns = outline.box
            for at, index in enumerate(range(first + 1, last)):
                signed = outline.between(first, last, index)
                ahead = signed > depth[at, rows, columns]
                depth[at, rows, columns][ahead] = signed[ahead]
                winner[at, rows, columns][ahead] = outline.organ
        free = (right[gap] == 0) | touched
        result[gap] = np.where(free, winner, right[gap])
    z, y, x = labels.shape
    return finished(labels, (slice(0, z), slice(0, y), slice(0, x)), wanted, scope)


class _Alignment:
    """Where what the slices given show lies in the slices between them."""

    def __init__(self, registration: SliceRegistration, given: Sequence[int]) -> None:
        self._registration = registration
        ways = [way for first, last in pairwise(given) for way in ((first, last), (last, first))]
        self._moves: dict[tuple[int, int], Displacement] = {
            (at, start): far for start, stop in ways for at, far in registration.from_slice(start, stop)
        }

    def brought(self, distances: _Distance, start: int, index: int, box: tuple[slice, slice]) -> _Distance:
        """The distances at a box of slice `start`, where the image shows the same in slice `index`."""
        return self._registration.moved(distances, self._moves[index, start], box)


class _Outlines:
    """Signed distances in mm to one organ's outline in slices (n, h, w), within a box: as given, and as found."""

    def __init__(
        self,
        right: Array,
        told: Array | None,
        organ: int,
        spacing: tuple[float, Sequence[float]],
        given: Sequence[int],
        alignment: _Alignment | None,
    ) -> None:
        self.organ = organ
        self._step, self._steps = spacing  # mm from slice to slice, and within
        masks = {index: right[index] == organ for index in given}
        seen = np.logical_or.reduce([*masks.values()])
        if told is not None:
            seen |= (told[given[0] : given[-1] + 1] == organ).any(axis=0)
        beside = [0 if alignment is None else math.ceil(_FARTHEST / step) for step in self._steps]
        self.box = _box(seen, beside)
        self._told = None if told is None else told[:, *self.box]
        self._right = {index: mask[self.box] for index, mask in masks.items()}
        self._shapes = {index: _signed(mask, self._steps) for index, mask in self._right.items()}
        self._found = {} if told is None else {index: self._found_in(index) for index in given}
        self._corrected = {
            index for index, found in self._found.items() if ((found > 0) != self._right[index]).any()
        }
        self._alignment = alignment
        if alignment is not None and not self._alignment_tells_more(given):
            self._alignment = None
        self._by_shape = told is None or not self._corrections_tell_more(given)

    def fills(self, first: int, last: int) -> bool:
        """Whether two slices say anything of those in between."""
        return self._goes_by_shape(first, last) or not self._corrected.isdisjoint({first, last})

    def between(self, first: int, last: int, index: int) -> _Distance:
        """What they say of one in between."""
        if self._goes_by_shape(first, last):
            return self._by_shapes(first, last, index)
        return self._by_corrections(first, last, index)

    def _goes_by_shape(self, first: int, last: int) -> bool:
        return self._by_shape and self._both(first, last)

    def _both(self, first: int, last: int) -> bool:
        return bool(self._right[first].any() and self._right[last].any())

    def _alignment_tells_more(self, given: Sequence[int]) -> bool:
        """Whether outlines brought from one slice given to the next are nearer to those there than left in place."""
        brought = left = 0
        for index, other in [*pairwise(given), *pairwise(reversed(given))]:
            if not self._both(index, other):
                continue
            right, shape = self._right[index], self._brought(self._shapes, [other], index)[other]
            left += int(np.count_nonzero(self._right[other] != right))
            brought += int(np.count_nonzero((shape > 0) != right))
        return brought < left

    def _corrections_tell_more(self, given: Sequence[int]) -> bool:
        """Whether the slices given are nearer to what their neighbours say by corrections than by shape.

        Where no three in a row show the organ, whether the network had found it well.
        """
        rows = [row for row in zip(given, given[1:], given[2:], strict=False) if self._both(row[0], row[2])]
        if not rows:
            pairs = [(self._found[index] > 0, right) for index, right in self._right.items()]
            both = sum(np.count_nonzero(found & right) for found, right in pairs)
            sizes = sum(np.count_nonzero(found) + np.count_nonzero(right) for found, right in pairs)
            return bool(2 * both > _WELL * sizes)
        by_shape = by_corrections = 0
        for first, index, last in rows:
            right = self._right[index]
            shape = self._by_shapes(first, last, index)
            corrected = self._by_corrections(first, last, index)
            by_shape += int(np.count_nonzero((shape > 0) != right))
            by_corrections += int(np.count_nonzero((corrected > 0) != right))
        return by_corrections < by_shape

    def _by_shapes(self, first: int, last: int, index: int) -> _Distance:
        return _mean(self._brought(self._shapes, (first, last), index), first, last, index)

    def _by_corrections(self, first: int, last: int, index: int) -> _Distance:
        found = self._found[index] if index in self._found else self._found_in(index)
        shapes = self._brought(self._shapes, (first, last), index)
        shapes = {at: _near(distance) for at, distance in shapes.items()}
        before = self._brought(self._found, (first, last), index)
        shape = _mean(shapes, first, last, index)
        moved = found + shape - _mean(before, first, last, index)
        shown = [at for at in (first, last) if self._right[at].any()]
        if len(shown) == 1:
            way = min(_FARTHEST, self._step * (last - first) / 2)
            gone = np.float32(self._step * abs(index - shown[0]) / way)
            shape = _near(shapes[shown[0]] - _FARTHEST * gone)
        # Where the network found nothing near by, nobody knows how far its outline would have had to move.
        near = np.maximum(abs(before[first]), abs(before[last])) < _FARTHEST
        within = np.clip(moved, np.minimum(found, shape), np.maximum(found, shape))
        return np.asarray(np.where(near, moved, within))

    def _brought(
        self, distances: Mapping[int, _Distance], slices: Sequence[int], index: int
    ) -> dict[int, _Distance]:
        """The distances in these slices, where the image shows the same in slice `index`."""
        if self._alignment is None:
            return {at: distances[at] for at in slices}
        return {at: self._alignment.brought(distances[at], at, index, self.box) for at in slices}

    def _found_in(self, index: int) -> _Distance:
        assert self._told is not None
        return _near(_signed(self._told[index] == self.organ, self._steps))


def _mean(distances: Mapping[int, _Distance], first: int, last: int, index: int) -> _Distance:
    """Of two slices, the nearer one counting for more."""
    share = np.float32((index - first) / (last - first))
    return np.asarray((1 - share) * distances[first] + share * distances[last])


def _near(distances: _Distance) -> _Distance:
    return np.asarray(np.clip(distances, -_FARTHEST, _FARTHEST))


def _box(mask: Mask, beside: Sequence[int]) -> tuple[slice, slice]:
    """Around what is true in a flat mask, a pixel more, and so many besides along either axis."""
    if not mask.any():
        return slice(0, 0), slice(0, 0)
    seen = (np.flatnonzero(mask.any(axis=other)) for other in (1, 0))
    top, left = (
        slice(max(0, int(at[0]) - more - 1), min(size, int(at[-1]) + more + 2))
        for at, more, size in zip(seen, beside, mask.shape, strict=True)
    )
    return top, left


def _signed(mask: Mask, steps: Sequence[float]) -> _Distance:
    """Distance in mm to the outline of a flat mask, positive within it."""
    if mask.all() or not mask.any():
        far = max((n * step for n, step in zip(mask.shape, steps, strict=True)), default=0.0)
        return np.full(mask.shape, far if mask.any() else -far, np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=steps)
    outside = ndimage.distance_transform_edt(~mask, sampling=steps)
    return np.asarray(inside - outside, np.float32)
