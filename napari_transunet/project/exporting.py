"""The labels of all cases of a project as files for other programs."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_transunet.errors import USERS_ERRORS, InputError, sentence_of, some
from napari_transunet.export.formats import FORMATS, PER_ORGAN, formats_of, unavailable
from napari_transunet.export.writing import ExportRequest, export
from napari_transunet.files import is_taken
from napari_transunet.io.sidecar import files_described, is_ours, read_sidecar
from napari_transunet.project.case import Case, Status
from napari_transunet.project.case_labels import digest_of, load_labels, without_lost_approval
from napari_transunet.project.index import write_error
from napari_transunet.project.project import Project
from napari_transunet.project.scans import read_scan

_UNSAFE = re.compile(r"[^\w.+-]+")


@dataclass
class Exported:
    """The files that were written, and the cases that were not exported, with the reason.

    `earlier` are JSON files of exports of this project's cases that lie beside and were not written anew.
    `other_formats` has the cases, by id, that were left out because an earlier export wrote them in more formats, and
    which.
    """

    files: list[Path] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    earlier: list[Path] = field(default_factory=list)
    other_formats: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def sentence_on_earlier(self) -> str:
        """That older labels lie beside those that were written; empty where none do."""
        if not self.earlier:
            return ""
        return (
            f"{self.earlier[0].parent} still holds labels of earlier exports, which were not written anew: "
            f"{some([path.stem for path in self.earlier])}."
        )


def export_project(
    project: Project,
    formats: Sequence[str],
    *,
    folder: Path | None = None,
    statuses: Collection[Status] = ("segmented", "in review", "done"),
    overwrite: bool = False,
    earlier_formats: bool = False,
    only: Collection[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Exported:
    """Write the labels of each case; a case that fails is told of, and the others go on.

    Files are named after their cases, and the JSON beside each says of runs, edits, reviews and the approval. Blind
    readings are exported too, with the reader's name.

    Parameters
    ----------
    formats : keys of `export.formats.FORMATS`
    folder : where to; `exports` in the project by default
    statuses : of the cases to export
    overwrite : replace files of these formats. A case whose earlier export has files of other formats, too, which one
        JSON file tells of together, is left out
    earlier_formats : instead, write these anew as well
    only : ids of the cases to export; None for all

    Raises
    ------
    InputError
        There is no such format, or what it needs is not installed.
    ProjectWriteError
        The folder cannot be made.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise InputError(f"There is no format {', '.join(unknown)}; there are {', '.join(FORMATS)}.")
    target = folder or project.folder / "exports"
    every = project.cases()  # first: of a project that was moved, no folder is made in its old place
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(target, error) from error
    stems = file_stems(every, followed=not PER_ORGAN.isdisjoint(formats))
    cases = [
        case
        for case in every
        if case.status in statuses and case.has_labels and (only is None or case.id in only)
    ]
    done = Exported()
    for number, case in enumerate(cases):
        if cancelled is not None and cancelled():
            break
        if progress is not None:
            progress(number, len(cases))
        stem = stems[case.id]
        others = _other_formats(target, stem, formats) if overwrite else ()
        if others and not earlier_formats:
            done.other_formats[case.id] = others
            done.left_out.append(
                f"{case.name}: an earlier export wrote {', '.join(others)}, too, and one JSON file tells of all; name "
                "these formats, too, or choose another folder"
            )
            continue
        try:
            done.files += _export_one(
                project, case, stem, [*formats, *others], target, statuses, overwrite=overwrite
            )
            done.cases.append(case)
        except USERS_ERRORS as error:
            done.left_out.append(f"{case.name}: {sentence_of(error)}")
    if progress is not None:
        progress(len(cases), len(cases))
    done.earlier = _earlier(target, {case.id for case in every}, set(done.files))
    project.note("exported", formats=list(formats), folder=str(target), cases=len(done.cases))
    return done


def _other_formats(folder: Path, stem: str, formats: Collection[str]) -> tuple[str, ...]:
    """Formats other than these of which an earlier export of a case left files that are still there."""
    names = files_described(folder / f"{stem}.json")
    there = [name for name in names if is_taken(folder / name)]
    return tuple(name for name in formats_of(there, stem) if name not in formats)


def _earlier(folder: Path, cases: Collection[str], written: Collection[Path]) -> list[Path]:
    """The JSON files in a folder by which exports tell of any of these cases, but for those written now."""
    found = []
    for path in sorted(folder.glob("*.json")):
        told = read_sidecar(path)[0].get("provenance") if path not in written and is_ours(path) else None
        case = told.get("case") if isinstance(told, dict) else None
        if isinstance(case, dict) and case.get("id") in cases:
            found.append(path)
    return found


def file_stems(cases: Sequence[Case], *, followed: bool = False) -> dict[str, str]:
    """What the files of each case, by its id, are called; where names would be one as file names, with the id.

    `followed`: an organ's name may come after it, so that the organ b of the case a must not be taken for the case a_b.
    """
    stems = {case.id: _UNSAFE.sub("_", case.name).strip("._") or case.id for case in cases}
    counts = Counter(stem.casefold() for stem in stems.values())

    def alone(stem: str) -> bool:
        begin = stem.casefold() + "_"
        return counts[stem.casefold()] == 1 and not (
            followed and any(one.startswith(begin) for one in counts)
        )

    return {key: stem if alone(stem) or stem == key else f"{stem}_{key}" for key, stem in stems.items()}


def _export_one(
    project: Project,
    case: Case,
    stem: str,
    formats: Sequence[str],
    folder: Path,
    statuses: Collection[Status],
    *,
    overwrite: bool,
) -> list[Path]:
    found = load_labels(project, case)
    if found is None:
        raise InputError("its labels cannot be read any more")
    case = without_lost_approval(case, digest_of(found))
    if case.status not in statuses:
        raise InputError(
            "its labels were changed since they were approved; look at them and approve them again"
        )
    volume = read_scan(case.scan, project.folder)
    for name in formats:
        if (reason := unavailable(name, volume.source)) is not None:
            raise InputError(f"{name}: {reason}")
    provenance: dict[str, Any] = {**found.session.provenance(found.labels), "project": project.settings.name}
    provenance["case"] = {
        "id": case.id,
        "name": case.name,
        "status": case.status,
        "annotator": case.annotator,
        "reader": case.reader,
        "sign_off": None if case.sign_off is None else case.sign_off.model_dump(),
        "minutes": round(case.minutes, 2),
    }
    return export(
        found.labels,
        volume.geometry,
        found.label_set,
        ExportRequest(folder, stem, tuple(formats), overwrite=overwrite),
        source=volume.source,
        provenance=provenance,
    )
