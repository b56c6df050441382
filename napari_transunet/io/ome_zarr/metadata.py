"""What an OME-Zarr says about itself (NGFF 0.4 and 0.5), read and checked before any chunk is.

Of paths in it only plain names below the image are followed. Zarr's own readers would unpack chunks by whatever filter
an array names, pickles included, so that only filters that move bits are let through.
"""

import json
import math
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from napari_transunet.errors import FileProblem, VolumeError, some
from napari_transunet.io.units import is_unsaid, millimetres

_MAX_JSON = 1 << 24
PROVENANCE_KEY = "napari_transunet"
"""Among the attributes of labels that were made here: what made them."""

_TIMEOUT = 30.0  # s
_MAX_LEVELS = 64
_PLAIN = re.compile(r"[^/\\:\x00-\x1f]+(/[^/\\:\x00-\x1f]+)*")
_WEB = re.compile(r"(https?):/{1,2}(?=[^/])(.*)", re.IGNORECASE | re.DOTALL)
# Of numcodecs and of Zarr 3. What runs code (pickle, json2, msgpack2) is not among them.
_FILTERS = frozenset(
    {
        *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "crc32", "crc32c", "adler32", "fletcher32"),
        *("shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "packbits", "astype"),
        *("bytes", "transpose", "sharding_indexed"),
    }
)
_NUMBERS = re.compile(r"(bool|u?int(8|16|32|64)|float(16|32|64))")
_MAX_CHUNK = 1 << 31  # bytes of a chunk in memory


@dataclass(frozen=True)
class Axis:
    """One axis: its name ("t", "c", "z", "y", "x"), its kind ("time", "channel", "space") and its unit."""

    name: str
    kind: str
    unit: str | None


@dataclass(frozen=True)
class Level:
    """One resolution: where its array lies below the image, and scale and translation along all axes in their units.

    `scaled` is false where nothing gives a scale, and 1 stands for it.
    """

    path: str
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    scaled: bool = True


@dataclass(frozen=True)
class ArrayInfo:
    """Shape, chunks (as they are unpacked) and type of an array."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Multiscale:
    """An image: its version ("0.4" or "0.5"), axes, resolutions (the finest first), and names of channels."""

    version: str
    name: str | None
    axes: tuple[Axis, ...]
    levels: tuple[Level, ...]
    channels: tuple[str, ...]

    @property
    def zarr_format(self) -> int:
        """Of Zarr: 2 or 3."""
        return 3 if self.version == "0.5" else 2

    def index(self, kind: str) -> int | None:
        """Which axis is "time" or "channel"; None where there is none."""
        return next((i for i, axis in enumerate(self.axes) if axis.kind == kind), None)

    @property
    def space(self) -> tuple[int, ...]:
        """Which axes are those of space, in order."""
        return tuple(i for i, axis in enumerate(self.axes) if axis.kind == "space")


def web_address(path: object) -> str | None:
    """The http(s) address that `path` is, also as `pathlib` writes it (one slash); None for a path of files."""
    found = _WEB.fullmatch(str(path).replace("\\", "/"))
    return f"{found[1].lower()}://{found[2].rstrip('/')}" if found else None


def read_json(base: Path | str, name: str) -> dict[str, Any] | None:
    """The JSON object `name` below a folder or an http(s) address; None where there is none."""
    try:
        if isinstance(base, Path):
            file = base / name
            if not file.is_file():
                return None
            with file.open("rb") as stream:
                text = stream.read(_MAX_JSON + 1)
        else:
            with urllib.request.urlopen(f"{base}/{quote(name)}", timeout=_TIMEOUT) as answer:  # noqa: S310  http(s)
                text = answer.read(_MAX_JSON + 1)
    except urllib.error.HTTPError as error:
        if error.code in (403, 404):
            return None
        raise FileProblem(f"{base} answers with status {error.code} ({error.reason}).") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise FileProblem(f"{base}/{name} cannot be read: {reason}.") from error
    try:
        content = json.loads(text) if len(text) <= _MAX_JSON else None
    except (ValueError, RecursionError) as error:
        raise VolumeError(f"{name} is not valid JSON ({str(error)[:120]}); the file is damaged.") from error
    if not isinstance(content, dict):
        raise VolumeError(f"{name} holds no JSON object of at most 16 MB.")
    return content


def group_attributes(base: Path | str) -> dict[str, Any] | None:
    """The attributes of a Zarr group, those of "ome" unpacked; None where there is no group."""
    content = read_json(base, "zarr.json")
    if content is not None:
        attributes = content.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        inner = attributes.get("ome")
        return attributes | (inner if isinstance(inner, dict) else {})
    if (attributes := read_json(base, ".zattrs")) is not None:
        return attributes
    return {} if read_json(base, ".zgroup") is not None else None


def parse_multiscale(attributes: Mapping[str, Any]) -> Multiscale:
    """The image that a group's attributes describe."""
    if "plate" in attributes or "well" in attributes:
        raise VolumeError("it is a plate of many images; give one of them, such as plate.zarr/A/1/0.")
    several = attributes.get("multiscales")
    if not isinstance(several, list) or not several or not isinstance(several[0], dict):
        if "bioformats2raw.layout" in attributes:
            raise VolumeError("it holds several images; give one of them, such as its subfolder 0.")
        if isinstance(inner := attributes.get("labels"), list) and inner:
            raise VolumeError(f"it is the folder of labels {some(inner)}; give one of them.")
        raise VolumeError("it is a Zarr, but no OME-Zarr image (no multiscales in its attributes).")
    entry = several[0]
    version = str(entry.get("version") or attributes.get("version") or "")
    if version not in ("0.4", "0.5"):
        raise VolumeError(
            f"it is an OME-Zarr of version {version[:20] or 'unknown'}; 0.4 and 0.5 can be read."
        )
    axes = _axes(entry.get("axes"))
    datasets = entry.get("datasets")
    if not isinstance(datasets, list) or not 1 <= len(datasets) <= _MAX_LEVELS:
        raise VolumeError("its list of resolutions (datasets) is damaged.")
    common = _transforms(entry.get("coordinateTransformations"), len(axes))
    outer = _gives_scale(entry)
    levels = tuple(
        replace(_level(one, common, len(axes)), scaled=outer or _gives_scale(one)) for one in datasets
    )
    name = entry.get("name")
    return Multiscale(version, name if isinstance(name, str) else None, axes, levels, _channels(attributes))


def _axes(entries: Any) -> tuple[Axis, ...]:
    if not isinstance(entries, list) or not 2 <= len(entries) <= 5:
        raise VolumeError("its list of axes is damaged.")
    axes = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise VolumeError("its list of axes is damaged.")
        name = entry["name"]
        kind = entry.get("type") or {"t": "time", "c": "channel"}.get(name, "space")
        unit = entry.get("unit")
        axes.append(Axis(name, str(kind), unit if isinstance(unit, str) else None))
    space = [axis.name.lower() for axis in axes if axis.kind == "space"]
    kinds = [axis.kind for axis in axes]
    if space not in (["z", "y", "x"], ["y", "x"]) or kinds[len(kinds) - len(space) :] != ["space"] * len(
        space
    ):
        raise VolumeError(
            f"its axes are {', '.join(axis.name[:20] for axis in axes)}; they must end in z, y, x, in this order."
        )
    if any(kind not in ("space", "time", "channel") for kind in kinds) or len(
        {kind for kind in kinds if kind != "space"}
    ) < len(kinds) - len(space):
        raise VolumeError(
            f"it has axes of the kinds {', '.join(kind[:20] for kind in kinds)}, which cannot be read."
        )
    return tuple(axes)


def _transforms(entries: Any, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translation of a list of transformations; 1 and 0 where it has none."""
    scale, translation = (1.0,) * count, (0.0,) * count
    if entries is None:
        return scale, translation
    if not isinstance(entries, list):
        raise VolumeError("its coordinateTransformations are damaged.")
    for entry in entries:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "identity":
            continue
        values = entry.get(kind) if kind in ("scale", "translation") else None
        if not isinstance(values, list) or len(values) != count or not all(map(_finite, values)):
            raise VolumeError(
                "its coordinateTransformations are not a scale and a translation for each axis."
            )
        if kind == "scale":
            scale = tuple(s * float(v) for s, v in zip(scale, values, strict=True))
            translation = tuple(t * float(v) for t, v in zip(translation, values, strict=True))
        else:
            translation = tuple(t + float(v) for t, v in zip(translation, values, strict=True))
    if min(scale) <= 0:
        raise VolumeError(f"its scale is {list(scale)}; it must be positive.")
    return scale, translation


def _gives_scale(entry: dict[str, Any]) -> bool:
    """Whether transformations, which were read already, hold a scale."""
    return any(one.get("type") == "scale" for one in entry.get("coordinateTransformations") or ())


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _level(entry: Any, common: tuple[tuple[float, ...], tuple[float, ...]], count: int) -> Level:
    if not isinstance(entry, dict):
        raise VolumeError("its list of resolutions (datasets) is damaged.")
    scale, translation = _transforms(entry.get("coordinateTransformations"), count)
    outer, shift = common
    return Level(
        plain_path(entry.get("path")),
        tuple(a * b for a, b in zip(scale, outer, strict=True)),
        tuple(t * a + b for t, a, b in zip(translation, outer, shift, strict=True)),
    )


def plain_path(path: Any) -> str:
    """A path within the image, as it is."""
    if not isinstance(path, str) or not _PLAIN.fullmatch(path) or {"..", "."} & set(path.split("/")):
        raise VolumeError(
            f"it refers to the array {str(path)[:60]!r}; only plain names within the image are followed."
        )
    return path


def _channels(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list):
        return ()
    return tuple(str(one.get("label") or "")[:80] if isinstance(one, dict) else "" for one in channels)


def array_info(content: Mapping[str, Any], path: str) -> ArrayInfo:
    """What an array's metadata, `.zarray` or `zarr.json`, say."""
    try:
        return _array_v3(content) if content.get("zarr_format") == 3 else _array_v2(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        if isinstance(error, VolumeError):
            raise
        raise VolumeError(f"the description of its array {path!r} is damaged ({str(error)[:80]}).") from error


def _array_v2(content: Mapping[str, Any]) -> ArrayInfo:
    filters = [content.get("compressor"), *(content.get("filters") or ())]
    for one in filters:
        _check_filter(None if one is None else one["id"])
    if not isinstance(content["dtype"], str):
        raise VolumeError("its voxels are records of several fields, not one number.")
    dtype = np.dtype(content["dtype"])
    chunks = _sizes(content["chunks"])
    return _checked(_sizes(content["shape"]), chunks, chunks, dtype)


def _array_v3(content: Mapping[str, Any]) -> ArrayInfo:
    kind = content["data_type"]
    if not isinstance(kind, str) or not _NUMBERS.fullmatch(kind):
        raise VolumeError(f"its voxels are of the type {str(kind)[:40]!r}, not real numbers.")
    stored = chunks = _sizes(content["chunk_grid"]["configuration"]["chunk_shape"])
    codecs = content["codecs"]
    for _ in range(4):
        inner = None
        for one in codecs:
            name = one if isinstance(one, str) else one["name"]
            _check_filter(str(name).removeprefix("numcodecs."))
            if name == "sharding_indexed":
                inner = one["configuration"]
                for other in inner.get("index_codecs") or ():
                    _check_filter(other if isinstance(other, str) else other["name"])
        if inner is None:
            return _checked(_sizes(content["shape"]), chunks, stored, np.dtype(kind))
        chunks, codecs = _sizes(inner["chunk_shape"]), inner["codecs"]
    raise VolumeError("its shards hold shards, which cannot be read.")


def _check_filter(name: Any) -> None:
    if name is not None and name not in _FILTERS:
        raise VolumeError(f"its chunks are packed by {str(name)[:40]!r}, which is not unpacked here.")


def _sizes(values: Sequence[Any]) -> tuple[int, ...]:
    if not isinstance(values, list | tuple) or not all(
        isinstance(n, int) and 1 <= n < 1 << 48 for n in values
    ):
        raise VolumeError(f"an array has the size {str(values)[:60]}; it is damaged.")
    return tuple(values)


def _checked(
    shape: tuple[int, ...], chunks: tuple[int, ...], stored: tuple[int, ...], dtype: np.dtype[Any]
) -> ArrayInfo:
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise VolumeError(f"its voxels are of type {dtype}, not real numbers.")
    if not len(shape) == len(chunks) == len(stored):
        raise VolumeError("its array and the chunks of it have different axes; it is damaged.")
    if math.prod(chunks) * dtype.itemsize > _MAX_CHUNK:
        raise VolumeError(f"its chunks of {' × '.join(map(str, chunks))} voxels take more than 2 GB each.")
    return ArrayInfo(shape, chunks, dtype)


def spacing_in_mm(axes: Sequence[Axis], scale: Sequence[float]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """How many mm a voxel is along each of these axes, and what was assumed."""
    sizes, unsaid = [], []
    for axis, size in zip(axes, scale, strict=True):
        if axis.unit is None or is_unsaid(axis.unit):
            unsaid.append(axis.name)
            sizes.append(size)
            continue
        factor = millimetres(axis.unit)
        if factor is None:
            raise VolumeError(f"the unit {axis.unit[:40]!r} of its axis {axis.name} is not known.")
        sizes.append(size * factor)
    notes = (f"The file names no unit along {', '.join(unsaid)}; mm were assumed.",) if unsaid else ()
    return tuple(sizes), notes


def made_of_other_time(attributes: Mapping[str, Any], time: int | None) -> int | None:
    """The time point whose labels were made here, where it is another than `time`; None of all else."""
    told = attributes.get(PROVENANCE_KEY)
    source = told.get("source") if isinstance(told, dict) else None
    made = source.get("time") if isinstance(source, dict) else None
    return made if time is not None and isinstance(made, int) and made != time else None
