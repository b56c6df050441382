from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.errors import InputError
from napari_transunet.training.cases import class_labels, prepare_case
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume

CARD = ModelCard(
    variant="R50-ViT-Ti_16",
    num_classes=3,
    img_size=(64, 64),
    n_skip=3,
    modality="CT",
    orientation="LPS",
    spacing=(None, 2.0, 2.0),
    resize="pad",
)
FLIPPED_Y = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def volume(data: np.ndarray, geometry: Geometry, name: str = "scan") -> Volume:
    return Volume(data, geometry, "CT", Source(None, "array", name))


@pytest.fixture
def scan() -> Volume:
    data = np.full((3, 50, 40), -1000, np.int16)
    data[:, 10:40, 5:35] = 75
    return volume(data, Geometry((3, 50, 40), (3.0, 1.0, 1.0)))


def organs(scan: Volume) -> np.ndarray:
    labels = np.zeros(scan.data.shape, np.uint8)
    labels[1, 12:22, 6:16] = 52
    return labels


def test_values_that_are_not_wanted_become_background() -> None:
    labels = np.array([[0, 1, 52, 90, 117]])
    assert class_labels(labels, {1: 2, 52: 1}).tolist() == [[0, 2, 1, 0, 0]]


def test_a_case_has_the_networks_size_and_range(scan: Volume) -> None:
    case = prepare_case(scan, volume(organs(scan), scan.geometry), {52: 1}, CARD, "someone")
    assert case.planes.shape == case.labels.shape == (3, 64, 64)
    assert case.planes.min() == 0
    assert case.planes.max() == pytest.approx((75 + 125) / 400)
    # 2 mm pixels of 1 mm ones: a quarter as many.
    assert int((case.labels == 1).sum()) == pytest.approx(25, abs=6)
    assert case.labels.flatten(1).any(1).tolist() == [False, True, False]


def test_labels_in_another_orientation_are_turned_to_the_image(scan: Volume) -> None:
    labels = organs(scan)
    turned = Geometry(scan.geometry.shape, scan.geometry.spacing, (0.0, 49.0, 0.0), FLIPPED_Y)
    straight = prepare_case(scan, volume(labels, scan.geometry), {52: 1}, CARD, "someone")
    flipped = prepare_case(scan, volume(labels[:, ::-1].copy(), turned), {52: 1}, CARD, "someone")
    assert torch.equal(straight.labels, flipped.labels)


def test_labels_elsewhere_or_without_organs_are_refused(scan: Volume) -> None:
    moved = Geometry(scan.geometry.shape, scan.geometry.spacing, (0.0, 0.0, 246.0))
    with pytest.raises(InputError, match="scan and its labels organs lie on different grids"):
        prepare_case(scan, volume(organs(scan), moved, "organs"), {52: 1}, CARD, "someone")
    with pytest.raises(InputError, match=r"holds none of the labels \[7\]"):
        prepare_case(scan, volume(organs(scan), scan.geometry), {7: 1}, CARD, "someone")
