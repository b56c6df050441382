"""Boxes around masks: tight, within the array, and counted from where the mask begins."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.volumes.boxes import bounding_box


def test_nothing_has_no_box() -> None:
    assert bounding_box(np.zeros((3, 4, 5), bool)) is None


@given(
    st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 7)), min_size=1),
    st.integers(0, 3),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)
def test_it_is_the_smallest_that_holds_all(
    voxels: set[tuple[int, int, int]], margin: int, origin: tuple[int, int, int]
) -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[tuple(zip(*voxels, strict=True))] = True
    box = bounding_box(mask, (margin,) * 3, origin)
    assert box is not None
    for axis, part in enumerate(box):
        places = [voxel[axis] for voxel in voxels]
        assert part.start == max(0, min(places) - margin) + origin[axis]
        assert part.stop == min(mask.shape[axis], max(places) + 1 + margin) + origin[axis]
