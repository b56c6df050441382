"""The commands under `project`: a study of many scans in one folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from napari_transunet.cli import readings
from napari_transunet.cli.cluster import ClusterOptions, cluster, cluster_options, run_units
from napari_transunet.cli.options import (
    AnnotatorOption,
    CaseArgument,
    DeviceOption,
    FolderArgument,
    JsonOption,
    OverwriteOption,
    grouped,
    listed,
    open_project,
    option,
    predictor_options,
)
from napari_transunet.cli.printing import counting, print_facts, print_json, print_table, progress_bar
from napari_transunet.cli.reporting import INTERRUPTED, counted, end, interruptible, one_line, say
from napari_transunet.errors import InputError
from napari_transunet.inference.options import PredictorOptions

if TYPE_CHECKING:
    from napari_transunet.cluster.batch import Finished
    from napari_transunet.project.case import Case, Status
    from napari_transunet.project.leases import Holder
    from napari_transunet.project.project import Project
    from napari_transunet.project.segmenting import SegmentTask

app = typer.Typer(help="Segment, review and report a study of many scans, kept in one folder.")
app.add_typer(readings.app)  # without a name: its commands are among these

CasesOption = Annotated[
    list[str] | None,
    option(
        "CASE", "Only this case, or all that match a pattern such as 'liver*'; can be repeated.", "--case"
    ),
]
_WIDEST = 60  # letters of a cell
_MANY = 300  # rows of a drawn table
_SHOWN = 20  # scans that were left out, in a message


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the project.")],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SCANS...", help="Files, or folders to search; one case per DICOM series."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        option(
            "NAME|PATH",
            "The checkpoint to segment with; a file is copied. Default: the shipped one that fits each scan.",
            "--checkpoint",
            "-c",
        ),
    ] = None,
    organs: Annotated[str | None, option("NAME,…", "The organs to keep. Default: all.")] = None,
    name: Annotated[str | None, option("NAME", "The study's name.")] = None,
) -> None:
    """Create a project of scans. The scans are only referred to and never changed."""
    from napari_transunet.project.project import Project

    project = Project.create(folder, name=name, checkpoint=checkpoint, organs=listed(organs) or ())
    _add(project, scans or ())
    typer.echo(one_line(project.folder))


@app.command()
def add(
    folder: FolderArgument,
    scans: Annotated[list[Path], typer.Argument(metavar="SCANS...", help="Files, or folders to search.")],
) -> None:
    """Add scans to a project; scans that are already in it are skipped."""
    _add(open_project(folder), scans)


@app.command()
def locate(
    folder: FolderArgument,
    places: Annotated[
        list[Path], typer.Argument(metavar="PLACES...", help="Files or folders where the scans may be now.")
    ],
    annotator: AnnotatorOption = None,
) -> None:
    """Find scans that were moved, by their hashes."""
    found = open_project(folder).locate(places, annotator)
    for case in found:
        say(f"{case.name} is now at {case.scan.absolute}.")
    say(f"{counted(len(found), 'scan')} found.")


@app.command()
@grouped(options=predictor_options, on=cluster_options)
def segment(
    folder: FolderArgument,
    *,
    cases: CasesOption = None,
    checkpoint: Annotated[
        str | None,
        option(
            "NAME|PATH",
            "For these cases, instead of the project's checkpoint; they remember it.",
            "--checkpoint",
            "-c",
        ),
    ] = None,
    options: PredictorOptions,
    annotator: AnnotatorOption = None,
    on: ClusterOptions | None,
) -> None:
    """Segment all cases that this checkpoint and these options have not segmented yet.

    Edited voxels and reviewed slices are kept, and cases that are done or excluded are skipped. You can stop the
    command, run it again, and run it on several computers at once. If a case fails, the others are still segmented, and
    the exit status is 2.
    """
    from napari_transunet.project.segmenting import segment_project

    project = open_project(folder)
    only = None if cases is None else _matching(project, cases)
    if on is not None:
        from napari_transunet.project.segmenting import tasks_due

        tasks = tasks_due(
            project, options=options, annotator=annotator or "", only=only, checkpoint=checkpoint
        )
        _segment_on_cluster(tasks, on)
        return
    states: Counter[str] = Counter()
    with interruptible() as cancelled, progress_bar() as bar:
        task = bar.add_task("segmenting", total=None)
        for outcome in segment_project(
            project,
            options=options,
            annotator=annotator or "",
            only=only,
            checkpoint=checkpoint,
            progress=lambda name, done, total: bar.update(
                task, description=one_line(name), completed=done, total=total
            ),
            cancelled=cancelled,
        ):
            states[outcome.state] += 1
            say(f"{'Error: ' if outcome.state == 'failed' else ''}{outcome.sentence}")
        stopped = cancelled()
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    say(f"{told}." if told else "Nothing was left to segment.")
    end(stopped=stopped, failed=states["failed"] > 0)


def _segment_on_cluster(tasks: Sequence[SegmentTask], on: ClusterOptions) -> None:
    """The same, by the workers of a cluster, which must see the project's folder."""
    from napari_transunet.cluster.batch import State
    from napari_transunet.cluster.project_cases import case_units

    if not tasks:
        say("Nothing was left to segment.")
        return
    states: Counter[str] = Counter()

    def each(finished: Finished) -> None:
        outcome = finished.result if finished.state is State.DONE else None
        state = outcome.state if outcome is not None else str(finished.state)
        states[state] += 1
        if outcome is not None:
            say(f"{'Error: ' if state == 'failed' else ''}{outcome.sentence}")
        elif finished.state is not State.STOPPED:
            say(f"Error: {finished.unit.name}: {finished.message}")

    with cluster(on) as client:
        stopped = run_units(client, on, case_units(tasks), len(tasks), each=each)
    say(f"{', '.join(f'{number} {state}' for state, number in states.items())}.")
    left = any(states[state] for state in ("failed", str(State.SET_ASIDE), str(State.STOPPED)))
    end(stopped=stopped, failed=left)


@app.command()
def status(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Show all cases: their status, who works on them, and the network's uncertainty."""
    project = open_project(folder)
    cases = project.cases()
    holders = project.holders()
    for name, why in project.index.damaged.items():
        say(f"Note: the case {name} cannot be read: {why}")
    counts = Counter(case.status for case in cases)
    if as_json:
        typer.echo(_as_json(project, cases, holders))
        return
    titles = ("name", "modality", "status", "uncertainty", "edited", "reviewed", "annotator", "held by")
    rows = [_row(case, holders.get(case.id)) for case in cases]
    if len(rows) > _MANY:  # a drawn table would take its time
        typer.echo("\n".join(" | ".join(cells) for cells in (titles, *rows)))
    else:
        table = Table(*titles)
        for cells in rows:
            table.add_row(*cells)
        print_table(table)
    say(counted(len(cases), "case") + "".join(f", {number} {what}" for what, number in counts.items()) + ".")


@app.command()
def adapt(
    folder: FolderArgument,
    checkpoint: Annotated[
        str | None,
        option(
            "NAME|PATH",
            "The checkpoint that learns: one of those in use if each scan has its own, else a replacement.",
            "--checkpoint",
            "-c",
        ),
    ] = None,
    device: DeviceOption = "auto",
    steps: Annotated[
        int | None,
        option(
            "N", "Training steps. Default: as many as fit in 105 s, up to 160 (120 with a new organ).", min=1
        ),
    ] = None,
    seed: Annotated[int, option("N", min=0)] = 0,
    annotator: AnnotatorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the checkpoint learn from all reviewed slices; held-out scans decide whether the result is kept."""
    from dataclasses import asdict

    from napari_transunet.project.adapting import adapt_project
    from napari_transunet.training.fine_tuning import AdaptationCancelled

    project = open_project(folder)
    if checkpoint is not None and project.settings.checkpoint is not None:
        project.use_checkpoint(project.keep_checkpoint(checkpoint))
    with interruptible() as cancelled, progress_bar() as bar:
        task = bar.add_task("learning", total=100)
        try:
            found = adapt_project(
                project,
                device=device,
                steps=steps,
                seed=seed,
                checkpoint=checkpoint,
                annotator=annotator,
                progress=lambda told: bar.update(task, completed=round(100 * told.done)),
                cancelled=cancelled,
            )
        except AdaptationCancelled:
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(asdict(found))
        return
    say(found.sentence)
    changes = [f"{name} {before:.3f} → {after:.3f}" for name, (before, after) in found.dice.items()]
    print_facts(
        {
            "checkpoint": found.child or f"{found.parent} (as before)",
            "decided_by": f"held-out {found.by}: {', '.join(found.held_out) or '–'}",
            "dice": ", ".join(changes) or "nothing was held out",
        }
    )
    if found.child is not None:
        say("“project segment” now updates all labels that nobody edited or reviewed.")


@app.command()
def export(
    folder: FolderArgument,
    formats: Annotated[
        list[str] | None,
        option(
            "FORMAT", "A format, such as nifti, slicer, dicom-seg or stl; can be repeated.", "--format", "-f"
        ),
    ] = None,
    out: Annotated[
        Path | None, option("DIR", "The output folder. Default: exports in the project.", "--output", "-o")
    ] = None,
    only_done: Annotated[bool, option(None, "Only cases that are signed off.", "--only-done")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the labels of all cases as files for other programs."""
    from napari_transunet.project.exporting import export_project

    statuses: tuple[Status, ...] = ("done",) if only_done else ("segmented", "in review", "done")
    with interruptible() as cancelled, counting("exporting") as progress:
        done = export_project(
            open_project(folder),
            formats or ["nifti"],
            folder=out,
            statuses=statuses,
            overwrite=overwrite,
            progress=progress,
            cancelled=cancelled,
        )
        stopped = cancelled()
    for sentence in done.left_out:
        say(f"Error: {sentence}")
    if done.earlier:
        say(f"Note: {done.sentence_on_earlier}")
    for path in done.files:
        typer.echo(one_line(path))
    say(f"{counted(len(done.cases), 'case')} exported.")
    end(stopped=stopped, failed=bool(done.left_out))


@app.command()
def report(
    folder: FolderArgument,
    out: Annotated[
        Path | None,
        option("FILE.html", "The report's file. Default: report.html in the project.", "--output", "-o"),
    ] = None,
    cases: CasesOption = None,
    pictures: Annotated[
        bool, option(None, "Include key slices of each case.", "--pictures/--no-pictures")
    ] = True,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a report of the project as one HTML file, with a CSV beside it."""
    from napari_transunet.project.report import project_report

    project = open_project(folder)
    if cases and out is None:
        raise InputError("A report of selected cases needs a name: --output FILE.html.")
    target = out or project.folder / "report.html"
    with interruptible() as cancelled, counting("reporting") as progress:
        written = project_report(
            project,
            target,
            pictures=pictures,
            only=_matching(project, cases) if cases else None,
            overwrite=overwrite or out is None,
            progress=progress,
            cancelled=cancelled,
        )
    for path in written:
        typer.echo(one_line(path))


@app.command()
def exclude(
    folder: FolderArgument,
    case: CaseArgument,
    reason: Annotated[str, option("TEXT", "The reason, for the report.")],
    annotator: AnnotatorOption = None,
) -> None:
    """Exclude a case from segmenting, learning and exports; its labels are kept."""
    say(f"{open_project(folder).exclude(case, reason, annotator).name} is excluded.")


@app.command()
def include(folder: FolderArgument, case: CaseArgument, annotator: AnnotatorOption = None) -> None:
    """Include an excluded case again."""
    found = open_project(folder).include(case, annotator)
    say(f"{found.name} is {found.status}.")


@app.command()
def release(folder: FolderArgument, case: CaseArgument, annotator: AnnotatorOption = None) -> None:
    """Free a case whose holder has not responded for three minutes, or whose program on this machine crashed."""
    with open_project(folder).hold(case, annotator, purpose="release", takeover=True) as held:
        say(f"{held.case.name} is free.")


@app.command(name="import")
def import_labels(
    folder: FolderArgument,
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS", help="A folder with one file, or one folder of masks, per case."),
    ],
    names: Annotated[
        Path | None,
        option(
            "FILE.json", 'Names: {"1": "spleen"}, or nnU-Net\'s dataset.json (found automatically in LABELS).'
        ),
    ] = None,
    tool: Annotated[str, option("NAME", "The tool that made the labels.")] = "another tool",
    annotator: AnnotatorOption = None,
) -> None:
    """Let cases start from the labels of another tool, such as TotalSegmentator or nnU-Net."""
    from napari_transunet.project.importing import import_predictions, names_from

    found = import_predictions(
        open_project(folder),
        labels,
        names=None if names is None else names_from(names),
        tool=tool,
        annotator=annotator,
    )
    for sentence in found.notes:
        say(f"Note: {sentence}")
    for sentence in found.left_out:
        say(f"Left out: {sentence}")
    say(f"{counted(len(found.cases), 'case')} now from the labels of {tool}.")
    if not found.cases:
        raise InputError("No labels were imported.")


def _add(project: Project, scans: Sequence[Path]) -> None:
    if not scans:
        return
    with counting("looking at scans") as progress:
        added = project.add(scans, progress=progress)
    for sentence in added.left_out[:_SHOWN]:
        say(f"Left out: {sentence}")
    if len(added.left_out) > _SHOWN:
        say(f"Left out: {len(added.left_out) - _SHOWN} more.")
    say(f"{counted(len(added.cases), 'case')} added.")


def _matching(project: Project, names: Sequence[str]) -> set[str]:
    """The ids of the cases that names or patterns mean."""
    found = set()
    for name in names:
        if any(letter in name for letter in "*?["):
            ids = {case.id for case in project.cases() if fnmatchcase(case.name, name)}
            if not ids:
                raise InputError(f"No case matches {name!r}; “project status” shows all.")
            found |= ids
        else:
            found.add(project.case(name).id)
    return found


def _row(case: Case, holder: Holder | None) -> tuple[str, ...]:
    """The cells of a case in a table."""
    why = case.reason or case.problem
    held = "" if holder is None else holder.sentence() + (", stale" if holder.stale else "")
    return (
        one_line(case.name),
        case.modality or "–",
        shorten(one_line(f"{case.status}: {why}"), _WIDEST, placeholder=" …") if why else case.status,
        "–" if case.uncertainty is None else f"{case.uncertainty:.3f}",
        f"{100 * case.edited:.1f} %" if case.has_labels else "–",
        f"{case.reviewed} of {case.slices}" if case.has_labels else "–",
        one_line(case.reader or case.annotator or "–"),
        one_line(held),
    )


def _as_json(project: Project, cases: Sequence[Case], holders: Mapping[str, Holder]) -> str:
    """All of it as JSON, a case a line."""
    head = {
        "folder": str(project.folder),
        **project.settings.model_dump(),
        "counts": Counter(case.status for case in cases),
        "damaged": project.index.damaged,
    }
    lines = []
    for case in cases:
        holder = holders.get(case.id)
        held = json.dumps(None if holder is None else holder.sentence())
        facts = case.model_dump_json()
        if not facts.isascii():
            facts = json.dumps(json.loads(facts))
        lines.append(f'{facts[:-1]}, "held_by": {held}}}')
    rows = ",\n".join(lines)
    return f'{json.dumps(head)[:-1]}, "cases": [\n{rows}\n]}}'
