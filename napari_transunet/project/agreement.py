"""Several readers: the same case read blind, how well they agree, and what they make together.

A reading is a case of its own that refers to the same scan, belongs to one annotator, and starts from the same labels;
nobody else opens it. What the readers make together becomes the labels of the case they read, for a third to review.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.provenance import RunRecord, now
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import InputError
from napari_transunet.metrics.difference_map import disagree, match_labels, renumber
from napari_transunet.project.case import Case, CaseRun
from napari_transunet.project.case_labels import CaseLabels, digest_of, load_labels, save_labels
from napari_transunet.project.opening import approval
from napari_transunet.project.project import Project
from napari_transunet.project.segmenting import keep_thumbnail, rank_by_disagreement
from napari_transunet.volumes.label_values import as_labels, values_in
from napari_transunet.volumes.labels import LabelSet

Method = Literal["majority", "staple"]

_TITLES: Mapping[Method, str] = {"majority": "majority", "staple": "STAPLE"}

TOLERANCE = 2.0
"""mm within which two readers' surfaces agree."""


@dataclass(frozen=True, eq=False)
class PairAgreement:
    """Two readings of one case compared.

    Attributes
    ----------
    case : the case that was read
    first, second : the readers
    scores : organ -> "dice", "nsd", "hd95" in mm, …
    map : uint8 (z, y, x), a key of `metrics.difference_map.KINDS` where they differ
    worst_slices : (slice along axis 0, mm² that differ), the worst first
    """

    case: Case
    first: str
    second: str
    scores: Mapping[str, Mapping[str, float]]
    map: NDArray[np.uint8]
    worst_slices: Sequence[tuple[int, float]]


def give_to_readers(
    project: Project, wanted: str, readers: Sequence[str], annotator: str | None = None
) -> list[Case]:
    """Give a case to annotators who read it blind, each from the labels that it has now.

    Raises
    ------
    InputError
        It has no labels to start from, is a reading itself, or one of them reads it already.
    """
    made = []
    with project.hold(wanted, annotator, purpose="readings") as held:
        case = held.case
        if case.is_reading:
            raise InputError(f"{case.name} is a reading itself; give the case that it is of.")
        start = load_labels(project, case)
        if start is None:
            raise InputError(f"{case.name} has no labels to start from; segment it first.")
        taken = {one.reader for one in readings_of(project, case)}
        if again := sorted({name for name in readers if name in taken or list(readers).count(name) > 1}):
            raise InputError(f"{', '.join(again)} would read {case.name} twice.")
        if not all(name.strip() for name in readers):
            raise InputError("A reader needs a name.")
        for number, name in enumerate(readers, len(taken) + 1):
            reading = Case(
                id=f"{case.id[:60]}-reading{number}",
                name=f"{case.name} ({name})",
                scan=case.scan,
                reader=name,
                of=case.id,
                modality=case.modality,
                shape=case.shape,
                spacing=case.spacing,
                fingerprint=case.fingerprint,
                run=case.run,
                created=now(),
            )
            project.index.write(reading)
            with project.hold(reading.id, name, purpose="readings") as own:
                session = AnnotationSession.of_labels(start.labels.copy(), start.session.names)
                session.axis = start.session.axis
                session.uncertainty = start.session.uncertainty
                session.cards = start.session.cards
                session.opened, session.coverage = start.session.opened, start.session.coverage
                for run in start.session.runs:
                    session.add_run(run)
                copy = CaseLabels(start.labels, session, start.label_set, {"name": f"{reading.name} labels"})
                made.append(save_labels(own, copy, status="segmented", segmented=case.segmented))
    project.note("given to readers", case=case.name, readers=list(readers))
    return made


def readings_of(project: Project, case: Case) -> list[Case]:
    """The readings of a case."""
    return [one for one in project.cases() if one.of == case.id]


def agreement(project: Project, case: Case, *, tolerance_mm: float = TOLERANCE) -> list[PairAgreement]:
    """Each two readers of a case compared, organ by organ. Organs that neither has are left out.

    Raises
    ------
    InputError
        Fewer than two read it.
    """
    read = _read(project, case)
    spacing = case.spacing or (1.0, 1.0, 1.0)
    pairs = []
    for (first, one), (second, other) in itertools.combinations(read, 2):
        (here, there), label_set = _alike([one, other])
        names = label_set.names
        found = disagree(here, there, spacing, tolerance_mm=tolerance_mm)
        scores = {names.get(value, f"label {value}"): dict(score) for value, score in found.scores.items()}
        pairs.append(
            PairAgreement(case, first.reader, second.reader, scores, found.map, found.worst_slices())
        )
    return pairs


def consensus(project: Project, wanted: str, method: Method = "staple", annotator: str | None = None) -> Case:
    """Let a case start from what its readers make together; where they differ most comes first in its review.

    Parameters
    ----------
    method : "majority", or "staple" (Warfield et al., IEEE TMI 2004, in SimpleITK's form for several labels)

    Raises
    ------
    InputError
        Fewer than two read it, or somebody edited the case itself since.
    """
    from napari_transunet.project.scans import read_scan

    with project.hold(wanted, annotator, purpose="consensus") as held:
        case = held.case
        read = _read(project, case)
        own = load_labels(project, case)
        if own is not None and (own.session.edited_voxels(own.labels) or own.session.reviewed):
            raise InputError(f"Somebody worked on {case.name} itself; its labels are not replaced.")
        first = read[0][1]
        every, label_set = _alike([labels for _, labels in read])
        names = label_set.names
        together = as_labels(combined(every, method))
        session = AnnotationSession.of_labels(together, names)
        session.axis = first.session.axis
        total = session.shape[session.axis]
        title = f"{_TITLES[method]} of {', '.join(one.reader for one, _ in read)}"
        session.add_run(RunRecord.of_no_network(title, "consensus", method, total=total, axis=session.axis))
        made = CaseLabels(together, session, label_set, {"name": f"{case.name} labels"})
        rank_by_disagreement(made, _first_other(every, together), names)
        saved = save_labels(
            held,
            made,
            status="segmented",
            run=CaseRun(source="consensus", name=title, date=now()).model_dump(),
            segmented=now(),
        )
        keep_thumbnail(held, read_scan(case.scan, project.folder), made)
    project.note("consensus", case=case.name, method=method)
    return saved


def combined(labels: Sequence[NDArray[Any]], method: Method) -> NDArray[Any]:
    """What several label volumes (z, y, x) make together; voxels without a winner are background."""
    import SimpleITK as sitk

    if len(labels) < 2 or len({array.shape for array in labels}) != 1:
        raise InputError("A consensus needs the labels of at least two readers on one grid.")
    highest = max(int(array.max()) for array in labels)
    undecided = highest + 1
    images = [sitk.GetImageFromArray(np.ascontiguousarray(array, np.uint16)) for array in labels]
    if method == "majority":
        image = sitk.LabelVoting(images, undecided)
    elif method == "staple":
        image = sitk.MultiLabelSTAPLE(images, undecided)
    else:
        raise InputError(f"A consensus is made by majority or staple, not {method!r}.")
    found: NDArray[Any] = sitk.GetArrayFromImage(image)
    found[found == undecided] = 0
    return found


def sign_off(project: Project, wanted: str, note: str = "", annotator: str | None = None) -> Case:
    """Approve the labels of a case: it is done.

    Raises
    ------
    InputError
        It has no labels, or is excluded.
    LeaseHeldError
        Somebody works on it.
    """
    from napari_transunet.project.leases import annotator_name

    who = annotator or annotator_name()
    with project.hold(wanted, who, purpose="sign-off") as held:
        case = held.case
        if not case.has_labels or case.status == "excluded":
            why = "is excluded" if case.status == "excluded" else "has no labels"
            raise InputError(f"{case.name} {why}, so it cannot be signed off.")
        found = load_labels(project, case)
        if found is None:
            raise InputError(f"The labels of {case.name} cannot be read, so it cannot be signed off.")
        case = held.update(**approval(who, note, digest_of(found)))
    project.note("signed off", case=case.name, by=who)
    return case


def reopen(project: Project, wanted: str, annotator: str | None = None) -> Case:
    """Take an approval back."""
    with project.hold(wanted, annotator, purpose="reopen") as held:
        case = held.case
        if case.status != "done":
            raise InputError(f"{case.name} is not done, so there is nothing to reopen.")
        return held.update(
            status="in review" if case.reviewed or case.edited else "segmented", done="", sign_off=None
        )


def _read(project: Project, case: Case) -> list[tuple[Case, CaseLabels]]:
    """The readings of a case that somebody worked on or approved, with their labels; the others are not read yet."""
    found, unread = [], []
    for reading in readings_of(project, case):
        if reading.status in ("in review", "done"):
            labels = load_labels(project, reading)
            if labels is not None:
                found.append((reading, labels))
        elif reading.status != "excluded":
            unread.append(reading.reader)
    if len(found) < 2:
        waits = f"; not read yet by {', '.join(unread)}" if unread else ""
        raise InputError(f"{case.name} has {len(found)} readings; at least two are needed{waits}.")
    return found


def _alike(read: Sequence[CaseLabels]) -> tuple[list[NDArray[Any]], LabelSet]:
    """The labels of each with one number an organ, by name, those of the first where it has it; and their names.

    An organ that a reader drew and that none before has gets a number of its own.
    """
    first = read[0]
    label_set, every = first.label_set.completed(values_in(first.labels)), [first.labels]
    for other in read[1:]:
        present = values_in(other.labels)
        matching = match_labels(label_set.names, other.label_set.names, present)
        organs, theirs = dict(matching.organs), other.label_set.completed(present)
        for value in present:
            if organs.get(value) is None and (label := theirs.get(value)) is not None:
                organs[value] = free = max(label_set.names, default=0) + 1
                label_set = LabelSet((*label_set, replace(label, value=free)))
        every.append(renumber(other.labels, replace(matching, organs=organs)))
    return every, label_set


def _first_other(every: Sequence[NDArray[Any]], together: NDArray[Any]) -> NDArray[Any]:
    """Of each voxel a label that some reader gave in place of the common one, if there is one."""
    other = together.copy()
    for array in every:
        differs = (array != together) & (other == together)
        other[differs] = array[differs]
    return other
