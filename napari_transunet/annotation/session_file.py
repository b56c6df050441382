"""One saved file of a session: some planes of some arrays, and a small state, in a form that shows damage.

The file is: eight bytes that name the format, the length of the header (8 bytes, little-endian), the header (JSON,
zlib), the planes one after the other (zlib), and the SHA-256 of all that comes before it. A plane of zeros takes no
room. Damage is found before anything of a file is used, and sizes are checked before memory is taken.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.errors import InputError, SizeError
from napari_transunet.files import atomic_path, file_problems


class NewerFormatError(InputError):
    """A file that a newer version of this package wrote."""


Planes = Mapping[str, Mapping[int, NDArray[Any]]]

logger = logging.getLogger(__name__)

_MAGIC = b"TUSESS1\n"
_DIGEST = 32
_MAX_HEADER = 1 << 26
_MAX_FILE = 1 << 33
LATEST = 4102444800.0
"""Seconds since 1970, before which a session is saved: the year 2100."""
_MAX_ARRAY = 1 << 34  # bytes; no scan's labels are larger
_TYPES = (
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
)


@dataclass(frozen=True)
class ArraySpec:
    """Shape and type of an array that is saved plane by plane along its first axis, little-endian."""

    shape: tuple[int, int, int]
    dtype: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> ArraySpec:
        """The spec of a three-dimensional array."""
        if array.ndim != 3 or array.dtype.name not in _TYPES:
            raise InputError(f"A {array.dtype} array of shape {array.shape} cannot be saved in a session.")
        return cls((array.shape[0], array.shape[1], array.shape[2]), array.dtype.name)

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane."""
        return self.shape[1] * self.shape[2] * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class SavedPart:
    """What one file holds.

    Attributes
    ----------
    whole : nothing before it is needed.
    specs, state : as they were written.
    saved_at : seconds since 1970, by the clock as it was.
    order : grows with every save of a volume's sessions, also where the clock was put back; `saved_at` in files of
        earlier versions.
    """

    whole: bool
    specs: dict[str, ArraySpec]
    state: dict[str, Any]
    saved_at: float
    order: float
    _entries: list[tuple[str, int, int, int]] = field(repr=False, default_factory=list)
    _body: bytes = field(repr=False, default=b"")

    def planes(self) -> Iterator[tuple[str, int, NDArray[Any]]]:
        """Array name, index along the first axis, plane."""
        for name, index, start, size in self._entries:
            spec = self.specs[name]
            if not size:
                yield name, index, np.zeros(spec.shape[1:], spec.dtype)
                continue
            reader = zlib.decompressobj()
            try:
                data = reader.decompress(self._body[start : start + size], spec.plane_bytes + 1)
            except zlib.error as error:
                raise InputError(f"A plane cannot be unpacked ({error}).") from error
            if len(data) != spec.plane_bytes:
                raise InputError("A plane has another size than its array gives it.")
            stored = np.frombuffer(data, np.dtype(spec.dtype).newbyteorder("<"))
            yield name, index, stored.astype(spec.dtype, copy=False).reshape(spec.shape[1:])


def write_part(
    path: Path,
    planes: Planes,
    specs: Mapping[str, ArraySpec],
    state: Mapping[str, Any],
    *,
    whole: bool,
    saved_at: float,
    order: float | None = None,
) -> int:
    """Write one file, atomically and down to the disk; returns its size in bytes."""
    entries: list[tuple[str, int, int, int]] = []
    body: list[bytes] = []
    position = 0
    for name, chosen in planes.items():
        for index, plane in chosen.items():
            stored = np.ascontiguousarray(plane, plane.dtype.newbyteorder("<"))
            packed = zlib.compress(stored.view(np.uint8).data, 1) if plane.any() else b""
            entries.append((name, int(index), position, len(packed)))
            body.append(packed)
            position += len(packed)
    header = {
        "version": 1,
        "whole": whole,
        "saved_at": saved_at,
        "order": saved_at if order is None else order,
        "arrays": {name: [list(spec.shape), spec.dtype] for name, spec in specs.items()},
        "planes": entries,
        "state": state,
    }
    packed_header = zlib.compress(json.dumps(header).encode(), 1)
    digest = hashlib.sha256()
    size = 0
    with file_problems(f"Cannot write to {path.parent}"):
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for piece in (_MAGIC, len(packed_header).to_bytes(8, "little"), packed_header, *body):
                digest.update(piece)
                size += file.write(piece)
            size += file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    return size


def read_part(path: Path) -> SavedPart:
    """Read one file; what it returns is undamaged."""
    with file_problems(f"{path.name} cannot be read"):
        if path.stat().st_size > _MAX_FILE:
            raise SizeError(f"{path.name} is too large for a part of a session; it is not opened.")
        content = path.read_bytes()
    start = len(_MAGIC) + 8
    if len(content) < start + _DIGEST or not content.startswith(_MAGIC):
        raise InputError(f"{path.name} is not part of a session, or was cut off.")
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise InputError(f"{path.name} is damaged.")
    length = int.from_bytes(content[len(_MAGIC) : start], "little")
    body = content[start + length : -_DIGEST]
    return _parsed(path.name, content[start : start + length], body)


def read_wholeness(path: Path) -> bool:
    """Whether a file is a whole one, by its header alone: damage elsewhere in it is not noticed."""
    start = len(_MAGIC) + 8
    with file_problems(f"{path.name} cannot be read"), path.open("rb") as file:
        begin = file.read(start)
        length = int.from_bytes(begin[len(_MAGIC) :], "little")
        if not begin.startswith(_MAGIC) or length > _MAX_HEADER:
            raise InputError(f"{path.name} is not part of a session.")
        packed = file.read(length)
    try:
        whole = json.loads(zlib.decompressobj().decompress(packed, _MAX_HEADER))["whole"]
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path.name} cannot be understood ({error}).") from error
    return bool(whole)


def _parsed(name: str, packed: bytes, body: bytes) -> SavedPart:
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(packed, _MAX_HEADER)
        if reader.unconsumed_tail:
            raise SizeError(f"The header of {name} is too large.")
        header = json.loads(text)
        version = int(header["version"])
        if version != 1:
            raise NewerFormatError(
                f"{name} was written by a newer version of napari-transunet (format {version}); update to open it."
            )
        specs = {str(key): _spec(name, *value) for key, value in header["arrays"].items()}
        entries = [(str(key), int(index), int(at), int(size)) for key, index, at, size in header["planes"]]
        for key, index, at, size in entries:
            if not (0 <= index < specs[key].shape[0] and 0 <= at <= at + size <= len(body)):
                raise InputError(f"{name} names a plane that it does not have.")
        state, saved_at = header["state"], float(header["saved_at"])
        order = float(header.get("order", saved_at))
        if not isinstance(state, dict) or not 0 <= saved_at < LATEST or not math.isfinite(order):
            raise InputError(f"{name} holds no session.")
        return SavedPart(bool(header["whole"]), specs, state, saved_at, order, entries, body)
    except InputError:
        raise
    except (
        zlib.error,
        ValueError,
        OverflowError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InputError(f"{name} cannot be understood ({error}).") from error


def _spec(name: str, shape: Any, dtype: Any) -> ArraySpec:
    z, y, x = (int(size) for size in shape)
    if min(z, y, x) < 1 or dtype not in _TYPES:
        raise InputError(f"{name} holds an array of shape {shape} and type {dtype}, which no session has.")
    spec = ArraySpec((z, y, x), str(dtype))
    if z * spec.plane_bytes > _MAX_ARRAY:
        raise SizeError(f"{name} holds an array of {z * spec.plane_bytes / 2**30:.0f} GiB; it is not opened.")
    return spec


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:  # some network mounts refuse it; the file itself is written
        logger.info("%s cannot be synchronised: %s", folder, error)
