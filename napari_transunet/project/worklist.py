"""Which case comes next, and how long somebody worked on one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_transunet.project.case import Case
    from napari_transunet.project.leases import Holder

PAUSE = 120.0
"""Seconds without any act after which nobody works."""


def next_case(
    cases: Sequence[Case],
    holders: Mapping[str, Holder],
    annotator: str,
    *,
    skip: Collection[str] = (),
) -> Case | None:
    """The case that an annotator should see next; None where none is left.

    First what they are to read blind, then what they began, then the most uncertain of those that have labels and are
    nobody's; at last what they held when their program ended badly, which is to be taken over. Left out is what is
    done, excluded, held by somebody, or read blind by another.

    Parameters
    ----------
    holders : case id -> who holds it
    skip : ids of cases that were just seen
    """
    open_cases = [
        case
        for case in cases
        if case.has_labels
        and case.status in ("segmented", "in review")
        and case.id not in skip
        and case.reader in ("", annotator)
    ]
    free = [case for case in open_cases if case.id not in holders]
    own = [case for case in free if annotator in (case.reader, case.annotator)]
    nobodys = [case for case in free if not case.reader and not case.annotator]
    lost = [
        case
        for case in open_cases
        if (holder := holders.get(case.id)) is not None and holder.stale and holder.annotator == annotator
    ]
    own.sort(key=lambda case: (not case.reader, case.name))
    nobodys.sort(key=lambda case: (-1.0 if case.uncertainty is None else -case.uncertainty, case.name))
    return next(iter(own + nobodys + lost), None)


class WorkClock:
    """Counts the time between acts, but for pauses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.seconds = 0.0

    def act(self) -> None:
        """Somebody did something."""
        now = self._clock()
        if now - self._last <= PAUSE:
            self.seconds += now - self._last
        self._last = now
