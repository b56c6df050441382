"""Autosave: in time, only what changed, and nothing lost by a kill."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from napari_transunet.annotation import session_folder
from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.annotation.session_folder import SessionAbout
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.errors import FileProblem

SHAPE = (6, 8, 8)
QUIET, AT_MOST = 0.05, 0.25


class Desk:
    """An array that is saved, and what the saver said."""

    def __init__(self, root: Path, **delays: float) -> None:
        self.labels = np.zeros(SHAPE, np.uint8)
        self.note = 0
        self.saves: list = []
        self.problems: list[str] = []
        self.folder = SessionStore(root).create(SessionAbout("a" * 64, "ct", None, SHAPE, (1, 1, 1), "now"))
        self.saver = Autosaver(
            self.folder,
            {"labels": lambda: self.labels, "flags": lambda: None},
            lambda: {"note": self.note},
            on_saved=self.saves.append,
            on_problem=self.problems.append,
            **({"quiet": QUIET, "at_most": AT_MOST} | delays),
        )

    def files(self) -> list[Path]:
        return sorted(self.folder.path.glob("*.part"))


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.saver.stop()


def _until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.005)


def test_a_stroke_is_saved_soon_and_only_what_changed(desk):
    desk.labels[2] = 7
    desk.saver.touch()
    _until(lambda: desk.saves)
    desk.labels[3, 0, 0] = 1
    desk.saver.touch()
    _until(lambda: len(desk.saves) == 2)
    parts = [session_folder.read_part(path) for path in desk.files()]
    assert [part.whole for part in parts] == [True, False]
    assert [index for _, index, _ in parts[1].planes()] == [3]
    assert np.array_equal(desk.folder.load().arrays["labels"], desk.labels)


def test_nothing_is_written_where_nothing_changed(desk):
    assert desk.saver.flush()
    assert desk.saver.flush()
    assert len(desk.files()) == 1
    desk.note = 1  # the state alone is a change too
    assert desk.saver.flush()
    assert len(desk.files()) == 2
    assert desk.folder.load().state == {"note": 1}


def test_ceaseless_strokes_are_saved_too(tmp_path):
    desk = Desk(tmp_path, quiet=5.0, at_most=0.2)
    end = time.monotonic() + 4
    while time.monotonic() < end and not desk.saves:
        desk.labels[0, 0, 0] += 1
        desk.saver.touch()
        time.sleep(0.01)
    desk.saver.stop()
    assert desk.saves


def test_touching_takes_no_time(desk):
    began = time.perf_counter()
    for _ in range(1000):
        desk.saver.touch()
    assert time.perf_counter() - began < 1.0


def test_closing_saves_what_is_left_and_lets_go(tmp_path):
    desk = Desk(tmp_path, quiet=60.0, at_most=60.0)
    desk.labels[1] = 3
    desk.saver.touch()
    assert desk.saver.close()
    info = SessionStore(tmp_path).sessions()[0]
    assert not info.in_use
    assert (SessionStore(tmp_path).open(info).load().arrays["labels"][1] == 3).all()


def test_closing_saves_what_was_painted_during_a_slow_save_too(tmp_path, monkeypatch):
    real, begun, go = session_folder.write_part, threading.Event(), threading.Event()

    def slow(*args, **more):
        begun.set()
        go.wait(60)
        return real(*args, **more)

    monkeypatch.setattr(session_folder, "write_part", slow)
    desk = Desk(tmp_path)
    desk.labels[1] = 3
    desk.saver.touch()
    begun.wait(60)
    desk.labels[2] = 4
    wait = desk.saver._idle.wait
    monkeypatch.setattr(
        desk.saver._idle, "wait", lambda limit: wait(None if limit is None else 0)
    )  # it runs out
    threading.Timer(0.1, go.set).start()
    assert desk.saver.close()
    assert np.array_equal(session_folder.load_folder(desk.folder.path).arrays["labels"], desk.labels)


def test_a_full_disk_is_said_once_and_saving_goes_on_later(desk, monkeypatch):
    def full(*_args, **_kwargs):
        raise FileProblem("Cannot write to /disk: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(session_folder, "write_part", full)
        desk.labels[1] = 1
        desk.saver.touch()
        _until(lambda: desk.problems)
        assert not desk.saver.flush(2)
        time.sleep(0.3)
        assert len(desk.problems) == 1
        assert "No space left" in desk.problems[0]
        assert "not being saved" in desk.problems[0]
    _until(lambda: desk.saves)
    assert np.array_equal(desk.folder.load().arrays["labels"], desk.labels)


def test_a_new_array_takes_the_place_of_the_old_one(desk):
    desk.labels[1] = 1
    assert desk.saver.flush()
    desk.labels = np.full((3, 4, 4), 9, np.uint16)
    assert desk.saver.flush()
    loaded = desk.folder.load().arrays["labels"]
    assert loaded.dtype == np.uint16
    assert np.array_equal(loaded, desk.labels)


def test_edits_while_it_saves_are_not_lost(desk):
    stop = threading.Event()

    def edit():
        rng = random.Random(0)
        while not stop.is_set():
            desk.labels[rng.randrange(6), rng.randrange(8), rng.randrange(8)] = rng.randrange(255)
            desk.saver.touch()

    thread = threading.Thread(target=edit)
    thread.start()
    time.sleep(0.6)
    stop.set()
    thread.join()
    assert desk.saver.flush()
    assert np.array_equal(desk.folder.load().arrays["labels"], desk.labels)


def test_a_listener_that_fails_does_not_end_the_saving(tmp_path):
    desk = Desk(tmp_path)
    desk.saver._on_saved = lambda _when: 1 / 0
    for value in (1, 2):
        desk.labels[0] = value
        assert desk.saver.flush()
    assert (desk.folder.load().arrays["labels"][0] == 2).all()
    desk.saver.stop()


def test_the_lock_is_kept_as_long_as_a_save_is_under_way(tmp_path, monkeypatch):
    desk = Desk(tmp_path)
    go = threading.Event()
    real = session_folder.write_part
    monkeypatch.setattr(session_folder, "write_part", lambda *a, **k: (go.wait(60), real(*a, **k))[1])
    desk.saver.touch()
    time.sleep(0.2)
    desk.saver.stop(0.1)
    store = SessionStore(tmp_path)
    with pytest.raises(FileProblem, match="Another window"):
        session_folder.hold(desk.folder.path, desk.folder.about)
    go.set()
    _until(lambda: store.sessions() and not store.sessions()[0].in_use)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by a signal")
@pytest.mark.parametrize(
    "kills", [pytest.param(7, marks=pytest.mark.long), pytest.param(50, marks=pytest.mark.slow)]
)
def test_kills_lose_no_edit_older_than_the_delay(tmp_path, kills):
    """Each child goes on from what the last one left, so that damage would add up."""
    rng = random.Random(7)
    script = Path(__file__).with_name("saving_victim.py")
    store = SessionStore(tmp_path)
    opened, judged = 0, 0
    # A save may begin AT_MOST after an edit; the rest is for hashing, writing and a busy machine.
    allowed = AT_MOST + 1.0
    nursery = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(QUIET), str(AT_MOST)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    for kill in range(kills):
        nursery.stdin.write(f"{kill}\n")
        word, pid = nursery.stdout.readline().split()
        assert word == "ready"
        # Most kills fall into the first saves; the others come when edits are old enough to be judged.
        time.sleep(rng.uniform(0, 0.3) if kill % 7 else rng.uniform(1.4, 1.9))
        os.kill(int(pid), signal.SIGKILL)
        killed = time.monotonic()
        edits = {}
        for line in iter(nursery.stdout.readline, "dead\n"):
            with contextlib.suppress(ValueError):  # the last line may be cut off
                _, number, moment = line.split()
                edits[int(number)] = float(moment)
        found = store.find("f" * 64)
        due = [number for number, moment in edits.items() if killed - moment > allowed]
        if not found:
            assert kill < 5, "a session that was saved is gone"
            assert not due
            continue
        saved = store.open(found[0])
        content = saved.load()
        saved.close()
        labels = content.arrays["labels"]
        assert int(labels.max()) >= content.state["count"]
        for plane in range(len(labels)):
            owed = max((number for number in due if number % len(labels) == plane), default=0)
            assert labels[plane].max() >= owed, f"kill {kill} lost edit {owed}"
        opened += 1
        judged += bool(due)
    nursery.stdin.close()
    assert nursery.wait(60) == 0
    assert opened > kills * 0.6
    assert judged >= max(1, kills // 10), "too few edits were old enough to be missed"
    assert len(store.sessions()) == 1
