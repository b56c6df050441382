"""Labels on a part of a grid: where they lie, what is refused, and that no voxel moves."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.volumes import grid_part as module
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.grid_part import grid_part, labels_on_grid, on_common_grid
from napari_transunet.volumes.orientation import Reorientation
from napari_transunet.volumes.volume import Source, Volume
from tests.io.samples import geometries, rotation

GRID = Geometry((6, 8, 10), (3.0, 0.7, 0.8), (-10.0, 20.0, 5.0))
UNPLACED = "The file says nothing about voxel size or orientation; 1 mm voxels were assumed."


def volume(
    data: np.ndarray, geometry: Geometry, *, omits: bool = True, notes: tuple[str, ...] = ()
) -> Volume:
    return Volume(data, geometry, None, Source(None, "array", "v", notes=notes, omits_background=omits))


def scan_on(geometry: Geometry = GRID) -> Volume:
    return volume(np.zeros(geometry.shape, np.int16), geometry)


def shifted(geometry: Geometry, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Geometry:
    """The same lattice from another voxel on, by its definition."""
    origin = geometry.affine_lps @ [*start[::-1], 1.0]
    return replace(geometry, shape=shape, origin=tuple(origin[:3].tolist()))


def cut(whole: np.ndarray, geometry: Geometry, box: tuple[slice, slice, slice]) -> Volume:
    start, shape = tuple(one.start for one in box), tuple(one.stop - one.start for one in box)
    return volume(whole[box], shifted(geometry, start, shape))


@st.composite
def parts(draw: st.DrawFn) -> tuple[Geometry, tuple[slice, slice, slice]]:
    """A grid and a box in it."""
    geometry = draw(geometries())
    starts = [draw(st.integers(0, size - 1)) for size in geometry.shape]
    stops = [draw(st.integers(start + 1, size)) for start, size in zip(starts, geometry.shape, strict=True)]
    first, second, third = (slice(*ends) for ends in zip(starts, stops, strict=True))
    return geometry, (first, second, third)


@given(parts(), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.floats(-0.02, 0.02))
def test_a_part_comes_back_to_the_voxels_that_it_was_cut_from(
    part: tuple[Geometry, tuple[slice, slice, slice]],
    order: list[int],
    flips: tuple[bool, bool, bool],
    rounding: float,
) -> None:
    geometry, box = part
    whole = np.zeros(geometry.shape, np.uint16)
    whole[box] = 1 + np.arange(whole[box].size).reshape(whole[box].shape)
    piece = cut(whole, geometry, box)
    axes = (order[0], order[1], order[2])
    stored = np.flip(piece.data.transpose(axes), [axis for axis in range(3) if flips[axis]])
    turned = piece.geometry.reoriented(axes, flips)
    moved = tuple(mm + rounding * min(geometry.spacing) for mm in turned.origin)
    found = labels_on_grid(volume(stored, replace(turned, origin=moved)), scan_on(geometry))
    assert found is not None
    np.testing.assert_array_equal(found.data, whole)
    assert found.part.box == box
    assert found.unknown is None
    assert found.part.is_whole == (found.part.coverage == "") == (piece.data.shape == whole.shape)


@given(parts(), st.floats(0.3, 0.7), st.integers(0, 2), st.integers(-3, 3))
def test_what_lies_between_voxels_is_no_part(
    part: tuple[Geometry, tuple[slice, slice, slice]], by: float, axis: int, more: int
) -> None:
    geometry, box = part
    piece = cut(np.zeros(geometry.shape, np.uint8), geometry, box)
    along = np.array(geometry.direction)[:, axis] * min(geometry.spacing)
    origin = tuple((np.array(piece.geometry.origin) + by * along).tolist())
    # A fraction of the smallest voxel may be none of a large one: only along the finest axis it is.
    if geometry.spacing_xyz[axis] == min(geometry.spacing):
        assert grid_part(replace(piece.geometry, origin=origin), geometry) is None
    coarser = tuple(mm * 1.7 for mm in geometry.spacing)
    if max(geometry.shape) > 1:
        assert grid_part(replace(piece.geometry, spacing=coarser), geometry) is None
    beyond = [one.start for one in box]
    beyond[axis] = geometry.shape[axis] + abs(more)
    assert grid_part(shifted(geometry, tuple(beyond), piece.geometry.shape), geometry) is None


@given(geometries(), geometries())
def test_any_two_grids_are_compared_without_an_error(first: Geometry, second: Geometry) -> None:
    found = grid_part(first, second)
    assert found is None or found.is_same or math.prod(found.shape) <= math.prod(first.shape)


def test_a_small_turn_is_judged_by_where_corners_lie() -> None:
    for degrees, fits in ((0.2, True), (2.0, False)):
        direction = tuple(map(tuple, rotation((math.radians(degrees), 0, 0)).tolist()))
        piece = replace(shifted(GRID, (2, 3, 4), (2, 3, 4)), direction=direction)
        assert (grid_part(piece, GRID) is not None) == fits


def test_it_says_which_slices_are_covered() -> None:
    whole = np.zeros(GRID.shape, np.uint8)
    found = labels_on_grid(cut(whole, GRID, np.s_[1:5, 0:8, 0:10]), scan_on())
    assert found.part.coverage == "slices 1 to 4 of 0 to 5 along z"
    found = labels_on_grid(cut(whole, GRID, np.s_[0:6, 2:8, 0:9]), scan_on())
    assert found.part.coverage == "slices 2 to 7 of 0 to 7 along y, slices 0 to 8 of 0 to 9 along x"


def test_labels_outside_of_the_scan_are_refused_and_empty_voxels_there_are_not() -> None:
    data = np.zeros((4, 8, 10), np.uint8)
    data[2, 3, 3] = 7
    stick_out = shifted(GRID, (4, 0, 0), data.shape)  # slices 4 to 7 of 0 to 5
    with pytest.raises(VolumeError, match=r"1 labelled voxels lie outside of the scan's grid"):
        labels_on_grid(volume(data, stick_out), scan_on())
    data[2, 3, 3], data[1, 3, 3] = 0, 7
    found = labels_on_grid(volume(data, stick_out), scan_on())
    assert np.argwhere(found.data).tolist() == [[5, 3, 3]]
    larger = volume(np.pad(found.data, 2), shifted(GRID, (-2, -2, -2), (10, 12, 14)))
    again = labels_on_grid(larger, scan_on())
    np.testing.assert_array_equal(again.data, found.data)
    assert again.part.is_whole


def test_what_is_not_covered_is_unknown_where_the_format_does_not_leave_out_what_is_empty() -> None:
    whole = np.ones(GRID.shape, np.uint8)
    piece = cut(whole, GRID, np.s_[1:5, 2:8, 0:10])
    assert labels_on_grid(piece, scan_on()).unknown is None
    kept = replace(piece, source=replace(piece.source, omits_background=False))
    unknown = labels_on_grid(kept, scan_on()).unknown
    np.testing.assert_array_equal(~unknown, labels_on_grid(piece, scan_on()).data == 1)
    assert labels_on_grid(volume(whole, GRID, omits=False), scan_on()).unknown is None


def test_files_that_do_not_say_where_they_lie_are_no_part_of_another() -> None:
    grid = Geometry.default((6, 8, 10))
    said, unsaid = (), (UNPLACED,)
    for of_labels, of_scan in ((unsaid, said), (said, unsaid), (unsaid, unsaid)):
        labels = volume(np.zeros((4, 8, 10), np.uint8), Geometry.default((4, 8, 10)), notes=of_labels)
        scan = volume(np.zeros(grid.shape, np.int16), grid, notes=of_scan)
        assert labels_on_grid(labels, scan) is None
        assert on_common_grid(labels, scan) is None
        same = volume(np.zeros(grid.shape, np.uint8), grid, notes=of_labels)
        assert labels_on_grid(same, scan) is not None


@pytest.mark.parametrize("origin", [(0, 0, 0), (-0.8, -0.7, 3), (-7.2, 0, 0), (-3.6, -2.45, -7.5)])
def test_a_grid_at_zero_says_no_position_unless_its_format_leaves_out_what_is_empty(
    origin: tuple[float, float, float],
) -> None:
    # As in the hippocampi of the Decathlon and the hearts of ACDC, where each would be a part of many others.
    at_zero = replace(GRID, origin=origin)
    for start in ((-1, 0, 0), (-2, -1, -3)):
        larger = scan_on(shifted(at_zero, start, (12, 14, 16)))
        data = np.zeros(GRID.shape, np.uint8)
        assert labels_on_grid(volume(data, at_zero, omits=False), larger) is None
        assert labels_on_grid(volume(data, at_zero), larger).part.start == tuple(-one for one in start)
        assert labels_on_grid(volume(data, at_zero, omits=False), scan_on(at_zero)) is not None


def test_labels_on_the_whole_grid_are_no_copy() -> None:
    labels = volume(np.ones(GRID.shape, np.uint8), GRID)
    assert labels_on_grid(labels, scan_on()).data is labels.data or np.shares_memory(
        labels_on_grid(labels, scan_on()).data, labels.data
    )


def test_memory_is_looked_at_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = cut(np.zeros(GRID.shape, np.uint8), GRID, np.s_[1:5, 0:8, 0:10])
    monkeypatch.setattr(module, "available_memory", lambda: 400)
    with pytest.raises(SizeError, match="memory"):
        labels_on_grid(piece, scan_on())
    # A damaged header must not ask for a grid from here to the moon either.
    far = shifted(GRID, (1 - 10**9, 0, 0), (10**9, 8, 10))
    assert grid_part(far, GRID) is None


def test_one_slice_of_an_assumed_thickness_lies_on_grids_of_any() -> None:
    whole = np.zeros(GRID.shape, np.uint8)
    whole[4, 2:5, 3:6] = 1
    piece = cut(whole, GRID, np.s_[4:5, 0:8, 0:10])
    thick = replace(piece.geometry, spacing=(9.0, *GRID.spacing[1:]))
    turn = Reorientation((1, 2, 0), (True, False, False))
    turned = GRID.reoriented(turn.axes, turn.flips)
    for assumed in (True, False):
        source = replace(piece.source, omits_background=True, assumes_distance=assumed)
        labels = replace(piece, geometry=thick, source=source)
        for grid, values in ((GRID, whole), (turned, turn.apply(whole))):
            found = labels_on_grid(labels, scan_on(grid))
            assert (found is not None) == assumed
            if found is not None:
                np.testing.assert_array_equal(found.data, values)
        other = cut(whole, GRID, np.s_[2:6, 0:8, 0:10])
        for pair in ((labels, other), (other, labels)):
            both = on_common_grid(*pair)
            assert (both is not None) == assumed
            if both is not None:
                assert both[2].matches(other.geometry)
                np.testing.assert_array_equal(both[0].data, both[1].data)


@given(parts(), st.data())
def test_two_parts_of_one_grid_lie_on_the_smallest_that_holds_both(
    part: tuple[Geometry, tuple[slice, slice, slice]], data: st.DataObject
) -> None:
    geometry, box = part
    other = tuple(
        slice(data.draw(st.integers(0, one.start)), data.draw(st.integers(one.stop, size)))
        for one, size in zip(box, geometry.shape, strict=True)
    )
    shift = data.draw(st.integers(0, 2))
    other = (slice(box[0].start, other[0].stop), other[1], other[2]) if shift else other
    whole = np.zeros(geometry.shape, np.uint16)
    whole[box], whole[other] = 1, 2
    whole[box] += 1
    first, second = cut(whole, geometry, box), cut(whole, geometry, other)
    one, two, grid = on_common_grid(first, second)
    hull = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, other, strict=True))
    assert grid.matches(
        shifted(geometry, tuple(h.start for h in hull), tuple(h.stop - h.start for h in hull))
    )
    expected = np.zeros_like(whole)
    expected[box] = whole[box]
    np.testing.assert_array_equal(one.data, expected[hull])
    expected = np.zeros_like(whole)
    expected[other] = whole[other]
    np.testing.assert_array_equal(two.data, expected[hull])
