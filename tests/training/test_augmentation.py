from __future__ import annotations

import dataclasses

import pytest
import torch

from napari_transunet.training.augmentation import Augmentation

STILL = Augmentation(
    rotation=0,
    scale=1,
    stretch=1,
    shift=0,
    bend=0,
    contrast=0,
    brightness=0,
    gamma=1,
    phase_chance=0,
    noise=0,
    blur_chance=0,
)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.zeros(4, 32, 48, dtype=torch.uint8)
    labels[:, 8:20, 10:30] = 3
    images = torch.rand(4, 3, 32, 48) * 0.2 + labels[:, None] / 6
    images[:, :, :4] = 0
    return images, labels


def test_without_freedom_nothing_changes() -> None:
    images, labels = batch()
    seen, seen_labels = STILL(images, labels)
    torch.testing.assert_close(seen, images)
    assert torch.equal(seen_labels, labels)


def test_image_and_labels_move_together() -> None:
    labels = batch()[1]
    images = (labels[:, None] > 0).float().repeat(1, 3, 1, 1)
    moving = dataclasses.replace(STILL, rotation=20, scale=1.3, stretch=1.2, shift=0.1, bend=0.02)
    seen, seen_labels = moving(images, labels)
    assert not torch.equal(seen_labels, labels)
    assert ((seen[:, 0] > 0.5) == (seen_labels > 0)).float().mean() > 0.97


def test_rotation_keeps_areas_of_rectangular_images() -> None:
    labels = torch.zeros(64, 32, 64, dtype=torch.uint8)
    labels[:, 10:22, 26:38] = 1
    turned = dataclasses.replace(STILL, rotation=45)(labels[:, None].float(), labels)[1]
    assert turned.flatten(1).sum(1).float().mean() == pytest.approx(144, rel=0.05)


def test_results_stay_in_range_and_padding_stays_black() -> None:
    images, labels = batch()
    seen, seen_labels = dataclasses.replace(
        Augmentation(), rotation=0, scale=1, stretch=1, shift=0, bend=0, blur_chance=0
    )(images, labels)
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert not seen[:, :, :4].any()
    assert set(seen_labels.unique().tolist()) <= {0, 3}


def test_phase_changes_organs_alone() -> None:
    images, labels = batch()
    seen, _ = dataclasses.replace(STILL, phase_chance=1.0)(images.clone(), labels)
    inside, far = (labels == 3)[:, None].expand_as(images), torch.zeros_like(images, dtype=torch.bool)
    far[..., 24:, :] = True
    assert (seen - images)[inside].abs().mean() > 0.05
    torch.testing.assert_close(seen[far], images[far])


def test_the_same_seed_gives_the_same_view() -> None:
    images, labels = batch()
    views = []
    for _ in range(2):
        torch.manual_seed(7)
        views.append(Augmentation()(images.clone(), labels)[0])
    assert torch.equal(*views)
