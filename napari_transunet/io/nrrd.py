"""NRRD: `.nrrd`, and `.nhdr` with its data beside it; what makes a `.seg.nrrd` of one lies in `slicer_segments`.

Format: https://teem.sourceforge.net/nrrd/format.html.
"""

import bz2
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.gzip_stream import Inflated, damage_as_volume_error, write_gzip
from napari_transunet.io.slicer_segments import layer_names, segment_numbers, segments_of
from napari_transunet.io.streams import (
    Bytes,
    check_claim,
    checked_size,
    chosen,
    data_of,
    header_numbers,
    header_text,
    last_bytes,
    plane_bytes,
    read_array,
    skip_bytes,
    verify_end,
)
from napari_transunet.io.units import is_unsaid, millimetres
from napari_transunet.volumes.geometry import Geometry, nearest_grid
from napari_transunet.volumes.labels import LabelSet

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "i1": "signed char|int8|int8_t",
        "u1": "unsigned char|uchar|uint8|uint8_t",
        "i2": "short|short int|signed short|signed short int|int16|int16_t",
        "u2": "unsigned short|ushort|unsigned short int|uint16|uint16_t",
        "i4": "int|signed int|int32|int32_t",
        "u4": "unsigned int|uint|uint32|uint32_t",
        "i8": "long long int|longlong|long long|signed long long|signed long long int|int64|int64_t",
        "u8": "unsigned long long int|ulonglong|unsigned long long|uint64|uint64_t",
        "f4": "float",
        "f8": "double",
    }
)
"""What types are called; the first is written."""

_TYPES: Mapping[str, str] = MappingProxyType(
    {name: code for code, names in _NAMES.items() for name in names.split("|")}
)
_SPACES: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "right-anterior-superior": (-1.0, -1.0, 1.0),
        "ras": (-1.0, -1.0, 1.0),
        "left-anterior-superior": (1.0, -1.0, 1.0),
        "las": (1.0, -1.0, 1.0),
        "left-posterior-superior": (1.0, 1.0, 1.0),
        "lps": (1.0, 1.0, 1.0),
    }
)
_COLOR_KINDS = frozenset({"rgb-color", "rgba-color", "hsv-color", "xyz-color", "3-color", "4-color"})
_SPATIAL_KINDS = frozenset({"domain", "space", "???", "none", ""})
# A segmentation has some 400 bytes for each of up to 65535 segments.
_MAX_HEADER = 1 << 26
_MAX_LINE = 1 << 20
_TEXT_PIECE = 1 << 20
_GZIP, _BZIP2 = ("gzip", "gz"), ("bzip2", "bz2")
_TEXT = ("txt", "text", "ascii")
# A foreign header inside compressed data is small; inflating what cannot be one would take minutes.
_MAX_SKIPPED = 1 << 28


@dataclass(frozen=True)
class NrrdHeader:
    """Fields by lower-case name without spaces, and keys by name."""

    fields: Mapping[str, str]
    keys: Mapping[str, str]


def parse_header(stream: IO[bytes]) -> NrrdHeader:
    """The header of an open file, which is left where the header ends."""
    if not re.fullmatch(rb"NRRD000[1-5]\s*", stream.readline(16)):
        raise VolumeError("it is not an NRRD file, whatever its name says.")
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    while line := stream.readline(_MAX_LINE):
        if stream.tell() > _MAX_HEADER:
            raise VolumeError("its header does not end; it is damaged.")
        text = header_text(line.rstrip(b"\r\n"))
        if not text:
            break
        if text.startswith("#"):
            continue
        key = re.match(r"([^:]*?):=(.*)", text)
        field = re.match(r"([^:]+): ?(.*)", text)
        if key:
            keys[key[1]] = re.sub(r"\\([n\\])", lambda m: "\n" if m[1] == "n" else "\\", key[2])
        elif field:
            name = field[1].lower().replace(" ", "")
            if fields.setdefault(name, field[2].strip()) != field[2].strip():
                raise VolumeError(
                    f"its header gives {field[1][:40]!r} twice, and not alike; correct the header."
                )
            if name == "datafile" and _several_files(fields[name]):
                raise VolumeError(
                    "its slices lie in several files, which is not supported; convert it to one .nrrd file first."
                )
        else:
            raise VolumeError(f"its header has a line that means nothing ({text[:40]!r}); it is damaged.")
    else:
        if "datafile" not in fields:  # a detached header may end without an empty line
            raise VolumeError("it ends inside the header; it is truncated, copy it again.")
    return NrrdHeader(MappingProxyType(fields), MappingProxyType(keys))


def _several_files(data_file: str) -> bool:
    """Whether a data file field is a list, or a pattern with its first number, last number and step."""
    return re.fullmatch(r"LIST(\s+\d+)?|.*%.*(\s+[-+]?\d+){3,4}", data_file) is not None


@dataclass(frozen=True)
class _Axes:
    """Which of the file's axes (fastest first) are x, y, z, and which are channel and time."""

    sizes: tuple[int, ...]
    spatial: tuple[int, ...]
    channel: int | None
    time: int | None


def _axes(header: NrrdHeader) -> _Axes:
    fields = header.fields
    dimension = _integers(fields, "dimension")[0]
    sizes = _integers(fields, "sizes")
    if not 1 <= dimension <= 5 or len(sizes) != dimension:
        raise VolumeError(f"it has {dimension} dimensions and the sizes {sizes}; up to five can be read.")
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()] or [""] * dimension
    directions = _directions(fields)
    if len(kinds) != dimension or (directions is not None and len(directions) != dimension):
        raise VolumeError("its header describes more or fewer axes than it has; it is damaged.")
    for kind, size in zip(kinds, sizes, strict=True):
        if kind in _COLOR_KINDS or (size in (3, 4) and kind in {"vector", "point"} and dimension == 3):
            raise VolumeError(
                "it holds colours (RGB), not one value per voxel; convert it to greyscale first."
            )
    if directions is not None:
        spatial = [axis for axis, column in enumerate(directions) if column is not None]
    else:
        spatial = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    others = [axis for axis in range(dimension) if axis not in spatial]
    if directions is None and len(spatial) > 3:
        others += spatial[3:]
        spatial = spatial[:3]
    times = [axis for axis in others if kinds[axis] == "time" or kinds[axis] in _SPATIAL_KINDS]
    channels = [axis for axis in others if axis not in times]
    if len(spatial) not in (2, 3) or len(times) > 1 or len(channels) > 1:
        raise VolumeError(
            f"its axes ({', '.join(kinds)}) are not three in space with at most a channel and a time axis."
        )
    return _Axes(sizes, tuple(spatial), *(axis[0] if axis else None for axis in (channels, times)))


def _integers(fields: Mapping[str, str], name: str) -> tuple[int, ...]:
    with suppress(KeyError, ValueError):
        numbers = tuple(int(word) for word in fields[name].split())
        if numbers and max(numbers) < 1 << 63:  # no float holds any number of digits
            return numbers
    raise VolumeError(f"its header lacks a readable '{name}' field; it is damaged.")


def _directions(fields: Mapping[str, str]) -> list[list[float] | None] | None:
    """Per axis the step in space, None for axes that are not in space; None without the field."""
    text = fields.get("spacedirections")
    if text is None:
        return None
    columns = [[] if word == "none" else header_numbers(word) for word in re.findall(r"none|\([^)]*\)", text)]
    # Some writers spell "none" as three NaNs.
    return [None if np.isnan(column).all() else column for column in columns]


def geometry_of(header: NrrdHeader) -> tuple[Geometry, tuple[str, ...]]:
    """The grid, and sentences about what the header left open."""
    axes = _axes(header)
    fields = header.fields
    sizes = [axes.sizes[axis] for axis in axes.spatial]
    shape = (sizes[2] if len(sizes) == 3 else 1, sizes[1], sizes[0])
    directions = _directions(fields)
    if directions is None:
        return _by_spacings(fields, axes, shape)
    space = fields.get("space", "").lower()
    if space and space not in _SPACES:
        raise VolumeError(f"its space is {space!r}; only RAS, LAS and LPS say where the patient is.")
    if not space and _integers(fields, "spacedimension")[0] != 3:
        raise VolumeError("its space does not have three dimensions.")
    origin = header_numbers(fields["spaceorigin"]) if "spaceorigin" in fields else [0.0, 0.0, 0.0]
    columns = [column for column in directions if column is not None]
    if any(len(column) != 3 for column in columns) or len(origin) != 3:
        raise VolumeError("its space directions or origin are not three numbers each; it is damaged.")
    for name, numbers in (("space directions", np.ravel(columns)), ("space origin", origin)):
        if not np.isfinite(numbers).all():
            raise VolumeError(f"the {name} of its header hold a value that is no number; correct the header.")
    if len(columns) == 2:
        normal = np.cross(columns[0], columns[1])
        length = float(np.linalg.norm(normal))
        columns.append([float(v) for v in normal / (length or 1.0)])
    scales, notes = _scales(fields, "spaceunits", 3)
    if "units" in fields and "spaceunits" not in fields:
        per_axis, _ = _scales(fields, "units", len(axes.sizes), axes.spatial)
        if set(per_axis) != {1.0}:
            raise VolumeError(
                "its header gives 'units' beside 'space directions', which have 'space units'; correct the header."
            )
    to_lps = np.array(_SPACES[space or "lps"]) * scales
    affine = np.eye(4)
    affine[:3, :3] = to_lps[:, None] * np.array(columns).T
    affine[:3, 3] = to_lps * origin
    geometry, note = nearest_grid(affine, shape)
    spacings = header_numbers(fields.get("spacings", ""))
    if len(spacings) == len(axes.sizes):
        given = [abs(spacings[axis]) for axis in axes.spatial]
        if not np.allclose(given, [np.linalg.norm(column) for column in columns[: len(given)]], rtol=1e-3):
            notes.append(
                f"The header contradicts itself: its space directions were used, not its spacings"
                f" ({fields['spacings'][:40]})."
            )
    if "spaceorigin" not in fields:
        notes.append("The header gives no space origin; (0, 0, 0) was assumed.")
    if not space:
        notes.append("The header names no patient space; its axes were taken as left, back and up.")
    return geometry, (*notes, *([note] if note else []))


def _by_spacings(
    fields: Mapping[str, str], axes: _Axes, shape: tuple[int, int, int]
) -> tuple[Geometry, tuple[str, ...]]:
    """The grid of a header without space directions: its axes are taken to point left, back and up."""
    steps = header_numbers(fields["spacings"]) if "spacings" in fields else _by_ends(fields, axes)
    if len(steps) != len(axes.sizes):
        raise VolumeError("its header describes more or fewer axes than it has; it is damaged.")
    of_axes = [abs(steps[axis]) for axis in axes.spatial]
    if any(np.isinf(of_axes)) or 0 in of_axes:
        raise VolumeError(f"the spacings of its header ({fields['spacings'][:40]}) are no sizes of voxels.")
    scales, notes = _scales(fields, "units", len(axes.sizes), axes.spatial)
    notes.insert(
        0, "The header says nothing about orientation; its axes were taken to point left, back and up."
    )
    # NaN is what the format writes for an unknown spacing.
    unknown = [name for name, step in zip("xyz", of_axes, strict=False) if np.isnan(step)]
    if unknown:
        notes.append(f"The header gives no spacing along {', '.join(unknown)}; 1 mm was assumed.")
    lengths = [1.0 if np.isnan(step) else step * scale for step, scale in zip(of_axes, scales, strict=True)]
    lengths += [1.0] * (4 - len(lengths))
    affine = np.diag(lengths)
    if "spaceorigin" in fields:
        origin = header_numbers(fields["spaceorigin"])
        if not np.isfinite(origin).all():
            raise VolumeError("the space origin of its header holds a value that is no number.")
        if len(origin) == 3:
            signs = _SPACES.get(fields.get("space", "").lower(), (1.0, 1.0, 1.0))
            affine[:3, 3] = np.multiply(origin, signs) * _scales(fields, "spaceunits", 3)[0]
    return Geometry.from_affine_lps(affine, shape), tuple(notes)


def _by_ends(fields: Mapping[str, str], axes: _Axes) -> list[float]:
    """The spacings of a header that gives where axes begin and end; NaN where it does not.

    Ends are those of voxels, or of their centres along an axis whose centering is "node".
    """
    names = ("axismins", "axismaxs")
    low, high = (header_numbers(fields.get(name, "")) or [np.nan] * len(axes.sizes) for name in names)
    centers = fields.get("centers", fields.get("centerings", "")).lower().split() or ["cell"] * len(
        axes.sizes
    )
    if not len(low) == len(high) == len(centers) == len(axes.sizes):
        raise VolumeError("its header describes more or fewer axes than it has; it is damaged.")
    gaps = [max(size - (center == "node"), 1) for size, center in zip(axes.sizes, centers, strict=True)]
    return [(end - start) / count for start, end, count in zip(low, high, gaps, strict=True)]


def _scales(
    fields: Mapping[str, str], name: str, count: int, wanted: Sequence[int] | None = None
) -> tuple[list[float], list[str]]:
    """mm per unit for each of `count` entries of a field of units (of those `wanted`), and what was assumed."""
    places = list(range(count) if wanted is None else wanted)
    text = fields.get(name)
    if text is None:
        return [1.0] * len(places), []
    units = [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"]+)', text)]
    if len(units) != count:
        raise VolumeError(
            f"its header names {len(units)} units for {count} axes ({text[:40]}); it is damaged."
        )
    scales, notes = [], []
    for place in places:
        scale = millimetres(units[place])
        if scale is None and not is_unsaid(units[place]):
            raise VolumeError(
                f"its header gives lengths in {units[place][:40]!r}, which is no known unit; correct it to mm."
            )
        if scale is None:
            notes.append(f"The header gives lengths in {units[place][:40]!r}; mm were assumed.")
        scales.append(1.0 if scale is None else scale)
    return scales, list(dict.fromkeys(notes))


def read_nrrd(
    path: Path, *, channel: int | None = None, time: int | None = None, max_bytes: int | None = None
) -> tuple[npt.NDArray[Any], Geometry, tuple[str, ...], NrrdHeader, LabelSet | None]:
    """Voxels (z, y, x), their grid, notes worth showing, the header, and the segments of a `.seg.nrrd`.

    A segmentation whose segments overlap is stored in layers; `channel` says which layer to read.
    """
    with path.open("rb") as file:
        header = parse_header(file)
        axes = _axes(header)
        geometry, notes = geometry_of(header)
        dtype = _dtype(header.fields)
        segmented = bool(segment_numbers(header.keys))
        wanted = _wanted(header, axes, channel, time, segmented=segmented)
        size = checked_size(axes.sizes, dtype.itemsize, max_bytes)
        with (
            data_of(file, path, header.fields.get("datafile")) as (packed, stored),
            _decoded(packed, stored, header.fields, size) as stream,
        ):
            if _encoding(header.fields) in _TEXT:
                data = _text(stream, dtype, axes.sizes[::-1])
            else:
                data = read_array(stream, dtype, axes.sizes[::-1])
                verify_end(stream)
    # numpy's axes run slowest first, the header's fastest first.
    index = tuple(wanted.get(axis, slice(None)) for axis in reversed(range(len(axes.sizes))))
    data = np.ascontiguousarray(data[index]).reshape(geometry.shape)
    if not segmented:
        return data, geometry, notes, header, None
    layer, layers = (0, 1) if axes.channel is None else (wanted[axes.channel], axes.sizes[axes.channel])
    segments, said = segments_of(header.keys, layer, layers)
    return data, geometry, (*notes, *said), header, segments


def _wanted(
    header: NrrdHeader, axes: _Axes, channel: int | None, time: int | None, *, segmented: bool
) -> dict[int, int]:
    """Which place along which of the file's axes is read."""
    layers, times = (1 if axis is None else axes.sizes[axis] for axis in (axes.channel, axes.time))
    if segmented and layers > 1 and channel is None:
        raise SeveralVolumesError(
            f"its segments overlap and lie in {layers} layers, while a voxel can have one label only; choose a"
            f" layer with channel (0 to {layers - 1}).",
            "channel",
            layers,
            "layer",
            names=layer_names(header.keys, layers),
        )
    what = "layer" if segmented and axes.channel is not None else "channel"
    places = (
        (axes.channel, chosen(layers, channel, what, "channel")),
        (axes.time, chosen(times, time, "time point", "time")),
    )
    return {axis: place for axis, place in places if axis is not None}


def _dtype(fields: Mapping[str, str]) -> np.dtype[Any]:
    code = _TYPES.get(fields.get("type", "").lower())
    if code is None:
        raise VolumeError(f"it holds values of type {fields.get('type', 'unknown')!r}, not real numbers.")
    order = {"big": ">", "little": "<"}.get(fields.get("endian", "").lower(), "=")
    if order == "=" and code[1] != "1" and _encoding(fields) not in _TEXT:
        raise VolumeError("its header does not say the byte order ('endian'); it is damaged.")
    return np.dtype(order + code)


def _encoding(fields: Mapping[str, str]) -> str:
    return fields.get("encoding", "").lower()


@contextmanager
def _decoded(file: IO[bytes], stored: int, fields: Mapping[str, str], size: int) -> Iterator[Bytes]:
    """The `size` bytes of the voxels, or their text, of a file of `stored` bytes that stands after its header."""
    encoding = _encoding(fields)
    lines, skip = (_skip(fields, name) for name in ("lineskip", "byteskip"))
    packed = encoding in (*_GZIP, *_BZIP2)
    if encoding == "raw" or encoding in _GZIP:
        check_claim(size, stored - file.tell(), compressed=packed)
    if lines < 0 or skip < -1 or (skip == -1 and encoding != "raw" and not packed):
        raise VolumeError(
            f"its header skips {min(lines, skip)} lines or bytes before the voxels; only a byte skip of -1, before"
            " raw or compressed voxels, has a meaning."
        )
    if packed and skip > _MAX_SKIPPED:
        raise VolumeError(
            f"its header skips {skip} bytes of compressed data before the voxels; it is damaged."
        )
    with damage_as_volume_error():
        for _ in range(lines):
            if not file.readline(_MAX_LINE):
                raise VolumeError("it ends before its data begins; it is truncated, copy it again.")
        stream: Bytes = file
        if encoding == "hex":
            stream, skip = io.BytesIO(_hex(file, size, skip)), 0
        elif encoding in _GZIP:
            stream = Inflated(file)
        elif encoding in _BZIP2:
            stream = bz2.BZ2File(file)
        elif encoding != "raw" and encoding not in _TEXT:
            raise VolumeError(f"its encoding {encoding!r} is unknown; save it as raw or gzip.")
        if skip == -1 and packed:
            # The voxels are the last bytes of what was packed (a whole foreign file, as pynrrd reads it too).
            stream = io.BytesIO(last_bytes(stream, size, _MAX_SKIPPED))
        elif stream is file:
            file.seek(stored - size if skip == -1 else file.tell() + skip)
        else:
            skip_bytes(stream, skip)
        yield stream


def _skip(fields: Mapping[str, str], name: str) -> int:
    """A whole number of lines or bytes to skip; 0 where the header has none."""
    text = fields.get(name, "0")
    if re.fullmatch(r"[-+]?\d{1,18}", text) is None:
        raise VolumeError(f"its header skips {text[:40]!r} lines or bytes, which is no whole number of them.")
    return int(text)


def _hex(file: IO[bytes], size: int, skip: int) -> bytes:
    """The `size` bytes after the first `skip`, of which each is spelled in two digits."""
    skip_bytes(file, skip)  # by the format, bytes are skipped in the file as it is
    text = b"".join(file.read(size * 3 + 1024).split())
    try:
        return bytes.fromhex(text[: 2 * size].decode("ascii"))
    except ValueError as error:
        raise VolumeError("its hexadecimal data is damaged.") from error


def _text(stream: Bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Values that are spelled as words, turned piece by piece: words take many times the memory of numbers."""
    values = np.empty(math.prod(shape), dtype.newbyteorder("="))
    done, rest = 0, b""
    while done < values.size:
        piece = stream.read(_TEXT_PIECE)
        words = re.split(rb"[\s,]+", rest + piece)
        rest = words.pop() if piece else b""
        found = [word for word in words if word][: values.size - done]
        try:
            wide = np.array(
                found, np.float64 if dtype.kind == "f" else np.int64 if dtype.kind == "i" else np.uint64
            )
            values[done : done + len(found)] = wide
            if dtype.kind != "f" and (values[done : done + len(found)] != wide).any():
                raise OverflowError("a value does not fit its type")
        except (ValueError, OverflowError) as error:
            raise VolumeError("its text data holds words that are no such numbers; it is damaged.") from error
        done += len(found)
        if not piece or len(rest) > _TEXT_PIECE:
            break
    if done < values.size:
        raise VolumeError(f"it holds {done} of {values.size} values; it is truncated, copy it again.")
    return values.reshape(shape)


def write_nrrd(path: Path, data: npt.NDArray[Any], geometry: Geometry, keys: Mapping[str, str]) -> None:
    """Writes a gzip-encoded NRRD in LPS with `keys` as its key/value pairs."""
    kind = _NAMES.get(f"{data.dtype.kind}{data.dtype.itemsize}", "").split("|")[0]
    if not kind:
        raise VolumeError(f"NRRD cannot hold values of type {data.dtype}.")
    affine = geometry.affine_lps
    lines = [
        "NRRD0005",
        "# Complete NRRD file format specification at:",
        "# http://teem.sourceforge.net/nrrd/format.html",
        f"type: {kind}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(n) for n in reversed(geometry.shape)),
        "space directions: " + " ".join(_bracketed(affine[:3, axis]) for axis in range(3)),
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        'space units: "mm" "mm" "mm"',
        f"space origin: {_bracketed(affine[:3, 3])}",
    ]
    for name, value in keys.items():
        lines.append(f"{_one_line(name).replace(':=', ' ')}:={_one_line(value)}")
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("utf-8", "backslashreplace"))
        write_gzip(file, plane_bytes(data))


def _bracketed(vector: npt.NDArray[np.float64]) -> str:
    return "(" + ",".join(f"{float(value):.17g}" for value in vector) + ")"


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n")
