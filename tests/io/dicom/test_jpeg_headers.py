"""Packed images that contradict themselves or their DICOM header are refused before a decoder takes their word."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.uid import (
    MPEG2MPML,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from napari_transunet.errors import VolumeError
from napari_transunet.io.dicom.headers import read_header
from napari_transunet.io.dicom.jpeg_headers import Packed, checked_image
from napari_transunet.io.dicom.pixels import Plane, read_pixels, read_planes, stored_type
from tests.io.dicom.test_pixels import _packed_image, _put_frames
from tests.io.samples import ct_slice, save

# 11 × 13, 12 bits; the numbers are what the standards' annexes say of each segment.
SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content


def _frame(marker: int, precision: int, rows: int = 11, columns: int = 13, count: int = 1) -> bytes:
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    parts = b"".join(bytes((name, 0x11, 0)) for name in range(1, count + 1))
    return _segment(marker, bytes((precision,)) + size + bytes((count,)) + parts)


def _huffman(kind: int, *, lengths: bytes = bytes((1, 2, *[0] * 14)), codes: bytes = b"\0\1\2") -> bytes:
    return _segment(0xC4, bytes((kind << 4,)) + lengths + codes)


QUANTIZER = _segment(0xDB, b"\0" + bytes(range(1, 65)))
LOSSLESS = [SOI, _frame(0xC3, 12), _huffman(0), _segment(0xDA, b"\1\1\0\1\0\0"), b"\x12\xff\0\x34", EOI]
BASELINE = [
    SOI,
    _segment(0xE0, b"JFIF\0"),
    QUANTIZER,
    _frame(0xC0, 8),
    _huffman(0),
    _huffman(1),
    _segment(0xDA, b"\1\1\0\0\x3f\0"),
    b"\x12\xff\xd0\x34",
    EOI,
]
LS = [SOI, _frame(0xF7, 12), _segment(0xDA, b"\1\1\0\0\0\0"), b"\x12\xff\x7f\x34", EOI]


def _numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in values)


SIZ = b"\0\0" + _numbers(13, 11, 0, 0, 13, 11, 0, 0) + b"\0\1\x0b\1\1"
J2K = [
    b"\xff\x4f",
    _segment(0x51, SIZ),
    _segment(0x52, bytes((0, 0, 0, 1, 0, 2, 4, 4, 0, 1))),
    _segment(0x90, b"\0\0" + _numbers(17) + b"\0\1"),
    b"\xff\x93\x12\x34\x56",
    EOI,
]
WORD = (11, 13, 1, 16, 12)
BYTE = (11, 13, 1, 8, 8)
SOUND: list[tuple[UID, tuple[int, int, int, int, int], list[bytes]]] = [
    (JPEGLosslessSV1, WORD, LOSSLESS),
    (JPEGBaseline8Bit, BYTE, BASELINE),
    (JPEGLSLossless, WORD, LS),
    (JPEG2000Lossless, WORD, J2K),
]


@pytest.mark.parametrize(("syntax", "size", "parts"), SOUND)
def test_a_sound_image_is_given_alone(
    syntax: UID, size: tuple[int, int, int, int, int], parts: list[bytes]
) -> None:
    image = b"".join(parts)
    for after in (b"", b"\0", EOI + b"more"):
        assert checked_image(image + after, Packed(syntax, *size)) == image


@pytest.mark.parametrize(("syntax", "size", "parts"), SOUND)
def test_an_image_cut_anywhere_is_refused(
    syntax: UID, size: tuple[int, int, int, int, int], parts: list[bytes]
) -> None:
    image = b"".join(parts)
    # Nothing of a JPEG 2000 image is lost with its last marker.
    for length in range(len(image) - (2 if parts is J2K else 0)):
        with pytest.raises(ValueError):
            checked_image(image[:length], Packed(syntax, *size))


@pytest.mark.parametrize(("syntax", "size", "parts"), SOUND)
@pytest.mark.parametrize("change", [(1, 0, 0, 0, 0), (0, -1, 0, 0, 0), (0, 0, 2, 0, 0), (0, 0, 0, 16, 16)])
def test_another_size_than_the_header_says(
    syntax: UID,
    size: tuple[int, int, int, int, int],
    parts: list[bytes],
    change: tuple[int, int, int, int, int],
) -> None:
    other = [a + b for a, b in zip(size, change, strict=True)]
    with pytest.raises(ValueError, match="its DICOM header"):
        checked_image(b"".join(parts), Packed(syntax, *other))


def test_values_may_have_fewer_bits_than_their_type() -> None:
    image = b"".join([SOI, _frame(0xC3, 8), *LOSSLESS[2:]])
    assert checked_image(image, Packed(JPEGLosslessSV1, 11, 13, 1, 16, 8)) == image
    with pytest.raises(ValueError, match="8 bits per value, its DICOM header 12 of 16"):
        checked_image(image, Packed(JPEGLosslessSV1, *WORD))


@pytest.mark.parametrize(
    ("syntax", "at", "part"),
    [
        # What made GDCM write outside of its memory, or stop on it.
        (JPEGLosslessSV1, 1, _frame(0xC3, 206)),
        (JPEGLosslessSV1, 1, _frame(0xC3, 12, rows=65535)),
        (JPEGLosslessSV1, 1, _frame(0xC3, 12, count=3)),
        (JPEGLosslessSV1, 1, _frame(0xC3, 12) * 2),
        (JPEGLosslessSV1, 1, _frame(0xC3, 12)[:-1] + b"\0\0"),
        (JPEGLosslessSV1, 1, _frame(0xC9, 12)),
        (JPEGLosslessSV1, 1, b"garbage"),
        (JPEGLosslessSV1, 2, b""),
        (JPEGLosslessSV1, 2, _huffman(1)),
        (JPEGLosslessSV1, 2, _huffman(0, codes=b"\0\1\x11")),
        (JPEGLosslessSV1, 2, _huffman(0, codes=b"\0\1")),
        (JPEGLosslessSV1, 2, _huffman(0, lengths=bytes((3, *[0] * 15)))),
        (JPEGLosslessSV1, 2, _huffman(0, lengths=bytes(16), codes=b"")),
        (JPEGLosslessSV1, 2, b"\xff\xc4\xff\xff"),
        (JPEGLosslessSV1, 3, _segment(0xDA, b"\1\2\0\1\0\0")),
        (JPEGLosslessSV1, 3, _segment(0xDA, b"\1\1\0\0\0\0")),
        (JPEGLosslessSV1, 3, _segment(0xDA, b"\2\1\0\1\0\0")),
        (JPEGLosslessSV1, 4, b"\x12\xff\xda\0\x08\1\1\0\1\0\0\x34"),
        (JPEGBaseline8Bit, 2, b""),
        (JPEGBaseline8Bit, 2, QUANTIZER[:-1]),
        (JPEGBaseline8Bit, 2, _segment(0xDB, b"\x04" + bytes(64))),
        (JPEGBaseline8Bit, 5, b""),
        (JPEGBaseline8Bit, 5, _segment(0xDD, b"\0\0\0")),
        (JPEGLSLossless, 1, _frame(0xF7, 1)),
        (JPEGLSLossless, 1, _frame(0xC3, 12)),
        (JPEGLSLossless, 2, _segment(0xDA, b"\1\1\1\0\0\0")),
        (JPEGLSLossless, 2, _segment(0xF8, b"\1" + bytes(9)) + LS[2]),
        (JPEGLSLossless, 2, _segment(0xF8, b"\1\xff\xff" + bytes(8)) + LS[2]),
        (JPEGLSLossless, 2, _segment(0xF8, b"\1\x0f\xff\0\3\0\2\0\7\0\x40") + LS[2]),
        (JPEG2000Lossless, 1, _segment(0x51, SIZ[:-1])),
        (JPEG2000Lossless, 1, _segment(0x51, SIZ[:-1] + b"\2")),
        (JPEG2000Lossless, 1, _segment(0x51, b"\0\0" + _numbers(13, 11, 0, 0, 0, 11, 0, 0) + SIZ[34:])),
        (JPEG2000Lossless, 1, _segment(0x51, b"\0\0" + _numbers(13, 11, 0, 0, 12, 11, 0, 0) + SIZ[34:])),
        (JPEG2000Lossless, 1, _segment(0x51, b"\0\0" + _numbers(1 << 31, 11, (1 << 31) - 13) + SIZ[14:])),
        (JPEG2000Lossless, 2, _segment(0x52, bytes((0, 0, 0, 1, 0, 33, 4, 4, 0, 1)))),
        (JPEG2000Lossless, 2, _segment(0x52, bytes((0, 0, 0, 1, 0, 2, 8, 8, 0, 1)))),
        (JPEG2000Lossless, 2, _segment(0x52, b"\0\0")),
        (JPEG2000Lossless, 3, _segment(0x90, b"\0\1" + _numbers(17) + b"\0\1")),
        (JPEG2000Lossless, 3, _segment(0x90, b"\0\0" + _numbers(99) + b"\0\1")),
        (JPEG2000Lossless, 3, _segment(0x90, b"\0\0" + _numbers(3) + b"\0\1")),
        (JPEG2000Lossless, 4, b"\xff\xed\x12\x34\x56"),
        (MPEG2MPML, 0, SOI),
    ],
)
def test_impossible_segments(syntax: UID, at: int, part: bytes) -> None:
    size, parts = next(((size, parts) for known, size, parts in SOUND if known == syntax), (WORD, LOSSLESS))
    with pytest.raises(ValueError):
        checked_image(b"".join([*parts[:at], part, *parts[at + 1 :]]), Packed(syntax, *size))


def test_a_jpeg_2000_image_in_a_file_of_its_own_format() -> None:
    image = b"".join(J2K)
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    for length in (0, len(image) + 8):
        boxed = signature + length.to_bytes(4, "big") + b"jp2c" + image
        assert checked_image(boxed, Packed(JPEG2000Lossless, *WORD)) == image
    for boxes in (b"", b"\0\0\0\x07jp2h", b"\0\0\0\1jp2h" + bytes(8), b"\0\0\0\0jp2h" + image):
        with pytest.raises(ValueError, match="holds no image"):
            checked_image(signature + boxes, Packed(JPEG2000Lossless, *WORD))


@pytest.mark.parametrize(
    "name", ["JPEG-lossy.dcm", "JPGExtended.dcm", "693_J2KI.dcm", "JPEGLSNearLossless_16.dcm"]
)
def test_images_of_devices_are_sound(name: str) -> None:
    """One of them says something in its scan that the standard does not allow, and is read all the same."""
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom came without {name}")
    header = read_header(Path(path))
    assert header.pixels is not None
    assert header.pixels.syntax in (JPEGExtended12Bit, UID("1.2.840.10008.1.2.4.91"), JPEGLSNearLossless)
    assert np.ptp(read_pixels(header, None)) > 0


PACKERS = ("JPEG", "JPEG2000", "JPEG-LS", "RLE")


def _image(packer: str, folder: Path) -> tuple[pydicom.Dataset, bytes, str]:
    y, x = np.mgrid[:24, :20]
    plane = (1500 + 1400 * np.sin(x / 5) * np.cos(y / 7)).astype(np.uint16)
    dataset = ct_slice(plane, (0, 0, 0))
    if packer != "JPEG-LS":
        return dataset, *_packed_image(plane, packer, folder)
    save(dataset, folder / "plain.dcm")
    dataset.compress(JPEGLSLossless)
    return dataset, next(generate_frames(dataset.PixelData, number_of_frames=1)), JPEGLSLossless


def _damaged(image: bytes, rng: random.Random) -> bytes:
    """Where the header is, mostly: a few bytes, a length, a part that is missing or that comes twice."""
    changed, way = bytearray(image), rng.random()
    at = rng.randrange(min(len(image), 160))
    if way < 0.1:
        return image[: rng.randrange(2, len(image))]
    if way < 0.2:
        changed[at : at + rng.randrange(1, 30)] = b""
    elif way < 0.3:
        changed[at:at] = image[at : at + rng.randrange(1, 30)]
    elif way < 0.4:
        changed[at : at + 2] = rng.choice((b"\0\0", b"\xff\xff", b"\0\2", b"\xff\xda", b"\xff\xc3"))
    else:
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(min(len(image), 160))] = rng.choice((rng.randrange(256), 0, 255))
    return bytes(changed)


def _read_damaged(folder: Path, seeds: range) -> None:
    """Reads damaged images in both ways; whatever is raised but a refusal is an error, and so is a crash."""
    refusals: list[str] = []
    for packer in PACKERS:
        dataset, image, syntax = _image(packer, folder)
        for seed in seeds:
            _put_frames(dataset, [_damaged(image, random.Random(f"{packer} {seed}"))])
            header = read_header(save(dataset, folder / "damaged.dcm", syntax))
            for whole in (False, True):
                try:
                    if whole:
                        read_pixels(header, None)
                    else:
                        read_planes([(header, [Plane(0, np.zeros(header.size, stored_type(header)))])], None)
                except VolumeError as error:
                    refusals.append(str(error))
    assert len(refusals) > len(seeds), "hardly any of the images were damaged"
    assert all("damaged.dcm" in refusal and "\n" not in refusal for refusal in refusals)


@pytest.mark.long
def test_damaged_images_do_not_end_the_process(tmp_path: Path) -> None:
    """In a process of its own, as a crash of a decoder would end the one that it happens in."""
    code = "import sys; from pathlib import Path; from tests.io.dicom.test_jpeg_headers import _read_damaged;"
    code += "_read_damaged(Path(sys.argv[1]), range(165, 230))"
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(root), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
