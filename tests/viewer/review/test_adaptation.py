"""*Learn from my corrections* as a person uses it: real buttons, a real (tiny) network, a real thread."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QComboBox, QLabel, QPushButton, QToolButton

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.info import inspect_checkpoint
from napari_transunet.checkpoints.lineage import Adaptation, DiceChange
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.training import adaptation
from napari_transunet.training.fine_tuning import AdaptationCancelled
from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.viewer.layers.undo import history_of
from napari_transunet.viewer.review.adaptation import ClassMapping, safe_stem
from napari_transunet.viewer.review.adaptation_controller import _answer_sentence
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.labels import Label
from napari_transunet.volumes.phantom import synthetic_ct
from tests.networks import small_network

NAMES = {1: "liver", 2: "spleen", 3: "kidney_left"}
SHAPE = (8, 48, 56)
TIMEOUT = 120_000  # ms; machines that run tests may be busy


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's checkpoints: one that finds three organs in CT."""
    net = small_network()
    card = default_card(net, labels=NAMES, title="Three organs, CT", modality="CT", orientation="LPS")
    save_checkpoint(tmp_path / "three.safetensors", net, card)
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path))
    return tmp_path


class Window:
    """Both docks, and short names for what a person does."""

    def __init__(self, viewer: Any, qtbot: Any, folder: Path) -> None:
        self.viewer, self.qtbot, self.folder = viewer, qtbot, folder
        _, self.segment = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
        self.until(lambda: bool(self.segment.checkpoint.candidates))
        combo = self.segment.findChild(QComboBox, "checkpoint")
        combo.setCurrentIndex(combo.findText("Three organs, CT"))
        volume, self.truth, _ = synthetic_ct(SHAPE)
        self.image = add_volume(viewer, volume, name="ct")
        self.segment.volume.choose(self.image)
        self.segment.segment_volume()
        self.until(lambda: not self.segment.running)
        self.layer = viewer.layers["ct labels"]
        self.session = sessions_of(viewer).result_of(self.layer).session
        _, self.dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
        self.until(lambda: self.dock.model.overview is not None)

    def until(self, condition: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(condition, timeout=TIMEOUT)

    def correct(self, *slices: int) -> None:
        """Draw the truth into slices and mark them as reviewed."""
        for index in slices:
            self.layer.data_setitem(
                np.nonzero(np.ones(SHAPE, bool) & (np.arange(SHAPE[0]) == index)[:, None, None]),
                np.where(self.truth[index] > 3, 0, self.truth[index]).ravel().astype(np.uint8),
            )
            self.dock.model.go_to(index)
            self.dock.model.mark_reviewed(True)
        self.dock.model.update_overview()
        self.until(lambda: not self.dock.model._tasks.busy)

    def button(self, name: str) -> QPushButton:
        return self.dock.findChild(QPushButton, name)

    def press(self, name: str) -> None:
        button = self.button(name) or self.dock.findChild(QToolButton, name)
        assert button.isEnabled(), button.toolTip()
        button.click()

    def text(self, name: str) -> str:
        return self.dock.findChild(QLabel, name).text()

    @property
    def answered(self) -> bool:
        return not self.button("learn_use").parentWidget().isHidden()

    @property
    def checkpoint(self) -> Path:
        return self.segment.checkpoint.candidate.path


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], qtbot: Any, folder: Path) -> Iterator[Window]:
    window = Window(make_napari_viewer(), qtbot, folder)
    yield window
    vars(window).clear()  # pytest keeps what a fixture gave until the viewer was looked for


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Learning that waits for this event in its first step, where it is asked to stop within."""
    go_on = threading.Event()
    begun = adaptation.adapt

    def waiting(*args: Any, cancelled: Callable[[], bool], **kwargs: Any) -> Any:
        while not go_on.wait(0.02):
            if cancelled():
                raise AdaptationCancelled("stopped")
        return begun(*args, cancelled=lambda: False, steps=1, **kwargs)

    monkeypatch.setattr(adaptation, "adapt", waiting)
    yield go_on
    go_on.set()


@pytest.mark.long
def test_slices_to_learn_from_are_proposed_far_apart_and_each_once(window: Window) -> None:
    window.layer.data_setitem(
        np.nonzero(np.ones(SHAPE, bool)), window.truth.clip(0, 3).ravel().astype(np.uint8)
    )
    window.dock.model.update_overview()
    window.until(lambda: not window.dock.model._tasks.busy)
    proposed = []
    for _ in range(3):
        window.press("learn_next")
        proposed.append(window.dock.model.slice_in_view)
    assert len(set(proposed)) == 3
    assert all(window.truth[index].any() for index in proposed)


def test_it_says_why_it_cannot_learn_yet_and_what_from(window: Window) -> None:
    assert not window.button("learn").isEnabled()
    window.correct(2)
    assert not window.button("learn").isEnabled()
    assert "1 more" in window.button("learn").toolTip()
    window.correct(5)
    assert window.button("learn").isEnabled()
    assert "2 reviewed slices, 3 organs" in window.text("learn_from")


def test_learning_using_it_and_undoing(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = adaptation.adapt

    def sure(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, steps=2, **kwargs)
        with torch.no_grad():  # two steps need not change a label, but this does
            found.model.segmentation_head[0].bias[2] += 100
        return found

    monkeypatch.setattr(adaptation, "adapt", sure)
    window.correct(1, 3, 5, 6)
    window.layer.data[0, :4, :4] = 2  # a stroke in a slice that nobody reviewed
    before, reviewed, parent = window.layer.data.copy(), set(window.session.reviewed), window.checkpoint
    window.press("learn")
    assert not window.button("learn").isEnabled()
    window.until(lambda: window.answered)
    assert window.dock._sections[window.dock.learning].header.isChecked()
    assert "→" in window.text("learn_status")
    assert np.array_equal(window.layer.data, before)
    assert sorted(path.name for path in window.folder.iterdir()) == ["three.safetensors"]

    depth = history_of(window.layer)[0]
    window.press("learn_use")
    window.until(lambda: window.segment.running or window.checkpoint != parent)
    window.until(lambda: not window.segment.running and not window.dock.adaptation.busy)
    assert window.checkpoint == window.folder / "three-learnt.safetensors"
    story = load_checkpoint(window.checkpoint).card.lineage[-1]
    assert story.parent == load_checkpoint(parent).sha256
    assert story.scans[0].slices == (1, 3, 5, 6)
    changed = window.layer.data != before
    assert changed.any()
    assert not changed[[1, 3, 5, 6]].any()
    assert not changed[0, :4, :4].any()
    assert set(window.session.reviewed) == reviewed
    assert len(window.session.runs) == 2
    assert history_of(window.layer)[0] == depth + 1

    window.layer.undo()
    assert np.array_equal(window.layer.data, before)
    assert set(window.session.reviewed) == reviewed
    assert len(window.session.runs) == 1

    window.until(lambda: window.dock.findChild(QComboBox, "lineage").count() == 1)
    window.press("go_back")
    window.until(lambda: window.checkpoint == parent)


def test_cancelling_changes_nothing(window: Window, held: threading.Event) -> None:
    window.correct(2, 5)
    before = window.layer.data.copy()
    window.press("learn")
    window.press("learn_cancel")
    window.until(lambda: not window.dock.adaptation.busy and window.button("learn").isEnabled())
    assert not window.answered
    assert np.array_equal(window.layer.data, before)
    assert len(list(window.folder.iterdir())) == 1


@pytest.mark.long
def test_closing_the_window_stops_learning(window: Window, held: threading.Event) -> None:
    window.correct(2, 5)
    window.press("learn")
    controller = window.dock.adaptation
    assert controller.busy
    window.viewer.close()
    assert not controller.busy


@pytest.mark.parametrize(
    "what", ["labels", *(pytest.param(what, marks=pytest.mark.long) for what in ("image", "array"))]
)
def test_an_answer_about_labels_that_are_gone_is_dropped(
    window: Window, held: threading.Event, what: str
) -> None:
    window.correct(2, 5)
    window.press("learn")
    held.set()
    window.dock.adaptation._tasks._finishing[0].join(
        TIMEOUT / 1000
    )  # the answer is there, and was not heard yet
    if what == "labels":
        window.viewer.layers.remove(window.layer)
    elif what == "image":
        window.viewer.layers.remove(window.image)
    else:
        window.layer.data = window.layer.data.copy()
    window.until(lambda: not window.dock.adaptation._tasks.busy)
    assert not window.answered
    assert len(list(window.folder.iterdir())) == 1


def test_what_is_not_better_is_to_be_discarded(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = adaptation.adapt

    def worse(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, steps=1, **kwargs)
        story = found.card.lineage[-1].model_copy(
            update={"dice": {"liver": DiceChange(before=0.9, after=0.8)}}
        )
        object.__setattr__(found, "card", found.card.updated(lineage=(story,)))
        return found

    monkeypatch.setattr(adaptation, "adapt", worse)
    window.correct(2, 5)
    window.press("learn")
    window.until(lambda: window.answered)
    assert "0.90 → 0.80" in window.text("learn_status")
    row = window.button("learn_use").parentWidget().layout()
    assert row.indexOf(window.button("learn_discard")) < row.indexOf(window.button("learn_use"))
    window.press("learn_discard")
    assert not window.answered
    assert window.button("learn").isEnabled()


def test_the_answer_tells_what_was_forgotten() -> None:
    story = Adaptation(
        dice={"liver": DiceChange(before=0.9, after=0.95)},
        retained={
            "liver": DiceChange(before=0.95, after=0.93),
            "aorta": DiceChange(before=0.91, after=0.45),
            "bladder": DiceChange(),
        },
        seconds=100,
    )

    assert _answer_sentence(story).endswith(
        " Dice on slices known before: 0.93 → 0.69, the most lost by aorta, 0.91 → 0.45."
    )
    slight = story.model_copy(update={"retained": {"liver": DiceChange(before=0.95, after=0.93)}})
    assert _answer_sentence(slight).endswith(" Dice on slices known before: 0.95 → 0.93.")
    assert "known before" not in _answer_sentence(story.model_copy(update={"retained": {}}))


def test_a_new_organ_is_learnt_by_its_name(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "adapt", partial(adaptation.adapt, steps=1))
    window.dock.organ_actions.put_label(None, Label(4, "bladder", (0.1, 0.8, 0.2)))
    window.correct(2, 5)
    window.layer.data[2, 20:30, 20:30] = 4
    window.dock.model.update_overview()
    window.until(lambda: "new" in window.text("learn_from"))
    window.press("learn")
    window.until(lambda: window.answered)
    assert window.dock.adaptation._answer[1].story.added == ("bladder",)
    window.press("learn_use")
    window.until(lambda: window.checkpoint.name == "three-learnt.safetensors")
    window.until(lambda: not window.segment.running)
    assert window.session.names == NAMES | {4: "bladder"}
    assert (window.layer.data[2, 20:30, 20:30] == 4).all()


def test_labels_of_other_numbers_are_matched_by_name(folder: Path) -> None:
    candidate = inspect_checkpoint(folder / "three.safetensors")
    organs = ClassMapping.of(candidate, {5: "Spleen", 7: "tumour", 9: "cyst"}, [5, 7])
    assert organs.known == {5: 2}
    assert organs.new_names == {4: "tumour"}
    labels = np.array([0, 5, 7, 9, 3])
    assert organs.classes_of(labels, [5, 7, 9]).tolist() == [0, 2, 4, 0, 255]
    assert organs.values(5) == (0, 0, 5, 0, 7)


@pytest.mark.parametrize(
    ("parent", "stem"),
    [
        ("abdomen", "abdomen-learnt"),
        ("abdomen-learnt-12", "abdomen-learnt"),
        ("../../Bauch (CT) ä", "Bauch-CT-learnt"),
        ("§§", "checkpoint-learnt"),
        ("x" * 300, "x" * 80 + "-learnt"),
    ],
)
def test_the_name_of_what_learnt_is_safe_and_does_not_grow(parent: str, stem: str) -> None:
    assert safe_stem(parent) == stem
