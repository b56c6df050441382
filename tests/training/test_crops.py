import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.training.crops import random_crops
from napari_transunet.training.losses import UNKNOWN

sides = st.integers(1, 6)


@given(sides, sides, st.sampled_from([2, 4]), st.data())
def test_a_crop_shows_a_known_voxel_and_says_where_it_is(rows: int, columns: int, patch: int, data) -> None:
    height, width = rows * patch, columns * patch
    labels = torch.zeros(2, height, width, dtype=torch.uint8)
    only = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    labels[0] = UNKNOWN
    labels[0, *only] = 3
    images = torch.arange(2.0 * height * width).reshape(2, 1, height, width)
    seen, of_labels, corners = random_crops(images, labels, patch)
    shown_height, shown_width = seen.shape[2:]
    assert of_labels.shape == (2, shown_height, shown_width)
    assert 0.7 * height <= shown_height < 0.7 * height + patch
    assert 0.7 * width <= shown_width < 0.7 * width + patch
    assert (of_labels[0] == 3).sum() == 1
    for number, (row, column) in enumerate((corners * patch).tolist()):
        crop = slice(row, row + shown_height), slice(column, column + shown_width)
        assert torch.equal(seen[number, 0], images[number, 0, *crop])
        assert torch.equal(of_labels[number], labels[number, *crop])


def test_where_nothing_is_known_it_lies_anywhere() -> None:
    labels = torch.full((1, 64, 64), UNKNOWN, dtype=torch.uint8)
    corners = {tuple(random_crops(torch.zeros(1, 3, 64, 64), labels, 16)[2][0].tolist()) for _ in range(60)}
    assert corners == {(row, column) for row in (0, 1) for column in (0, 1)}
