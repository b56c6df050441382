"""The one obvious button, its neighbours, and how far the run is."""

import time

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QGridLayout, QProgressBar, QSizePolicy, QWidget

from napari_transunet.viewer.segment.run_messages import RunProgress
from napari_transunet.viewer.widgets.messages import countdown
from napari_transunet.viewer.widgets.qt_helpers import push_button

_PACE = 1.0  # s between two changes of the bar while slices come
_LEFT = " left"
_LIGHT = 0.65  # from this lightness of the button on, its text is black


class RunBar(QWidget):
    """Emits `segment_volume`, `segment_slice` and `cancel`."""

    segment_volume = Signal()
    segment_slice = Signal()
    cancel = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._volume = push_button("Segment volume", "segment_volume", self, self.segment_volume)
        self._volume.setMinimumHeight(34)
        font = self._volume.font()
        font.setBold(True)
        self._volume.setFont(font)
        self._slice = push_button("This slice", "segment_slice", self, self.segment_slice)
        self._slice.setMinimumHeight(34)
        self._cancel = push_button("Cancel", "cancel", self, self.cancel)
        self._progress = QProgressBar(self)
        self._progress.setObjectName("progress")
        self._progress.setTextVisible(True)
        self._progress.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._progress.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._progress.setMinimumHeight(22)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 4, 0, 0)
        layout.setColumnStretch(0, 1)
        layout.addWidget(self._volume, 0, 0)
        layout.addWidget(self._slice, 0, 1)
        layout.addWidget(self._progress, 1, 0)
        layout.addWidget(self._cancel, 1, 1)
        self._shown = (-1, -1, "?")
        self._shown_at = 0.0
        self.show_idle("Open a volume first.")

    def set_accent(self, color: str) -> None:
        """Give the one obvious button the theme's accent colour (any colour that a style sheet understands)."""
        text = "black" if QColor(color).lightnessF() > _LIGHT else "white"
        self._volume.setStyleSheet(
            f"QPushButton:enabled {{ background-color: {color}; color: {text}; }}"
            f"QPushButton:enabled:focus {{ border: 1px solid {text}; }}"
        )

    def show_idle(self, why_not: str | None, *, done: int = 0, total: int = 0) -> None:
        """Ready for a run, or not and why; the bar keeps showing how far the last run came."""
        self._volume.setEnabled(why_not is None)
        self._slice.setEnabled(why_not is None)
        self._volume.setToolTip(why_not or "Find the organs in every slice, starting with the one in view.")
        self._slice.setToolTip(why_not or "Find the organs in the slice in view only.")
        self._cancel.setEnabled(False)
        self._cancel.setToolTip("Nothing is running.")
        self._show(done, max(1, total), f"{done} / {total}" if total else "")

    def show_running(self, progress: RunProgress) -> None:
        """A run goes on: only Cancel can be pressed."""
        busy = "A segmentation is running; wait for it or cancel it."
        for button in (self._volume, self._slice):
            button.setEnabled(False)
            button.setToolTip(busy)
        stopping = progress.stage == "stopping"
        self._cancel.setEnabled(not stopping)
        self._cancel.setToolTip(
            "Stopping after the current slices." if stopping else "Stop, and keep the slices that are done."
        )
        if progress.stage == "loading" or not progress.total:
            # Not Qt's moving bar: every step of it makes the whole window redraw, canvas and all.
            self._show(0, 1, "stopping …" if stopping else "preparing …")
            return
        text = f"{progress.done} / {progress.total}"
        if progress.left is not None and progress.done < progress.total and not stopping:
            text += f" · {countdown(progress.left)}{_LEFT}"
        self._show(progress.done, progress.total, text)

    def _show(self, done: int, total: int, text: str) -> None:
        # Qt draws the whole window anew for a changed word, canvas and all; without a GPU that takes a while.
        present = time.monotonic()
        counting = total == self._shown[1] and _LEFT in text and _LEFT in self._shown[2]
        if (done, total, text) == self._shown or (counting and present - self._shown_at < _PACE):
            return
        self._shown, self._shown_at = (done, total, text), present
        # A progress bar repaints at once, and with it the window, for every one of these; now it does once, later.
        self._progress.setUpdatesEnabled(False)
        self._progress.setRange(0, total)
        self._progress.setFormat(text)
        self._progress.setValue(done)
        self._progress.setUpdatesEnabled(True)
