"""Two label volumes compared: map, worst slices, and names that match where numbers do not."""

import numpy as np
import pytest

from napari_transunet.errors import InputError
from napari_transunet.metrics.difference_map import disagree, match_labels, renumber


def test_map_scores_and_worst_slices():
    labels, other = np.zeros((4, 6, 6), np.uint8), np.zeros((4, 6, 6), np.uint8)
    labels[1:3, 1:5, 1:5], other[1:3, 1:5, 1:5] = 1, 1
    other[2, 1, 1:4] = 0
    labels[1, 0, 0], other[1, 0, 0] = 1, 2
    other[3, 0, 0] = 2
    found = disagree(labels, other, (3.0, 2.0, 0.5))
    assert (found.map == 1).sum() == 3
    assert (found.map == 2).sum() == 1
    assert (found.map == 3).sum() == 1
    assert found.worst_slices() == [(2, 3.0), (1, 1.0), (3, 1.0)]
    assert found.worst_slices(1) == [(2, 3.0)]
    assert found.scores[1]["dice"] == pytest.approx(2 * 29 / (33 + 29))
    assert found.scores[2]["dice"] == 0
    assert found.means["dice"] == pytest.approx(found.scores[1]["dice"] / 2)
    with pytest.raises(InputError, match="same grid"):
        disagree(labels, other[1:], (1, 1, 1))


def test_organs_are_matched_by_name_however_they_are_spelled():
    names = {1: "liver", 2: "kidney_left"}
    found = match_labels(names, {5: "Liver", 3: "Left kidney", 9: "spleen"}, [3, 5, 9, 11])
    assert found.by == "name"
    assert found.organs == {3: 2, 5: 1, 9: None, 11: None}
    assert found.known == {1, 2}
    assert renumber(np.array([0, 3, 5, 9, 11], np.uint8), found).tolist() == [0, 2, 1, 0, 0]


def test_numbers_match_only_where_the_reference_has_no_names_and_that_is_said():
    found = match_labels({1: "liver", 2: "spleen"}, {}, [1, 7])
    assert found.by == "number"
    assert found.organs == {1: 1, 7: None}
    # Names that agree on nothing are no reason to fall back on numbers.
    assert not match_labels({1: "liver"}, {1: "spleen"}, [1]).known


def test_an_unnamed_label_among_named_ones_is_matched_by_number_and_that_is_said():
    found = match_labels({1: "liver", 2: "spleen"}, {1: "Liver"}, [1, 2])
    assert (found.organs, found.by) == ({1: 1, 2: 2}, "number")


def test_organs_that_the_reference_does_not_know_are_not_counted_as_missed():
    labels, reference = np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)
    labels[0, :2], reference[0, :2] = 1, 1
    labels[1] = 2
    assert disagree(labels, reference, (1, 1, 1)).means["dice"] == 0.5
    found = disagree(labels, reference, (1, 1, 1), organs={1, 3})
    assert found.means["dice"] == 1
    assert not found.map.any()
    # One that it knows and shows nowhere is an answer, too.
    assert disagree(labels, reference, (1, 1, 1), organs={1, 2}).scores[2]["dice"] == 0
