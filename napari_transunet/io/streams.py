"""Sizes checked before memory is taken, and reads that end in a sentence when the bytes run out."""

from __future__ import annotations

import io
import math
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.files import available_memory, real_path
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.gzip_stream import Inflated, damage_as_volume_error

# Deflate cannot shrink anything by more than this, so a file that claims more is damaged or a bomb.
MAX_DEFLATE_RATIO = 1032
_CHUNK = 1 << 20
# Pieces of 64 kB that are read past the last voxel to find the checksum; damage can lengthen the data a little.
_DRAINED = 16
_STORES = frozenset({".git", ".dvc"})
_LONGEST_AXIS = 1 << 48
# What is left for the rest of the process when no limit is given.
_USABLE_MEMORY = 0.8


def memory_limit(max_bytes: int | None) -> int:
    """Bytes that one volume may take: `max_bytes`, but never more than 80 % of the memory that is free."""
    free = int(available_memory() * _USABLE_MEMORY)
    return free if max_bytes is None else min(int(max_bytes), free)


def checked_size(shape: Sequence[int], itemsize: int, max_bytes: int | None) -> int:
    """Bytes of an array; refused where it has no voxels or needs more than `memory_limit`."""
    if any(n < 1 for n in shape):
        raise VolumeError(f"the header names an axis without voxels (shape {tuple(shape)}).")
    if any(n > _LONGEST_AXIS for n in shape):
        raise VolumeError(f"its header names an axis of more than {_LONGEST_AXIS:.0e} voxels; it is damaged.")
    needed = math.prod(int(n) for n in shape) * itemsize
    limit = memory_limit(max_bytes)
    if needed > limit:
        raise SizeError(
            f"it needs {_readable(needed)} of memory (shape {tuple(shape)}), but {_readable(limit)} may be used;"
            " crop or downsample it, or use a machine with more memory."
        )
    return needed


def _readable(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.0f} TB" if size < 1e6 else f"{size:.1e} TB"


@dataclass(frozen=True)
class OpenFile:
    """A file that is open, whose bytes are decompressed on the way when they are gzip.

    Attributes
    ----------
    bytes : from its start; compressed ones forward only
    stored : bytes on disk
    compressed : whether it starts as gzip does, whatever it is called
    """

    bytes: SeekableBytes
    stored: int
    compressed: bool


@contextmanager
def opened(path: Path) -> Iterator[OpenFile]:
    """The file, opened once for all that is read from it."""
    with path.open("rb") as file, damage_as_volume_error():
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        yield OpenFile(Inflated(file) if compressed else file, os.fstat(file.fileno()).st_size, compressed)


def check_claim(needed: int, stored: int, *, compressed: bool) -> None:
    """Refuses a header that claims more bytes than the file can hold."""
    if needed > stored * (MAX_DEFLATE_RATIO if compressed else 1):
        raise VolumeError(
            f"the header promises {_readable(needed)} of voxels, but the file ends early; it is truncated,"
            " copy it again."
        )


class Bytes(Protocol):
    """Anything that gives up to `count` bytes at a time, and none at its end."""

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        ...


class SeekableBytes(Bytes, Protocol):
    """Bytes that can also be passed over, forward at least."""

    def seek(self, position: int, /) -> int:
        """Goes to a position from the start."""
        ...


def read_voxels(
    file: OpenFile,
    start: int,
    dtype: np.dtype[Any],
    shape: Sequence[int],
    *,
    frame: int = 0,
    slope: float = 1.0,
    intercept: float = 0.0,
    max_bytes: int | None = None,
) -> npt.NDArray[Any]:
    """The array that begins at byte `start` of a file, or the `frame`th after it, as `read_array` gives it.

    `start` counts the bytes within a compressed file. Sizes are checked before any voxel is read.
    """
    size = checked_size(shape, dtype.itemsize, max_bytes)
    if gives_floats(dtype, slope, intercept):
        checked_size(shape, float_type(dtype).itemsize, max_bytes)
    start += frame * size
    check_claim(start + size, file.stored, compressed=file.compressed)
    file.bytes.seek(start)
    array = read_array(file.bytes, dtype, shape, slope, intercept)
    verify_end(file.bytes)
    return array


def read_array(
    stream: Bytes, dtype: np.dtype[Any], shape: Sequence[int], slope: float = 1.0, intercept: float = 0.0
) -> npt.NDArray[Any]:
    """An array of the given shape from the next bytes of a stream, `rescaled`, in native byte order.

    The caller has checked the size of the array, and where the scaling gives floats, of that too. Only what is
    returned is held: integers that become floats are turned piece by piece.
    """
    shape = tuple(shape)
    scaled = (slope, intercept) != (1, 0) and gives_floats(dtype, slope, intercept)
    if not scaled or dtype.newbyteorder("=") == float_type(dtype):
        array = np.empty(shape, dtype)
        _fill(stream, array.reshape(-1), 0, array.nbytes)
        return rescaled(native(array), slope, intercept)
    result = np.empty(shape, float_type(dtype))
    flat, total = result.reshape(-1), result.size * dtype.itemsize
    step = _CHUNK // dtype.itemsize
    for start in range(0, flat.size, step):
        piece = np.empty(min(step, flat.size - start), dtype)
        _fill(stream, piece, start * dtype.itemsize, total)
        flat[start : start + piece.size] = rescaled(native(piece), slope, intercept)
    return result


def _fill(stream: Bytes, array: npt.NDArray[Any], before: int, total: int) -> None:
    """Puts the next bytes into a one-dimensional array; `before` of the `total` bytes were read already."""
    view = memoryview(array.view(np.uint8).data)
    done = 0
    with damage_as_volume_error():
        while done < len(view):
            wanted = view[done : done + _CHUNK]
            if isinstance(stream, io.BufferedIOBase):
                count = stream.readinto(wanted)
            else:
                read = stream.read1 if isinstance(stream, Inflated) else stream.read
                piece = read(len(wanted))
                count = len(piece)
                wanted[:count] = piece
            if not count:
                raise VolumeError(
                    f"the file ends after {_readable(before + done)} of {_readable(total)} of voxels; it is"
                    " truncated, copy it again."
                )
            done += count


def skip_bytes(stream: Bytes, count: int) -> None:
    """Passes over the next bytes of a stream."""
    with damage_as_volume_error():
        while count > 0:
            piece = stream.read(min(_CHUNK, count))
            if not piece:
                raise VolumeError("it ends before its data begins; it is truncated, copy it again.")
            count -= len(piece)


def last_bytes(stream: Bytes, size: int, most_before: int) -> bytes:
    """The last `size` bytes of a stream that is not known to end there, read to its end."""
    pieces: deque[bytes] = deque()
    held = before = 0
    with damage_as_volume_error():
        while piece := stream.read(_CHUNK):
            pieces.append(piece)
            held += len(piece)
            while held - len(pieces[0]) >= size:
                before += len(pieces[0])
                held -= len(pieces.popleft())
            if before > most_before:
                raise VolumeError("its compressed data holds far more than its voxels; it is damaged.")
    if held < size:
        raise VolumeError(
            f"the file ends after {_readable(held)} of {_readable(size)} of voxels; it is truncated, copy it again."
        )
    return b"".join(pieces)[held - size :]


def verify_end(stream: Bytes) -> None:
    """Has a decompressor that stands at the end of its data check the checksum that follows.

    Without this a reader that takes exactly the bytes it needs never learns that some of them are wrong.
    """
    with damage_as_volume_error():
        for _ in range(_DRAINED):
            if not stream.read(1 << 16):
                break


def plane_bytes(data: npt.NDArray[Any]) -> Iterator[bytes]:
    """What is written of each plane: its values, little-endian."""
    little = data.dtype.newbyteorder("<")
    return (plane.astype(little, copy=False).tobytes() for plane in data)


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in the machine's byte order, swapped in place where it can be."""
    if array.dtype.isnative:
        return array
    if array.flags.writeable:
        return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    return array.astype(array.dtype.newbyteorder("="))


def rescaled(array: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    """`array * slope + intercept`, in a signed integer type where that is exact, else in float32 (or float64).

    A slope of 1 with an intercept of 0 gives the array itself; else its memory is used for the result where the
    types are as large, so that a volume is not held twice, and what it held is lost.
    """
    if slope == 1 and intercept == 0:
        return array
    if not gives_floats(array.dtype, slope, intercept):
        least, most = int(array.min()), int(array.max())
        ends = [least * int(slope), most * int(slope)]
        low, high = min(ends) + int(intercept), max(ends) + int(intercept)
        for kind in (np.int16, np.int32, np.int64):
            # The intermediate product must fit as well.
            extremes = (low, high, *ends, least, most, int(slope), int(intercept))
            if np.iinfo(kind).min <= min(extremes) and max(extremes) <= np.iinfo(kind).max:
                narrow = np.dtype(np.int16 if low >= -32768 and high <= 32767 else kind)
                # What is taken of the wider type on the way is right modulo its size, and the end result fits.
                exact = _own(array, narrow)
                if slope != 1:
                    np.multiply(exact, np.array(int(slope)).astype(narrow), out=exact)
                np.add(exact, np.array(int(intercept)).astype(narrow), out=exact)
                return exact
    kind_float = float_type(array.dtype)
    scaled = _own(array, kind_float)
    np.multiply(scaled, kind_float.type(slope), out=scaled)
    np.add(scaled, kind_float.type(intercept), out=scaled)
    return scaled


def gives_floats(dtype: np.dtype[Any], slope: float, intercept: float) -> bool:
    """Whether `rescaled` gives floats whatever the values are: `dtype` or the scaling is not one of integers."""
    return dtype.kind not in "iu" or slope != int(slope) or intercept != int(intercept)


def float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The floats that `rescaled` gives for values of a type."""
    return np.dtype(np.float64 if dtype.itemsize > 4 else np.float32)


def _own(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The array in another type, in the memory that it has where both are as large; integers wrap round."""
    alike = array.dtype == dtype or (array.dtype.kind in "iu" and dtype.kind in "iu")
    if alike and array.dtype.itemsize == dtype.itemsize and array.flags.writeable:
        return array.view(dtype)
    return array.astype(dtype)


def chosen(
    count: int,
    index: int | None,
    what: str,
    option: Literal["channel", "time"],
    names: Sequence[str] = (),
) -> int:
    """The index to read along an axis of several volumes; `names` are theirs, where the file has them."""
    if index is None:
        if count == 1:
            return 0
        raise SeveralVolumesError(
            f"it holds {count} {what}s, not one volume; choose one with {option} (0 to {count - 1}).",
            option,
            count,
            what,
            names=names,
        )
    if not 0 <= index < count:
        raise VolumeError(f"it has no {what} {index}; {option} can be 0 to {count - 1}.")
    return index


def header_text(line: bytes) -> str:
    """A line of a header as text: UTF-8, else Latin-1, in which older writers spell µ."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def header_numbers(text: str) -> list[float]:
    """The numbers in a field of a header, with spaces, commas or brackets between them."""
    try:
        return [float(word) for word in re.split(r"[,\s]+", text.strip("() ")) if word]
    except ValueError as error:
        raise VolumeError(f"its header has {text[:40]!r} where numbers belong; it is damaged.") from error


def beside(path: Path, name: str) -> Path:
    """The file `name`, as a header at `path` calls it, in the header's own folder."""
    plain = re.sub(r"^(\.[/\\]+)+", "", name.strip())
    if not plain or plain in {".", ".."} or any(mark in plain for mark in ("/", "\\", "\0", ":")):
        raise VolumeError(
            f"its data file {plain!r} must be a plain file name in the same folder; move the file beside the"
            " header and correct the name."
        )
    data = path.parent / plain
    if data.is_symlink() and not path.is_symlink() and not _in_folder_or_store(real_path(data), path.parent):
        raise VolumeError(f"its data file {plain!r} is a link out of the folder; put the file itself there.")
    if not data.is_file():
        raise VolumeError(f"its data file {plain!r} is missing; it must lie in the same folder.")
    return data


@contextmanager
def data_of(header: IO[bytes], path: Path, name: str | None) -> Iterator[tuple[IO[bytes], int]]:
    """The file that holds the voxels, and the bytes in it: the open one of the header, or `name` beside it."""
    with nullcontext(header) if name is None else beside(path, name).open("rb") as file:
        yield file, os.fstat(file.fileno()).st_size


def _in_folder_or_store(file: Path, folder: Path) -> bool:
    """Whether a link from `folder` stays in it, or leads to where git-annex and DVC keep large files."""
    return file.parent == folder.resolve() or not _STORES.isdisjoint(file.parts)
