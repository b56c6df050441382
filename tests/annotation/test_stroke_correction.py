"""Fixing from strokes: what strokes and locks promise on any input, lengths in mm, and a real scan."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_transunet.annotation import stroke_correction
from napari_transunet.annotation.stroke_correction import (
    BACKGROUND,
    MARGIN_MM,
    box_around,
    correct_from_strokes,
)
from napari_transunet.errors import InputError
from napari_transunet.io.reading import read_volume

ISO = (1.0, 1.0, 1.0)
REAL = Path(os.environ.get("TRANSUNET_TEST_DATA", "../shared")) / "data" / "ct_abdomen_more"


def _ball(shape, centre, radius_mm, spacing=ISO):
    at = [(np.arange(n) - c) * step for n, c, step in zip(shape, centre, spacing, strict=True)]
    return sum(part**2 for part in np.meshgrid(*at, indexing="ij")) <= radius_mm**2


def _dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


def _scene(spacing=ISO, shape=(40, 40, 40), seed=0):
    """A bright ball with noise, and where it lies."""
    ball = _ball(shape, [n / 2 for n in shape], 12.0, spacing)
    noise = np.random.default_rng(seed).normal(0, 10, shape)
    return (100.0 * ball + noise).astype(np.int16), ball


def test_one_stroke_finds_an_organ_that_was_missed_and_nothing_else():
    image, ball = _scene()
    strokes = np.zeros(image.shape, np.int16)
    strokes[20, 20, 12:28] = 3
    found = correct_from_strokes(image, np.zeros(image.shape, np.uint8), strokes, ISO)
    assert _dice(found == 3, ball) > 0.9
    assert set(np.unique(found)) == {0, 3}


def test_one_stroke_of_background_takes_what_leaked_into_other_tissue():
    image, ball = _scene()
    labels = ball.astype(np.uint8)
    labels[20:30, 10:30, 30:39] = 1
    strokes = np.zeros(image.shape, np.int16)
    strokes[25, 12:28, 35] = BACKGROUND
    found = correct_from_strokes(image, labels, strokes, ISO)
    assert _dice(labels == 1, ball) < 0.93 < 0.96 < _dice(found == 1, ball)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 0.5, 2.0)])
def test_lengths_are_in_mm(spacing):
    shape = tuple(round(40 / step) for step in spacing)
    image, ball = _scene(spacing, shape)
    strokes = np.zeros(shape, np.int16)
    middle = tuple(n // 2 for n in shape)
    across = slice(round(middle[2] - 8 / spacing[2]), round(middle[2] + 8 / spacing[2]))
    strokes[middle[0], middle[1], across] = 1
    found = correct_from_strokes(image, np.zeros(shape, np.uint8), strokes, spacing)
    assert _dice(found == 1, ball) > 0.85
    box = box_around((slice(100, 101),) * 3, (400, 400, 400), spacing)
    reach = [(part.start - 100) * -step for part, step in zip(box, spacing, strict=True)]
    assert all(MARGIN_MM <= mm < MARGIN_MM + step for mm, step in zip(reach, spacing, strict=True))


@st.composite
def _anything(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(3))
    image = rng.normal(0, 50, shape).astype(draw(st.sampled_from([np.float32, np.int16])))
    if draw(st.booleans()):
        image[...] = 7  # a constant image has no edges
    labels = rng.integers(0, 4, shape).astype(np.uint8)
    strokes = np.where(rng.random(shape) < 0.1, rng.choice([BACKGROUND, 1, 2, 5], shape), 0)
    strokes.flat[rng.integers(strokes.size)] = draw(st.sampled_from([BACKGROUND, 1, 5]))
    spacing = tuple(draw(st.sampled_from([0.5, 1.0, 5.0])) for _ in range(3))
    return image, labels, strokes.astype(np.int16), spacing, rng.random(shape) < 0.3


@settings(max_examples=60, deadline=None)
@given(_anything())
def test_strokes_are_honoured_and_what_is_fixed_stays(case):
    image, labels, strokes, spacing, fixed = case
    before = labels.copy()
    found = correct_from_strokes(image, labels, strokes, spacing, fixed=fixed)
    assert np.array_equal(labels, before)
    assert found.shape == labels.shape
    assert found.dtype == labels.dtype
    assert (found[strokes > 0] == strokes[strokes > 0]).all()
    assert (found[strokes == BACKGROUND] == 0).all()
    still = fixed & (strokes == 0)
    assert np.array_equal(found[still], labels[still])
    # Only organs with a stroke gain, and only those under a stroke of background lose to background.
    gained = (found != labels) & (found > 0)
    assert set(np.unique(found[gained])) <= set(np.unique(strokes))
    lost = (found != labels) & (found == 0)
    assert set(np.unique(labels[lost])) <= set(np.unique(labels[strokes == BACKGROUND]))
    taken = (strokes == 0) & gained & (labels > 0)
    assert set(np.unique(labels[taken])) <= set(np.unique(labels[strokes > 0]))


def test_a_large_box_is_solved_on_a_coarser_grid(monkeypatch):
    image, ball = _scene()
    strokes = np.zeros(image.shape, np.int16)
    strokes[20, 20, 12:28] = 1
    monkeypatch.setattr(stroke_correction, "_NODES", 8_000)
    found = correct_from_strokes(image, np.zeros(image.shape, np.uint8), strokes, ISO)
    assert _dice(found == 1, ball) > 0.85


def test_what_cannot_be_corrected_is_said():
    image, empty = np.zeros((4, 4, 4), np.int16), np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(InputError, match="stroke"):
        correct_from_strokes(image, empty, np.zeros((4, 4, 4), np.int16), ISO)
    with pytest.raises(InputError, match="shape"):
        correct_from_strokes(image, empty[:2], np.ones((4, 4, 4), np.int16), ISO)
    with pytest.raises(InputError, match="far apart"):
        box_around((slice(0, 900),) * 3, (1000, 1000, 1000), ISO)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the labelled scans")
def test_two_strokes_bring_back_half_a_kidney_and_take_a_leak_away():
    image = read_volume(REAL / "images" / "ts_s0009.nii.gz")
    reference = read_volume(REAL / "labels" / "ts_s0009.nii.gz").data
    spacing, kidney, aorta = image.geometry.spacing, reference == 2, reference == 8
    half = kidney & (np.arange(reference.shape[2]) > np.quantile(np.nonzero(kidney)[2], 0.55))
    damaged = np.where(half, 0, reference).astype(np.uint8)
    assert _dice(_fixed(image, damaged, half, 2, spacing) == 2, kidney) > 0.9 > _dice(damaged == 2, kidney)
    near = ndimage.distance_transform_edt(~aorta, sampling=spacing) < 25
    leak = near & (reference == 7)
    damaged = np.where(leak, 8, reference).astype(np.uint8)
    after = _fixed(image, damaged, leak, BACKGROUND, spacing)
    assert _dice(after == 8, aorta) > 0.98 > 0.94 > _dice(damaged == 8, aorta)


def _fixed(image, labels, wrong, value, spacing):
    """The labels after a short stroke in each of two slices of what is wrong."""
    strokes = np.zeros(labels.shape, np.int16)
    areas = wrong.sum(axis=(1, 2))
    slices = np.flatnonzero(areas > areas.max() / 4)
    for index in slices[[len(slices) // 4, 3 * len(slices) // 4]]:
        depth = ndimage.distance_transform_edt(wrong[index])
        row, column = np.unravel_index(np.argmax(depth), depth.shape)
        line = np.zeros(wrong.shape[1:], bool)
        line[row - 1 : row + 2, max(0, column - 10) : column + 11] = True
        strokes[index][line & wrong[index]] = value
    box = box_around(ndimage.find_objects((strokes != 0).astype(np.uint8))[0], labels.shape, spacing)
    result = labels.copy()
    result[box] = correct_from_strokes(image.data[box], labels[box], strokes[box], spacing)
    return result
