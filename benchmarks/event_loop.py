"""Serving the window's event loop from a script. Imports neither Qt nor torch before it is used."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait(true: Callable[[], bool], seconds: float = 3600.0) -> None:
    """Serve the event loop until something is true. Raises `TimeoutError` where that takes longer."""
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
