"""The one export of a window: asked for in a dialog from either dock, written off the GUI thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_transunet.errors import TransUNetError, VolumeError
from napari_transunet.io.sidecar import stem_of
from napari_transunet.viewer.export.dialog import ExportDialog
from napari_transunet.viewer.export.snapshot import propose_path, snapshot, write_snapshot
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layers import source_of
from napari_transunet.viewer.widgets.closing import Unfinished, wait_for
from napari_transunet.viewer.widgets.messages import count
from napari_transunet.viewer.widgets.preferences import load_preferences
from napari_transunet.viewer.widgets.qt_helpers import window_object
from napari_transunet.viewer.widgets.tasks import BackgroundTasks, emit

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from napari_transunet.export.writing import ExportRequest
    from napari_transunet.viewer.sessions.results import Result

_NAME = "transunet_exporter"
_PATIENCE = 600.0  # s that a window that closes waits for an export, which can be cancelled


class Exporter(QObject):
    """Writes one export at a time.

    Signals
    -------
    message(str)
        A sentence about an export.
    exported(object)
        The list of files.
    failed(str)
        A sentence that says why nothing was written.
    """

    message = Signal(str)
    exported = Signal(object)
    failed = Signal(str)
    _progressed = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._dialog: ExportDialog | None = None
        self._tasks = BackgroundTasks(self)
        self._cancelled = threading.Event()
        self._progressed.connect(self._on_progress)
        self._result: Result | None = None
        self._image: Image | None = None

    @property
    def dialog(self) -> ExportDialog:
        """The dialog, made when it is first needed."""
        if self._dialog is None:
            parent = self.parent()
            self._dialog = ExportDialog(parent if isinstance(parent, QWidget) else None)
            self._dialog.wanted.connect(self._on_wanted)
            self._dialog.cancel_wanted.connect(self.cancel)
        return self._dialog

    @property
    def busy(self) -> bool:
        """Whether an export is being written; true also when nobody waits for it any more."""
        return self._tasks.finishing

    def cancel(self) -> None:
        """End the export before its next file; nothing of it stays."""
        self._cancelled.set()

    def close(self) -> None:
        """Close the dialog and let go of what it was for; an export that is being written goes on."""
        self._result = self._image = None
        if self._dialog is not None:
            self._dialog.close()

    def finish_in_sight(self, parent: QWidget) -> None:
        """The window closes: wait until what is being written is there, or until a person cancels it."""
        self.close()
        wait_for([Unfinished("the export", lambda: not self.busy, self.cancel)], _PATIENCE, parent)

    def ask(self, result: Result, image: Image | None) -> None:
        """Ask which formats, and where to."""
        self._result, self._image = result, image
        source = source_of(image) if image is not None else source_of(result.layer)
        preferred = load_preferences().export_format
        proposal = propose_path(
            result.layer, suffix=preferred, scan=source.path if source is not None else None
        )
        self.dialog.offer(source, proposal.parent, stem_of(proposal), preferred)
        self.dialog.show()
        self.dialog.raise_()

    def write(self, result: Result, image: Image | None, request: ExportRequest) -> None:
        """Export now, without asking; the outcome comes as a signal."""
        if self._tasks.busy:
            self._fail("The last export is still being written; wait for it to finish.")
            return
        session = result.session
        try:
            if image is None:
                raise VolumeError(
                    "The image that these labels were made on is gone; open it again and restore its labels to export."
                )
            fingerprint = fingerprint_job(image)

            def provenance(labels: Any) -> Mapping[str, Any]:
                return session.provenance(labels) | {"source": {"fingerprint": fingerprint()}}

            taken = snapshot(result.layer, image=image, provenance=provenance)
        except TransUNetError as error:
            self._fail(str(error))
            return

        def work() -> tuple[list[Path], list[str]]:
            notes: list[str] = []
            paths = write_snapshot(
                taken,
                request,
                progress=partial(emit, self._progressed),
                cancelled=cancelled.is_set,
                noted=notes.append,
            )
            return paths, notes

        cancelled = self._cancelled = threading.Event()
        self.dialog.set_progress(0, 0)
        self._set_status("Writing …")
        # A window that is closed now must not take the files with it that a person asked for.
        self._tasks.run(work, self._on_written, self._on_failed, what="The export", finish=True)

    def _on_progress(self, done: int, total: int) -> None:
        if self._tasks.busy and not self._cancelled.is_set():
            self.dialog.set_progress(done, total)
            self._set_status(f"Writing: {done} of {count(total, 'file')} done …")

    def _on_wanted(self, request: Any) -> None:
        if self._result is not None:
            self.write(self._result, self._image, request)

    def _on_written(self, written: tuple[list[Path], list[str]]) -> None:
        paths, notes = written
        self.dialog.set_idle()
        what = str(paths[0]) if len(paths) == 2 else f"{count(len(paths), 'file')} to {paths[0].parent}"
        sentence = f"Exported {what}; names and provenance are in {paths[-1].name}."
        self._set_status(" ".join([sentence, *notes]))
        self.exported.emit(paths)

    def _on_failed(self, sentence: str) -> None:
        self.dialog.set_idle()
        self._fail(sentence)

    def _set_status(self, sentence: str) -> None:
        self.dialog.set_status(sentence)
        self.message.emit(sentence)

    def _fail(self, sentence: str) -> None:
        self._set_status(sentence)
        self.failed.emit(sentence)


def exporter_of(viewer: Viewer) -> Exporter:
    """The exporter of a viewer's window; it lives as long as it."""
    return window_object(viewer, Exporter, _NAME, lambda _viewer, window: Exporter(window))
