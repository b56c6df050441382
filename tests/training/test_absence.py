from __future__ import annotations

import numpy as np
import pytest

from napari_transunet.training.absence import absent_organs

PLACES = np.arange(40, dtype=float)


def labels(*parts: tuple[int, int, int]) -> np.ndarray:
    """40 slices with squares of organ 1: first and last slice, and column."""
    found = np.zeros((40, 16, 16), np.uint8)
    for first, last, column in parts:
        found[first : last + 1, 4:8, column : column + 4] = 1
    return found


def absent(found: np.ndarray, vouched: list[int], spacing: float = 1.0) -> list[int]:
    marked = np.isin(np.arange(40), vouched)
    told = absent_organs(found, marked, PLACES * spacing, [1], 3)
    assert not told[:, [0, 2]].any()
    return np.flatnonzero(told[:, 1]).tolist()


def test_an_organ_is_not_beyond_its_ends() -> None:
    found = labels((5, 14, 2), (35, 38, 10))

    assert absent(found, [6, 10]) == list(range(30, 40))
    assert absent(found, [6, 10], spacing=2.0) == list(range(22, 40))


@pytest.mark.parametrize(
    ("parts", "vouched"),
    [
        ([(5, 14, 2)], [6]),  # one slice does not tell that it is in one piece
        ([(5, 9, 2), (20, 24, 2)], [6, 22]),  # two pieces, both vouched for
        ([(5, 14, 2), (5, 14, 10)], [6, 10]),  # side by side, as lungs are
        ([(5, 14, 2)], [20, 22]),  # it may be anywhere
    ],
)
def test_else_nothing_is_known(parts: list[tuple[int, int, int]], vouched: list[int]) -> None:
    assert absent(labels(*parts), vouched) == []


def test_a_gap_of_a_slice_is_none() -> None:
    found = labels((5, 9, 2), (11, 14, 2))

    assert absent(found, [6, 13]) == list(range(30, 40))
