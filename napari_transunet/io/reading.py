"""Reading every supported format into one `Volume`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import FileProblem, SizeError, VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.arrays import read_h5, read_npy, read_npz
from napari_transunet.io.dicom import reading as dicom
from napari_transunet.io.dicom.series import SeriesInfo, SeveralSeriesError
from napari_transunet.io.metaimage import read_metaimage
from napari_transunet.io.nifti import read_comments, read_nifti
from napari_transunet.io.nrrd import read_nrrd
from napari_transunet.io.sidecar import believed, labels_from_json, stem_of
from napari_transunet.io.tiff import read_tiff
from napari_transunet.io.writing import LABELS_KEY
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume

if TYPE_CHECKING:
    from napari_transunet.volumes.labels import LabelSet

__all__ = [
    "READABLE_SUFFIXES",
    "SeriesInfo",
    "SeveralSeriesError",
    "SeveralVolumesError",
    "is_readable",
    "list_series",
    "read_volume",
]


@dataclass(frozen=True)
class _Request:
    """What the caller of `read_volume` asked for."""

    path: Path
    series: str | int | None
    channel: int | None
    time: int | None
    key: str | None
    max_bytes: int | None


def _nifti(request: _Request) -> Volume:
    data, geometry, notes = read_nifti(
        request.path, channel=request.channel, time=request.time, max_bytes=request.max_bytes
    )
    volume = _with_sidecar(request.path, "NIfTI", data, geometry, notes)
    if volume.labels is None and data.dtype.kind in "iu":
        labels, said = _commented(request.path)
        source = replace(volume.source, notes=(*volume.source.notes, *said))
        volume = replace(volume, labels=labels, source=source)
    return volume


def _nrrd(request: _Request) -> Volume:
    data, geometry, notes, header, segments = read_nrrd(
        request.path, channel=request.channel, time=request.time, max_bytes=request.max_bytes
    )
    if segments is None:
        segments, said = _embedded(header.keys)
        notes += said
    kind = "NRRD segmentation" if segments is not None else "NRRD"
    modality = header.keys.get("modality") or header.keys.get("DICOM_0008_0060")
    return _with_sidecar(request.path, kind, data, geometry, notes, labels=segments, modality=modality)


def _metaimage(request: _Request) -> Volume:
    data, geometry, notes, header = read_metaimage(
        request.path, channel=request.channel, time=request.time, max_bytes=request.max_bytes
    )
    modality = (header.get("Modality") or "").removeprefix("MET_MOD_")
    labels, said = _embedded(header.fields)
    return _with_sidecar(
        request.path,
        "MetaImage",
        data,
        geometry,
        notes + said,
        labels=labels,
        modality=modality if modality not in ("", "UNKNOWN", "OTHER") else None,
    )


def _tiff(request: _Request) -> Volume:
    data, geometry, notes = read_tiff(
        request.path, channel=request.channel, time=request.time, max_bytes=request.max_bytes
    )
    return _with_sidecar(request.path, "TIFF", data, geometry, notes)


def _npy(request: _Request) -> Volume:
    data = read_npy(request.path, channel=request.channel, time=request.time, max_bytes=request.max_bytes)
    return _bare(request.path, "npy", data, None)


def _npz(request: _Request) -> Volume:
    data, key = read_npz(
        request.path,
        key=request.key,
        channel=request.channel,
        time=request.time,
        max_bytes=request.max_bytes,
    )
    return _bare(request.path, "npz", data, key)


def _h5(request: _Request) -> Volume:
    data, key = read_h5(
        request.path,
        key=request.key,
        channel=request.channel,
        time=request.time,
        max_bytes=request.max_bytes,
    )
    return _bare(request.path, "HDF5", data, key)


def _dicom(request: _Request) -> Volume:
    return dicom.read_dicom(
        request.path,
        series=request.series,
        channel=request.channel,
        time=request.time,
        max_bytes=request.max_bytes,
    )


# Longest endings first: ".npy.h5" is looked up before ".h5".
_READERS: Mapping[str, Callable[[_Request], Volume]] = MappingProxyType(
    {
        ".nii.gz": _nifti,
        ".hdr.gz": _nifti,
        ".img.gz": _nifti,
        ".npy.h5": _h5,
        ".npz.h5": _h5,
        ".seg.nrrd": _nrrd,
        ".nii": _nifti,
        ".hdr": _nifti,
        ".img": _nifti,
        ".nrrd": _nrrd,
        ".nhdr": _nrrd,
        ".mha": _metaimage,
        ".mhd": _metaimage,
        ".dcm": _dicom,
        ".dicom": _dicom,
        ".ima": _dicom,
        ".tif": _tiff,
        ".tiff": _tiff,
        ".npy": _npy,
        ".npz": _npz,
        ".h5": _h5,
        ".hdf5": _h5,
    }
)
READABLE_SUFFIXES = tuple(_READERS)


def read_volume(
    path: str | os.PathLike[str],
    *,
    series: str | int | None = None,
    channel: int | None = None,
    time: int | None = None,
    key: str | None = None,
    max_bytes: int | None = None,
) -> Volume:
    """The volume in a file, or in a folder of DICOM files.

    Parameters
    ----------
    path : NIfTI, NRRD, `.seg.nrrd`, MetaImage, TIFF, `.npy`, `.npz`, HDF5, a DICOM file or a folder of them. One
        DICOM file of a series stands for the whole series in its folder.
    series : which of several DICOM series: its UID, or its number (from 1) in `list_series`. Refused for other
        formats.
    channel, time : which of several volumes in one file, from 0.
    key : which array of an `.npz` or HDF5 file; `image` where there is one.
    max_bytes : the most that the voxels may take; never more than 80 % of the free memory.

    Returns
    -------
    Volume
        (z, y, x) in the stored type, in native byte order, with rescaling applied; integers stay integers where
        that is exact.

    Raises
    ------
    VolumeError
        No volume of one value per voxel on a rectangular grid can be read from it; the text says why.
    SeveralSeriesError
        A folder holds several DICOM series and none was chosen (a `VolumeError` with the list).
    SeveralVolumesError
        A file or series holds several channels, time points, arrays or the like and none was chosen (a
        `VolumeError` that says what there is).
    SizeError
        It does not fit into memory (a `VolumeError`).
    FileProblem
        There is no such file, or it may not be read.
    """
    where = Path(path)
    reader = _reader_for(where)
    if series is not None and reader is not _dicom:
        raise VolumeError(
            f"{where.name}: only DICOM has series, and this is no DICOM; ask for it without series."
        )
    try:
        return _with_gaps_said(reader(_Request(where, series, channel, time, key, max_bytes)))
    except VolumeError as error:
        # Keeps the class and what it carries, and says which file it is about.
        error.args = (f"{where.name or where}: {error}",)
        raise
    except MemoryError as error:
        raise SizeError(f"{where.name}: it does not fit into memory; crop or downsample it.") from error
    except OSError as error:
        raise FileProblem(f"{where} cannot be read: {error.strerror or error}.") from error


def _with_gaps_said(volume: Volume) -> Volume:
    """The volume, with a note of how many voxels hold no number; a plane at a time."""
    if volume.data.dtype.kind != "f":
        return volume
    gaps = sum(plane.size - int(np.isfinite(plane).sum()) for plane in volume.data)
    if not gaps:
        return volume
    note = (
        f"{gaps:,} voxels hold no number (NaN or infinity); measures leave them out, and the network sees the mean of"
        " their neighbours, or in larger gaps the lowest value."
    )
    return replace(volume, source=replace(volume.source, notes=(*volume.source.notes, note)))


def list_series(path: str | os.PathLike[str]) -> list[SeriesInfo]:
    """The DICOM series in a folder, or beside and including a DICOM file (its own series first).

    Empty for anything that is not DICOM.

    Raises
    ------
    FileProblem
        There is no such file or folder.
    """
    where = Path(path)
    if not where.exists():
        raise FileProblem(f"There is no file or folder {where}.")
    if where.is_file() and not dicom.is_dicom(where):
        return []
    return dicom.list_series(where)


def is_readable(path: str | os.PathLike[str]) -> bool:
    """Whether `read_volume` is worth trying, by name and first bytes only."""
    where = Path(path)
    try:
        if where.is_dir():
            return dicom.is_dicom_folder(where)
        return where.is_file() and (_by_name(where) or _by_content(where)) is not None
    except OSError:
        return False


def _reader_for(path: Path) -> Callable[[_Request], Volume]:
    try:
        if path.is_dir():
            return _dicom
        if not path.exists():
            raise FileProblem(f"There is no file or folder {path}.")
        if not path.is_file():
            raise FileProblem(f"{path} is neither a file nor a folder.")
        if path.stat().st_size == 0:
            raise VolumeError(f"{path.name}: the file is empty.")
        reader = _by_name(path) or _by_content(path)
    except OSError as error:
        if isinstance(error, FileProblem):
            raise
        raise FileProblem(f"{path} cannot be read: {error.strerror or error}.") from error
    if reader is None:
        raise VolumeError(
            f"{path.name}: it is no format that can be read; give NIfTI, NRRD, MetaImage, DICOM, TIFF, npy, npz"
            " or HDF5."
        )
    return reader


def _by_name(path: Path) -> Callable[[_Request], Volume] | None:
    lower = path.name.lower()
    return next((reader for suffix, reader in _READERS.items() if lower.endswith(suffix)), None)


def _by_content(path: Path) -> Callable[[_Request], Volume] | None:
    if dicom.is_dicom(path):
        return _dicom
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"NRRD000"):
        return _nrrd
    return _metaimage if start.startswith(b"ObjectType") else None


def _with_sidecar(
    path: Path,
    kind: str,
    data: npt.NDArray[Any],
    geometry: Geometry,
    notes: tuple[str, ...],
    *,
    labels: LabelSet | None = None,
    modality: str | None = None,
) -> Volume:
    beside = believed(path)
    if labels is None and np.asarray(data).dtype.kind in "iu":
        labels = beside.labels
    source = Source(path, kind, stem_of(path), notes=(*notes, *beside.notes))
    return Volume(data, geometry, modality or beside.modality, source, labels)


def _bare(path: Path, kind: str, data: npt.NDArray[Any], key: str | None) -> Volume:
    shape = (data.shape[0], data.shape[1], data.shape[2])
    notes: tuple[str, ...] = () if key is None else (f"Array {key!r} was read.",)
    notes += ("The file says nothing about voxel size or orientation; 1 mm voxels were assumed.",)
    return Volume(data, Geometry.default(shape), None, Source(path, kind, stem_of(path), notes=notes))


def _commented(path: Path) -> tuple[LabelSet | None, tuple[str, ...]]:
    """The labels that `write_labels` put into a comment of a NIfTI header, one `key = value` a line."""
    for comment in read_comments(path):
        keys = dict(line.split(" = ", 1) for line in comment.splitlines() if " = " in line)
        if LABELS_KEY in keys:
            return _embedded(keys)
    return None, ()


def _embedded(keys: Mapping[str, str]) -> tuple[LabelSet | None, tuple[str, ...]]:
    """The labels that `write_labels` put into a header, and what to say where they cannot be understood."""
    text = keys.get(LABELS_KEY)
    if text is None:
        return None, ()
    try:
        return labels_from_json(json.loads(text)), ()
    except (ValueError, RecursionError) as error:
        return None, (f"The label names in the header were ignored: {str(error)[:200].rstrip('.')}.",)
