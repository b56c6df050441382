"""What benchmarks of the window share: a window, a scan to show in it, and serving its event loop.

Imports neither Qt nor torch before they are used, since how long that takes is measured, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from napari.viewer import Viewer

    from napari_transunet.viewer.segment.segment_dock import SegmentDock
    from napari_transunet.volumes.volume import Volume

# A person's preferences must not be read or changed; napari looks when it is imported.
os.environ.setdefault("NAPARI_CONFIG", "")


@contextmanager
def open_window() -> Iterator[Viewer]:
    """A napari window of 1600×1000 pixels; at the end it is closed and Qt's rest cleared away."""
    import napari
    import napari.qt
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1600, 1000)
    yield viewer
    viewer.close()
    QApplication.processEvents()
    napari.qt.get_qapp().quit()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def open_dock(viewer: Viewer) -> SegmentDock:
    """The dock *Segment volume*."""
    from napari_transunet.viewer.segment.segment_dock import SegmentDock

    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
    assert isinstance(dock, SegmentDock)
    return dock


def chosen(dock: SegmentDock, path: Path) -> bool:
    """Whether that checkpoint is chosen and ready."""
    found = dock.checkpoint.candidate
    return dock.ready and found is not None and found.path == path


def press_segment(dock: Any) -> None:
    """Press *Segment volume*."""
    from qtpy.QtWidgets import QPushButton

    dock.findChild(QPushButton, "segment_volume").click()


def demo_ct(slices: int | None = None) -> Volume:
    """The middle slices of the real CT where its wheel is installed, else of a phantom of the same size."""
    import numpy as np

    from napari_transunet.viewer.plugin.samples import load_real_ct, real_ct_path
    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.phantom import synthetic_ct
    from napari_transunet.volumes.volume import Source, Volume

    real = real_ct_path() is not None
    volume = load_real_ct() if real else synthetic_ct((133, 512, 512))[0]
    if slices is None:
        return volume
    start = max(0, len(volume.data) - slices) // 2
    data = np.ascontiguousarray(volume.data[start : start + slices])
    grid = volume.geometry
    geometry = Geometry(data.shape, grid.spacing, grid.origin, grid.direction)
    return Volume(data, geometry, "CT", Source(None, "benchmark", "real CT" if real else "phantom"))


def wait(true: Callable[[], bool], seconds: float = 3600.0) -> None:
    """Serve the event loop until something is true, and notice it at once.

    Raises `TimeoutError` where that takes longer.
    """
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError("The window did not get there in time.")
        QApplication.processEvents()
        time.sleep(0.001)


def pause(seconds: float) -> None:
    """Serve the event loop for so long."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end)


def doze(true: Callable[[], bool]) -> None:
    """Serve the event loop as an application does, asleep while nothing happens, until something is true."""
    from qtpy.QtCore import QEventLoop, QTimer

    loop, timer = QEventLoop(), QTimer()
    timer.timeout.connect(lambda: loop.quit() if true() else None)
    timer.start(20)
    loop.exec()
