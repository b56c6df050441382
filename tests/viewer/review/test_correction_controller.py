"""Strokes are held to the dock's range and to locks; what runs, tools and scripts write is not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.utils import notifications
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QLabel, QToolButton

from napari_transunet.viewer.layers.layers import volume_of
from napari_transunet.viewer.layers.undo import strokes_are_masks
from napari_transunet.volumes.labels import LabelSet
from tests.viewer.review.test_review_dock import NAMES, SHAPE, ReviewDriver, _prediction


@pytest.fixture
def driver(make_napari_viewer: Callable[..., Any], qtbot: Any) -> ReviewDriver:
    return ReviewDriver(make_napari_viewer(), qtbot)


def _liver_alone(driver: ReviewDriver) -> None:
    """Leave a range ticked that holds next to nothing of the image."""
    driver.dock.tools.set_range(30_000, 30_001)


def test_a_run_is_not_cut_to_the_range_of_the_brush(driver):
    _liver_alone(driver)
    again = np.roll(_prediction(), 5, axis=2)
    driver.run(again)
    driver.qtbot.wait(30)
    assert np.array_equal(driver.layer.data, again)
    assert driver.session.edited_voxels(driver.layer.data) == 0
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, _prediction())


def test_a_tool_and_a_script_are_not_cut_to_the_range_of_the_brush(driver):
    _liver_alone(driver)
    driver.layer.selected_label = 2
    driver.dock.model.go_to(5)
    driver.dock.findChild(QDoubleSpinBox, "grow_mm").setValue(20)
    before = driver.layer.data.copy()
    driver.tool("grow")
    driver.qtbot.wait(30)
    assert (driver.layer.data == 2).sum() > (before == 2).sum()
    if strokes_are_masks():  # else napari keeps what a script writes as it keeps strokes
        driver.layer.data_setitem((np.array([1]), np.array([1]), np.array([1])), 3)
        driver.qtbot.wait(30)
        assert driver.layer.data[1, 1, 1] == 3


def _paint(driver: ReviewDriver, value: int, at: tuple[int, int, int] = (4, 20, 15), size: int = 9) -> None:
    driver.viewer.dims.set_point(0, driver.layer.data_to_world(at)[0])
    driver.layer.brush_size = size
    driver.layer.paint(at, value)


def test_redo_does_not_bring_a_refused_stroke_back(driver):
    driver.press("lock_1")
    before = driver.layer.data.copy()
    _paint(driver, 2)
    driver.qtbot.wait(30)
    assert np.array_equal(driver.layer.data, before)
    assert "liver is locked" in driver.text("correction_status")
    driver.layer.redo()
    assert np.array_equal(driver.layer.data, before)


@pytest.mark.parametrize("undone", [False, True])
def test_a_stroke_is_held_also_where_something_comes_before_the_guard_looks(driver, undone):
    driver.press("lock_1")
    before = driver.layer.data.copy()
    _paint(driver, 2)
    if undone:
        driver.layer.undo()
        driver.result.constraint.check()
        driver.layer.redo()
    else:
        driver.result.undo.check_pending_strokes()  # as a run and a tool do before they write
    assert np.array_equal(driver.layer.data == 1, before == 1)


def test_undo_after_a_stroke_that_was_held_gives_back_what_was_there(driver):
    driver.press("lock_1")
    before = driver.layer.data.copy()
    _paint(driver, 3, at=(4, 10, 8), size=6)
    driver.qtbot.wait(30)
    held = driver.layer.data.copy()
    assert (held != before).any()
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, before)
    driver.layer.redo()
    assert np.array_equal(driver.layer.data, held)


def test_an_image_that_cannot_be_read_costs_no_stroke(driver):
    driver.dock.tools.set_range(-100, 200)

    class Broken:
        shape = SHAPE

        def __getitem__(self, _at: object) -> Any:
            raise OSError("the share is gone")

    driver.result.constraint.image = Broken()
    _paint(driver, 3)
    with pytest.raises(OSError, match="share"):
        driver.result.constraint.check()
    assert (driver.layer.data[4] == 3).any()
    assert driver.layer.data.shape == SHAPE


def test_the_brush_is_in_hand_again_after_a_run(driver):
    driver.layer.mode = "paint"
    driver.run(_prediction())
    assert driver.layer.mode == "paint"


def test_the_range_is_as_fine_as_the_values_of_the_image(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    scan = np.full((8, 16, 16), 0.9, np.float32)
    scan[:, 4:12, 4:12] = np.random.default_rng(0).normal(0.3, 0.01, (8, 8, 8))
    scan[3, 12, 8] = np.nan
    viewer.add_image(scan, name="scaled", scale=(1, 1, 1), units=("mm",) * 3)
    labels = viewer.add_labels(np.zeros(scan.shape, np.uint8), units=("mm",) * 3)
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    box = dock.findChild(QCheckBox, "paint_range")
    assert "HU" not in box.text()  # there are none in it
    viewer.dims.set_point(0, 3)
    labels.brush_size = 4
    labels.paint((3, 8, 8), 1)
    dock.findChild(QToolButton, "range_from_organ").click()
    low, high = dock.tools.paint_range
    assert 0.25 < low < 0.3 < high < 0.35
    said = dock.findChild(QLabel, "correction_status").text()
    assert "0.2" in said
    assert "0.3" in said
    labels.brush_size = 9
    labels.paint((3, 12, 8), 1)
    qtbot.wait(30)
    painted = scan[labels.data == 1]
    assert ((painted >= low) & (painted <= high)).sum() > 20
    assert not labels.data[3, 12:].any()  # outside of it, and where there is no number
    outside = dock.findChild(QLabel, "correction_status").text()
    assert "0 to 0" not in outside
    assert "outside" in outside


@pytest.fixture
def notified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What napari's notifications say."""
    said: list[str] = []
    monkeypatch.setattr(notifications, "show_info", said.append)
    return said


def test_the_range_is_the_docks_and_the_locks_are_the_labels(driver, notified):
    """What the closed dock was set to holds nobody; what was locked stays locked."""
    driver.press("lock_1")
    _liver_alone(driver)
    _paint(driver, 3, at=(4, 40, 50))
    driver.qtbot.wait(30)
    assert not (driver.layer.data == 3).any()
    driver.viewer.window.remove_dock_widget(driver.dock)
    driver.qtbot.wait(30)
    notified.clear()
    before = driver.layer.data.copy()
    _paint(driver, 3, at=(4, 40, 50))
    _paint(driver, 3)  # in the liver
    driver.qtbot.wait(30)
    assert driver.layer.data[4, 40, 50] == 3
    assert np.array_equal(driver.layer.data == 1, before == 1)
    (said,) = notified
    assert "liver is locked" in said


def test_what_the_dock_says_in_sight_is_not_said_twice(driver, notified):
    driver.press("lock_1")
    driver.viewer.window._qt_window.show()
    driver.until(lambda: driver.dock.isVisible() and not driver.dock.visibleRegion().isEmpty())
    _paint(driver, 2)
    driver.until(lambda: "liver is locked" in driver.text("correction_status"))
    assert not notified
    driver.viewer.window._qt_window.hide()
    _paint(driver, 2)
    driver.until(lambda: len(notified) == 1)


def test_labels_that_the_dock_does_not_show_keep_their_locks_but_know_no_range(driver, notified):
    sessions = driver.dock.model.sessions
    other = sessions.new_result(driver.image, volume_of(driver.image), LabelSet.from_names(NAMES))
    other.layer.data[...] = _prediction()
    other.session.locked = frozenset({1})
    driver.viewer.layers._activate_on_insert = False
    driver.viewer.add_layer(other.layer)
    _liver_alone(driver)
    assert driver.dock.model.layer is driver.layer
    other.layer.brush_size = 9
    driver.viewer.dims.set_point(0, other.layer.data_to_world((4, 20, 20))[0])
    other.layer.paint((4, 20, 24), 3)  # over the rim of the liver
    driver.qtbot.wait(30)
    assert np.array_equal(other.layer.data == 1, _prediction() == 1)
    assert other.layer.data[4, 20, 26] == 3
    assert ["liver is locked" in said for said in notified] == [True]
