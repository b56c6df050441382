"""What JPEG, JPEG-LS and JPEG 2000 images say of themselves, compared with what DICOM says of them.

Decoders trust these headers: one that is damaged makes them write outside of their memory, which ends the process. So
an image is walked through from one marker to the next before a decoder sees it, and everything that the decoder takes
sizes from is checked. What the pixels themselves were packed to is passed over.

Names and numbers are those of ISO/IEC 10918-1 annex B (JPEG), 14495-1 annex C (JPEG-LS) and 15444-1 annexes A and I
(JPEG 2000).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

# The last two are retired: spectral selection, and full progression.
_JPEG = (*JPEGTransferSyntaxes, UID("1.2.840.10008.1.2.4.53"), UID("1.2.840.10008.1.2.4.55"))

_SOI, _EOI, _SOS, _DHT, _DQT, _DRI, _LSE, _COM = 0xD8, 0xD9, 0xDA, 0xC4, 0xDB, 0xDD, 0xF8, 0xFE
_BASELINE, _EXTENDED, _PROGRESSIVE, _LOSSLESS, _JPEG_LS = 0xC0, 0xC1, 0xC2, 0xC3, 0xF7
_OF_COSINES = (_BASELINE, _EXTENDED, _PROGRESSIVE)
_FRAMES = range(0xC0, 0xD0)
_APPLICATION = range(0xE0, 0xF0)
# A marker and the bytes that may fill up the space before it.
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
# Bytes that are looked at in one go for the end of a scan.
_WINDOW = 1 << 17
# Far more than encoders make, few enough to be decoded in seconds.
_MAX_SCANS = 500

_J2K_SOC_SIZ = b"\xff\x4f\xff\x51"
_J2K_SOT, _J2K_SOD, _J2K_COD = b"\xff\x90", b"\xff\x93", 0x52
_J2K_HEADER = range(0x50, 0x70)
_JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_MAX_TILES = 65535


@dataclass(frozen=True)
class Packed:
    """How DICOM says that an image is packed: its size in pixels, SamplesPerPixel, BitsAllocated and BitsStored."""

    syntax: UID
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int

    def compare(self, rows: int, columns: int, samples: int, precision: int) -> None:
        """Compares it with what the image says of itself; `precision` in bits.

        Raises
        ------
        ValueError
            They contradict each other.
        """
        for what, found, promised in (
            ("rows", rows, self.rows),
            ("columns", columns, self.columns),
            ("values per pixel", samples, self.samples),
        ):
            if found != promised:
                raise ValueError(f"the packed image has {found} {what}, its DICOM header says {promised}")
        if samples != 1:
            raise ValueError(
                f"the packed image has {samples} values per pixel, of which only one can be read"
            )
        # Values may be packed with more bits than are used, or in a smaller type than they are unpacked to.
        type_bits = _type_bits(precision)
        fits = type_bits <= self.allocated and type_bits in (self.allocated, _type_bits(self.stored))
        if precision == 1:
            raise ValueError(
                "the packed image has single bits, which only images that are not packed may have here"
            )
        if precision < 1 or not fits:
            raise ValueError(
                f"the packed image has {precision} bits per value, its DICOM header {self.stored} of {self.allocated}"
            )


def _type_bits(bits: int) -> int:
    """Bits of the smallest type that values of so many bits fit into."""
    return 8 if bits <= 8 else 16 if bits <= 16 else 32


def checked_image(data: bytes, packed: Packed) -> bytes:
    """The packed image alone, without what may precede or follow it, once its headers were found to be sound.

    Parameters
    ----------
    data : one image as it lies in a DICOM file, of all its pieces
    packed : what the DICOM header says of it

    Raises
    ------
    ValueError
        The image contradicts the DICOM header or itself, ends early, or is packed in a way that cannot be read; the
        text is half a sentence.
    """
    if packed.syntax in JPEG2000TransferSyntaxes:
        return _checked_jpeg_2000(data, packed)
    if packed.syntax in (*_JPEG, *JPEGLSTransferSyntaxes):
        return _checked_jpeg(data, packed, ls=packed.syntax in JPEGLSTransferSyntaxes)
    raise ValueError(f"they are packed as {packed.syntax.name}, which cannot be read")


def _checked_jpeg(data: bytes, packed: Packed, *, ls: bool) -> bytes:
    if data[:2] != bytes((0xFF, _SOI)):
        raise ValueError("no JPEG image begins where one should")
    parts, end = _Parts(ls, packed), 0
    for marker, content, after in _segments(data, lowest=0x80 if ls else 0x01):
        parts.take(marker, content)
        end = after
    if not parts.scans:
        raise ValueError("the JPEG image holds no pixels")
    return data[:end]


def _segments(data: bytes, *, lowest: int) -> Iterator[tuple[int, bytes, int]]:
    """(marker, content, where it ends) of every segment to the end of the image; scans are passed over.

    `lowest` is the least that makes a marker of the byte before it within a scan, where a zero (JPEG) or a zero bit
    (JPEG-LS) follows each 255 of the packed values.
    """
    at = 2
    while found := _MARKER.match(data, at):
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            yield marker, b"", at
            return
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            raise ValueError(f"the JPEG segment {marker:#x} ends outside of the image")
        yield marker, data[at + 2 : at + length], at + length
        at += length
        if marker == _SOS:
            at = _scan_end(data, at, lowest)
    raise ValueError(
        "the JPEG image ends early" if at >= len(data) else "the JPEG image is not made of segments"
    )


def _scan_end(data: bytes, at: int, lowest: int) -> int:
    """Where the marker lies that ends a scan; markers that restart it do not."""
    for start in range(at, len(data) - 1, _WINDOW):
        values = np.frombuffer(data, np.uint8, min(_WINDOW + 1, len(data) - start), start)
        places = np.flatnonzero(values[:-1] == 0xFF)
        after = values[places + 1]
        ends = places[(after >= lowest) & (after != 0xFF) & (after & 0xF8 != 0xD0)]
        if len(ends):
            return start + int(ends[0])
    return len(data)


@dataclass
class _Parts:
    """What the segments of a JPEG or JPEG-LS image said so far, to compare the next ones with."""

    ls: bool
    packed: Packed
    process: int | None = None
    precision: int = 0
    component: int = 0
    quantizer: int = 0
    huffman: set[tuple[int, int]] = field(default_factory=set)
    quantizers: set[int] = field(default_factory=set)
    scans: int = 0

    def take(self, marker: int, content: bytes) -> None:
        if marker in (_EOI, _COM) or marker in _APPLICATION:
            return
        if marker == _SOS:
            self._scan(content)
        elif marker == _JPEG_LS or (marker in _FRAMES and marker != _DHT):
            self._frame(marker, content)
        elif marker == _LSE and self.ls:
            self._presets(content)
        elif marker == _DHT and not self.ls:
            self._huffman(content)
        elif marker == _DQT and not self.ls:
            self._quantizers(content)
        elif marker != _DRI or len(content) != 2 or self.ls:
            raise ValueError(f"the JPEG segment {marker:#x} is out of place")

    def _frame(self, marker: int, content: bytes) -> None:
        """SOF: precision, height, width and the component, with its sampling factors and quantization table."""
        known = (_JPEG_LS,) if self.ls else (*_OF_COSINES, _LOSSLESS)
        if marker not in known:
            raise ValueError(
                f"the JPEG image is of the kind {marker:#x}, which its transfer syntax is not for"
            )
        if self.process is not None:
            raise ValueError("the JPEG image has two headers")
        if len(content) < 6 or len(content) != 6 + 3 * content[5]:
            raise ValueError("the header of the JPEG image has a wrong length")
        self.process, self.precision = marker, content[0]
        rows, columns = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
        self.packed.compare(rows, columns, content[5], self.precision)
        self.component, sampling, self.quantizer = content[6:9]
        if not (1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4):
            raise ValueError("the header of the JPEG image is damaged")
        if marker in _OF_COSINES and self.precision not in (8, 12):
            raise ValueError(f"a JPEG image of this kind cannot have {self.precision} bits per value")

    def _scan(self, content: bytes) -> None:
        """SOS: the component, its tables, and three bytes on how values were taken apart."""
        if len(content) != 6 or content[0] != 1 or self.process is None or content[1] != self.component:
            raise ValueError("the pixels of the JPEG image are of another image than its header")
        tables, start, end, last = content[2:]
        dc, ac = (0, tables >> 4) in self.huffman, (1, tables & 15) in self.huffman
        if self.process == _JPEG_LS:
            # NEAR, how components are interleaved, the point transform; tables map values, as DICOM forbids.
            sound = start <= min(255, (1 << self.precision) // 2) and (end, last, tables) == (0, 0, 0)
        elif self.process == _LOSSLESS:
            sound = 1 <= start <= 7 and end == 0 and last < self.precision and dc
        elif self.process == _PROGRESSIVE:
            before, now = last >> 4, last & 15
            sound = start <= end < 64 and (start > 0 or end == 0) and before in (0, now + 1) and now <= 13
            sound &= ac if start > 0 else (dc or before > 0)
        else:
            # Some devices write anything but the 0, 63, 0 that belongs there, and decoders do not look at it.
            sound = dc and ac
        if not sound or (self.process in _OF_COSINES and self.quantizer not in self.quantizers):
            raise ValueError("the header of the JPEG image's pixels is damaged")
        if self.scans >= (_MAX_SCANS if self.process == _PROGRESSIVE else 1):
            raise ValueError("the JPEG image holds its pixels too often")
        self.scans += 1

    def _presets(self, content: bytes) -> None:
        """LSE: MAXVAL, three thresholds and RESET; tables that map values are not for DICOM."""
        if len(content) != 11 or content[0] != 1 or self.process is None:
            raise ValueError("the JPEG-LS presets are damaged")
        values = [int.from_bytes(content[at : at + 2], "big") for at in range(1, 11, 2)]
        maximum = values[0] or (1 << self.precision) - 1
        thresholds = [value for value in values[1:4] if value]
        ordered = all(low <= high for low, high in pairwise([1, *thresholds, maximum]))
        if (
            maximum >= 1 << self.precision
            or not ordered
            or not (values[4] == 0 or 3 <= values[4] <= max(255, maximum))
        ):
            raise ValueError("the JPEG-LS presets are damaged")

    def _huffman(self, content: bytes) -> None:
        """DHT: tables, each of the numbers of codes of 1 to 16 bits and what each code stands for."""
        at = 0
        while at < len(content):
            kind, name = content[at] >> 4, content[at] & 15
            counts = content[at + 1 : at + 17]
            codes = content[at + 17 : at + 17 + sum(counts)]
            if kind > 1 or name > 3 or len(counts) != 16 or not 1 <= sum(counts) == len(codes) <= 256:
                raise ValueError("a Huffman table of the JPEG image is damaged")
            used = sum(count << (16 - bits) for bits, count in enumerate(counts, 1))
            # In such a table a code stands for the bits of a difference, of which there are 16 at most.
            if used > 1 << 16 or (kind == 0 and max(codes) > 16):
                raise ValueError("a Huffman table of the JPEG image is damaged")
            self.huffman.add((kind, name))
            at += 17 + len(codes)

    def _quantizers(self, content: bytes) -> None:
        """DQT: tables of 64 steps, of one byte or two."""
        at = 0
        while at < len(content):
            wide, name = content[at] >> 4, content[at] & 15
            at += 1 + 64 * (1 + wide)
            if wide > 1 or name > 3 or at > len(content):
                raise ValueError("a quantization table of the JPEG image is damaged")
            self.quantizers.add(name)


def _checked_jpeg_2000(data: bytes, packed: Packed) -> bytes:
    if data.startswith(_JP2_SIGNATURE):
        data = _unboxed(data)
    tiles = _jpeg_2000_tiles(data, packed)
    at, found = _after_jpeg_2000_header(data, 2, len(data)), set()
    while data[at : at + 2] == _J2K_SOT:
        # The index of the tile, and the length of all of this part of it, 0 for all that is left.
        length, tile = (
            int.from_bytes(data[at + 2 : at + 4], "big"),
            int.from_bytes(data[at + 4 : at + 6], "big"),
        )
        end = at + (int.from_bytes(data[at + 6 : at + 10], "big") or len(data) - at)
        if length != 10 or tile >= tiles or not at + 14 <= end <= len(data):
            raise ValueError("the JPEG 2000 image ends early or its tiles are damaged")
        packets = _after_jpeg_2000_header(data, at + 12, end)
        if data[packets : packets + 2] != _J2K_SOD:
            raise ValueError("the tiles of the JPEG 2000 image are damaged")
        found.add(tile)
        at = end
    if len(found) != tiles:
        raise ValueError("the JPEG 2000 image ends early or its tiles are damaged")
    return data[: at + 2]


def _after_jpeg_2000_header(data: bytes, at: int, end: int) -> int:
    """Where the segments of a header of the image, or of a tile, are followed by something else."""
    while at + 4 <= end and data[at] == 0xFF and data[at + 1] in _J2K_HEADER:
        following = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : following]
        if (
            following < at + 4
            or following > end
            or (data[at + 1] == _J2K_COD and not _is_sound_coding(content))
        ):
            raise ValueError("the header of the JPEG 2000 image is damaged or truncated")
        at = following
    return at


def _is_sound_coding(content: bytes) -> bool:
    """Whether COD allows its values: order, layers, levels, size and kind of blocks, wavelet, size of precincts."""
    if len(content) < 10:
        return False
    levels, width, height = content[5:8]
    sound = content[1] <= 4 and content[2:4] != b"\0\0" and levels <= 32 and content[9] <= 1
    return sound and width + height <= 8 and len(content) == 10 + (levels + 1 if content[0] & 1 else 0)


def _jpeg_2000_tiles(data: bytes, packed: Packed) -> int:
    """How many tiles there are, by SIZ, which says all about the image's size."""
    length, content = int.from_bytes(data[4:6], "big"), data[6:42]
    if not data.startswith(_J2K_SOC_SIZ) or len(content) < 36 or len(data) < max(4 + length, 45):
        raise ValueError("no JPEG 2000 image begins where one should")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top = (
        int.from_bytes(content[at : at + 4], "big") for at in range(2, 34, 4)
    )
    samples = int.from_bytes(content[34:36], "big")
    if length != 38 + 3 * samples:
        raise ValueError("the header of the JPEG 2000 image has a wrong length")
    packed.compare(height - top, width - left, samples, (data[42] & 0x7F) + 1)
    if data[43:45] != b"\1\1":
        raise ValueError("the JPEG 2000 image leaves pixels out")
    # Decoders add these numbers in 32 bits.
    if max(width, height, tile_width, tile_height) >= 1 << 31:
        raise ValueError("the header of the JPEG 2000 image is damaged")
    if not (tile_left <= left < tile_left + tile_width and tile_top <= top < tile_top + tile_height):
        raise ValueError("the tiles of the JPEG 2000 image are damaged")
    tiles = -((tile_left - width) // tile_width) * -((tile_top - height) // tile_height)
    if tiles > _MAX_TILES:
        raise ValueError("the tiles of the JPEG 2000 image are damaged")
    return tiles


def _unboxed(data: bytes) -> bytes:
    """The code stream of a JP2 file, which DICOM does not allow and some devices write all the same."""
    at = 0
    while at + 8 <= len(data):
        length, start = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, start = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if data[at + 4 : at + 8] == b"jp2c":
            return data[at + start : at + length if length else None]
        if length < start:
            break
        at += length
    raise ValueError("the JP2 file holds no image")
