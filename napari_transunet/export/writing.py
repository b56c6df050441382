"""Labels into files: one or several formats at once, all or none, with a JSON that says where they come from."""

import json
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet import __version__
from napari_transunet.annotation.provenance import now, versions
from napari_transunet.errors import ExistsError, FileProblem, InputError
from napari_transunet.export.formats import FORMATS, PER_ORGAN, REFERRING, VOLUMES, format_of
from napari_transunet.export.source import is_scan
from napari_transunet.files import (
    file_problems,
    is_taken,
    remove_leftovers,
    replace_all,
    sha256,
    write_text,
    writing_problems,
)
from napari_transunet.io.dicom.rtstruct_writing import write_rtstruct
from napari_transunet.io.dicom.seg_writing import write_dicom_seg
from napari_transunet.io.meshes import Coordinates, mesh_of, write_mesh
from napari_transunet.io.sidecar import (
    READING_NOTES,
    check_sidecar_free,
    clean,
    describe,
    files_described,
    plain,
    sidecar_path,
)
from napari_transunet.io.writing import label_array, write_labels
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet
from napari_transunet.volumes.volume import Source

Progress = Callable[[int, int], None]

MESH_SMOOTHING = 1.0  # mm, but never more than a voxel is long: what is smaller than that would vanish
_UNFINISHED = ".exporting-"  # folders with files that do not have their names yet


@dataclass(frozen=True)
class ExportRequest:
    """What to write, and where.

    Attributes
    ----------
    folder, stem : files are named `stem` and the format's ending, in `folder`.
    formats : keys of `FORMATS`.
    coordinates : of meshes.
    overwrite : replace files that exist; of organs that are gone, those of an earlier export are removed.
    """

    folder: Path
    stem: str
    formats: tuple[str, ...]
    coordinates: Coordinates = "LPS"
    overwrite: bool = False


def request_for(path: Path, *, overwrite: bool = False) -> ExportRequest:
    """The request that writes one file of this name.

    Raises
    ------
    VolumeError
        No format for all labels has its ending.
    """
    name = format_of(path)
    stem = path.name[: -len(FORMATS[name][0])]
    # Endings are written small: where that makes another name, nobody agreed to replace what has it.
    same = path.name == stem + FORMATS[name][0]
    return ExportRequest(path.parent, stem, (name,), overwrite=overwrite and same)


def request_referring(path: Path, *, overwrite: bool = False) -> ExportRequest | None:
    """The request that writes one DICOM file of this name that refers to a series; None where its ending is no such."""
    for name in REFERRING:
        ending = FORMATS[name][0]
        if path.name.lower().endswith(ending) and len(path.name) > len(ending):
            return ExportRequest(path.parent, path.name[: -len(ending)], (name,), overwrite=overwrite)
    return None


def export(
    labels: NDArray[Any],
    geometry: Geometry,
    label_set: LabelSet,
    request: ExportRequest,
    *,
    source: Source | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    noted: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write labels in every format of the request; returns the files, the JSON last. Either all are written or none.

    Parameters
    ----------
    labels : (z, y, x) whole numbers on the grid
    geometry : the scan's grid
    label_set : names and colours; values without a name get one
    source : the scan; needed for a DICOM segmentation or structure set, and never written over
    provenance : what the session says of runs and edits; versions and the time are added
    progress : called with the files done and their number, but for the JSON
    cancelled : asked before each file, and before all of them get their names
    noted : gets a sentence on each thing that is other in a file than in the labels or the scan; the JSON has them too

    Raises
    ------
    InputError
        No or unknown formats, labels on another grid, or a format that cannot be made of this scan.
    ExistsError
        A file exists and may not be replaced, or the JSON file tells of files that are not written anew.
    FileProblem
        The folder cannot be written to.
    """
    wanted = _checked(request)
    labels = label_array(labels, geometry)
    values = [int(value) for value in np.unique(labels) if value]
    named = label_set.completed(values)
    targets = _targets(request, wanted, named, values)
    every = [path for paths in targets.values() for path in paths.values()]
    sidecar = request.folder / f"{request.stem}.json"
    gone = _organs_gone(sidecar, request, wanted, every) if request.overwrite else []
    _check_free([*every, *gone, sidecar], request, source)
    record = _record(provenance, request, wanted, geometry, source, every)
    notes = [
        f"{path.name} of an earlier export was removed: these labels have no such organ." for path in gone
    ]
    remove_leftovers(request.folder, f"{_UNFINISHED}*")
    with file_problems(f"Cannot write to {request.folder}"):
        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=request.folder))
    try:
        with writing_problems(f"Cannot write to {request.folder}", temporary):
            done = 0
            for name in wanted:
                for value, path in targets[name].items():
                    _heed(cancelled)
                    _write_one(
                        name,
                        value,
                        temporary / path.name,
                        labels,
                        geometry,
                        named,
                        request,
                        source,
                        record,
                        notes,
                    )
                    done += 1
                    if progress is not None:
                        progress(done, len(every))
            voxels = {value: int(np.count_nonzero(labels == value)) for value in values}
            if notes:
                record["export_notes"] = notes
            first = every[0] if every else sidecar
            digest = sha256(temporary / first.name) if every else ""
            described = describe(first, geometry, named, record, voxels, digest)
            text = json.dumps(described, indent=2, ensure_ascii=False)
            (temporary / sidecar.name).write_text(text + "\n", encoding="utf-8")
        _heed(cancelled)
        # The JSON first: whoever sees the labels finds their description already there.
        _move([sidecar, *every], temporary, gone, overwrite=request.overwrite)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if noted is not None:
        for note in notes:
            noted(note)
    return [*every, sidecar]


def _heed(cancelled: Callable[[], bool] | None) -> None:
    if cancelled is not None and cancelled():
        raise InputError("The export was cancelled; nothing was written.")


def _checked(request: ExportRequest) -> list[str]:
    unknown = [name for name in request.formats if name not in FORMATS]
    if unknown or not request.formats:
        raise InputError(
            f"Choose at least one format of {', '.join(FORMATS)}"
            + (f"; {', '.join(unknown)} is none of them." if unknown else ".")
        )
    if not request.stem or request.stem != Path(request.stem).name or request.stem in (".", ".."):
        raise InputError(f"{request.stem!r} is no file name.")
    return [name for name in FORMATS if name in request.formats]


def _targets(
    request: ExportRequest, wanted: list[str], labels: LabelSet, values: list[int]
) -> dict[str, dict[int, Path]]:
    """Format -> label (0: all) -> file."""
    used: set[str] = set()
    safe: dict[int, str] = {}
    for value in values:
        label = labels.get(value)
        name = _file_name(label.name if label is not None else f"label_{value}")
        while name.casefold() in used:  # many file systems do not tell cases apart
            name = f"{name}_{value}"
        safe[value] = name
        used.add(name.casefold())
    found: dict[str, dict[int, Path]] = {}
    for name in wanted:
        ending = FORMATS[name][0]
        if name in PER_ORGAN:
            found[name] = {
                value: request.folder / (request.stem + ending.replace("*", safe[value])) for value in values
            }
        else:
            found[name] = {0: request.folder / (request.stem + ending)}
    return found


def _check_free(paths: list[Path], request: ExportRequest, source: Source | None) -> None:
    if not request.folder.is_dir():
        raise FileProblem(f"The folder {request.folder} is not there; choose another one.")
    for path in paths:
        if source is not None and is_scan(path, source):
            raise FileProblem(
                f"{path.name} is the scan itself or an image of it; give the labels another name."
            )
        if is_taken(path) and not request.overwrite:
            raise ExistsError(f"{path} exists already; choose another name or ask to overwrite it.")
    check_sidecar_free(paths[-1], {path.name for path in paths})


def _organs_gone(sidecar: Path, request: ExportRequest, wanted: list[str], written: list[Path]) -> list[Path]:
    """Files that an earlier export in the same formats made of organs which are not in these labels."""
    around = [FORMATS[name][0].split("*") for name in wanted if name in PER_ORGAN]
    names = set(files_described(sidecar)) - {clean(path.name) for path in written}
    return [
        path
        for path in (request.folder / name for name in sorted(names))
        if is_taken(path)
        and any(
            path.name.startswith(request.stem + begin) and path.name.endswith(end) for begin, end in around
        )
    ]


def _write_one(
    name: str,
    value: int,
    path: Path,
    labels: NDArray[Any],
    geometry: Geometry,
    label_set: LabelSet,
    request: ExportRequest,
    source: Source | None,
    record: Mapping[str, Any],
    notes: list[str],
) -> None:
    label = label_set.get(value)
    if name in VOLUMES or (name == "masks" and label is not None):
        if label is not None:
            labels = (labels == value).astype(np.uint8)
            label_set = LabelSet((Label(1, label.name, label.color, label.snomed),))
        write_labels(path, labels, geometry, label_set, provenance=record, overwrite=True)
        sidecar_path(path).unlink()  # the one JSON of the export tells it all
    elif name in ("stl", "ply") and label is not None:
        smooth = _smoothing(geometry)
        mesh = mesh_of(labels == value, geometry, coordinates=request.coordinates, smooth_mm=smooth)
        write_mesh(path, mesh, name=label.name, color=label.color, coordinates=request.coordinates)
    elif name == "dicom-seg":
        write_dicom_seg(path, labels, geometry, label_set, source, provenance=record, noted=notes.append)
    elif name == "rtstruct":
        write_rtstruct(path, labels, geometry, label_set, source, provenance=record, noted=notes.append)
    elif name == "label-table":
        write_label_table(path, label_set)


def _smoothing(geometry: Geometry) -> float:
    """mm by which meshes on this grid are smoothed."""
    return min(MESH_SMOOTHING, max(geometry.spacing))


def _record(
    provenance: Mapping[str, Any] | None,
    request: ExportRequest,
    wanted: list[str],
    geometry: Geometry,
    source: Source | None,
    files: list[Path],
) -> dict[str, Any]:
    record: dict[str, Any] = {"software": f"napari-transunet {__version__}"} | plain(dict(provenance or {}))
    record |= {"exported": now(), "versions": versions(), "files": [path.name for path in files]}
    if source is not None:
        facts = {"name": source.name, "format": source.format, "series_uid": source.series_uid}
        facts |= dict(source.picks)  # which of several volumes
        known = record.get("source")
        record["source"] = (known if isinstance(known, dict) else {}) | {
            key: value for key, value in facts.items() if value not in (None, "")
        }
        if source.notes:
            record[READING_NOTES] = list(source.notes)
    if {"stl", "ply"} & set(wanted):
        record["meshes"] = {
            "coordinates": request.coordinates,
            "unit": "mm",
            "smoothed_mm": _smoothing(geometry),
        }
    return record


def _move(paths: list[Path], temporary: Path, gone: list[Path], *, overwrite: bool) -> None:
    # What is gone first, while the JSON that names it is there.
    moves = [*((None, path) for path in gone), *((temporary / path.name, path) for path in paths)]
    with file_problems(f"Cannot write to {paths[0].parent}"):
        replace_all(moves, temporary, overwrite=overwrite)


def _file_name(name: str) -> str:
    # Some file systems take the two ways in which Unicode spells a letter for one.
    plain = unicodedata.normalize("NFC", name)
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in plain).strip("_")
    return kept[:60] or "organ"


_HEADER = """\
################################################
# ITK-SnAP Label Description File
# Columns: label, red, green, blue (0 to 255), opacity (0 to 1), visible, mesh visible (0 or 1), "name"
################################################
"""


def write_label_table(path: Path, labels: LabelSet) -> Path:
    """Write names and colours for ITK-SNAP's *Import label descriptions*.

    Raises
    ------
    ExistsError
        The file exists.
    FileProblem
        The folder cannot be written to.
    """
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label in labels:
        red, green, blue = (round(255 * part) for part in label.color)
        # A name cannot hold the quotes that end it, nor a line break.
        name = " ".join(clean(label.name).replace('"', "'").split())
        lines.append(f'{label.value:5d}   {red:3d}  {green:3d}  {blue:3d}        1  1  1    "{name}"')
    write_text(path, _HEADER + "\n".join(lines) + "\n", overwrite=False)
    return path
