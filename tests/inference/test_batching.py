"""The order of slices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.errors import InputError
from napari_transunet.inference.batching import nearest_first, outward


def test_outward_goes_both_ways_and_then_the_longer_one() -> None:
    assert outward(6, 2) == [2, 3, 1, 4, 0, 5]
    assert outward(5, 3) == [3, 4, 2, 1, 0]
    assert outward(1, 0) == [0]


@given(st.data(), st.integers(1, 60))
def test_every_slice_once_and_never_nearer_again(data: st.DataObject, n: int) -> None:
    first = data.draw(st.integers(0, n - 1))
    order = outward(n, first)
    assert sorted(order) == list(range(n))
    distances = [abs(index - first) for index in order]
    assert distances == sorted(distances)


def test_some_slices_only() -> None:
    assert nearest_first([9, 2, 4, 4, 7], 5) == [4, 7, 2, 9]


@pytest.mark.parametrize("first", [-1, 5])
def test_a_slice_that_is_not_there_is_refused(first: int) -> None:
    with pytest.raises(InputError, match=r"no slice -?\d; this volume's slices are 0 to 4"):
        outward(5, first)
