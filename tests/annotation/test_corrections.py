"""The tools: exact small cases in mm, and what no tool may ever do."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_transunet.annotation import corrections as tools
from napari_transunet.annotation.corrections import Scope
from napari_transunet.annotation.interpolation import interpolate
from napari_transunet.errors import InputError

ISO = (1.0, 1.0, 1.0)
ONE = Scope((1,))


def _apply(labels, correction):
    result = labels.copy()
    for write in correction.writes:
        assert np.array_equal(result[write.index], write.before)
        result[write.index] = write.after
    return result


def _empty(*shape):
    return np.zeros(shape or (9, 9, 9), np.uint8)


def test_the_largest_components_stay():
    labels = _empty()
    labels[1:3, 1:3, 1:3] = 1  # 8 voxels
    labels[5, 5, 5:8] = 1  # 3
    labels[8, 8, 8] = 1  # 1
    labels[3, 3, 3] = 1  # touches the first at a corner: belongs to it
    found = tools.keep_largest(labels, ISO, ONE)
    assert found.changed == 4
    assert found.per_organ == {1: -4}
    assert found.slices == 2
    assert _apply(labels, found).sum() == 9
    assert _apply(labels, tools.keep_largest(labels, ISO, ONE, count=2)).sum() == 12
    assert tools.keep_largest(labels, ISO, ONE, count=3).changed == 0
    in_slice = tools.keep_largest(labels, ISO, Scope((1,), (0, 5)))
    assert in_slice.changed == 0
    with pytest.raises(InputError):
        tools.keep_largest(labels, ISO, ONE, count=0)


def test_the_component_that_was_clicked_stays():
    labels = _empty()
    labels[1:3] = 1
    labels[5, 5, 5] = 1
    labels[7] = 2
    result = _apply(labels, tools.keep_component_at(labels, ISO, Scope((1, 2)), voxel=(5, 5, 5)))
    assert (result == 1).sum() == 1
    assert (result == 2).sum() == 81
    for voxel in ((0, 0, 0), (7, 0, 0), (99, 0, 0)):
        with pytest.raises(InputError, match="no part of that organ"):
            tools.keep_component_at(labels, ISO, ONE, voxel=voxel)


def test_islands_are_measured_in_ml_and_mm2():
    labels = _empty()
    labels[1, 1, 1:5] = 1  # 4 voxels of 0.05 mL
    labels[5, 5, 5:7] = 1  # 2
    spacing = (5.0, 2.0, 5.0)
    assert tools.remove_islands(labels, spacing, ONE, below_ml=0.2).changed == 2  # exactly 0.2 mL stays
    assert tools.remove_islands(labels, spacing, ONE, below_ml=0.21).changed == 6
    assert tools.remove_islands(labels, spacing, Scope((1,), (0, 1)), below_mm2=39).changed == 0
    assert tools.remove_islands(labels, spacing, Scope((1,), (0, 1)), below_mm2=41).changed == 4
    with pytest.raises(InputError):
        tools.remove_islands(labels, spacing, ONE)


def test_holes_are_filled_in_space_or_in_slices():
    labels = _empty()
    labels[1:8, 1:8, 1:8] = 1
    labels[4, 4, 4] = 0  # enclosed in space
    labels[:, 2, 2] = 0  # a tunnel along z: a hole in each slice only
    labels[5, 5, 5] = 2  # another organ is no hole
    assert _apply(labels, tools.fill_holes(labels, ISO, ONE))[4, 4, 4] == 1
    assert tools.fill_holes(labels, ISO, ONE).changed == 1
    each = _apply(labels, tools.fill_holes(labels, ISO, ONE, along=0))
    assert (each[1:8, 2, 2] == 1).all()
    assert each[5, 5, 5] == 2
    assert tools.fill_holes(labels, ISO, Scope((1,), (0, 3))).changed == 1
    assert tools.fill_holes(labels, ISO, ONE, along=2).changed == 1


def test_growing_and_shrinking_are_in_mm():
    labels = _empty(11, 11, 11)
    labels[5, 5, 5] = 1
    grown = _apply(labels, tools.grow(labels, (5.0, 1.0, 2.0), ONE, by_mm=2.0))
    assert grown[5, 5, 3:8].tolist() == [0, 1, 1, 1, 0]
    assert grown[5, 3:8, 5].tolist() == [1, 1, 1, 1, 1]
    assert grown[4:7, 5, 5].tolist() == [0, 1, 0]
    cube = _empty(11, 11, 11)
    cube[2:9, 2:9, 2:9] = 1
    shrunk = _apply(cube, tools.shrink(cube, (5.0, 1.0, 2.0), ONE, by_mm=2.0))
    assert np.flatnonzero(shrunk[5, 5]).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(shrunk[5, :, 5]).tolist() == [4, 5, 6]
    assert np.flatnonzero(shrunk[:, 5, 5]).tolist() == list(range(2, 9))
    at_border = _empty()
    at_border[:5] = 1
    assert np.flatnonzero(
        _apply(at_border, tools.shrink(at_border, ISO, ONE, by_mm=1))[:, 4, 4]
    ).tolist() == [
        0,
        1,
        2,
        3,
    ]
    for tool in (tools.grow, tools.shrink):
        with pytest.raises(InputError, match="above 0"):
            tool(cube, ISO, ONE, by_mm=0)


def test_organs_grow_up_to_each_other_but_never_over_one_another():
    labels = _empty(1, 1, 12)
    labels[0, 0, 2], labels[0, 0, 8], labels[0, 0, 10] = 1, 2, 3
    grown = _apply(labels, tools.grow(labels, ISO, Scope((1, 2)), by_mm=5))
    assert grown[0, 0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 2]


def test_smoothing_keeps_the_volume_and_takes_the_edges_off():
    labels = _empty(24, 24, 24)
    labels[6:18, 6:18, 6:18] = 1
    result = _apply(labels, tools.smooth(labels, ISO, ONE, radius_mm=2))
    assert abs(int(result.sum()) - 12**3) <= 24
    assert result[6, 6, 6] == 0
    assert result[12, 12, 5] == 1
    flat = _apply(labels, tools.smooth(labels, ISO, Scope((1,), (0, 10)), radius_mm=2))
    assert (flat[[*range(10), *range(11, 24)]] == labels[[*range(10), *range(11, 24)]]).all()
    assert flat[10, 6, 6] == 0
    neighbours = _empty(12, 12, 12)
    neighbours[2:10, 2:10, 2:6], neighbours[2:10, 2:10, 6:10] = 1, 2
    both = _apply(neighbours, tools.smooth(neighbours, ISO, Scope((1, 2)), radius_mm=1))
    assert (both[5, 5, 2:10] == [1, 1, 1, 1, 2, 2, 2, 2]).all()


def test_a_label_becomes_another_and_a_slice_its_neighbour():
    labels = _empty()
    labels[3, 2:5, 2:5] = 1
    labels[4, 6, 6], labels[4, 2, 2] = 1, 2
    assert (_apply(labels, tools.replace_label(labels, ISO, ONE, by=3)) == 3).sum() == 10
    assert (_apply(labels, tools.replace_label(labels, ISO, Scope((1,), (0, 4)), by=0)) == 1).sum() == 9
    copied = _apply(labels, tools.copy_slice(labels, ISO, ONE, axis=0, source=3, target=4))
    assert copied[4, 6, 6] == 0
    assert (copied[4] == 1).sum() == 8
    assert copied[4, 2, 2] == 2
    with pytest.raises(InputError, match="no slice"):
        tools.copy_slice(labels, ISO, ONE, axis=0, source=-1, target=0)
    with pytest.raises(InputError, match="no label"):
        tools.replace_label(labels, ISO, ONE, by=300)


def test_a_stroke_is_held_to_a_range_and_to_locks():
    before = np.array([0, 0, 3, 0])
    after = np.array([1, 1, 1, 3])
    image = np.array([50, 500, 50, 50])
    allowed = partial(tools.allowed_stroke, before, after, image=image)
    assert allowed(between=(0, 100), locked=frozenset()).tolist() == [1, 0, 1, 3]
    assert allowed(between=None, locked=frozenset({3})).tolist() == [1, 1, 3, 0]


def test_what_is_by_hand_or_locked_is_counted_and_left():
    labels = _empty()
    labels[0, 0, 0], labels[4:7, 4:7, 4:7] = 1, 1
    hand = np.zeros(labels.shape, bool)
    hand[0, 0, 0] = True
    found = tools.keep_largest(labels, ISO, Scope((1,), protected=hand))
    assert (found.changed, found.left_by_hand) == (0, 1)
    found = tools.keep_largest(labels, ISO, Scope((1,), locked=frozenset({1})))
    assert (found.changed, found.left_locked) == (0, 1)


SHAPE = (5, 6, 7)
FOUND = np.random.default_rng(1).choice([0, 0, 1, 1, 2, 3], SHAPE).astype(np.uint8)
TOOLS = {
    "largest": partial(tools.keep_largest, count=1),
    "islands": partial(tools.remove_islands, below_ml=0.05, below_mm2=8.0),
    "holes": tools.fill_holes,
    "holes in slices": partial(tools.fill_holes, along=1),
    "smooth": partial(tools.smooth, radius_mm=1.5),
    "grow": partial(tools.grow, by_mm=2.1),
    "shrink": partial(tools.shrink, by_mm=1.0),
    "interpolate": partial(interpolate, axis=0, slices=[0, 4]),
    "interpolate corrections": partial(interpolate, axis=0, slices=[0, 2, 4], found=FOUND),
    "replace": partial(tools.replace_label, by=4),
    "copy": partial(tools.copy_slice, axis=0, source=1, target=2),
}
AGAIN_NOTHING = (
    "largest",
    "islands",
    "holes",
    "holes in slices",
    "copy",
    "interpolate",
    "interpolate corrections",
)


@pytest.mark.parametrize("name", TOOLS)
@settings(max_examples=25)
@given(data=st.data())
def test_no_tool_oversteps_its_scope(name, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    labels = rng.choice([0, 0, 1, 1, 2, 3], SHAPE).astype(np.uint8)
    organs = tuple(data.draw(st.sets(st.integers(1, 3), min_size=1)))
    plane = data.draw(st.none() | st.tuples(st.just(0), st.integers(0, 4)))
    if name in ("interpolate", "interpolate corrections", "copy"):
        plane = None
    locked = frozenset(data.draw(st.sets(st.integers(1, 3), max_size=1)))
    protected = rng.random(SHAPE) < 0.2
    scope = Scope(organs, plane, locked, protected)
    found = TOOLS[name](labels, (2.5, 1.0, 0.8), scope)
    result = _apply(labels, found)
    changed = result != labels
    assert changed.sum() == found.changed
    assert not (changed & protected).any()
    for value in locked:
        assert np.array_equal(result == value, labels == value)
    assert np.isin(labels[changed], [0, *organs]).all()
    assert np.isin(result[changed], [0, 4] if name == "replace" else [0, *organs]).all()
    if plane is not None:
        assert not np.delete(changed, plane[1], axis=0).any()
    back = result.copy()
    for write in reversed(found.writes):
        back[write.index] = write.before
    assert np.array_equal(back, labels)
    for value in range(1, 5):
        gained = int((result == value).sum()) - int((labels == value).sum())
        assert found.per_organ.get(value, 0) == gained
    if name in AGAIN_NOTHING:
        assert TOOLS[name](result, (2.5, 1.0, 0.8), scope).changed == 0
