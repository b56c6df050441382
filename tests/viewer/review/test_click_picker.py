"""A click that is waited for reaches no tool in hand, through the canvas as a mouse would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks

from tests.viewer.review.test_review_dock import Sitting

ISLAND = (5, 41, 51)


@pytest.fixture
def sitting(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Sitting:
    sitting = Sitting(make_napari_viewer(), qtbot)
    sitting.press("scope_slices_1")
    sitting.layer.selected_label = 1
    return sitting


def _click(sitting: Sitting, voxel: tuple[int, int, int]) -> None:
    """What napari's canvas does on a click: the viewer's handlers, then those of the active layer."""

    class Event:
        type, button, modifiers = "mouse_press", 1, ()
        position = tuple(sitting.layer.data_to_world(voxel))
        view_direction, dims_displayed, pos = None, [1, 2], (0, 0)
        handled = False
        is_dragging = False

    sitting.viewer.dims.set_point(0, Event.position[0])
    event = Event()
    mouse_press_callbacks(sitting.viewer, event)
    active = sitting.viewer.layers.selection.active
    mouse_press_callbacks(active, event)
    event.type = "mouse_release"
    mouse_release_callbacks(sitting.viewer, event)
    mouse_release_callbacks(active, event)


@pytest.mark.parametrize("mode", ["paint", "erase", "fill"])
def test_the_tool_in_hand_does_not_act_on_the_click(sitting, mode):
    sitting.layer.mode = mode
    before = sitting.layer.data.copy()
    sitting.press("tool_clicked")
    _click(sitting, ISLAND)
    sitting.until(lambda: not sitting.dock.toolbox.busy)
    expected = np.where((before == 1), 0, before)
    expected[5, 40:44, 50:54] = 1
    assert np.array_equal(sitting.layer.data, expected)
    assert sitting.layer.mode == mode
    _click(sitting, (1, 2, 2))  # and the next one is the tool's again
    assert mode == "erase" or not np.array_equal(sitting.layer.data, expected)


def test_another_layer_does_not_take_the_click(sitting):
    other = sitting.viewer.add_labels(np.zeros_like(sitting.layer.data), **_placed(sitting))
    sitting.viewer.layers.selection.active = sitting.layer
    sitting.press("tool_clicked")
    sitting.viewer.layers.selection.active = other
    if sitting.dock.clicks.waiting:
        other.mode = "fill"
        _click(sitting, ISLAND)
    assert not other.data.any()


def _placed(sitting: Sitting) -> dict[str, Any]:
    layer = sitting.layer
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


@pytest.mark.parametrize("how", ["escape", "brush", "removed", "run", "others"])
def test_waiting_for_a_click_ends(sitting, how):
    from napari_transunet.viewer.layers.undo import UndoStep

    sitting.layer.mode = "paint"
    before = sitting.layer.data.copy()
    sitting.press("tool_clicked")
    assert sitting.dock.clicks.waiting
    if how == "escape":
        key = next(key for key in sitting.layer.keymap if str(key) == "Escape")
        sitting.layer.keymap[key](sitting.layer)
        assert sitting.layer.mode == "paint"
        assert not any(str(key) == "Escape" for key in sitting.layer.keymap)
    elif how == "brush":
        sitting.layer.mode = "erase"
        assert sitting.layer.mode == "erase"
    elif how == "removed":
        sitting.viewer.layers.remove(sitting.layer)
    elif how == "run":
        UndoStep(sitting.layer)
    else:
        copy = sitting.viewer.add_labels(before.copy(), **_placed(sitting))
        sitting.dock.follow(copy)
    assert not sitting.dock.clicks.waiting
    assert np.array_equal(sitting.layer.data, before)
