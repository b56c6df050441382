"""TIFF stacks: plain pages, ImageJ hyperstacks and OME-TIFF in one file."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io.streams import checked_size, chosen, native
from napari_transunet.io.units import is_unsaid, millimetres
from napari_transunet.volumes.geometry import Geometry, Vector

if TYPE_CHECKING:
    import tifffile

_CENTIMETER = 3  # ResolutionUnit
_MAX_PAGES = 100_000


def read_tiff(
    path: Path, *, channel: int | None = None, time: int | None = None, max_bytes: int | None = None
) -> tuple[npt.NDArray[Any], Geometry, tuple[str, ...]]:
    """Voxels (z, y, x), a grid with the voxel size that the file gives, and notes about what it does not give."""
    import tifffile

    _check_pages(path)
    notes: tuple[str, ...] = ()
    try:
        # Other files that an OME header names are never opened.
        with tifffile.TiffFile(path, _multifile=False) as file:
            if not file.pages or not file.series:
                raise VolumeError("it holds no image.")
            parts = list(file.series)
            if len(parts) > 1:
                parts = _parts(file, time)
                time = None
            series = parts[0]
            if any(page is None for part in parts for page in part.pages):
                raise VolumeError("some of its slices lie in other files; save it as one file first.")
            axes, shape = series.axes.upper(), tuple(int(n) for n in series.shape)
            if len(parts) > 1:
                axes = "ZYX"
                shape = (sum(_slices(part) for part in parts), shape[-2], shape[-1])
                notes += (f"Its {len(parts)} images of one size were taken as slices, in the file's order.",)
            if "S" in axes or int(getattr(file.pages.first, "photometric", 1)) in (2, 3, 5, 6):
                raise VolumeError(
                    "it is in colour (RGB), not one value per pixel; convert it to greyscale first."
                )
            if series.dtype is None or series.dtype.kind not in "biuf":
                raise VolumeError(f"it holds values of type {series.dtype}, not real numbers.")
            checked_size(shape, series.dtype.itemsize, max_bytes)
            spacing, note = _spacing(file)
            notes += (note,)
            channels = _ome_channels(file.ome_metadata or "")
            data = native(_joined(parts, shape))
    except VolumeError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        # On damaged bytes tifffile raises almost anything; all of it means the same here.
        raise VolumeError(
            f"the TIFF file is damaged, or packed in a way that cannot be read ({error})."
        ) from error
    if data.shape != shape:
        raise VolumeError(f"it holds {data.shape} pixels where its header promises {shape}; it is damaged.")
    volume = _arranged(data, axes, channel, time, channels)
    return volume, Geometry((volume.shape[0], volume.shape[1], volume.shape[2]), spacing), notes


def _parts(file: tifffile.TiffFile, time: int | None) -> list[tifffile.TiffPageSeries]:
    """Which of several images in a file make the volume: slices that were written one by one, or one stack."""
    series = list(file.series)
    grey = all(part.axes.upper()[-2:] == "YX" and len(part.shape) in (2, 3) for part in series)
    sizes, types = {part.shape[-2:] for part in series}, {str(part.dtype) for part in series}
    if len(sizes) > 1 or len(types) > 1 or not grey:
        differ = "sizes" if len(sizes) > 1 else "types" if len(types) > 1 else "kinds"
        shapes = ", ".join(str(part.shape) for part in series[:4])
        raise VolumeError(f"it holds {len(series)} images of different {differ} ({shapes}), not a volume.")
    if file.is_ome or (_slices(series[0]) > 1 and len({part.shape for part in series}) == 1):
        return [series[chosen(len(series), time, "image", "time")]]
    return series


def _slices(part: tifffile.TiffPageSeries) -> int:
    return math.prod(int(n) for n in part.shape[:-2])


def _joined(parts: Sequence[tifffile.TiffPageSeries], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The pixels of all parts, one after the other."""
    if len(parts) == 1:
        return np.asarray(parts[0].asarray())
    data = np.empty(shape, parts[0].dtype)
    done = 0
    for part in parts:
        count = _slices(part)
        data[done : done + count] = part.asarray().reshape(count, *shape[-2:])
        done += count
    return data


def _check_pages(path: Path) -> None:
    """Follows the chain of pages to its end; tifffile stops without a word where a truncated file breaks it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(start[:2])
        kind = struct.unpack_from(f"{order}H", start, 2)[0] if order and len(start) == 16 else 0
        if kind not in (42, 43):
            raise VolumeError("it is not a TIFF file, or a damaged one.")
        # Classic TIFF: 2-byte count, 12-byte entries, 4-byte offsets; BigTIFF: 8, 20 and 8.
        count, entry, offset = (
            (f"{order}H", 12, f"{order}I") if kind == 42 else (f"{order}Q", 20, f"{order}Q")
        )
        (place,) = struct.unpack_from(offset, start, 4 if kind == 42 else 8)
        seen: set[int] = set()
        while place:
            if place >= size or len(seen) >= _MAX_PAGES:
                raise VolumeError(
                    f"it ends or breaks at page {len(seen) + 1}; it is truncated, copy it again."
                )
            file.seek(place)
            raw = file.read(struct.calcsize(count))
            tags = struct.unpack(count, raw)[0] if len(raw) == struct.calcsize(count) else size
            file.seek(place + struct.calcsize(count) + entry * min(tags, size))
            raw = file.read(struct.calcsize(offset))
            if len(raw) < struct.calcsize(offset) or place in seen:
                raise VolumeError(
                    f"it ends or breaks at page {len(seen) + 1}; it is truncated, copy it again."
                )
            seen.add(place)
            (place,) = struct.unpack(offset, raw)


def _arranged(
    data: npt.NDArray[Any], axes: str, channel: int | None, time: int | None, channel_names: Sequence[str]
) -> npt.NDArray[Any]:
    """(z, y, x) from an array whose axes are named by letters; unnamed page axes (Q, I) count as z."""
    for letter in "QI":
        if letter in axes and "Z" not in axes:
            axes = axes.replace(letter, "Z", 1)
    if "Z" not in axes and axes.count("T") == 1 and time is None and "C" not in axes:
        # ImageJ opens a plain stack as a time series when asked nothing; a film of one plane is no use here.
        axes = axes.replace("T", "Z")
    picks: tuple[tuple[str, int | None, str, Literal["channel", "time"], Sequence[str]], ...] = (
        ("C", channel, "channel", "channel", channel_names),
        ("T", time, "time point", "time", ()),
    )
    for letter, index, what, option, names in picks:
        if letter in axes:
            axis = axes.index(letter)
            data = np.take(data, chosen(data.shape[axis], index, what, option, names), axis=axis)
            axes = axes.replace(letter, "", 1)
        else:
            chosen(1, index, what, option)
    for axis in reversed(range(len(axes))):
        if axes[axis] not in "ZYX" and data.shape[axis] == 1:
            data, axes = np.squeeze(data, axis), axes[:axis] + axes[axis + 1 :]
    if "Z" not in axes:
        data, axes = data[None], "Z" + axes
    if sorted(axes) != ["X", "Y", "Z"]:
        raise VolumeError(f"its axes {axes} are not those of a volume (z, y, x with channel or time).")
    return np.ascontiguousarray(np.transpose(data, [axes.index(letter) for letter in "ZYX"]))


def _spacing(file: tifffile.TiffFile) -> tuple[Vector, str]:
    """mm along (z, y, x) from OME, ImageJ or, in centimetres, TIFF itself; 1 mm where nothing is said.

    A resolution in dots per inch is what programs write for printing, so it is not believed.
    """
    sizes: tuple[float | None, float | None, float | None] = (None, None, None)
    unknown: str | None = None
    ome = file.ome_metadata or ""
    image_j: dict[str, Any] = file.imagej_metadata or {}
    if ome:
        sizes = (_ome_size(ome, "Z"), _ome_size(ome, "Y"), _ome_size(ome, "X"))
    elif image_j:
        unit = str(image_j.get("unit", ""))
        scale = millimetres(unit)
        if scale is not None:
            sizes = (
                _size(image_j.get("spacing"), scale, "spacing"),
                _per_pixel(file, "YResolution", scale),
                _per_pixel(file, "XResolution", scale),
            )
        elif not is_unsaid(unit):
            unknown = unit
    else:
        tag = file.pages.first.tags.get("ResolutionUnit")
        if tag is not None and int(tag.value) == _CENTIMETER:
            sizes = (None, _per_pixel(file, "YResolution", 10.0), _per_pixel(file, "XResolution", 10.0))
    z, y, x = sizes
    spacing = (z or 1.0, y or 1.0, x or 1.0)
    missing = ", ".join(name for name, size in zip("zyx", sizes, strict=True) if size is None)
    if not missing:
        return spacing, "The file says nothing about orientation."
    why = f" in a known unit ({unknown[:40]!r})" if unknown else ""
    return (
        spacing,
        f"The file gives no voxel size along {missing}{why} (1 mm was assumed) and no orientation.",
    )


def _ome_size(xml: str, axis: str) -> float | None:
    """mm along an axis; None where the file gives no size, or only one in pixels."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    size = re.search(rf'\bPhysicalSize{axis}\s*=\s*"([^"]*)"', pixels[0]) if pixels else None
    if pixels is None or size is None:
        return None
    named = re.search(rf'\bPhysicalSize{axis}Unit\s*=\s*"([^"]*)"', pixels[0])
    unit = unescape(named[1]) if named else "µm"
    scale = millimetres(unit)
    if scale is None:
        if is_unsaid(unit) or unit.strip() == "reference frame":
            return None
        raise VolumeError(f"its PhysicalSize{axis} is in {unit[:40]!r}, which is no known unit; correct it.")
    return _size(unescape(size[1]), scale, f"PhysicalSize{axis}")


def _ome_channels(xml: str) -> list[str]:
    """The names of the channels; empty where one of them has none."""
    channels = re.findall(r"<(?:\w+:)?Channel\b[^>]*>", xml)
    names = [re.search(r'\bName="([^"]*)"', channel) for channel in channels]
    return [] if None in names else [unescape(name[1]).strip() for name in names if name]


def _per_pixel(file: tifffile.TiffFile, tag: str, scale: float) -> float | None:
    entry = file.pages.first.tags.get(tag)
    if entry is None:
        return None
    numerator, denominator = entry.value
    return _size(denominator / numerator, scale, tag) if numerator and denominator else None


def _size(value: Any, scale: float, name: str) -> float | None:
    """A size in mm; None where the file has none, or a 0 in its place."""
    if value is None:
        return None
    try:
        size = float(value) * scale
    except (TypeError, ValueError, OverflowError) as error:
        raise VolumeError(f"its {name} is {str(value)[:40]!r}, which is no number; correct it.") from error
    if size == 0:
        return None
    if not 1e-7 < size < 1e5:
        raise VolumeError(f"its {name} gives voxels of {size:g} mm, which no volume has; correct it.")
    return size
