"""Grids: matrices, codes, reorientation, and what is refused."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.geometry import Geometry, corner_displacement, nearest_grid
from napari_transunet.volumes.orientation import Reorientation, reorientation_onto
from tests.io.samples import geometries, rotation

CODES = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*order)
]


def test_affine_holds_origin_spacing_and_direction() -> None:
    geometry = Geometry((3, 4, 5), (2.0, 0.5, 0.7), (10, 20, 30), ((0, 0, -1), (1, 0, 0), (0, -1, 0)))
    affine = geometry.affine_lps
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [10, 20, 30, 1])
    np.testing.assert_allclose(affine @ [1, 0, 0, 1], [10, 20.7, 30, 1])  # x: 0.7 mm towards P
    np.testing.assert_allclose(affine @ [0, 1, 0, 1], [10, 20, 29.5, 1])  # y: 0.5 mm towards I
    np.testing.assert_allclose(affine @ [0, 0, 1, 1], [8, 20, 30, 1])  # z: 2 mm towards R
    assert geometry.axis_codes == "PIR"
    np.testing.assert_allclose((geometry.affine_ras @ [0, 0, 1, 1])[:3], [-8, -20, 30])


@given(geometries())
def test_affine_and_back(geometry: Geometry) -> None:
    again = Geometry.from_affine_lps(geometry.affine_lps, geometry.shape)
    assert geometry.matches(again, 1e-9)


@given(geometries(), st.sampled_from(CODES))
def test_reorienting_moves_no_voxel_and_inverts_exactly(geometry: Geometry, codes: str) -> None:
    data = np.arange(np.prod(geometry.shape)).reshape(geometry.shape)
    turn = Reorientation.between(geometry, codes)
    turned = turn.apply(data)
    there = geometry.reoriented(turn.axes, turn.flips)
    assert turned.shape == there.shape
    assert there.axis_codes == codes
    np.testing.assert_array_equal(turn.invert(turned), data)
    for index in ((0, 0, 0), tuple(n - 1 for n in there.shape)):
        old = np.argwhere(data == turned[index])[0]
        np.testing.assert_allclose(
            there.affine_lps @ [*index[::-1], 1], geometry.affine_lps @ [*old[::-1], 1], atol=1e-9
        )
    assert turn.slice_axis == turn.axes[0]
    plane = turned[0]
    kept = np.take(data, turn.original_index(0, data.shape), axis=turn.slice_axis)
    assert sorted(plane.ravel()) == sorted(kept.ravel())


@given(geometries(), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_an_array_comes_to_lie_on_the_same_voxels_stored_otherwise(
    geometry: Geometry, order: list[int], flips: tuple[bool, bool, bool]
) -> None:
    axes = (order[0], order[1], order[2])
    other = geometry.reoriented(axes, flips)
    turn = reorientation_onto(geometry, other)
    assert turn is not None
    # Turning by numbers of voxels, of which each has its own, shows where each went.
    values = np.arange(np.prod(geometry.shape)).reshape(geometry.shape)
    turned = turn.apply(values)
    for index in np.ndindex(other.shape):
        there = other.affine_lps @ [*index[::-1], 1]
        own = np.unravel_index(int(turned[index]), geometry.shape)
        np.testing.assert_allclose(geometry.affine_lps @ [*own[::-1], 1], there, atol=1e-6)


@pytest.mark.parametrize("angle", [44.999, 45.0, 45.001])
def test_axes_at_45_degrees_to_the_patient_are_turned_onto_each_other(angle: float) -> None:
    direction = rotation((np.radians(angle), 0.0, 0.0))
    geometry = Geometry((2, 3, 4), (2.0, 0.7, 0.7), (1, 2, 3), tuple(map(tuple, direction.tolist())))
    other = geometry.reoriented((1, 0, 2), (True, False, True))
    again = Geometry(
        other.shape, other.spacing, other.origin, tuple(map(tuple, np.round(other.direction, 7).tolist()))
    )
    turn = reorientation_onto(geometry, again)
    assert turn is not None
    assert (turn.axes, turn.flips) == ((1, 0, 2), (True, False, True))
    shifted = Geometry(other.shape, other.spacing, tuple(np.add(other.origin, 0.4)), other.direction)
    assert reorientation_onto(geometry, shifted) is None


@given(geometries())
def test_axis_codes_name_every_axis_once(geometry: Geometry) -> None:
    assert sorted(geometry.patient_axes) == [0, 1, 2]
    assert Reorientation.between(geometry, geometry.axis_codes).is_identity


def test_oblique() -> None:
    turned = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), tuple(map(tuple, rotation((0.01, 0, 0)).tolist())))
    assert turned.axis_codes == "LPS"


def test_grids_match_where_no_corner_moves_by_more_than_a_quarter_of_a_voxel() -> None:
    """Cosines and spacings tell little: over 512 voxels, half a degree or 0.009 mm a voxel are several mm."""
    geometry = Geometry((40, 512, 512), (2.5, 0.7, 0.7))
    half_degree = tuple(map(tuple, rotation((0, 0, np.radians(0.5))).tolist()))
    rounded = tuple(map(tuple, np.round(rotation((0, 0, 1e-4)), 4).tolist()))
    for other, same in (
        (Geometry((40, 512, 512), (2.5, 0.7, 0.709)), False),  # nnU-Net's issue 2526
        (Geometry((40, 512, 512), (2.5, 0.7, 0.7), direction=half_degree), False),
        (Geometry((40, 512, 512), (2.5, 0.7, 0.7), (0, 0, 0.2)), False),
        (Geometry((40, 512, 511), (2.5, 0.7, 0.7)), False),
        (Geometry((40, 512, 512), (2.5, 0.7, 0.7001)), True),
        (Geometry((40, 512, 512), (2.5, 0.7, 0.7), (0, 0, 0.1)), True),
        (Geometry((40, 512, 512), (2.5, 0.7, 0.7), direction=rounded), True),
        (Geometry((2, 8, 8), (2.5, 0.7, 0.709)), False),  # the shapes differ
    ):
        assert geometry.matches(other) is other.matches(geometry) is same, other
    small = Geometry((2, 8, 8), (2.5, 0.7, 0.7))
    assert small.matches(Geometry((2, 8, 8), (2.5, 0.7, 0.709)))
    assert small.displacement(Geometry((2, 8, 8), (2.5, 0.7, 0.8))) == pytest.approx(0.75)


@given(geometries(), st.integers(0, 2**32 - 1))
def test_rounded_axes_become_the_nearest_rectangular_grid(geometry: Geometry, seed: int) -> None:
    shape = (min(geometry.shape[0], 9), min(geometry.shape[1], 9), min(geometry.shape[2], 9))
    noise = np.zeros((4, 4))
    size = 0.02 * min(geometry.spacing)
    noise[:3, :3] = np.random.default_rng(seed).uniform(-size, size, (3, 3))
    affine = geometry.affine_lps + noise
    found, note = nearest_grid(affine, shape)
    apart = corner_displacement(affine, found.affine_lps, shape)
    assert apart <= 0.5 * min(found.spacing)
    assert note is None or "nearest rectangular grid" in note
    cosines = np.array(found.direction)
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-3)


def test_a_sheared_volume_is_no_rounded_one() -> None:
    affine = np.diag([0.7, 0.7, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.radians(1))
    with pytest.raises(VolumeError, match="sheared"):
        nearest_grid(affine, (100, 512, 512))
    thin, note = nearest_grid(affine, (3, 512, 512))
    assert note is not None
    assert thin.spacing == pytest.approx((2.5, 0.7, 0.7), abs=2e-3)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (((0, 2, 2), (1, 1, 1)), "at least one voxel"),
        (((2, 2), (1, 1, 1)), "three axes"),
        (((2, 2, 2), (1, 0, 1)), "positive"),
        (((2, 2, 2), (1, float("nan"), 1)), "finite"),
        (((2, 2, 2), (1, 1, 1), (0, 0, float("inf"))), "finite"),
        (((2, 2, 2), (1, 1, 1), (0, 0, 0), ((1, 0.2, 0), (0, 1, 0), (0, 0, 1))), "sheared"),
        (((2, 2, 2), (1, 1, 1), (0, 0, 0), ((0, 0, 0), (0, 1, 0), (0, 0, 1))), "perpendicular"),
    ],
)
def test_refuses_what_is_no_grid(arguments: tuple, why: str) -> None:
    with pytest.raises(VolumeError, match=why):
        Geometry(*arguments)


@pytest.mark.parametrize("codes", ["LPX", "LLS", "LP", "", "LPSI"])
def test_refuses_what_is_no_orientation(codes: str) -> None:
    with pytest.raises(VolumeError, match="three letters"):
        Reorientation.between(Geometry((2, 2, 2), (1, 1, 1)), codes)
