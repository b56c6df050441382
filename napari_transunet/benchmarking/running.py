"""The whole benchmark: every way in turn, round by round, in one process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from napari_transunet.benchmarking.agreement import agreement
from napari_transunet.benchmarking.machine import describe_machine, matrix_rates
from napari_transunet.benchmarking.memory import PeakMemory
from napari_transunet.benchmarking.networks import best_batch, rates_by_batch
from napari_transunet.benchmarking.plain import PlainProcedure
from napari_transunet.benchmarking.profiling import where_time_goes
from napari_transunet.benchmarking.report import BatchRate, Conditions, NetworkReport, Report, WayResult
from napari_transunet.benchmarking.scaling import LENGTHS, time_against_slices
from napari_transunet.benchmarking.subjects import (
    central_part,
    middle_slices,
    operations_per_slice,
    slices_of_one_value,
)
from napari_transunet.benchmarking.timing import Spread, interleaved
from napari_transunet.benchmarking.ways import PLAIN, WAYS, ReadyWay, Ways, ranges_for, ready_ways
from napari_transunet.errors import InputError
from napari_transunet.segmentation.devices import has_fast_bfloat16, resolve_device

if TYPE_CHECKING:
    import torch

    from napari_transunet.benchmarking.machine import MatrixRate
    from napari_transunet.benchmarking.subjects import Subject
    from napari_transunet.benchmarking.timing import Timings
    from napari_transunet.segmentation.predictor import Labels
    from napari_transunet.volumes.volume import Volume

Progress = Callable[[str], None]

_SMALL_SIDE = 128
"""Of the slices whose number is varied: the network's share is the same, and a thousand are no gigabyte."""

_BATCH_ROUNDS = 3
"""A batch takes so little time that this many are always run."""

_QUICK_BATCHES, _QUICK_LENGTHS = (1, 2), (4, 8, 16)
_QUICK_SECONDS, _SECONDS = 0.3, 1.0  # for each matrix rate


def run_benchmark(
    subjects: Sequence[Subject],
    volume: Volume,
    *,
    device: str = "auto",
    rounds: int = 3,
    quick: bool = False,
    full: bool = False,
    reading_s: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure networks on a volume.

    Parameters
    ----------
    subjects : the networks
    volume : what they segment
    device : as a `Predictor` takes it
    rounds : how often every way segments the volume
    quick : take less time for the machine's matrix rates, fewer batch sizes, and shorter volumes
    full : also the network alone against batch size, time against the number of slices, and where the time goes
    reading_s : seconds that reading the volume took, for the report
    progress : told what comes next

    Raises
    ------
    InputError
        No network, no rounds, or no such device.
    OutOfMemoryError
        The memory does not hold a single slice.
    """
    if not subjects:
        raise InputError("There is no network to measure; name a checkpoint or a variant.")
    if rounds < 1:
        raise InputError(f"Every way has to run at least once, not {rounds} times.")
    where = resolve_device(device)
    tell = progress or _tell_nobody
    machine = describe_machine()  # first, so that its load is what others do
    tell("matrix rates")
    rates = matrix_rates(where, _QUICK_SECONDS if quick else _SECONDS)
    z, y, x = volume.data.shape
    conditions = Conditions(
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        device=str(where),
        volume=volume.source.name,
        shape=(z, y, x),
        slices_of_one_value=slices_of_one_value(volume),
        reading_s=reading_s,
        rounds=rounds,
    )
    bench = _Bench(volume, where, rounds, quick, rates, tell)
    return Report(machine, conditions, rates, [bench.measure(subject, full=full) for subject in subjects])


@dataclass(frozen=True, eq=False)
class _Bench:
    """What is the same for all networks."""

    volume: Volume
    device: torch.device
    rounds: int
    quick: bool
    rates: Sequence[MatrixRate]
    tell: Progress

    def measure(self, subject: Subject, *, full: bool) -> NetworkReport:
        net = subject.net
        operations = operations_per_slice(net)
        floors = {rate.precision: operations / (rate.tera_per_s * 1e12) for rate in self.rates}
        batches = self._batches_on_gpu(subject, floors)
        self.tell(f"{subject.name}: getting ready")
        ways = ready_ways(subject, self.volume, self.device, batch_size=best_batch(batches))
        results = self._results(subject, ways, floors)
        report = NetworkReport(
            name=subject.name,
            variant=net.variant.name,
            trained=subject.trained,
            img_size=net.img_size,
            parameters=sum(parameter.numel() for parameter in net.parameters()),
            giga_operations=operations / 1e9,
            load_s=subject.load_s,
            ways=results,
            left_out=ways.left_out,
            batches=batches,
        )
        return self._with_the_rest(report, subject, ways, floors) if full else report

    def _batches_on_gpu(self, subject: Subject, floors: Mapping[str, float]) -> list[BatchRate]:
        """A GPU is only kept busy by batches of the right size, so that is looked for first."""
        if self.device.type != "cuda":
            return []
        self.tell(f"{subject.name}: batch sizes")
        precision = "bfloat16" if has_fast_bfloat16(self.device) else "float32"
        ways = [
            way for way in WAYS if (way.pipeline, way.backend, way.precision) == ("card", "torch", precision)
        ]
        return rates_by_batch(subject, ways, self.device, max(_BATCH_ROUNDS, self.rounds), floors)

    def _results(self, subject: Subject, ways: Ways, floors: Mapping[str, float]) -> list[WayResult]:
        plain = PlainProcedure(subject.net, self.device)
        works: dict[str, Callable[[Volume], Labels]] = {PLAIN: plain.predict}
        works |= {name: ready.predictor.predict for name, ready in ways.ready.items()}
        peaks = PeakMemory(self.device)
        self.tell(f"{subject.name}: warming up")
        for name, segment in works.items():
            # A batch and the volume's last, shorter one: whatever is slower the first time.
            batch = ways.ready[name].predictor.batch_size if name in ways.ready else 1
            few = min(len(self.volume.data), batch + len(self.volume.data) % batch)
            segment(middle_slices(self.volume, few))
        timings = interleaved(
            {name: partial(segment, self.volume) for name, segment in works.items()},
            self.rounds,
            self.device,
            lambda number, name: self.tell(f"{subject.name}: {name}, round {number} of {self.rounds}"),
            peaks.watch,
        )
        return [
            self._result(name, timings, peaks[name], ways.ready.get(name), subject, floors) for name in works
        ]

    def _result(
        self,
        name: str,
        timings: Timings[Labels],
        peak_mb: float,
        ready: ReadyWay | None,
        subject: Subject,
        floors: Mapping[str, float],
    ) -> WayResult:
        slices = self.volume.data.shape[ready.predictor.slice_axis(self.volume) if ready else 0]
        seconds = timings.spread(name)
        slice_s = Spread(seconds.median / slices, seconds.least / slices, seconds.most / slices)
        precision = ready.way.precision if ready else "float32"
        floor = floors.get(precision)
        reference = ready.way.reference if ready else None
        return WayResult(
            way=name,
            backend=ready.way.backend if ready else "torch",
            precision=precision,
            batch_size=ready.predictor.batch_size if ready else 1,
            volume_s=seconds,
            slice_s=slice_s,
            ratio=timings.ratios(name, PLAIN),
            agreement=(
                agreement(timings.answers[name], timings.answers[reference], reference, subject.organs)
                if reference is not None and reference in timings.answers
                else None
            ),
            prepare_s=ready.prepare_s if ready else None,
            first_slice_s=ready.first_slice_s if ready else None,
            next_first_slice_s=ready.next_first_slice_s if ready else None,
            peak_mb=peak_mb,
            floor_slice_s=floor,
            share_of_rate=None if floor is None else floor / slice_s.median,
        )

    def _with_the_rest(
        self, report: NetworkReport, subject: Subject, ways: Ways, floors: Mapping[str, float]
    ) -> NetworkReport:
        """What takes long: the network alone against batch size, time against slices, where the time goes."""
        medians = {
            result.way: result.slice_s.median
            for result in report.ways
            if result.way in ways.ready and ways.ready[result.way].way.pipeline == "card"
        }
        if not medians:
            return report
        fastest = ways.ready[min(medians, key=lambda name: medians[name])]
        in_torch = [name for name in medians if ways.ready[name].way.backend == "torch"]
        ranges = ranges_for(subject, self.volume) if fastest.way.precision == "int8" else None
        self.tell(f"{subject.name}: where the time goes")
        profile = where_time_goes(
            subject,
            fastest,
            ways.ready[min(in_torch, key=lambda name: medians[name])] if in_torch else None,
            self.volume,
            medians[fastest.way.name],
            ranges,
        )
        batches = report.batches
        if not batches:
            self.tell(f"{subject.name}: batch sizes")
            ranges = ranges or (ranges_for(subject, self.volume) if _in_8_bits(ways) else None)
            shown = [ways.ready[name].way for name in medians]
            rounds = max(_BATCH_ROUNDS, self.rounds)
            batches = rates_by_batch(
                subject,
                shown,
                self.device,
                rounds,
                floors,
                ranges=ranges,
                sizes=_QUICK_BATCHES if self.quick else None,
            )
        self.tell(f"{subject.name}: time against slices")
        side = min(_SMALL_SIDE, *self.volume.data.shape[1:])
        scaling = time_against_slices(
            fastest, central_part(self.volume, side), self.rounds, _QUICK_LENGTHS if self.quick else LENGTHS
        )
        return replace(report, batches=batches, scaling=scaling, profile=profile)


def _in_8_bits(ways: Ways) -> bool:
    return any(ready.way.precision == "int8" for ready in ways.ready.values())


def _tell_nobody(_what: str) -> None:
    """Nobody asked."""
