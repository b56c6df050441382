"""Slices reach the layer whatever the view, and repaints are few."""

import time
from collections import deque

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_transunet.annotation.session import Write
from napari_transunet.inference.prediction import SlicePrediction
from napari_transunet.viewer.layers.slice_numbers import position_in_view
from napari_transunet.viewer.layers.undo import UndoStep
from napari_transunet.viewer.sessions.live_update import LivePainter
from napari_transunet.viewer.sessions.registry import Sessions
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet

SHAPE = (10, 16, 20)
GEOMETRY = Geometry(SHAPE, (2.5, 0.7, 0.7), (0.0, 0.0, 0.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
LABELS = LabelSet.from_names({1: "liver", 2: "spleen"})


@pytest.fixture
def painted():
    viewer, image, result, sessions = _begun()
    repaints = []
    result.layer.events.set_data.connect(lambda event: repaints.append(time.perf_counter()))
    yield viewer, image, result, repaints
    sessions.deleteLater()


def _begun():
    from napari.layers import Image

    viewer = ViewerModel()
    image = viewer.add_layer(
        Image(
            np.zeros(SHAPE, np.int16), scale=GEOMETRY.spacing, units="mm", name="ct", contrast_limits=(0, 1)
        )
    )
    sessions = Sessions(viewer)
    result = sessions.new_result(image, GEOMETRY, LABELS)
    viewer.add_layer(result.layer)
    return viewer, image, result, sessions


def _plane(value: int = 1) -> np.ndarray:
    return np.full(SHAPE[1:], value, np.uint8)


def test_only_the_slice_in_view_is_repainted(painted):
    viewer, _, result, repaints = painted
    viewer.dims.set_current_step(0, 4)
    painter = LivePainter(viewer, result, UndoStep(result.layer), 0)
    buffer = deque()
    repaints.clear()
    for index in (3, 5, 6):
        buffer.append(SlicePrediction(index, _plane()))
    painter.paint(buffer, budget=None)
    assert repaints == []
    buffer.append(SlicePrediction(4, _plane()))
    painter.paint(buffer, budget=None)
    assert len(repaints) == 1
    assert np.flatnonzero(result.layer.data.any(axis=(1, 2))).tolist() == [3, 4, 5, 6]
    assert np.array_equal(result.session.prediction, result.layer.data)


def test_an_unchanged_slice_is_not_repainted(painted):
    viewer, _, result, repaints = painted
    viewer.dims.set_current_step(0, 4)
    painter = LivePainter(viewer, result, UndoStep(result.layer), 0)
    buffer = deque()
    buffer.append(SlicePrediction(4, _plane(0)))
    repaints.clear()
    painter.paint(buffer)
    assert repaints == []
    assert len(painter.drawn) == 1


@pytest.mark.parametrize("view", ["across", "3D"])
def test_repaints_are_throttled_where_every_slice_is_in_view(painted, view):
    viewer, _, result, repaints = painted
    if view == "3D":
        viewer.dims.ndisplay = 3
    else:
        viewer.dims.order = (1, 0, 2)
    painter = LivePainter(viewer, result, UndoStep(result.layer), 0)
    buffer = deque()
    repaints.clear()
    for index in range(SHAPE[0]):
        buffer.append(SlicePrediction(index, _plane()))
        painter.paint(buffer)
    assert len(repaints) <= 1
    assert result.layer.data.all()


def test_the_time_budget_is_kept(painted):
    viewer, _, result, _ = painted
    painter = LivePainter(viewer, result, UndoStep(result.layer), 0)
    buffer = deque()
    for index in range(SHAPE[0]):
        buffer.append(SlicePrediction(index, _plane()))
    assert painter.paint(buffer, budget=0.0) == 1
    assert len(buffer) == SHAPE[0] - 1


def test_the_position_in_view_stays_inside_the_layer(painted):
    viewer, image, _, _ = painted
    viewer.dims.set_point(0, 1000.0)
    assert position_in_view(viewer, image)[0] == SHAPE[0] - 1
    viewer.dims.set_point(0, 5.0)
    assert position_in_view(viewer, image)[0] == 2


def _worked_on(seed: int):
    """Labels of a first run that a person corrected by hand and by a tool, locked and reviewed, and a painter."""
    rng = np.random.default_rng(seed)
    viewer, _, result, sessions = _begun()
    session, labels = result.session, result.layer.data
    for index in range(SHAPE[0]):
        labels[index] = session.merge_slice(
            session.begin(), 0, index, rng.integers(0, 3, SHAPE[1:]).astype(np.uint8), labels
        )
    labels[rng.random(SHAPE) < 0.1] = 1
    box = (slice(2, 6), slice(3, 9), slice(2, 12))
    write = Write(box, labels[box].copy(), np.full_like(labels[box], 2))
    labels[box] = write.after
    session.record_correction([write])
    if rng.random() < 0.7:
        session.locked = frozenset({int(rng.integers(1, 3))})
    session.axis = int(rng.choice([0, 0, 0, 1]))
    for index in rng.permutation(SHAPE[session.axis])[:4].tolist():
        session.reviewed[index] = "2026-01-01"
    keep = bool(rng.random() < 0.5)
    painter = LivePainter(viewer, result, UndoStep(result.layer), 0, keep_reviewed=keep)
    return result, painter, sessions, rng


def _state(result):
    session = result.session
    flags = np.zeros(SHAPE, np.uint8) if session._flags is None else session._flags
    return (result.layer.data.copy(), session.prediction.copy(), session.unedited_labels.copy(), flags.copy())


@pytest.mark.parametrize("seed", range(8))
def test_a_slice_that_comes_again_is_as_if_it_had_come_so_at_once(seed):
    result, painter, sessions, rng = _worked_on(seed)
    other, at_once, others, _ = _worked_on(seed)
    before, reviewed = _state(result), dict(result.session.reviewed)
    first = rng.integers(0, 3, SHAPE).astype(np.uint8)
    if seed % 2:
        first[:5] = result.session.prediction[:5]
    last = np.where(rng.random(SHAPE) < 0.2, 0, first).astype(np.uint8)
    last[:2] = first[:2]
    painter.paint(deque(SlicePrediction(index, first[index]) for index in range(SHAPE[0])), budget=None)
    again = [index for index in range(SHAPE[0]) if (first[index] != last[index]).any()]
    assert len(again) == 8
    assert painter.paint(deque(SlicePrediction(index, last[index]) for index in again), budget=None) == 8
    at_once.paint(deque(SlicePrediction(index, last[index]) for index in range(SHAPE[0])), budget=None)
    for found, expected in zip(_state(result), _state(other), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(painter.drawn) == len(at_once.drawn) == SHAPE[0]
    assert painter.session_step.conflicts == at_once.session_step.conflicts
    if result.session.axis == 0:
        assert result.session.reviewed == other.session.reviewed
        assert painter.session_step.reopened == at_once.session_step.reopened
    assert painter.kept.keys() == at_once.kept.keys()
    for index, counts in painter.kept.items():
        np.testing.assert_array_equal(counts, at_once.kept[index])

    with result.layer.events.paint.blocker():  # there is no window
        result.undo.add(painter._step.close(), painter.session_step)
    result.layer.undo()
    result.undo.follow()
    for found, expected in zip(_state(result), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert result.session.reviewed == reviewed
    sessions.deleteLater()
    others.deleteLater()


@pytest.mark.parametrize("decision", ["lock", "review", "paint"])
def test_what_was_decided_in_mid_run_stays_when_a_slice_comes_again(painted, decision):
    viewer, _, result, _ = painted
    painter = LivePainter(viewer, result, UndoStep(result.layer), 0, keep_reviewed=True)
    painter.paint(deque([SlicePrediction(3, _plane()), SlicePrediction(4, _plane())]), budget=None)
    if decision == "lock":
        result.session.locked = frozenset({1})
    elif decision == "review":
        result.session.mark_reviewed(3)
    else:
        result.layer.data[3, :2] = 2  # as another layer that shares the array would
    painter.paint(deque([SlicePrediction(3, _plane(0))]), budget=None)
    stays = {
        "lock": _plane(),
        "review": _plane(),
        "paint": np.where(np.arange(16)[:, None] < 2, 2, _plane(0)),
    }
    np.testing.assert_array_equal(result.layer.data[3], stays[decision])
    np.testing.assert_array_equal(result.layer.data[4], _plane())
