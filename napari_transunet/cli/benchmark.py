"""The command `benchmark`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from napari_transunet.cli.options import DeviceOption, JsonOption, option, read
from napari_transunet.cli.printing import print_json, print_table, progress_bar
from napari_transunet.cli.reporting import one_line
from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from napari_transunet.benchmark import BenchmarkReport, ModelResult

_BUSY = 0.5  # busy processes before the start: with more, single times are not to be trusted


def benchmark(
    volume: Annotated[
        Path | None,
        typer.Argument(
            metavar="[VOLUME]", help="A CT to segment: a file or a DICOM folder. Default: a synthetic one."
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        option(
            "NAME|PATH",
            "A checkpoint's name or file. Default: the shipped one for abdominal CT.",
            "--checkpoint",
            "-c",
        ),
    ] = None,
    device: DeviceOption = "auto",
    rounds: Annotated[int, option("N", "How many times to run each configuration.", min=1)] = 3,
    slices: Annotated[int, option("N", "How many slices to segment, from the middle.", min=1)] = 48,
    as_json: JsonOption = False,
) -> None:
    """Measure the speed of segmentation on this machine, relative to the published inference code.

    Every configuration available on this machine segments the same slices in one process, in turn, for several
    rounds. A speed-up compares two times of the same round; it is shown as median (minimum–maximum).
    """
    from napari_transunet.benchmark import ModelUnderTest, middle_slices, run_benchmark
    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.checkpoints.registry import default_checkpoint, resolve_checkpoint
    from napari_transunet.inference.devices import resolve_device
    from napari_transunet.volumes.phantom import synthetic_ct

    where = resolve_device(device)
    path = default_checkpoint() if checkpoint is None else resolve_checkpoint(checkpoint)
    if path is None:
        raise InputError("No checkpoint is included in this installation; name one with --checkpoint.")
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        model = load_checkpoint(path)
        scan = read(volume) if volume else synthetic_ct((max(8, slices), 512, 512))[0]
        report = run_benchmark(
            [ModelUnderTest(model.name, model)],
            middle_slices(scan, slices),
            where,
            rounds=rounds,
            report=lambda what: bar.update(task, description=one_line(what)),
        )
    if as_json:
        print_json(asdict(report))
    else:
        print_report(report)


def print_report(report: BenchmarkReport) -> None:
    """The report as tables on stdout."""
    for model in report.models:
        print_table(_table(model, report))
        for config, reason in model.skipped.items():
            typer.echo(one_line(f"Not available here: {config}: {reason}"))
        typer.echo()
    for line in _about(report):
        typer.echo(one_line(line))


def _table(model: ModelResult, report: BenchmarkReport) -> Table:
    z, y, x = report.shape
    height, width = model.img_size
    title = (
        f"{model.name} ({model.variant}, {'trained' if model.trained else 'random weights'}), network at "
        f"{width}×{height}; {report.volume}, {x}×{y}×{z}, on {report.device}"
    )
    table = Table(title=Text(one_line(title)))
    table.add_column("configuration", no_wrap=True)
    for heading in ("slices/s", "speed-up", "equal labels", "prepare", "first slice"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in model.configs:
        ratio = result.speedup
        table.add_row(
            result.config,
            f"{result.slices_per_s:.2f}",
            f"{ratio.median:.2f} ({ratio.least:.2f}–{ratio.most:.2f})",
            "–" if result.equal_labels is None else f"{result.equal_labels:.3%}",
            "–" if result.prepare_s is None else f"{result.prepare_s:.2f} s",
            "–" if result.first_slice_s is None else f"{result.first_slice_s:.2f} s",
        )
    return table


def _about(report: BenchmarkReport) -> Iterator[str]:
    machine = report.machine
    yield (
        'Labels of "paper" are compared with the reference implementation, all others with "card" in PyTorch and '
        "float32."
    )
    yield (
        f"{machine['processor']} ({machine['instructions']}), {machine['threads']} threads, "
        f"{machine['memory_gb']:g} GB; {'; '.join(machine['devices'][:-1]) or 'no GPU'}; {machine['system']}."
    )
    yield ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version) + "."
    if (machine["load"] or 0) > _BUSY:
        yield f"The machine was busy at the start (load {machine['load']:.1f}): rely on ratios, not on single times."
