"""Finding DICOM files and reading their headers. Pixels are never touched here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pydicom
from pydicom.config import IGNORE
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from napari_transunet.errors import SizeError, TransUNetError, VolumeError
from napari_transunet.volumes.limits import MAX_DEFLATE_RATIO, memory_limit
from napari_transunet.volumes.series import SeriesInfo

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
DIRECTORY = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED = 0xFFFFFFFF
_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ""})
_MAX_FILES = 100_000
# Enough of a folder to see whether it is one of DICOM files.
_GLANCE = 32

PACKING = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
"""How pixels lie in a file: what a decoder needs besides them."""

_TAGS = [
    Tag(name)
    for name in (
        "SpecificCharacterSet",
        "ImageType",
        "SOPClassUID",
        "SOPInstanceUID",
        "Modality",
        "SeriesDescription",
        "SeriesInstanceUID",
        "SeriesNumber",
        "AcquisitionNumber",
        "InstanceNumber",
        "TemporalPositionIdentifier",
        "EchoTime",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "FrameOfReferenceUID",
        "SliceThickness",
        "SpacingBetweenSlices",
        "PixelSpacing",
        "ImagerPixelSpacing",
        *PACKING,
        "RescaleIntercept",
        "RescaleSlope",
        "ModalityLUTSequence",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "SegmentationType",
        "SegmentSequence",
    )
]


@dataclass(frozen=True)
class PixelPlace:
    """Where the value of PixelData lies in a file of little byte order.

    Attributes
    ----------
    offset : of its first byte.
    length : in bytes, as the header says; None where it is undefined, as it is of packed pixels.
    syntax : transfer syntax.
    """

    offset: int
    length: int | None
    syntax: UID


@dataclass(frozen=True)
class Header:
    """One DICOM file and the part of its header that is used here.

    `pixels` is None where the pixels are missing, or can only be found by unpacking the whole file.
    """

    path: Path
    dataset: Dataset
    pixels: PixelPlace | None = None

    @cached_property
    def series_uid(self) -> str:
        """SeriesInstanceUID, empty where there is none."""
        return str(self.dataset.get("SeriesInstanceUID") or "")

    @cached_property
    def modality(self) -> str | None:
        """Modality; that of the image where there is one."""
        return str(self.dataset.get("Modality") or "").strip().upper() or None

    @cached_property
    def size(self) -> tuple[int, int]:
        """(rows, columns), (0, 0) where there is no image."""
        return (int(self.dataset.get("Rows") or 0), int(self.dataset.get("Columns") or 0))

    @cached_property
    def frames(self) -> int:
        """Images in the file."""
        return max(int(self.dataset.get("NumberOfFrames") or 1), 1)

    @cached_property
    def is_image(self) -> bool:
        """Whether the file has pixels at all."""
        return min(self.size) > 0

    @cached_property
    def kind(self) -> UID | None:
        """SOP class, from the head of the file (which a truncated file still has) or else from the data set."""
        meta = getattr(self.dataset, "file_meta", None)
        value = (meta.get("MediaStorageSOPClassUID") if meta else None) or self.dataset.get("SOPClassUID")
        return UID(str(value), validation_mode=IGNORE) if value else None

    @cached_property
    def lacks_image(self) -> bool:
        """Whether it says that it is an image, or does not say what it is, and yet has no pixels."""
        return not self.is_image and (self.kind is None or "Image Storage" in self.kind.name)

    @cached_property
    def is_segmentation(self) -> bool:
        """Whether it is a DICOM segmentation object."""
        return self.kind == SEGMENTATION

    @cached_property
    def is_localizer(self) -> bool:
        """Whether it is an overview image that only shows where the slices lie."""
        return "LOCALIZER" in [str(word).upper() for word in _listed(self.dataset.get("ImageType"))]

    @cached_property
    def is_color(self) -> bool:
        """Whether its pixels have several samples or index a palette."""
        photometric = str(self.dataset.get("PhotometricInterpretation") or "MONOCHROME2").upper()
        return int(self.dataset.get("SamplesPerPixel") or 1) > 1 or not photometric.startswith("MONOCHROME")


@dataclass(frozen=True)
class Series:
    """The image files of one series, without repeated ones and without localizers among others."""

    uid: str
    headers: tuple[Header, ...]

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


def description_of(header: Header) -> str:
    """SeriesDescription in printable characters."""
    text = str(header.dataset.get("SeriesDescription") or "")
    return "".join(char for char in text if char.isprintable()).strip()[:80]


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Turns whatever pydicom and SimpleITK raise on damaged bytes into a `VolumeError` that begins with `what`.

    Their exceptions for the same damage range from struct.error to NotImplementedError and OSError without a
    number. What they warn about is either mended by them or ends here, so the warnings are not shown.
    """
    with warnings.catch_warnings(), damage_named_in_thread(what):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def damage_named_in_thread(what: str) -> Iterator[None]:
    """The same without a word to `warnings`, whose filters are shared by all threads: whoever waits silences them."""
    try:
        yield
    except (TransUNetError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = (lines[-1] if lines else type(error).__name__)[:160]
        raise VolumeError(f"{what} ({''.join(c for c in detail if c.isprintable())}).") from error


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes (the preamble, or a data set that starts without one)."""
    with path.open("rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return True
    if len(head) < 16 or path.suffix.lower() not in _SUFFIXES or head[:2] != b"\x08\x00":
        return False
    element = int.from_bytes(head[2:4], "little")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return element < 0x0100 and (explicit or int.from_bytes(head[4:8], "little") < 256)


def is_dicom_folder(folder: Path) -> bool:
    """Whether one of the first files in a folder is DICOM."""
    for number, path in enumerate(_files(folder, recursive=True)):
        if number >= _GLANCE:
            return False
        if _is_dicom_quietly(path):
            return True
    return False


def _is_dicom_quietly(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return False


def _files(folder: Path, *, recursive: bool) -> Iterator[Path]:
    count = 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(names):
            if name.startswith("."):
                continue
            count += 1
            if count > _MAX_FILES:
                raise VolumeError(
                    f"the folder holds more than {_MAX_FILES} files; give the folder of one series."
                )
            yield Path(where) / name


def read_header(path: Path) -> Header:
    """The header of one file.

    Raises
    ------
    VolumeError
        The file is damaged or ends inside the header.
    """
    with path.open("rb") as file, damage_named(f"the DICOM header of {path.name} is damaged or truncated"):
        _check_deflated(path, file)
        file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        # Values are converted on first use; convert all of them while errors are caught.
        for element in (*getattr(dataset, "file_meta", ()), *dataset.iterall()):
            _ = element.value
        header = Header(path, dataset, _pixel_place(file, dataset))
        _ = (header.size, header.frames, header.is_localizer, header.is_color, header.lacks_image)
    if not dataset:
        raise VolumeError(f"{path.name} has no readable DICOM header; it is damaged or truncated.")
    return header


def check_deflated(path: Path) -> None:
    """Refuses a file of the deflated transfer syntax that might not fit into memory.

    pydicom inflates such a file in one piece, so the most that it can hold is compared with the memory there is.

    Raises
    ------
    SizeError
        It might not fit.
    """
    with path.open("rb") as file:
        _check_deflated(path, file)


def _check_deflated(path: Path, file: IO[bytes]) -> None:
    if _DEFLATED.encode() in file.read(4096) and path.stat().st_size * MAX_DEFLATE_RATIO > memory_limit(None):
        raise SizeError(f"{path.name} is deflated and may not fit into memory; store it in another syntax.")


def _pixel_place(file: IO[bytes], dataset: Dataset) -> PixelPlace | None:
    """Where the pixels lie in a file that was read up to them."""
    meta = getattr(dataset, "file_meta", None)
    syntax = UID(str((meta.get("TransferSyntaxUID") if meta else None) or ""), validation_mode=IGNORE)
    start, head = file.tell(), file.read(12)
    if not syntax or syntax == ExplicitVRBigEndian or len(head) < 12 or head[:4] != b"\xe0\x7f\x10\x00":
        return None
    if head[4:8] in (b"OB\0\0", b"OW\0\0"):
        offset, length = start + 12, int.from_bytes(head[8:], "little")
    elif syntax == ImplicitVRLittleEndian:
        offset, length = start + 8, int.from_bytes(head[4:8], "little")
    else:
        return None
    return PixelPlace(offset, None if length == _UNDEFINED else length, syntax)


def scan(folder: Path, *, recursive: bool) -> list[Series]:
    """The series of images in a folder, in the order of their series numbers.

    Raises
    ------
    VolumeError
        There are no DICOM images, or one of the files is damaged.
    """
    found: dict[str, list[Header]] = {}
    others = 0
    for path in _files(folder, recursive=recursive):
        if not _is_dicom_quietly(path):
            if path.suffix.lower() in _SUFFIXES - {""}:
                raise VolumeError(f"{path.name} is empty or no DICOM file; copy it again, or remove it.")
            others += 1
            continue
        # A damaged file is not passed over: without its slice the volume would be another one.
        header = read_header(path)
        if header.lacks_image:
            raise VolumeError(
                f"{path.name} ends inside its header; it is truncated, copy it again or remove it."
            )
        if header.is_image:
            found.setdefault(header.series_uid, []).append(header)
        else:
            others += 1
    if not found:
        what = f"none of its {others} files is a DICOM image" if others else "it is empty"
        raise VolumeError(f"the folder holds no volume: {what}.")
    series = [Series(uid, _without_strays(headers)) for uid, headers in found.items()]
    if any(not one.headers[0].is_localizer for one in series):
        series = [one for one in series if not one.headers[0].is_localizer]
    return sorted(series, key=_number)


def _without_strays(headers: list[Header]) -> tuple[Header, ...]:
    """The headers without copies of the same image, and without localizers unless there is nothing else."""
    unique: dict[str, Header] = {}
    for header in headers:
        unique.setdefault(str(header.dataset.get("SOPInstanceUID") or header.path), header)
    kept = [header for header in unique.values() if not header.is_localizer]
    return tuple(kept or unique.values())


def _number(series: Series) -> tuple[float, str]:
    try:
        return (float(series.headers[0].dataset.get("SeriesNumber") or 0), series.uid)
    except (TypeError, ValueError):
        return (0.0, series.uid)


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value) if hasattr(value, "__iter__") else [value]
