"""Whenever the window closes, what was there and what came since is kept, and what is under way ends cleanly."""

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.io.reading import read_volume
from napari_transunet.viewer.segment.predictors import PredictorCache
from napari_transunet.viewer.widgets.closing import Unfinished, wait_for
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.viewer.widgets.worker import serve_window_first
from tests.viewer.review.test_review_dock import ReviewDriver
from tests.viewer.segment.test_segment_dock import Dock, checkpoints, slow
from tests.viewer.waiting import TIMEOUT

__all__ = ["checkpoints", "slow"]  # fixtures


@pytest.mark.parametrize(
    ("known", "how"),
    [
        (True, "program"),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in ((True, "window"), (False, "window"), (False, "program"))
        ),
    ],
)
def test_closing_the_window_in_the_first_run_saves_what_is_there(
    make_napari_viewer, qtbot, checkpoints, monkeypatch, slow, known, how
):
    from napari_transunet.viewer.layers import fingerprints

    closing = threading.Event()
    if not known:
        find = fingerprints.scan_fingerprint

        def late(volume: Any) -> str:
            closing.wait(TIMEOUT / 1000)
            return find(volume)

        monkeypatch.setattr(fingerprints, "scan_fingerprint", late)
    viewer = make_napari_viewer()
    dock = Dock.opened(viewer, qtbot, checkpoints, monkeypatch)
    dock.add(name="ct")
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() >= 1)
    labels = dock.labels("ct")
    for step in (slow.release, closing.set):
        threading.Timer(0.3, step).start()
    viewer.window._qt_window.close() if how == "window" else viewer.close()
    (saved,) = SessionStore().sessions()
    folder = SessionStore().open(saved)
    found = folder.load()
    folder.close()
    assert labels.data.any()
    assert np.array_equal(found.arrays["labels"], labels.data)
    assert len(found.state["session"]["runs"]) == 1


def test_closing_the_window_drops_a_checkpoint_that_is_being_read(
    make_napari_viewer, qtbot, checkpoints, monkeypatch
):
    go, get = threading.Event(), PredictorCache.get

    def held(*args: Any) -> Any:
        go.wait(TIMEOUT / 1000)
        return get(*args)

    monkeypatch.setattr(PredictorCache, "get", held)
    viewer = make_napari_viewer()
    dock = Dock.opened(viewer, qtbot, checkpoints, monkeypatch)
    dock.add(name="ct")
    dock.press("segment_volume")
    run = dock.widget.segmentation.run
    try:
        viewer.close()
        assert not run.wait(0), "the window waited for the checkpoint"
    finally:
        go.set()
    assert run.wait(TIMEOUT / 1000)
    assert run.loading, "it went on with what nobody waits for"


def _exporting(driver: ReviewDriver, folder: Path, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An export of two formats is under way; it goes on when the event is set."""
    from napari_transunet.export import writing

    go, begun, write = threading.Event(), threading.Event(), writing._write_one

    def held(*args: Any) -> None:
        begun.set()
        go.wait(20)
        write(*args)

    monkeypatch.setattr(writing, "_write_one", held)
    request = driver.dock.exporter.request()
    request = replace(request, folder=folder, stem="out", formats=("nifti", "nrrd"))
    driver.dock.exporter.write(driver.result, driver.image, request)
    assert begun.wait(20)
    return go


def test_closing_the_window_in_an_export_leaves_its_files(make_napari_viewer, qtbot, tmp_path, monkeypatch):
    driver = ReviewDriver(make_napari_viewer(), qtbot)
    expected = driver.layer.data.copy()
    go = _exporting(driver, tmp_path, monkeypatch)
    threading.Timer(0.3, go.set).start()
    driver.viewer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.nii.gz", "out.nrrd"]
    assert np.array_equal(read_volume(tmp_path / "out.nrrd").data, expected)


def test_a_cancelled_export_leaves_nothing(make_napari_viewer, qtbot, tmp_path, monkeypatch):
    driver = ReviewDriver(make_napari_viewer(), qtbot)
    (tmp_path / "mine.txt").write_text("kept")
    go = _exporting(driver, tmp_path, monkeypatch)
    driver.dock.exporter._cancel.click()
    go.set()
    driver.until(lambda: not driver.dock.exporter.busy)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    driver.until(lambda: "cancelled" in driver.text("review_status"))


def test_what_is_waited_for_is_named_and_can_be_ended(qtbot, qapp):
    stopped = threading.Event()
    seen: list[str] = []

    def done() -> bool:
        from qtpy.QtWidgets import QLabel, QPushButton

        for widget in qapp.topLevelWidgets():
            if widget.objectName() == "closing" and widget.isVisible():
                seen.append(widget.findChild(QLabel).text())
                widget.findChild(QPushButton).click()
        return stopped.is_set()

    assert wait_for([Unfinished("the export", done, stopped.set)], 10)
    assert any("the export" in text for text in seen)
    assert not wait_for([Unfinished("nothing", lambda: False)], 0.1)


def test_only_the_newest_answer_of_a_name_is_heard(qtbot):
    tasks, heard = BackgroundTasks(), []
    slow_one = threading.Event()
    tasks.run(lambda: slow_one.wait(60) and "old", heard.append, latest="look")
    tasks.run(lambda: "new", heard.append, latest="look")
    tasks.run(lambda: "other", heard.append)
    qtbot.waitUntil(lambda: len(heard) == 2, timeout=TIMEOUT)
    slow_one.set()
    qtbot.wait(50)
    assert sorted(heard) == ["new", "other"]
    tasks.run(lambda: "late", heard.append)
    tasks.drop()
    qtbot.wait(50)
    assert "late" not in heard
    assert not tasks.busy


def test_runs_that_overlap_leave_the_interpreter_as_it_was(qapp):
    usual = sys.getswitchinterval()
    serve_window_first(True)
    serve_window_first(True)
    assert sys.getswitchinterval() < usual
    serve_window_first(False)
    assert sys.getswitchinterval() < usual
    serve_window_first(False)
    assert sys.getswitchinterval() == usual


@pytest.mark.skipif(sys.platform != "linux", reason="niceness belongs to threads on Linux alone")
def test_the_low_priority_of_a_run_stays_with_no_thread(make_napari_viewer, qtbot, checkpoints, monkeypatch):
    import os

    from qtpy.QtCore import QRunnable, QThreadPool

    from napari_transunet.viewer.widgets import priority

    monkeypatch.setattr(priority, "_NICENESS", 1)
    viewer = make_napari_viewer()
    dock = Dock.opened(viewer, qtbot, checkpoints, monkeypatch)
    dock.add(name="ct")
    dock.segment()
    found: list[int] = []

    class Look(QRunnable):
        def run(self) -> None:
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    QThreadPool.globalInstance().start(Look())
    QThreadPool.globalInstance().waitForDone()
    assert found == [os.getpriority(os.PRIO_PROCESS, os.getpid())]


def test_letting_predictors_go_waits_for_none_that_is_loaded(monkeypatch, tmp_path):
    from napari_transunet.viewer.segment import predictors

    begun, go = threading.Event(), threading.Event()

    def slowly(*_args: Any) -> Any:
        begun.set()
        go.wait(60)
        return SimpleNamespace(predictor=None)

    monkeypatch.setattr(predictors, "_prepare", slowly)
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"")
    cache, settings = PredictorCache(), predictors.PredictorSettings(checkpoint=file)
    thread = threading.Thread(target=cache.get, args=(settings,))
    thread.start()
    assert begun.wait(60)
    started = time.monotonic()
    cache.clear()
    assert time.monotonic() - started < 1
    go.set()
    thread.join()
    assert settings not in cache
