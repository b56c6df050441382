"""Working on one case: taking it, with its scan and labels, and giving it back with what was done."""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from napari_transunet.annotation.provenance import now
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_folder import SessionFolder
from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.files import available_memory
from napari_transunet.project.case import Case, CaseRun
from napari_transunet.project.case_labels import (
    CaseLabels,
    digest_of,
    facts_of,
    facts_of_scan,
    load_labels,
    session_folder,
    status_after,
    without_lost_approval,
)
from napari_transunet.project.project import HeldCase, Project
from napari_transunet.project.scans import read_scan
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

_ROOM = 4  # times the size of a scan that must be free for it to be read ahead


@dataclass
class OpenedCase:
    """A case that somebody works on.

    Attributes
    ----------
    held : the case, held
    volume : its scan
    found : its labels; empty ones where it had none
    folder : where its session is saved from now on, by an `Autosaver` whose first save is whole
    before : the digest of its labels when it was opened
    """

    held: HeldCase
    volume: Volume
    found: CaseLabels
    folder: SessionFolder
    before: str


@dataclass(frozen=True)
class ReadCase:
    """What was read of a case before it is opened."""

    case: Case
    volume: Volume
    found: CaseLabels | None


def read_ahead(project: Project, identifier: str) -> ReadCase | None:
    """Read a case's scan and labels; None where it cannot be read, or would leave too little memory."""
    try:
        case = project.index.get(identifier)
        if (
            case.shape is not None
            and _ROOM * 2 * int(np.prod(case.shape, dtype=np.int64)) > available_memory()
        ):
            return None
        return ReadCase(case, _scan_of(case, project), load_labels(project, case))
    except (TransUNetError, OSError, MemoryError) as error:
        logger.info("%s was not read ahead: %s", identifier, error)
        return None


def open_case(
    project: Project,
    identifier: str,
    annotator: str,
    *,
    takeover: bool = False,
    ahead: ReadCase | None = None,
) -> OpenedCase:
    """Take a case to work on it.

    Parameters
    ----------
    takeover : also from somebody who has not been heard of
    ahead : what was read of it before; used where it is still so

    Raises
    ------
    LeaseHeldError
        Somebody works on it.
    InputError, VolumeError, FileProblem
        It is read blind by somebody else, or its scan, or all of its labels, cannot be read.
    ProjectWriteError
        The project cannot be written to.
    """
    held = project.hold(identifier, annotator, takeover=takeover)
    try:
        case = held.case
        same = ahead is not None and ahead.case.scan == case.scan
        volume = ahead.volume if ahead is not None and same else _scan_of(case, project)
        found = (
            ahead.found
            if ahead is not None and ahead.case == case
            else load_labels(project, case, older=True)
        )
        if found is not None and found.session.shape != volume.data.shape:
            raise InputError(
                f"The labels of {case.name} lie on another grid than its scan; exclude it, or add it anew."
            )
        if found is None:
            found = _no_labels(project, case, volume)
        if case.shape is None:
            held.update(**facts_of_scan(volume, case))
        folder = session_folder(held)
        try:
            if folder.path.name != case.session:
                held.update(session=folder.path.name)
        except BaseException:
            folder.close()
            raise
        return OpenedCase(held, volume, found, folder, digest_of(found))
    except BaseException:
        held.release()
        raise


def finish_case(
    opened: OpenedCase,
    found: CaseLabels,
    annotator: str,
    seconds: float,
    *,
    done: dict[str, Any] | None = None,
) -> Case:
    """Say in the case's file what was done, and give the case back; its labels are saved before.

    Parameters
    ----------
    found : the labels as they are now, with their session
    seconds : at work
    done : further fields, as of an approval

    Raises
    ------
    LeaseLostError
        Somebody took the case over meanwhile.
    ProjectWriteError
        It cannot be written.
    """
    held = opened.held
    try:
        case = held.case
        facts, digest = facts_of(found, opened.volume.geometry.spacing), digest_of(found)
        changed = opened.before != digest
        if case.sign_off is not None and not case.sign_off.labels:  # by an earlier version
            case = case.with_changes({"sign_off": {**case.sign_off.model_dump(), "labels": opened.before}})
        case = without_lost_approval(case, digest)
        facts |= {"sign_off": case.sign_off, "done": case.done}
        if done:
            done = {**done, "sign_off": {**done["sign_off"], "labels": digest}}
        if facts["volumes"] or case.run is not None or changed:
            facts["status"] = status_after(case, facts)
        if (run := _new_run(case, found.session)) is not None:
            facts |= {"run": run.model_dump(), "segmented": run.date}
        total = {**case.seconds, annotator: round(case.seconds.get(annotator, 0.0) + seconds, 1)}
        if changed or done:
            facts |= {"annotator": annotator}
        return held.update(seconds=total, **(facts | (done or {})))
    finally:
        held.release()


def _scan_of(case: Case, project: Project) -> Volume:
    """The scan of a case; where its headers name no modality (NIfTI has no place for it), it has the case's."""
    volume = read_scan(case.scan, project.folder)
    return volume if volume.modality is not None else replace(volume, modality=case.modality)


def approval(annotator: str, note: str = "", labels: str = "") -> dict[str, Any]:
    """The fields of a case that say that its labels, of this digest, are approved."""
    when = now()
    signed = {"by": annotator, "date": when, "note": note.strip(), "labels": labels}
    return {"status": "done", "done": when, "sign_off": signed}


def _new_run(case: Case, session: AnnotationSession) -> CaseRun | None:
    """What segmented the case while it was open; None where nothing did."""
    last = session.runs[-1] if session.runs else None
    if last is None or last.sha256 is None or (case.run is not None and case.run.sha256 == last.sha256):
        return None
    return CaseRun(
        source="network", name=last.checkpoint, sha256=last.sha256, date=last.date, seconds=last.seconds
    )


def _no_labels(project: Project, case: Case, volume: Volume) -> CaseLabels:
    """Empty labels with the names of the checkpoint that would segment the case."""
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.inference.compatibility import fitting_checkpoint

    label_set = LabelSet()
    with suppress(TransUNetError):
        path = project.checkpoint_path(case.checkpoint) or fitting_checkpoint(volume)[0].path
        card = CheckpointInfo.from_file(path).card
        label_set = card.label_set() if card is not None else label_set
    return CaseLabels.empty(volume.data.shape, label_set)
