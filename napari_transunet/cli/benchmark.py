"""The command `benchmark`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from napari_transunet.cli.options import JsonOption, OverwriteOption, check_target, image_size, read
from napari_transunet.cli.printing import print_json, print_table, progress_bar, strict
from napari_transunet.cli.reporting import one_line, say
from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_transunet.benchmarking.report import NetworkReport, Report, Scaling, WayResult
    from napari_transunet.benchmarking.subjects import Subject
    from napari_transunet.benchmarking.timing import Spread
    from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

_PHANTOM, _QUICK_PHANTOM = (48, 512, 512), (8, 128, 128)
_QUICK_SLICES = 7  # one batch of the shipped checkpoint
_ROUNDS = 3
_SIZE, _QUICK_SIZE = 224, 64  # of networks with random weights
_BUSY = 0.5  # of a processor: with more at work, times are not to be trusted
_SHOWN_WORST = 100  # voxels: an organ of fewer is told as small


def benchmark(
    volume: Annotated[
        Path | None,
        typer.Argument(
            metavar="[VOLUME]", help="A CT to segment: a file or a DICOM folder; a computed one without it."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            "-c",
            metavar="NAME|PATH",
            help="A checkpoint's name or file; the shipped one for abdominal CT without it.",
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="NAME",
            help="Also this network, with random weights. May be given repeatedly.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:N|mps")] = "auto",
    img_size: Annotated[
        str | None,
        typer.Option(
            "--img-size",
            metavar="N|HxW",
            help="Pixels of the networks' input; by default the checkpoint's own, and 224 for random weights.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", min=1, help="How often everything runs; 3 by default."),
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(
            "--slices", metavar="N", min=1, help="Segment so many slices in the middle; 48 by default."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small volume, once: whether it runs, not how fast.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Also the network alone against batch size, time against slices up to 1,000, and a profile "
            "(ten minutes and more on a laptop).",
        ),
    ] = False,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the JSON to this file too.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FOLDER", help="Draw two plots (SVG) into this folder; implies --full."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure how fast volumes are segmented here, beside the plain procedure of the TransUNet paper.

    Every way that is possible on this machine segments the same slices in the same process, in turn, round by round;
    a ratio is of two times of one round, told as median (least to most). "Of rate" compares with what the network's
    operations alone would take at the rate at which this machine multiplies matrices.
    """
    from napari_transunet.benchmarking.plots import BATCH_PLOT, TIME_PLOT, write_plots
    from napari_transunet.benchmarking.running import run_benchmark
    from napari_transunet.segmentation.devices import resolve_device

    resolve_device(device)
    size = image_size(img_size)
    if out is not None:
        check_target(out, overwrite=overwrite)
    if plot is not None:
        if plot.exists() and not plot.is_dir():
            raise InputError(f"{plot} is a file, but the plots need a folder; give another name.")
        plot.mkdir(parents=True, exist_ok=True)
        for name in (TIME_PLOT, BATCH_PLOT):
            check_target(plot / name, overwrite=overwrite)
    with _progress() as tell:
        tell("loading")
        subjects = _subjects(checkpoint, variant or [], size, quick=quick)
        scan, reading_s = _volume(volume, slices, quick=quick)
        report = run_benchmark(
            subjects,
            scan,
            device=device,
            rounds=rounds or (1 if quick else _ROUNDS),
            quick=quick,
            full=full or plot is not None,
            reading_s=reading_s,
            progress=tell,
        )
    if out is not None:
        _write(report, out, overwrite=overwrite)
    if plot is not None:
        for path in write_plots(report, plot, overwrite=overwrite):
            say(f"Drawn: {path}")
    if as_json:
        print_json(report.to_dict())
    else:
        _print(report)


def _subjects(
    checkpoint: str | None, variants: Sequence[str], size: tuple[int, int] | None, *, quick: bool
) -> list[Subject]:
    from napari_transunet.benchmarking.subjects import Subject
    from napari_transunet.checkpoints.catalogue import default_checkpoint, resolve_checkpoint

    path = default_checkpoint() if checkpoint is None else resolve_checkpoint(checkpoint)
    random = [Subject.random(name, size or (_QUICK_SIZE if quick else _SIZE)) for name in variants]
    if path is not None:
        return [Subject.from_checkpoint(path, size), *random]
    if not random:
        raise InputError(
            "No checkpoint came with this installation; name one with --checkpoint, or a --variant."
        )
    return random


def _volume(path: Path | None, slices: int | None, *, quick: bool) -> tuple[Volume, float | None]:
    """What to segment, and the seconds that reading it took."""
    from napari_transunet.benchmarking.subjects import middle_slices
    from napari_transunet.volumes.phantom import synthetic_ct

    if path is None:
        depth, *plane = _QUICK_PHANTOM if quick else _PHANTOM
        shape = (max(depth, slices or 0), plane[0], plane[1])
        made, _, _ = synthetic_ct(shape)
        return middle_slices(made, slices or (_QUICK_SLICES if quick else depth)), None
    started = time.perf_counter()
    scan = read(path)
    seconds = time.perf_counter() - started
    return middle_slices(scan, slices or (_QUICK_SLICES if quick else _PHANTOM[0])), seconds


def _write(report: Report, out: Path, *, overwrite: bool) -> None:
    from napari_transunet.files import atomic_path

    with atomic_path(out, overwrite=overwrite) as partial:
        partial.write_text(json.dumps(strict(report.to_dict()), indent=2, allow_nan=False) + "\n")


def _print(report: Report) -> None:
    conditions = report.conditions
    z, y, x = conditions.shape
    for network in report.networks:
        height, width = network.img_size
        title = (
            f"{network.name} ({network.variant}, {'trained' if network.trained else 'random weights'}), "
            f"network at {width}×{height}; {conditions.volume}, {x}×{y}×{z}, on {conditions.device}"
        )
        print_table(_ways_table(network, one_line(title)))
        for line in _below(network):
            typer.echo(one_line(line))
        if network.batches:
            print_table(_batches_table(network))
        if network.scaling is not None:
            print_table(_scaling_table(network))
            typer.echo(one_line(_line_found(network.scaling)))
        if network.profile is not None:
            print_table(_profile_table(network))
        typer.echo()
    for line in _foot(report):
        typer.echo(one_line(line))


def _ways_table(network: NetworkReport, title: str) -> Table:
    table = Table(title=Text(title))
    table.add_column("way", no_wrap=True)
    for heading in (
        "s/slice",
        "× plain",
        "labels alike",
        "worst Dice",
        "prepare",
        "first slice",
        "next time",
        "memory",
        "of rate",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in network.ways:
        table.add_row(
            result.way,
            f"{result.slice_s.median:.4f}",
            _ratio(result.ratio),
            "–" if result.agreement is None else f"{result.agreement.equal:.3%}",
            _worst(result),
            _seconds(result.prepare_s),
            _seconds(result.first_slice_s),
            _seconds(result.next_first_slice_s),
            f"{result.peak_mb:,.0f} MB",
            "–" if result.share_of_rate is None else f"{result.share_of_rate:.0%}",
        )
    return table


def _ratio(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.least:.2f}–{ratio.most:.2f})"


def _worst(result: WayResult) -> str:
    found = result.agreement
    if found is None or found.worst_dice is None:
        return "–"
    small = f", {found.worst_voxels} voxels" if (found.worst_voxels or 0) < _SHOWN_WORST else ""
    return one_line(f"{found.worst_dice:.4f} {found.worst_organ}{small}")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _below(network: NetworkReport) -> Iterator[str]:
    """What belongs to one network's table."""
    floors = {result.precision: result.floor_slice_s for result in network.ways}
    told = ", ".join(
        f"{precision} {seconds:.4f} s" for precision, seconds in floors.items() if seconds is not None
    )
    loaded = "" if network.load_s is None else f"; loaded in {network.load_s:.2f} s"
    yield (
        f"{network.giga_operations:.2f} GFLOP a slice, {network.parameters / 1e6:.1f} million parameters{loaded}. "
        f"Least time a slice at the matrix rate: {told or 'unknown'}."
    )
    references = {result.agreement.reference for result in network.ways if result.agreement is not None}
    if references:
        yield 'Labels are compared: "paper" with the plain procedure, the others with the card\'s float32 in PyTorch.'
    if references and not network.trained:
        yield "Weights are random, so how far labels agree says little here."
    for left_out in network.left_out:
        yield f"Left out: {left_out.way}: {left_out.reason}"


def _batches_table(network: NetworkReport) -> Table:
    table = Table(title=Text(f"{network.name}: the network alone"))
    table.add_column("way", no_wrap=True)
    for heading in ("slices a batch", "slices/s", "of rate"):
        table.add_column(heading, justify="right", no_wrap=True)
    for rate in sorted(network.batches, key=lambda rate: rate.way):
        share = "–" if rate.share_of_rate is None else f"{rate.share_of_rate:.0%}"
        table.add_row(rate.way, str(rate.batch_size), f"{rate.slices_per_s:.2f}", share)
    return table


def _scaling_table(network: NetworkReport) -> Table:
    scaling = network.scaling
    assert scaling is not None
    rows, columns = scaling.shape
    table = Table(title=Text(f"{network.name}: slices of {columns}×{rows}"))
    for heading in ("slices", "seconds", "memory", "of it labels"):
        table.add_column(heading, justify="right", no_wrap=True)
    for found in scaling.times:
        spread = found.volume_s
        table.add_row(
            f"{found.slices:,}",
            f"{spread.median:.2f} ({spread.least:.2f}–{spread.most:.2f})",
            f"{found.peak_mb:,.0f} MB",
            f"{found.labels_mb:,.0f} MB",
        )
    return table


def _line_found(scaling: Scaling) -> str:
    return (
        f"{scaling.way}: {scaling.slice_s:.4f} s a slice and {scaling.start_s:.2f} s to start; "
        f"the medians are off this line by {scaling.residual:.1%} at most. "
        f"In the longest volume a batch of the last fifth takes {scaling.late_over_early:.3f} times one of the first."
    )


def _profile_table(network: NetworkReport) -> Table:
    profile = network.profile
    assert profile is not None
    table = Table(title=Text(f"{network.name}: where the time goes"))
    table.add_column("way", no_wrap=True)
    table.add_column("part", no_wrap=True)
    table.add_column("ms a slice", justify="right", no_wrap=True)
    for step in profile.steps:
        table.add_row(profile.way, step.name, f"{1000 * step.slice_s:.2f}")
    table.add_section()
    for operator in profile.operators:
        table.add_row(profile.operators_of, operator.name, f"{1000 * operator.slice_s:.2f}")
    return table


def _foot(report: Report) -> Iterator[str]:
    machine, conditions = report.machine, report.conditions
    yield (
        f"{machine.processor} ({machine.instructions}), {machine.threads} threads computing, "
        f"{machine.memory_gb:g} GB; {'; '.join(machine.devices[:-1]) or 'no GPU'}; {machine.system}."
    )
    yield ", ".join(f"{name} {version}" for name, version in machine.versions.items()) + "."
    rates = ", ".join(f"{rate.precision} {rate.tera_per_s:.2f}" for rate in report.matrix_rates)
    yield f"Matrix rate of {conditions.device}, in 10¹² operations a second: {rates or 'unknown'}."
    reading = "" if conditions.reading_s is None else f"; the volume was read in {conditions.reading_s:.2f} s"
    yield (
        f"{conditions.rounds} round{'s' if conditions.rounds > 1 else ''}; {conditions.slices_of_one_value} slices "
        f"of one value, which only the plain procedure computes each{reading}. Memory is the rise at its highest."
    )
    if machine.load is not None and machine.load > _BUSY:
        yield f"The machine was busy before (load {machine.load:.1f}), so single times may be long; trust the ratios."


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr where that is a terminal; in the log everywhere."""
    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def tell(what: str) -> None:
            logger.info("%s", what)
            bar.update(task, description=one_line(what))

        yield tell
