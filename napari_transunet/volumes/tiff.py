"""TIFF stacks: plain pages, ImageJ hyperstacks and OME-TIFF in one file."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.geometry import Geometry, Vector
from napari_transunet.volumes.limits import checked_size, chosen, native

if TYPE_CHECKING:
    import tifffile

_MILLIMETRES = {
    "mm": 1.0,
    "millimeter": 1.0,
    "cm": 10.0,
    "centimeter": 10.0,
    "m": 1000.0,
    "um": 1e-3,
    "µm": 1e-3,
    "μm": 1e-3,
    "\\u00b5m": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "nm": 1e-6,
    "inch": 25.4,
    "in": 25.4,
}
_CENTIMETER = 3  # ResolutionUnit


def read_tiff(
    path: Path, *, channel: int | None = None, time: int | None = None, max_bytes: int | None = None
) -> tuple[npt.NDArray[Any], Geometry, str]:
    """Voxels (z, y, x), a grid with the voxel size that the file gives, and a note about what it does not give.

    Raises
    ------
    VolumeError
        The file is no TIFF, damaged, in colour, spread over several files, or holds several volumes and none was
        chosen.
    SizeError
        It does not fit into memory.
    """
    import tifffile

    _check_pages(path)
    try:
        # Other files that an OME header names are never opened.
        with tifffile.TiffFile(path, _multifile=False) as file:
            if not file.pages or not file.series:
                raise VolumeError("it holds no image.")
            if len(file.series) > 1:
                shapes = ", ".join(str(series.shape) for series in file.series[:4])
                raise VolumeError(
                    f"it holds {len(file.series)} images of different sizes ({shapes}), not a volume."
                )
            series = file.series[0]
            if any(page is None for page in series.pages):
                raise VolumeError("some of its slices lie in other files; save it as one file first.")
            axes, shape = series.axes.upper(), tuple(int(n) for n in series.shape)
            if "S" in axes or int(getattr(file.pages.first, "photometric", 1)) in (2, 3, 5, 6):
                raise VolumeError(
                    "it is in colour (RGB), not one value per pixel; convert it to greyscale first."
                )
            if series.dtype is None or series.dtype.kind not in "biuf":
                raise VolumeError(f"it holds values of type {series.dtype}, not real numbers.")
            checked_size(shape, series.dtype.itemsize, max_bytes)
            spacing, note = _spacing(file)
            channels = _ome_channels(file.ome_metadata or "")
            data = native(np.asarray(series.asarray()))
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
    return volume, Geometry((volume.shape[0], volume.shape[1], volume.shape[2]), spacing), note


def _check_pages(path: Path) -> None:
    """Follows the chain of pages to its end; tifffile stops without a word where a truncated file breaks it.

    Raises
    ------
    VolumeError
        The chain leads out of the file or in a circle.
    """
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
    z: float | None = None
    y: float | None = None
    x: float | None = None
    ome = file.ome_metadata or ""
    image_j: dict[str, Any] = file.imagej_metadata or {}
    if ome:
        z, y, x = (_ome_size(ome, axis) for axis in "ZYX")
    elif image_j:
        scale = _MILLIMETRES.get(str(image_j.get("unit", "")).strip().lower())
        if scale is not None:
            y, x = _per_pixel(file, "YResolution", scale), _per_pixel(file, "XResolution", scale)
            z = _positive(image_j.get("spacing"), scale)
    else:
        unit = file.pages.first.tags.get("ResolutionUnit")
        if unit is not None and int(unit.value) == _CENTIMETER:
            y, x = _per_pixel(file, "YResolution", 10.0), _per_pixel(file, "XResolution", 10.0)
    known = [name for name, size in (("z", z), ("y", y), ("x", x)) if size is not None]
    spacing = (z or 1.0, y or 1.0, x or 1.0)
    if len(known) == 3:
        return spacing, "The file says nothing about orientation."
    missing = ", ".join(name for name in "zyx" if name not in known)
    return spacing, f"The file gives no voxel size along {missing} (1 mm was assumed) and no orientation."


def _ome_size(xml: str, axis: str) -> float | None:
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", xml)
    if pixels is None:
        return None
    size = re.search(rf'\bPhysicalSize{axis}="([^"]*)"', pixels[0])
    unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', pixels[0])
    scale = _MILLIMETRES.get(unit[1].strip().lower() if unit else "µm")
    return None if size is None or scale is None else _positive(size[1], scale)


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
    return _positive(denominator / numerator if numerator else None, scale)


def _positive(value: Any, scale: float) -> float | None:
    try:
        size = float(value) * scale
    except (TypeError, ValueError):
        return None
    return size if np.isfinite(size) and 1e-7 < size < 1e5 else None
