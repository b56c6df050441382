"""Two plots of a study as SVG: time against slices, and throughput against batch size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.inference.study import ModelStudy

TIME_PLOT, BATCH_PLOT = "time-against-slices.svg", "throughput-against-batch.svg"


def write_plots(studies: Sequence[ModelStudy], folder: Path) -> list[Path]:
    """Write the plots that there are numbers for; files of the same name are replaced."""
    times = {
        f"{study.name}: {study.scaling.config}": [
            (one.slices, one.volume_s.median) for one in study.scaling.times
        ]
        for study in studies
        if study.scaling is not None
    }
    rates: dict[str, list[tuple[int, float]]] = {}
    for study in studies:
        for rate in study.batches:
            rates.setdefault(f"{study.name}: {rate.config}", []).append((rate.batch_size, rate.slices_per_s))
    written = []
    if times:
        written.append(_plot(folder / TIME_PLOT, times, "slices", "seconds"))
    if rates:
        written.append(_plot(folder / BATCH_PLOT, rates, "slices a batch", "slices a second", doubling=True))
    return written


def _plot(
    path: Path,
    lines: Mapping[str, Sequence[tuple[int, float]]],
    x_label: str,
    y_label: str,
    *,
    doubling: bool = False,
) -> Path:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_ylim(bottom=0)
    if doubling:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.grid(visible=True, color="#dddddd")
    figure.legend(loc="outside right upper", fontsize="small")
    with rc_context({"svg.fonttype": "none"}):  # text, not outlines: small, and in the reader's own font
        figure.savefig(path, metadata={"Date": None})
    return path
