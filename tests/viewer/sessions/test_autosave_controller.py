"""What is saved of labels whose array a script changes or replaces."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_transunet.annotation.saved_state import restored_labels
from napari_transunet.annotation.session_folder import load_folder
from napari_transunet.viewer.sessions.autosave_controller import AutosaveController, start_autosave
from tests.viewer.review.test_review_dock import ReviewDriver


@pytest.fixture
def driver(make_napari_viewer: Callable[..., Any], qtbot: Any) -> ReviewDriver:
    return ReviewDriver(make_napari_viewer(), qtbot)


@pytest.fixture
def autosave(driver: ReviewDriver) -> AutosaveController:
    driver.dock.model.go_to(5)
    driver.dock.model.mark_reviewed(True)
    found = start_autosave(driver.viewer, driver.result)
    driver.until(lambda: found._saver is not None)
    assert found.flush(30)
    return found


def _saved(autosave: AutosaveController) -> Any:
    return restored_labels(load_folder(autosave._saver._folder.path))


def test_what_a_script_writes_into_the_array_is_saved_once_it_is_shown(driver, autosave):
    driver.layer.data[3] = 2
    driver.layer.refresh()
    driver.until(lambda: np.array_equal(_saved(autosave)[0], driver.layer.data))


def test_looking_at_other_slices_saves_nothing(driver, autosave, monkeypatch):
    touched: list[None] = []
    monkeypatch.setattr(autosave, "touch", lambda: touched.append(None))
    for index in (3, 8, 2):
        driver.viewer.dims.set_point(0, driver.layer.data_to_world((index, 0, 0))[0])
    assert not touched
    driver.layer.refresh()
    assert touched


def test_an_array_of_another_size_does_not_take_the_place_of_what_is_saved(driver, autosave):
    whole = driver.layer.data
    driver.layer.data = whole[:, :40]
    assert "12 × 40 × 56" in autosave.failing
    assert autosave.failing == driver.dock.model.sessions.unsaved
    assert driver.dock.model.disabled_reason == driver.result.misfit
    driver.layer.name = "cut"  # which is saved
    autosave.flush(30)
    labels, session, front = _saved(autosave)
    assert np.array_equal(labels, whole)
    assert (session.reviewed.keys(), front["name"]) == ({5}, "cut")
    driver.qtbot.wait(1)
    assert autosave.failing
    again = whole.copy()
    again[0, 0, 0] = 3
    driver.layer.data = again
    assert autosave.flush(30)
    driver.until(lambda: not autosave.failing)
    assert driver.dock.model.disabled_reason is None
    assert np.array_equal(_saved(autosave)[0], again)


def test_labels_of_another_size_are_not_told_to_be_saved_when_they_go(driver, autosave):
    driver.layer.data = driver.layer.data[:, :40]
    autosave.close()
    driver.until(lambda: not autosave.saving)
    assert autosave.lost
