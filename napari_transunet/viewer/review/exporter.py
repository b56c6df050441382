"""Export of a result in several formats: asked for in a dialog, written off the window's thread."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation.exporting import ExportRequest, check_source, export
from napari_transunet.errors import TransUNetError, VolumeError
from napari_transunet.io.sidecar import stem_of
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layers import source_of
from napari_transunet.viewer.review.export_dialog import ExportDialog
from napari_transunet.viewer.segment.export import propose_path, snapshot
from napari_transunet.viewer.widgets.messages import count
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari.layers import Image
    from qtpy.QtWidgets import QWidget

    from napari_transunet.viewer.sessions.results import Result

logger = logging.getLogger(__name__)


class Exporter(QObject):
    """Emits `said` with a sentence about an export, and `exported` with the list of files."""

    said = Signal(str)
    exported = Signal(object)
    _progressed = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._widget = parent
        self._dialog: ExportDialog | None = None
        self._chores = BackgroundTasks(self)
        self._cancelled = threading.Event()
        self._progressed.connect(self._on_progress)
        self._result: Result | None = None
        self._image: Image | None = None

    @property
    def open_dialog(self) -> ExportDialog | None:
        """The dialog, if it was ever needed."""
        return self._dialog

    @property
    def dialog(self) -> ExportDialog:
        """The dialog, made when it is first needed."""
        if self._dialog is None:
            self._dialog = ExportDialog(self._widget)
            self._dialog.wanted.connect(self._on_wanted)
            self._dialog.cancel_wanted.connect(self.cancel)
        return self._dialog

    @property
    def busy(self) -> bool:
        """Whether an export is being written; true also when nobody waits for it any more."""
        return self._chores.finishing

    def cancel(self) -> None:
        """End the export before its next file; nothing of it stays."""
        self._cancelled.set()

    def ask(self, result: Result, image: Image | None) -> None:
        """Ask which formats, and where to."""
        self._result, self._image = result, image
        source = source_of(image) if image is not None else source_of(result.layer)
        proposal = propose_path(result.layer, scan=source.path if source is not None else None)
        self.dialog.offer(source, proposal.parent, stem_of(proposal))
        self.dialog.show()
        self.dialog.raise_()

    def write(self, result: Result, image: Image | None, request: ExportRequest) -> None:
        """Export now, without asking; the outcome comes as a signal."""
        if self._chores.busy:
            self._say("The last export is still being written; wait for it to finish.")
            return
        try:
            if image is None:
                raise VolumeError(
                    "The image that these labels were made on is gone; open it again and restore its labels to export."
                )
            taken = snapshot(result.layer, image=image)
            fingerprint = fingerprint_job(image)
        except TransUNetError as error:
            self._say(str(error))
            return
        source = taken.source
        session = result.session

        def work() -> tuple[list[Path], list[str]]:
            notes: list[str] = []
            check_source(source, taken.state)
            provenance = session.provenance(taken.labels)
            provenance["source"] = {"fingerprint": fingerprint()}
            paths = export(
                taken.labels,
                taken.geometry,
                taken.label_set,
                request,
                source=source,
                provenance=provenance,
                progress=self._tell,
                cancelled=cancelled.is_set,
                noted=notes.append,
            )
            return paths, notes

        cancelled = self._cancelled = threading.Event()
        self.dialog.set_busy(True)
        self._say("Writing …")
        # A window that is closed now must not take the files with it that a person asked for.
        self._chores.run(work, self._on_written, self._on_failed, finish=True)

    def _tell(self, done: int, total: int) -> None:
        with contextlib.suppress(RuntimeError):  # the window may be gone by now
            self._progressed.emit(done, total)

    def _on_progress(self, done: int, total: int) -> None:
        if self._chores.busy and not self._cancelled.is_set():
            self._say(f"Writing: {done} of {count(total, 'format')} done …")

    def _on_wanted(self, request: Any) -> None:
        if self._result is not None:
            self.write(self._result, self._image, request)

    def _on_written(self, written: tuple[list[Path], list[str]]) -> None:
        paths, notes = written
        self.dialog.set_busy(False)
        self._say(" ".join([f"Exported {count(len(paths), 'file')} to {paths[0].parent}.", *notes]))
        self.exported.emit(paths)

    def _on_failed(self, error: Exception) -> None:
        self.dialog.set_busy(False)
        if isinstance(error, TransUNetError):
            self._say(str(error))
        elif isinstance(error, OSError):
            self._say(f"The labels could not be written: {error.strerror or error}. Nothing was left behind.")
        else:
            self._say(f"The labels could not be written ({type(error).__name__}: {error}).")

    def _say(self, sentence: str) -> None:
        self.dialog.say(sentence)
        self.said.emit(sentence)
