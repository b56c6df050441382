"""Which slice to look at next, and how long the rest will take."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Mapping
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

_PAUSE = 120.0  # s between two marks that are not work on one slice any more
_ENOUGH = 3  # marks before a guess is worth saying


def next_to_check(
    uncertainty: NDArray[np.floating],
    reviewed: Collection[int],
    current: int,
    present: NDArray[np.bool_] | None = None,
) -> int | None:
    """The most uncertain slice that is not reviewed and not `current`; None where all others are.

    Of equally uncertain ones the nearest to `current`. Slices whose uncertainty is not known (NaN) come last; with
    `present`, only slices where it is true.
    """
    left = [
        index
        for index in range(len(uncertainty))
        if index not in reviewed and index != current and (present is None or present[index])
    ]
    if not left:
        return None

    def urgency(index: int) -> tuple[float, int]:
        value = float(uncertainty[index])
        return (-value if value == value else 1.0), abs(index - current)

    return min(left, key=urgency)


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
