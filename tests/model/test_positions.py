import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_transunet.errors import InputError
from napari_transunet.model.positions import fit_pretrained_positions, resize_position_embeddings

sides = st.integers(2, 12)


@settings(max_examples=50)
@given(sides, sides, sides, sides)
def test_it_is_the_corner_aligned_linear_zoom(h: int, w: int, new_h: int, new_w: int) -> None:
    embeddings = torch.randn(1, h * w, 4)
    resized = resize_position_embeddings(embeddings, (new_h, new_w), source_grid=(h, w))
    plane = embeddings.numpy().reshape(h, w, 4)
    expected = ndimage.zoom(plane.astype(np.float64), (new_h / h, new_w / w, 1), order=1)
    np.testing.assert_allclose(resized.numpy().reshape(new_h, new_w, 4), expected, atol=1e-5)


def test_the_same_grid_is_left_alone() -> None:
    embeddings = torch.randn(1, 9, 4)
    assert resize_position_embeddings(embeddings, (3, 3)) is embeddings


def test_embeddings_of_no_square_need_their_grid() -> None:
    with pytest.raises(InputError, match="no square grid"):
        resize_position_embeddings(torch.zeros(1, 8, 4), (3, 3))
    with pytest.raises(InputError, match="do not fill"):
        resize_position_embeddings(torch.zeros(1, 8, 4), (3, 3), source_grid=(3, 3))


def test_the_class_token_goes_only_where_the_length_does_not_fit() -> None:
    embeddings = torch.arange(10.0).reshape(1, 10, 1)
    assert fit_pretrained_positions(embeddings, (2, 5)) is embeddings
    assert fit_pretrained_positions(embeddings, (3, 3)).flatten().tolist() == list(range(1, 10))
    assert fit_pretrained_positions(embeddings, (5, 5))[0, [0, 4, 20, 24], 0].tolist() == [1, 3, 7, 9]
