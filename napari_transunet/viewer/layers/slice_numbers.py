"""Slices by the numbers that a person sees: those of napari's slider.

What holds here: a slice has one number, the slider's, in every sentence, box and picture; the index in the array, which
runs the other way where a scan is stored from head to foot, is for code and files. A slice is in view only if the
slider stands on it: outside of a layer, in a view along another axis and in 3D, none is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import voxels_of

if TYPE_CHECKING:
    from napari.components import ViewerModel

_SIDES = (("right", "left"), ("front", "back"), ("feet", "head"))


@dataclass(frozen=True)
class SliceNumbers:
    """The slider's numbers of `count` slices along one axis.

    Attributes
    ----------
    count : number of slices.
    first : number of the slice whose index in the array is 0; need not be whole.
    step : from one index to the next; negative where the array runs against the slider.
    sides : of the patient, towards which numbers fall and rise, e.g. ("feet", "head"); None where it is not known.
    """

    count: int
    first: float = 0.0
    step: float = 1.0
    sides: tuple[str, str] | None = None

    def number(self, index: int) -> int:
        """The slider's number of the slice with this index."""
        return round(self.first + self.step * index)

    def index(self, number: int) -> int | None:
        """The index of the slice that the slider shows at this number; None where it shows none of them."""
        found = round((number - self.first) / self.step)
        return found if 0 <= found < self.count else None

    @property
    def lowest(self) -> int:
        """The lowest number."""
        return min(self.number(0), self.number(self.count - 1))

    @property
    def highest(self) -> int:
        """The highest number."""
        return max(self.number(0), self.number(self.count - 1))

    @property
    def upward(self) -> int:
        """1 where the next index has the next higher number, -1 where it has the next lower one."""
        return -1 if self.step < 0 else 1


def slice_numbers(viewer: ViewerModel, layer: Any, axis: int, image: Any = None) -> SliceNumbers:
    """The numbers of a 3D layer's slices along one of its axes (0 to 2).

    `image` is the scan that the layer lies on; where it was read from a file, the patient's sides are known.
    """
    dims = viewer.dims
    at = axis + dims.ndim - 3
    voxel = [0.0, 0.0, 0.0]
    start = float(layer.data_to_world(voxel)[-3:][axis])
    voxel[axis] = 1.0
    step = float(layer.data_to_world(voxel)[-3:][axis]) - start
    low, _, usual = dims.range[at] if 0 <= at < dims.ndim else (start, start, step)
    usual = usual or 1.0
    return SliceNumbers(
        count=int(_shape(layer)[axis]),
        first=(start - low) / usual,
        step=(step / usual) or 1.0,
        sides=_sides(image if image is not None else layer, axis),
    )


def position_in_view(viewer: ViewerModel, layer: Any) -> tuple[int, int, int]:
    """Voxel (z, y, x) of a 3D layer at the viewer's sliders, moved to the nearest one inside the layer."""
    found = layer.world_to_data(viewer.dims.point)[-3:]
    z, y, x = (min(max(round(float(at)), 0), size - 1) for at, size in zip(found, _shape(layer), strict=True))
    return z, y, x


def index_in_view(viewer: ViewerModel, layer: Any, axis: int) -> int | None:
    """Index of the slice along `axis` that the slider shows; None where it shows none, or the view is another."""
    dims = viewer.dims
    if dims.ndisplay == 3 or (axis + dims.ndim - 3) in dims.displayed:
        return None
    found = round(float(layer.world_to_data(dims.point)[-3:][axis]))
    return found if 0 <= found < _shape(layer)[axis] else None


def is_outside(viewer: ViewerModel, layer: Any) -> bool:
    """Whether a slider stands where a 3D layer has no voxels, so that nothing of it is in view."""
    dims = viewer.dims
    found, shape = layer.world_to_data(dims.point)[-3:], _shape(layer)
    return any(
        (axis + dims.ndim - 3) not in dims.displayed and not 0 <= round(float(found[axis])) < shape[axis]
        for axis in range(3)
    )


def _shape(layer: Any) -> tuple[int, ...]:
    return tuple(voxels_of(layer).shape)


def _sides(layer: Any, axis: int) -> tuple[str, str] | None:
    volume = record_of(layer).volume
    if volume is None:
        return None
    # Layers are placed so that numbers rise towards the patient's left, back and head.
    return _SIDES[volume.geometry.patient_axes[2 - axis]]
