"""What the dock *Cases* does with a project on another thread, and the sentences that say what came of it."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from napari_transunet.project.project import PROJECT, Project
from napari_transunet.viewer.widgets.messages import countdown

Told = Callable[[float, str], None]
"""Told how far long work is, from 0 to 1, and a sentence."""


def loaded(folder: Path) -> tuple[Project, str]:
    """A project with its cases read once, and a sentence about them."""
    project = Project.open(folder.parent if folder.name == PROJECT else folder)
    count = len(project.cases())
    damaged = f" {len(project.index.damaged)} cannot be read." if project.index.damaged else ""
    return project, f"{count} cases.{damaged}"


def added(project: Project, _who: str, places: Sequence[str | Path]) -> str:
    """Add scans to a project; a sentence says what came of it."""
    found = project.add([Path(place) for place in places])
    return f"{len(found.cases)} cases added{_left_out(found.left_out)}."


def take_over_labels(project: Project, who: str, folder: Path, tool: str) -> str:
    """Let cases start from labels in a folder that another tool made."""
    from napari_transunet.project.importing import import_predictions

    found = import_predictions(project, folder, tool=tool, annotator=who)
    taken = "1 case starts" if len(found.cases) == 1 else f"{len(found.cases)} cases start"
    more = f" (and {len(found.notes) - 1} more like it)" if len(found.notes) > 1 else ""
    note = f" {found.notes[0].rstrip('.')}{more}." if found.notes else ""
    return f"{taken} from the labels of {tool} now{_left_out(found.left_out)}.{note}"


def export_and_report(
    project: Project,
    _who: str,
    told: Told,
    stopped: Callable[[], bool],
    *,
    left: dict[str, tuple[str, ...]],
) -> str:
    """Write the labels of all cases and a report into the project.

    `left` gets the cases, by id, that were left because an earlier export wrote more formats of them, and which.
    """
    from napari_transunet.project.exporting import export_project
    from napari_transunet.project.report import project_report

    exporting, reporting = (
        partial(_tell, told, what, begun, 0.5) for what, begun in (("Exporting", 0.0), ("Reporting", 0.5))
    )
    done = export_project(project, ["nifti"], overwrite=True, progress=exporting, cancelled=stopped)
    left.update(done.other_formats)
    if stopped():
        return f"Stopped after {len(done.cases)} cases were exported; there is no report of them."
    report, _ = project_report(
        project,
        project.folder / "report.html",
        overwrite=True,
        progress=reporting,
        cancelled=stopped,
    )
    earlier = f" {done.sentence_on_earlier}" if done.earlier else ""
    where = project.folder / "exports"
    return f"{len(done.cases)} cases exported to {where}; the report is {report}.{_failed(done.left_out)}{earlier}"


def export_again(
    project: Project, _who: str, told: Told, stopped: Callable[[], bool], *, cases: Collection[str]
) -> str:
    """Write the labels of these cases anew in all formats of their earlier exports."""
    from napari_transunet.project.exporting import export_project

    done = export_project(
        project,
        ["nifti"],
        overwrite=True,
        earlier_formats=True,
        only=cases,
        progress=partial(_tell, told, "Exporting", 0.0, 1.0),
        cancelled=stopped,
    )
    count = "1 case" if len(done.cases) == 1 else f"{len(done.cases)} cases"
    return f"{count} exported anew in all formats of earlier exports.{_failed(done.left_out)}"


def learn(
    project: Project,
    who: str,
    told: Told,
    stopped: Callable[[], bool],
    *,
    device: str,
    checkpoint: str | None,
) -> str:
    """Let a checkpoint learn from all reviewed slices."""
    from napari_transunet.project.adapting import adapt_project
    from napari_transunet.viewer.widgets.priority import be_nice

    be_nice()
    return adapt_project(
        project,
        device=device,
        annotator=who,
        checkpoint=checkpoint,
        progress=lambda now: told(now.done, f"Learning, {countdown(now.remaining)} left"),
        cancelled=stopped,
    ).sentence


def _tell(told: Told, what: str, begun: float, share: float, at: int, count: int) -> None:
    """Case `at` (from 0) of so many is at hand, of a stage that is this share of the whole."""
    told(begun + share * at / max(1, count), f"{what}, case {min(at + 1, count)} of {count}")


def _failed(left_out: Sequence[str]) -> str:
    return f" Not exported: {'; '.join(left_out[:3])}." if left_out else ""


def _left_out(sentences: Sequence[str]) -> str:
    """The first of what was left out, and how many more there are."""
    more = f" and {len(sentences) - 1} more" if len(sentences) > 1 else ""
    return f"; left out: {sentences[0]}{more}" if sentences else ""
