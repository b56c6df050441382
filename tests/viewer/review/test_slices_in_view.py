"""Which slice is meant: the one that the slider shows, by the slider's number, and none where it shows none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from qtpy.QtWidgets import QLineEdit, QPushButton

from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.viewer.layers.slice_numbers import index_in_view, slice_numbers
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.viewer.review.test_review_dock import SHAPE, Sitting
from tests.viewer.waiting import TIMEOUT


@pytest.fixture
def sitting(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Sitting:
    return Sitting(make_napari_viewer(), qtbot)


def _head_first(shape: tuple[int, int, int] = (40, 8, 8)) -> Volume:
    """A scan stored from head to foot."""
    spacing = (2.0, 1.0, 1.0)
    direction = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    geometry = Geometry(shape=shape, spacing=spacing, origin=(0.0, 0.0, 78.0), direction=direction)
    return Volume(np.zeros(shape, np.int16), geometry, "CT", Source(None, "nifti", "head first"))


def test_slices_stored_from_head_to_foot_have_the_numbers_of_the_slider(make_napari_viewer):
    viewer = make_napari_viewer()
    image = add_volume(viewer, _head_first())
    numbers = slice_numbers(viewer, image, 0)
    for number in (0, 5, 39):
        viewer.dims.set_current_step(0, number)
        index = index_in_view(viewer, image, 0)
        assert index == 39 - number == numbers.index(number)
        assert numbers.number(index) == number
    assert (numbers.lowest, numbers.highest, numbers.upward) == (0, 39, -1)
    assert numbers.sides == ("feet", "head")
    assert numbers.index(40) is None


def test_numbers_follow_the_slider_where_a_second_volume_makes_it_longer(make_napari_viewer):
    viewer = make_napari_viewer()
    image = add_volume(viewer, _head_first())
    other = viewer.add_image(np.zeros((100, 8, 8)), translate=(-20, 0, 0), units="mm", axis_labels="zyx")
    for layer in (image, other):
        numbers = slice_numbers(viewer, layer, 0)
        for index in (0, 7):
            viewer.dims.set_point(0, layer.data_to_world((index, 0, 0))[0])
            assert numbers.number(index) == viewer.dims.current_step[0]
            assert numbers.index(viewer.dims.current_step[0]) == index


def test_outside_of_the_labels_nothing_is_done_to_a_slice_unseen(sitting):
    far = sitting.viewer.add_image(
        np.zeros((60, 4, 4)), scale=sitting.layer.scale, units="mm", axis_labels=("z", "y", "x")
    )
    sitting.viewer.layers.selection.active = sitting.layer
    sitting.layer.mode = "paint"
    before = sitting.layer.data.copy()
    sitting.viewer.dims.set_current_step(0, 40)
    assert sitting.layer.mode == "pan_zoom"
    assert not sitting.dock.findChild(QPushButton, "mark_reviewed").isEnabled()
    sitting.dock.bench.mark_reviewed(True)
    sitting.layer.selected_label = 1
    sitting.dock.tools.press("smooth")
    sitting.dock.tools.press("above")
    sitting.dock.bench.accept_prediction(everywhere=False)
    sitting.qtbot.wait(50)
    assert not sitting.session.reviewed
    assert np.array_equal(sitting.layer.data, before)
    assert "0 to 11" in sitting.text("correction_status")
    sitting.layer.mode = "fill"
    assert sitting.layer.mode == "pan_zoom"
    sitting.press("next_slice")
    assert sitting.slice == 7
    assert sitting.layer.mode == "fill"
    assert far in sitting.viewer.layers


@pytest.mark.parametrize("view", ["sagittal", "3D"])
def test_in_another_view_the_next_slice_turns_it_and_no_slice_is_marked_unseen(sitting, view):
    if view == "3D":
        sitting.viewer.dims.ndisplay = 3
    else:
        sitting.viewer.dims.order = (2, 0, 1)
    keys = {str(key): call for key, call in sitting.viewer.keymap.items()}
    keys["K"](sitting.viewer)
    assert not sitting.session.reviewed
    keys["N"](sitting.viewer)
    assert sitting.viewer.dims.ndisplay == 2
    assert 0 not in sitting.viewer.dims.displayed
    assert sitting.slice == 7


def test_keys_do_not_work_where_their_buttons_do_not(sitting):
    from napari_transunet.viewer.layers.undo import UndoStep

    keys = {str(key): call for key, call in sitting.viewer.keymap.items()}
    step = UndoStep(sitting.layer)
    here = sitting.slice
    keys["N"](sitting.viewer)
    keys["K"](sitting.viewer)
    assert sitting.slice == here
    assert not sitting.session.reviewed
    step.close()


def test_a_note_stays_on_the_slice_where_it_was_begun(sitting):
    sitting.dock.bench.go_to(4)
    note = sitting.dock.findChild(QLineEdit, "slice_note")
    note.setFocus()
    sitting.qtbot.keyClicks(note, "cyst")
    sitting.dock.review.strip._walk(1)  # as the wheel does
    assert sitting.session.notes == {4: "cyst"}
    assert note.text() == ""
    sitting.qtbot.keyClicks(note, "stone")
    sitting.dock.follow(None)
    assert sitting.session.notes == {4: "cyst", 5: "stone"}
    assert SHAPE[0] == 12


def test_the_slice_above_is_the_one_nearer_to_the_head(make_napari_viewer, qtbot):
    from napari_transunet.viewer.sessions.registry import sessions_of
    from napari_transunet.volumes.labels import LabelSet

    viewer = make_napari_viewer()
    image = add_volume(viewer, _head_first())
    result = sessions_of(viewer).begin(image, _head_first(), LabelSet.from_names({1: "liver"}))
    viewer.add_layer(result.layer)
    result.layer.data[10, 2:5, 2:5] = 1
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    dock.bench.go_to(11)  # one nearer to the feet
    assert viewer.dims.current_step[0] == 28
    qtbot.waitUntil(lambda: dock.bench.overview is not None, timeout=TIMEOUT)
    assert "Slice 28" in dock.review.strip.words_for(11)
    assert dock.review.strip._slice_at(0) == 39
    dock.tools.press("above")
    qtbot.waitUntil(lambda: not dock.toolbox.busy, timeout=TIMEOUT)
    assert (result.layer.data[11] == result.layer.data[10]).all()
