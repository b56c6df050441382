"""Reading an image or labels from an OME-Zarr, on disk or over HTTP; chunks are read when voxels are asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import FileProblem, InputError, TransUNetError, VolumeError, some
from napari_transunet.files import available_memory
from napari_transunet.io.ome_zarr.metadata import (
    ArrayInfo,
    Multiscale,
    array_info,
    group_attributes,
    made_of_other_time,
    parse_multiscale,
    spacing_in_mm,
    web_address,
)
from napari_transunet.io.sidecar import stem_of
from napari_transunet.io.streams import checked_size, chosen
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet, color_for
from napari_transunet.volumes.lazy_array import LazyArray, Region, sample_of
from napari_transunet.volumes.volume import Source, Volume

_ENOUGH = 200_000  # voxels that say something about the values of all
_PART_OF_MEMORY = 4
_UNORIENTED = (
    "The file does not say how its axes lie in the patient; x towards the left, y to the back and z to the head were"
    " assumed."
)


@dataclass(frozen=True)
class OmeZarrImage:
    """One volume of an OME-Zarr, opened.

    Attributes
    ----------
    base : the folder or http(s) address of its group
    multiscale : what the group says
    level : which resolution, 0 the finest
    time, channel : which, from 0; None where there is no such axis
    info : of the array of that level
    geometry : its grid in mm
    data : its voxels (z, y, x)
    notes : what was assumed, a sentence each
    attributes : of the group
    """

    base: Path | str
    multiscale: Multiscale
    level: int
    time: int | None
    channel: int | None
    info: ArrayInfo
    geometry: Geometry
    data: LazyArray
    notes: tuple[str, ...]
    attributes: Mapping[str, Any]

    def volume(self) -> Volume:
        """The same as a volume whose voxels stay in the file."""
        labels = _labels(self.attributes) if self.info.dtype.kind in "iu" else None
        path = self.base if isinstance(self.base, Path) else None
        picks = {"time": self.time, "channel": self.channel, "level": self.level}
        known = tuple((which, index) for which, index in picks.items() if index is not None)
        source = Source(path, "OME-Zarr", self.name, notes=self.notes, picks=known)
        data: Any = self.data
        return Volume(data, self.geometry, None, source, labels)

    def shapes(self) -> list[tuple[int, int, int]]:
        """Voxels (z, y, x) of this and each coarser resolution; those that do not shrink or are damaged are refused."""
        zarr = _zarr()
        shapes = [self.geometry.shape]
        with _damage_told(self.base):
            store = _store(zarr, self.base)
            for level in range(self.level + 1, len(self.multiscale.levels)):
                array = _open_array(zarr, store, self.multiscale, level)
                info = array_info(array.metadata.to_dict(), self.multiscale.levels[level].path)
                if len(info.shape) != len(self.info.shape):
                    raise VolumeError("its resolutions have different axes; it is damaged.")
                shape = _in_space(self.multiscale, info.shape)
                if any(n > m for n, m in zip(shape, shapes[-1], strict=True)):
                    raise VolumeError("its resolutions do not become coarser in their order; it is damaged.")
                shapes.append(shape)
        return shapes

    def with_coarser(self) -> LazyArray:
        """Its voxels, which know their coarser resolutions then; damaged ones and such as do not shrink are refused."""
        levels = range(self.level + 1, self.level + len(self.shapes()))
        self.data.coarser = tuple(
            open_ome_zarr(self.base, channel=self.channel, time=self.time, level=level).data
            for level in levels
        )
        return self.data

    @property
    def name(self) -> str:
        """To call it by: that of its folder."""
        last = str(self.base).replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
        return stem_of(Path(last))


def is_ome_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group, by the files in it."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup"))


def read_ome_zarr(
    where: Path | str,
    *,
    channel: int | None = None,
    time: int | None = None,
    level: int | None = None,
    lazy: bool | Literal["large"] = False,
    max_bytes: int | None = None,
) -> Volume:
    """The volume in an OME-Zarr; `open_ome_zarr` tells of the arguments and errors.

    With `lazy`, its data is a `LazyArray`, and nothing is read of it yet; with "large" only of an image that would take
    more than a quarter of the free memory, and then with its coarser resolutions, to be looked at.
    """
    image = open_ome_zarr(where, channel=channel, time=time, level=level)
    volume = image.volume()
    large = volume.labels is None and image.data.nbytes > available_memory() / _PART_OF_MEMORY
    if lazy == "large" and large:
        image.with_coarser()
    if lazy is True or (lazy == "large" and large):
        return volume
    checked_size(image.geometry.shape, image.info.dtype.itemsize, max_bytes)
    return replace(volume, data=np.asarray(image.data))


def open_ome_zarr(
    where: Path | str, *, channel: int | None = None, time: int | None = None, level: int | None = None
) -> OmeZarrImage:
    """An image, without reading its voxels.

    Parameters
    ----------
    where : folder of the image, or its http(s) address
    channel, time : which of several, from 0
    level : which resolution; 0, the finest, without it

    Raises
    ------
    SeveralVolumesError
        It has several channels or time points and none was chosen.
    VolumeError
        It is no image of 0.4 or 0.5 that can be read.
    FileProblem
        It cannot be reached.
    InputError
        Zarr is not installed.
    """
    zarr = _zarr()
    address = web_address(where)
    base: Path | str = Path(where) if address is None else address
    attributes = group_attributes(base)
    notes: tuple[str, ...] = ()
    if attributes is None:
        raise VolumeError("it is no OME-Zarr: it has neither zarr.json nor .zattrs.")
    if "bioformats2raw.layout" in attributes and "multiscales" not in attributes:
        inner = base / "0" if isinstance(base, Path) else f"{base}/0"
        attributes = group_attributes(inner) or {}
        if group_attributes(base / "1" if isinstance(base, Path) else f"{base}/1") is not None:
            raise VolumeError("it holds several images; give one of them, such as its subfolder 0.")
        base = inner
    multiscale = parse_multiscale(attributes)
    if len(several := attributes["multiscales"]) > 1:
        named = [
            one.get("name") or "without a name" if isinstance(one, dict) else "damaged" for one in several
        ]
        notes += (
            f"The file describes {len(several)} images of several resolutions, {some(named)}; the first was read.",
        )
    if level is not None and not 0 <= level < len(multiscale.levels):
        raise VolumeError(
            f"it has {len(multiscale.levels)} resolutions; level can be 0 to {len(multiscale.levels) - 1}."
        )
    number = level or 0
    with _damage_told(base):
        store = _store(zarr, base)
        opened = _open_array(zarr, store, multiscale, number)
    info = array_info(opened.metadata.to_dict(), multiscale.levels[number].path)
    if len(info.shape) != len(multiscale.axes):
        raise VolumeError(f"its array has {len(info.shape)} axes, but {len(multiscale.axes)} are described.")
    picked: dict[int, int] = {}
    indices: dict[str, int] = {}
    options: tuple[tuple[Literal["time", "channel"], str, int | None, Sequence[str]], ...] = (
        ("time", "time point", time, ()),
        ("channel", "channel", channel, multiscale.channels),
    )
    for kind, noun, which, names in options:
        axis = multiscale.index(kind)
        index = chosen(1 if axis is None else info.shape[axis], which, noun, kind, names)
        if axis is not None:
            picked[axis] = indices[kind] = index
    geometry, more = _geometry(multiscale, number, info)
    notes += more
    if (made := made_of_other_time(attributes, indices.get("time"))) is not None:
        read = indices["time"]
        notes += (
            f"Time point {made} of its image was segmented; this is {read}, whose labels were not made here.",
        )

    def reader(array: Any) -> Callable[[Region], npt.NDArray[Any]]:
        def read(region: Region) -> npt.NDArray[Any]:
            key: list[Any] = [0] * len(multiscale.axes)
            for axis, index in picked.items():
                key[axis] = index
            space = multiscale.space
            for axis, wanted in zip(space, region[3 - len(space) :], strict=True):
                key[axis] = wanted
            with _damage_told(base):
                values = np.asarray(array[tuple(key)])
            values = values if len(space) == 3 else values[None]
            return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))

        return read

    def sample() -> npt.NDArray[Any]:
        for other in range(len(multiscale.levels) - 1, number - 1, -1):
            with _damage_told(base):
                array = opened if other == number else _open_array(zarr, store, multiscale, other)
            of = (
                info
                if other == number
                else array_info(array.metadata.to_dict(), multiscale.levels[other].path)
            )
            if of.dtype != info.dtype or len(of.shape) != len(info.shape):
                continue
            shape = _in_space(multiscale, of.shape)
            if np.prod(shape, dtype=np.float64) >= _ENOUGH or other == number:
                return sample_of(reader(array), shape)
        raise AssertionError("unreachable: the level itself is the last")

    data = LazyArray(
        _in_space(multiscale, info.shape),
        info.dtype.newbyteorder("="),
        _in_space(multiscale, info.chunks),
        reader(opened),
        sample,
    )
    return OmeZarrImage(
        base,
        multiscale,
        number,
        indices.get("time"),
        indices.get("channel"),
        info,
        geometry,
        data,
        notes,
        attributes,
    )


def _geometry(multiscale: Multiscale, level: int, info: ArrayInfo) -> tuple[Geometry, tuple[str, ...]]:
    space, of = multiscale.space, multiscale.levels[level]
    axes = [multiscale.axes[axis] for axis in space]
    sizes, notes = spacing_in_mm(axes, [of.scale[axis] for axis in space])
    units = [size / of.scale[axis] for size, axis in zip(sizes, space, strict=True)]
    origin = [of.translation[axis] * unit for axis, unit in zip(space, units, strict=True)]
    if not of.scaled:
        notes += (
            f"The file gives no voxel size; {' × '.join(f'{size:g}' for size in sizes)} mm was assumed.",
        )
    if len(space) == 2:
        sizes, origin = (1.0, *sizes), [0.0, *origin]
        notes += ("It is a single image; a slice 1 mm thick was assumed.",)
    z, y, x = sizes
    geometry = Geometry(_in_space(multiscale, info.shape), (z, y, x), (origin[2], origin[1], origin[0]))
    return geometry, (*notes, _UNORIENTED)


def _in_space(multiscale: Multiscale, sizes: Sequence[int]) -> tuple[int, int, int]:
    """Those of the sizes of all axes that are of (z, y, x)."""
    z, y, x = ([1] * 3 + [sizes[axis] for axis in multiscale.space])[-3:]
    return (z, y, x)


def _labels(attributes: Mapping[str, Any]) -> LabelSet | None:
    """The names and colours of a label image; what cannot be understood is left out."""
    about = attributes.get("image-label")
    if not isinstance(about, dict):
        return None
    colors: dict[int, tuple[float, float, float]] = {}
    said = _of_labels(about.get("properties"), "name")
    names = {value: name for value, name in said if isinstance(name, str) and name.strip()}
    for value, rgba in _of_labels(about.get("colors"), "rgba"):
        parts = rgba[:3] if isinstance(rgba, list) else []
        if len(parts) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in parts):
            colors[value] = (parts[0] / 255, parts[1] / 255, parts[2] / 255)
    known = sorted(names.keys() | colors.keys())
    found = [(value, names.get(value, f"label {value}")) for value in known]
    return LabelSet(tuple(Label(v, name, colors.get(v, color_for(name, v))) for v, name in found))


def _of_labels(entries: Any, key: str) -> Iterator[tuple[int, Any]]:
    """What a list says of each label value, as far as it does."""
    for entry in entries if isinstance(entries, list) else ():
        value = entry.get("label-value") if isinstance(entry, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:
            yield value, entry.get(key)


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            'OME-Zarr needs zarr; install it with: pip install "napari-transunet[zarr]".'
        ) from error
    return zarr


def _store(zarr: Any, base: Path | str) -> Any:
    if isinstance(base, Path):
        return zarr.storage.LocalStore(base, read_only=True)
    try:
        return zarr.storage.FsspecStore.from_url(base, read_only=True)
    except ImportError as error:
        raise InputError(
            'OME-Zarr over HTTP needs fsspec and aiohttp: pip install "napari-transunet[zarr]".'
        ) from error


def _open_array(zarr: Any, store: Any, multiscale: Multiscale, level: int) -> Any:
    return zarr.open_array(
        store=store, path=multiscale.levels[level].path, mode="r", zarr_format=multiscale.zarr_format
    )


@contextmanager
def _damage_told(base: Path | str) -> Iterator[None]:
    """Turns what Zarr, its codecs and HTTP clients raise into errors with a sentence."""
    try:
        yield
    except (TransUNetError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise VolumeError("an array that it names is missing; the copy is incomplete.") from error
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if isinstance(error, OSError) or "aiohttp" in type(error).__module__:
            raise FileProblem(f"{base} cannot be read ({text}).") from error
        raise VolumeError(f"it is damaged, or packed in a way that is not known here ({text}).") from error
