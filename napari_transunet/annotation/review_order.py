"""Which slice to look at next, and how long the rest will take."""

import itertools
import statistics
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PAUSE = 120.0  # s between two marks that are not work on one slice any more
_ENOUGH = 3  # marks before a guess is worth saying
_TOGETHER = 0.8
"""A neighbour of the slice in view comes before the worst of all if it is expected to be this nearly as wrong."""

_ALIKE = 25.0  # mm from which on slices show nothing of each other


def next_to_check(
    expected_error: NDArray[np.floating],
    done: Collection[int],
    current: int | None,
    present: NDArray[np.bool_] | None = None,
) -> int | None:
    """The slice that is worth looking at most; None where none is left.

    That is the slice with the greatest expected error, or a neighbour of `current` that comes near it, so that
    neighbours, which look alike, are worked on together. Slices of which nothing is known come last, the nearest first.

    Parameters
    ----------
    expected_error : (n,), as `SliceUncertainties.expected_error` gives it; NaN where it is not known
    done : slices that need not be looked at any more
    current : the slice in view, which is not proposed
    present : (n,), only slices where it is true
    """
    n = len(expected_error)
    left = np.ones(n, np.bool_) if present is None else np.array(present, np.bool_)
    left[[index for index in (*done, current) if index is not None and 0 <= index < n]] = False
    here = 0 if current is None else current
    known = left & ~np.isnan(expected_error)
    if not known.any():
        return _nearest(left, here)
    greatest = expected_error[known].max()
    near = known & (expected_error >= _TOGETHER * greatest)
    if current is not None:
        beside = [index for index in (current - 1, current + 1) if 0 <= index < n and near[index]]
        if beside:
            return max(beside, key=lambda index: float(expected_error[index]))
    return _nearest(known & (expected_error == greatest), here)


def next_to_learn_from(areas: NDArray[np.integer], known: Collection[int], spacing: float) -> int | None:
    """The slice from which a network would learn most beside those that are `known`; None where none shows an organ.

    It shows as much as possible of as many organs as possible that no known slice shows nearby (the greedy choice for
    a facility location, Nemhauser et al., Mathematical Programming 1978). Every organ counts alike, however small.

    Parameters
    ----------
    areas : (n, organs) voxels of each organ in each slice, as the network labels them now
    known : slices that are right
    spacing : mm between two slices
    """
    area = np.asarray(areas, np.float64)
    area = area[:, area.any(axis=0)]
    share = area / area.sum(axis=0)
    shows = np.minimum(1, area / [np.median(one[one > 0]) for one in area.T])
    reach = int(_ALIKE / spacing)
    near = np.maximum(0, 1 - np.abs(np.arange(-reach, reach + 1)) * spacing / _ALIKE)

    def around(index: int, shown: NDArray[np.float64]) -> tuple[slice, NDArray[np.float64]]:
        """The slices of which one shows something, and how much of each organ."""
        part = slice(max(0, index - reach), index + reach + 1)
        weight = near[part.start - index + reach :][: len(area[part])]
        return part, weight[:, None] * shown

    told = np.zeros_like(area)
    for index in known:
        # That an organ is not in a slice which is right is known there, too; else one that is found where it is not
        # would be asked for again, slice by slice.
        part, tells = around(index, np.where(area[index] > 0, shows[index], 1))
        told[part] = np.maximum(told[part], tells)
    best, most = None, 0.0
    for index in np.flatnonzero(area.any(axis=1)).tolist():
        part, tells = around(index, shows[index])
        gain = float((share[part] * np.maximum(0, tells - told[part])).sum())
        if index not in known and gain > most:
            best, most = index, gain
    return best


def next_to_interpolate_from(
    areas: NDArray[np.integer], organs: Sequence[int], known: Mapping[int, NDArray[Any]], spacing: float
) -> int | None:
    """The slice in which most is expected to be wrong once `interpolate` has filled what lies between `known` ones.

    Between two of these that show an organ, or of which one does, it is what changes from one to the other times how
    far away the nearer is, as a share of the way; elsewhere the organ's labels are as likely wrong as no known slice is
    near. Every organ counts alike, however small. None where nothing is left.

    Parameters
    ----------
    areas : (n, organs) voxels of each organ in each slice, as it is labelled now
    organs : their label values
    known : slices that are right -> their labels (h, w)
    spacing : mm between two slices
    """
    area = np.asarray(areas, np.float64)
    slices = np.arange(len(area))
    alone = np.full(len(area), np.inf)  # mm to the nearest known slice
    for index in known:
        alone = np.minimum(alone, np.abs(slices - index) * spacing)
    wrong = area * np.minimum(1, alone / _ALIKE)[:, None]
    for first, last in itertools.pairwise(sorted(known)):
        part = slice(first + 1, last)
        far = np.minimum(slices[part] - first, last - slices[part]) / (last - first)
        differ = known[first] != known[last]
        ends = known[first][differ], known[last][differ]
        for at, organ in enumerate(organs):
            if area[first, at] or area[last, at]:
                wrong[part, at] = far * sum(np.count_nonzero(end == organ) for end in ends)
    expected = (wrong / np.maximum(1, area.sum(axis=0))).sum(axis=1)
    expected[list(known)] = 0
    return int(expected.argmax()) if expected.any() else None


def _nearest(candidates: NDArray[np.bool_], here: int) -> int | None:
    return min(np.flatnonzero(candidates).tolist(), key=lambda index: abs(index - here), default=None)


def review_order(expected_error: NDArray[np.floating]) -> list[int]:
    """All slices whose expected error is known and above 0, in the order in which they are worth looking at."""
    order: dict[int, None] = {}
    worthy = expected_error > 0  # NaN is not
    last: int | None = None
    while (last := next_to_check(expected_error, order.keys(), last, worthy)) is not None:
        order[last] = None
    return list(order)


def seconds_left(marks: Mapping[int, str], total: int) -> float | None:
    """How long the slices that are not marked yet will take, from the times (ISO 8601) of the marks.

    By the median time from one mark to the next; longer pauses are left out. None before there are enough.
    """
    times = sorted(datetime.fromisoformat(moment) for moment in marks.values())
    steps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    worked = [step for step in steps if step <= _PAUSE]
    if len(worked) < _ENOUGH - 1:
        return None
    return statistics.median(worked) * max(0, total - len(marks))
