"""A run is one undo step; what was there before it stays below it."""

import numpy as np
import pytest

from napari_transunet.viewer.layers.undo import UndoStep, changed_box

napari_layers = pytest.importorskip("napari.layers")
SHAPE = (4, 16, 20)


@pytest.fixture
def layer():
    return napari_layers.Labels(np.zeros(SHAPE, np.uint8))


def _plane(axis: int, value: int) -> np.ndarray:
    plane = np.zeros(np.delete(SHAPE, axis), np.uint8)
    plane[1:3, 2:4] = value
    return plane


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_undo_takes_a_whole_run_away_and_one_redo_brings_it_back(layer, axis):
    step = UndoStep(layer)
    for index in range(SHAPE[axis]):
        step.write(axis, index, _plane(axis, index + 1))
    step.close()
    written = layer.data.copy()
    for index in range(SHAPE[axis]):
        assert np.array_equal(np.take(written, index, axis=axis), _plane(axis, index + 1))
    layer.undo()
    assert not layer.data.any()
    layer.redo()
    assert np.array_equal(layer.data, written)


def test_the_layer_is_locked_while_it_is_written(layer):
    step = UndoStep(layer)
    assert not layer.editable
    step.close()
    assert layer.editable


def test_strokes_from_before_the_run_can_still_be_undone(layer):
    layer.data_setitem((np.array([0]), np.array([5]), np.array([5])), 7)
    step = UndoStep(layer)
    step.write(0, 0, _plane(0, 1))
    step.close()
    assert layer.data[0, 5, 5] == 0  # the run replaced the whole slice
    layer.undo()
    assert layer.data[0, 5, 5] == 7
    assert np.count_nonzero(layer.data) == 1
    layer.undo()
    assert not layer.data.any()
    layer.redo()
    layer.redo()
    assert layer.data[0, 1, 2] == 1
    assert layer.data[0, 5, 5] == 0


def test_strokes_after_the_run_are_steps_of_their_own(layer):
    step = UndoStep(layer)
    step.write(0, 1, _plane(0, 3))
    step.close()
    layer.data_setitem((np.array([1]), np.array([9]), np.array([9])), 7)
    layer.undo()
    assert layer.data[1, 9, 9] == 0
    assert layer.data[1, 1, 2] == 3
    layer.undo()
    assert not layer.data.any()


def test_the_same_slice_written_twice_comes_back_right(layer):
    step = UndoStep(layer)
    step.write(0, 0, _plane(0, 1))
    step.write(0, 0, np.full(SHAPE[1:], 2, np.uint8))
    step.close()
    layer.undo()
    assert not layer.data.any()
    layer.redo()
    assert (layer.data[0] == 2).all()


def test_a_run_that_changes_nothing_is_no_step(layer):
    layer.data_setitem((np.array([0]), np.array([5]), np.array([5])), 7)
    step = UndoStep(layer)
    step.write(0, 1, np.zeros(SHAPE[1:], np.uint8))
    step.close()
    step.close()
    layer.undo()
    assert not layer.data.any()


def test_a_replaced_array_is_left_alone(layer):
    step = UndoStep(layer)
    step.write(0, 0, _plane(0, 1))
    layer.data = np.full(SHAPE, 9, np.uint8)
    assert not step.intact
    step.close()
    layer.undo()
    assert (layer.data == 9).all()


def test_only_the_box_that_changed_is_kept(layer):
    data = layer.data
    assert changed_box(data, 0, 2, np.zeros(SHAPE[1:], np.uint8)) is None
    assert changed_box(data, 0, 2, _plane(0, 1)) == (slice(2, 3), slice(1, 3), slice(2, 4))
    assert changed_box(data, 2, 5, _plane(2, 1)) == (slice(1, 3), slice(2, 4), slice(5, 6))
