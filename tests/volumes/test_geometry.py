"""Grids: matrices, codes, reorientation, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.orientation import Reorientation
from tests.volumes.making import geometries, rotation

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


@given(geometries())
def test_axis_codes_name_every_axis_once(geometry: Geometry) -> None:
    assert sorted(geometry.patient_axes) == [0, 1, 2]
    assert Reorientation.between(geometry, geometry.axis_codes).is_identity


def test_oblique() -> None:
    straight = Geometry((2, 2, 2), (1, 1, 1))
    assert not straight.is_oblique
    turned = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), tuple(map(tuple, rotation((0.01, 0, 0)).tolist())))
    assert turned.is_oblique
    assert turned.axis_codes == "LPS"


def test_matches_is_strict_to_a_tenth_of_a_micron() -> None:
    geometry = Geometry((2, 2, 2), (1, 1, 1))
    assert geometry.matches(Geometry((2, 2, 2), (1, 1, 1.00009)))
    assert not geometry.matches(Geometry((2, 2, 2), (1, 1, 1.0002)))
    assert not geometry.matches(Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0.001)))
    assert not geometry.matches(Geometry((2, 2, 3), (1, 1, 1)))


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
