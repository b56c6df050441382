"""A volume as the network sees it: slices in the card's orientation, scaled, a few at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.errors import InputError
from napari_transunet.inference.preprocessing import PAPER_SCALING, IntensityScaling, scaling_for
from napari_transunet.inference.resize import Resize, make_resize, paper_resize
from napari_transunet.volumes.intensity import as_float32
from napari_transunet.volumes.lazy_array import LazyArray
from napari_transunet.volumes.orientation import IDENTITY, Reorientation
from napari_transunet.volumes.volume import Volume

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.volumes.geometry import Vector

Plane = Literal["z", "y", "x"]
PLANES: tuple[Plane, ...] = ("z", "y", "x")

PLANE_AXES: Mapping[Plane, tuple[int, int, int]] = MappingProxyType(
    {"z": (0, 1, 2), "y": (1, 0, 2), "x": (2, 0, 1)}
)
"""The order of the array's axes (z, y, x) that makes slices along one of them; the others keep theirs."""

_ENOUGH_NEIGHBOURS = 6

_SENT_AS_STORED: Mapping[np.dtype[Any], torch.dtype] = MappingProxyType(
    {
        np.dtype(np.uint8): torch.uint8,
        np.dtype(np.int8): torch.int8,
        np.dtype(np.int16): torch.int16,
        np.dtype(np.int32): torch.int32,
    }
)


@dataclass(frozen=True, eq=False)
class SliceStack:
    """A few scaled slices on one device, and which of them are the channels of which image.

    Neighbouring slices share channels, so each is kept, and resized, once.

    Attributes
    ----------
    planes
        float32 (m, h, w), distinct slices.
    channels
        int64 (n, context): for each of n images, which of the planes its channels are.
    """

    planes: Tensor
    channels: Tensor

    def pick(self, positions: Sequence[int]) -> SliceStack:
        """Only the images at these positions, and the planes that they need."""
        needed, channels = self.channels[list(positions)].unique(return_inverse=True)
        everything = len(needed) == len(self.planes)
        return SliceStack(self.planes if everything else self.planes[needed], channels)

    def images(self, resize: Resize) -> Tensor:
        """At the network's size: (n, context, H, W), where `resize` lies."""
        device = resize.rows.device
        return resize.forward(self.planes.to(device))[self.channels.to(device)]

    def constants(self) -> list[tuple[float, ...] | None]:
        """Of each image the channels' values, where each channel holds but one value; else None."""
        low, high = self.planes.flatten(1).aminmax(dim=1)
        constant = (low == high)[self.channels].all(dim=1).tolist()
        values = low[self.channels].tolist()
        return [tuple(value) if same else None for same, value in zip(constant, values, strict=True)]


@dataclass(frozen=True, eq=False)
class SliceSource:
    """Slices of a volume for the network, and the way back onto the volume's grid.

    Attributes
    ----------
    data
        (z, y, x), a view of the volume in the orientation that the network was trained in.
    orientation
        What makes `data` of the volume's array.
    scaling, resize
        Intensities and sizes, as the network wants them.
    spacing
        mm between voxels of `data` along (z, y, x).
    context
        1: a slice has one channel. 3: its channels are the slices z−1, z, z+1; at the ends the last is repeated.
    """

    data: npt.NDArray[Any]
    orientation: Reorientation
    scaling: IntensityScaling
    resize: Resize
    spacing: Vector
    context: int = 1

    @classmethod
    def from_card(
        cls, volume: Volume, card: ModelCard, size: tuple[int, int], plane: Plane = "z"
    ) -> SliceSource:
        """Prepared as the model card says, for a network of that input size (H, W).

        `plane` is the axis, in the card's orientation, along which slices are taken.
        """
        axes = PLANE_AXES[plane]
        orientation = orientation_for(volume, card).then(axes)
        data = orientation.apply(volume.data)
        spacing = volume.geometry.reoriented(orientation.axes, orientation.flips).spacing
        target = None if card.spacing is None else [card.spacing[axis] for axis in axes[1:]]
        resize = make_resize(card.resize, spacing[1:], _plane_shape(data), size, target)
        return cls(data, orientation, scaling_for(card, data), resize, spacing, card.context)

    @classmethod
    def from_paper(cls, volume: Volume, size: tuple[int, int]) -> SliceSource:
        """Prepared as published: CT window, spline zoom, slices as they are stored."""
        resize = paper_resize(_plane_shape(volume.data), size)
        return cls(volume.data, IDENTITY, PAPER_SCALING, resize, volume.geometry.spacing)

    def on(self, device: torch.device) -> SliceSource:
        """The same source, with its resize where the network runs."""
        return replace(self, resize=self.resize.to(device))

    def __len__(self) -> int:
        return self.data.shape[0]

    def stack(self, indices: Sequence[int]) -> SliceStack:
        """Scaled slices, with those around them that are channels too.

        `indices` count along the volume's own axis. Only these slices are read and converted, each once.
        """
        own = [self.orientation.original_index(index, self._shape) for index in indices]
        around = range(-(self.context // 2), self.context // 2 + 1)
        wanted = np.clip(np.add.outer(own, around), 0, len(self) - 1)
        distinct, channels = np.unique(wanted, return_inverse=True)
        planes = self.scaling.apply(self._as_stored(distinct))
        return SliceStack(planes, torch.from_numpy(channels.reshape(wanted.shape)))

    def _as_stored(self, slices: npt.NDArray[np.int64]) -> Tensor:
        """Slices in the volume's own units: whole numbers as stored where a CUDA GPU will scale them, else float32."""
        device = self.resize.rows.device
        if device.type == "cuda" and self.data.dtype in _SENT_AS_STORED:
            shape = (len(slices), *_plane_shape(self.data))
            stored = torch.empty(shape, dtype=_SENT_AS_STORED[self.data.dtype], pin_memory=True)
            if isinstance(self.data, LazyArray):
                stored.numpy()[:] = self.data[slices]
            else:
                np.take(self.data, slices, axis=0, out=stored.numpy(), mode="clip")
            return stored.to(device, non_blocking=True)
        values = as_float32(self.data[slices])
        if self.data.dtype.kind == "f":
            fill_from_neighbours(values)
        return torch.from_numpy(values)

    def images(self, indices: Sequence[int]) -> Tensor:
        """What the network is given for these slices: float32 (len(indices), context, H, W), where the resize lies."""
        return self.stack(indices).images(self.resize)

    def to_volume(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A (h, w) plane of `data` as a plane of the volume's array, across its `slice_axis`; a view."""
        return self.orientation.invert(plane[None]).squeeze(self.orientation.slice_axis)

    def from_volume(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The reverse of `to_volume`: a plane across the volume's `slice_axis` as a (h, w) plane of `data`; a view."""
        turned = self.orientation.apply(np.expand_dims(plane, self.orientation.slice_axis))
        return turned[0]

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape[axis] for axis in np.argsort(self.orientation.axes))


def orientation_for(volume: Volume, card: ModelCard) -> Reorientation:
    """What takes the volume's array to the orientation that the card asks for."""
    return IDENTITY if card.orientation is None else Reorientation.between(volume.geometry, card.orientation)


def fill_from_neighbours(planes: npt.NDArray[np.float32]) -> None:
    """Give single voxels without a number (NaN, infinity) the mean of their neighbours in the plane, in place.

    `planes` is (n, h, w). One voxel as dark as air within an organ changes labels around it. Larger gaps, where fewer
    than six of the eight neighbours hold a number, stay as they are: the scaling makes the lowest value of them, as
    outside the field of view.
    """
    missing = ~np.isfinite(planes)
    if not missing.any():
        return
    for plane, gaps in zip(planes, missing, strict=True):
        rows, columns = np.nonzero(gaps)
        if not rows.size:
            continue
        known = np.pad(~gaps, 1)
        values = np.pad(np.where(gaps, np.float32(0), plane), 1)
        count, total = np.zeros(rows.size, np.int64), np.zeros(rows.size)
        for down, right in itertools.product(range(3), repeat=2):
            count += known[rows + down, columns + right]
            total += values[rows + down, columns + right]
        fill = count >= _ENOUGH_NEIGHBOURS
        plane[rows[fill], columns[fill]] = total[fill] / count[fill]


def as_volume(volume: Volume | npt.NDArray[Any]) -> Volume:
    """A bare (z, y, x) array becomes a volume of 1 mm voxels."""
    if isinstance(volume, Volume):
        return volume
    array = np.asarray(volume)
    if array.ndim == 2:
        raise InputError(
            f"This array is a single slice {array.shape}; give it as a volume of one, `array[None]`."
        )
    if array.ndim == 4 and array.shape[-1] in (3, 4):
        raise InputError(
            f"This array {array.shape} looks like colour images; convert it to one grey channel first."
        )
    if array.ndim != 3:
        raise InputError(
            f"A volume has the three axes (z, y, x), but this array has the shape {array.shape}; "
            "pick one channel and one time point."
        )
    return Volume.from_array(array)


def _plane_shape(data: npt.NDArray[Any]) -> tuple[int, int]:
    return data.shape[1], data.shape[2]
