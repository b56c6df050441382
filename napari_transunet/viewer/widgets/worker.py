"""napari's generator worker on a thread of its own, without its process-wide redirection of warnings.

What holds here: what a run changes about its thread ends with it, and what runs change about the process is as it was
when the last of them ends.
"""

import contextlib
import sys
import threading
from typing import Any

from napari.qt.threading import GeneratorWorker
from qtpy.QtCore import QCoreApplication

_SWITCH_INTERVAL = 0.001  # s after which a computing thread hands Python over to the window; 0.005 is usual
_USUAL, _SERVED = "napari_transunet_switch_interval", "napari_transunet_runs"


class QuietWorker(GeneratorWorker):  # type: ignore[misc]
    """A worker whose function handles its own errors, and on whose end one can wait.

    superqt's `run` replaces `warnings.showwarning` while the worker lives. Where two workers overlap, the one
    that ends last puts back the other's hook, whose signals are gone by then, and from there on every warning
    anywhere in the process raises. A run overlaps with reading or exporting another volume, so it must not.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._left = threading.Event()

    def start(self) -> None:
        """Start on a thread that is no pool's: its low priority must not stay with what runs there next."""
        self._worker_set.add(self)
        self._finished.connect(self._set_discard)
        # Not a daemon: a program must not end in the middle of a network's native code.
        threading.Thread(target=self.run, name="segmentation").start()

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


def serve_window_first(on: bool) -> None:
    """Hand Python over to the window sooner while any run computes; call it once with True, once with False a run."""
    application = QCoreApplication.instance()
    if application is None:
        return
    runs = int(application.property(_SERVED) or 0) + (1 if on else -1)
    if on and runs == 1:
        application.setProperty(_USUAL, sys.getswitchinterval())
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
    elif not on and runs == 0:
        sys.setswitchinterval(float(application.property(_USUAL)))
    application.setProperty(_SERVED, max(0, runs))
