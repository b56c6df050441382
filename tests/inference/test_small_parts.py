"""Small parts of organs: the rule itself, and that a whole volume alone is held to it, however it is asked for."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_transunet.checkpoints.card import ModelCard, default_card
from napari_transunet.inference.prediction import Labels, PredictionCancelled
from napari_transunet.inference.predictor import Predictor
from napari_transunet.inference.small_parts import small_parts
from napari_transunet.model.transunet import TransUNet
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.lazy_array import LazyArray
from tests.inference.test_predictor import SHAPE, ct, volume

SHARE = 0.9


def brute_force(labels: np.ndarray, share: float) -> np.ndarray:
    """The labels without small parts, by flooding from voxel to voxel."""
    parts: list[tuple[int, set[tuple[int, ...]]]] = []
    left = {tuple(map(int, at)) for at in np.argwhere(labels)}
    while left:
        start = left.pop()
        part, todo = {start}, [start]
        while todo:
            at = todo.pop()
            for step in itertools.product((-1, 0, 1), repeat=3):
                near = tuple(a + b for a, b in zip(at, step, strict=True))
                if near in left and labels[near] == labels[start]:
                    left.remove(near)
                    part.add(near)
                    todo.append(near)
        parts.append((int(labels[start]), part))
    kept = np.zeros_like(labels)
    for value, part in parts:
        if len(part) >= share * max(len(other) for organ, other in parts if organ == value):
            kept[tuple(np.array(sorted(part)).T)] = value
    return kept


def held_to(labels: Labels, share: float) -> Labels:
    kept = labels.copy()
    for box, small in small_parts(kept, share):
        assert small.any()
        kept[box][small] = 0
    return kept


@pytest.mark.parametrize("seed", range(12))
def test_parts_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 8, 3))
    labels = rng.choice([0, 1, 2, 5, 300], shape, p=[0.72, 0.1, 0.1, 0.05, 0.03]).astype(np.uint16)
    share = float(rng.choice([0.01, 0.1, 0.34, 0.5, 1.0]))
    turned = np.moveaxis(labels, 2, 0)  # whose voxels do not lie in a row
    np.testing.assert_array_equal(held_to(labels, share), brute_force(labels, share))
    np.testing.assert_array_equal(held_to(turned, share), brute_force(turned, share))


def test_a_part_of_exactly_the_share_stays_and_corners_hold_together() -> None:
    labels = np.zeros((3, 12, 12), np.uint8)
    labels[0, 0, :10] = 1
    labels[2, 0, 0] = 1  # one of ten
    labels[1, 6, 6] = labels[2, 7, 7] = 2
    assert np.array_equal(held_to(labels, 0.1), labels)
    assert np.count_nonzero(held_to(labels, 0.11) == 1) == 10
    assert np.count_nonzero(held_to(labels, 1.0) == 2) == 2
    assert not held_to(np.zeros((2, 3, 4), np.uint8), 0.5).any()


def with_card(net: TransUNet, **options: Any) -> tuple[Predictor, Predictor]:
    """A predictor whose card has a smallest part, and one whose card has none."""
    card = default_card(net, **options)
    kinds = {"device": "cpu", "precision": "float32", "backend": "torch", "batch_size": 2}
    first, second = (Predictor(net, card=c, **kinds) for c in (card.updated(smallest_part=SHARE), card))
    return first, second


def test_a_whole_volume_is_held_to_the_card(plain: TransUNet) -> None:
    predictor, raw = with_card(plain)
    scan = volume(ct())
    expected = held_to(raw.predict(scan), SHARE)
    seen: list[tuple[int, int]] = []
    labels = predictor.predict(scan, progress=lambda done, total: seen.append((done, total)))
    assert (labels != raw.predict(scan)).any(axis=(1, 2)).sum() > 2, "nothing was small"
    np.testing.assert_array_equal(labels, expected)
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]

    batches = list(predictor.iter_batches(scan, first=4, uncertainty=True))
    *early, last = [[one.index for one in batch] for batch in batches]
    assert early == [[4], [5, 3], [6, 2]]
    assert last[-2:] == [1, 0]
    assert set(last[:-2]) == {z for z in (2, 3, 4, 5, 6) if (labels[z] != raw.predict(scan)[z]).any()}
    assert [one.uncertainty is not None for one in batches[-1]] == [False] * (len(last) - 2) + [True] * 2
    for index, plane in dict(predictor.iter_slices(scan, first=2)).items():
        np.testing.assert_array_equal(plane, expected[index])


def test_slices_lie_along_the_volume_s_own_axis(plain: TransUNet) -> None:
    predictor, raw = with_card(plain, orientation="LPS")
    grid = Geometry((40, 7, 52), (0.8, 2.5, 0.7), direction=((1, 0, 0), (0, 0, 1), (0, 1, 0)))
    scan = volume(np.moveaxis(ct(), 0, 1).copy(), grid)
    assert predictor.slice_axis(scan) == 1
    labels = predictor.predict(scan)
    assert (labels != raw.predict(scan)).any()
    np.testing.assert_array_equal(labels, held_to(raw.predict(scan), SHARE))


def test_some_slices_alone_are_left_as_they_are(plain: TransUNet) -> None:
    predictor, raw = with_card(plain)
    some = [0, 3, 6]
    for (index, plane), (_, other) in zip(
        predictor.iter_slices(ct(), slices=some), raw.iter_slices(ct(), slices=some), strict=True
    ):
        np.testing.assert_array_equal(plane, other, str(index))
    # With those that are known already they are the whole.
    known = dict(raw.iter_slices(ct(), slices=[1, 2, 4, 5]))
    found = [s for batch in predictor.iter_batches(ct(), slices=some, known=known, first=3) for s in batch]
    assert next(one.index for one in found) == 3
    labels = np.stack([{**known, **{one.index: one.plane for one in found}}[z] for z in range(SHAPE[0])])
    np.testing.assert_array_equal(labels, predictor.predict(ct()))
    # And they are not where one lacks.
    known.pop(1)
    found = [s for batch in predictor.iter_batches(ct(), slices=some, known=known) for s in batch]
    assert [one.index for one in found] == some


def test_who_cancels_before_all_is_known_does_not_get_the_last_slices(plain: TransUNet) -> None:
    predictor, _ = with_card(plain)
    answers = itertools.chain([False] * 4, itertools.repeat(True))
    found = [
        s.index for batch in predictor.iter_batches(ct(), cancelled=lambda: next(answers)) for s in batch
    ]
    assert found == [0, 1, 2, 3, 4, 5]
    answers = itertools.chain([False] * 4, itertools.repeat(True))
    with pytest.raises(PredictionCancelled, match="after 6 of 7"):
        predictor.predict(ct(), cancelled=lambda: next(answers))


def test_neither_the_paper_nor_what_stays_in_its_file(plain: TransUNet) -> None:
    card = default_card(plain, smallest_part=SHARE)
    options = {"device": "cpu", "pipeline": "paper", "backend": "torch"}
    paper = Predictor(plain, card=card, **options).predict(ct())
    np.testing.assert_array_equal(paper, Predictor(plain, **options).predict(ct()))
    predictor, raw = with_card(plain)
    data = ct()
    lazy = LazyArray(data.shape, data.dtype, data.shape, lambda box: data[box], lambda: data)
    scan = replace(volume(data), data=lazy)
    np.testing.assert_array_equal(predictor.predict(scan), raw.predict(scan))


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan"), "some"])
def test_a_share_that_is_none_is_refused(share: object) -> None:
    from napari_transunet.errors import CheckpointError

    facts = {"variant": "testing", "num_classes": 3, "img_size": 64}
    assert ModelCard.from_mapping({**facts, "smallest_part": 1}).smallest_part == 1
    assert ModelCard.from_mapping(facts).smallest_part is None
    with pytest.raises(CheckpointError, match="smallest_part"):
        ModelCard.from_mapping({**facts, "smallest_part": share})
