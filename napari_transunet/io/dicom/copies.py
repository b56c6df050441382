"""Copies of images among the files of a series, and images that only bear the same UID."""

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_transunet.errors import VolumeError
from napari_transunet.io.dicom.headers import PACKING, Header, PixelPlace
from napari_transunet.io.dicom.pixels import read_pixels

_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PerFrameFunctionalGroupsSequence")
# What makes other values, or another volume, of the same pixels.
_MEANING = (
    *PACKING,
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "EchoTime",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Images:
    """What is left of files once copies are taken out.

    Attributes
    ----------
    kept : one file per image.
    copies : files that repeat an image: the same SOPInstanceUID, position, scaling and pixels.
    cut : files that end within the pixels of an image that another file has whole.
    namesakes : how many images share their SOPInstanceUID with another one at another position.
    clash : two files with one SOPInstanceUID at one position that hold different images, so that one is a processed
        copy of the other and nothing tells which is meant.
    """

    kept: tuple[Header, ...]
    copies: tuple[Header, ...]
    cut: tuple[Header, ...]
    namesakes: int
    clash: tuple[Header, Header] | None


def without_copies(headers: Sequence[Header]) -> Images:
    """Takes out copies. Only files that share a SOPInstanceUID and a position are opened again."""
    copies: set[int] = set()
    clash: tuple[Header, Header] | None = None
    by_uid: dict[str, dict[str, list[int]]] = {}
    cut: list[Header] = []
    for number, header in enumerate(headers):
        uid = str(header.dataset.get("SOPInstanceUID") or "")
        if not uid:
            continue
        here = by_uid.setdefault(uid, {}).setdefault(_place(header), [])
        if any(_same_image(headers[other], header) for other in here):
            copies.add(number)
            continue
        if _is_cut(header) and any(_same_meaning(headers[other], header) for other in here):
            cut.append(header)
            copies.add(number)
            continue
        for other in [
            other for other in here if _is_cut(headers[other]) and _same_meaning(headers[other], header)
        ]:
            here.remove(other)
            cut.append(headers[other])
            copies.add(other)
        clash = clash or next(
            ((headers[other], header) for other in here if _is_version(headers[other], header)), None
        )
        here.append(number)
    counts = [sum(map(len, places.values())) for places in by_uid.values()]
    return Images(
        kept=tuple(header for number, header in enumerate(headers) if number not in copies),
        copies=tuple(
            headers[number] for number in sorted(copies) if not any(headers[number] is one for one in cut)
        ),
        cut=tuple(cut),
        namesakes=sum(count for count in counts if count > 1),
        clash=clash,
    )


def _place(header: Header) -> str:
    return "\n".join(str(header.dataset.get(name)) for name in _PLACE)


def _is_version(one: Header, other: Header) -> bool:
    """Whether two images at one position are versions of one, and not e.g. two points in time of one numbering."""
    numbers = (header.dataset.get("InstanceNumber") for header in (one, other))
    return one.path.parent != other.path.parent or len(set(map(str, numbers))) == 1


def _is_cut(header: Header) -> bool:
    place = header.pixels
    return (
        place is not None
        and place.length is not None
        and header.path.stat().st_size < place.offset + place.length
    )


def _same_meaning(one: Header, other: Header) -> bool:
    return all(one.dataset.get(name) == other.dataset.get(name) for name in _MEANING)


def _same_image(one: Header, other: Header) -> bool:
    if not _same_meaning(one, other):
        return False
    if filecmp.cmp(one.path, other.path, shallow=False):
        return True
    first, second = one.pixels, other.pixels
    if first is not None and second is not None and first.length and first.syntax == second.syntax:
        return first.length == second.length and _same_bytes(one, first, other, second)
    try:
        return np.array_equal(read_pixels(one, None), read_pixels(other, None))
    except VolumeError:
        return False


def _same_bytes(one: Header, first: PixelPlace, other: Header, second: PixelPlace) -> bool:
    with one.path.open("rb") as left, other.path.open("rb") as right:
        left.seek(first.offset)
        right.seek(second.offset)
        rest = first.length or 0
        while rest > 0:
            piece = left.read(min(rest, _CHUNK))
            if not piece or piece != right.read(len(piece)):
                return False
            rest -= len(piece)
    return True
