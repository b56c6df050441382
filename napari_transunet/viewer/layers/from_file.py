"""Voxels that stay in their file, as napari is given them: a view that would take too long to read shows none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_transunet.volumes.lazy_array import LazyArray

_MOST = 256 << 20  # bytes; some tenths of a second from a disk
_NAPARI = "napari.layers"
_WHOLE = (slice(None),) * 3
_ROUGH = 64  # voxels along an axis; less than any canvas has pixels, so that napari takes no plane from there
_Place = int | slice


class ShownFromFile:
    """A `LazyArray` for a layer, in place of which it stands.

    napari reads what it shows on the GUI thread: in 3D the whole volume, and across the chunks nearly so. Where that is
    much, and more than for slices along the best axis, napari gets a single voxel of zero, and a sentence says why;
    everybody else gets what was asked for. See `levels_to_show` for 3D.
    """

    def __init__(self, voxels: LazyArray, name: str) -> None:
        self.voxels, self.name = voxels, name
        self.said: tuple[bool, ...] = ()  # which axes were whole in the view that was refused last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.voxels, name)

    def __len__(self) -> int:
        return len(self.voxels)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.voxels.__array__(dtype, copy)

    def __getitem__(self, key: Any) -> Any:
        # Who asks is all that tells a view from a plugin's work: napari picks by the same `layer.data[…]`. No event
        # comes before every view (zooming, showing and refreshing read first), slicing has no public hook, and an error
        # raised here would keep napari from slicing the other layers.
        if sys._getframe(1).f_globals.get("__name__", "").startswith(_NAPARI):
            return _Region(self, tuple(slice(0, size) for size in self.voxels.shape))[key]
        return self.voxels[key]


class _Rough:
    """The coarsest resolution, where that of the file is too much for 3D; napari takes it for thumbnails too."""

    def __init__(self, array: npt.NDArray[Any], of: ShownFromFile) -> None:
        self._array, self._of = array, of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self._array, dtype, copy=copy)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        if key == _WHOLE:
            _say_once(self._of, (True,) * 3, self._of.voxels.nbytes, "so that a few slices stand for it")
        picked: npt.NDArray[Any] = self._array[key]
        return picked


class _Region:
    """What napari picks for a view, in one step or in two (of several resolutions), before it makes an array of it."""

    def __init__(self, of: ShownFromFile, places: tuple[_Place, ...]) -> None:
        self._of, self._places = of, places
        self.dtype = of.voxels.dtype
        self.shape = tuple(one.stop - one.start for one in places if isinstance(one, slice))
        self.ndim = len(self.shape)

    def __getitem__(self, key: Any) -> _Region:
        keys = iter(key if isinstance(key, tuple) else (key,))
        return _Region(
            self._of,
            tuple(
                _within(one, next(keys, slice(None))) if isinstance(one, slice) else one
                for one in self._places
            ),
        )

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        of, voxels = self._of, self._of.voxels
        needed = voxels.bytes_read(self._places)
        planes = [[0 if axis == across else slice(None) for axis in range(3)] for across in range(3)]
        if needed > max(_MOST, 2 * min(voxels.bytes_read(plane) for plane in planes)):
            view = tuple(n == size for n, size in zip(self.shape, voxels.shape, strict=False))
            _say_once(of, view, needed, "look at another plane, or zoom out where it has coarser resolutions")
            return np.zeros((1,) * self.ndim, dtype or self.dtype)
        of.said = ()
        return np.asarray(voxels[self._places], dtype)


def levels_to_show(voxels: LazyArray, name: str) -> list[Any]:
    """All resolutions of a volume for a layer of that name, finest first.

    In 3D napari takes the last one. Where that is more than can be waited for, a rough one is added, of the few slices
    that the volume is judged by.
    """
    levels: list[Any] = [ShownFromFile(each, name) for each in (voxels, *voxels.coarser)]
    if levels[-1].nbytes > _MOST:
        sample = voxels.sample()
        steps = (slice(None, None, -(-size // _ROUGH)) for size in sample.shape)
        levels.append(_Rough(np.ascontiguousarray(sample[tuple(steps)]), levels[-1]))
    return levels


def _within(whole: slice, key: Any) -> _Place:
    places = range(whole.start, whole.stop)[key]
    return places if isinstance(places, int) else slice(places.start, places.stop)


def _say_once(of: ShownFromFile, view: tuple[bool, ...], needed: int, so: str) -> None:
    from napari.utils.notifications import show_info

    if view != of.said:
        of.said = view
        show_info(
            f"“{of.name}” stays in its file, and this view would read {needed / 1e9:.1f} GB at once; {so}."
        )
