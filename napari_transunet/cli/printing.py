"""Results on stdout: tables for people, strict JSON for programs."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from napari_transunet.cli.reporting import one_line

_WIDE = 200  # characters


def number(value: float) -> str:
    """A score for a table: three decimals, a dash for NaN."""
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3f}"


def strict(value: Any) -> Any:
    """The value with what JSON cannot say replaced: NaN by null, infinity by "inf"."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(key): strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    return value


def print_json(value: Any) -> None:
    """JSON that every parser reads, plain ASCII."""
    typer.echo(json.dumps(strict(value), indent=2, allow_nan=False, default=str))


def print_table(table: Table) -> None:
    """A table; in a pipe or a file it is as wide as it needs to be. Brackets and colons in names are no markup."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    console.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    table = Table(show_header=False)
    for key, value in facts.items():
        text = (
            json.dumps(strict(value), ensure_ascii=False, default=str)
            if isinstance(value, Mapping)
            else value
        )
        table.add_row(key.replace("_", " "), Text(one_line("–" if text is None else text)))
    print_table(table)


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for one thing; call what this gives with how much is done, and of how much."""
    with progress_bar() as bar:
        task = bar.add_task(one_line(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def progress_bar(*, wanted: bool = True) -> Progress:
    """A bar with an ETA on stderr, which goes when it is done; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (wanted and console.is_terminal),
    )
