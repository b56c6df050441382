"""Stored pixel values of DICOM files, of many at the same time.

Plain pixels are read from their place in the file straight into the volume. JPEG, JPEG-LS and JPEG 2000 are decoded by
GDCM (in SimpleITK) from a temporary file that holds nothing but the pixels and how they are packed, so that what the
values mean stays our own reading of the header. Reading and GDCM give up Python's lock, so that threads work side by
side. Run lengths are unpacked by pydicom: it keeps the lock, but takes a quarter of GDCM's time.

Where the pixels lie in another way (big byte order, deflated, or images of a film in an unknown number of pieces),
pydicom reads the whole file.
"""

import itertools
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

from napari_transunet.errors import VolumeError
from napari_transunet.io.dicom.headers import (
    PACKING,
    Header,
    PixelPlace,
    check_deflated,
    damage_named,
)
from napari_transunet.io.dicom.jpeg_headers import Packed, checked_image
from napari_transunet.io.dicom.numbers import whole_number
from napari_transunet.io.streams import checked_size, native

_SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.7")

# More gain nothing: the memory's bandwidth is shared, and each holds an image.
_MAX_THREADS = 8
# Images of a film that one thread reads in one go.
_IMAGES_A_JOB = 16
# No image comes in more pieces than this; a damaged file might.
_MAX_PIECES = 1 << 16

_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_PACKED_PIXELS = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"

_Job = Callable[[], None]
_Pieces = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Plane:
    """Where an image goes.

    Attributes
    ----------
    index : of the image in its file, from 0.
    out : (rows, columns), a plane of the volume.
    scaled : what makes values of the stored ones; None keeps them as they are.
    """

    index: int
    out: npt.NDArray[Any]
    scaled: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None

    def put(self, stored: npt.NDArray[Any]) -> None:
        """Takes over the stored values (rows, columns)."""
        self.out[...] = stored if self.scaled is None else self.scaled(stored)


def stored_type(header: Header) -> np.dtype[Any]:
    """The type of the stored values."""
    name = header.path.name
    bits = whole_number(header.dataset, "BitsAllocated", name) or 0
    representation = whole_number(header.dataset, "PixelRepresentation", name) or 0
    if bits not in (1, 8, 16, 32):
        raise VolumeError(f"{name} stores {bits} bits per pixel; 8, 16 and 32 can be read.")
    stored = whole_number(header.dataset, "BitsStored", name)
    high = whole_number(header.dataset, "HighBit", name)
    if stored and high is not None and high != stored - 1:
        raise VolumeError(
            f"HighBit of {name} is {high} where BitsStored is {stored}, so it is unclear which bits hold the values;"
            f" it should be {stored - 1}. Correct the header, or export the images again."
        )
    signed = representation == 1 and bits > 1
    return np.dtype(f"{'i' if signed else 'u'}{max(bits, 8) // 8}")


def read_planes(
    wanted: Sequence[tuple[Header, Sequence[Plane]]], max_bytes: int | None, *, threads: int | None = None
) -> None:
    """Fills planes with the images of files: no rescaling but the plane's own, the file's signedness.

    Parameters
    ----------
    wanted : files, each with the planes that its images go to
    max_bytes : the most that the images of one file may take where they can only be unpacked together
    threads : by default as many as there are cores, but no more than eight
    """
    count = min(threads or os.cpu_count() or 1, _MAX_THREADS)
    with tempfile.TemporaryDirectory(prefix="napari-transunet-") as folder:
        unpacker = _Unpacker(Path(folder), max_bytes)
        jobs = [job for header, planes in wanted for job in unpacker.jobs(header, planes)]
        if min(count, len(jobs)) == 1:
            for job in jobs:
                job()
            return
        with ThreadPoolExecutor(count, thread_name_prefix="read-dicom") as pool:
            # Raises what the first job that fails raises; those that were not begun by then are dropped.
            for _ in pool.map(lambda job: job(), jobs):
                pass


class _Unpacker:
    """Finds the fastest way to the pixels of each file.

    `folder` takes temporary files. What the decoder must know is the same for all files that are packed alike, and
    is made once for them.
    """

    def __init__(self, folder: Path, max_bytes: int | None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._heads: dict[tuple[str, ...], bytes] = {}

    def jobs(self, header: Header, planes: Sequence[Plane]) -> list[_Job]:
        """What fills the planes of one file when it is called, in any order and on any thread."""
        dtype, place = stored_type(header), header.pixels
        whole: list[_Job] = [partial(self._whole, header, planes, dtype)]
        if place is None or not _is_usual(header):
            return whole
        if place.syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            needed = header.frames * header.size[0] * header.size[1] * dtype.itemsize
            held = min(place.length or 0, header.path.stat().st_size - place.offset)
            groups = [planes[at : at + _IMAGES_A_JOB] for at in range(0, len(planes), _IMAGES_A_JOB)]
            if held < needed:
                return whole
            return [partial(_plain, header, place, group, dtype) for group in groups]
        images = _images(header, place)
        if images is None or not place.syntax.is_transfer_syntax or not place.syntax.is_encapsulated:
            return whole
        with damage_named(_damaged(header)):
            head = self._head(header, place.syntax)
        return [
            partial(self._packed, header, place.syntax, head, images[plane.index], plane, dtype)
            for plane in planes
        ]

    def _whole(self, header: Header, planes: Sequence[Plane], dtype: np.dtype[Any]) -> None:
        pixels = _read_whole(header, dtype, self._max_bytes)
        for plane in planes:
            plane.put(pixels[plane.index])

    def _packed(
        self, header: Header, syntax: UID, head: bytes, pieces: _Pieces, plane: Plane, dtype: np.dtype[Any]
    ) -> None:
        with damage_named(_damaged(header)):
            image = _joined(header.path, pieces)
            if not head:
                bare = _bare(header.dataset, RLELossless)
                bare.PixelData = b"".join(_encapsulated(image))
                bare["PixelData"].VR = "OB"
                pixels = bare.pixel_array
            else:
                image = checked_image(image, _promised(header, syntax))
                pixels = _read_with_gdcm(self._folder, head, image)
        plane.put(_checked(header, pixels, header.size, dtype))

    def _head(self, header: Header, syntax: UID) -> bytes:
        """The file that GDCM is to read, up to its pixels; nothing where it is not to read it."""
        if syntax == RLELossless:
            return b""
        key = (syntax, *(str(header.dataset.get(name)) for name in PACKING))
        if key not in self._heads:
            self._heads[key] = _gdcm_head(self._folder, header.dataset, syntax)
        return self._heads[key]


def _damaged(header: Header) -> str:
    return f"the pixels of {header.path.name} are damaged or truncated"


def _is_usual(header: Header) -> bool:
    """Whether the header says all that is needed to take the pixels apart, and nothing strange."""
    allocated, stored, samples, representation = (
        whole_number(header.dataset, name, header.path.name)
        for name in ("BitsAllocated", "BitsStored", "SamplesPerPixel", "PixelRepresentation")
    )
    if allocated is None or stored is None:
        return False
    usual = allocated in (8, 16, 32) and 1 <= stored <= allocated
    return usual and samples == 1 and representation in (0, 1) and not header.is_color and (
        "PhotometricInterpretation" in header.dataset
    )  # fmt: skip


def _plain(header: Header, place: PixelPlace, planes: Sequence[Plane], dtype: np.dtype[Any]) -> None:
    """Reads images that are not packed, into the volume itself where its values are the stored ones."""
    little = dtype.newbyteorder("<")
    size = header.size[0] * header.size[1] * dtype.itemsize
    unused = int(header.dataset.BitsAllocated) - int(header.dataset.BitsStored)
    with header.path.open("rb", buffering=0) as file:
        for plane in planes:
            straight = plane.scaled is None and plane.out.dtype == little and plane.out.flags.c_contiguous
            stored = plane.out if straight else np.empty(header.size, little)
            file.seek(place.offset + plane.index * size)
            view = memoryview(stored.reshape(-1).view(np.uint8).data)
            done = 0
            while done < size and (count := file.readinto(view[done:])):
                done += count
            if done < size:
                raise VolumeError(f"{_damaged(header)} (the file ended while it was read).")
            if unused:
                # What lies in bits above those stored is not the image's (PS3.5, section 8.1.1).
                np.left_shift(stored, unused, out=stored)
                np.right_shift(stored, unused, out=stored)
            if not straight:
                plane.put(native(stored))


def _images(header: Header, place: PixelPlace) -> list[_Pieces] | None:
    """(offset, length) of the pieces of each packed image; None where the file does not tell in a simple way."""
    pieces: list[tuple[int, int]] = []
    end = header.path.stat().st_size
    with header.path.open("rb") as file:
        at, first = place.offset, True
        while len(pieces) <= _MAX_PIECES:
            file.seek(at)
            item = file.read(8)
            if item == _DELIMITER:
                break
            length = int.from_bytes(item[4:], "little")
            if item[:4] != _ITEM or at + 8 + length > end:
                return None
            # The first item is a table of offsets, which the items themselves make superfluous.
            if not first:
                pieces.append((at + 8, length))
            at, first = at + 8 + length, False
    if header.frames == 1 and 0 < len(pieces) <= _MAX_PIECES:
        return [pieces]
    return [[piece] for piece in pieces] if len(pieces) == header.frames else None


def _joined(path: Path, pieces: _Pieces) -> bytes:
    """One packed image, of its pieces in a file."""
    parts = []
    with path.open("rb") as file:
        for offset, length in pieces:
            file.seek(offset)
            parts.append(file.read(length))
    return b"".join(parts)


def _encapsulated(image: bytes) -> tuple[bytes, ...]:
    """The value of PixelData that holds one packed image in one piece, in parts."""
    padding = b"\0" * (len(image) % 2)
    length = (len(image) + len(padding)).to_bytes(4, "little")
    return (_ITEM, b"\0\0\0\0", _ITEM, length, image, padding, _DELIMITER)


def read_pixels(header: Header, max_bytes: int | None) -> npt.NDArray[Any]:
    """(frames, rows, columns) of one file as stored: no rescaling, the file's signedness, native byte order."""
    return _read_whole(header, stored_type(header), max_bytes)


def _read_whole(header: Header, dtype: np.dtype[Any], max_bytes: int | None) -> npt.NDArray[Any]:
    expected = (header.frames, *header.size)
    checked_size(expected, dtype.itemsize, max_bytes)
    check_deflated(header.path)
    with damage_named(_damaged(header)):
        dataset = pydicom.dcmread(header.path, force=True)
        if "PixelData" not in dataset:
            raise VolumeError(f"{header.path.name} has no pixel data; it is truncated, copy it again.")
        syntax = _transfer_syntax(dataset)
        if not syntax.is_transfer_syntax:
            raise VolumeError(
                f"{header.path.name} is packed in a way that cannot be read (transfer syntax {syntax}); store it in"
                " another one."
            )
        if syntax.is_compressed and syntax != RLELossless and not syntax.is_deflated:
            pixels = _decode_with_gdcm(header, dataset, syntax)
        else:
            pixels = dataset.pixel_array
    return _checked(header, pixels, expected, dtype)


def _checked(
    header: Header, pixels: npt.NDArray[Any], expected: tuple[int, ...], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    if pixels.size != np.prod(expected):
        raise VolumeError(
            f"{header.path.name} holds {pixels.shape} pixels where its header promises {expected}; it is damaged."
        )
    return native(pixels.reshape(expected)).astype(dtype, copy=False)


def _transfer_syntax(dataset: Dataset) -> UID:
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if syntax:
        return UID(str(syntax))
    implicit = dataset.original_encoding[0]
    guess = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = guess
    return guess


def _decode_with_gdcm(header: Header, dataset: Dataset, syntax: UID) -> npt.NDArray[Any]:
    promised = _promised(header, syntax)
    with tempfile.TemporaryDirectory(prefix="napari-transunet-") as name:
        folder = Path(name)
        head = _gdcm_head(folder, dataset, syntax)
        images = generate_frames(dataset.PixelData, number_of_frames=header.frames)
        # One more than there should be tells that the header is wrong.
        some = itertools.islice(images, header.frames + 1)
        return np.stack([_read_with_gdcm(folder, head, checked_image(image, promised)) for image in some])


def _promised(header: Header, syntax: UID) -> Packed:
    """What the header says of each packed image."""
    names = ("SamplesPerPixel", "BitsAllocated", "BitsStored")
    samples, allocated, stored = (int(header.dataset.get(name) or 1) for name in names)
    return Packed(syntax, *header.size, samples, allocated, stored)


def _gdcm_head(folder: Path, dataset: Dataset, syntax: UID) -> bytes:
    """The file of one packed image that GDCM is to read, up to its pixels."""
    path = folder / "head.dcm"
    _bare(dataset, syntax).save_as(path, enforce_file_format=True)
    return path.read_bytes()


def _read_with_gdcm(folder: Path, head: bytes, image: bytes) -> npt.NDArray[Any]:
    import SimpleITK

    path = folder / f"{threading.get_ident()}.dcm"
    path.write_bytes(b"".join((head, _PACKED_PIXELS, *_encapsulated(image))))
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute()))


def _bare(dataset: Dataset, syntax: UID) -> Dataset:
    """A data set that says how one image is packed, and nothing else."""
    bare = Dataset()
    for name in PACKING:
        if dataset.get(name) is not None and name != "NumberOfFrames":
            setattr(bare, name, dataset.get(name))
    if bare.get("PhotometricInterpretation") == "PALETTE COLOR":
        # Only label maps come here with a palette, for their colours; what is wanted are the numbers in it.
        bare.PhotometricInterpretation = "MONOCHROME2"
    bare.SOPClassUID, bare.SOPInstanceUID = _SECONDARY_CAPTURE, generate_uid()
    bare.Modality = "OT"
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    return bare
