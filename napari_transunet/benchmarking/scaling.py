"""Time and memory against the number of slices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from napari_transunet.benchmarking.memory import PeakMemory
from napari_transunet.benchmarking.report import LengthTime, Scaling
from napari_transunet.benchmarking.subjects import repeated_slices
from napari_transunet.benchmarking.timing import Spread, interleaved

if TYPE_CHECKING:
    from napari_transunet.benchmarking.ways import ReadyWay
    from napari_transunet.volumes.volume import Volume

LENGTHS: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1000)


def time_against_slices(
    ready: ReadyWay, volume: Volume, rounds: int, lengths: Sequence[int] = LENGTHS
) -> Scaling:
    """Segment volumes of so many slices, in ascending order; they are those of `volume` again and again."""
    predictor = ready.predictor
    peaks = PeakMemory(predictor.device)

    late_over_early: list[float] = []

    def segment(repeated: Volume) -> int:
        ends = [time.perf_counter()]
        labels = predictor.predict(repeated, progress=lambda *_: ends.append(time.perf_counter()))
        if len(labels) == lengths[-1]:
            late_over_early.append(last_over_first(np.diff(ends).tolist()))
        return labels.nbytes

    works: Mapping[str, Callable[[], int]] = {
        str(length): partial(segment, repeated_slices(volume, length)) for length in lengths
    }
    timings = interleaved(works, rounds, predictor.device, watching=peaks.watch)
    found = [
        LengthTime(int(name), timings.spread(name), peaks[name], timings.answers[name] / 1e6)
        for name in works
    ]
    start, slope, residual = line_through(lengths, [one.volume_s.median for one in found])
    rows, columns = volume.data.shape[1:]
    return Scaling(ready.way.name, (rows, columns), found, start, slope, residual, Spread.of(late_over_early))


def last_over_first(batches: Sequence[float]) -> float:
    """The median seconds of a batch in the last fifth of a volume, over that in the first; 1 where none gets slower.

    The very last batch does not count, since it may be smaller.
    """
    full = list(batches[:-1]) or list(batches)
    part = max(1, len(full) // 5)
    return statistics.median(full[-part:]) / statistics.median(full[:part])


def line_through(lengths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Start and slope of the line that fits best, and the largest distance from it as a share of the line.

    Least squares of the relative distances, so that a short volume counts as much as a long one.
    """
    n, t = np.asarray(lengths, np.float64), np.asarray(seconds, np.float64)
    slope, start = np.polyfit(n, t, 1, w=1 / t)
    line = start + slope * n
    return float(start), float(slope), float(np.abs(t / line - 1).max())
