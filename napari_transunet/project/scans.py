"""The scans of a project: finding them in folders, telling one from another, and finding one again that moved."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_transunet.errors import FileProblem, TransUNetError, VolumeError
from napari_transunet.files import sha256
from napari_transunet.io.pairing import DICOM_ENDINGS
from napari_transunet.io.sidecar import describes, stem_of
from napari_transunet.project.case import ScanReference

if TYPE_CHECKING:
    from napari_transunet.io.dicom.series_search import Series
    from napari_transunet.volumes.volume import Volume

_HEADERS = (".mhd", ".nhdr", ".hdr", ".hdr.gz")
"""Endings of files whose voxels lie in another file of the same stem."""

_DATA = (".raw", ".raw.gz", ".zraw", ".img", ".img.gz", ".gz", ".bz2")
_LABELS = re.compile(
    r"(?:^|[ _.-])(?:labels?|seg|segmentations?|masks?|ground[ _-]?truth)(?:$|[ _.-])", re.IGNORECASE
)
_LABEL_FOLDERS = re.compile(r"(?:labels?|labels(?:tr|ts)|seg|segmentations?|masks?)", re.IGNORECASE)
_MANY = 200_000

Progress = Callable[[int, int], None]
Presence = Literal["here", "moved", "changed", "missing"]


@dataclass(frozen=True)
class FoundScan:
    """A scan that may become a case.

    Attributes
    ----------
    name : what people read
    path : the file, or the folder that holds the files of a DICOM series
    files : its files
    series : the SeriesInstanceUID
    modality : where its headers tell
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    series: str | None = None
    modality: str | None = None


@dataclass
class Findings:
    """What lies in some files and folders: scans, and what was left out, with the reason."""

    scans: list[FoundScan] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find_scans(places: Iterable[Path]) -> Findings:
    """The scans among files and in folders, at any depth; DICOM files by series.

    In folders, files that hold labels by their name or by the JSON file beside them are left out; a file that is named
    is taken.
    """
    found = Findings()
    for place in places:
        if place.is_dir():
            _search(place, found)
        elif place.is_file():
            found.scans.append(_file(place))
        else:
            raise FileProblem(f"There is no file or folder {place}.")
    return found


def reference(scan: FoundScan, project: Path) -> ScanReference:
    """What a case keeps of a scan: where it lies, and its hash, for which its files are read once."""
    size, modified = _extent(scan.files)
    absolute = Path(os.path.abspath(scan.path))  # noqa: PTH100  a link has a name of its own
    try:
        relative = Path(os.path.relpath(absolute, project)).as_posix()
    except ValueError:  # another drive
        relative = absolute.as_posix()
    return ScanReference(
        path=relative,
        absolute=str(absolute),
        series=scan.series,
        sha256=_hash(scan.files),
        size=size,
        modified=modified,
        files=len(scan.files),
    )


def locate(scan: ScanReference, project: Path) -> tuple[Path | None, Presence]:
    """Where a scan lies now, and whether it is what it was; a look at sizes and times, and the hash where they differ.

    "missing" is also what lies where nobody would look: see `find_again`.
    """
    changed = None
    for place in scan.places(project):
        if not place.exists():
            continue
        try:
            files = files_of(place, scan.series)
            size, modified = _extent(files)
            same = (size, modified, len(files)) == (scan.size, scan.modified, scan.files)
            if same or (size == scan.size and _hash(files) == scan.sha256):
                return place, "here"
        except (FileProblem, VolumeError):
            continue
        changed = changed or place
    return (changed, "changed") if changed is not None else (None, "missing")


def find_again(
    wanted: Sequence[ScanReference], places: Iterable[Path], project: Path
) -> dict[str, ScanReference]:
    """Scans that moved, found by their hashes in files and folders: hash -> where it lies now.

    Only files of the size of one that is wanted are read.
    """
    sizes = {one.size for one in wanted}
    hashes = {one.sha256 for one in wanted}
    found = {}
    for scan in find_scans(places).scans:
        if _extent(scan.files)[0] not in sizes:
            continue
        there = reference(scan, project)
        if there.sha256 in hashes:
            found[there.sha256] = there
    return found


def read_scan(scan: ScanReference, project: Path) -> Volume:
    """The volume of a case."""
    place, presence = locate(scan, project)
    if place is None:
        raise FileProblem(
            f"The scan {scan.absolute} is not there any more; put it back, or say where it is with “project locate”."
        )
    if presence == "changed":
        raise VolumeError(
            f"The scan {place} was changed since it came into the project, so its labels may not fit; put the old file "
            "back, or add the new one as a case of its own."
        )
    from napari_transunet.io.reading import read_volume

    return read_volume(place, series=scan.series)


def files_of(place: Path, series: str | None) -> tuple[Path, ...]:
    """The files of a scan: one, with the voxels that lie beside it, or those of a DICOM series."""
    if place.is_dir():
        from napari_transunet.io.dicom.series_search import scan as dicom_series

        for one in dicom_series(place, recursive=True):
            if series in (None, one.uid):
                return tuple(sorted({header.path for header in one.headers}))
        raise VolumeError(f"{place.name}: the DICOM series {series} is not in it any more.")
    return _with_data(place)


def _search(folder: Path, found: Findings) -> None:
    from napari_transunet.io.dicom.headers import is_dicom
    from napari_transunet.io.dicom.series_search import scan as dicom_series
    from napari_transunet.io.reading import READABLE_SUFFIXES, is_readable

    files, dicom = [], False
    for path in _walk(folder, found):
        lower = path.name.lower()
        try:
            if lower.endswith(DICOM_ENDINGS) or (not lower.endswith(READABLE_SUFFIXES) and is_dicom(path)):
                dicom = True
            elif lower.endswith(READABLE_SUFFIXES):
                files.append(path)
        except OSError as error:
            found.left_out.append(f"{path}: {error.strerror or error}")
    data = {other for path in files for other in _with_data(path)[1:]}
    for path in files:
        if path in data:
            continue
        if _may_hold_labels(path, folder) or describes(path):
            found.left_out.append(
                f"{path}: it holds labels, by its name, its folder's, or the file beside it; name the file to take it"
            )
        elif not is_readable(path):
            found.left_out.append(f"{path}: it is no format that can be read")
        else:
            found.scans.append(_file(path))
    if dicom:
        try:
            for series in dicom_series(folder, recursive=True):
                _add_series(series, folder, found)
        except TransUNetError as error:
            found.left_out.append(f"{folder}: {error}")


def _may_hold_labels(path: Path, root: Path) -> bool:
    """Whether a name says so: the file's, or that of a folder between it and the one that is searched."""
    if _LABELS.search(stem_of(path)) or path.name.lower().endswith(".seg.nrrd"):
        return True
    return any(_LABEL_FOLDERS.fullmatch(part) for part in path.parent.relative_to(root).parts)


def _add_series(series: Series, folder: Path, found: Findings) -> None:
    files = tuple(sorted({header.path for header in series.headers}))
    where = Path(os.path.commonpath([path.parent for path in files]))
    if not series.is_volume_like:
        found.left_out.append(f"{where}: a series of other images than a scan's")
        return
    if not series.uid and len(files) == 1:
        found.scans.append(_file(files[0]))
        return
    info = series.info(1)
    name = where.name if where != folder or not info.description else f"{where.name} {info.description}"
    found.scans.append(FoundScan(name, where, files, series.uid or None, info.modality))


def _walk(folder: Path, found: Findings) -> Iterator[Path]:
    from napari_transunet.io.ome_zarr.reading import is_ome_zarr

    count = 0
    for where, folders, names in os.walk(folder):
        if is_ome_zarr(Path(where)):
            found.left_out.append(f"{where}: projects take no Zarr; make a file of an image with “convert”")
            folders.clear()
            continue
        # What is ours is no scan: a project may lie beside its scans.
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (Path(where, name) / "project.json").is_file()
        )
        for name in sorted(names):
            path = Path(where, name)
            if name.startswith(".") or not path.is_file():
                continue
            count += 1
            if count > _MANY:
                raise VolumeError(f"{folder} holds more than {_MANY} files; name the folders of the scans.")
            yield path


def _file(path: Path) -> FoundScan:
    return FoundScan(stem_of(path), path, _with_data(path))


def _with_data(path: Path) -> tuple[Path, ...]:
    """A file, and the one beside it that holds its voxels where it is only a header."""
    if not path.name.lower().endswith(_HEADERS):
        return (path,)
    stem = stem_of(path)
    beside = [path.with_name(stem + ending) for ending in _DATA]
    return (path, *(other for other in beside if other.is_file()))


def _extent(files: Sequence[Path]) -> tuple[int, int]:
    """Bytes of all files, and the newest time of change in ns."""
    try:
        about = [path.stat() for path in files]
    except OSError as error:
        raise FileProblem(f"{error.filename} cannot be read: {error.strerror or error}.") from error
    return sum(one.st_size for one in about), max((one.st_mtime_ns for one in about), default=0)


def _hash(files: Sequence[Path]) -> str:
    try:
        hashes = sorted(sha256(path) for path in files)
    except OSError as error:
        raise FileProblem(f"{error.filename} cannot be read: {error.strerror or error}.") from error
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
