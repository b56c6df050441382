"""Uncertainties are kept by slice and organ, and survive being saved."""

import json

import numpy as np
import pytest

from napari_transunet.annotation.uncertainty import SliceUncertainties
from napari_transunet.errors import InputError
from napari_transunet.inference.uncertainty import SliceUncertainty


def _slice(mean: float, *per_class: float) -> SliceUncertainty:
    values = np.array([np.nan, *per_class], np.float16)
    errors = np.array([np.nan, *per_class], np.float32) / 4
    return SliceUncertainty(mean, values, mean / 2, errors, np.full((4, 6), mean, np.float16))


def test_slices_that_no_run_saw_are_unknown():
    found = SliceUncertainties(0, 5)
    found.begin("ab", "card", (4, 6))
    found.put(2, _slice(0.5, 0.25, np.nan))
    assert np.isnan(found.of()).tolist() == [True, True, False, True, True]
    assert found.of(1)[2] == 0.25
    assert np.isnan(found.of(2)).all()
    assert np.isnan(found.of(9)).all()
    assert found.expected_error()[2] == 0.25
    assert found.expected_error(1)[2] == 0.0625
    assert np.isnan(found.expected_error(9)).all()
    assert list(found.maps()) == [2]


def test_another_checkpoint_replaces_what_it_sees_and_the_maps_of_another_grid():
    found = SliceUncertainties(0, 3)
    found.begin("ab", "card", (4, 6))
    found.put(0, _slice(0.5, 0.25))
    found.begin("cd", "card", (4, 6))
    found.put(1, _slice(0.125, 0.5, 0.75))
    assert found.of().tolist()[:2] == [0.5, 0.125]
    assert found.of(2)[1] == 0.75
    assert list(found.maps()) == [1]


def test_they_come_back_as_they_were_saved():
    found = SliceUncertainties(1, 3)
    found.begin("ab", "paper", (4, 6))
    found.put(0, _slice(0.5, 0.25))
    again = SliceUncertainties.restored(json.loads(json.dumps(found.state())), found.array())
    assert again.state() == found.state()
    assert np.array_equal(again.of(1), found.of(1), equal_nan=True)
    assert np.array_equal(again.expected_error(), found.expected_error(), equal_nan=True)
    assert np.array_equal(again.expected_error(1), found.expected_error(1), equal_nan=True)
    assert list(again.maps()) == [0]
    with pytest.raises(InputError, match="fit together"):
        SliceUncertainties.restored(found.state(), np.zeros((2, 4, 6), np.float16))
    with pytest.raises(InputError, match="understood"):
        SliceUncertainties.restored({"axis": 0}, None)


def test_sessions_from_before_expected_errors_are_led_by_the_mean():
    found = SliceUncertainties(0, 3)
    found.put(1, _slice(0.5, 0.25))
    state = {key: value for key, value in found.state().items() if not key.startswith("expected")}
    again = SliceUncertainties.restored(state, None)
    assert again.expected_error()[1] == 0.5
    assert again.expected_error(1)[1] == 0.25
