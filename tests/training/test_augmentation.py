import dataclasses

import pytest
import torch

from napari_transunet.training.augmentation import Augmentation, Rot90Flip
from tests.training.samples import STILL


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


def test_phases_are_off_unless_asked_for() -> None:
    assert Augmentation().phase_chance == 0
    assert "phase" not in Augmentation().sentence()
    assert "contrast phase of organs" in dataclasses.replace(Augmentation(), phase_chance=0.2).sentence()


def test_about_as_many_organs_as_asked_for_get_another_phase() -> None:
    labels = torch.zeros(400, 8, 8, dtype=torch.uint8)
    labels[:, 2:6, 2:6] = 1
    images = 0.05 + torch.zeros(400, 1, 8, 8)
    seen, _ = dataclasses.replace(STILL, phase_chance=0.25)(images, labels)
    changed = (seen[:, 0, 3, 3] - 0.05).abs() > 1e-3
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.08)


def sides() -> tuple[torch.Tensor, torch.Tensor]:
    """200 images that are bright, and labelled, on the left."""
    labels = torch.zeros(200, 16, 16, dtype=torch.uint8)
    labels[:, :, :8] = 1
    return labels[:, None].float().clone(), labels


def test_half_of_the_views_are_mirrored_where_that_is_wanted() -> None:
    images, labels = sides()
    seen, seen_labels = dataclasses.replace(STILL, mirror=True)(images, labels)
    mirrored = (seen_labels == labels.flip(-1)).flatten(1).all(1)
    kept = (seen_labels == labels).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 60 < int(mirrored.sum()) < 140
    assert torch.equal(seen[:, 0].round(), seen_labels.float())


def test_no_view_is_mirrored_otherwise() -> None:
    images, labels = sides()
    seen_labels = Augmentation()(images, labels)[1].float()
    assert (seen_labels[:, :, :8].mean((1, 2)) > seen_labels[:, :, 8:].mean((1, 2))).all()
    assert "nothing is mirrored" in Augmentation().sentence()
    assert "mirrored left to right" in dataclasses.replace(Augmentation(), mirror=True).sentence()


@pytest.mark.parametrize(("beyond", "least"), [("zeros", 0), ("reflection", 1)])
def test_beyond_the_image_lies_air_or_its_reflection(beyond, least: int) -> None:
    images, labels = torch.ones(50, 1, 16, 16), torch.ones(50, 16, 16, dtype=torch.uint8)
    seen, seen_labels = dataclasses.replace(STILL, shift=0.3, beyond=beyond)(images, labels)
    assert seen_labels.min() == least
    assert seen.min() == pytest.approx(least)


class TestQuarterTurns:
    """Half of the views are turned by quarters and mirrored, a quarter is rotated, a quarter left alone."""

    @staticmethod
    def seen(height: int, width: int, count: int = 400) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)
        one = torch.rand(1, 3, height, width)
        label = (255 * one[:, 0]).to(torch.uint8)
        images, labels = one.repeat(count, 1, 1, 1), label.repeat(count, 1, 1)
        return one[0], label[0], *Rot90Flip()(images, labels)

    @pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 15), (16, 24)])
    def test_quarters_are_exact_and_labels_move_along(self, height: int, width: int) -> None:
        one, label, images, labels = self.seen(height, width)
        square = height == width
        turns = (0, 1, 2, 3) if square else (0, 2)
        found = dict.fromkeys(range(2 * len(turns)), 0)
        rotated = 0
        for image, seen_label in zip(images, labels, strict=True):
            for number in found:
                turn, mirrored = turns[number // 2], number % 2
                expected = torch.rot90(one.flip(-1) if mirrored else one, turn, (-2, -1))
                if torch.equal(image, expected):
                    expected_label = torch.rot90(label.flip(-1) if mirrored else label, turn, (-2, -1))
                    assert torch.equal(seen_label, expected_label)
                    found[number] += 1
                    break
            else:
                rotated += 1
        assert 70 < rotated < 130
        assert 70 < found.pop(0) < 130  # left alone: what is turned is mirrored too
        mirrored = {number: count for number, count in found.items() if number % 2}
        assert sum(mirrored.values()) == sum(found.values())
        assert all(count > 150 / len(mirrored) for count in mirrored.values())

    def test_rotation_is_bounded(self) -> None:
        labels = torch.zeros(200, 32, 32, dtype=torch.uint8)
        labels[:, 15:17, 4:28] = 1  # a bar along x
        seen = Rot90Flip(rotation=10)(labels[:, None].float(), labels)[1]
        rows = seen.any(2).sum(1)
        tilted = (rows > 2) & (rows < 20)
        assert tilted.any()
        assert rows[tilted].max() <= 2 + 24 * 0.1737 + 2  # sin 10°
        assert "±10°" in Rot90Flip(rotation=10).sentence()

    def test_the_same_seed_gives_the_same_view(self) -> None:
        assert torch.equal(self.seen(16, 16)[2], self.seen(16, 16)[2])
