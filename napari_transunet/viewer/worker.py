"""napari's generator worker without its process-wide redirection of warnings."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from napari.qt.threading import GeneratorWorker


class QuietWorker(GeneratorWorker):  # type: ignore[misc]
    """A worker whose function handles its own errors, and on whose end one can wait.

    superqt's `run` replaces `warnings.showwarning` while the worker lives. Where two workers overlap, the one
    that ends last puts back the other's hook, whose signals are gone by then, and from there on every warning
    anywhere in the process raises. A run overlaps with reading or exporting another volume, so it must not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._left = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Block until the thread has left `run`, at most so long; whether it has."""
        return self._left.wait(seconds)

    def run(self) -> None:
        """Do the work between the signals that napari counts on."""
        try:
            self.started.emit()
            self._running = True
            self.work()
        finally:
            self._running = False
            with contextlib.suppress(RuntimeError):  # the application may be gone by now
                self.finished.emit()
                self._finished.emit(self)
            self._left.set()
