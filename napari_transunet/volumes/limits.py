"""Sizes checked before memory is taken, and reads that end in a sentence when the bytes run out."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.files import available_memory
from napari_transunet.volumes.several import SeveralVolumesError

# Deflate cannot shrink anything by more than this, so a file that claims more is damaged or a bomb.
MAX_DEFLATE_RATIO = 1032
_CHUNK = 1 << 24
# Pieces of 64 kB that are read past the last voxel to find the checksum; damage can lengthen the data a little.
_DRAINED = 16
# What is left for the rest of the process when no limit is given.
_USABLE_MEMORY = 0.8


def memory_limit(max_bytes: int | None) -> int:
    """Bytes that one volume may take: `max_bytes`, but never more than 80 % of the memory that is free."""
    free = int(available_memory() * _USABLE_MEMORY)
    return free if max_bytes is None else min(int(max_bytes), free)


def checked_size(shape: Sequence[int], itemsize: int, max_bytes: int | None) -> int:
    """Bytes of an array, when it may be taken.

    Raises
    ------
    VolumeError
        An axis has no voxels.
    SizeError
        The array needs more than `memory_limit`.
    """
    if any(n < 1 for n in shape):
        raise VolumeError(f"the header names an axis without voxels (shape {tuple(shape)}).")
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


@contextmanager
def damage_as_volume_error() -> Iterator[None]:
    """Turns what decompressors raise on damaged or short data into a `VolumeError`."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError("the compressed data is damaged or ends early; copy the file again.") from error


def is_gzip(path: Path) -> bool:
    """Whether the file starts as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def open_maybe_gzip(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed on the way when they are gzip, whatever the file is called."""
    with damage_as_volume_error():
        if is_gzip(path):
            with gzip.open(path, "rb") as stream:
                yield cast("IO[bytes]", stream)
        else:
            with path.open("rb") as file:
                yield file


def check_claim(needed: int, stored: int, *, compressed: bool) -> None:
    """Refuses a header that claims more bytes than the file can hold.

    Raises
    ------
    VolumeError
        `stored` bytes on disk cannot give `needed` bytes of voxels.
    """
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


def read_array(stream: Bytes, dtype: np.dtype[Any], shape: Sequence[int]) -> npt.NDArray[Any]:
    """An array of the given shape from the next bytes of a stream, in native byte order.

    The caller has checked the size.

    Raises
    ------
    VolumeError
        The stream ends early or is damaged.
    """
    array = np.empty(tuple(shape), dtype)
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    done = 0
    with damage_as_volume_error():
        while done < len(view):
            chunk = stream.read(min(_CHUNK, len(view) - done))
            if not chunk:
                raise VolumeError(
                    f"the file ends after {_readable(done)} of {_readable(len(view))} of voxels; it is truncated,"
                    " copy it again."
                )
            view[done : done + len(chunk)] = chunk
            done += len(chunk)
    return native(array)


def verify_end(stream: Bytes) -> None:
    """Has a decompressor that stands at the end of its data check the checksum that follows.

    Without this a reader that takes exactly the bytes it needs never learns that some of them are wrong.

    Raises
    ------
    VolumeError
        The checksum is wrong or missing.
    """
    with damage_as_volume_error():
        try:
            for _ in range(_DRAINED):
                if not stream.read(1 << 16):
                    break
        except gzip.BadGzipFile as error:
            # Bytes that follow a whole, checked stream do no harm.
            if "Not a gzipped file" not in str(error):
                raise


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in the machine's byte order, swapped in place where it can be."""
    if array.dtype.isnative:
        return array
    if array.flags.writeable:
        return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))
    return array.astype(array.dtype.newbyteorder("="))


def rescaled(array: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    """`array * slope + intercept`, in a signed integer type where that is exact, else in float32 (or float64).

    A slope of 1 with an intercept of 0 gives the array itself.
    """
    if slope == 1 and intercept == 0:
        return array
    if array.dtype.kind in "iu" and slope == int(slope) and intercept == int(intercept):
        ends = [int(array.min()) * int(slope), int(array.max()) * int(slope)]
        low, high = min(ends) + int(intercept), max(ends) + int(intercept)
        for kind in (np.int16, np.int32, np.int64):
            # The intermediate product must fit as well.
            extremes = (low, high, *ends, int(array.min()), int(array.max()), int(intercept))
            if np.iinfo(kind).min <= min(extremes) and max(extremes) <= np.iinfo(kind).max:
                exact = array.astype(kind)
                np.multiply(exact, kind(int(slope)), out=exact)
                np.add(exact, kind(int(intercept)), out=exact)
                narrow = np.int16 if low >= -32768 and high <= 32767 else kind
                return exact.astype(narrow, copy=False)
    kind_float = np.float64 if array.dtype.itemsize > 4 or array.dtype == np.float64 else np.float32
    scaled = array.astype(kind_float)
    np.multiply(scaled, kind_float(slope), out=scaled)
    np.add(scaled, kind_float(intercept), out=scaled)
    return scaled


def chosen(
    count: int,
    index: int | None,
    what: str,
    option: Literal["channel", "time"],
    names: Sequence[str] = (),
) -> int:
    """The index to read along an axis of several volumes; `names` are theirs, where the file has them.

    Raises
    ------
    SeveralVolumesError
        There are several and none was chosen.
    VolumeError
        The choice does not exist.
    """
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


def beside(path: Path, name: str) -> Path:
    """The file `name`, as a header at `path` calls it, in the header's own folder.

    Raises
    ------
    VolumeError
        The name leads anywhere else, or there is no such file.
    """
    plain = name.strip()
    if not plain or plain in {".", ".."} or any(mark in plain for mark in ("/", "\\", "\0", ":")):
        raise VolumeError(
            f"its data file {plain!r} must be a plain file name in the same folder; move the file beside the"
            " header and correct the name."
        )
    data = path.parent / plain
    if data.is_symlink() and data.resolve().parent != path.parent.resolve():
        raise VolumeError(f"its data file {plain!r} is a link out of the folder; put the file itself there.")
    if not data.is_file():
        raise VolumeError(f"its data file {plain!r} is missing; it must lie in the same folder.")
    return data
