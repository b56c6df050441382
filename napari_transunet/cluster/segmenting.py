"""Segmenting scans on a cluster: one scan, what a worker does with it, and what the client does for it."""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from napari_transunet.cluster.answers import Answer, Done, Lacks, PackedLabels, Stopped
from napari_transunet.cluster.batch import Unit
from napari_transunet.cluster.checkpoints import CheckpointReference, SentCheckpoint, cards_of, sent
from napari_transunet.cluster.on_worker import answering, is_cancelled, worker_state
from napari_transunet.errors import ExistsError
from napari_transunet.export.segmentation import (
    LoadingOptions,
    ReadingOptions,
    SegmentedVolume,
    check_no_overlap,
    compared_options,
    made_alike,
    segment_volume,
    unfinished,
    write_segmentation,
)
from napari_transunet.export.source import source_hash
from napari_transunet.files import is_taken
from napari_transunet.inference.compatibility import only_fitting
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.io.reading import read_volume
from napari_transunet.io.sidecar import sidecar_path
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Volume

_MARKER = "shared"


@dataclass(frozen=True)
class Marker:
    """A file that the client made in the folder of the results: a worker that reads `token` in it sees that folder."""

    path: str
    token: str

    def seen(self) -> bool:
        """Whether this machine sees the client's folder."""
        try:
            return Path(self.path).read_text("ascii") == self.token
        except (OSError, ValueError):
            return False

    def renew(self) -> None:
        """Say that the run goes on: what is old is taken for the leftovers of a killed one, and removed."""
        with suppress(OSError):
            os.utime(Path(self.path).parent)


@contextmanager
def marker_in(folder: Path) -> Iterator[Marker]:
    """A marker in this folder, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder.resolve()) as place:
        # Others on a shared file system need not be the same user.
        Path(place).chmod(0o755)
        marker = Marker(str(Path(place) / _MARKER), secrets.token_hex(16))
        Path(marker.path).write_text(marker.token, "ascii")
        yield marker


@dataclass(frozen=True)
class SegmentationPlan:
    """What is the same for all scans of a batch.

    Attributes
    ----------
    checkpoints : the one that was asked for, or those among which a worker chooses the one that fits the scan
    options, loading, reading : how to predict, to load and to read
    overwrite : whether labels that are there, and were made otherwise, are replaced
    marker : tells whether a worker sees the folder of the results
    """

    checkpoints: tuple[CheckpointReference, ...]
    options: PredictorOptions
    loading: LoadingOptions
    reading: ReadingOptions
    overwrite: bool
    marker: Marker

    @property
    def compared(self) -> dict[str, Any]:
        """The options that labels are compared by."""
        return compared_options(self.options, self.loading, self.reading)


@dataclass(frozen=True)
class SegmentationUnit:
    """One scan: where it lies, where its labels go, and how many bytes it has (−1 for a folder)."""

    source: str
    target: str
    size: int


@dataclass(frozen=True, eq=False)
class SentVolume:
    """A scan that was read by the client, with the hash of its source."""

    volume: Volume
    source_sha256: str


@dataclass(frozen=True)
class SegmentedScan:
    """What there is to tell about a segmented scan."""

    target: str
    slices: int = 0
    seconds: float = 0.0
    checkpoint: str = ""
    device: str = ""


@dataclass(frozen=True, eq=False)
class ReturnedLabels:
    """Labels on their way to a client whose folder the worker does not see; `segmented` is without them."""

    segmented: SegmentedVolume
    labels: PackedLabels
    geometry: Geometry
    told: SegmentedScan


def segmentation_units(
    sources: Sequence[Path], targets: Sequence[Path], plan: SegmentationPlan
) -> Iterator[Unit]:
    """A unit for each scan."""

    @lru_cache(maxsize=2)
    def checkpoint(digest: str) -> SentCheckpoint:
        return sent(next(one for one in plan.checkpoints if one.sha256 == digest), plan.loading)

    for source, target in zip(sources, targets, strict=True):
        source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))  # noqa: PTH100, PLW2901
        size = source.stat().st_size if source.is_file() else -1
        unit = SegmentationUnit(str(source), str(target), size)
        yield Unit(
            str(source),
            _key(unit, plan),
            segment_scan,
            (plan, unit),
            files=lambda unit=unit: _read_here(plan, unit),  # type: ignore[misc]
            checkpoint=checkpoint,
            finish=lambda result, unit=unit: _written_here(plan, unit, result),  # type: ignore[misc]
        )


@answering
def segment_scan(plan: SegmentationPlan, unit: SegmentationUnit, given: SentVolume | None = None) -> Answer:
    """What a worker does with one scan; `given` where it does not see the scan itself."""
    cancelled = is_cancelled()
    source, target = Path(unit.source), Path(unit.target)
    writes = plan.marker.seen()
    state = worker_state()
    only = plan.checkpoints[0] if len(plan.checkpoints) == 1 else None

    def lacking() -> Lacks | None:
        """Before a scan is read or sent: for a worker without the checkpoint that would be done twice."""
        if only is None or state.checkpoints.predictor(only, plan.options, plan.loading) is not None:
            return None
        return Lacks("checkpoint", only.sha256)

    if given is None and not (writes and _same_file(source, unit.size)):
        return lacking() or Lacks("files", unit.source)
    digest = source_hash(source) if given is None else given.source_sha256
    if writes:
        if _there(plan, target, digest):
            return Done(SegmentedScan(unit.target), skipped=True)
        _check_free(plan, source, target)
    if (lacks := lacking()) is not None:
        return lacks
    volume = _read(plan, source) if given is None else given.volume
    reference = only or _fitting(plan, volume)
    predictor = state.checkpoints.predictor(reference, plan.options, plan.loading)
    if predictor is None:
        return Lacks("checkpoint", reference.sha256)
    with state.network:
        if cancelled():
            return Stopped()
        made = segment_volume(
            volume, predictor, source_sha256=digest, options=plan.compared, cancelled=cancelled
        )
    where = f"{predictor.device} ({predictor.precision_name})"
    told = SegmentedScan(unit.target, made.slices, made.seconds, reference.name, where)
    if cancelled():
        return Stopped()
    if not writes:
        bare = replace(made, labels=made.labels[:0])
        return Done(ReturnedLabels(bare, PackedLabels.of(made.labels), volume.geometry, told))
    _write(plan, target, made, volume.geometry, digest)
    return Done(told)


def _fitting(plan: SegmentationPlan, volume: Volume) -> CheckpointReference:
    chosen, _ = only_fitting(volume, cards_of(plan.checkpoints))
    return next(one for one in plan.checkpoints if one.name == chosen)


def _same_file(source: Path, size: int) -> bool:
    """Whether the worker sees the scan that the client means, as far as its kind and size tell."""
    return source.is_dir() if size < 0 else source.is_file() and source.stat().st_size == size


def _there(plan: SegmentationPlan, target: Path, digest: str) -> bool:
    hashes = {one.sha256 for one in plan.checkpoints}
    return made_alike(target, source_sha256=digest, checkpoints=hashes, options=plan.compared)


def _check_free(plan: SegmentationPlan, source: Path, target: Path) -> None:
    check_no_overlap(source, target)
    for file in (target, sidecar_path(target)):
        if is_taken(file) and not plan.overwrite and not unfinished(target):
            raise ExistsError(
                f"{file} exists already and was made otherwise, or changed since; choose another folder or say "
                "--overwrite."
            )


def _write(plan: SegmentationPlan, target: Path, made: SegmentedVolume, grid: Geometry, digest: str) -> None:
    try:
        write_segmentation(target, made, grid, overwrite=plan.overwrite)
    except ExistsError:
        if not _there(plan, target, digest):  # somebody else's run came first, with the same labels
            raise


def _read(plan: SegmentationPlan, source: Path) -> Volume:
    reading = plan.reading
    return read_volume(source, series=reading.series, channel=reading.channel, time=reading.time_point)


def _read_here(plan: SegmentationPlan, unit: SegmentationUnit) -> SentVolume | Done:
    """The scan as it travels to a worker that does not see it; or that its labels are there already.

    Raises what reading does, and `ExistsError` where other labels are in the way.
    """
    source, target = Path(unit.source), Path(unit.target)
    digest = source_hash(source)
    if _there(plan, target, digest):
        return Done(SegmentedScan(unit.target), skipped=True)
    _check_free(plan, source, target)
    return SentVolume(_read(plan, source), digest)


def _written_here(plan: SegmentationPlan, unit: SegmentationUnit, result: Any) -> Any:
    """What there is to tell, after labels that came back are written."""
    if not isinstance(result, ReturnedLabels):
        return result
    made = replace(result.segmented, labels=result.labels.unpacked())
    _write(plan, Path(unit.target), made, result.geometry, str(made.provenance.get("source_sha256")))
    return result.told


def _key(unit: SegmentationUnit, plan: SegmentationPlan) -> str:
    """The same for the same work, whichever client asks for it."""
    checkpoints = [one.sha256 for one in plan.checkpoints]
    text = repr((unit, checkpoints, plan.options, plan.loading, plan.reading, plan.overwrite))
    return f"segment-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
