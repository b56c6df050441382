"""The next slice to check, and the time that the rest will take."""

from __future__ import annotations

import numpy as np

from napari_transunet.annotation.reviewing import next_to_check, seconds_left

NAN = float("nan")


def test_the_most_uncertain_slice_comes_next():
    unsure = np.array([0.1, 0.5, NAN, 0.9, 0.5])
    assert next_to_check(unsure, set(), 0) == 3
    assert next_to_check(unsure, {3}, 0) == 1  # the nearer of two alike
    assert next_to_check(unsure, {3}, 3) == 4
    assert next_to_check(unsure, {1, 3, 4}, 0) == 2  # unknown ones last
    assert next_to_check(unsure, {1, 2, 3, 4}, 0) is None
    assert next_to_check(unsure, set(), 0, present=np.array([1, 1, 0, 0, 0], bool)) == 1
    assert next_to_check(unsure, set(), 3) in (1, 4)


def test_the_rest_is_guessed_from_the_marks():
    marks = {index: f"2025-01-01T10:00:{10 * index:02d}+00:00" for index in range(4)}
    assert seconds_left(marks, 10) == 60
    marks[9] = "2025-01-01T12:00:00+00:00"  # after lunch
    assert seconds_left(marks, 10) == 50
    assert seconds_left({0: "2025-01-01T10:00:00+00:00"}, 10) is None
    assert seconds_left({}, 10) is None
