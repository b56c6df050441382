"""Finding the DICOM series in a folder, past whatever else lies there."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.io.dicom.copies import without_copies
from napari_transunet.io.dicom.headers import (
    SUFFIXES,
    Header,
    damage_named,
    description_of,
    is_dicom,
    read_header,
)
from napari_transunet.io.dicom.numbers import number as number_of
from napari_transunet.io.dicom.series import SeriesInfo

_MAX_FILES = 100_000
# Enough of a folder to see whether it is one of DICOM files.
_GLANCE = 32
_NAMED = 3


@dataclass(frozen=True)
class Series:
    """The image files of one series, without copies and without localizers among others.

    Attributes
    ----------
    uid : SeriesInstanceUID, empty where there is none.
    headers : one per file, at least one.
    notes : what was left out or decided, a sentence each.
    problem : why it cannot be read as a volume, although its headers can; None where nothing is known against it.
    """

    uid: str
    headers: tuple[Header, ...]
    notes: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def is_volume_like(self) -> bool:
        """Whether it may be what a user means by "the volume in this folder"."""
        first = self.headers[0]
        return not (first.is_localizer or first.is_color or first.is_segmentation)

    def info(self, number: int) -> SeriesInfo:
        """What to show of it."""
        first = self.headers[0]
        return SeriesInfo(
            uid=self.uid,
            description=description_of(first),
            modality=first.modality,
            slices=sum(header.frames for header in self.headers),
            size=first.size,
            number=number,
        )


@dataclass(frozen=True)
class _Damaged:
    """A file that seems to be DICOM and cannot be read; `series_uid` as far as its header tells, else empty."""

    path: Path
    why: str
    series_uid: str


def is_dicom_folder(folder: Path) -> bool:
    """Whether one of the first files in a folder is DICOM."""
    for number, path in enumerate(_files(folder, recursive=True)):
        if number >= _GLANCE:
            return False
        try:
            if is_dicom(path):
                return True
        except OSError:
            continue
    return False


def _files(folder: Path, *, recursive: bool) -> Iterator[Path]:
    count = 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(names):
            path = Path(where) / name
            # To open a pipe or a socket would wait for whoever writes to it. Broken links stay: they are damage.
            if name.startswith(".") or (not path.is_file() and not path.is_symlink()):
                continue
            count += 1
            if count > _MAX_FILES:
                raise VolumeError(
                    f"the folder holds more than {_MAX_FILES} files; give the folder of one series."
                )
            yield path


def scan(folder: Path, *, recursive: bool) -> list[Series]:
    """The series of images in a folder, in the order of their series numbers.

    A file that cannot be read is passed over, and named in the notes; a series that it seems to belong to has the
    `problem` that an image is missing. A DICOMDIR is passed over too: what lies in the folder counts.
    """
    found: dict[str, list[Header]] = {}
    damaged: list[_Damaged] = []
    others = 0
    for path in _files(folder, recursive=recursive):
        header = _header(path)
        if isinstance(header, _Damaged):
            damaged.append(header)
        elif header is None or not header.is_image:
            others += 1
        else:
            found.setdefault(header.series_uid, []).append(header)
    if not found:
        if damaged:
            raise VolumeError(damaged[0].why)
        what = f"none of its {others} files is a DICOM image" if others else "it is empty"
        raise VolumeError(f"the folder holds no volume: {what}.")
    series = [_series(uid, headers, found, damaged) for uid, headers in found.items()]
    volumes = [one for one in series if not one.headers[0].is_localizer]
    return sorted(volumes or series, key=_number)


def _header(path: Path) -> Header | _Damaged | None:
    """The header of a DICOM file; None of any other file."""
    suffix = path.suffix.lower()
    try:
        if not is_dicom(path):
            if suffix not in SUFFIXES - {""}:
                return None
            return _Damaged(path, f"{path.name} is empty or no DICOM file; copy it again, or remove it.", "")
        header = read_header(path)
    except SizeError:
        raise
    except VolumeError as error:
        return _Damaged(path, str(error), _series_uid(path))
    except OSError as error:
        if suffix not in SUFFIXES:
            return None
        return _Damaged(path, f"{path.name} cannot be read ({error.strerror or error}).", "")
    if header.lacks_image:
        why = f"{path.name} ends inside its header; it is truncated, copy it again or remove it."
        return _Damaged(path, why, header.series_uid)
    return header


def _series_uid(path: Path) -> str:
    """SeriesInstanceUID of a file with a damaged header; empty where it cannot be found."""
    try:
        with damage_named(f"{path.name} is damaged"):
            dataset = pydicom.dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=["SeriesInstanceUID"]
            )
            return str(dataset.get("SeriesInstanceUID") or "")
    except (VolumeError, OSError):
        return ""


def _series(
    uid: str, headers: list[Header], found: dict[str, list[Header]], damaged: Sequence[_Damaged]
) -> Series:
    images = without_copies(headers)
    kept = tuple(header for header in images.kept if not header.is_localizer) or images.kept
    notes, problem = [], None
    for one in damaged:
        if problem is None and _may_belong(one, uid, found):
            # Without its slice the volume would be another one.
            problem = one.why
        else:
            notes.append(f"A damaged file was left out: {one.why}")
    if images.clash is not None:
        first, second = (f"{header.path.parent.name}/{header.path.name}" for header in images.clash)
        problem = (
            f"{first} and {second} have the same SOPInstanceUID and position but different pixels or scaling, as an"
            " original and a processed copy have; give the folder that holds one of them alone."
        )
    if images.copies:
        notes.append(
            f"{_counted(images.copies, 'copy', 'copies')} of images left out: {_names(images.copies)}."
        )
    if images.cut:
        notes.append(
            f"{_counted(images.cut, 'damaged copy', 'damaged copies')} of images left out, which other files have"
            f" whole: {_names(images.cut)}."
        )
    if images.namesakes:
        notes.append(
            f"{images.namesakes} images share their SOPInstanceUID with another one, though each should have its own;"
            " they were read as separate images, by their positions."
        )
    left = images.kept if len(kept) < len(images.kept) else ()
    left = tuple(header for header in left if header.is_localizer)
    if left:
        notes.append(f"{_counted(left, 'localizer')} left out: {_names(left)}.")
    overviews = [
        one for other, those in found.items() if other != uid for one in those if those[0].is_localizer
    ]
    if overviews and not kept[0].is_localizer:
        notes.append(
            f"{_counted(overviews, 'localizer')} in series of their own left out: {_names(overviews)}."
        )
    unspecified = [header for header in kept if header.dataset.get("NumberOfFrames") == 0]
    if unspecified:
        notes.append(f"NumberOfFrames is 0 in {_names(unspecified)}; one image was read.")
    return Series(uid, kept, tuple(notes), problem)


def _may_belong(damaged: _Damaged, uid: str, found: dict[str, list[Header]]) -> bool:
    """Whether a damaged file may be an image of a series: it says so, or only files of the series lie beside it."""
    if damaged.series_uid:
        return damaged.series_uid == uid
    if damaged.path.name.upper() == "DICOMDIR":
        return False
    beside = {
        other
        for other, headers in found.items()
        if any(header.path.parent == damaged.path.parent for header in headers)
    }
    return beside == {uid}


def _counted(headers: Sequence[Header], one: str, several: str | None = None) -> str:
    return f"{len(headers)} {one if len(headers) == 1 else several or one + 's'}"


def _names(headers: Sequence[Header]) -> str:
    names = [header.path.name for header in headers[:_NAMED]]
    return ", ".join(names) + (", ..." if len(headers) > _NAMED else "")


def _number(series: Series) -> tuple[float, str]:
    """Where a series stands in the list. A number that cannot be read changes nothing but that."""
    first = series.headers[0]
    try:
        return (number_of(first.dataset, "SeriesNumber", first.path.name) or 0.0, series.uid)
    except VolumeError:
        return (0.0, series.uid)
