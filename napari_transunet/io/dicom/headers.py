"""Reading the headers of DICOM files. Pixels are never touched here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pydicom
from pydicom.config import IGNORE
from pydicom.datadict import keyword_for_tag
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from napari_transunet.errors import SizeError, TransUNetError, VolumeError
from napari_transunet.io.dicom.numbers import whole_number
from napari_transunet.io.streams import MAX_DEFLATE_RATIO, memory_limit

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Segmentations of voxels: one bit or a fraction per segment, and label maps.
_SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
DIRECTORY = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED = 0xFFFFFFFF
SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ""})
# What pydicom warns of is either mended by it or ends in a sentence here. The filters are shared by all threads of a
# process, so that to set and unset one around each file would undo what other threads set; one is set once.
warnings.filterwarnings("ignore", module=r"pydicom\.")

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
        "ManufacturerModelName",
        "SOPClassUID",
        "SOPInstanceUID",
        "Modality",
        "PatientID",
        "SeriesDescription",
        "SeriesInstanceUID",
        "SeriesNumber",
        "AcquisitionNumber",
        "InstanceNumber",
        "TemporalPositionIdentifier",
        "EchoTime",
        "InversionTime",
        "DiffusionBValue",
        "TriggerTime",
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
        "RescaleType",
        "ModalityLUTSequence",
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "SegmentationType",
        "SegmentSequence",
        "MaximumFractionalValue",
        "PixelPaddingValue",
        "ReferencedSeriesSequence",
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
        return (self._whole("Rows") or 0, self._whole("Columns") or 0)

    @cached_property
    def frames(self) -> int:
        """Images in the file; 0 of them are counted as one, as other readers do."""
        return self._whole("NumberOfFrames") or 1

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
        return self.kind in _SEGMENTATIONS

    @cached_property
    def is_localizer(self) -> bool:
        """Whether it is an overview image that only shows where the slices lie."""
        return "LOCALIZER" in [str(word).upper() for word in listed(self.dataset.get("ImageType"))]

    @cached_property
    def is_color(self) -> bool:
        """Whether its pixels have several samples or index a palette."""
        photometric = str(self.dataset.get("PhotometricInterpretation") or "MONOCHROME2").upper()
        return (self._whole("SamplesPerPixel") or 1) > 1 or not photometric.startswith("MONOCHROME")

    def _whole(self, name: str) -> int | None:
        count = whole_number(self.dataset, name, self.path.name)
        if count is not None and count < 0:
            raise VolumeError(
                f"{name} of {self.path.name} is {count}, which is no count; the header is damaged."
            )
        return count


def description_of(header: Header) -> str:
    """SeriesDescription in printable characters."""
    text = str(header.dataset.get("SeriesDescription") or "")
    return "".join(char for char in text if char.isprintable()).strip()[:80]


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Turns whatever pydicom and SimpleITK raise on damaged bytes into a `VolumeError` that begins with `what`.

    Their exceptions for the same damage range from struct.error to NotImplementedError and OSError without a
    number.
    """
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
    if len(head) < 16 or path.suffix.lower() not in SUFFIXES or head[:2] != b"\x08\x00":
        return False
    element = int.from_bytes(head[2:4], "little")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return element < 0x0100 and (explicit or int.from_bytes(head[4:8], "little") < 256)


def read_header(path: Path) -> Header:
    """The header of one file."""
    with path.open("rb") as file, damage_named(f"the DICOM header of {path.name} is damaged or truncated"):
        _check_deflated(path, file)
        file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        _convert(dataset, path.name)
        header = Header(path, dataset, _pixel_place(file, dataset))
        _ = (header.size, header.frames, header.is_localizer, header.is_color, header.lacks_image)
    if not dataset and header.kind != DIRECTORY:
        raise VolumeError(f"{path.name} has no readable DICOM header; it is damaged or truncated.")
    return header


def _convert(dataset: Dataset, where: str) -> None:
    """Converts all values, which pydicom does on first use, so that the field with a damaged one can be named."""
    for element in getattr(dataset, "file_meta", ()):
        _ = element.value
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:
            with damage_named(f"{keyword_for_tag(tag) or tag} of {where} is damaged"):
                raise
        if element.VR == "SQ":
            for item in element.value:
                _convert(item, where)


def check_deflated(path: Path) -> None:
    """Refuses a file of the deflated transfer syntax that might not fit into memory.

    pydicom inflates such a file in one piece, so the most that it can hold is compared with the memory there is.
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


def listed(value: object) -> list[object]:
    """The values of a field that may hold none, one or several."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value) if hasattr(value, "__iter__") else [value]
