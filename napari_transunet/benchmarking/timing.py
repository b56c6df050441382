"""Seconds that can be compared: of works that run in turn in one process, round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing, in short."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Timings(Generic[T]):
    """Seconds of each work, by its name, one a round; and what each answered in the last round."""

    seconds: Mapping[str, Sequence[float]]
    answers: Mapping[str, T]

    def spread(self, name: str) -> Spread:
        """Seconds of one work."""
        return Spread.of(self.seconds[name])

    def ratios(self, name: str, base: str) -> Spread:
        """How many times as fast as `base` a work is; each ratio is of two times of the same round."""
        pairs = zip(self.seconds[base], self.seconds[name], strict=True)
        return Spread.of([slow / fast for slow, fast in pairs])


def interleaved(
    works: Mapping[str, Callable[[], T]],
    rounds: int,
    device: torch.device,
    progress: Callable[[int, str], None] | None = None,
    watching: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Timings[T]:
    """Run all works in turn, `rounds` times. Every round begins with another, so that none always follows the same.

    Parameters
    ----------
    works : by name
    rounds : at least 1
    device : where they compute
    progress : called with the round, from 1, and the work's name before it starts
    watching : makes of a work's name what is entered around it, outside of its seconds
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    answers: dict[str, T] = {}
    names = list(works)
    for number in range(rounds):
        start = number % len(names) if names else 0
        for name in names[start:] + names[:start]:
            if progress is not None:
                progress(number + 1, name)
            with watching(name):
                took, answers[name] = timed(works[name], device)
            seconds[name].append(took)
    return Timings(seconds, answers)


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds until the work is done on the device too, and its answer."""
    synchronise(device)
    started = time.perf_counter()
    answer = work()
    synchronise(device)
    return time.perf_counter() - started, answer


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
