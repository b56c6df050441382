"""Strokes are held to range and locks; what runs, tools and scripts write is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from qtpy.QtWidgets import QDoubleSpinBox

from tests.viewer.review.test_review_dock import SHAPE, Sitting, _prediction


@pytest.fixture
def sitting(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Sitting:
    return Sitting(make_napari_viewer(), qtbot)


def _liver_alone(sitting: Sitting) -> None:
    """Leave a range ticked that holds next to nothing of the image."""
    sitting.dock.tools.set_range(30_000, 30_001)


def test_a_run_is_not_cut_to_the_range_of_the_brush(sitting):
    _liver_alone(sitting)
    again = np.roll(_prediction(), 5, axis=2)
    sitting.run(again)
    sitting.qtbot.wait(30)
    assert np.array_equal(sitting.layer.data, again)
    assert sitting.session.edited_voxels(sitting.layer.data) == 0
    sitting.layer.undo()
    assert np.array_equal(sitting.layer.data, _prediction())


def test_a_tool_and_a_script_are_not_cut_to_the_range_of_the_brush(sitting):
    _liver_alone(sitting)
    sitting.layer.selected_label = 2
    sitting.dock.bench.go_to(5)
    sitting.dock.findChild(QDoubleSpinBox, "grow_mm").setValue(20)
    before = sitting.layer.data.copy()
    sitting.tool("grow")
    sitting.qtbot.wait(30)
    assert (sitting.layer.data == 2).sum() > (before == 2).sum()
    sitting.layer.data_setitem((np.array([1]), np.array([1]), np.array([1])), 3)
    sitting.qtbot.wait(30)
    assert sitting.layer.data[1, 1, 1] == 3


def _paint(sitting: Sitting, value: int, at: tuple[int, int, int] = (4, 20, 15), size: int = 9) -> None:
    sitting.viewer.dims.set_point(0, sitting.layer.data_to_world(at)[0])
    sitting.layer.brush_size = size
    sitting.layer.paint(at, value)


def test_redo_does_not_bring_a_refused_stroke_back(sitting):
    sitting.press("lock_1")
    before = sitting.layer.data.copy()
    _paint(sitting, 2)
    sitting.qtbot.wait(30)
    assert np.array_equal(sitting.layer.data, before)
    assert "liver is locked" in sitting.text("correction_status")
    sitting.layer.redo()
    assert np.array_equal(sitting.layer.data, before)


@pytest.mark.parametrize("undone", [False, True])
def test_a_stroke_is_held_also_where_something_comes_before_the_guard_looks(sitting, undone):
    sitting.press("lock_1")
    before = sitting.layer.data.copy()
    _paint(sitting, 2)
    if undone:
        sitting.layer.undo()
        sitting.dock.toolbox.guard.check()
        sitting.layer.redo()
    else:
        sitting.result.undo.settle()  # as a run and a tool do before they write
    assert np.array_equal(sitting.layer.data == 1, before == 1)


def test_undo_after_a_stroke_that_was_held_gives_back_what_was_there(sitting):
    sitting.press("lock_1")
    before = sitting.layer.data.copy()
    _paint(sitting, 3, at=(4, 10, 8), size=6)
    sitting.qtbot.wait(30)
    held = sitting.layer.data.copy()
    assert (held != before).any()
    sitting.layer.undo()
    assert np.array_equal(sitting.layer.data, before)
    sitting.layer.redo()
    assert np.array_equal(sitting.layer.data, held)


def test_an_image_that_cannot_be_read_costs_no_stroke(sitting):
    sitting.dock.tools.set_range(-100, 200)

    class Broken:
        def __getitem__(self, _at: object) -> Any:
            raise OSError("the share is gone")

    sitting.dock.toolbox.guard.follow(sitting.result, Broken())
    _paint(sitting, 3)
    with pytest.raises(OSError, match="share"):
        sitting.dock.toolbox.guard.check()
    assert (sitting.layer.data[4] == 3).any()
    assert sitting.layer.data.shape == SHAPE


def test_the_brush_is_in_hand_again_after_a_run(sitting):
    sitting.layer.mode = "paint"
    sitting.run(_prediction())
    assert sitting.layer.mode == "paint"
