"""Writing labels and images on the exact grid they belong to: NIfTI, NRRD, Slicer segmentations, MetaImage."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet import __version__
from napari_transunet.errors import ExistsError, VolumeError
from napari_transunet.files import atomic_path, atomic_paths, is_taken, sha256
from napari_transunet.io.metaimage import write_metaimage
from napari_transunet.io.nifti import write_nifti
from napari_transunet.io.nrrd import write_nrrd
from napari_transunet.io.sidecar import (
    READING_NOTES,
    as_json,
    check_sidecar_free,
    describe,
    describes,
    plain,
    sidecar_path,
)
from napari_transunet.io.slicer_segments import segment_keys
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.label_values import as_labels, voxels_by_label
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Volume

WRITABLE_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
LABELS_KEY = "napari_transunet_labels"
PROVENANCE_KEY = "napari_transunet_provenance"
NOTE_KEY = "napari_transunet_note"
# ITK cannot open a MetaImage with a line of more than 32 kB in its header.
_MAX_HEADER_TEXT = 8000
_ESSENTIAL = (
    "software",
    "version",
    "checkpoint",
    "checkpoint_sha256",
    "sha256",
    "variant",
    "pipeline",
    "date",
)


def write_labels(
    path: str | os.PathLike[str],
    labels: npt.ArrayLike,
    volume: Volume | Geometry,
    names: Mapping[int, str] | LabelSet | None = None,
    *,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a label array on the grid of `volume`, with a JSON file beside it, and returns its path.

    Parameters
    ----------
    path : the suffix says the format: .nii.gz, .nii, .nrrd, .seg.nrrd (3D Slicer) or .mha.
    labels : (z, y, x) whole numbers from 0 to 65535, on the grid of `volume`.
    names : names (and colours, in a `LabelSet`) of the values. Values that occur without a name get one.
        Without names, those that a `Volume` with labels carries are used.
    provenance : what made the labels, e.g. checkpoint and its hash; all of it in the JSON file, and in the header
        what it has room for (never the list under `runs`). What the reader of a `Volume` assumed is added.
    overwrite : replaces the labels and a JSON file that describes them. A JSON file beside them that says
        something else, such as that of a BIDS scan, or of other labels that stay, is never replaced.

    Raises
    ------
    VolumeError
        Another suffix, another shape than the grid's, or values that are no labels.
    ExistsError
        The file or its JSON file exists and `overwrite` is false, or the JSON file is not that of these labels;
        nothing was written.
    FileProblem
        The folder cannot be written to.
    """
    target = Path(path)
    suffix = writable_suffix(target)
    geometry = volume.geometry if isinstance(volume, Volume) else volume
    array = label_array(labels, geometry)
    if names is None and isinstance(volume, Volume):
        names = volume.labels
    voxels = voxels_by_label(array)
    given = names if isinstance(names, LabelSet) else LabelSet.from_names(names or {})
    label_set = given.completed(voxels)
    assumed = list(volume.source.notes) if isinstance(volume, Volume) else []
    told = ({READING_NOTES: assumed} if assumed else {}) | dict(provenance or {})
    record = {"software": f"napari-transunet {__version__}"} | plain(told)
    beside = sidecar_path(target)
    for file in (target, beside):
        if is_taken(file) and not overwrite:
            raise ExistsError(f"{file} exists already; choose another name or ask to overwrite it.")
    check_sidecar_free(target, (target.name,))
    made_by = {PROVENANCE_KEY: _bounded(record)}
    # The labels last: whoever sees them finds their description already there.
    with atomic_paths([beside, target], overwrite=overwrite) as [temporary_json, temporary]:
        table = segment_keys(array, label_set) if suffix == ".seg.nrrd" else _label_keys(label_set)
        _write(temporary, suffix, array, geometry, table | made_by, description=_short(record), labels=True)
        described = describe(target, geometry, label_set, record, voxels, sha256(temporary))
        temporary_json.write_text(
            json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return target


def write_volume(path: str | os.PathLike[str], volume: Volume, *, overwrite: bool = False) -> Path:
    """Writes an image on its grid and returns its path. A volume that names its labels is written as labels.

    Raises
    ------
    VolumeError
        The format of that suffix cannot be written or cannot hold this type of values.
    ExistsError
        The file exists and `overwrite` is false, or the JSON file beside it calls it labels.
    FileProblem
        The folder cannot be written to.
    """
    target = Path(path)
    suffix = writable_suffix(target)
    if volume.labels is not None or suffix == ".seg.nrrd":
        return write_labels(target, volume.data, volume, volume.labels, overwrite=overwrite)
    if describes(target):
        raise ExistsError(
            f"{sidecar_path(target)} says that {target.name} holds labels, and an image would be taken for them; choose"
            " another name, or remove that file."
        )
    data = volume.data
    if data.dtype.kind == "b":
        data = data.astype(np.uint8)
    elif data.dtype == np.float16 or data.dtype.itemsize > 8:
        data = data.astype(np.float32 if data.dtype == np.float16 else np.float64)
    keys = {"Modality": f"MET_MOD_{volume.modality}"} if volume.modality and suffix == ".mha" else {}
    if volume.modality and suffix == ".nrrd":
        keys = {"modality": volume.modality}
    with atomic_path(target, overwrite=overwrite) as temporary:
        _write(temporary, suffix, data, volume.geometry, keys, description="napari-transunet", labels=False)
    return target


def writable_suffix(path: Path) -> str:
    """The ending of `path` that chooses the format.

    Raises
    ------
    VolumeError
        No format that can be written has this ending.
    """
    lower = path.name.lower()
    for suffix in WRITABLE_SUFFIXES:
        if lower.endswith(suffix) and len(lower) > len(suffix):
            return suffix
    raise VolumeError(f"{path.name!r} cannot be written; name the file {', '.join(WRITABLE_SUFFIXES)}.")


def _write(
    path: Path,
    suffix: str,
    data: npt.NDArray[Any],
    geometry: Geometry,
    keys: Mapping[str, str],
    *,
    description: str,
    labels: bool,
) -> None:
    if suffix in (".nii.gz", ".nii"):
        comment = "\n".join(f"{name} = {value}" for name, value in keys.items())
        write_nifti(path, data, geometry, description=description, labels=labels, comment=comment)
    elif suffix in (".nrrd", ".seg.nrrd"):
        write_nrrd(path, data, geometry, keys)
    else:
        write_metaimage(path, data, geometry, keys)


def label_array(labels: npt.ArrayLike, geometry: Geometry) -> npt.NDArray[Any]:
    """The labels (z, y, x) in the smaller of uint8 and uint16 that holds them.

    Raises
    ------
    VolumeError
        They have another shape than the grid, or hold anything but whole numbers from 0 to 65535.
    """
    array = np.asarray(labels)
    if array.shape != geometry.shape:
        raise VolumeError(
            f"The labels have the shape {array.shape}, but the volume has {geometry.shape} voxels (z, y, x);"
            " labels are written on the grid of their volume only."
        )
    found = as_labels(array)
    return found.astype(np.uint8) if found.dtype != np.uint8 and found.max() < 256 else found


def _label_keys(labels: LabelSet) -> dict[str, str]:
    """The table of labels for a header, or where it is too long, a note that says where it is."""
    table = json.dumps([as_json(label) for label in labels])
    if len(table) <= _MAX_HEADER_TEXT:
        return {LABELS_KEY: table}
    return {NOTE_KEY: f"The names of the {len(labels)} labels are in the JSON file beside this one."}


def _bounded(record: Mapping[str, Any]) -> str:
    """The provenance in the few kilobytes that a header has; the JSON file has it all."""
    brief = {key: value for key, value in record.items() if key != "runs"}
    runs = record.get("runs")
    if isinstance(runs, list) and runs and isinstance(runs[-1], dict):
        brief = {key: runs[-1][key] for key in _ESSENTIAL if key in runs[-1]} | brief
    text = json.dumps(brief)
    if len(text) <= _MAX_HEADER_TEXT:
        return text
    return json.dumps({key: str(brief[key])[:80] for key in _ESSENTIAL if key in brief})


def _short(record: Mapping[str, Any]) -> str:
    """The provenance in the 79 bytes that a NIfTI description has; the JSON file has it all."""
    parts = [str(record["variant"])[:24]] if record.get("variant") else []
    if digest := record.get("checkpoint_sha256") or record.get("sha256"):
        parts.append(str(digest)[:12])
    if record.get("date"):
        parts.append(_utc(str(record["date"])))
    software = str(record["software"])[: 79 - sum(len(part) + 2 for part in parts)]
    return "; ".join([software, *parts])


def _utc(date: str) -> str:
    """A date and time in the 20 characters of ISO 8601 in UTC; where it has no time zone, without one."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return date[:20]
    if moment.tzinfo is None:
        return date if len(date) <= 20 else moment.isoformat(timespec="seconds")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
