"""Time and memory against the number of slices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.inference.memory import PeakMemory
from napari_transunet.benchmark import Spread, interleaved

if TYPE_CHECKING:
    from napari_transunet.benchmark import ReadyConfig
    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.volumes.volume import Volume

_BETWEEN = 5  # batches from one small volume to the next

LENGTHS: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1000)


@dataclass(frozen=True)
class LengthTime:
    """A volume of so many slices: seconds for all, the rise of memory at its highest, and of it the labels."""

    slices: int
    volume_s: Spread
    peak_mb: float
    labels_mb: float


@dataclass(frozen=True)
class Scaling:
    """Time against the number of slices, of one configuration.

    Attributes
    ----------
    shape : of a slice (y, x)
    start_s, slice_s : of the line start + slices × slice that fits the medians, with equal weight for equal ratios
    residual : the largest distance of a median from that line, as a share of the line
    late_over_early : in the longest volume, the time of a batch near the end over that of one near the start, each
        beside a small volume at that moment
    """

    config: str
    shape: tuple[int, int]
    times: Sequence[LengthTime]
    start_s: float
    slice_s: float
    residual: float
    late_over_early: float


def time_against_slices(
    ready: ReadyConfig, volume: Volume, rounds: int, lengths: Sequence[int] = LENGTHS
) -> Scaling:
    """Segment volumes of so many slices, in ascending order; they are those of `volume` again and again."""
    predictor = ready.predictor
    peaks = PeakMemory(predictor.device)

    def segment(repeated: Volume) -> int:
        return predictor.predict(repeated).nbytes

    tasks: Mapping[str, Callable[[], int]] = {
        str(length): partial(segment, repeated_slices(volume, length)) for length in lengths
    }
    seconds, label_bytes = interleaved(tasks, rounds, predictor.device)
    for name, task in tasks.items():
        with peaks.watch(name):
            task()
    found = [
        LengthTime(int(name), Spread.of(seconds[name]), peaks[name], label_bytes[name] / 1e6)
        for name in tasks
    ]
    start, slope, residual = line_through(lengths, [one.volume_s.median for one in found])
    rows, columns = volume.data.shape[1:]
    return Scaling(
        ready.config.name,
        (rows, columns),
        found,
        start,
        slope,
        residual,
        growth(predictor, volume, lengths[-1]),
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


def repeated_slices(volume: Volume, count: int) -> Volume:
    """A volume of `count` slices that takes those of another again and again."""
    data = volume.data[np.arange(count) % len(volume.data)]
    return replace(volume, data=data, geometry=replace(volume.geometry, shape=data.shape))


def central_part(volume: Volume, side: int) -> Volume:
    """The square of at most `side` pixels in the middle of every slice; where it lies in space does not count."""
    top, left = (max(0, (has - side) // 2) for has in volume.data.shape[1:])
    data = volume.data[:, top : top + side, left : left + side]
    return replace(volume, data=data, geometry=replace(volume.geometry, shape=data.shape))


def line_through(lengths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Start and slope of the line that fits best, and the largest distance from it as a share of the line.

    Least squares of the relative distances, so that a short volume counts as much as a long one.
    """
    n, t = np.asarray(lengths, np.float64), np.asarray(seconds, np.float64)
    slope, start = np.polyfit(n, t, 1, w=1 / t)
    line = start + slope * n
    return float(start), float(slope), float(np.abs(t / line - 1).max())
