"""The report of a study, or of a few segmented scans: one HTML file that needs nothing else, and a table beside it.

Needs the extra `report` (jinja2, matplotlib).
"""

from __future__ import annotations

import base64
import csv
import io
import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_transunet import __version__
from napari_transunet.annotation.provenance import now
from napari_transunet.errors import ExistsError, FileProblem, InputError, TransUNetError
from napari_transunet.files import csv_cell, file_problems, is_installed, is_taken, write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_transunet.project.case import Case
    from napari_transunet.project.project import Project
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.volume import Volume

OUTLYING = 3.5
"""Modified z-score beyond which a volume is an outlier (Iglewicz and Hoaglin, "How to Detect and Handle Outliers")."""

_FEWEST = 5  # cases that hold an organ, before any is called an outlier
_QUALITY = 82
_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class ReportedCase:
    """What the report says of one case.

    Attributes
    ----------
    name, status, annotator, reader, checkpoint, note : texts; empty where there is nothing to say
    volumes : organ -> mL
    edited, uncertainty : 0 to 1; None where unknown
    reviewed, slices : how many
    minutes : at work
    pictures : (slice, data URI of a JPEG)
    """

    name: str
    status: str = "segmented"
    annotator: str = ""
    reader: str = ""
    checkpoint: str = ""
    note: str = ""
    volumes: Mapping[str, float] = field(default_factory=dict)
    edited: float | None = None
    uncertainty: float | None = None
    reviewed: int = 0
    slices: int = 0
    minutes: float = 0.0
    pictures: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True)
class AgreementRow:
    """One organ of two readings of a case; distances in mm."""

    case: str
    readers: str
    organ: str
    dice: float
    nsd: float
    hd95: float


@dataclass(frozen=True)
class ReportContent:
    """All that a report tells.

    Attributes
    ----------
    title : what it is of
    checkpoints : a sentence on each that had a part, and on what it learnt from
    cases : in the order in which they are shown; those read blind among them count in no volume
    agreements : of several readers
    """

    title: str
    checkpoints: Sequence[str] = ()
    cases: Sequence[ReportedCase] = ()
    agreements: Sequence[AgreementRow] = ()


@dataclass(frozen=True)
class OrganSummary:
    """An organ's volume over cases, in mL; `outliers` are (case, mL, modified z-score), the farthest first."""

    name: str
    count: int
    mean: float
    sd: float
    median: float
    lowest: float
    highest: float
    outliers: Sequence[tuple[str, float, float]]
    figure: str = ""


def project_report(
    project: Project,
    target: Path,
    *,
    pictures: bool = True,
    only: Collection[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Path]:
    """Write the report of a project, HTML at `target` and a CSV beside it; returns both.

    Parameters
    ----------
    pictures : whether key slices are shown
    only : ids of the cases that it is of; all by default

    Raises
    ------
    InputError
        The extra `report` is not installed, or there is nothing to report.
    ExistsError, FileProblem
        A file exists and `overwrite` is false, or cannot be written.
    """
    check_report(target, overwrite=overwrite)
    cases = [case for case in project.cases() if only is None or case.id in only]
    shown = []
    for number, case in enumerate(cases):
        if cancelled is not None and cancelled():
            raise InputError("The report was cancelled; nothing was written.")
        if progress is not None:
            progress(number, len(cases))
        shown.append(_reported(project, case, pictures=pictures))
    if progress is not None:
        progress(len(cases), len(cases))
    content = ReportContent(
        title=project.settings.name or project.folder.name,
        checkpoints=_checkpoints(project, cases),
        cases=shown,
        agreements=_agreements(project, cases),
    )
    return write_report(target, content, overwrite=overwrite)


def reported_file(volume: Volume, labels: Path) -> ReportedCase:
    """What the report says of a scan and the file with its labels, which `write_labels` made."""
    from napari_transunet.io.reading import read_volume
    from napari_transunet.io.sidecar import read_sidecar
    from napari_transunet.project.case_labels import volumes_of
    from napari_transunet.volumes.labels import LabelSet

    drawn = read_volume(labels)
    label_set = drawn.labels or LabelSet()
    told = read_sidecar(labels)[0].get("provenance")
    made = told if isinstance(told, dict) else {}
    runs = made.get("runs")
    axis = runs[-1].get("axis") if isinstance(runs, list) and runs and isinstance(runs[-1], dict) else 0
    axis = axis if axis in (0, 1, 2) else 0
    return ReportedCase(
        name=volume.source.name,
        checkpoint=str(made.get("checkpoint") or ""),
        volumes=volumes_of(drawn.data, label_set.names, volume.geometry.spacing),
        slices=volume.data.shape[axis],
        pictures=_pictures(volume, drawn.data, axis, label_set),
    )


def check_report(target: Path, *, overwrite: bool = False) -> None:
    """Refuse now what `write_report` would refuse after the work."""
    missing = [name for name in ("jinja2", "matplotlib") if not is_installed(name)]
    if missing:
        raise InputError(f'A report needs {" and ".join(missing)}: pip install "napari-transunet[report]".')
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"A report is an HTML file, so {target.name} must end in .html.")
    if not target.parent.is_dir():
        raise FileProblem(f"There is no folder {target.parent} to write to; make it first.")
    for path in (target, target.with_suffix(".csv")):
        if is_taken(path) and not overwrite:
            raise ExistsError(f"{path} exists already; choose another name or ask to overwrite it.")


def write_report(target: Path, content: ReportContent, *, overwrite: bool = False) -> list[Path]:
    """Write HTML at `target` and the table beside it; returns both."""
    check_report(target, overwrite=overwrite)
    if not content.cases:
        raise InputError("There is nothing to report: no scan is in it.")
    from jinja2 import Environment

    own = [case for case in content.cases if not case.reader and case.status != "excluded" and case.volumes]
    organs = organ_summaries(own)
    source = resources.files("napari_transunet.project").joinpath(_TEMPLATE).read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    html = template.render(
        content=content,
        organs=organs,
        outliers=sorted(
            ((organ, *one) for organ in organs for one in organ.outliers), key=lambda found: -abs(found[-1])
        ),
        outlying={name for organ in organs for name, _, _ in organ.outliers},
        cases=sorted(content.cases, key=lambda case: _rank(case, organs)),
        figure=_effort_figure(own),
        made=now(),
        version=__version__,
        limit=OUTLYING,
        counted=Counter("read blind" if case.reader else case.status for case in content.cases),
        minutes=sum(case.minutes for case in content.cases),
    )
    table = as_csv(content, organs)
    written = []
    for path, text in ((target, html), (target.with_suffix(".csv"), table)):
        with file_problems(f"Cannot write to {path.parent}"):
            write_text(path, text, overwrite=overwrite)
        written.append(path)
    return written


def organ_summaries(cases: Sequence[ReportedCase]) -> list[OrganSummary]:
    """Each organ's volume over the cases that hold it."""
    found = []
    for name in dict.fromkeys(name for case in cases for name in case.volumes):
        values = {case.name: case.volumes[name] for case in cases if case.volumes.get(name, 0) > 0}
        if not values:
            continue
        scores = modified_z(list(values.values())) if len(values) >= _FEWEST else [0.0] * len(values)
        outliers = sorted(
            (
                (case, ml, score)
                for (case, ml), score in zip(values.items(), scores, strict=True)
                if abs(score) > OUTLYING
            ),
            key=lambda one: -abs(one[2]),
        )
        found.append(
            OrganSummary(
                name,
                len(values),
                statistics.fmean(values.values()),
                statistics.stdev(values.values()) if len(values) > 1 else math.nan,
                statistics.median(values.values()),
                min(values.values()),
                max(values.values()),
                outliers,
                _volume_figure(values, {case for case, _, _ in outliers}),
            )
        )
    return found


def modified_z(values: Sequence[float]) -> list[float]:
    """How far each value lies from the median, in robust standard deviations.

    0.6745 (x − median) / MAD, and where the median of the absolute deviations (MAD) is 0, their mean × 1.2533 in place
    of MAD / 0.6745 (Iglewicz and Hoaglin, 1993). All 0 where all values are the same.
    """
    middle = statistics.median(values)
    deviations = [abs(value - middle) for value in values]
    scale = statistics.median(deviations) / 0.6745 or statistics.fmean(deviations) * 1.2533
    return [(value - middle) / scale if scale else 0.0 for value in values]


def as_csv(content: ReportContent, organs: Sequence[OrganSummary]) -> str:
    """A row a case and organ, of at least one case; units are in the column names. Unknown values are empty."""
    scores = {(organ.name, case): score for organ in organs for case, _, score in organ.outliers}
    rows: list[dict[str, Any]] = [
        {
            "case": case.name,
            "status": case.status,
            "reader": case.reader,
            "annotator": case.annotator,
            "checkpoint": case.checkpoint,
            "organ": organ,
            "volume_ml": ml,
            "outlier_z": None if case.reader else scores.get((organ, case.name)),
            "share_edited": case.edited,
            "reviewed_slices": case.reviewed,
            "slices": case.slices,
            "minutes": round(case.minutes, 2),
            "uncertainty": case.uncertainty,
        }
        for case in content.cases
        for organ, ml in case.volumes.items() or [("", None)]
    ]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            f"{value:.6g}" if isinstance(value, float) else csv_cell(value) for value in row.values()
        )
    return file.getvalue()


def _reported(project: Project, case: Case, *, pictures: bool) -> ReportedCase:
    from napari_transunet.project.case_labels import load_labels
    from napari_transunet.project.scans import read_scan

    note = case.reason or case.problem or (case.sign_off.note if case.sign_off is not None else "")
    shown: list[tuple[int, str]] = []
    if pictures and case.has_labels and case.status != "excluded":
        try:
            found = load_labels(project, case)
            if found is not None:
                volume = read_scan(case.scan, project.folder)
                shown = _pictures(volume, found.labels, found.session.axis, found.label_set)
        except TransUNetError as error:
            note = " ".join(part for part in (note, str(error)) if part)
    return ReportedCase(
        name=case.name,
        status=case.status,
        annotator=case.annotator,
        reader=case.reader,
        checkpoint=case.run.name if case.run is not None else "",
        note=note,
        volumes=case.volumes,
        edited=case.edited if case.has_labels else None,
        uncertainty=case.uncertainty,
        reviewed=case.reviewed,
        slices=case.slices,
        minutes=case.minutes,
        pictures=shown,
    )


def _checkpoints(project: Project, cases: Sequence[Case]) -> list[str]:
    """A sentence on each checkpoint and tool that made labels, and on what the adapted ones learnt from."""
    from napari_transunet.checkpoints.info import CheckpointInfo

    runs = [case.run for case in cases if case.run is not None and not case.is_reading]
    made = Counter((run.name, run.sha256) for run in runs)
    told = [
        f"{name}{f' (SHA-256 {sha})' if sha else ''}: the labels of {count} case{'s' if count > 1 else ''}."
        for (name, sha), count in sorted(made.items(), key=lambda one: one[0][0])
    ]
    for path in sorted((project.folder / "checkpoints").glob("*.safetensors")):
        try:
            card = CheckpointInfo.from_file(path).card
        except (TransUNetError, OSError):
            continue
        if card is not None and card.lineage:
            told.append(f"{path.stem}: {'; then '.join(one.sentence() for one in card.lineage)}.")
    return told


def _agreements(project: Project, cases: Sequence[Case]) -> list[AgreementRow]:
    from napari_transunet.project.agreement import agreement

    rows = []
    read = {case.of for case in cases if case.is_reading}
    for case in cases:
        if case.id not in read:
            continue
        try:
            pairs = agreement(project, case)
        except InputError:
            continue
        rows += [
            AgreementRow(
                case.name, f"{pair.first}, {pair.second}", organ, score["dice"], score["nsd"], score["hd95"]
            )
            for pair in pairs
            for organ, score in pair.scores.items()
        ]
    return rows


def _rank(case: ReportedCase, organs: Sequence[OrganSummary]) -> tuple[float, str]:
    """Outliers first, then by name."""
    far = max((abs(z) for organ in organs for name, _, z in organ.outliers if name == case.name), default=0.0)
    return (-far if not case.reader else 0.0, case.name)


def _volume_figure(values: Mapping[str, float], outliers: set[str]) -> str:
    """A box with all values beside it, as a data URI; outliers in red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.boxplot(list(values.values()), orientation="horizontal", widths=0.5, showfliers=False, positions=[0])
    inside = [ml for case, ml in values.items() if case not in outliers]
    outside = [ml for case, ml in values.items() if case in outliers]
    axes.plot(inside, [_jitter(at) for at in range(len(inside))], "o", ms=3, alpha=0.5, color="#33689a")
    axes.plot(outside, [0.0] * len(outside), "D", ms=4, color="#c0392b")
    axes.set_yticks([])
    axes.set_xlabel("mL", fontsize=7)
    axes.tick_params(labelsize=7)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    return _png(figure)


def _effort_figure(cases: Sequence[ReportedCase]) -> str:
    """Share edited, and minutes, of the cases that a person worked on; empty where there are none."""
    worked = [case for case in cases if case.edited or case.minutes or case.reviewed]
    if not worked:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, title in (
        (left, [100 * (case.edited or 0) for case in worked], "share edited, %"),
        (right, [case.minutes for case in worked], "minutes at work"),
    ):
        axes.bar(range(1, len(values) + 1), values, color="#33689a")
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("case", fontsize=7)
        axes.tick_params(labelsize=7)
        for side in ("right", "top"):
            axes.spines[side].set_visible(False)
    return _png(figure)


def _jitter(number: int) -> float:
    """Spread points so that they do not hide one another, the same every time."""
    return 0.3 * (((number * 0.6180339887) % 1.0) - 0.5)


def _png(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return _data_uri("png", file)


def _pictures(volume: Volume, labels: NDArray[Any], axis: int, label_set: LabelSet) -> list[tuple[int, str]]:
    """Key slices and their pictures, as data URIs."""
    from PIL import Image

    from napari_transunet.project.pictures import pictures_of

    found = []
    for index, picture in pictures_of(volume, labels, axis, label_set.colors):
        file = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=_QUALITY)
        found.append((index, _data_uri("jpeg", file)))
    return found


def _data_uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
