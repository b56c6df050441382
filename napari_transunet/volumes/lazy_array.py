"""A volume's voxels that stay in their file until they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import SizeError
from napari_transunet.files import available_memory

Region = tuple[slice, slice, slice]
"""Along the axes as stored; each with a start and a stop, and a step of 1."""

_LARGEST_SLAB = 256 << 20  # bytes that are kept, so that slices of one chunk do not unpack it each
_USABLE_MEMORY = 0.8
_SAMPLED = 1 << 23  # voxels of an array that is its own sample
_SAMPLED_PLANES = 16


class _Stored:
    """The array as it lies in the file, and the slab of it that was read last."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        chunks: tuple[int, int, int],
        read: Callable[[Region], npt.NDArray[Any]],
        sample: Callable[[], npt.NDArray[Any]],
        *,
        keep: bool,
    ) -> None:
        self.shape, self.dtype, self.chunks = shape, dtype, chunks
        self._read, self._sample = read, sample
        self._largest = _LARGEST_SLAB if keep else 0
        self._slab: tuple[int, int, int, npt.NDArray[Any]] | None = None
        self._sampled: npt.NDArray[Any] | None = None
        self._lock = threading.Lock()

    def planes(self, axis: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Slices start to stop along an axis, whole."""
        depth = self.chunks[axis]
        first = start // depth * depth
        last = min(self.shape[axis], -(-stop // depth) * depth)
        plane = self.dtype.itemsize * int(np.prod(self.shape)) // self.shape[axis]
        if (last - first) * plane > self._largest:
            return self._read(self._region(axis, start, stop))
        with self._lock:
            known = self._slab
            if known is None or known[0] != axis or known[1] > start or known[2] < stop:
                self._slab = None  # before the next is taken
                known = (axis, first, last, self._read(self._region(axis, first, last)))
                self._slab = known
        picked = [slice(None)] * 3
        picked[axis] = slice(start - known[1], stop - known[1])
        return known[3][tuple(picked)]

    def read(self, region: Region) -> npt.NDArray[Any]:
        return self._read(region)

    def sample(self) -> npt.NDArray[Any]:
        with self._lock:
            if self._sampled is None:
                self._sampled = self._sample()
            return self._sampled

    def _region(self, axis: int, start: int, stop: int) -> Region:
        region = [slice(0, size) for size in self.shape]
        region[axis] = slice(start, stop)
        return (region[0], region[1], region[2])


class LazyArray:
    """A (z, y, x) array whose voxels are read when they are asked for.

    To turn it (`transpose`, `numpy.flip`) reads nothing and gives another one. What is picked of it (`array[3]`,
    `array[[1, 2]]`, `array[2:5, :, 7]`) is read and is an ordinary array; so is `numpy.asarray(array)`, the whole,
    where that fits into memory. Neighbouring slices are read together, as they lie in the file's chunks.

    Parameters
    ----------
    shape, dtype : of the whole
    chunks : voxels along each axis that are stored together
    read : gives the voxels of a region
    sample : gives some voxels, spread over the whole along the same axes: what percentiles and ranges are found from
    keep : whether what was read last is kept; not where it may change

    Attributes
    ----------
    coarser : the same in coarser resolutions, to be looked at, where the file has them and they were asked for
    """

    ndim = 3

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: npt.DTypeLike,
        chunks: tuple[int, int, int],
        read: Callable[[Region], npt.NDArray[Any]],
        sample: Callable[[], npt.NDArray[Any]],
        *,
        keep: bool = True,
    ) -> None:
        self._stored = _Stored(shape, np.dtype(dtype), chunks, read, sample, keep=keep)
        self._axes: tuple[int, ...] = (0, 1, 2)
        self._flips: tuple[bool, ...] = (False, False, False)
        self.coarser: tuple[LazyArray, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        first, second, third = (self._stored.shape[axis] for axis in self._axes)
        return (first, second, third)

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Voxels along each axis that are stored together."""
        first, second, third = (self._stored.chunks[axis] for axis in self._axes)
        return (first, second, third)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels."""
        return self._stored.dtype

    @property
    def size(self) -> int:
        """Voxels in all."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels in memory."""
        return self.size * self.dtype.itemsize

    def bytes_read(self, key: Sequence[int | slice]) -> int:
        """Bytes of the chunks in which what an index or slice along each axis picks lies."""
        read = 1
        for size, chunk, one in zip(self.shape, self.chunks, key, strict=True):
            start, stop, _ = one.indices(size) if isinstance(one, slice) else (int(one), int(one) + 1, 1)
            read *= min(size, -(-stop // chunk) * chunk) - start // chunk * chunk
        return read * self.dtype.itemsize

    def sample(self) -> npt.NDArray[Any]:
        """Some voxels, spread over the whole; the same each time."""
        return self._stored.sample()

    def transpose(self, *axes: Any) -> LazyArray:
        """The same with its axes in another order, as `numpy.transpose`."""
        wanted = axes[0] if len(axes) == 1 and not isinstance(axes[0], SupportsIndex) else axes
        order = tuple(int(axis) for axis in wanted) if wanted else (2, 1, 0)
        return self._turned(tuple(self._axes[i] for i in order), tuple(self._flips[i] for i in order))

    def _turned(self, axes: tuple[int, ...], flips: tuple[bool, ...]) -> LazyArray:
        turned = object.__new__(LazyArray)
        turned._stored, turned._axes, turned._flips, turned.coarser = self._stored, axes, flips, ()
        return turned

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [one for one in keys if one is Ellipsis]:
            at = next(i for i, one in enumerate(keys) if one is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        if len(keys) > self.ndim:
            raise IndexError(f"too many indices: the array has 3 axes, but {len(keys)} were indexed")
        if all(isinstance(one, slice) and one in (slice(None), slice(None, None, -1)) for one in keys):
            mirrored = (one.step == -1 for one in keys)
            return self._turned(self._axes, tuple(a != b for a, b in zip(self._flips, mirrored, strict=True)))
        return self._picked(keys)

    def _picked(self, keys: list[Any]) -> npt.NDArray[Any]:
        places = [np.arange(size)[one] for size, one in zip(self.shape, keys, strict=True)]
        if any(np.ndim(place) and not place.size for place in places):
            return np.empty([place.size for place in places if np.ndim(place)], self.dtype)
        stored = [
            self._stored.shape[axis] - 1 - np.atleast_1d(place) if flip else np.atleast_1d(place)
            for axis, flip, place in zip(self._axes, self._flips, places, strict=True)
        ]
        # In the order of the file, so that what is picked is near together.
        wanted = [stored[self._axes.index(axis)] for axis in range(3)]
        array = np.transpose(self._gathered(wanted), self._axes)
        return array[tuple(0 if np.ndim(place) == 0 else slice(None) for place in places)]

    def _gathered(self, wanted: list[npt.NDArray[np.int64]]) -> npt.NDArray[Any]:
        """Stored voxels at all combinations of these indices."""
        whole = [len(one) == size for one, size in zip(wanted, self._stored.shape, strict=True)]
        few = [axis for axis in range(3) if not whole[axis]]
        if len(few) == 1:  # slices: runs of neighbours at a time
            axis = few[0]
            distinct, back = np.unique(wanted[axis], return_inverse=True)
            breaks = np.flatnonzero(np.diff(distinct) > 1) + 1
            runs = [
                self._stored.planes(axis, int(run[0]), int(run[-1]) + 1) for run in np.split(distinct, breaks)
            ]
            taken = np.take(runs[0] if len(runs) == 1 else np.concatenate(runs, axis), back, axis)
        else:
            region = tuple(slice(int(one.min()), int(one.max()) + 1) for one in wanted)
            _check_memory(
                int(np.prod([one.stop - one.start for one in region], dtype=np.int64)) * self.dtype.itemsize
            )
            taken = self._stored.read((region[0], region[1], region[2]))
            return taken[np.ix_(*[one - place.start for one, place in zip(wanted, region, strict=True)])]
        for axis in range(3):
            if axis not in few and (np.diff(wanted[axis]) < 0).any():
                taken = np.take(taken, wanted[axis], axis)
        return taken

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("voxels that lie in a file cannot be had without a copy")
        _check_memory(self.nbytes)
        whole = self._stored.read(tuple(slice(0, size) for size in self._stored.shape))  # type: ignore[arg-type]
        array = np.transpose(whole, self._axes)
        flipped = np.flip(array, tuple(axis for axis, flip in enumerate(self._flips) if flip))
        return np.ascontiguousarray(flipped, dtype)


def sample_of(read: Callable[[Region], npt.NDArray[Any]], shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """A small array whole; of a large one every n-th voxel of some slices, evenly spread."""
    depth, height, width = shape
    if np.prod(shape, dtype=np.float64) <= _SAMPLED:
        return read((slice(0, depth), slice(0, height), slice(0, width)))
    planes = np.unique(np.linspace(0, depth - 1, min(depth, _SAMPLED_PLANES) + 2).round().astype(int)[1:-1])
    step = max(1, round((height * width * len(planes) / _SAMPLED * 4) ** 0.5))
    return np.concatenate(
        [
            read((slice(int(z), int(z) + 1), slice(0, height), slice(0, width)))[:, ::step, ::step]
            for z in planes
        ]
    )


def _check_memory(size: int) -> None:
    if size > _USABLE_MEMORY * available_memory():
        raise SizeError(
            f"This needs the volume in memory, {size / 1e9:.1f} GB, more than is free; crop or downsample it, or choose"
            " a level of lower resolution."
        )
