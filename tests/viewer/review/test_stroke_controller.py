"""Fix from strokes as a person uses it: strokes, preview, accept, discard, undo."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QPushButton, QWidget

from napari_transunet.viewer.review import stroke_controller
from tests.viewer.review.test_review_dock import ReviewDriver, _prediction


@pytest.fixture
def driver(make_napari_viewer: Callable[..., Any], qtbot: Any) -> ReviewDriver:
    return ReviewDriver(make_napari_viewer(), qtbot)


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of what the image says: organ strokes fill their box's slice row, background ones empty it."""

    def corrected(_image: Any, labels: Any, strokes: Any, _spacing: Any, *, fixed: Any) -> Any:
        result = labels.copy()
        for value, organ in ((-1, 0), (1, 1), (2, 2)):
            rows = (strokes == value).any(axis=2)
            result[rows[..., None] & ~fixed] = organ
        return np.where(strokes != 0, np.maximum(strokes, 0), result).astype(labels.dtype)

    monkeypatch.setattr(stroke_controller, "correct_from_strokes", corrected)


def _paint(driver: ReviewDriver, value: int, at: tuple[int, int, int] = (4, 40, 20), size: int = 3) -> None:
    driver.viewer.dims.set_point(0, driver.layer.data_to_world(at)[0])
    driver.layer.brush_size = size
    driver.layer.paint(at, value)


def _previewed(driver: ReviewDriver) -> Any:
    layers = [layer for layer in driver.viewer.layers if layer.name.endswith(": preview")]
    return layers[0] if layers else None


def _preview(driver: ReviewDriver) -> None:
    driver.press("strokes_preview")
    driver.until(lambda: driver.dock.strokes.previewed)


def test_accepting_is_one_undo_step_above_the_strokes(driver, growing):
    driver.press("tool_strokes")
    assert driver.dock.findChild(QPushButton, "tool_strokes").isChecked()
    _paint(driver, 1)
    painted = driver.layer.data.copy()
    _preview(driver)
    assert np.array_equal(driver.layer.data, painted)
    assert _previewed(driver) is not None
    assert driver.viewer.layers.selection.active is driver.layer
    driver.press("strokes_accept")
    assert _previewed(driver) is None
    assert (driver.layer.data[4, 40, 16:25] == 1).all()
    assert not driver.dock.findChild(QPushButton, "tool_strokes").isChecked()
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, painted)
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, _prediction())


def test_the_preview_layer_lies_where_the_change_will_be(driver, growing):
    driver.press("tool_strokes")
    _paint(driver, 1)
    _preview(driver)
    overlay = _previewed(driver)
    at = np.argwhere(overlay.data == 1)[0]
    voxel = tuple(round(float(v)) for v in driver.layer.world_to_data(overlay.data_to_world(at)))
    before = driver.layer.data[voxel]
    driver.press("strokes_accept")
    assert driver.layer.data[voxel] == 1 != before


def test_discarding_takes_the_preview_back_and_keeps_the_strokes(driver, growing):
    driver.press("tool_strokes")
    _paint(driver, 1)
    painted = driver.layer.data.copy()
    _preview(driver)
    driver.press("strokes_discard")
    assert _previewed(driver) is None
    assert np.array_equal(driver.layer.data, painted)
    assert driver.dock.strokes.armed
    _preview(driver)  # the strokes still count
    driver.press("strokes_discard")
    driver.press("strokes_discard")
    assert not driver.dock.strokes.armed
    assert not driver.dock.findChild(QWidget, "strokes_preview").isVisible()


def test_enter_previews_then_accepts_and_escape_discards(driver, growing):
    driver.press("tool_strokes")
    _paint(driver, 1)
    bound = {str(key): act for key, act in driver.layer.keymap.items()}
    enter, escape = bound["Enter"], bound["Escape"]
    enter(driver.layer)
    driver.until(lambda: driver.dock.strokes.previewed)
    escape(driver.layer)
    assert not driver.dock.strokes.previewed
    enter(driver.layer)
    driver.until(lambda: driver.dock.strokes.previewed)
    enter(driver.layer)
    assert (driver.layer.data[4, 40, 16:25] == 1).all()
    assert not any(str(key) in ("Enter", "Escape") for key in driver.layer.keymap)


def test_a_preview_goes_when_the_labels_change_and_a_late_answer_is_dropped(driver, growing):
    driver.press("tool_strokes")
    _paint(driver, 1)
    _preview(driver)
    _paint(driver, 1, at=(4, 40, 40))
    driver.qtbot.wait(50)
    assert not driver.dock.strokes.previewed
    assert _previewed(driver) is None
    driver.press("strokes_preview")
    driver.layer.undo()  # before the answer comes
    driver.until(lambda: "meanwhile" in driver.text("correction_status"))
    assert not driver.dock.strokes.previewed


def test_undone_strokes_and_strokes_before_a_tool_do_not_count(driver, growing):
    _paint(driver, 1, at=(6, 40, 20))  # before the tool was taken up
    driver.press("tool_strokes")
    _paint(driver, 1)
    driver.layer.undo()
    driver.press("strokes_preview")
    assert "No stroke" in driver.text("correction_status")
    _paint(driver, 1, at=(5, 44, 20))
    _preview(driver)
    driver.press("strokes_accept")
    assert (driver.layer.data[5, 44, 16:25] == 1).all()
    assert not (driver.layer.data[6, 40, 16:25] == 1).all()


def test_locked_organs_and_earlier_hand_edits_stay(driver, growing):
    driver.press("lock_2")
    _paint(driver, 3, at=(4, 14, 23))  # an edit by hand, in the row that will be filled
    driver.press("tool_strokes")
    _paint(driver, 1, at=(4, 14, 27))
    _preview(driver)
    driver.press("strokes_accept")
    row = driver.layer.data[4, 14]
    assert (row[32:44] == 2).all()
    assert row[23] == 3
    assert (row[26:31] == 1).all()


def test_erasing_takes_the_organ_away(driver, growing):
    driver.press("tool_strokes")
    _paint(driver, 0, at=(4, 20, 15))
    _preview(driver)
    driver.press("strokes_accept")
    assert not (driver.layer.data[4, 20, 11:20] == 1).any()


def test_a_real_stroke_corrects_the_synthetic_scan(driver):
    driver.press("tool_strokes")
    _paint(driver, 1, at=(4, 36, 16), size=7)
    driver.press("strokes_preview")
    driver.until(lambda: "orking" not in driver.text("correction_status"))
    assert driver.layer.data[4, 36, 16] == 1
