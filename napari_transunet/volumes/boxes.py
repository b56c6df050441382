"""Boxes around what is true in a mask."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Box = tuple[slice, slice, slice]
Mask = npt.NDArray[np.bool_]


def bounding_box(
    mask: Mask, margin: Sequence[int] = (0, 0, 0), origin: Sequence[int] = (0, 0, 0)
) -> Box | None:
    """The smallest box around a (z, y, x) mask and a margin in voxels, within the array; None for an empty mask.

    `origin` is the voxel at which the mask begins in the array that the box is for.
    """
    box = []
    for axis, (more, start) in enumerate(zip(margin, origin, strict=True)):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not hit.size:
            return None
        low, high = max(0, int(hit[0]) - more), min(mask.shape[axis], int(hit[-1]) + 1 + more)
        box.append(slice(low + start, high + start))
    return box[0], box[1], box[2]
