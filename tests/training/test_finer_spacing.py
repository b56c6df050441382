from typing import Any

import numpy as np
import pytest

from napari_transunet.checkpoints.card import ModelCard, default_card
from napari_transunet.checkpoints.lineage import Adaptation
from napari_transunet.training.finer_spacing import Spacing, finer_spacing
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.training.samples import network

COARSE = (None, 2.0, 2.0)


def card(**changes: Any) -> ModelCard:
    """Of a network with images of 32×32 pixels, which are 64 mm wide."""
    return default_card(network()).updated(**{"resize": "pad", "spacing": COARSE, **changes})


def scan(side: int, spacing: float = 1.0, depth: int = 4) -> Volume:
    data = np.zeros((depth, side, side), np.int16)
    geometry = Geometry(shape=data.shape, spacing=(3.0, spacing, spacing))
    return Volume(data, geometry, "CT", Source(None, "array", "scan"))


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [
        ([scan(30)], (None, 1.6, 1.6)),  # 30 mm: as much finer as networks have seen
        ([scan(60)], (None, 1.875, 1.875)),  # 60 mm: fills the image
        ([scan(70)], COARSE),  # 70 mm does not fit as it is
        ([scan(16, 1.9)], (None, 1.9, 1.9)),  # its voxels tell no more
        ([scan(16, 2.5)], COARSE),
        ([scan(30), scan(60)], (None, 1.875, 1.875)),  # all have to fit
    ],
)
def test_narrow_scans_are_looked_at_more_finely(volumes: list[Volume], expected: Spacing) -> None:
    assert finer_spacing(card(), volumes) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"resize": "squash"},
        {"spacing": None},
        {"spacing": (None, 2.0, None)},
        {"planes": 3},  # nothing says how far apart the slices are in the other planes
        {"lineage": [Adaptation(steps=5).model_dump()]},
    ],
)
def test_else_the_spacing_stays(changes: dict[str, Any]) -> None:
    own = card(**changes)

    assert finer_spacing(own, [scan(30)]) == own.spacing


def test_three_planes_have_to_fit() -> None:
    own = card(planes=3, spacing=(4.0, 2.0, 2.0))

    assert finer_spacing(own, [scan(30, depth=8)]) == (3.2, 1.6, 1.6)
    assert finer_spacing(own, [scan(30, depth=40)]) == (3.75, 1.875, 1.875)
