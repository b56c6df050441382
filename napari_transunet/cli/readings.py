"""The commands under `project` that are about several people's work on a case: blind readings, and who approves."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from napari_transunet.cli.options import (
    AnnotatorOption,
    CaseArgument,
    FolderArgument,
    JsonOption,
    OverwriteOption,
    open_project,
    option,
)
from napari_transunet.cli.printing import number, print_json, print_table
from napari_transunet.cli.reporting import one_line, say

app = typer.Typer()


@app.command()
def readers(
    folder: FolderArgument,
    case: CaseArgument,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="The annotators who read the case blind.")
    ],
    annotator: AnnotatorOption = None,
) -> None:
    """Assign a case to several annotators, none of whom sees the others' labels."""
    from napari_transunet.project.agreement import give_to_readers

    for reading in give_to_readers(open_project(folder), case, names, annotator):
        typer.echo(one_line(reading.id))


@app.command()
def agree(
    folder: FolderArgument,
    case: CaseArgument,
    tolerance: Annotated[float, option("MM", "The surface distance tolerated by NSD.", min=0)] = 2.0,
    maps: Annotated[
        Path | None,
        option("FILE", "Also write a map of where the first two readers differ, as labels.", "--map"),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show how well the readers of a case agree, organ by organ."""
    from napari_transunet.project.agreement import agreement

    project = open_project(folder)
    read = project.case(case)
    pairs = agreement(project, read, tolerance_mm=tolerance)
    if maps is not None:
        from napari_transunet.io.writing import write_labels
        from napari_transunet.metrics.difference_map import KINDS
        from napari_transunet.project.scans import read_scan

        volume = read_scan(read.scan, project.folder)
        write_labels(maps, pairs[0].map, volume, names=dict(KINDS), overwrite=overwrite)
    if as_json:
        print_json(
            [
                {
                    "readers": [pair.first, pair.second],
                    "organs": pair.scores,
                    "worst_slices": [{"slice": at, "mm2": mm2} for at, mm2 in pair.worst_slices],
                }
                for pair in pairs
            ]
        )
        return
    table = Table()
    for title in ("readers", "organ", "Dice", f"NSD at {tolerance:g} mm", "HD95 mm"):
        table.add_column(title)
    for pair in pairs:
        for organ, score in pair.scores.items():
            table.add_row(
                one_line(f"{pair.first}, {pair.second}"),
                one_line(organ),
                *(number(score[name]) for name in ("dice", "nsd", "hd95")),
            )
    print_table(table)


@app.command()
def consensus(
    folder: FolderArgument,
    case: CaseArgument,
    method: Annotated[Literal["staple", "majority"], option(None, "How readings are combined.")] = "staple",
    annotator: AnnotatorOption = None,
) -> None:
    """Combine the readings of a case into new labels, for a third person to review."""
    from napari_transunet.project.agreement import consensus as made

    found = made(open_project(folder), case, method, annotator)
    say(f"{found.name} starts from the {found.run.name if found.run is not None else method}.")


@app.command(name="sign-off")
def sign_off(
    folder: FolderArgument,
    case: CaseArgument,
    note: Annotated[str, option("TEXT", "A remark, stored with the case.")] = "",
    annotator: AnnotatorOption = None,
) -> None:
    """Approve the labels of a case; its status becomes done."""
    from napari_transunet.project.agreement import sign_off as approved

    found = approved(open_project(folder), case, note, annotator)
    say(f"{found.name} is done.")


@app.command()
def reopen(folder: FolderArgument, case: CaseArgument, annotator: AnnotatorOption = None) -> None:
    """Withdraw the approval of a case."""
    from napari_transunet.project.agreement import reopen as opened

    found = opened(open_project(folder), case, annotator)
    say(f"{found.name} is {found.status}.")
