"""The command `segment` with `--scheduler`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_transunet.checkpoints.info import CheckpointInfo
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.cli.cluster import check_table, cluster, run_units, tell_end, write_table
from napari_transunet.cli.reporting import end, say
from napari_transunet.cluster.address import ConnectionLost
from napari_transunet.cluster.batch import Finished, State
from napari_transunet.cluster.checkpoints import CheckpointReference, reference_to, shipped_references
from napari_transunet.cluster.segmenting import (
    SegmentationPlan,
    SegmentedScan,
    marker_in,
    segmentation_units,
)
from napari_transunet.errors import USERS_ERRORS, CheckpointError, InputError, sentence_of

if TYPE_CHECKING:
    from napari_transunet.cli.cluster import ClusterOptions
    from napari_transunet.export.segmentation import LoadingOptions, ReadingOptions
    from napari_transunet.inference.options import PredictorOptions

_HEADINGS = (
    "scan",
    "labels",
    "state",
    "slices",
    "seconds",
    "checkpoint",
    "device",
    "worker",
    "attempts",
    "message",
)


def segment_on_cluster(
    inputs: Sequence[Path],
    targets: Sequence[Path],
    checkpoint: str | None,
    options: PredictorOptions,
    loading: LoadingOptions,
    reading: ReadingOptions,
    on: ClusterOptions,
    *,
    made: Path | None,
    overwrite: bool,
    table: Path | None,
    report: Path | None,
) -> None:
    """Segment these scans; `made` is the folder of the results where it may have to be made, `table` the CSV file.

    The report is made here, once all scans have ended, of those whose labels are there.
    """
    if checkpoint is not None:  # what is wrong with it is said before workers start
        path = resolve_checkpoint(checkpoint)
        found = CheckpointInfo.from_file(path, target_size=loading.img_size, weights=loading.weights)
        if found.problems:
            raise CheckpointError(found.problems[0])
    if made is not None:
        made.mkdir(parents=True, exist_ok=True)
    folder = targets[0].parent
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} to write to; create it first.")
    if table is not None:
        check_table(table, _HEADINGS, overwrite=overwrite, inputs=[*inputs, *targets])
    finished: list[Finished] = []

    def each(one: Finished) -> None:
        finished.append(one)
        marker.renew()
        if one.state in (State.FAILED, State.SET_ASIDE):
            say(f"Error: {one.unit.name}: {one.message.removeprefix(f'{Path(one.unit.name).name}: ')}")

    interrupted, lost = False, ""
    references = ThreadPoolExecutor(1).submit(_references, checkpoint, loading)  # while workers start
    with cluster(on) as client, marker_in(folder) as marker:
        plan = SegmentationPlan(references.result(), options, loading, reading, overwrite, marker)
        units = segmentation_units(inputs, targets, plan)
        try:
            interrupted = run_units(client, on, units, len(inputs), each=each)
        except ConnectionLost as error:
            lost = str(error)
    if table is not None:
        write_table(table, [_row(one) for one in finished], _HEADINGS)
    tell_end(finished, len(inputs), "scan")
    if lost:
        raise ConnectionLost(lost)
    done = [one for one in finished if one.state in (State.DONE, State.SKIPPED)]
    if report is not None and not interrupted:
        _report(report, done, reading, overwrite=overwrite)
    end(stopped=interrupted, failed=len(done) < len(finished))


def _report(report: Path, done: Sequence[Finished], reading: ReadingOptions, *, overwrite: bool) -> None:
    """The report of these scans and their labels, by name since they ended in no order."""
    from napari_transunet.cli.segment import report_scans
    from napari_transunet.io.reading import read_volume
    from napari_transunet.project.report import reported_file

    cases = []
    for one in sorted(done, key=lambda one: one.unit.name):
        try:
            volume = read_volume(
                one.unit.name, series=reading.series, channel=reading.channel, time=reading.time_point
            )
            cases.append(reported_file(volume, Path(one.result.target)))
        except USERS_ERRORS as error:
            say(f"Error: {one.unit.name} is not in the report: {sentence_of(error)}")
    if cases:
        report_scans(report, cases, overwrite=overwrite)


def _references(checkpoint: str | None, loading: LoadingOptions) -> tuple[CheckpointReference, ...]:
    """The checkpoint that was asked for, else all that may be chosen unasked."""
    if checkpoint is None:
        found = tuple(shipped_references())
        if not found:
            raise InputError("No checkpoint is included in this installation; name one with --checkpoint.")
        return found
    reference, loaded = reference_to(checkpoint, loading)
    for note in loaded.notes:
        say(f"Note: {note}")
    return (reference,)


def _row(one: Finished) -> tuple[Any, ...]:
    told = one.result if isinstance(one.result, SegmentedScan) else SegmentedScan("")
    return (
        one.unit.name,
        told.target,
        str(one.state),
        told.slices or "",
        f"{told.seconds:.2f}" if told.slices else "",
        told.checkpoint,
        told.device,
        one.worker,
        one.attempts,
        one.message,
    )
