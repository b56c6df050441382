"""The dock in random order: locks hold, edits survive runs, undo gives back, and what is saved is what is there."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from napari_transunet.viewer.sessions.autosave_controller import start_autosave
from tests.viewer.review.test_review_dock import SHAPE, ReviewDriver, _prediction


class Walk:
    """Random steps; after each, what must hold of labels and session is looked at."""

    def __init__(self, driver: ReviewDriver, seed: int) -> None:
        self.driver, self.choose = driver, random.Random(seed)
        self.said: list[str] = []

    def step(self) -> None:
        name = self.choose.choice(
            ["paint", "paint", "lock", "range", "run", "tool", "undo", "redo", "mark", "look", "settle"]
        )
        self.said.append(name)
        layer, session = self.driver.layer, self.driver.session
        before, locked = layer.data.copy(), session.locked
        edited = session.edited_mask(before)
        getattr(self, name)()
        if name in ("paint", "run", "tool"):
            for value in locked:
                assert np.array_equal(before == value, layer.data == value), (value, self.said)
        if name == "run":
            assert np.array_equal(layer.data[edited], before[edited]), self.said
        if name in ("lock", "range", "mark", "look"):
            assert np.array_equal(layer.data, before), self.said
        assert self.driver.dock.corrections.constraint.locked == session.locked, self.said

    def paint(self) -> None:
        at = tuple(self.choose.randrange(size) for size in SHAPE)
        layer, image = self.driver.layer, self.driver.image.data
        self.driver.dock.model.go_to(at[0])
        layer.brush_size = self.choose.choice([3, 9])
        before = layer.data.copy()
        layer.paint(at, self.choose.choice([0, 1, 2, 3]))
        self.driver.result.undo.check_pending_strokes()
        between = self.driver.dock.corrections.constraint.between
        if between is not None:
            painted = image[layer.data != before]
            assert ((painted >= between[0]) & (painted <= between[1])).all(), self.said

    def lock(self) -> None:
        value = self.choose.choice([1, 2, 3])
        self.driver.press(f"lock_{value}")

    def range(self) -> None:
        self.driver.dock.tools.toggle_range()

    def run(self) -> None:
        self.driver.run(np.roll(_prediction(), self.choose.randrange(6), axis=2))
        self.driver.qtbot.wait(5)

    def tool(self) -> None:
        layer = self.driver.layer
        layer.selected_label = self.choose.choice([1, 2, 3])
        self.driver.dock.tools.press(self.choose.choice(["smooth", "grow", "holes", "above", "largest"]))
        self.driver.until(lambda: not self.driver.dock.corrections.busy)

    def undo(self) -> None:
        self._there_and_back(self.driver.layer.undo, self.driver.layer.redo)

    def redo(self) -> None:
        self._there_and_back(self.driver.layer.redo, self.driver.layer.undo)

    def _there_and_back(self, there: Callable[[], Any], back: Callable[[], Any]) -> None:
        layer, session = self.driver.layer, self.driver.session
        before, hand = layer.data.copy(), session.edited_voxels(layer.data)
        there()
        if not np.array_equal(layer.data, before):
            back()
            assert np.array_equal(layer.data, before), self.said
            assert session.edited_voxels(layer.data) == hand, self.said
            there()

    def mark(self) -> None:
        self.driver.dock.model.mark_reviewed(self.choose.random() < 0.7)

    def look(self) -> None:
        self.driver.dock.model.next_slice()

    def settle(self) -> None:
        self.driver.qtbot.wait(10)


def _walk(driver: ReviewDriver, seed: int, steps: int) -> None:
    from napari_transunet.annotation.session_store import SessionStore

    walk = Walk(driver, seed)
    for _ in range(steps):
        walk.step()
    autosave = start_autosave(driver.viewer, driver.result)
    assert autosave is not None
    autosave.touch()
    driver.until(lambda: autosave._saver is not None)
    assert autosave.flush()
    (saved,) = SessionStore().sessions()
    arrays = _saved(saved)
    assert np.array_equal(arrays["labels"], driver.layer.data), walk.said
    assert np.array_equal(arrays["prediction"], driver.session.prediction), walk.said


def _saved(info: Any) -> Any:
    from napari_transunet.annotation.session_store import load_folder

    return load_folder(info.folder).arrays


def test_random_edits_for_a_short_while(make_napari_viewer, qtbot):
    _walk(ReviewDriver(make_napari_viewer(), qtbot), seed=1, steps=40)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_random_edits_for_a_long_while(make_napari_viewer, qtbot, seed):
    _walk(ReviewDriver(make_napari_viewer(), qtbot), seed=seed, steps=300)
