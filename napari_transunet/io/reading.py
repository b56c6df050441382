"""Reading any file that is readable, whatever its format, into one `Volume`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from napari_transunet.errors import FileProblem, SizeError, VolumeError
from napari_transunet.files import file_problems
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.dicom import reading as dicom
from napari_transunet.io.dicom.series import SeriesInfo, SeveralSeriesError
from napari_transunet.io.formats import (
    DICOM,
    FORMATS,
    OME_ZARR,
    READABLE_SUFFIXES,
    Format,
    Request,
    format_of,
)
from napari_transunet.io.ome_zarr.metadata import web_address
from napari_transunet.io.ome_zarr.reading import is_ome_zarr, read_ome_zarr
from napari_transunet.volumes.lazy_array import LazyArray
from napari_transunet.volumes.volume import Volume

__all__ = [
    "READABLE_SUFFIXES",
    "SeriesInfo",
    "SeveralSeriesError",
    "SeveralVolumesError",
    "is_readable",
    "list_series",
    "read_volume",
    "series_folder",
]


def read_volume(
    path: str | os.PathLike[str],
    *,
    series: str | int | None = None,
    channel: int | None = None,
    time: int | None = None,
    key: str | None = None,
    max_bytes: int | None = None,
    level: int | None = None,
    lazy: bool | Literal["large"] = False,
    scan: Path | None = None,
) -> Volume:
    """The volume in a file, or in a folder of DICOM files.

    Parameters
    ----------
    path : NIfTI, NRRD, `.seg.nrrd`, MetaImage, TIFF, `.npy`, `.npz`, HDF5, a DICOM file or a folder of them, the
        folder of an OME-Zarr or its http(s) address. One DICOM file of a series stands for the whole series in its
        folder; a structure set needs its series there, or in `scan`.
    series : which of several DICOM series: its UID, or its number (from 1) in `list_series`. Refused for other
        formats.
    channel, time : which of several volumes in one file, from 0.
    key : which array of an `.npz` or HDF5 file; `image` where there is one.
    max_bytes : the most that the voxels may take; never more than 80 % of the free memory.
    level : which resolution of an OME-Zarr, 0 (the finest) without it. Refused for other formats.
    lazy : leave the voxels of an OME-Zarr where they are, and read what is asked for; `Volume.data` is a `LazyArray`
        then. "large": only of an image that takes more than a quarter of the free memory. Other formats are read as
        ever.
    scan : a folder with the series of a structure set. Other formats need none.

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
    if (address := web_address(path)) is not None:
        where = Path(address.rsplit("/", 1)[-1])
        found = replace(
            OME_ZARR,
            read=lambda one: read_ome_zarr(address, level=one.level, lazy=one.lazy, **one.which),
        )
    else:
        found = _format_for(where)
    if level is not None and found.name != OME_ZARR.name:
        raise VolumeError(f"{where.name}: only OME-Zarr has levels; ask for it without level.")
    if series is not None and found is not DICOM:
        raise VolumeError(
            f"{where.name}: only DICOM has series, and this is no DICOM; ask for it without series."
        )
    try:
        volume = found.read(Request(where, series, channel, time, key, max_bytes, level, lazy, scan))
        if not volume.source.picks:
            asked = {"channel": channel, "time": time, "key": key}
            picks = tuple((which, one) for which, one in asked.items() if one is not None)
            volume = replace(volume, source=replace(volume.source, picks=picks))
        return _with_gaps_said(volume)
    except VolumeError as error:
        # Keeps the class and what it carries, and says which file it is about.
        error.args = (f"{where.name or where}: {error}",)
        raise
    except MemoryError as error:
        raise SizeError(f"{where.name}: it does not fit into memory; crop or downsample it.") from error
    except OSError as error:
        raise FileProblem(f"{where} cannot be read: {error.strerror or error}.") from error


def _with_gaps_said(volume: Volume) -> Volume:
    """The volume, with a note of how many voxels hold no number that can be used; a plane at a time.

    A number that is too large for float32, in which all is computed, becomes infinite.
    """
    data = volume.data
    if data.dtype.kind != "f" or isinstance(data, LazyArray):
        return volume
    largest, gaps, large = float(np.finfo(np.float32).max), 0, 0
    for index, plane in enumerate(data):
        if data.dtype.itemsize > 4 and (beyond := np.isfinite(plane) & (np.abs(plane) > largest)).any():
            large += int(beyond.sum())
            if not data.flags.writeable:
                data = data.copy()
            data[index] = np.where(beyond, np.copysign(np.inf, plane), plane)
        gaps += plane.size - int(np.isfinite(data[index]).sum())
    if not gaps:
        return volume
    what = (
        f"NaN, infinity or, in {large:,} of them, a number beyond ±{largest:.2g}"
        if large
        else "NaN or infinity"
    )
    note = (
        f"{gaps:,} voxels hold no number ({what}); measures leave them out, and the network sees the mean of"
        " their neighbours, or in larger gaps the lowest value."
    )
    return replace(volume, data=data, source=replace(volume.source, notes=(*volume.source.notes, note)))


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
            return is_ome_zarr(where) or dicom.is_dicom_folder(where)
        return where.is_file() and format_of(where) is not None
    except OSError:
        return False


def series_folder(scan: Path | None) -> Path | None:
    """The folder with the DICOM series of a scan, for `read_volume(labels, scan=…)`; None where it is no DICOM."""
    if scan is None:
        return None
    try:
        if scan.is_dir():
            return scan if dicom.is_dicom_folder(scan) else None
        return scan.parent if scan.is_file() and dicom.is_dicom(scan) else None
    except OSError:
        return None


def _format_for(path: Path) -> Format:
    with file_problems(f"{path} cannot be read"):
        if path.is_dir():
            return OME_ZARR if is_ome_zarr(path) else DICOM
        if not path.exists():
            raise FileProblem(f"There is no file or folder {path}.")
        if not path.is_file():
            raise FileProblem(f"{path} is neither a file nor a folder.")
        if path.stat().st_size == 0:
            raise VolumeError(f"{path.name}: the file is empty.")
        found = format_of(path)
    if found is None:
        *most, last = (one.name for one in FORMATS)
        raise VolumeError(f"{path.name}: it is no format that can be read; give {', '.join(most)} or {last}.")
    return found
