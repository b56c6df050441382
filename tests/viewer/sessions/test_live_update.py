"""Slices reach the layer whatever the view, and repaints are few."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.components import ViewerModel

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
    repaints = []
    result.layer.events.set_data.connect(lambda event: repaints.append(time.perf_counter()))
    yield viewer, image, result, repaints
    sessions.deleteLater()


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
    assert painter.written == 1


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
