"""Sides are the patient's, however the scan is stored."""

import itertools

import numpy as np
import pytest

from napari_transunet.metrics.laterality import side_warnings
from napari_transunet.volumes.geometry import Geometry

NAMES = {1: "kidney_left", 2: "Kidney R", 3: "liver", 4: "spleen", 5: "aorta"}
LPS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def _body(**where: int) -> np.ndarray:
    """(z, y, x) in LPS: a larger x is further left. Each organ is a block at a place along x."""
    labels = np.zeros((10, 20, 60), np.uint8)
    for value, name in ((1, "left"), (2, "right"), (3, "liver"), (4, "spleen"), (5, "aorta")):
        if name in where:
            labels[2:6, 2 * value : 2 * value + 2, where[name] : where[name] + 4] = value
    return labels


RIGHT = _body(left=45, right=10, liver=8, spleen=48, aorta=30)


def test_a_body_as_it_should_be_gives_no_warning():
    assert side_warnings(RIGHT, Geometry(RIGHT.shape, (5, 5, 5)), NAMES) == []
    assert side_warnings(np.zeros_like(RIGHT), Geometry(RIGHT.shape, (5, 5, 5)), NAMES) == []


def test_swapped_labels_are_named():
    labels = _body(left=10, right=45, liver=8, spleen=48)
    (warning,) = side_warnings(labels, Geometry(labels.shape, (5, 5, 5)), NAMES)
    assert "“kidney left” lies on the patient's right" in warning


def test_a_single_kidney_is_compared_with_the_middle():
    for where, expected in (
        ({"left": 10, "aorta": 30}, ["“kidney left” lies on the patient's right side; is it the right one?"]),
        ({"right": 45, "aorta": 30}, ["“kidney right” lies on the patient's left side; is it the left one?"]),
        ({"right": 10, "aorta": 30}, []),
        ({"right": 45}, []),
    ):
        labels = _body(**where)
        assert side_warnings(labels, Geometry(labels.shape, (5, 5, 5)), NAMES) == expected


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_storage_order_does_not_matter(axes):
    """All 48 ways to store the same body: none of them changes a side, and mirroring it swaps all."""
    for flips in itertools.product([False, True], repeat=3):
        stored = np.transpose(RIGHT, axes)
        flipped = tuple(axis for axis, flip in enumerate(flips) if flip)
        stored = np.flip(stored, flipped)
        # Columns of the direction are the index axes x, y, z; array axis k is index axis 2 - k.
        direction = np.zeros((3, 3))
        origin = np.zeros(3)
        for k in range(3):
            patient = 2 - axes[k]
            direction[patient, 2 - k] = -1 if flips[k] else 1
            if flips[k]:
                origin[patient] += (stored.shape[k] - 1) * 5.0
        geometry = Geometry(stored.shape, (5, 5, 5), tuple(origin), tuple(map(tuple, direction)))
        assert side_warnings(stored, geometry, NAMES) == []
        mirrored = direction.copy()
        mirrored[0] *= -1
        wrong = Geometry(stored.shape, (5, 5, 5), tuple(origin), tuple(map(tuple, mirrored)))
        warnings = side_warnings(stored, wrong, NAMES)
        assert len(warnings) == 2
        assert "orientation is wrong" in warnings[1]


def test_values_that_no_organ_has_are_left_out():
    labels = np.zeros((4, 4, 4), np.int64)
    labels[1, 1, 3], labels[1, 1, 0] = 1, 2
    labels[0, 0, :2] = -3, 2**40
    names = {1: "kidney_left", 2: "kidney_right"}
    plain = np.where((labels > 0) & (labels < 3), labels, 0).astype(np.uint8)
    for turned in (1, -1):
        geometry = Geometry(labels.shape, (1, 1, 1), direction=((turned, 0, 0), (0, 1, 0), (0, 0, 1)))
        assert side_warnings(labels, geometry, names) == side_warnings(plain, geometry, names)
