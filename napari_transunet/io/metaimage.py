"""MetaImage: `.mha`, and `.mhd` with its data beside it.

Format: https://itk.org/Wiki/MetaIO/Documentation. As in ITK, row i of TransformMatrix is the direction of index
axis i, positions are LPS, and AnatomicalOrientation is not needed.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io.gzip_stream import Inflated
from napari_transunet.io.streams import (
    Bytes,
    check_claim,
    checked_size,
    chosen,
    data_of,
    header_text,
    plane_bytes,
    read_array,
    verify_end,
)
from napari_transunet.io.units import is_unsaid, millimetres
from napari_transunet.volumes.geometry import RECTANGLE_TOLERANCE, Geometry, corner_displacement, nearest_grid
from napari_transunet.volumes.orientation import check_codes

_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "MET_CHAR": "i1",
        "MET_UCHAR": "u1",
        "MET_SHORT": "i2",
        "MET_USHORT": "u2",
        "MET_INT": "i4",
        "MET_UINT": "u4",
        "MET_LONG": "i4",
        "MET_ULONG": "u4",
        "MET_LONG_LONG": "i8",
        "MET_ULONG_LONG": "u8",
        "MET_FLOAT": "f4",
        "MET_DOUBLE": "f8",
    }
)
_WRITTEN: Mapping[str, str] = MappingProxyType(
    {code: name for name, code in _TYPES.items() if name not in {"MET_LONG", "MET_ULONG"}}
)
_ORIGIN = ("Offset", "Position", "Origin")
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_OPPOSITE = str.maketrans("LRAPSI", "RLPAIS")
_MAX_LINE = 1 << 20
_MAX_LINES = 10_000


@dataclass(frozen=True)
class MetaHeader:
    """Fields by name as written."""

    fields: Mapping[str, str]

    def get(self, *names: str) -> str | None:
        """The first of several spellings of a field."""
        return next((self.fields[name] for name in names if name in self.fields), None)


def parse_header(stream: IO[bytes]) -> MetaHeader:
    """The header of an open file, which is left where it ends: with ElementDataFile."""
    fields: dict[str, str] = {}
    for _ in range(_MAX_LINES):
        line = stream.readline(_MAX_LINE)
        if not line:
            break
        match = re.match(r"\s*([^=]*?)\s*=\s*(.*?)\s*$", header_text(line))
        if match is None:
            if line.strip():
                break
            continue
        fields[match[1]] = match[2]
        if match[1] == "ElementDataFile":
            return MetaHeader(MappingProxyType(fields))
    if "ObjectType" in fields or "NDims" in fields:
        raise VolumeError("it ends inside the header; it is truncated, copy it again.")
    raise VolumeError("it is not a MetaImage file, whatever its name says.")


def geometry_of(header: MetaHeader) -> tuple[Geometry, tuple[int, ...], tuple[str, ...]]:
    """The grid, all sizes (x, y, z, time) of the file, and what the header left open."""
    (count,) = _integers(header, ("NDims",), 1, None)
    if not 2 <= count <= 4:
        raise VolumeError(f"it has {count} dimensions; two to four can be read.")
    sizes = _integers(header, ("DimSize",), count, None)
    names = ("ElementSpacing", "ElementSize")
    spacing = _numbers(header, names, count, [1.0] * count)
    origin = _numbers(header, _ORIGIN, count, [0.0] * count)
    notes = [] if header.get(*names) else ["The header gives no spacing; voxels of 1 mm were assumed."]
    scale = millimetres(unit := header.get("DistanceUnits") or "mm")
    if scale is None:
        if not is_unsaid(unit):
            raise VolumeError(
                f"its DistanceUnits is {unit[:40]!r}, which is no known unit; correct it to mm."
            )
        notes.append(f"The header gives lengths in {unit[:40]!r}; mm were assumed.")
        scale = 1.0
    spacing = [step * scale for step in spacing]
    origin = [place * scale for place in origin]
    flat = _numbers(header, _MATRIX, count * count, list(np.eye(count).ravel()))
    for same in (_ORIGIN, _MATRIX):
        given = [name for name in same if name in header.fields]
        if any(header.fields[name].split() != header.fields[given[0]].split() for name in given):
            notes.append(
                f"The header contradicts itself: its {given[0]} was used, not its {' and '.join(given[1:])}."
            )
    matrix = np.reshape(flat, (count, count)).T
    if count == 4 and (np.abs(matrix[3, :3]).max() > 1e-6 or np.abs(matrix[:3, 3]).max() > 1e-6):
        raise VolumeError("its time axis is mixed with the axes in space; it is no series of volumes.")
    direction = np.eye(3)
    side = min(count, 3)
    direction[:side, :side] = matrix[:side, :side]
    if min(sizes) < 1:
        raise VolumeError(f"its header names an axis without voxels (sizes {sizes}).")
    steps = [*spacing[:side], 1.0][:3]
    affine = np.eye(4)
    affine[:3, :3] = direction * steps
    affine[:side, 3] = origin[:side]
    if min(steps) <= 0:
        raise VolumeError(f"the voxel spacing must be positive along every axis, not {steps} mm.")
    shape = (sizes[2] if count > 2 else 1, sizes[1], sizes[0])
    lengths = np.linalg.norm(direction, axis=0)
    if np.abs(lengths - 1).max() <= 1e-3:
        rows = tuple(tuple(float(v) for v in row) for row in direction)
        with suppress(VolumeError):  # not perpendicular: perhaps by rounding alone
            exact = Geometry(shape, (steps[2], steps[1], steps[0]), tuple(affine[:3, 3]), rows)  # type: ignore[arg-type]
            return exact, sizes, (*notes, *_orientation_notes(header, exact))
    geometry, note = nearest_grid(affine, shape)
    unit_length = np.eye(4)
    unit_length[:3, :3] = np.array(geometry.direction) * steps
    middle = np.array([(count - 1) / 2 for count in reversed(shape)])
    unit_length[:3, 3] = (affine @ [*middle, 1.0])[:3] - unit_length[:3, :3] @ middle
    if corner_displacement(affine, unit_length, shape) > RECTANGLE_TOLERANCE * min(steps):
        raise VolumeError("the directions of its axes are not of length one; it is damaged.")
    return geometry, sizes, (*notes, *_orientation_notes(header, geometry), *([note] if note else []))


def _orientation_notes(header: MetaHeader, geometry: Geometry) -> list[str]:
    """What to say where the header tells no directions, or two.

    AnatomicalOrientation names the sides that axes come from as ITK writes it, and those they go to elsewhere.
    """
    try:
        told = check_codes(header.get("AnatomicalOrientation") or "")
    except VolumeError:  # none, or "???"
        if header.get(*_MATRIX) is not None:
            return []
        return ["The header says nothing about orientation; its axes were taken to point left, back and up."]
    used = geometry.axis_codes
    if told in (used, used.translate(_OPPOSITE)):
        return []
    note = (
        f"The header contradicts itself: axes were taken to point to {used}, as its TransformMatrix says or as is usual"
        f" without one; its AnatomicalOrientation is {told}."
    )
    return [note]


def _integers(
    header: MetaHeader, names: tuple[str, ...], count: int, default: Sequence[int] | None
) -> tuple[int, ...]:
    """Whole numbers of a field; `default` where the header lacks it."""
    text = header.get(*names)
    if text is None and default is not None:
        return tuple(default)
    words = (text or "").split()
    if text is None:
        raise VolumeError(f"its header lacks {names[0]}; it is damaged.")
    if len(words) != count or not all(re.fullmatch(r"[-+]?\d{1,18}", word) for word in words):
        raise VolumeError(
            f"its {names[0]} should be {count} whole numbers, not {text[:40]!r}; it is damaged."
        )
    return tuple(int(word) for word in words)


def _numbers(header: MetaHeader, names: tuple[str, ...], count: int, default: list[float]) -> list[float]:
    text = header.get(*names)
    if text is None:
        return default
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError as error:
        raise VolumeError(f"its {names[0]} is not made of numbers; it is damaged.") from error
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise VolumeError(f"its {names[0]} should be {count} numbers, not {text[:40]!r}; it is damaged.")
    return numbers


def read_metaimage(
    path: Path, *, channel: int | None = None, time: int | None = None, max_bytes: int | None = None
) -> tuple[npt.NDArray[Any], Geometry, tuple[str, ...], MetaHeader]:
    """Voxels (z, y, x), their grid, notes worth showing and the header."""
    with path.open("rb") as file:
        header = parse_header(file)
        geometry, sizes, notes = geometry_of(header)
        dtype = _dtype(header)
        (channels,) = _integers(header, ("ElementNumberOfChannels",), 1, [1])
        if channels < 1:
            raise VolumeError(f"its ElementNumberOfChannels is {channels}; it is damaged.")
        if channels in (3, 4) and dtype.itemsize == 1 and channel is None:
            raise VolumeError(
                "it holds colours (RGB), not one value per voxel; convert it to greyscale first."
            )
        wanted_channel = chosen(channels, channel, "channel", "channel")
        wanted_time = chosen(sizes[3] if len(sizes) == 4 else 1, time, "time point", "time")
        data = _voxels(file, path, header, dtype, (*reversed(sizes), channels), max_bytes)
    frame = data.reshape(-1, *geometry.shape, channels)[wanted_time, ..., wanted_channel]
    return np.ascontiguousarray(frame), geometry, notes + _unscaled(header), header


def _dtype(header: MetaHeader) -> np.dtype[Any]:
    kind = (header.get("ElementType") or "").upper().removesuffix("_ARRAY")
    if kind not in _TYPES:
        raise VolumeError(f"it holds values of type {kind or 'unknown'}, not real numbers.")
    big = _is_true(header, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return np.dtype((">" if big else "<") + _TYPES[kind])


def _voxels(
    file: IO[bytes],
    path: Path,
    header: MetaHeader,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    max_bytes: int | None,
) -> npt.NDArray[Any]:
    """All voxels that a header speaks of, whose open file stands where it ends."""
    size = checked_size(shape, dtype.itemsize, max_bytes)
    name = header.fields["ElementDataFile"]
    if name.upper().startswith("LIST") or "%" in name:
        raise VolumeError("its slices are spread over several files; save it as one .mha first.")
    if header.get("BinaryData") is not None and not _is_true(header, "BinaryData"):
        raise VolumeError("its voxels are written as text; save it as binary first.")
    (skip,) = _integers(header, ("HeaderSize",), 1, [0])
    compressed = _is_true(header, "CompressedData")
    if skip < -1 or (skip == -1 and compressed):
        raise VolumeError(
            f"its HeaderSize is {skip}; only sizes from 0 up, and -1 before voxels that are not compressed, mean"
            " something."
        )
    with data_of(file, path, None if name.upper() == "LOCAL" else name) as (packed, stored):
        if skip > 0:  # counted from the file's begin, also where the header is in the same file
            packed.seek(skip)
        check_claim(size, stored - packed.tell(), compressed=compressed)
        if skip == -1:
            packed.seek(stored - size)
        stream: Bytes = Inflated(packed, gzip_only=False) if compressed else packed
        data = read_array(stream, dtype, shape)
        verify_end(stream)
    return data


def _unscaled(header: MetaHeader) -> tuple[str, ...]:
    """What to say of a scaling to intensities, which ITK and what is built on it leave aside too."""
    names = ("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")
    slope, offset = (
        _numbers(header, (name,), 1, [default])[0] for name, default in zip(names, (1.0, 0.0), strict=True)
    )
    if (slope, offset) == (1.0, 0.0):
        return ()
    said = f"The header scales values by {slope:g} and adds {offset:g} ({names[0]}, {names[1]})"
    return (f"{said}; as in ITK, they were taken as they are stored.",)


def _is_true(header: MetaHeader, *names: str) -> bool:
    """A field that is true or false; false where the header lacks it."""
    word = (header.get(*names) or "false").strip().lower()
    if word not in ("true", "t", "1", "yes", "false", "f", "0", "no"):
        raise VolumeError(f"its {names[0]} is {word[:40]!r}, neither True nor False; it is damaged.")
    return word in ("true", "t", "1", "yes")


def write_metaimage(path: Path, data: npt.NDArray[Any], geometry: Geometry, keys: Mapping[str, str]) -> None:
    """Writes a compressed `.mha`, with `keys` as fields of its header."""
    kind = _WRITTEN.get(f"{data.dtype.kind}{data.dtype.itemsize}")
    if kind is None:
        raise VolumeError(f"MetaImage cannot hold values of type {data.dtype}.")
    deflate = zlib.compressobj(4)
    pieces = [deflate.compress(plane) for plane in plane_bytes(data)]
    pieces.append(deflate.flush())
    matrix = [value for column in zip(*geometry.direction, strict=True) for value in column]
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {sum(map(len, pieces))}",
        "TransformMatrix = " + _spaced(matrix),
        "Offset = " + _spaced(geometry.origin),
        "CenterOfRotation = 0 0 0",
        "ElementSpacing = " + _spaced(geometry.spacing_xyz),
        "DimSize = " + " ".join(str(n) for n in reversed(geometry.shape)),
    ]
    for name, value in keys.items():
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
        lines.append(f"{plain} = " + " ".join(value.split()))
    lines += [f"ElementType = {kind}", "ElementDataFile = LOCAL"]
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
        file.writelines(pieces)


def _spaced(numbers: Any) -> str:
    return " ".join(f"{float(value):.17g}" for value in numbers)
