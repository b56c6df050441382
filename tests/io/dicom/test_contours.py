"""Contours against a second implementation, matplotlib's point-in-polygon test."""

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from napari_transunet.io.dicom.contours import contours_of, filled


def second_fill(contours, shape):
    """Even-odd over contours, at the centres of pixels."""
    centres = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 2)
    mask = np.zeros(len(centres), bool)
    for contour in contours:
        mask ^= Polygon(contour).contains_points(centres)
    return mask.reshape(shape)


def blobs(seed, shape=(40, 50)):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5) > 0.02


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_comes_back_from_its_contours(seed):
    mask = blobs(seed)  # many parts with holes, parts within holes, and the border
    contours = contours_of(mask)

    assert len(contours) == ndimage.label(mask)[1]
    assert np.array_equal(filled(contours, mask.shape), mask)
    # Keyholes are no lines that matplotlib leaves open: a pixel's centre lies on none of them.
    assert np.array_equal(second_fill(contours, mask.shape), mask)


@pytest.mark.parametrize(
    "pixels", [[(2, 3)], [(0, 0), (1, 1)], [(0, 0), (0, 1), (0, 2)], [(4, 5), (3, 5), (4, 4)]]
)
def test_single_pixels_corners_and_lines(pixels):
    mask = np.zeros((5, 6), bool)
    mask[tuple(zip(*pixels, strict=True))] = True
    assert np.array_equal(filled(contours_of(mask), mask.shape), mask)


def test_holes_are_keyholes_that_fill_alike_by_every_rule():
    mask = np.zeros((20, 20), bool)
    mask[2:18, 2:18] = True
    mask[4:8, 4:8] = mask[10:12, 5:15] = False
    (contour,) = contours_of(mask)
    winding = np.zeros(mask.shape, int)
    for row, column in np.ndindex(mask.shape):
        a = contour - (row, column)
        b = np.roll(a, -1, axis=0)
        angles = np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(1))
        winding[row, column] = round(angles.sum() / (2 * np.pi))
    assert np.array_equal(winding != 0, mask)


def test_contours_within_contours_are_holes_too():
    outer = np.array([(1, 1), (1, 8), (8, 8), (8, 1)]) + 0.4
    inner = np.array([(3, 3), (3, 6), (6, 6), (6, 3)]) + 0.4
    mask = filled([outer, inner], (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[2:9, 2:9] = True
    expected[4:7, 4:7] = False
    assert np.array_equal(mask, expected)


def test_what_lies_on_a_contour_is_inside():
    through_centres = np.array([(1, 1), (1, 4), (3, 4), (3, 1)], float) + 1e-5
    mask = filled([through_centres], (6, 6))
    assert np.array_equal(np.argwhere(mask).min(0), (1, 1))
    assert np.array_equal(np.argwhere(mask).max(0), (3, 4))
    assert mask.sum() == 12


def test_contours_beyond_the_image_are_cut():
    assert filled([np.array([(-1e5, -1e5), (-1e5, 1e5), (1e5, 1e5), (1e5, -1e5)])], (4, 5)).all()
    assert not filled([np.array([(10, 10), (10, 20), (20, 20.0)])], (4, 5)).any()
