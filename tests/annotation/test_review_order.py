"""The next slice to check, the order of all, and the time that the rest will take."""

import numpy as np
import pytest

from napari_transunet.annotation.corrections import Scope
from napari_transunet.annotation.interpolation import interpolate
from napari_transunet.annotation.review_order import (
    next_to_check,
    next_to_interpolate_from,
    next_to_learn_from,
    review_order,
    seconds_left,
)
from napari_transunet.annotation.uncertainty import SliceUncertainties

NAN = float("nan")


def test_the_worst_slice_comes_next():
    expected = np.array([0.1, 0.5, NAN, 0.9, 0.5])
    assert next_to_check(expected, set(), 0) == 3
    assert next_to_check(expected, {3}, 0) == 1  # the nearer of two alike
    assert next_to_check(expected, {3}, 3) == 4
    assert next_to_check(expected, {1, 3, 4}, 0) == 2  # unknown ones last
    assert next_to_check(expected, {1, 2, 3, 4}, 0) is None
    assert next_to_check(expected, set(), 0, present=np.array([1, 1, 0, 0, 0], bool)) == 1
    assert next_to_check(expected, set(), 3) in (1, 4)
    assert next_to_check(np.full(5, NAN), {3}, 4) == 2  # nothing is known: the nearest


def test_a_neighbour_that_is_nearly_as_wrong_comes_before_the_worst():
    expected = np.array([0.0, 0.90, 0.95, 0.5, 0.0, 0.0, 1.0, 0.94])
    assert next_to_check(expected, {2}, 2) == 1  # though slice 6 is a little worse
    assert next_to_check(expected, {2, 6, 7}, 2) == 1
    assert next_to_check(expected, {1, 2, 6, 7}, 2) == 3
    assert next_to_check(expected, {6}, 6) == 7
    assert next_to_check(expected, {6, 7}, 7) == 2


def test_the_order_has_every_slice_with_an_error_once_and_keeps_neighbours_together():
    rng = np.random.default_rng(4)
    for _ in range(50):
        expected = rng.random(30) * (rng.random(30) > 0.2)
        expected[rng.integers(30)] = NAN
        order = review_order(expected)
        assert sorted(order) == np.flatnonzero(expected > 0).tolist()
        rest = set(order)
        for previous, index in zip([None, *order], order, strict=False):
            greatest = max(expected[list(rest)])
            near = previous is not None and abs(index - previous) == 1
            assert expected[index] == greatest or (near and expected[index] >= 0.8 * greatest)
            rest.remove(index)
    assert review_order(np.array([0.1, 0.90, 0.5, 0.0, 0.96, 1.0])) == [5, 4, 1, 2, 0]


def test_the_rest_is_guessed_from_the_marks():
    marks = {index: f"2025-01-01T10:00:{10 * index:02d}+00:00" for index in range(4)}
    assert seconds_left(marks, 10) == 60
    marks[9] = "2025-01-01T12:00:00+00:00"  # after lunch
    assert seconds_left(marks, 10) == 50
    assert seconds_left({0: "2025-01-01T10:00:00+00:00"}, 10) is None
    assert seconds_left({}, 10) is None


@pytest.mark.slow  # what the shipped weights are worth; nothing else here needs a network
def test_the_first_slices_of_an_unseen_scan_hold_much_more_of_the_error_than_chance(shared_data):
    """A test patient of the shipped checkpoint, outlined by hand. `benchmarks/review_order.py` has more."""
    from napari_transunet import Predictor, load_checkpoint, read_volume
    from napari_transunet.checkpoints.registry import resolve_checkpoint

    images, labels = (shared_data / "data" / "hippocampus_mr" / kind for kind in ("images", "labels"))
    volume = read_volume(images / "hippocampus_174.nii.gz")
    predictor = Predictor(load_checkpoint(resolve_checkpoint("hippocampus-mr")), device="cpu")
    unsure = SliceUncertainties(0, len(volume.data))
    found = predictor.predict(volume, unsure=unsure.put)
    wrong = (found != read_volume(labels / "hippocampus_174.nii.gz").data).sum(axis=(1, 2))
    order = review_order(unsure.expected_error())
    for count in (10, 20):
        share = wrong[order[:count]].sum() / wrong.sum()
        best = np.sort(wrong)[::-1][:count].sum() / wrong.sum()
        assert share > best - 0.4 * (best - count / len(wrong))


def test_a_network_learns_most_from_a_slice_that_shows_what_no_other_shows_nearby():
    areas = np.zeros((60, 3), int)
    areas[10:40, 0] = 400  # a large organ
    areas[50:56, 1] = 9  # a small one counts as much
    order: list[int] = []
    while (found := next_to_learn_from(areas, order, spacing=5.0)) is not None:
        order.append(found)
    assert areas[order[:2]].any(axis=0).tolist() == [True, True, False]
    assert len(order) == len(set(order))
    assert areas[order].any(axis=1).all()
    first = sorted(order[:4])
    assert min(np.diff(first)) >= 4  # slices nearby tell the same
    assert next_to_learn_from(areas, range(60), 5.0) is None
    assert next_to_learn_from(np.zeros((60, 2), int), [], 5.0) is None
    assert next_to_learn_from(np.zeros((60, 0), int), [], 5.0) is None


def test_an_organ_that_a_right_slice_lacks_is_not_asked_for_beside_it():
    areas = np.zeros((60, 2), int)
    areas[5:15, 0] = 40
    areas[30:50, 1] = 40  # found where it is not, and taken away in the slice that was put right
    first = next_to_learn_from(areas, {10}, spacing=5.0)
    assert 30 <= first < 50
    areas[first, 1] = 0
    assert abs(next_to_learn_from(areas, {10, first}, spacing=5.0) - first) > 1


def covered(areas, slices, right, spacing):
    """How much of all organs these slices tell, by the definition; those that are right tell of absent organs too."""
    area, slices = areas[:, areas.any(axis=0)], sorted(slices)
    shows = np.minimum(1, area / [np.median(one[one > 0]) for one in area.T])
    shows[sorted(right)] += area[sorted(right)] == 0
    distance = np.abs(np.subtract.outer(np.arange(len(area)), slices)) * spacing
    told = np.maximum(0, 1 - distance / 25)[..., None] * shows[slices]
    return (area / area.sum(axis=0) * told.max(axis=1)).sum()


def test_the_slice_to_learn_from_is_the_one_with_the_greatest_gain():
    rng = np.random.default_rng(1)
    for _ in range(60):
        n, spacing = int(rng.integers(2, 40)), float(rng.choice([0.5, 3.0, 9.0, 40.0]))
        areas = rng.integers(1, 50, (n, 3)) * (rng.random((n, 3)) > 0.5)
        known = set(rng.integers(0, n, 3).tolist())
        told = covered(areas, known, known, spacing)
        gain = {one: covered(areas, known | {one}, known, spacing) - told for one in set(range(n)) - known}
        found = next_to_learn_from(areas, known, spacing)
        most = max(gain.values(), default=0)
        assert most < 1e-9 if found is None else gain[found] > most - 1e-9


def test_nothing_is_learnt_from_a_sliver_of_an_organ_that_is_shown_whole_elsewhere():
    areas = np.full((9, 1), 100)
    areas[4] = 1
    assert next_to_learn_from(areas, [], spacing=1.0) != 4


def discs(radii, middle=(32, 32), side=64):
    """(n, side, side) of an organ whose slices are discs; 0 shows none."""
    rows, columns = np.mgrid[:side, :side]
    apart = np.hypot(rows - middle[0], columns - middle[1])
    return (apart < np.asarray(radii)[:, None, None]).astype(np.uint8)


def asked(labels, known, spacing=1.0):
    areas = np.stack([(labels == organ).sum((1, 2)) for organ in (1, 2)], 1)
    return next_to_interpolate_from(areas, (1, 2), {index: labels[index] for index in known}, spacing)


def test_between_slices_alike_there_is_nothing_to_interpolate_from():
    labels = discs([0] * 5 + [10] * 30 + [0] * 5)
    assert asked(labels, (4, 5, 34, 35)) is None
    assert asked(np.zeros_like(labels), ()) is None
    assert asked(np.zeros_like(labels), (4, 9)) is None
    assert 5 <= asked(labels, ()) < 35  # nobody looked at the organ yet
    assert 15 <= asked(labels, (5,)) < 35  # not beside the slice that is right


def test_a_slice_is_asked_for_where_most_changes_and_midway():
    labels = discs([0] * 4 + [4] * 20 + [4 + 2 * at for at in range(9)] + [20] * 20 + [0] * 4)
    ends = (3, 4, 52, 53)
    assert 24 <= asked(labels, ends) < 34
    assert asked(labels, (*ends, 23, 33)) == 28
    small = discs([0] * 20 + [3] * 9 + [0] * 28, (8, 8))  # another organ that no right slice shows
    labels[small == 1] = 2
    assert 20 <= asked(labels, (*ends, 23, 33)) < 29


def test_an_organ_that_ends_between_two_slices_is_asked_for():
    labels = discs([10] * 13 + [0] * 27)
    assert asked(labels, (0, 39)) in (19, 20)  # how far it goes, nobody knows
    assert asked(labels, (0, 12, 13, 39)) is None


def annotated(labels, truth, propose):
    """Slices that are put right until the Dice is 0.95, where interpolation fills what lies between."""
    labels, right = labels.copy(), []
    while 2 * (labels & truth).sum() < 0.95 * (labels.sum() + truth.sum()):
        right.append(propose(labels, right))
        labels[right[-1]] = truth[right[-1]]
        if len(right) > 1:
            found = interpolate(labels, (1.0, 1.0, 1.0), Scope((1,)), axis=0, slices=right)
            for write in found.writes:
                labels[write.index] = write.after
    return len(right)


def test_fewer_slices_are_needed_than_in_even_steps():
    at = np.arange(60)
    truth = discs(np.where(at < 50, 6 + 14 * np.exp(-(((at - 30) / 6) ** 2)), 0))
    found = discs(np.where(at < 50, 6, 0))  # by a network that did not see it swell
    halving = list(dict.fromkeys(index for step in (16, 8, 4, 2, 1) for index in range(step // 2, 60, step)))
    even = annotated(found, truth, lambda _labels, right: halving[len(right)])
    led = annotated(found, truth, asked)
    assert led < even
