"""Which slice is meant: the one that the slider shows, by the slider's number, and none where it shows none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QLineEdit, QPushButton

from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.viewer.layers.slice_numbers import index_in_view, slice_numbers
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.viewer.review.test_review_dock import SHAPE, ReviewDriver
from tests.viewer.waiting import TIMEOUT


@pytest.fixture
def driver(make_napari_viewer: Callable[..., Any], qtbot: Any) -> ReviewDriver:
    return ReviewDriver(make_napari_viewer(), qtbot)


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


def test_outside_of_the_labels_nothing_is_done_to_a_slice_unseen(driver):
    far = driver.viewer.add_image(
        np.zeros((60, 4, 4)), scale=driver.layer.scale, units="mm", axis_labels=("z", "y", "x")
    )
    driver.viewer.layers.selection.active = driver.layer
    driver.layer.mode = "paint"
    before = driver.layer.data.copy()
    driver.viewer.dims.set_current_step(0, 40)
    assert driver.layer.mode == "pan_zoom"
    assert not driver.dock.findChild(QPushButton, "mark_reviewed").isEnabled()
    driver.dock.model.mark_reviewed(True)
    driver.layer.selected_label = 1
    driver.dock.tools.press("smooth")
    driver.dock.tools.press("above")
    driver.dock.model.accept_prediction(everywhere=False)
    driver.qtbot.wait(50)
    assert not driver.session.reviewed
    assert np.array_equal(driver.layer.data, before)
    assert "0 to 11" in driver.text("correction_status")
    driver.layer.mode = "fill"
    assert driver.layer.mode == "pan_zoom"
    driver.press("next_slice")
    assert driver.slice == 7
    assert driver.layer.mode == "fill"
    assert far in driver.viewer.layers


def test_in_another_view_the_next_slice_turns_it_and_no_slice_is_marked_unseen(driver):
    dims = driver.viewer.dims
    keys = {str(key): call for key, call in driver.viewer.keymap.items()}
    for turn in (lambda: setattr(dims, "order", (2, 0, 1)), lambda: setattr(dims, "ndisplay", 3)):
        driver.dock.model.go_to(0)
        turn()
        keys["K"](driver.viewer)
        assert not driver.session.reviewed
        keys["N"](driver.viewer)
        assert dims.ndisplay == 2
        assert 0 not in dims.displayed
        assert driver.slice in {7, 11}


def test_keys_do_not_work_where_their_buttons_do_not(driver):
    from napari_transunet.viewer.layers.undo import UndoStep

    keys = {str(key): call for key, call in driver.viewer.keymap.items()}
    step = UndoStep(driver.layer)
    here = driver.slice
    keys["N"](driver.viewer)
    keys["K"](driver.viewer)
    assert driver.slice == here
    assert not driver.session.reviewed
    step.close()


def test_a_note_stays_on_the_slice_where_it_was_begun(driver):
    driver.dock.model.go_to(4)
    note = driver.dock.findChild(QLineEdit, "slice_note")
    note.setFocus()
    driver.qtbot.keyClicks(note, "cyst")
    driver.dock.review.strip._walk(1)  # as the wheel does
    assert driver.session.notes == {4: "cyst"}
    assert note.text() == ""
    driver.qtbot.keyClicks(note, "stone")
    driver.dock.follow(None)
    assert driver.session.notes == {4: "cyst", 5: "stone"}
    assert SHAPE[0] == 12


def test_the_slice_above_is_the_one_nearer_to_the_head(make_napari_viewer, qtbot):
    from napari_transunet.viewer.sessions.registry import sessions_of
    from napari_transunet.volumes.labels import LabelSet

    viewer = make_napari_viewer()
    image = add_volume(viewer, _head_first())
    result = sessions_of(viewer).new_result(image, _head_first(), LabelSet.from_names({1: "liver"}))
    viewer.add_layer(result.layer)
    result.layer.data[10, 2:5, 2:5] = 1
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    dock.model.go_to(11)  # one nearer to the feet
    assert viewer.dims.current_step[0] == 28
    qtbot.waitUntil(lambda: dock.model.overview is not None, timeout=TIMEOUT)
    assert "Slice 28" in dock.review.strip.words_for(11)
    assert dock.review.strip._slice_at(0) == 39
    dock.tools.press("above")
    qtbot.waitUntil(lambda: not dock.corrections.busy, timeout=TIMEOUT)
    assert (result.layer.data[11] == result.layer.data[10]).all()
