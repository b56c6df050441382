"""What lies behind labels: their scan, by state or hash, which is not written over, and what made those of a file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_transunet.errors import FileProblem, VolumeError
from napari_transunet.files import known_sha256, sha256
from napari_transunet.io.dicom.headers import is_dicom, read_header
from napari_transunet.io.ome_zarr.metadata import (
    PROVENANCE_KEY,
    group_attributes,
    made_of_other_time,
)
from napari_transunet.io.reading import read_volume
from napari_transunet.io.sidecar import clean, is_ours, read_sidecar
from napari_transunet.volumes.fingerprint import scan_fingerprint
from napari_transunet.volumes.volume import Source


@dataclass(frozen=True)
class SourceState:
    """What a scan's file or folder was like when it was opened, to see whether it still is."""

    path: Path
    files: int
    size: int
    modified: int


def source_state(source: Source | None) -> SourceState | None:
    """The state of a scan on disk now; None for a scan without a file.

    Raises
    ------
    FileProblem
        It is gone.
    """
    if source is None or source.path is None:
        return None
    path = source.path
    try:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        stats = [file.stat() for file in files]
    except OSError as error:
        raise FileProblem(
            f"The scan {path.name} is gone; put it back, or open it again from where it is now, and export then."
        ) from error
    return SourceState(
        path,
        len(stats),
        sum(stat.st_size for stat in stats),
        max((stat.st_mtime_ns for stat in stats), default=0),
    )


def check_source(source: Source | None, before: SourceState | None) -> None:
    """Refuse where the scan on disk is no longer what the labels were made on.

    Raises
    ------
    FileProblem
        It is gone.
    VolumeError
        It has changed.
    """
    if before is not None and source_state(source) != before:
        raise VolumeError(
            f"The scan {before.path.name} was changed since it was opened; open it again and compare before you export."
        )


def is_scan(path: Path, source: Source) -> bool:
    """Whether a path leads to the scan or to an image of its series, under whatever name."""
    if source.path is None:
        return False
    try:
        if path.samefile(source.path):
            return True
        return (
            bool(source.series_uid) and is_dicom(path) and read_header(path).series_uid == source.series_uid
        )
    except OSError:
        return path.absolute() == source.path.absolute()
    except VolumeError:  # damaged, and perhaps of the series
        return True


def provenance_of_file(path: Path, time: int | None = None) -> dict[str, Any]:
    """What a file of labels, or an OME-Zarr, tells of what made them; empty where it tells nothing.

    The JSON file beside labels tells nothing of what was changed since by another program, and an OME-Zarr nothing of
    another time point (`time`) than that whose labels were made. A file's hash, a second for each GB, is found once for
    every state of it: whoever reads it off the GUI thread asks there first.
    """
    try:
        if path.is_dir():
            attributes = group_attributes(path) or {}
            other = made_of_other_time(attributes, time) is not None
            told = None if other else attributes.get(PROVENANCE_KEY)
        else:
            content, _ = read_sidecar(path)
            same = is_ours(path) and content.get("file") == clean(path.name)
            told = content.get("provenance") if same and content.get("sha256") == known_sha256(path) else None
    except (OSError, VolumeError):
        told = None
    return told if isinstance(told, dict) else {}


_WHOLE = (".nii", ".nii.gz", ".npy", ".npz", ".tif", ".tiff", ".h5", ".hdf5")
"""Endings of formats that keep all of a volume in the one file."""


def source_hash(source: Path) -> str:
    """Hexadecimal SHA-256 of what `read_volume` reads from `source`.

    Of a folder, it is over the names and bytes of all files below it; of a file that is a whole volume, over its
    bytes. Where a file may name others that hold the voxels, or is one of a series, the volume is read and
    `scan_fingerprint` taken.

    Raises
    ------
    FileProblem
        There is no such file or folder.
    VolumeError
        It had to be read, and cannot be.
    """
    if source.is_dir():
        digest = hashlib.sha256()
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            name = path.relative_to(source).as_posix().encode("utf-8", "surrogateescape")
            digest.update(hashlib.sha256(name).digest() + bytes.fromhex(sha256(path)))
        return digest.hexdigest()
    if not source.exists():
        raise FileProblem(f"There is no file or folder {source}.")
    if source.name.lower().endswith(_WHOLE):
        return sha256(source)
    return scan_fingerprint(read_volume(source))
