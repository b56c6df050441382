"""Resizes as matrices: equal to what they stand for, centred, and invertible."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional

from napari_transunet.errors import InputError
from napari_transunet.inference.resize import (
    make_resize,
    nearest_matrix,
    paper_resize,
    sampling_matrix,
    spline_matrix,
)

SHAPE, SIZE = (37, 50), (64, 48)
sides = st.integers(2, 90)


def test_squash_is_torch_antialiased_bilinear() -> None:
    planes = torch.rand(2, 3, *SHAPE)
    expected = functional.interpolate(planes, SIZE, mode="bilinear", antialias=True)
    torch.testing.assert_close(make_resize("squash", (1, 1), SHAPE, SIZE).forward(planes), expected)


def test_squash_brings_logits_back_bilinearly() -> None:
    logits = torch.randn(2, 5, *SIZE)
    expected = functional.interpolate(logits, SHAPE, mode="bilinear")
    torch.testing.assert_close(
        make_resize("squash", (1, 1), SHAPE, SIZE).inverse(logits), expected, atol=1e-4, rtol=0
    )


@given(sides, sides)
def test_a_resize_keeps_a_constant(n_in: int, n_out: int) -> None:
    np.testing.assert_allclose(sampling_matrix(n_in, n_out, n_in / n_out).sum(axis=1), 1)


@settings(max_examples=50)
@given(h=sides, w=sides, dy=st.floats(0.3, 3), dx=st.floats(0.3, 3), target=st.floats(0.3, 5))
def test_padding_keeps_places_and_comes_back(h: int, w: int, dy: float, dx: float, target: float) -> None:
    step = target * max(1.0, h * dy / (96 * target), w * dx / (96 * target))
    assume(min(h * dy, w * dx) > 6 * step)
    resize = make_resize("pad", (dy, dx), (h, w), (96, 96), (target, target))
    # A ramp in mm from the slice's centre is a ramp from the canvas's centre in one and the same unit.
    y = (torch.arange(h) - (h - 1) / 2) * dy
    x = (torch.arange(w) - (w - 1) / 2) * dx
    ones, filled = torch.ones(h, w), resize.forward(torch.ones(h, w)) > 0.5
    assert filled.any()
    assert torch.equal(filled, filled.flip(0))
    assert torch.equal(filled, filled.flip(1))
    torch.testing.assert_close(resize.inverse(resize.forward(ones)).max(), torch.tensor(1.0))
    on_canvas = resize.forward(y[:, None] + 0 * x), resize.forward(x + 0 * y[:, None])
    inner = slice(40, 56)
    expected = (torch.arange(96) - 47.5) * step
    if min(h * dy, w * dx) > 22 * step:  # the inner sixteen pixels are then clear of the slice's edge
        # Antialiasing triangles of a broken width bend a ramp by a fraction of a pixel.
        torch.testing.assert_close(on_canvas[0][inner, 48], expected[inner], atol=0.2 * step, rtol=0)
        torch.testing.assert_close(on_canvas[1][48, inner], expected[inner], atol=0.2 * step, rtol=0)


def test_padding_fills_the_canvas_along_the_longer_side() -> None:
    resize = make_resize("pad", (2.0, 1.0), (50, 60), (64, 64))  # 100 mm × 60 mm
    filled = resize.forward(torch.ones(50, 60)) > 0.5
    assert filled.any(dim=1).all()
    assert 36 <= filled.any(dim=0).sum() <= 40  # 64 · 60/100 = 38.4


def test_a_slice_too_large_for_its_spacing_is_shrunk_alike() -> None:
    resize = make_resize("pad", (1.0, 1.0), (200, 100), (64, 64), (1.0, 1.0))
    filled = resize.forward(torch.ones(200, 100)) > 0.5
    assert filled.any(dim=1).all()
    assert filled.any(dim=0).sum() == 32


def test_one_axis_of_the_spacing_may_be_any() -> None:
    resize = make_resize("pad", (1.0, 1.5), (30, 30), (64, 64), (None, 3.0))
    filled = resize.forward(torch.ones(30, 30)) > 0.5
    assert filled.any(dim=1).sum() == 30  # kept
    assert filled.any(dim=0).sum() in (14, 15, 16)  # 30 · 1.5/3


@pytest.mark.parametrize(("how", "size"), [("squash", (64, 64)), ("pad", (64, 64)), ("pad", (96, 64))])
def test_labels_survive_the_way_there_and_back(how: str, size: tuple[int, int]) -> None:
    labels = torch.zeros(40, 52, dtype=torch.int64)
    labels[8:30, 10:44] = 1
    labels[14:22, 20:40] = 2
    resize = make_resize(how, (1.3, 1.0), (40, 52), size)  # type: ignore[arg-type]
    logits = resize.forward(functional.one_hot(labels, 3).permute(2, 0, 1).float())
    logits[0] += 1 - logits.sum(dim=0)  # padding is background
    wrong = (resize.inverse(logits).argmax(dim=0) != labels).float().mean()
    assert wrong < 0.01


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match="'squash' or 'pad', not 'stretch'"):
        make_resize("stretch", (1, 1), SHAPE, SIZE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "size"), [((101, 112), (64, 80)), ((40, 512), (224, 224)), ((64, 64), (64, 64))]
)
def test_the_spline_matrices_are_scipy_zoom(shape: tuple[int, int], size: tuple[int, int]) -> None:
    plane = np.random.default_rng(1).random(shape)
    expected = ndimage.zoom(plane, (size[0] / shape[0], size[1] / shape[1]), order=3)
    got = spline_matrix(shape[0], size[0]) @ plane @ spline_matrix(shape[1], size[1]).T
    np.testing.assert_allclose(got, expected, atol=1e-12)
    on_device = paper_resize(shape, size).forward(torch.from_numpy(plane.astype(np.float32)))
    np.testing.assert_allclose(on_device, expected, atol=2e-6)


# At 512 -> 687 scipy's last sample falls off the edge and becomes 0; that is reproduced.
@pytest.mark.parametrize(("n_in", "n_out"), [(224, 512), (224, 101), (64, 37), (512, 687), (100, 100)])
def test_the_way_back_picks_what_scipy_picks(n_in: int, n_out: int) -> None:
    labels = np.random.default_rng(2).integers(1, 9, (n_in, n_in)).astype(np.float64)
    expected = ndimage.zoom(labels, n_out / n_in, order=0)
    matrix = nearest_matrix(n_in, n_out)
    assert set(np.unique(matrix)) <= {0.0, 1.0}
    np.testing.assert_array_equal(matrix @ labels @ matrix.T, expected)
    logits = functional.one_hot(torch.from_numpy(labels).long(), 9).permute(2, 0, 1).float()
    got = paper_resize((n_out, n_out), (n_in, n_in)).inverse(logits).argmax(dim=0)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("classes", [1, 2, 7, 256])
def test_labels_are_the_argmax_of_the_logits_brought_back(classes: int) -> None:
    logits = torch.randn(2, classes, *SIZE).round(decimals=1)
    logits[:, classes // 2] = logits[:, 0]  # of equals, the first counts
    for resize in (make_resize("squash", (1, 1), SHAPE, SIZE), paper_resize(SHAPE, SIZE)):
        labels = resize.labels(logits)
        assert labels.dtype == (torch.uint8 if classes <= 255 else torch.int32)
        assert torch.equal(labels.long(), resize.inverse(logits).argmax(dim=1))
