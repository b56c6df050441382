"""The scan behind labels: whether it is still what they were made on, and that nothing is written over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_transunet.errors import FileProblem, VolumeError
from napari_transunet.io.dicom.headers import is_dicom, read_header

if TYPE_CHECKING:
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
