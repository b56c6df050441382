"""A mark as reviewed stands for what was seen and approved, whatever is painted, undone and done again."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers._layer_actions import _convert_to_image, _convert_to_labels

from tests.viewer.review.test_review_dock import NAMES, SHAPE, ReviewDriver


@pytest.fixture
def driver(make_napari_viewer: Callable[..., Any], qtbot: Any) -> ReviewDriver:
    return ReviewDriver(make_napari_viewer(), qtbot)


def _review(driver: ReviewDriver, *slices: int) -> None:
    for index in slices:
        driver.dock.model.go_to(index)
        driver.dock.model.mark_reviewed(True)


def _paint(driver: ReviewDriver, index: int) -> None:
    driver.dock.model.go_to(index)
    driver.layer.brush_size = 3
    driver.layer.paint((index, 40, 30), 3)


def test_undo_of_a_tool_takes_the_mark_of_what_was_approved_after_it(driver):
    driver.layer.selected_label = 1
    driver.press("scope_slices_1")
    driver.tool("largest")  # takes the island in slice 5 away
    _review(driver, 5, 7)
    driver.layer.undo()
    assert driver.layer.data[5, 41, 51] == 1
    assert driver.session.reviewed.keys() == {7}
    assert "Slice 5 had been reviewed" in driver.text("correction_status")
    driver.layer.redo()
    assert driver.session.reviewed.keys() == {5, 7}


def test_redo_of_a_tool_takes_the_mark_of_what_was_approved_without_it(driver):
    driver.layer.selected_label = 1
    driver.press("scope_slices_1")
    driver.tool("largest")
    driver.layer.undo()
    _review(driver, 5)
    driver.layer.redo()
    assert not driver.session.reviewed
    driver.layer.undo()
    assert driver.session.reviewed.keys() == {5}


def test_a_stroke_that_is_undone_out_of_sight_takes_the_mark_of_its_slice(driver):
    _paint(driver, 3)
    _review(driver, 3)
    _paint(driver, 9)
    driver.layer.undo()  # in slice 9, which is in view
    assert driver.session.reviewed.keys() == {3}
    driver.layer.undo()  # once too often
    assert not driver.layer.data[3, 40, 30]
    assert not driver.session.reviewed
    assert "Slice 3 had been reviewed" in driver.text("correction_status")
    driver.layer.redo()
    assert driver.session.reviewed.keys() == {3}


def test_a_stroke_in_view_leaves_the_mark_also_when_it_is_undone(driver):
    _review(driver, 3)
    _paint(driver, 3)
    driver.layer.undo()
    driver.layer.redo()
    assert driver.session.reviewed.keys() == {3}
    driver.dock.model.go_to(9)
    driver.layer.undo()  # back to what was approved
    assert driver.session.reviewed.keys() == {3}


def test_what_a_brush_or_bucket_in_three_dimensions_changes_elsewhere_has_to_be_looked_at(driver):
    _review(driver, 2, 4, 5, 6, 10)
    driver.dock.model.go_to(5)
    driver.layer.n_edit_dimensions = 3
    driver.layer.brush_size = 11
    driver.layer.paint((5, 40, 30), 3)
    changed = np.flatnonzero((driver.layer.data == 3).any(axis=(1, 2))).tolist()
    assert changed == [4, 5, 6]
    assert driver.session.reviewed.keys() == {2, 5, 10}
    assert "2 slices that had been reviewed" in driver.text("correction_status")
    driver.layer.undo()
    assert driver.session.reviewed.keys() == {2, 4, 5, 6, 10}
    driver.layer.fill((5, 12, 10), 2)  # the liver from slice 2 to 8
    driver.qtbot.wait(1)
    assert (driver.layer.data[2, 12, 10], driver.layer.data[10, 12, 10]) == (2, 0)
    assert driver.session.reviewed.keys() == {5, 10}


def test_a_stroke_in_another_plane_was_seen(driver):
    _review(driver, 4, 5)
    driver.viewer.dims.order = (1, 0, 2)  # coronal
    driver.viewer.dims.set_point(1, driver.layer.data_to_world((0, 40, 0))[1])
    driver.layer.brush_size = 11
    driver.layer.paint((4, 40, 30), 3)
    assert (driver.layer.data[[4, 5]] == 3).any(axis=(1, 2)).all()
    driver.layer.undo()
    driver.layer.redo()
    assert driver.session.reviewed.keys() == {4, 5}
    driver.viewer.dims.set_point(1, driver.layer.data_to_world((0, 3, 0))[1])
    driver.session.reviewed = {}
    for index in range(SHAPE[0]):
        driver.session.mark_reviewed(index)
    driver.layer.undo()  # what was approved since is gone, and not in view
    assert {4, 5}.isdisjoint(driver.session.reviewed)
    assert {0, 11} <= driver.session.reviewed.keys()


def test_a_stroke_that_a_lock_cuts_back_leaves_the_marks_alone(driver):
    _review(driver, 5, 6)
    driver.dock.corrections.lock(1, True)
    driver.dock.model.go_to(5)
    driver.layer.brush_size = 9
    driver.layer.paint((5, 12, 26), 3)  # over the rim of the liver
    driver.result.undo.check_pending_strokes()
    assert driver.session.reviewed.keys() == {5, 6}
    driver.layer.undo()
    assert driver.session.reviewed.keys() == {5, 6}


def test_slices_that_a_script_replaced_have_to_be_looked_at(driver):
    _review(driver, 4, 5)
    data = driver.layer.data.copy()
    driver.layer.data = data.astype(np.int32)  # the same labels
    assert driver.session.reviewed.keys() == {4, 5}
    data = driver.layer.data.copy()
    data[5, 0, 0] = 2
    driver.layer.data = data
    assert driver.session.reviewed.keys() == {4}
    assert "Slice 5 had been reviewed" in driver.text("correction_status")


def test_labels_that_were_an_image_for_a_while_keep_their_session(driver):
    _paint(driver, 3)
    _review(driver, 3)
    layers, hand = driver.viewer.layers, driver.session.hand_voxels(driver.layer.data)
    layers.selection = {driver.layer}
    _convert_to_image(layers)
    driver.qtbot.wait(1)
    layers.selection = {layers["ct labels"]}
    _convert_to_labels(layers)
    driver.layer = layers["ct labels"]
    driver.until(lambda: driver.dock.model.layer is driver.layer)
    result = driver.dock.model.result
    assert result.session is driver.session
    assert result.session.reviewed.keys() == {3}
    assert result.session.hand_voxels(driver.layer.data) == hand > 0
    assert driver.dock.model.names == NAMES
    layers.remove(driver.layer)
    driver.layer = driver.result = result = None
    gc.collect()
    driver.until(lambda: gc.collect() is not None and not driver.dock.model.sessions._left)
