"""Two label volumes compared: map, worst slices, and names that match where numbers do not."""

from __future__ import annotations

import numpy as np
import pytest

from napari_transunet.annotation.disagreement import disagree, match_by_name
from napari_transunet.errors import InputError


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


def test_organs_are_matched_by_name():
    reference = np.array([0, 3, 5, 9], np.uint8)
    names = {1: "liver", 2: "kidney_left"}
    matched = match_by_name(names, reference, {5: "Liver", 3: "Left kidney", 9: "spleen"})
    assert matched.tolist() == [0, 2, 1, 0]
    assert match_by_name(names, reference, {}) is reference
    assert match_by_name(names, reference, {1: "liver", 9: "spleen"}) is reference
