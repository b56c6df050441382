"""The command `evaluate`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from napari_transunet.cli.options import JsonOption, OverwriteOption, check_target, read
from napari_transunet.cli.printing import number, print_json, print_table
from napari_transunet.cli.reporting import one_line, say
from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from napari_transunet.volumes.volume import Volume


def evaluate(
    prediction: Annotated[Path, typer.Argument(metavar="PREDICTION", help="A label file.")],
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="The label file to score it against.")
    ],
    tolerance: Annotated[
        float, typer.Option("--tolerance", metavar="MM", help="Surface distance that counts as right in NSD.")
    ] = 2.0,
    as_json: JsonOption = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="F", help="Write the table to this file too.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Score labels against a reference: Dice, surface distances in mm, volumes in mL.

    A label absent from both is left out of the mean; absent from one it has Dice 0 and infinite distances (in JSON:
    null and "inf").
    """
    from napari_transunet.annotation.comparing import METRICS, mean_scores
    from napari_transunet.annotation.comparing import evaluate as score

    if csv_file is not None:
        check_target(csv_file, overwrite=overwrite)
    first = read(prediction)
    second = read(reference)
    if not first.geometry.matches(second.geometry):
        raise InputError(
            f"{prediction} and {reference} do not lie on the same grid (shape {first.geometry.shape} and "
            f"{second.geometry.shape}, spacing {_millimetres(first)} and "
            f"{_millimetres(second)} mm, or another position); resample one of them first."
        )
    scores = score(first.data, second.data, spacing=first.geometry.spacing, tolerance_mm=tolerance)
    names = (first.labels.names if first.labels else {}) | (second.labels.names if second.labels else {})
    _note_other_names(first, second)
    means = mean_scores(scores)
    if csv_file is not None:
        _write_csv(csv_file, scores, names, METRICS, overwrite=overwrite)
    if as_json:
        print_json(
            {
                "prediction": str(prediction),
                "reference": str(reference),
                "spacing_mm": list(first.geometry.spacing),
                "tolerance_mm": tolerance,
                "labels": {str(value): {"name": names.get(value), **of} for value, of in scores.items()},
                "mean": means,
            }
        )
        return
    table = Table("Label", "Name")
    for heading in (
        "Dice",
        "HD95 mm",
        "ASD mm",
        f"NSD {tolerance:g} mm",
        "mL",
        "Ref. mL",
        "Diff. mL",
    ):
        table.add_column(heading, justify="right")
    for value, of in scores.items():
        table.add_row(
            str(value), Text(one_line(names.get(value, ""))), *(number(of[metric]) for metric in METRICS)
        )
    table.add_section()
    table.add_row("", "mean", *(number(means[metric]) for metric in METRICS if metric in means))
    print_table(table)


def _note_other_names(first: Volume, second: Volume) -> None:
    """Labels are compared by value; say so where the files call one value differently."""
    if first.labels is None or second.labels is None:
        return
    others = second.labels.names
    for value, name in first.labels.names.items():
        if value in others and others[value].casefold() != name.casefold():
            say(f"Note: label {value} is {name!r} in the one and {others[value]!r} in the other file.")


def _write_csv(
    path: Path,
    scores: Mapping[int, Mapping[str, float]],
    names: Mapping[int, str],
    metrics: Sequence[str],
    *,
    overwrite: bool,
) -> None:
    from napari_transunet.files import atomic_path

    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["label", "name", *metrics])
        for value, of in scores.items():
            writer.writerow([value, names.get(value, ""), *(of[metric] for metric in metrics)])


def _millimetres(volume: Volume) -> str:
    return " × ".join(f"{size:g}" for size in volume.geometry.spacing)
