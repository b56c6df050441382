"""Writing labels and images on the exact grid they belong to: NIfTI, NRRD, Slicer segmentations, MetaImage."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet import __version__
from napari_transunet.errors import ExistsError, VolumeError
from napari_transunet.files import atomic_path
from napari_transunet.volumes.labels import Label, LabelSet, color_for
from napari_transunet.volumes.metaimage import write_metaimage
from napari_transunet.volumes.nifti import write_nifti
from napari_transunet.volumes.nrrd import segment_keys, write_nrrd
from napari_transunet.volumes.sidecar import as_json, describe, plain, sidecar_path
from napari_transunet.volumes.volume import Volume

if TYPE_CHECKING:
    from napari_transunet.volumes.geometry import Geometry

WRITABLE_SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
LABELS_KEY = "napari_transunet_labels"
PROVENANCE_KEY = "napari_transunet_provenance"


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
    provenance : what made the labels, e.g. checkpoint and its hash; kept in the header where there is room and
        always in the JSON file.

    Raises
    ------
    VolumeError
        Another suffix, another shape than the grid's, or values that are no labels.
    ExistsError
        The file or its JSON file exists and `overwrite` is false; nothing was written.
    FileProblem
        The folder cannot be written to.
    """
    target = Path(path)
    suffix = writable_suffix(target)
    geometry = volume.geometry if isinstance(volume, Volume) else volume
    array = _label_array(labels, geometry)
    if names is None and isinstance(volume, Volume):
        names = volume.labels
    values, counts = np.unique(array, return_counts=True)
    voxels = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value}
    label_set = _complete(names, voxels)
    record = {"software": f"napari-transunet {__version__}"} | plain(dict(provenance or {}))
    beside = sidecar_path(target)
    for file in (target, beside):
        if file.exists() and not overwrite:
            raise ExistsError(f"{file} exists already; choose another name or ask to overwrite it.")
    text = json.dumps(describe(target, geometry, label_set, record, voxels), indent=2, ensure_ascii=False)
    keys = {
        LABELS_KEY: json.dumps([as_json(label) for label in label_set]),
        PROVENANCE_KEY: json.dumps(record),
    }
    # The labels last: whoever sees them finds their description already there.
    with (
        atomic_path(target, overwrite=overwrite) as temporary,
        atomic_path(beside, overwrite=overwrite) as temporary_json,
    ):
        if suffix == ".seg.nrrd":
            keys = segment_keys(array, label_set) | {PROVENANCE_KEY: keys[PROVENANCE_KEY]}
        _write(temporary, suffix, array, geometry, keys, description=_short(record), labels=True)
        temporary_json.write_text(text + "\n", encoding="utf-8")
    return target


def write_volume(path: str | os.PathLike[str], volume: Volume, *, overwrite: bool = False) -> Path:
    """Writes an image on its grid and returns its path. A volume that names its labels is written as labels.

    Raises
    ------
    VolumeError
        The format of that suffix cannot be written or cannot hold this type of values.
    ExistsError
        The file exists and `overwrite` is false.
    FileProblem
        The folder cannot be written to.
    """
    target = Path(path)
    suffix = writable_suffix(target)
    if volume.labels is not None or suffix == ".seg.nrrd":
        return write_labels(target, volume.data, volume, volume.labels, overwrite=overwrite)
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
        write_nifti(path, data, geometry, description=description, labels=labels)
    elif suffix in (".nrrd", ".seg.nrrd"):
        write_nrrd(path, data, geometry, keys)
    else:
        write_metaimage(path, data, geometry, keys)


def _label_array(labels: npt.ArrayLike, geometry: Geometry) -> npt.NDArray[Any]:
    """The labels in the smaller of uint8 and uint16 that holds them."""
    array = np.asarray(labels)
    if array.shape != geometry.shape:
        raise VolumeError(
            f"The labels have the shape {array.shape}, but the volume has {geometry.shape} voxels (z, y, x);"
            " labels are written on the grid of their volume only."
        )
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise VolumeError(f"Labels must be whole numbers, not values of type {array.dtype}.")
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise VolumeError("Labels must be whole numbers; these hold fractions.")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise VolumeError(f"Labels must be from 0 to 65535; these reach from {low} to {high}.")
    return array.astype(np.uint8 if high < 256 else np.uint16, copy=False)


def _complete(names: Mapping[int, str] | LabelSet | None, voxels: Mapping[int, int]) -> LabelSet:
    """The given labels, and one with a made-up name for every other value that occurs."""
    given = names if isinstance(names, LabelSet) else LabelSet.from_names(names or {})
    missing = [value for value in voxels if given.get(value) is None]
    made = tuple(Label(v, f"label {v}", color_for(f"label {v}", v)) for v in missing)
    return LabelSet((*given, *made))


def _short(record: Mapping[str, Any]) -> str:
    """The provenance in the few bytes that a NIfTI description has; the JSON file has it all."""
    parts = [str(record["software"])]
    for key in ("variant", "checkpoint_sha256", "sha256", "date"):
        if record.get(key):
            value = str(record[key])
            parts.append(value[:12] if "sha256" in key else value[:24])
    return "; ".join(parts)
