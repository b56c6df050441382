"""What is still under way when the window closes is named and waited for, in sight of the person."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qtpy.QtCore import QCoreApplication, QEventLoop, Qt
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

_UNSEEN = 0.3  # s that are waited for without a word
_STEP = 0.02


@dataclass(frozen=True)
class Unfinished:
    """Something that is waited for.

    Attributes
    ----------
    name : what it is, to follow "Finishing".
    done : whether it is over.
    stop : ends it cleanly before its time; None where it cannot be ended.
    """

    name: str
    done: Callable[[], bool]
    stop: Callable[[], None] | None = None


def wait_for(unfinished: Sequence[Unfinished], patience: float, parent: QWidget | None = None) -> bool:
    """Wait at most so many seconds until all is done, naming what is not; whether all is.

    Answers that were asked for still come meanwhile. A button ends what can be ended.
    """
    began = time.monotonic()
    sign: _WaitDialog | None = None
    while True:
        left = [job for job in unfinished if not job.done()]
        waited = time.monotonic() - began
        if not left or waited > patience:
            break
        if sign is None and waited > _UNSEEN:
            sign = _WaitDialog(parent)
        if sign is not None:
            sign.show_jobs(left)
            QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
        time.sleep(_STEP)
    if sign is not None:
        sign.close()
        sign.deleteLater()
    return not left


class _WaitDialog(QWidget):
    """A small window of its own: the one behind it is about to go."""

    def __init__(self, parent: QWidget | None) -> None:
        super().__init__(None, Qt.WindowType.Dialog | Qt.WindowType.WindowStaysOnTopHint)
        self.setObjectName("closing")
        self.setWindowTitle("Before the window closes")
        self.setWindowModality(Qt.WindowModality.ApplicationModal)
        window = parent.window() if parent is not None else None
        if window is not None:
            self.setStyleSheet(window.styleSheet())
        self._text = QLabel(self)
        self._stop = QPushButton("Cancel it and close", self)
        self._jobs: Sequence[Unfinished] = ()
        self._stop.clicked.connect(self._on_stop)
        layout = QVBoxLayout(self)
        layout.addWidget(self._text)
        layout.addWidget(self._stop)
        self.setMinimumWidth(320)
        self.show()

    def show_jobs(self, jobs: Sequence[Unfinished]) -> None:
        self._jobs = jobs
        text = "\n".join(f"Finishing {job.name} …" for job in jobs)
        if text != self._text.text():
            self._text.setText(text)
            self.adjustSize()
        self._stop.setVisible(any(job.stop is not None for job in jobs))

    def _on_stop(self) -> None:
        for job in self._jobs:
            if job.stop is not None:
                job.stop()
