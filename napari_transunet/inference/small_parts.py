"""Small parts of organs, which a network found apart from the rest: what a card's `smallest_part` takes away."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from napari_transunet.inference.prediction import Labels, PredictionCancelled, SlicePrediction
from napari_transunet.volumes.boxes import Box

_VOXELS = 1 << 22  # counted at a time


def small_parts(
    labels: Labels, share: float, cancelled: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Box, npt.NDArray[np.bool_]]]:
    """Where organs have parts of fewer voxels than this share of the organ's largest part.

    A part is what hangs together by faces, edges or corners of voxels (26 neighbours). One organ's box is held at a
    time, in six bytes a voxel.

    Parameters
    ----------
    labels : (z, y, x), 0 is the background
    share : above 0, at most 1
    cancelled : asked before every organ

    Yields
    ------
    Of each organ with such parts its box, and within it True where they lie. They may be taken away at once.

    Raises
    ------
    PredictionCancelled
        `cancelled` said so.
    """
    from scipy import ndimage  # 0.2 s that a run without a smallest part need not wait for

    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if cancelled():
            raise PredictionCancelled("Cancelled while small parts were looked for.")
        if box is None:
            continue
        found, count = ndimage.label(labels[box] == value, np.ones((3, 3, 3), np.bool_))
        if count < 2:
            continue
        flat, sizes = found.ravel(), np.zeros(count + 1, np.int64)
        for start in range(0, flat.size, _VOXELS):
            sizes += np.bincount(flat[start : start + _VOXELS], minlength=count + 1)
        sizes[0] = sizes[1:].max()  # what is no part of it stays
        small = sizes < share * sizes[0]
        if small.any():
            z, y, x = box
            yield (z, y, x), np.stack([small[plane] for plane in found])


def without_small_parts(
    batches: Iterable[list[SlicePrediction]],
    labels: Labels,
    missing: set[int],
    share: float,
    cancelled: Callable[[], bool],
) -> Iterator[list[SlicePrediction]]:
    """The same batches, and with the last one once more the slices before it that lost a small part.

    So where all slices came, they are right; where `cancelled` said so, the last batch does not come.

    Parameters
    ----------
    batches : each slice once
    labels : (slices, …), of the slices that are known already; the others are written here
    missing : indices of those others
    share, cancelled : as for `small_parts`
    """
    missing = set(missing)
    for batch in batches:
        for one in batch:
            labels[one.index] = one.plane
            missing.discard(one.index)
        if missing:
            yield batch
            continue
        changed: set[int] = set()
        try:
            for box, small in small_parts(labels, share, cancelled):
                labels[box][small] = 0
                changed.update((box[0].start + np.flatnonzero(small.any(axis=(1, 2)))).tolist())
        except PredictionCancelled:
            return
        last = [replace(one, plane=labels[one.index]) if one.index in changed else one for one in batch]
        before = sorted(changed.difference(one.index for one in batch))
        yield [*(SlicePrediction(index, labels[index]) for index in before), *last]
