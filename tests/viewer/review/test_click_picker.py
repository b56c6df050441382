"""A click that is waited for reaches no tool in hand, through the canvas as a mouse would."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks

from tests.viewer.review.test_review_dock import ReviewDriver

ISLAND = (5, 41, 51)


@pytest.fixture
def driver(make_napari_viewer: Callable[..., Any], qtbot: Any) -> ReviewDriver:
    driver = ReviewDriver(make_napari_viewer(), qtbot)
    driver.press("scope_slices_1")
    driver.layer.selected_label = 1
    return driver


def _click(driver: ReviewDriver, voxel: tuple[int, int, int]) -> None:
    """What napari's canvas does on a click: the viewer's handlers, then those of the active layer."""

    class Event:
        type, button, modifiers = "mouse_press", 1, ()
        position = tuple(driver.layer.data_to_world(voxel))
        view_direction, dims_displayed, pos = None, [1, 2], (0, 0)
        handled = False
        is_dragging = False

    driver.viewer.dims.set_point(0, Event.position[0])
    event = Event()
    mouse_press_callbacks(driver.viewer, event)
    active = driver.viewer.layers.selection.active
    mouse_press_callbacks(active, event)
    event.type = "mouse_release"
    mouse_release_callbacks(driver.viewer, event)
    mouse_release_callbacks(active, event)


def test_the_tool_in_hand_does_not_act_on_the_click(driver):
    before = driver.layer.data.copy()
    expected = np.where((before == 1), 0, before)
    expected[5, 40:44, 50:54] = 1
    for mode in ("paint", "erase", "fill"):
        driver.layer.mode = mode
        driver.press("tool_clicked")
        _click(driver, ISLAND)
        driver.until(lambda: not driver.dock.corrections.busy)
        assert np.array_equal(driver.layer.data, expected), mode
        assert driver.layer.mode == mode
        _click(driver, (1, 2, 2))  # and the next one is the tool's again
        assert mode == "erase" or not np.array_equal(driver.layer.data, expected)
        while not np.array_equal(driver.layer.data, before):
            driver.layer.undo()


def test_another_layer_does_not_take_the_click(driver):
    other = driver.viewer.add_labels(np.zeros_like(driver.layer.data), **_placed(driver))
    driver.viewer.layers.selection.active = driver.layer
    driver.press("tool_clicked")
    driver.viewer.layers.selection.active = other
    if driver.dock.clicks.waiting:
        other.mode = "fill"
        _click(driver, ISLAND)
    assert not other.data.any()


def _placed(driver: ReviewDriver) -> dict[str, Any]:
    layer = driver.layer
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def test_waiting_for_a_click_ends(driver):
    from napari_transunet.viewer.layers.undo import UndoStep

    layer, before = driver.layer, driver.layer.data.copy()

    def escape() -> None:
        key = next(key for key in layer.keymap if str(key) == "Escape")
        layer.keymap[key](layer)
        assert layer.mode == "paint"
        assert not any(str(key) == "Escape" for key in layer.keymap)

    def other_brush() -> None:
        layer.mode = "erase"
        assert layer.mode == "erase"

    def run() -> None:
        UndoStep(layer).close()

    def other_labels() -> None:
        driver.dock.follow(driver.viewer.add_labels(before.copy(), **_placed(driver)))
        driver.dock.follow(layer)

    for end in (escape, other_brush, run, other_labels, lambda: driver.viewer.layers.remove(layer)):
        layer.mode = "paint"
        driver.press("tool_clicked")
        assert driver.dock.clicks.waiting
        end()
        assert not driver.dock.clicks.waiting
        assert np.array_equal(layer.data, before)
