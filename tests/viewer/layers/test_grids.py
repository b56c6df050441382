"""Putting labels where their image lies."""

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Image, Labels

from napari_transunet.viewer.layers.grids import put_on_grid
from napari_transunet.viewer.layers.layers import PLACEMENT, geometry_of
from napari_transunet.volumes.orientation import IDENTITY

SHAPE = (4, 5, 6)
TURNED = {
    "rotate": (10, 20, 30),
    "affine": np.eye(4) + np.eye(4, k=3) * 7,
    "units": ("mm", "mm", "mm"),
    "axis_labels": ("z", "y", "x"),
}


@pytest.mark.parametrize("placed", [{}, {"scale": (2, 1, 1), "translate": (5, 0, -3)}, TURNED])
def test_labels_are_put_where_their_image_lies_and_only_what_differs_is_set(placed):
    image = Image(np.zeros(SHAPE), **placed)
    layer = Labels(np.zeros(SHAPE, np.uint8), scale=(3, 1, 1), units=("um", "um", "um"))
    put_on_grid(layer, image, IDENTITY)
    for corner in ((0, 0, 0), (3, 4, 5), (0, 4, 0)):
        assert np.allclose(layer.data_to_world(corner), image.data_to_world(corner))
    assert layer.units == image.units
    assert layer.axis_labels == image.axis_labels
    set_again = []
    for name in PLACEMENT:
        getattr(layer.events, name).connect(lambda _event, name=name: set_again.append(name))
    put_on_grid(layer, image, IDENTITY)
    assert set_again == []
    image.translate = (1, 2, 3)
    put_on_grid(layer, image, IDENTITY)
    assert set_again == ["translate"]
    assert geometry_of(layer).matches(geometry_of(image))
