"""Time and memory against the number of slices."""

from __future__ import annotations

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
    from napari_transunet.volumes.volume import Volume

LENGTHS: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1000)


def time_against_slices(
    ready: ReadyWay, volume: Volume, rounds: int, lengths: Sequence[int] = LENGTHS
) -> Scaling:
    """Segment volumes of so many slices, which are those of `volume` again and again."""
    predictor = ready.predictor
    peaks = PeakMemory(predictor.device)

    def segment(repeated: Volume) -> int:
        return predictor.predict(repeated).nbytes

    works: Mapping[str, Callable[[], int]] = {
        str(length): partial(segment, repeated_slices(volume, length)) for length in lengths
    }
    timings = interleaved(works, rounds, predictor.device, watching=peaks.watch)
    times = [
        LengthTime(int(name), timings.spread(name), peaks[name], timings.answers[name] / 1e6)
        for name in works
    ]
    start, slope, residual = line_through(lengths, [time.volume_s.median for time in times])
    rows, columns = volume.data.shape[1:]
    return Scaling(ready.way.name, (rows, columns), times, start, slope, residual)


def line_through(lengths: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Start and slope of the line that fits best, and the largest distance from it as a share of the line.

    Least squares of the relative distances, so that a short volume counts as much as a long one.
    """
    n, t = np.asarray(lengths, np.float64), np.asarray(seconds, np.float64)
    slope, start = np.polyfit(n, t, 1, w=1 / t)
    line = start + slope * n
    return float(start), float(slope), float(np.abs(t / line - 1).max())
