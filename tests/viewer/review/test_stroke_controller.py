"""Fix from strokes as a person uses it: strokes, preview, accept, discard, undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from qtpy.QtWidgets import QPushButton, QWidget

from napari_transunet.viewer.review import stroke_controller
from tests.viewer.review.test_review_dock import Sitting, _prediction


@pytest.fixture
def sitting(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Sitting:
    return Sitting(make_napari_viewer(), qtbot)


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


def _paint(sitting: Sitting, value: int, at: tuple[int, int, int] = (4, 40, 20), size: int = 3) -> None:
    sitting.viewer.dims.set_point(0, sitting.layer.data_to_world(at)[0])
    sitting.layer.brush_size = size
    sitting.layer.paint(at, value)


def _previewed(sitting: Sitting) -> Any:
    layers = [layer for layer in sitting.viewer.layers if layer.name.endswith(": preview")]
    return layers[0] if layers else None


def _preview(sitting: Sitting) -> None:
    sitting.press("strokes_preview")
    sitting.until(lambda: sitting.dock.strokes.previewed)


def test_accepting_is_one_undo_step_above_the_strokes(sitting, growing):
    sitting.press("tool_strokes")
    assert sitting.dock.findChild(QPushButton, "tool_strokes").isChecked()
    _paint(sitting, 1)
    painted = sitting.layer.data.copy()
    _preview(sitting)
    assert np.array_equal(sitting.layer.data, painted)
    assert _previewed(sitting) is not None
    assert sitting.viewer.layers.selection.active is sitting.layer
    sitting.press("strokes_accept")
    assert _previewed(sitting) is None
    assert (sitting.layer.data[4, 40, 16:25] == 1).all()
    assert not sitting.dock.findChild(QPushButton, "tool_strokes").isChecked()
    sitting.layer.undo()
    assert np.array_equal(sitting.layer.data, painted)
    sitting.layer.undo()
    assert np.array_equal(sitting.layer.data, _prediction())


def test_the_preview_layer_lies_where_the_change_will_be(sitting, growing):
    sitting.press("tool_strokes")
    _paint(sitting, 1)
    _preview(sitting)
    overlay = _previewed(sitting)
    at = np.argwhere(overlay.data == 1)[0]
    voxel = tuple(round(float(v)) for v in sitting.layer.world_to_data(overlay.data_to_world(at)))
    before = sitting.layer.data[voxel]
    sitting.press("strokes_accept")
    assert sitting.layer.data[voxel] == 1 != before


def test_discarding_takes_the_preview_back_and_keeps_the_strokes(sitting, growing):
    sitting.press("tool_strokes")
    _paint(sitting, 1)
    painted = sitting.layer.data.copy()
    _preview(sitting)
    sitting.press("strokes_discard")
    assert _previewed(sitting) is None
    assert np.array_equal(sitting.layer.data, painted)
    assert sitting.dock.strokes.armed
    _preview(sitting)  # the strokes still count
    sitting.press("strokes_discard")
    sitting.press("strokes_discard")
    assert not sitting.dock.strokes.armed
    assert not sitting.dock.findChild(QWidget, "strokes_preview").isVisible()


def test_enter_previews_then_accepts_and_escape_discards(sitting, growing):
    sitting.press("tool_strokes")
    _paint(sitting, 1)
    bound = {str(key): act for key, act in sitting.layer.keymap.items()}
    enter, escape = bound["Enter"], bound["Escape"]
    enter(sitting.layer)
    sitting.until(lambda: sitting.dock.strokes.previewed)
    escape(sitting.layer)
    assert not sitting.dock.strokes.previewed
    enter(sitting.layer)
    sitting.until(lambda: sitting.dock.strokes.previewed)
    enter(sitting.layer)
    assert (sitting.layer.data[4, 40, 16:25] == 1).all()
    assert not any(str(key) in ("Enter", "Escape") for key in sitting.layer.keymap)


def test_a_preview_goes_when_the_labels_change_and_a_late_answer_is_dropped(sitting, growing):
    sitting.press("tool_strokes")
    _paint(sitting, 1)
    _preview(sitting)
    _paint(sitting, 1, at=(4, 40, 40))
    sitting.qtbot.wait(50)
    assert not sitting.dock.strokes.previewed
    assert _previewed(sitting) is None
    sitting.press("strokes_preview")
    sitting.layer.undo()  # before the answer comes
    sitting.until(lambda: "meanwhile" in sitting.text("correction_status"))
    assert not sitting.dock.strokes.previewed


def test_undone_strokes_and_strokes_before_a_tool_do_not_count(sitting, growing):
    _paint(sitting, 1, at=(6, 40, 20))  # before the tool was taken up
    sitting.press("tool_strokes")
    _paint(sitting, 1)
    sitting.layer.undo()
    sitting.press("strokes_preview")
    assert "No stroke" in sitting.text("correction_status")
    _paint(sitting, 1, at=(5, 44, 20))
    _preview(sitting)
    sitting.press("strokes_accept")
    assert (sitting.layer.data[5, 44, 16:25] == 1).all()
    assert not (sitting.layer.data[6, 40, 16:25] == 1).all()


def test_locked_organs_and_earlier_hand_edits_stay(sitting, growing):
    sitting.press("lock_2")
    _paint(sitting, 3, at=(4, 14, 23))  # an edit by hand, in the row that will be filled
    sitting.press("tool_strokes")
    _paint(sitting, 1, at=(4, 14, 27))
    _preview(sitting)
    sitting.press("strokes_accept")
    row = sitting.layer.data[4, 14]
    assert (row[32:44] == 2).all()
    assert row[23] == 3
    assert (row[26:31] == 1).all()


def test_erasing_takes_the_organ_away(sitting, growing):
    sitting.press("tool_strokes")
    _paint(sitting, 0, at=(4, 20, 15))
    _preview(sitting)
    sitting.press("strokes_accept")
    assert not (sitting.layer.data[4, 20, 11:20] == 1).any()


def test_a_real_stroke_corrects_the_synthetic_scan(sitting):
    sitting.press("tool_strokes")
    _paint(sitting, 1, at=(4, 36, 16), size=7)
    sitting.press("strokes_preview")
    sitting.until(lambda: "orking" not in sitting.text("correction_status"))
    assert sitting.layer.data[4, 36, 16] == 1
