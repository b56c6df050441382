"""Both docks in random order: after each operation, labels, sessions and what is saved agree with a simple model.

What holds, whatever is done in whichever order:

- An operation changes the labels that it is about, and no others. A late answer (of a run, a tool, a search) is dropped
  where what it was asked about is gone.
- A run leaves edits and locked organs alone and writes its prediction everywhere else; a tool leaves strokes and locked
  organs alone. Range and locks hold strokes, never runs, tools, undo or restoring.
- There is one session a labels layer, on the image that it was made for, that a person chose, or that alone lies there.
- What is saved is what is there; what was removed, or was open when the window closed, can be restored as it was.
- The window's thread waits for no lock that another thread may hold, and computes no lazy volume.
"""

import random
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtWidgets import QComboBox, QWidget

from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.annotation.session_folder import load_folder
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.inference.prediction import SlicePrediction
from napari_transunet.inference.predictor import Predictor
from napari_transunet.inference.uncertainty import SliceUncertainty
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layers import add_volume, is_lazy
from napari_transunet.viewer.sessions import kept_labels
from napari_transunet.viewer.sessions.autosave_controller import autosave_of
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.docks import REVIEW, find_dock, show_dock
from napari_transunet.volumes.phantom import synthetic_ct
from tests.viewer.segment.test_segment_dock import Dock, checkpoints

__all__ = ["checkpoints"]  # a fixture

SHAPE = (8, 24, 28)
ORGANS = (1, 2, 3)
_MOST_IMAGES, _MOST_LABELS = 3, 5


class Network:
    """Stands in for the network: what it predicts is known, and it computes a slice only when it is let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        self._allowed = threading.Semaphore(0)
        network = self

        def iter_batches(_self: Any, volume: Any, **options: Any) -> Iterator[list[SlicePrediction]]:
            network.runs += 1
            return network._run(network.prediction(network.runs), **options)

        monkeypatch.setattr(Predictor, "iter_batches", iter_batches)

    def prediction(self, run: int) -> np.ndarray:
        """What the run of this number (from 1) finds."""
        rng = np.random.default_rng(run)
        labels = np.zeros(SHAPE, np.uint8)
        for organ in rng.permutation(ORGANS):
            low = [int(rng.integers(0, size // 2)) for size in SHAPE]
            labels[tuple(slice(at, at + size // 2) for at, size in zip(low, SHAPE, strict=True))] = organ
        return labels

    def let(self, slices: int) -> None:
        """Allow so many slices more."""
        for _ in range(slices):
            self._allowed.release()

    def take_back(self) -> None:
        """Allow no more for now."""
        while self._allowed.acquire(blocking=False):
            pass

    def _run(
        self,
        labels: np.ndarray,
        *,
        first: int,
        slices: Sequence[int] | None,
        cancelled: Callable[[], bool],
        uncertainty: bool,
        known: None,
    ) -> Iterator[list[SlicePrediction]]:
        wanted = range(SHAPE[0]) if slices is None else slices
        for index in sorted(wanted, key=lambda at: abs(at - first)):
            while not self._allowed.acquire(timeout=0.005):
                if cancelled():
                    return
            each = np.array([np.nan, 0.1, 0.2, 0.3], np.float16)
            entropy = np.full((64, 64), index / 10, np.float16)
            yield [
                SlicePrediction(
                    index, labels[index], SliceUncertainty(0.2, each, 0.2, each.astype("f4"), entropy)
                )
            ]


class WatchedLock:
    """A lock for which the window's thread must not wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        assert not blocking or threading.current_thread() is not threading.main_thread()
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()


class LazyVoxels:
    """A volume that is computed where it is asked for: plane by plane on the window's thread, never as a whole."""

    def __init__(self, voxels: np.ndarray, computed: list[str]) -> None:
        self._voxels, self._computed = voxels, computed
        self.shape, self.dtype, self.ndim = voxels.shape, voxels.dtype, voxels.ndim

    def __getitem__(self, key: Any) -> Any:
        part = self._voxels[key]
        return LazyVoxels(part, self._computed) if part.ndim == 3 else part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.shape == SHAPE and threading.current_thread() is threading.main_thread():
            self._computed.append("".join(traceback.format_stack(limit=14)))
        return self._voxels.astype(dtype or self.dtype)


@dataclass
class Run:
    """A run that goes on: which labels it writes, what it found there, and what it may not touch."""

    layer: Any
    before: np.ndarray
    prediction: np.ndarray
    edited: np.ndarray
    locked: frozenset[int]  # all the time


@dataclass
class Removed:
    """Labels that are gone from the window, and what must come back; `exact` unless a run was writing into them."""

    autosave: Any
    labels: np.ndarray
    session: dict[str, Any]
    exact: bool = True

    @property
    def folder(self) -> Any:
        return _folder_of(self.autosave)


@dataclass
class Before:
    """A labels layer before an operation."""

    labels: np.ndarray
    hand: np.ndarray | None = None
    locked: frozenset[int] = frozenset()


@dataclass
class Model:
    """What is known without asking the viewer."""

    images: dict[Any, Any] = field(default_factory=dict)  # labels layer -> the image on which it lies
    removed: list[Removed] = field(default_factory=list)
    run: Run | None = None
    tool_on: Any = None  # labels on which a tool may still work


class Walk:
    """Random operations, each as a person does it, and after each a look at what must hold."""

    def __init__(self, viewer: Any, dock: Dock, network: Network, seed: int, computed: list[str]) -> None:
        self.viewer, self.dock, self.network, self.computed = viewer, dock, network, computed
        self.widget = dock.widget
        self.choose = random.Random(seed)
        self.model = Model()
        self.sessions = sessions_of(viewer)
        self.done: list[str] = []
        self.touched: set[Any] = set()  # labels that this operation may change in any way
        self.number = 0
        self.widget.run_started.connect(self._on_run)
        self.widget.recovery.restored.connect(self._on_restored)
        self._open_review()

    @property
    def review(self) -> Any:
        found = find_dock(self.viewer, REVIEW)
        return found if found is not None and found._dock_events.here else None

    @property
    def tool_works(self) -> bool:
        return self.review is not None and self.review.corrections.busy

    @property
    def _active(self) -> Any:
        return self.viewer.layers.selection.active

    def layers(self, kind: str) -> list[Any]:
        return [layer for layer in self.viewer.layers if layer._type_string == kind]

    def labels(self, *, editable: bool = False) -> Any:
        """Any labels, or any that have a session and can be edited now; None where there are none."""
        found = self.layers("labels")
        if editable:
            found = [
                layer for layer in found if layer.editable and self.sessions.result_of(layer) is not None
            ]
        return self.choose.choice(found) if found else None

    def chance(self, share: float) -> bool:
        return self.choose.random() < share

    # -- one step -------------------------------------------------------------------------------------------

    def step(self) -> None:
        (name,) = self.choose.choices(list(_OPERATIONS), list(_OPERATIONS.values()))
        before = {layer: self._before(layer) for layer in self.layers("labels")}
        self.touched = set()
        self.done.append(name)
        getattr(self, name)()
        self.dock.qtbot.wait(2)
        self.check(before)

    def _before(self, layer: Any) -> Before:
        result, labels = self.sessions.result_of(layer), layer.data.copy()
        if result is None:
            return Before(labels)
        return Before(labels, result.session.manual_edit_mask(labels), result.session.locked)

    def check(self, before: dict[Any, Before]) -> None:
        said = self.done[-15:]
        assert not self.computed, self.computed[0]
        run = self.model.run
        for layer, was in before.items():
            changed = layer.data != was.labels
            if run is not None and layer is run.layer:
                self._check_run(run)
            elif layer is self.model.tool_on and layer not in self.touched:
                assert not changed[was.hand].any(), said
                for value in was.locked:
                    assert np.array_equal(layer.data == value, was.labels == value), (value, said)
            else:
                assert layer in self.touched or not changed.any(), (layer.name, said)
        if not self.widget.running:
            self.model.run = None
        if not self.tool_works:
            self.model.tool_on = None
        self._check_ties(said)
        self._check_docks(said)

    def _check_run(self, run: Run) -> None:
        labels, said = run.layer.data, self.done[-15:]
        kept = labels == run.before
        assert (kept | (labels == run.prediction)).all(), said
        assert kept[run.edited].all(), said
        run.locked &= self.sessions.result_of(run.layer).session.locked
        for value in run.locked:
            assert np.array_equal(labels == value, run.before == value), (value, said)

    def _check_ties(self, said: list[str]) -> None:
        layers = [each for each in self.layers("labels") if self.sessions.result_of(each) is not None]
        found = [self.sessions.result_of(layer) for layer in layers]
        assert len({id(result.session) for result in found}) == len(found), said
        for layer, result in zip(layers, found, strict=True):
            assert result.layer is layer, said
            image = self.sessions.image_of(result)
            if layer not in self.model.images:  # tied by itself: only to an image that alone lies there
                assert self.sessions.images_on_grid_of(layer) == [image], (layer.name, said)
                self.model.images[layer] = image
            expected = self.model.images[layer]
            assert image is (expected if expected in self.viewer.layers else None), (layer.name, said)
            if image is not None and layer.editable and result.session.edited_voxels(layer.data):
                assert autosave_of(result) is not None, (
                    layer.name,
                    said,
                    self.review and self.review.model.layer,
                )
        self.model.images = {a: b for a, b in self.model.images.items() if a in self.viewer.layers}

    def _check_docks(self, said: list[str]) -> None:
        assert _texts(self.widget, "volume") == {layer.name for layer in self.layers("image")}, said
        meant = self.widget.result
        if meant is not None and not self.widget.running:
            assert meant.layer in self.viewer.layers, said
            assert meant.lies_on(self.widget.volume.layer), said
        if self.review is not None:
            model = self.review.model
            assert model.layer is None or model.layer in self.viewer.layers, said
            if model.result is not None:
                assert model.result is self.sessions.result_of(model.layer), said
                assert self.review.corrections.locked == model.result.session.locked, said
            assert _texts(self.review, "review_labels") == {each.name for each in self.layers("labels")}, said

    # -- both docks and the list of layers ------------------------------------------------------------------

    def open(self) -> None:
        """Another volume: where others lie, somewhere else, or one that is computed where it is shown."""
        if len(self.layers("image")) >= _MOST_IMAGES:
            return
        self.number += 1
        volume, _, _ = synthetic_ct(
            SHAPE, self.choose.randrange(3)
        )  # few, so that saved labels are met again
        name, kind = f"ct {self.number}", self.choose.random()
        if kind < 0.2:
            voxels = LazyVoxels(np.asarray(volume.data), self.computed)
            limits, at = (-200, 300), (500.0 * self.number, 0, 0)
            self.viewer.add_image(voxels, name=name, contrast_limits=limits, translate=at, multiscale=False)
        else:
            image = add_volume(self.viewer, volume, name=name)
            if kind > 0.8:
                image.translate = (500.0 * self.number, 0, 0)

    def choose_image(self) -> None:
        if self.layers("image"):
            self.widget.volume.choose(self.choose.choice(self.layers("image")))
            self.widget.volume.picked.emit(self.widget.volume.layer)

    def choose_labels(self) -> None:
        """In the dock *Segment volume*: a person says that labels lie on the chosen image."""
        if self.widget.running or self.widget.volume.layer is None:
            return
        combo = self.widget.findChild(QComboBox, "labels")
        at = self.choose.randrange(combo.count())
        layer = combo.itemData(at)
        if layer is not None:
            self.model.images[layer] = self.widget.volume.layer
        combo.setCurrentIndex(at)
        combo.activated.emit(at)

    def duplicate(self) -> None:
        layer = self.labels()
        if layer is not None and len(self.layers("labels")) < _MOST_LABELS:
            self.viewer.layers.selection = {layer}
            _duplicate_layer(self.viewer.layers)
            known = list(self.viewer.layers)
            copy = known[known.index(layer) + 1]
            meant = layer if self.sessions.result_of(layer) is not None else copy
            # The brush stays with what has a session, unless labels that are being restored come just then.
            self.dock.until(lambda: self._active is meant or self._active not in known)

    def rename(self) -> None:
        if self.viewer.layers:
            self.number += 1
            self.choose.choice(list(self.viewer.layers)).name = f"layer {self.number}"

    def remove_labels(self) -> None:
        layer = self.labels()
        if layer is None:
            return
        result = self.sessions.result_of(layer)
        if result is not None and autosave_of(result) is not None:
            writing = self.model.run is not None and self.model.run.layer is layer
            state = result.session.state()
            self.model.removed.append(Removed(autosave_of(result), layer.data.copy(), state, not writing))
        self.viewer.layers.remove(layer)

    def remove_image(self) -> None:
        if self.layers("image"):
            self.viewer.layers.remove(self.choose.choice(self.layers("image")))

    def answer(self) -> None:
        if self.widget.question.open:
            self.dock.press("question_yes" if self.chance(0.6) else "question_no")

    def restore(self) -> None:
        """Labels that were saved, by whichever dock; sometimes the image goes before the answer comes."""
        saved = [info for info in SessionStore().sessions() if not info.in_use]
        images = [layer for layer in self.layers("image") if not is_lazy(layer)]
        if not saved or len(self.layers("labels")) >= _MOST_LABELS:
            return
        info = self.choose.choice(saved)
        fitting = [image for image in images if fingerprint_job(image)() == info.about.fingerprint]
        if fitting:
            image = self.choose.choice(fitting)
            by = self.review if self.review is not None and self.chance(0.5) else self.widget
            by.recovery.restore(image, info)
            if self.chance(0.15):
                self.viewer.layers.remove(image)
            if self.chance(0.5):
                self.dock.until(lambda: not by.recovery._tasks.busy)

    def _on_restored(self, result: Any) -> None:
        layer = result.layer
        self.model.images[layer] = self.sessions.image_of(result)
        assert self.model.images[layer] is not None
        folder = _folder_of(autosave_of(result))
        known = next((each for each in reversed(self.model.removed) if each.folder == folder), None)
        if known is not None and known.exact:
            assert np.array_equal(layer.data, known.labels), self.done
            assert _essence(result.session.state()) == _essence(known.session), self.done

    def wait(self) -> None:
        self.dock.qtbot.wait(self.choose.choice([5, 30, 120]))

    def check_saved(self) -> None:
        for layer in self.layers("labels"):
            autosave = autosave_of(result) if (result := self.sessions.result_of(layer)) is not None else None
            if autosave is None:
                continue
            self.dock.until(lambda autosave=autosave: autosave._saver is not None)
            assert autosave.flush()
            saved = load_folder(_folder_of(autosave))
            assert np.array_equal(saved.arrays["labels"], layer.data), (layer.name, self.done)
            assert np.array_equal(saved.arrays["prediction"], result.session.prediction), (
                layer.name,
                self.done,
            )
            state = result.session.state()
            if result.run is not None:  # what goes on is saved as far as it is
                state["runs"].append(asdict(result.run))
            assert _essence(saved.state["session"]) == _essence(state), (layer.name, self.done)
            assert saved.state["layer"]["name"] == layer.name, self.done
        for removed in self.model.removed:
            self._check_removed(removed)

    def _check_removed(self, removed: Removed) -> None:
        if self.model.run is not None and not removed.exact:
            return  # its last slices may still come
        self.dock.until(lambda: not removed.autosave.saving)
        again = [self.sessions.result_of(layer) for layer in self.layers("labels")]
        taken_up = {_folder_of(autosave_of(each)) for each in again if each is not None and autosave_of(each)}
        later = [other for other in self.model.removed if other.folder == removed.folder][-1]
        if removed.exact and removed is later and removed.folder not in taken_up:
            saved = load_folder(removed.folder)
            assert np.array_equal(saved.arrays["labels"], removed.labels), self.done
            assert _essence(saved.state["session"]) == _essence(removed.session), self.done

    # -- the dock Segment volume ----------------------------------------------------------------------------

    def segment(self) -> None:
        self._press("segment_volume")

    def segment_slice(self) -> None:
        self._press("segment_slice")

    def _press(self, name: str) -> None:
        full = len(self.layers("labels")) >= _MOST_LABELS and self.widget._destination() is None
        if not self.widget.running and self.dock.button(name).isEnabled() and not full:
            self.network.take_back()
            self.dock.press(name)

    def _on_run(self) -> None:
        run = self.widget.segmentation.run
        result = run.result
        layer = result.layer
        self.model.images.setdefault(layer, run.image)
        assert self.model.images[layer] is run.image, self.done
        assert run.image is self.widget.volume.layer, self.done
        before = layer.data.copy()
        self.model.run = Run(
            layer,
            before,
            self.network.prediction(self.network.runs + 1),
            result.session.edited_mask(before),
            result.session.locked,
        )

    def let_run(self) -> None:
        self.network.let(self.choose.choice([1, 2, 4]))

    def cancel(self) -> None:
        if self.dock.button("cancel").isEnabled():
            self.dock.press("cancel")
            if self.chance(0.5):
                self.dock.until(lambda: not self.widget.running)

    def finish_run(self) -> None:
        if self.widget.running:
            self.network.let(SHAPE[0])
            self.dock.until(lambda: not self.widget.running)
            run = self.model.run
            outcome = run is not None and run.layer in self.viewer.layers
            if outcome:
                self._check_run(run)

    # -- the dock Review and correct ------------------------------------------------------------------------

    def _open_review(self) -> None:
        show_dock(self.viewer, REVIEW)
        self.review.recovery.restored.connect(self._on_restored)

    def close_review(self) -> None:
        """Close the dock, or open it again."""
        if self.review is None:
            self._open_review()
        else:
            self.viewer.window.remove_dock_widget(self.review.parent())

    def review_other(self) -> None:
        layer = self.labels()
        if self.review is not None and layer is not None:
            self.viewer.layers.selection.active = layer

    def choose_image_of_labels(self) -> None:
        """A person says on which image the reviewed labels lie, where that is not certain."""
        if self.review is None or self.review.model.undecided is None:
            return
        combo = self.review.findChild(QComboBox, "review_image")
        if combo.count():
            at = self.choose.randrange(combo.count())
            self.model.images[self.review.model.undecided] = combo.itemData(at)
            combo.setCurrentIndex(at)
            combo.activated.emit(at)

    def paint(self) -> None:
        layer = self.labels(editable=True)
        if layer is None:
            return
        self.viewer.layers.selection.active = layer
        self.touched.add(layer)
        result, before = self.sessions.result_of(layer), layer.data.copy()
        at = tuple(self.choose.randrange(size) for size in SHAPE)
        self.viewer.dims.set_point(0, layer.data_to_world(at)[0])
        layer.brush_size = self.choose.choice([3, 9])
        layer.paint(at, self.choose.choice([0, *ORGANS]))
        result.undo.check_pending_strokes()
        changed = layer.data != before
        for value in result.session.locked:
            assert not (changed & ((before == value) | (layer.data == value))).any(), self.done
        image, constraint = self.sessions.image_of(result), result.constraint
        if self.review is None or self.review.model.layer is not layer:
            assert constraint.between is None, self.done
        if constraint.between is not None and image is not None and not is_lazy(image):
            painted = image.data[changed]
            assert ((painted >= constraint.between[0]) & (painted <= constraint.between[1])).all(), self.done

    def undo(self) -> None:
        self._there_and_back("undo", "redo")

    def redo(self) -> None:
        self._there_and_back("redo", "undo")

    def _there_and_back(self, there: str, back: str) -> None:
        layer = self.labels(editable=True)
        if layer is None:
            return
        self.touched.add(layer)
        session, before = self.sessions.result_of(layer).session, layer.data.copy()
        edited, state = session.edited_voxels(before), _essence(session.state())
        getattr(layer, there)()
        if not np.array_equal(layer.data, before):
            getattr(layer, back)()
            assert np.array_equal(layer.data, before), self.done
            assert session.edited_voxels(layer.data) == edited, self.done
            assert _essence(session.state()) == state, self.done
            getattr(layer, there)()

    def lock(self) -> None:
        if self.review is not None and self.review.model.result is not None:
            button = self.review.findChild(QWidget, f"lock_{self.choose.choice(ORGANS)}")
            if button is not None and button.isEnabled():
                button.click()

    def range(self) -> None:
        if self.review is not None:
            self.review.tools.toggle_range()

    def tool(self) -> None:
        if self.review is None or self.review.model.layer is None or self.tool_works:
            return
        layer = self.review.model.layer
        layer.selected_label = self.choose.choice(ORGANS)
        self.review.tools.press(self.choose.choice(["smooth", "grow", "holes", "above", "largest"]))
        if self.tool_works:
            self.model.tool_on = layer

    def finish_tool(self) -> None:
        self.dock.until(lambda: not self.tool_works)

    def mark(self) -> None:
        if self.review is not None:
            self.review.model.mark_reviewed(self.chance(0.7))

    def note(self) -> None:
        if self.review is not None:
            self.review.model.note(self.choose.randrange(SHAPE[0]), self.choose.choice(["", "tip", "rim"]))

    def go(self) -> None:
        if self.review is not None:
            self.review.model.next_slice()

    # -- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the window in the middle of whatever goes on: what it held then is what is saved."""
        open_now = [self.sessions.result_of(layer) for layer in self.layers("labels")]
        kept = [(each, autosave_of(each), each.layer) for each in open_now if each is not None]
        self.model.run = None
        self.viewer.close()
        for result, autosave, layer in kept:
            if autosave is None:
                continue
            self.dock.until(lambda autosave=autosave: not autosave.saving)
            saved = load_folder(_folder_of(autosave))
            assert np.array_equal(saved.arrays["labels"], layer.data), (layer.name, self.done)
            assert _essence(saved.state["session"]) == _essence(result.session.state()), self.done


_OPERATIONS = {
    "open": 4, "choose_image": 3, "choose_labels": 2, "duplicate": 2, "rename": 2, "remove_labels": 2,
    "remove_image": 1, "answer": 5, "restore": 4, "wait": 2, "check_saved": 2,
    "segment": 5, "segment_slice": 1, "let_run": 6, "cancel": 2, "finish_run": 3,
    "close_review": 1, "review_other": 3, "choose_image_of_labels": 2, "paint": 9, "undo": 3, "redo": 2, "lock": 3,
    "range": 2, "tool": 5, "finish_tool": 3, "mark": 2, "note": 1, "go": 2,
}  # fmt: skip
"""What a person does, and how often."""


def _folder_of(autosave: Any) -> Any:
    return (autosave._folder or autosave._saver._folder).path


def _essence(state: dict[str, Any]) -> tuple[Any, ...]:
    """What of a session's state a person would miss."""
    runs = [(run["date"], run["slices"]) for run in state["runs"]]
    return sorted(state["reviewed"]), state["notes"], state["locked"], state["axis"], state["names"], runs


def _texts(dock: Any, name: str) -> set[str]:
    combo = dock.findChild(QComboBox, name)
    return {combo.itemText(at) for at in range(combo.count())}


@pytest.fixture
def walk(make_napari_viewer, qtbot, checkpoints, monkeypatch) -> Callable[[int, int], None]:
    """Walks so many steps from a seed, closes the window, and looks at what is left."""
    network, computed = Network(monkeypatch), list[str]()
    monkeypatch.setattr(kept_labels, "threading", SimpleNamespace(Lock=WatchedLock))
    monkeypatch.setitem(Autosaver.__init__.__kwdefaults__, "quiet", 0.05)
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(checkpoints))
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
    dock = Dock(viewer, widget, qtbot)
    dock.until(lambda: bool(widget.checkpoint.candidates))
    dock.choose("checkpoint", "Three organs, CT")

    def go(seed: int, steps: int) -> None:
        walk = Walk(viewer, dock, network, seed, computed)
        walk.open()
        for _ in range(steps):
            walk.step()
        walk.close()

    return go


def test_a_few_operations_in_random_order(walk):
    walk(1, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_operations_in_random_order(walk, seed):
    walk(seed, 300)
