"""The labels of a case on disk: its session, as the window keeps it, and what the case's file says of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.provenance import now
from napari_transunet.annotation.saved_state import restored_labels, saved_state
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_file import ArraySpec, NewerFormatError
from napari_transunet.annotation.session_folder import SessionAbout, SessionFolder, load_folder, part_numbers
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.errors import (
    ExistsError,
    FileProblem,
    InputError,
    SizeError,
    TransUNetError,
)
from napari_transunet.io.sidecar import as_json, labels_from_json
from napari_transunet.project.index import write_error
from napari_transunet.volumes.fingerprint import scan_fingerprint
from napari_transunet.volumes.geometry import voxel_ml
from napari_transunet.volumes.label_values import voxels_by_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_transunet.project.case import Case
    from napari_transunet.project.project import HeldCase, Project
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

_OPACITY = 0.6


@dataclass
class CaseLabels:
    """Labels (z, y, x) of a case with their session, names and colours.

    `front` is how they were shown: "name", "opacity"; `note` says that they are not the newest, where they are not.
    """

    labels: NDArray[Any]
    session: AnnotationSession
    label_set: LabelSet
    front: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def empty(cls, shape: tuple[int, int, int], label_set: LabelSet) -> CaseLabels:
        """Nothing labelled yet, in a type that holds these labels."""
        highest = max(label_set.names, default=1)
        session = AnnotationSession(shape, label_set.names, dtype=np.uint8 if highest < 256 else np.uint16)
        return cls(np.zeros(shape, session.prediction.dtype), session, label_set)


def store_of(project: Project, case: Case) -> SessionStore:
    """Where the sessions of a case lie."""
    return SessionStore(project.folder / "sessions" / case.id)


def load_labels(project: Project, case: Case, *, older: bool = False) -> CaseLabels | None:
    """The newest labels of a case; None where it has none.

    What its file names comes first; where whoever began that was cut off it is empty, and what was before counts.

    Parameters
    ----------
    older : take older ones where the newest are damaged, with a `note`; somebody has to look at them

    Raises
    ------
    InputError
        The newest are damaged or gone; others would be taken for them.
    SizeError
        They do not fit into memory.
    """
    unread = ""
    for folder in _folders(project, case):
        if not folder.is_dir():
            unread = unread or "their folder is gone"
            continue
        if not part_numbers(folder):
            continue
        try:
            saved = load_folder(folder)
            labels, session, front = restored_labels(saved)
            found = CaseLabels(labels, session, labels_from_json(front["label_set"]), front)
        except (NewerFormatError, SizeError):
            raise
        except (TransUNetError, KeyError) as error:
            logger.warning("The labels in %s cannot be read: %s", folder, error)
            unread = unread or str(error).rstrip(".")
            continue
        unread = unread or ("the last save is damaged" if saved.lost else "")
        if not unread:
            return found
        if not older:
            break
        when = f"{saved.saved_at.astimezone():%d %B %Y, %H:%M}"
        found.note = (
            f"The newest labels of {case.name} cannot be read ({unread}); these were saved at {when}."
        )
        return found
    if not unread:
        return None
    way = "put that folder back from a backup" if older else "open the case in the window to see what is left"
    raise InputError(
        f"The labels of {case.name} in {Path('sessions') / case.id} cannot be read ({unread}); {way}."
    )


def session_folder(held: HeldCase) -> SessionFolder:
    """The folder to keep the labels of a held case in, from now on; its first save has to be whole.

    It is that of the last time, where nobody else can write there any more. After a lease was taken over it is a new
    one: who had it may wake up and save what they did.
    """
    project, case = held.project, held.case
    store = store_of(project, case)
    try:
        if case.session is not None and not held.lease.taken_over:
            info = store.named(case.session)
            if info is not None:
                with suppress(ExistsError):
                    return store.open(info)
        folder = store.create(
            SessionAbout(
                fingerprint=case.fingerprint or case.scan.sha256,
                image_name=case.name,
                image_path=case.scan.absolute,
                shape=case.shape or (0, 0, 0),
                spacing=case.spacing or (0.0, 0.0, 0.0),
                created=now(),
            )
        )
    except (OSError, FileProblem) as error:
        raise write_error(store.root, error) from error
    return folder


def save_labels(held: HeldCase, found: CaseLabels, **changes: Any) -> Case:
    """Keep labels, all of them, and then what the case's file says of them; `changes` are further fields of it.

    Where the folder cannot be written to, what was kept before is as it was.
    """
    held.lease.check()
    folder = session_folder(held)
    try:
        arrays = {"labels": found.labels, **found.session.arrays()}
        front = {
            "name": str(found.front.get("name") or f"{held.case.name} labels"),
            "opacity": float(found.front.get("opacity", _OPACITY)),
            "label_set": [as_json(label) for label in found.label_set],
        }
        folder.save(
            {name: dict(enumerate(array)) for name, array in arrays.items()},
            {name: ArraySpec.of(array) for name, array in arrays.items()},
            saved_state(found.session, found.labels, front),
            whole=True,
        )
    except OSError as error:
        raise write_error(folder.path, error) from error
    finally:
        folder.close()
    spacing = changes.get("spacing") or held.case.spacing or (1.0, 1.0, 1.0)
    return held.update(session=folder.path.name, **(facts_of(found, spacing) | changes))


def facts_of(found: CaseLabels, spacing: Sequence[float]) -> dict[str, Any]:
    """What the case's file says of its labels; spacing in mm along (z, y, x)."""
    labels, session = found.labels, found.session
    edited = session.edited_voxels(labels)
    held = sum(
        int(np.count_nonzero(own | said)) for own, said in zip(labels, session.prediction, strict=True)
    )
    names = {**session.names, **found.label_set.names}
    return {
        "edited": min(1.0, edited / held) if held else 0.0,
        "reviewed": len(session.reviewed),
        "slices": session.shape[session.axis],
        "uncertainty": uncertainty_of_case(found),
        "volumes": {name: ml for name, ml in volumes_of(labels, names, spacing).items() if ml},
    }


def digest_of(found: CaseLabels) -> str:
    """Another one for other labels, other names of them, or other slices that were reviewed."""
    names = sorted({**found.session.names, **found.label_set.names}.items())
    told = found.labels.shape, names, sorted(found.session.reviewed)
    digest = hashlib.sha256(repr(told).encode())
    for plane in found.labels:
        digest.update(np.ascontiguousarray(plane, "<u2").tobytes())
    return digest.hexdigest()


def without_lost_approval(case: Case, digest: str) -> Case:
    """The case as it is with labels of this digest: approved no more where they are not those that were."""
    if case.status != "done" or case.sign_off is None or case.sign_off.labels in ("", digest):
        return case
    return case.with_changes({"status": "in review", "sign_off": None, "done": ""})


def facts_of_scan(volume: Volume, case: Case) -> dict[str, Any]:
    """What the case's file says of its scan."""
    return {
        "modality": volume.modality or case.modality,
        "shape": volume.data.shape,
        "spacing": tuple(volume.geometry.spacing),
        "fingerprint": scan_fingerprint(volume),
    }


def volumes_of(labels: NDArray[Any], names: Mapping[int, str], spacing: Sequence[float]) -> dict[str, float]:
    """mL of each organ that has a name or occurs; together, of labels that have one name."""
    voxels, one = voxels_by_label(labels), voxel_ml(spacing)
    found: dict[str, int] = {}
    for value in sorted({*names, *voxels} - {0}):
        name = names.get(value, f"label {value}")
        found[name] = found.get(name, 0) + voxels.get(value, 0)
    return {name: round(count * one, 4) for name, count in found.items()}


def uncertainty_of_case(found: CaseLabels) -> float | None:
    """How unsure the network was of a case, 0 to 1; None where it did not say.

    The mean over its slices, each weighing as much as is expected to be wrong in it. Where it found nothing at all it
    is 1: that is what a person should look at first.
    """
    unsure = found.session.uncertainty
    if unsure is None:
        return None
    if not found.session.prediction.any():
        return 1.0
    means, errors = unsure.of(), unsure.expected_error()
    known = ~np.isnan(means) & ~np.isnan(errors)
    if not known.any():
        return None
    weight = float(errors[known].sum())
    return round(min(1.0, float((means[known] * errors[known]).sum()) / weight), 6) if weight else 0.0


def status_after(case: Case, facts: Mapping[str, Any]) -> str:
    """How far a case is once a person worked on it: what was signed off or excluded stays so."""
    if case.status in ("done", "excluded"):
        return case.status
    return "in review" if facts["reviewed"] or facts["edited"] else "segmented"


def _folders(project: Project, case: Case) -> Iterator[Path]:
    """The session folders of a case, what it names first, then the newest save first."""
    store = store_of(project, case)
    if case.session is not None:
        yield store.root / case.session
    for info in store.sessions():
        if info.folder.name != case.session:
            yield info.folder
