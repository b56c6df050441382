"""Two plots of a report as SVG: time against slices, and throughput against batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from napari_transunet.files import atomic_path

if TYPE_CHECKING:
    from napari_transunet.benchmarking.report import Report

TIME_PLOT, BATCH_PLOT = "time-against-slices.svg", "throughput-against-batch.svg"

_WIDTH, _HEIGHT = 760, 440  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 250, 40, 50
# Okabe and Ito's colours, which those who see fewer colours tell apart too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_INK, _GRID = "#333333", "#dddddd"

Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """Points over two axes that both begin at 0, or over a first axis that doubles.

    Attributes
    ----------
    lines : name -> points, in ascending order of x
    doubling : whether x is drawn by its logarithm, each power of two a tick
    """

    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[Point]]
    doubling: bool = False

    def svg(self) -> str:
        """The drawing. It needs no font but the reader's own, on a white ground."""
        points = [point for line in self.lines.values() for point in line]
        y_ticks = ticks(max((y for _, y in points), default=1.0))
        if self.doubling:
            ends = [round(math.log2(x)) for x, _ in points] or [0]
            x_ticks = [float(2**power) for power in range(min(ends), max(ends) + 1)]
            left, right = math.log2(x_ticks[0]), max(math.log2(x_ticks[-1]), math.log2(x_ticks[0]) + 1)
        else:
            x_ticks = ticks(max((x for x, _ in points), default=1.0))
            left, right = 0.0, x_ticks[-1]

        def across(x: float) -> float:
            place = math.log2(x) if self.doubling else x
            return _LEFT + (place - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)

        def up(y: float) -> float:
            return _HEIGHT - _BOTTOM - y / y_ticks[-1] * (_HEIGHT - _TOP - _BOTTOM)

        parts = [_text(_LEFT, 22, self.title, size=15)]
        for x in x_ticks:
            parts.append(_line((across(x), up(0)), (across(x), up(y_ticks[-1])), _GRID))
            parts.append(_text(across(x), _HEIGHT - _BOTTOM + 18, f"{x:g}", anchor="middle"))
        for y in y_ticks:
            parts.append(_line((_LEFT, up(y)), (_WIDTH - _RIGHT, up(y)), _GRID))
            parts.append(_text(_LEFT - 8, up(y) + 4, f"{y:g}", anchor="end"))
        parts.append(_line((_LEFT, up(0)), (_WIDTH - _RIGHT, up(0)), _INK))
        parts.append(_line((_LEFT, up(0)), (_LEFT, up(y_ticks[-1])), _INK))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(_text(middle, _HEIGHT - 12, self.x_label, anchor="middle"))
        parts.append(
            f'<g transform="translate(18 {_HEIGHT / 2}) rotate(-90)">{_text(0, 0, self.y_label, anchor="middle")}</g>'
        )
        for number, (name, line) in enumerate(self.lines.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            dashes = ' stroke-dasharray="6 4"' if number >= len(_COLOURS) else ""
            way = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
            parts.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
            parts += [
                f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in line
            ]
            height = _TOP + 8 + 34 * number
            start = _WIDTH - _RIGHT + 14
            parts.append(_line((start, height), (start + 20, height), colour, width=2))
            parts += [
                _text(start + 26, height + 4 + 14 * row, text, size=11)
                for row, text in enumerate(name.split(": "))
            ]
        height = max(_HEIGHT, _TOP + 34 * len(self.lines) + 10)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'height="{height}" font-family="sans-serif">\n<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )


def plots_of(report: Report) -> dict[str, Plot]:
    """The plots that the report has numbers for, by file name."""
    times = {
        f"{network.name}: {network.scaling.way}": [
            (float(time.slices), time.volume_s.median) for time in network.scaling.times
        ]
        for network in report.networks
        if network.scaling is not None
    }
    rates: dict[str, list[Point]] = {}
    for network in report.networks:
        for rate in network.batches:
            rates.setdefault(f"{network.name}: {rate.way.removeprefix('card, ')}", []).append(
                (float(rate.batch_size), rate.slices_per_s)
            )
    found = {}
    if times:
        found[TIME_PLOT] = Plot("Time against slices", "slices", "seconds", times)
    if rates:
        found[BATCH_PLOT] = Plot(
            "The network alone, against batch size", "slices a batch", "slices a second", rates, doubling=True
        )
    return found


def write_plots(report: Report, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the report's plots into a folder that is there.

    Raises
    ------
    ExistsError
        There is such a file and `overwrite` is off.
    FileProblem
        It cannot be written.
    """
    written = []
    for name, plot in plots_of(report).items():
        with atomic_path(folder / name, overwrite=overwrite) as partial:
            partial.write_text(plot.svg(), encoding="utf-8")
        written.append(folder / name)
    return written


def ticks(highest: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to `highest` or just above it."""
    if not (math.isfinite(highest) and highest > 0):
        return [0.0, 1.0]
    rough = highest / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (unit, 2 * unit, 5 * unit, 10 * unit) if step >= rough * 0.999)
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{_INK}">'
        f"{escape(text)}</text>"
    )


def _line(start: Point, end: Point, colour: str, *, width: float = 1) -> str:
    (x1, y1), (x2, y2) = start, end
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )
