"""Slices of an image registered with one another, so that outlines can follow what it shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_transunet.volumes.intensity import display_window
from napari_transunet.volumes.volume import Volume

Array = NDArray[Any]
Displacement = NDArray[np.float32]
"""(2, H, W): how many of its pixels away, along rows and columns, at each pixel of a coarse grid."""

_PIXEL = 3.0  # mm of that grid, about: finer ones find no better outlines
_FEWEST = 32  # pixels along a side, where the slice has as many
_RADIUS, _WARPS = 3, 1


class SliceRegistration:
    """Where what a slice shows lies in other slices of an image.

    Between neighbours it is found by the iterative Lucas-Kanade method (Le Besnerais and Champagnat, "Dense optical
    flow by iterative local window registration", ICIP 2005), of values within the image's display window, on pixels of
    some 3 mm; from these it is put together for slices farther apart. What was found once is kept.

    Parameters
    ----------
    volume : (z, y, x) in memory
    axis : along which the slices lie

    Attributes
    ----------
    data, axis : as given
    shape : (n, height, width) of all slices
    """

    def __init__(self, volume: Volume, axis: int) -> None:
        self.data, self.axis = volume.data, axis
        self._slices = np.moveaxis(volume.data, axis, 0)
        self._window = display_window(volume)
        steps = [step for at, step in enumerate(volume.geometry.spacing) if at != axis]
        self.shape = self._slices.shape
        self._factors = [
            max(1, min(round(_PIXEL / step), size // _FEWEST))
            for step, size in zip(steps, self.shape[1:], strict=True)
        ]
        self._coarse: dict[int, NDArray[np.float32]] = {}
        self._known: dict[tuple[int, int], NDArray[np.float16]] = {}

    def register(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Register neighbours from `first` to `last` ahead of use; after each: how many are done, of how many to do."""
        missing = [
            pair
            for index in range(first, last)
            for pair in ((index, index + 1), (index + 1, index))
            if pair not in self._known
        ]
        for done, pair in enumerate(missing, 1):
            self._between(*pair)
            yield done, len(missing)

    def from_slice(self, start: int, stop: int) -> Iterator[tuple[int, Displacement]]:
        """Each slice after `start`, up to `stop` on either side, and how far away what it shows lies in `start`."""
        step = 1 if stop > start else -1
        moved: Displacement | None = None
        for index in range(start + step, stop + step, step):
            here = self._between(index, index - step)
            if moved is None:
                moved = here
            else:
                places = np.indices(here.shape[1:], np.float32) + here
                moved = here + np.stack([_sampled(part, places) for part in moved])
            yield index, moved

    def moved(
        self, plane: NDArray[np.float32], by: Displacement, box: Sequence[slice]
    ) -> NDArray[np.float32]:
        """What lies in a part of one slice, (h, w) at `box` (rows, columns), as it lies in another so far away.

        `by` is as `from_slice` gives it, in pixels of the coarse grid.
        """
        rows, columns = (
            _weights(part, factor, size)
            for part, factor, size in zip(box, self._factors, by.shape[1:], strict=True)
        )
        far = np.stack(
            [factor * (rows @ part @ columns.T) for factor, part in zip(self._factors, by, strict=True)]
        )
        return _sampled(plane, np.indices(plane.shape, np.float32) + far)

    def _between(self, index: int, neighbour: int) -> Displacement:
        from skimage.registration import optical_flow_ilk

        known = self._known.get((index, neighbour))
        if known is None:
            here, there = self._reduced(index), self._reduced(neighbour)
            if min(here.shape) < 2:  # has no gradient
                flow = np.zeros((2, *here.shape))
            else:
                flow = optical_flow_ilk(here, there, radius=_RADIUS, num_warp=_WARPS, gaussian=True)
            known = self._known[index, neighbour] = np.asarray(flow, np.float16)
        return known.astype(np.float32)

    def _reduced(self, index: int) -> NDArray[np.float32]:
        """A slice in 0..1, with the means of so many pixels each way for one."""
        if index not in self._coarse:
            low, high = self._window
            values = np.nan_to_num(np.asarray(self._slices[index], np.float32), nan=low)
            values = (np.clip(values, low, high) - low) / (high - low)
            beyond = [(0, -size % factor) for size, factor in zip(values.shape, self._factors, strict=True)]
            values = np.pad(values, beyond, mode="edge")
            (rows, columns), (down, right) = values.shape, self._factors
            blocks = values.reshape(rows // down, down, columns // right, right)
            self._coarse[index] = np.asarray(blocks.mean(axis=(1, 3)), np.float32)
        return self._coarse[index]


def _sampled(plane: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(ndimage.map_coordinates(plane, places, order=1, mode="nearest"), np.float32)


def _weights(part: slice, factor: int, size: int) -> NDArray[np.float32]:
    """(n, size): what linear interpolation makes a pixel of the part of, of coarse ones."""
    places = (np.arange(part.start, part.stop, dtype=np.float32) - (factor - 1) / 2) / factor
    places = np.clip(places, 0, size - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size, dtype=np.float32))))
