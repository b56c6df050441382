"""No stroke changes a locked organ, in whichever labels of a window, and whichever dock is open."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.layers._layer_actions import _convert_to_image, _convert_to_labels
from napari.utils import notifications

from napari_transunet.viewer.layers.layers import add_volume, geometry_of, new_labels_layer, volume_of
from napari_transunet.viewer.layers.undo import strokes_are_masks
from napari_transunet.viewer.sessions.kept_labels import new_session_of
from napari_transunet.viewer.sessions.paint_constraint import PaintConstraint
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct

SHAPE = (10, 32, 36)
LABELS = LabelSet.from_names({1: "liver", 2: "spleen", 3: "kidney_left"})


def _labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:8, 8:20, 6:18] = 1
    labels[3:7, 10:18, 22:30] = 2
    return labels


@pytest.fixture
def notified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What napari's notifications say."""
    said: list[str] = []
    monkeypatch.setattr(notifications, "show_info", said.append)
    return said


class Bench:
    """Labels with a session, in which organs are locked; no dock is open."""

    def __init__(self, viewer: Any, *locked: int) -> None:
        self.viewer, self.sessions = viewer, sessions_of(viewer)
        self.image = add_volume(self.viewer, synthetic_ct(SHAPE)[0], name="ct")
        self.result = self.sessions.new_result(self.image, volume_of(self.image), LABELS)
        self.layer, self.session = self.result.layer, self.result.session
        self.layer.data[...] = _labels()
        self.session.prediction[...] = _labels()
        self.viewer.add_layer(self.layer)
        self.session.locked = frozenset(locked)

    def paint(self, value: int, at: tuple[int, int, int], size: int = 9, dimensions: int = 2) -> None:
        self.viewer.dims.set_point(0, self.layer.data_to_world(at)[0])
        self.layer.n_edit_dimensions, self.layer.brush_size = dimensions, size
        self.layer.paint(at, value)


@pytest.fixture
def bench(make_napari_viewer: Callable[..., Any], notified: list[str]) -> Bench:
    return Bench(make_napari_viewer(), 1)


def test_a_stroke_over_a_locked_organ_keeps_its_other_part_as_one_step(bench, qtbot, notified):
    before = bench.layer.data.copy()
    bench.paint(3, (4, 14, 18), size=11)  # over the rim of the liver
    qtbot.wait(1)
    held = bench.layer.data.copy()
    assert np.array_equal(held == 1, before == 1)
    assert held[4, 14, 18] == 3
    (said,) = notified
    assert "liver is locked" in said
    bench.layer.undo()
    assert np.array_equal(bench.layer.data, before)
    bench.layer.redo()
    assert np.array_equal(bench.layer.data, held)
    bench.layer.redo()
    assert np.array_equal(bench.layer.data, held)
    bench.layer.undo()
    bench.layer.undo()  # there is no second step
    assert np.array_equal(bench.layer.data, before)


def test_a_locked_organ_gets_and_loses_nothing_by_any_of_naparis_tools(bench, qtbot, notified):
    before, layer = bench.layer.data.copy(), bench.layer
    outline = [(4, 9, 8), (4, 9, 16), (4, 18, 16), (4, 18, 8)]
    bench.viewer.dims.set_point(0, layer.data_to_world((4, 14, 12))[0])
    for number, stroke in enumerate(
        (
            lambda: bench.paint(1, (4, 25, 25)),
            lambda: bench.paint(0, (4, 14, 12)),
            lambda: layer.fill((4, 14, 12), 2),
            lambda: layer.paint_polygon(outline, 2),
        )
    ):
        stroke()
        assert not np.array_equal(layer.data, before)
        qtbot.wait(1)
        assert np.array_equal(layer.data, before)
        assert len(notified) == number + 1
        layer.undo()
        layer.redo()
        assert np.array_equal(layer.data, before)


def test_a_brush_and_a_bucket_in_three_dimensions_are_held(bench, qtbot, notified):
    before = bench.layer.data.copy()
    bench.paint(3, (5, 14, 17), size=11, dimensions=3)
    qtbot.wait(1)
    after = bench.layer.data.copy()
    assert np.array_equal(after == 1, before == 1)
    assert (after == 3).any(axis=(1, 2)).sum() > 2
    bench.layer.fill((0, 0, 0), 2)  # all of the background
    qtbot.wait(1)
    assert np.array_equal(bench.layer.data == 1, before == 1)
    assert (bench.layer.data[after == 0] == 2).all()
    bench.layer.undo()
    assert np.array_equal(bench.layer.data, after)
    bench.layer.fill((5, 14, 10), 0)  # the liver
    qtbot.wait(1)
    assert np.array_equal(bench.layer.data, after)
    assert len(notified) == 2


def test_marks_of_slices_in_which_nothing_of_a_stroke_is_left_come_back(bench, qtbot):
    for index in range(SHAPE[0]):
        bench.session.mark_reviewed(index)
    bench.layer.data[5, 14, 21] = 0
    bench.paint(0, (7, 14, 16), size=9, dimensions=3)  # in the liver, and above it, where there is nothing
    qtbot.wait(1)
    assert bench.session.reviewed.keys() == set(range(SHAPE[0]))
    bench.paint(3, (8, 14, 12), size=13, dimensions=3)
    qtbot.wait(1)
    changed = set(np.flatnonzero((bench.layer.data == 3).any(axis=(1, 2))).tolist())
    assert changed
    assert bench.session.reviewed.keys() == (set(range(SHAPE[0])) - changed) | {8}


@pytest.mark.long
def test_strokes_that_wait_together_end_as_if_each_point_had_asked(bench):
    """With other labels, tools and sizes, one over the other; each stays a step of its own."""
    rng = np.random.default_rng(0)
    scratch = bench.viewer.add_labels(np.zeros(SHAPE, np.uint8), scale=bench.layer.scale)
    for number in range(24):
        bench.layer.data[...] = _labels()
        bench.session.locked = locked = frozenset({1, 2} if number % 2 else {1})
        expected = bench.layer.data.copy()
        states = [expected.copy()]
        for _ in range(int(rng.integers(1, 5))):
            with bench.layer.block_history():
                for _ in range(int(rng.integers(1, 4))):
                    at = int(rng.integers(1, 9)), int(rng.integers(4, 22)), int(rng.integers(4, 32))
                    value, size, dimensions = (int(rng.integers(*ends)) for ends in ((0, 4), (1, 14), (2, 4)))
                    bench.paint(value, at, size, dimensions)
                    scratch.data[...] = 0
                    scratch.n_edit_dimensions, scratch.brush_size = dimensions, size
                    scratch.paint(at, 1)
                    if value not in locked:
                        expected[(scratch.data == 1) & ~np.isin(expected, list(locked))] = value
            if not np.array_equal(expected, states[-1]):
                states.append(expected.copy())
        bench.result.undo.check_pending_strokes()
        for state in reversed(states[1:]):
            assert np.array_equal(bench.layer.data, state)
            bench.layer.undo()
        assert np.array_equal(bench.layer.data, states[0])
        for state in states[1:]:
            bench.layer.redo()
            assert np.array_equal(bench.layer.data, state)
        bench.layer.redo()  # once too often
        assert np.array_equal(bench.layer.data, expected)


def test_a_stroke_is_looked_at_when_the_next_one_has_ended_too(bench, qtbot):
    before, layer = bench.layer.data.copy(), bench.layer
    bench.paint(2, (4, 14, 12))
    with layer.block_history():  # the mouse is down again
        bench.paint(3, (4, 14, 14), size=5)
        qtbot.wait(20)
    qtbot.wait(120)
    assert np.array_equal(layer.data, before)
    layer.undo()
    assert np.array_equal(layer.data, before)


def test_labels_without_an_image_keep_their_locks(bench, qtbot, notified):
    layer = new_labels_layer(_labels(), geometry_of(bench.image), LABELS, "restored")
    session = new_session_of(layer)
    session.locked = frozenset({2})
    bench.viewer.add_layer(layer)
    bench.sessions.keep_lone(layer, session)
    bench.layer = layer
    bench.paint(3, (4, 14, 24), size=5)
    bench.paint(3, (4, 14, 12), size=5)
    qtbot.wait(1)
    assert np.array_equal(layer.data == 2, _labels() == 2)
    assert layer.data[4, 14, 12] == 3
    assert len(notified) == 1
    # Once they have an image, it is still one who looks.
    bench.viewer.layers.remove(bench.result.layer)
    bench.sessions.assign_image(layer, bench.image)
    bench.paint(3, (4, 14, 24), size=5)
    qtbot.wait(1)
    assert np.array_equal(layer.data == 2, _labels() == 2)
    assert len(notified) == 2


def test_labels_that_were_an_image_for_a_while_keep_their_locks(bench, qtbot, notified):
    bench.viewer.layers.selection = [bench.layer]
    _convert_to_image(bench.viewer.layers)
    (image,) = bench.viewer.layers.selection
    bench.viewer.layers.selection = [image]
    _convert_to_labels(bench.viewer.layers)
    (bench.layer,) = bench.viewer.layers.selection
    assert bench.sessions.result_of(bench.layer) is not bench.result
    bench.paint(3, (4, 14, 12))
    qtbot.wait(1)
    assert np.array_equal(bench.layer.data, _labels())
    assert len(notified) == 1


def test_labels_without_locks_cost_a_stroke_nothing(bench, qtbot, notified):
    bench.session.locked = frozenset()
    bench.paint(3, (4, 14, 12))
    assert not bench.result.constraint._strokes
    qtbot.wait(1)
    assert (bench.layer.data == 3).any()
    assert not notified


def test_voxels_out_of_a_range_stay_too_and_are_counted(bench, qtbot, notified):
    constraint, before = bench.result.constraint, bench.layer.data.copy()
    told = []
    values = bench.image.data
    constraint.image, constraint.between = values, (float(np.median(values[4])), 10_000.0)
    constraint.say = lambda blocked: told.append(blocked) is None
    bench.paint(3, (4, 14, 18), size=11)
    drawn = bench.layer.data != before
    qtbot.wait(1)
    inside = values >= np.median(values[4])
    assert np.array_equal(bench.layer.data == 3, drawn & inside & (before != 1))
    (blocked,) = told
    assert blocked.outside == np.count_nonzero(drawn & ~inside)
    assert blocked.voxels == np.count_nonzero(drawn & (~inside | (before == 1)))
    assert blocked.locked == {1}
    assert not notified
    constraint.let_go()
    bench.paint(3, (4, 25, 25), size=5)
    qtbot.wait(1)
    assert bench.layer.data[4, 25, 25] == 3


@pytest.mark.skipif(not strokes_are_masks(), reason="this napari keeps strokes as lists of places")
@pytest.mark.parametrize("ranged", [False, True])
def test_a_large_stroke_is_held_by_masks_and_not_by_lists_of_its_places(qtbot, ranged):
    before = np.zeros((40, 60, 60), np.uint8)
    before[:, :30] = 2
    layer = Labels(before.copy())
    layer.n_edit_dimensions, layer.brush_size, layer.selected_label = 3, 34, 1
    constraint = PaintConstraint(layer, lambda _layer: frozenset({2}))
    constraint.say = lambda _blocked: True
    image = np.arange(before.size, dtype=np.int32).reshape(before.shape)
    if ranged:
        constraint.image, constraint.between = image, (0, image.size // 2)
    layer.paint((20, 30, 30), 1)
    painted = layer.data == 1
    # Which take 24 bytes each, and several are needed at a time: they were most of the time that it took.
    tracemalloc.start()
    constraint.check()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * np.count_nonzero(painted)
    kept = painted & (before != 2) & (image <= image.size // 2 if ranged else True)
    assert np.array_equal(layer.data, np.where(kept, 1, before))
    layer.undo()
    assert np.array_equal(layer.data, before)
    layer.redo()
    assert np.array_equal(layer.data, np.where(kept, 1, before))
