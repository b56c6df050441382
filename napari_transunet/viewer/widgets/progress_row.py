"""How far a job is, and a button that cancels it."""

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QProgressBar, QWidget

from napari_transunet.viewer.widgets.messages import countdown
from napari_transunet.viewer.widgets.qt_helpers import push_button, row, single_shot

_STEPS = 1000
_SHORT = 500  # ms; a job that is done sooner is not worth a row


class ProgressRow(QWidget):
    """Emits `cancelled`; hidden while no job goes on. Parts are named after the job: "tool_progress", "tool_cancel"."""

    cancelled = Signal()

    def __init__(self, job: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._bar = QProgressBar(self)
        self._bar.setObjectName(f"{job}_progress")
        self._button = push_button("Cancel", f"{job}_cancel", self, self.cancelled)
        row((self._bar, 1), (self._button, 1), within=self)
        self._soon = single_shot(self, _SHORT, self.show)
        self.end()

    def begin(self) -> None:
        """A job begins; it is shown if it takes longer than a moment."""
        self._bar.setRange(0, _STEPS)
        self._bar.setValue(0)
        self._bar.setFormat("")
        self._soon.start()

    def show_progress(self, done: float | None, left: float | None = None, *, stoppable: bool = True) -> None:
        """How much is done, from 0 to 1, None where it is not known; and how many seconds are left."""
        self._bar.setRange(0, 0 if done is None else _STEPS)
        if done is not None:
            self._bar.setValue(round(_STEPS * done))
        self._bar.setFormat("%p%" if left is None else f"{countdown(left)} left")
        self._button.setEnabled(stoppable)
        self.show()

    def end(self) -> None:
        """No job goes on."""
        self._soon.stop()
        self.hide()
