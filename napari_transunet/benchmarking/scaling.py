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
from napari_transunet.benchmarking.timing import interleaved

if TYPE_CHECKING:
    from napari_transunet.benchmarking.ways import ReadyWay
    from napari_transunet.segmentation.predictor import Predictor
    from napari_transunet.volumes.volume import Volume

_BETWEEN = 5  # batches from one small volume to the next

LENGTHS: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1000)


def time_against_slices(
    ready: ReadyWay, volume: Volume, rounds: int, lengths: Sequence[int] = LENGTHS
) -> Scaling:
    """Segment volumes of so many slices, in ascending order; they are those of `volume` again and again."""
    predictor = ready.predictor
    peaks = PeakMemory(predictor.device)

    def segment(repeated: Volume) -> int:
        return predictor.predict(repeated).nbytes

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
    return Scaling(
        ready.way.name, (rows, columns), found, start, slope, residual, growth(predictor, volume, lengths[-1])
    )


def growth(predictor: Predictor, volume: Volume, length: int) -> float:
    """How much longer a batch takes near the end of a volume of so many slices than near its start; 1 for no longer.

    Now and then a small volume is segmented between two batches, and batches are counted in its time, so that a
    machine whose speed changes meanwhile does not count. Medians of the first and the last fifth.
    """
    small = repeated_slices(volume, predictor.batch_size)
    in_small: list[float] = []
    last = time.perf_counter()
    for number, _ in enumerate(predictor.iter_batches(repeated_slices(volume, length))):
        took = time.perf_counter() - last
        if number % _BETWEEN == 0:
            started = time.perf_counter()
            predictor.predict(small)
            in_small.append(took / (time.perf_counter() - started))
        last = time.perf_counter()
    return last_over_first(in_small)


def last_over_first(values: Sequence[float]) -> float:
    """The median of the last fifth over that of the first; the very first does not count where there are others."""
    settled = values[1:] or values
    part = max(1, len(settled) // 5)
    return statistics.median(settled[-part:]) / statistics.median(settled[:part])


def line_through(lengths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Start and slope of the line that fits best, and the largest distance from it as a share of the line.

    Least squares of the relative distances, so that a short volume counts as much as a long one.
    """
    n, t = np.asarray(lengths, np.float64), np.asarray(seconds, np.float64)
    slope, start = np.polyfit(n, t, 1, w=1 / t)
    line = start + slope * n
    return float(start), float(slope), float(np.abs(t / line - 1).max())
