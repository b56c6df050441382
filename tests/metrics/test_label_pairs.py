"""Which labels are compared."""

import numpy as np
import pytest

from napari_transunet.errors import InputError
from napari_transunet.metrics.label_pairs import pair_labels, parse_match
from napari_transunet.metrics.segmentation_metrics import evaluate


def found(*arguments, **more):
    return {
        pair.label: (pair.prediction, pair.reference, pair.by)
        for pair in pair_labels(*arguments, **more).pairs
    }


def test_numbers_alone_pair_without_a_note():
    paired = pair_labels([0, 1, 2], [0, 1, 3])
    assert {p.label: (p.prediction, p.reference, p.by) for p in paired.pairs} == {
        1: ((1,), 1, "number"),
        2: ((2,), None, None),
        3: ((), 3, None),
    }
    assert paired.notes == ()


def test_names_go_before_numbers_and_the_map_before_names():
    names, others = {1: "Kidney_L", 2: "liver", 3: "spleen"}, {1: "spleen", 2: "left kidney", 4: "Leber"}
    assert found([1, 2, 3], [1, 2, 4], names, others, {"liver": "leber"}) == {
        1: ((3,), 1, "name"),
        2: ((1,), 2, "name"),
        4: ((2,), 4, "map"),
    }
    assert found([1, 2, 3], [1, 2, 4], names, others, {3: 2})[2] == ((3,), 2, "map")


def test_a_label_whose_number_another_organ_has_gets_one_of_its_own():
    assert found([1], [1], {1: "liver"}, {1: "spleen"}) == {1: ((), 1, None), -1: ((1,), None, None)}
    assert found([1, 5], [1], match={5: 1}) == {1: ((5,), 1, "map"), -1: ((1,), None, None)}
    assert found([3, 5], [1], match={5: 3}) == {3: ((5,), 3, "map"), -3: ((3,), None, None), 1: ((), 1, None)}


def test_made_up_names_are_none():
    assert found([4], [4], {4: "label 4"}, {4: "liver"}) == {4: ((4,), 4, "number")}


def test_names_that_several_labels_share_say_nothing():
    paired = found([1, 2], [1, 2], {1: "vessel", 2: "vessel"}, {1: "vessel", 2: "tumour"})
    assert paired == {1: ((), 1, None), 2: ((), 2, None), -1: ((1,), None, None), -2: ((2,), None, None)}


def test_what_does_not_occur_is_not_noted_and_not_scored():
    paired = pair_labels([1], [1], {1: "liver", 2: "spleen"}, {1: "liver", 9: "aorta"})
    assert paired.notes == ()
    assert [pair.label for pair in paired.pairs if pair.occurs] == [1]


def test_one_name_goes_before_another_of_the_same_organ():
    names = {1: "postcava", 2: "IVC"}
    assert found([1, 2], [1, 2], names, names) == {1: ((1,), 1, "name"), 2: ((2,), 2, "name")}
    assert found([1], [2], {1: "postcava"}, {2: "IVC"}) == {2: ((1,), 2, "name")}


def test_what_a_match_says_of_labels_that_are_not_there_is_noted():
    paired = pair_labels([1, 2], [1], {1: "liver"}, match={99: 1, 2: 98})
    assert [("prediction" in note, "99" in note, "98" in note) for note in paired.notes[:2]] == [
        (True, True, False),
        (False, False, True),
    ]
    assert not pair_labels([1], [1], {2: "spleen"}, {3: "Milz"}, match={2: 3}).notes


def test_the_text_of_a_match():
    assert parse_match(" 5=1, liver = Leber,Left Kidney=2") == {5: 1, "liver": "Leber", "Left Kidney": 2}
    with pytest.raises(InputError):
        pair_labels([1], [1], {1: "liver"}, None, {"milt": 1})


def test_scores_of_matched_labels_are_those_of_renumbered_ones():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 3, (6, 7, 8))
    labels = np.choose(rng.integers(0, 3, (6, 7, 8)), (0, 6, 4))
    renumbered = np.where(labels == 6, 1, np.where(labels == 4, 2, 0))
    matched = evaluate(labels, reference, match={6: 1, 4: 2}, spacing=(2, 1, 1))
    assert matched == evaluate(renumbered, reference, spacing=(2, 1, 1))
