"""Labels that other tools made, as what a person starts from: TotalSegmentator, nnU-Net, or any label volumes."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.provenance import RunRecord, now
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.uncertainty import SliceUncertainties
from napari_transunet.errors import USERS_ERRORS, InputError, TransUNetError, VolumeError, sentence_of
from napari_transunet.export.source import provenance_of_file
from napari_transunet.files import unique_keys
from napari_transunet.io.dicom.reading import STRUCTURE_SET_FORMAT
from napari_transunet.io.pairing import plain_name
from napari_transunet.io.reading import READABLE_SUFFIXES, read_volume, series_folder
from napari_transunet.io.sidecar import stem_of
from napari_transunet.project.case import Case, CaseRun
from napari_transunet.project.case_labels import CaseLabels, facts_of_scan, load_labels, save_labels
from napari_transunet.project.index import ProjectWriteError
from napari_transunet.project.project import HeldCase, Project
from napari_transunet.project.scans import read_scan
from napari_transunet.project.segmenting import keep_thumbnail, rank_by_disagreement
from napari_transunet.volumes.grid_part import GridPart, labels_on_grid, labels_part
from napari_transunet.volumes.label_values import as_labels
from napari_transunet.volumes.labels import LabelSet, organ_key
from napari_transunet.volumes.volume import Volume

_MAX_NAMES = 1 << 22
_DATASET = "dataset.json"
_REST = "the rest counts as background."


@dataclass
class Imported:
    """What became of label files: the cases that start from them now, and what was not taken, with the reason.

    `notes` say what was assumed of those that were taken.
    """

    cases: list[Case] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_predictions(
    project: Project,
    folder: Path,
    *,
    names: Mapping[int, str] | None = None,
    tool: str = "another tool",
    annotator: str | None = None,
) -> Imported:
    """Let cases start from the label volumes in a folder, each named after its case.

    A file holds all organs of a case (nnU-Net; TotalSegmentator with --ml); a folder holds a mask an organ, named after
    it (TotalSegmentator). Names come from `names`, from the file or what lies beside it, or from nnU-Net's
    `dataset.json`. Where the case was segmented before, the slices in which both differ come first in its review; else
    they will once it is; until then nnU-Net's probabilities lead it, where they lie beside the labels (`.npz`). Cases
    that a person worked on are left as they are.

    Raises
    ------
    FileProblem
        The folder cannot be read.
    ProjectWriteError
        The project cannot be written to.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder with label volumes.")
    found = Imported()
    known = names or _names_in(folder / _DATASET)
    cases = {case.name: case for case in project.cases() if not case.is_reading}
    by_stem: dict[str, list[Case]] = {}
    for case in cases.values():
        by_stem.setdefault(plain_name(case.name.split("/")[-1]), []).append(case)
    taken: dict[str, str] = {}
    for place in sorted(folder.iterdir()):
        if place.name.startswith(".") or not (
            place.is_dir() or place.name.lower().endswith(READABLE_SUFFIXES)
        ):
            continue
        if place.name.lower().endswith(".npz"):  # nnU-Net's probabilities go with the labels of their stem
            continue
        stem = place.name if place.is_dir() else stem_of(place)
        meant = [cases[stem]] if stem in cases else by_stem.get(plain_name(stem), [])
        if len(meant) != 1:
            called = f"the cases {', '.join(case.name for case in meant[:4])} are" if meant else "no case is"
            found.left_out.append(f"{place.name}: {called} called so")
            continue
        (case,) = meant
        if case.id in taken:
            found.left_out.append(f"{place.name}: {case.name} starts from {taken[case.id]} already")
            continue
        try:
            with project.hold(case.id, annotator, purpose="import") as held:
                found.cases.append(_import_one(held, place, known, tool, found.notes))
            taken[case.id] = place.name
        except ProjectWriteError:
            raise
        except USERS_ERRORS as error:
            found.left_out.append(f"{place.name}: {sentence_of(error).removeprefix(f'{place.name}: ')}")
    project.note("imported", tool=tool, cases=len(found.cases), left_out=len(found.left_out))
    return found


def names_from(path: Path) -> dict[int, str]:
    """Names of label values from a JSON file: `{"1": "spleen"}`, or nnU-Net's `{"labels": {"spleen": 1}}`."""
    found = _names_in(path)
    if not found:
        raise InputError(f'{path} names no labels; it needs {{"1": "spleen", …}}, or nnU-Net\'s "labels".')
    if twice := next((name for name, count in Counter(found.values()).items() if count > 1), None):
        raise InputError(f"{path} gives several labels the name {twice!r}; give each its own.")
    return found


def _import_one(
    held: HeldCase, place: Path, names: Mapping[int, str] | None, tool: str, notes: list[str]
) -> Case:
    case = held.case
    before = load_labels(held.project, case)
    if case.status in ("in review", "done") or (
        before is not None and before.session.edited_voxels(before.labels)
    ):
        raise InputError(f"somebody worked on {case.name} already; its labels are left as they are")
    volume = read_scan(case.scan, held.project.folder)
    if place.is_dir():
        labels, found_names, note = _masks(place, volume)
    else:
        labels, found_names, note = _labels(place, volume, names)
    session = AnnotationSession.of_labels(labels, found_names)
    axis = 0 if before is None else before.session.axis
    session.axis = axis
    total = session.shape[axis]
    session.add_run(RunRecord.of_no_network(tool, "imported", "imported", total=total, axis=axis))
    session.opened = {} if place.is_dir() else provenance_of_file(place)
    session.coverage = note
    made = CaseLabels(labels, session, LabelSet.from_names(found_names))
    ranked = None
    if not place.is_dir():
        _take_uncertainty(made, place, volume)
    if before is not None and case.run is not None and case.run.source == "network":
        rank_by_disagreement(made, before.labels, before.label_set.names)
        ranked = case.run.sha256
    saved = save_labels(
        held,
        made,
        **facts_of_scan(volume, case),
        status="segmented",
        problem="",
        run=CaseRun(source="imported", name=tool, date=now()).model_dump(),
        ranked_by=ranked,
        segmented=now(),
    )
    keep_thumbnail(held, volume, made)
    if note:
        notes.append(f"{case.name}: {note}")
    return saved


def _labels(
    path: Path, volume: Volume, names: Mapping[int, str] | None
) -> tuple[NDArray[Any], dict[int, str], str]:
    """Labels of one file on the scan's grid, their names, and what was assumed."""
    drawn = read_volume(path, scan=series_folder(volume.source.path))
    if drawn.source.format == STRUCTURE_SET_FORMAT and drawn.source.series_uid != volume.source.series_uid:
        raise InputError(
            "it was drawn on another series than that of its scan; give it the name of its own case"
        )
    values, part = _on_grid(drawn, volume, path.name)
    present = [int(value) for value in np.unique(values) if value]
    own = {} if drawn.labels is None else dict(drawn.labels.names)
    known = dict(names) if names else own
    organs = {organ_key(name): value for value, name in known.items()}
    for value in present:
        # Other names of an organ are nothing; another organ's are.
        if value in own and value in known and organs.get(organ_key(own[value]), value) != value:
            raise InputError(
                f"it calls {value} {own[value]!r}, and the names that were given call it {known[value]!r}; leave these "
                "names out, or correct them"
            )
    if not known:
        raise InputError("it names no labels; give their names with --names, or in dataset.json beside it")
    if missing := [value for value in present if value not in known]:
        raise InputError(
            f"the labels {', '.join(map(str, missing[:10]))} have no names; give them with --names, or in dataset.json"
        )
    note = "" if part.is_whole else f"the labels cover a part of the scan ({part.coverage}); {_REST}"
    return values, {value: name for value, name in known.items() if value}, note


def _masks(folder: Path, volume: Volume) -> tuple[NDArray[Any], dict[int, str], str]:
    """A mask an organ, joined, the organs' names, and what was assumed.

    Raises
    ------
    InputError
        A mask holds several labels, or masks overlap: a voxel has one label.
    """
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith((".nii.gz", ".nii", ".nrrd", ".mha"))
    ]
    if not files:
        raise InputError("the folder holds no masks")
    if len(files) > 65535:
        raise InputError("the folder holds more masks than there are label values")
    labels = np.zeros(volume.data.shape, np.uint8 if len(files) < 256 else np.uint16)
    names: dict[int, str] = {}
    partial = 0
    for value, path in enumerate(files, 1):
        mask, part = _on_grid(read_volume(path), volume, path.name)
        partial += not part.is_whole
        inside = mask != 0
        if not inside.any():
            continue
        if (mask[inside] != mask[inside][0]).any():
            raise InputError(f"{path.name} holds several labels and is no mask of one organ")
        if shared := np.unique(labels[inside & (labels != 0)]).tolist():
            count = int((inside & (labels != 0)).sum())
            raise InputError(
                f"{path.name} overlaps {', '.join(names[other] for other in shared[:4])} in {count} voxels, and a voxel"
                " has one label; give one file of labels, or take the voxels out of one mask"
            )
        labels[inside] = value
        names[value] = stem_of(path).replace("_", " ")
    note = f"{partial} of {len(files)} masks cover a part of the scan each; {_REST}" if partial else ""
    return labels, names, note


def _take_uncertainty(made: CaseLabels, path: Path, volume: Volume) -> None:
    """Let the probabilities of nnU-Net beside labels, classes first, say how unsure each slice is; if there are any."""
    beside = path.with_name(f"{stem_of(path)}.npz")
    if not beside.is_file():
        return
    import torch

    from napari_transunet.inference.uncertainty import uncertainty_of_probabilities
    from napari_transunet.io.arrays import read_npz_array

    array, _ = read_npz_array(beside)
    drawn = read_volume(path)
    if array.ndim != 4 or array.shape[1:] != drawn.data.shape or array.dtype.kind != "f":
        raise InputError(f"{beside.name} holds no probabilities of {path.name}")
    part = labels_part(drawn, volume)
    assert part is not None  # as of the labels themselves
    axis = made.session.axis
    classes = []
    for value, one in enumerate(array):
        # Where they do not reach it is background, for certain.
        whole = np.full(part.grid, 1 if value == 0 else 0, array.dtype)
        whole[part.box] = part.turn.apply(one)[part.own_box]
        classes.append(np.moveaxis(whole, axis, 0))
    unsure = SliceUncertainties(axis, made.session.shape[axis])
    for index in range(made.session.shape[axis]):
        planes = torch.from_numpy(np.stack([one[index] for one in classes]).astype(np.float32))
        (found,) = uncertainty_of_probabilities(
            planes.clamp(0, 1)[None], torch.ones(planes.shape[1:], dtype=torch.bool)
        )
        unsure.means[index], unsure.expected_errors[index] = found.mean, found.expected_error
    made.session.uncertainty = unsure


def _on_grid(drawn: Volume, volume: Volume, name: str) -> tuple[NDArray[Any], GridPart]:
    """Labels on the scan's grid, and what of it they cover."""
    try:
        placed = labels_on_grid(drawn, volume)
    except VolumeError as error:
        raise InputError(f"{name}: {error}") from error
    if placed is None:
        raise InputError(f"{name} does not lie on the grid of its scan; resample it first")
    try:
        return np.ascontiguousarray(as_labels(placed.data)), placed.part
    except TransUNetError as error:
        raise InputError(f"{name} holds no labels: {error}") from error


def _names_in(path: Path) -> dict[int, str]:
    """What a JSON file says of labels; nothing where there is none, or where it is something else."""
    try:
        if path.stat().st_size > _MAX_NAMES:
            return {}
        content = json.loads(path.read_text("utf-8"), object_pairs_hook=unique_keys)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    labels = content.get("labels", content)
    pairs: Iterable[tuple[Any, Any]] = labels.items() if isinstance(labels, dict) else ()
    found: dict[int, str] = {}
    for key, value in pairs:
        # {"1": "spleen"} or {"spleen": 1}
        number, name = (key, value) if str(key).isdecimal() else (value, key)
        if str(number).isdecimal() and 0 < int(number) <= 65535 and str(name).strip():
            label, text = int(number), str(name).strip()[:200]
            if found.setdefault(label, text) != text:
                raise InputError(
                    f"{path} calls the label {label} both {found[label]!r} and {text!r}; correct it."
                )
    return found
