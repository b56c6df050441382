"""Labels written into an OME-Zarr slab by slab: of volumes beyond memory, and resumed where a process was killed."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import ExistsError, FileProblem, InputError, VolumeError
from napari_transunet.files import atomic_path, file_problems, remove_leftovers
from napari_transunet.io.ome_zarr.metadata import PROVENANCE_KEY, group_attributes, read_json
from napari_transunet.io.ome_zarr.reading import OmeZarrImage, is_ome_zarr
from napari_transunet.io.sidecar import clean, plain
from napari_transunet.volumes.label_values import voxels_by_label
from napari_transunet.volumes.lazy_array import LazyArray, Region

if TYPE_CHECKING:
    from napari_transunet.volumes.labels import LabelSet

_PROGRESS = ".progress.json"
_REMOVED = ".removed-"
_NAME = re.compile(r"[\w][\w .+-]{0,99}")
_SLAB = 32 << 20  # bytes that are written at a time
_DEEPEST, _WIDEST = 64, 512  # voxels of a chunk along the slices, and across them


@dataclass(frozen=True)
class LabelsPlace:
    """Where labels go: the folder of an OME-Zarr, and their name in its group `labels`."""

    container: Path
    name: str | None = None

    @classmethod
    def of(cls, path: Path) -> LabelsPlace | None:
        """`IMAGE.zarr` or `IMAGE.zarr/labels/NAME`; None of a path that is neither.

        Raises
        ------
        InputError
            It leads somewhere else within an OME-Zarr, or the name is none.
        """
        if path.name.lower().endswith(".zarr"):
            return cls(path)
        if not any(part.lower().endswith(".zarr") for part in path.parts):
            return None
        if path.parent.name != "labels":
            raise InputError(
                f"Labels in an OME-Zarr lie in its group labels: write IMAGE.ome.zarr/labels/NAME, not {path}."
            )
        return cls(path.parent.parent, _checked_name(path.name))

    def named(self, name: str, time: int | None) -> LabelsPlace:
        """The same, with the name of these labels of a time point where it has none; `_` is what cannot be in one."""
        if self.name:
            return self
        name = re.sub(r"[^\w.+-]", "_", name if time is None else f"{name}_t{time}")
        return LabelsPlace(self.container, _checked_name(name))

    @property
    def folder(self) -> Path:
        """Of the labels' own group."""
        return self.container / "labels" / (self.name or "")

    @property
    def unfinished(self) -> bool:
        """Whether labels are there that a run did not finish."""
        return (self.folder / _PROGRESS).is_file()


class LabelWriter:
    """Writes the labels of an image, slice by slice in ascending order along one axis.

    Slices become chunks once a slab of them is complete; then a file says how far it came, from which a later run with
    the same `identity` goes on. Only one slab is in memory. Coarser resolutions are made at the end, like the image's,
    by the nearest voxel; and only then is the label image listed, so that no viewer takes half of it for the whole.

    Parameters
    ----------
    place : where they go, with a name
    image : what they are labels of; its resolutions, axes, units and version are theirs
    dtype : uint8 or uint16
    axis : of (z, y, x), along which slices come
    identity : what must be the same for a later run to go on: the image, checkpoint and options, as JSON holds them
    overwrite : begin anew where labels of this name exist, finished or not

    Attributes
    ----------
    axis : along which slices come
    done : how many slices are written already

    Raises
    ------
    ExistsError
        Labels of this name exist, or unfinished ones of something else, and `overwrite` is false.
    FileProblem
        The folder cannot be written to.
    """

    def __init__(
        self,
        place: LabelsPlace,
        image: OmeZarrImage,
        *,
        dtype: npt.DTypeLike,
        axis: int,
        identity: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self._place, self._image, self.axis = place, image, axis
        self._dtype = np.dtype(dtype)
        shape = image.geometry.shape
        self._count = shape[axis]
        plane = math.prod(shape) // shape[axis] * self._dtype.itemsize
        depth = int(max(1, min(_DEEPEST, _SLAB // plane, self._count)))
        z, y, x = (depth if i == axis else min(_WIDEST, n) for i, n in enumerate(shape))
        self._chunks = z, y, x
        self._identity = plain(
            {**identity, "axis": axis, "shape": shape, "dtype": self._dtype.name, "depth": depth}
        )
        self._voxels: dict[int, int] = {}
        self.done = 0
        with file_problems(f"Cannot write to {place.container}"):
            if not self._continued(overwrite=overwrite):
                self._begin()
        self._array = self._opened_again()
        self._slab = np.zeros([n if i != axis else depth for i, n in enumerate(shape)], self._dtype)

    @property
    def voxels(self) -> dict[int, int]:
        """Voxels of each label that occurs, in what is written."""
        return {value: count for value, count in sorted(self._voxels.items()) if value}

    def put(self, index: int, plane: npt.NDArray[Any]) -> None:
        """The labels of the next slice, across the axis."""
        depth = self._chunks[self.axis]
        start = index // depth * depth
        np.moveaxis(self._slab, self.axis, 0)[index - start] = plane
        if index + 1 == min(start + depth, self._count):
            self._write_slab(start, index + 1)

    def view(self) -> LazyArray:
        """The labels (z, y, x) as far as they are written whenever it is asked, zeros beyond; for any thread."""
        shape = self._image.geometry.shape

        def read(region: Region) -> npt.NDArray[Any]:
            part = region[self.axis]  # beyond what is written, chunks may be half there
            stop = max(part.start, min(part.stop, self.done))
            labels = np.zeros([one.stop - one.start for one in region], self._dtype)
            if stop > part.start:
                known, target = list(region), [slice(None)] * 3
                known[self.axis], target[self.axis] = slice(part.start, stop), slice(0, stop - part.start)
                labels[tuple(target)] = self._get(self._array, known)
            return labels

        nothing = np.zeros((1, 1, 1), self._dtype)  # of labels no range is asked
        return LazyArray(shape, self._dtype, self._chunks, read, lambda: nothing, keep=False)

    def finish(self, labels: LabelSet, provenance: Mapping[str, Any]) -> Path:
        """Makes the coarser resolutions, says what labels mean and what made them, and lists the label image.

        Returns its folder.
        """
        if self.done < self._count:
            raise ValueError(f"only {self.done} of {self._count} slices are written")
        for level in range(1, len(self._levels)):
            self._make_level(level)
        named = labels.completed(self.voxels)
        self._write_attributes(self._place.folder, self._attributes(named, provenance))
        group = self._place.container / "labels"
        listed = (group_attributes(group) or {}).get("labels")
        names = [str(one) for one in listed] if isinstance(listed, list) else []
        name = self._place.name or ""
        self._write_attributes(group, {"labels": [*names, *([] if name in names else [name])]})
        (self._place.folder / _PROGRESS).unlink(missing_ok=True)
        return self._place.folder

    @property
    def _levels(self) -> list[int]:
        """The image's resolutions from the one that was labelled."""
        return list(range(self._image.level, len(self._image.multiscale.levels)))

    def _continued(self, *, overwrite: bool) -> bool:
        """Whether unfinished labels of the same kind are there to go on with; removes what may be replaced."""
        folder = self._place.folder
        if not folder.exists():
            return False
        progress = read_json(folder, _PROGRESS)
        if overwrite:
            if not _is_label_image(folder) and progress is None:
                raise ExistsError(f"{folder} is no label image and is not replaced; choose another name.")
            self._remove()
            return False
        if progress is None:
            raise ExistsError(f"{folder} exists already; choose another name or ask to overwrite it.")
        if progress.get("identity") != self._identity:
            raise ExistsError(
                f"{folder} holds unfinished labels of another image, checkpoint or option; go on with those, choose"
                " another name, or ask to overwrite it."
            )
        try:
            self.done = int(progress["done"])
            self._voxels = {int(value): int(count) for value, count in progress["voxels"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self._unusable() from error
        if not 0 <= self.done <= self._count or (
            self.done % self._chunks[self.axis] and self.done < self._count
        ):
            raise self._unusable()
        return self.done > 0

    def _unusable(self) -> ExistsError:
        return ExistsError(
            f"{self._place.folder} holds unfinished labels that are damaged; choose another name, or ask to overwrite"
            " it."
        )

    def _remove(self) -> None:
        """Take away labels that are replaced: first from the list, lest a viewer takes the next half for the whole."""
        group = self._place.container / "labels"
        listed = (group_attributes(group) or {}).get("labels")
        if isinstance(listed, list) and self._place.name in listed:
            self._write_attributes(group, {"labels": [name for name in listed if name != self._place.name]})
        # Killed while it removes the files, it would leave a folder that is neither labels nor to be gone on with.
        away = group / f"{_REMOVED}{secrets.token_hex(4)}"
        self._place.folder.rename(away)
        shutil.rmtree(away)
        remove_leftovers(group, f"{_REMOVED}*")

    def _begin(self) -> None:
        container, folder = self._place.container, self._place.folder
        if container.exists() and not is_ome_zarr(container):
            raise ExistsError(f"{container} is no OME-Zarr; choose another name.")
        folder.mkdir(parents=True, exist_ok=True)
        self._save_progress()
        for group in (container, container / "labels", folder):
            if not is_ome_zarr(group):
                self._write_attributes(group, {})
        import zarr

        for number, shape in enumerate(self._image.shapes()):
            zarr.create_array(
                store=zarr.storage.LocalStore(folder),
                name=str(number),
                shape=self._stored(shape),
                chunks=self._stored(tuple(min(c, n) for c, n in zip(self._chunks, shape, strict=True)), 1),
                dtype=self._dtype,
                fill_value=0,
                zarr_format=self._image.multiscale.zarr_format,
                chunk_key_encoding={"name": "v2", "separator": "/"}
                if self._image.multiscale.zarr_format == 2
                else None,
                dimension_names=[axis.name for axis in self._axes]
                if self._image.multiscale.zarr_format == 3
                else None,
                overwrite=True,
            )

    @property
    def _axes(self) -> list[Any]:
        return [axis for axis in self._image.multiscale.axes if axis.kind != "channel"]

    def _stored(self, shape: tuple[int, ...], others: int | None = None) -> tuple[int, ...]:
        """A shape (z, y, x) with the axes of the label image; `others` is the size along time."""
        multiscale = self._image.multiscale
        time = multiscale.index("time")
        space = shape[3 - len(multiscale.space) :]
        if time is None:
            return space
        return (self._image.info.shape[time] if others is None else others, *space)

    def _key(self, *space: slice) -> tuple[Any, ...]:
        """The place in an array of the label image: the time point, and a region."""
        multiscale = self._image.multiscale
        time = () if multiscale.index("time") is None else (self._image.time,)
        return (*time, *space[3 - len(multiscale.space) :])

    def _opened(self, level: int) -> Any:
        import zarr

        return zarr.open_array(store=zarr.storage.LocalStore(self._place.folder), path=str(level), mode="r+")

    def _opened_again(self) -> Any:
        """The array of the labels, which may have been damaged since an earlier run."""
        try:
            array = self._opened(0)
            whole = array.shape == self._stored(self._image.geometry.shape) and array.dtype == self._dtype
        except Exception as error:  # Zarr raises almost anything about damaged descriptions
            raise self._unusable() from error
        if not whole:
            raise self._unusable()
        return array

    def _write_slab(self, start: int, stop: int) -> None:
        region = [slice(0, n) for n in self._image.geometry.shape]
        region[self.axis] = slice(start, stop)
        slab = np.take(self._slab, range(stop - start), self.axis)
        self._put(self._array, region, slab)
        for value, count in voxels_by_label(np.moveaxis(slab, self.axis, 0)).items():
            self._voxels[value] = self._voxels.get(value, 0) + count
        self.done = stop
        self._save_progress()

    def _put(self, array: Any, region: list[slice], values: npt.NDArray[Any]) -> None:
        array[self._key(*region)] = values if len(self._image.multiscale.space) == 3 else values[0]

    def _get(self, array: Any, region: list[slice]) -> npt.NDArray[Any]:
        values = np.asarray(array[self._key(*region)])
        return values if len(self._image.multiscale.space) == 3 else values[None]

    def _make_level(self, level: int) -> None:
        """From the one before, a slab at a time."""
        before, shape = self._image.shapes()[level - 1 : level + 1]
        source, target = self._opened(level - 1), self._opened(level)
        nearest = [
            np.minimum(((np.arange(n) + 0.5) * m / n).astype(np.int64), m - 1)
            for n, m in zip(shape, before, strict=True)
        ]
        depth = max(1, min(self._chunks[0], _SLAB // max(1, math.prod(before[1:]) * self._dtype.itemsize)))
        for start in range(0, shape[0], depth):
            stop = min(start + depth, shape[0])
            rows = nearest[0][start:stop]
            first = int(rows[0])
            region = [slice(first, int(rows[-1]) + 1), slice(0, before[1]), slice(0, before[2])]
            slab = self._get(source, region)
            picked = slab[np.ix_(rows - first, nearest[1], nearest[2])]
            self._put(target, [slice(start, stop), slice(0, shape[1]), slice(0, shape[2])], picked)

    def _save_progress(self) -> None:
        content = {"identity": self._identity, "done": self.done, "voxels": self._voxels}
        with atomic_path(self._place.folder / _PROGRESS, overwrite=True) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def _attributes(self, labels: LabelSet, provenance: Mapping[str, Any]) -> dict[str, Any]:
        multiscale = self._image.multiscale
        kept = [i for i, axis in enumerate(multiscale.axes) if axis.kind != "channel"]
        datasets = []
        for number, level in enumerate(self._levels):
            of = multiscale.levels[level]
            transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [of.scale[i] for i in kept]}]
            if any(of.translation[i] for i in kept):
                transforms.append({"type": "translation", "translation": [of.translation[i] for i in kept]})
            datasets.append({"path": str(number), "coordinateTransformations": transforms})
        axes = [
            {"name": axis.name, "type": axis.kind, **({"unit": axis.unit} if axis.unit else {})}
            for axis in self._axes
        ]
        entry: dict[str, Any] = {"name": self._place.name, "axes": axes, "datasets": datasets}
        about: dict[str, Any] = {
            "colors": [
                {"label-value": one.value, "rgba": [*(round(255 * part) for part in one.color), 255]}
                for one in labels
            ],
            "properties": [
                {
                    "label-value": one.value,
                    "name": clean(one.name),
                    "voxels": self._voxels.get(one.value, 0),
                    **({"snomed": clean(one.snomed)} if one.snomed else {}),
                }
                for one in labels
            ],
            "source": {"image": "../../"},
        }
        if multiscale.version == "0.4":
            entry["version"] = about["version"] = "0.4"
        return {"multiscales": [entry], "image-label": about, PROVENANCE_KEY: plain(provenance)}

    def _write_attributes(self, group: Path, attributes: Mapping[str, Any]) -> None:
        """Of a Zarr group, beside those that it has; what OME defines goes where its version has it."""
        if self._image.multiscale.zarr_format == 2:
            if not (group / ".zgroup").exists():
                _write_json(group / ".zgroup", {"zarr_format": 2})
            known = read_json(group, ".zattrs") or {}
            _write_json(group / ".zattrs", known | dict(attributes))
            return
        content = read_json(group, "zarr.json") or {"zarr_format": 3, "node_type": "group", "attributes": {}}
        own = content.get("attributes")
        own = own if isinstance(own, dict) else {}
        inner = own.get("ome")
        inner = inner if isinstance(inner, dict) else {}
        ome = {key: value for key, value in attributes.items() if key != PROVENANCE_KEY}
        if ome:
            own = own | {"ome": {"version": "0.5"} | inner | ome}
        if PROVENANCE_KEY in attributes:
            own = own | {PROVENANCE_KEY: attributes[PROVENANCE_KEY]}
        _write_json(group / "zarr.json", content | {"attributes": own})


def _is_label_image(folder: Path) -> bool:
    try:
        return "image-label" in (group_attributes(folder) or {})
    except (VolumeError, FileProblem):
        return False


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name[:60]!r} is no name for labels in an OME-Zarr; use letters, digits, . _ + and -."
        )
    return name
