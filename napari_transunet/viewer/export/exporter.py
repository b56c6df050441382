"""The one export of a window: asked for in a dialog from either dock, written off the GUI thread."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from napari.layers import Image, Labels
from napari.viewer import Viewer
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QDialog, QFileDialog, QFormLayout, QGroupBox, QProgressBar, QWidget

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import TransUNetError, VolumeError
from napari_transunet.export.formats import FORMATS, unavailable
from napari_transunet.export.writing import ExportRequest
from napari_transunet.io.sidecar import OPENED, READING_NOTES, stem_of
from napari_transunet.viewer.export.snapshot import Provenance, propose_path, snapshot, write_snapshot
from napari_transunet.viewer.layers.fingerprints import fingerprint_job
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import source_of
from napari_transunet.viewer.sessions.results import Result
from napari_transunet.viewer.widgets.closing import Unfinished, wait_for
from napari_transunet.viewer.widgets.combo import ElidingCombo
from napari_transunet.viewer.widgets.messages import count
from napari_transunet.viewer.widgets.preferences import load_preferences
from napari_transunet.viewer.widgets.qt_helpers import (
    check_box,
    column,
    line_edit,
    push_button,
    row,
    window_object,
)
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tasks import BackgroundTasks, emit

_NAME = "export_dialog"
_PATIENCE = 600.0  # s that a window that closes waits for an export, which can be cancelled


class Exporter(QDialog):
    """Asks which formats, and where to, and writes one export at a time; the viewer stays usable beside it.

    Signals
    -------
    message(str): a sentence about an export.
    exported(object): the list of files.
    failed(str): a sentence that says why nothing was written.
    """

    message = Signal(str)
    exported = Signal(object)
    failed = Signal(str)
    _progressed = Signal(int, int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Export labels")
        self.setWindowFlag(Qt.WindowType.Tool)
        self._tasks = BackgroundTasks(self)
        self._cancelled = threading.Event()
        self._progressed.connect(self._on_progress)
        self._result: Result | None = None
        self._image: Image | None = None
        self._lay_out()
        self._set_writing(False)

    @property
    def busy(self) -> bool:
        """Whether an export is being written; true also when nobody waits for it any more."""
        return self._tasks.finishing

    def cancel(self) -> None:
        """End the export before its next file; nothing of it stays."""
        self._cancelled.set()

    def close(self) -> bool:
        """Close and let go of what it was for; an export that is being written goes on."""
        self._result = self._image = None
        return super().close()

    def finish_in_sight(self, parent: QWidget) -> None:
        """The window closes: wait until what is being written is there, or until a person cancels it."""
        self.close()
        wait_for([Unfinished("the export", lambda: not self.busy, self.cancel)], _PATIENCE, parent)

    def ask(self, result: Result, image: Image | None) -> None:
        """Ask which formats, and where to; where no format is chosen yet, the preferred one is."""
        self._result, self._image = result, image
        # It stays open beside the window, where other labels may be worked on meanwhile.
        self.setWindowTitle(f"Export {result.quoted_name}")
        source = source_of(image) if image is not None else source_of(result.layer)
        preferred = load_preferences().export_format
        scan = source.path if source is not None else None
        proposal = propose_path(result.layer, suffix=preferred, scan=scan)
        for name, box in self._boxes.items():
            why = unavailable(name, source)
            box.setEnabled(why is None)
            box.setToolTip(why or "")
            if why is not None:
                box.setChecked(False)
        if not any(box.isChecked() for box in self._boxes.values()):
            self._boxes[next(name for name, (end, _) in FORMATS.items() if end == preferred)].setChecked(True)
        self._folder.setText(str(proposal.parent))
        self._stem.setText(stem_of(proposal))
        self._overwrite.setChecked(False)
        if not self._tasks.busy:
            self._status.setText("")
        self._refresh()
        self.show()
        self.raise_()

    def request(self) -> ExportRequest:
        """What pressing *Export* asks for."""
        return ExportRequest(
            folder=Path(self._folder.text()).expanduser(),
            stem=self._stem.text().strip(),
            formats=tuple(name for name, box in self._boxes.items() if box.isChecked()),
            coordinates="RAS" if self._coordinates.currentData() == "RAS" else "LPS",
            overwrite=self._overwrite.isChecked(),
        )

    def write(self, result: Result, image: Image | None, request: ExportRequest) -> None:
        """Export now, without asking; the outcome comes as a signal."""
        if self._tasks.busy:
            self._fail("The last export is still being written; wait for it to finish.")
            return
        session = result.session
        try:
            if result.gone:
                raise VolumeError(
                    "These labels were removed; restore them by “Saved…” in “Review and correct” to export."
                )
            if image is None:
                raise VolumeError(
                    "The image that these labels were made on is gone; open it again and restore its labels to export."
                )
            # Strokes that wait are held to the locks first, and the session follows what was undone.
            result.undo.check_pending_strokes()
            result.undo.follow()
            provenance = provenance_of(result.layer, session, fingerprint_job(image))
            taken = snapshot(result.layer, image=image, provenance=provenance)
        except TransUNetError as error:
            self._fail(str(error))
            return

        def work() -> tuple[list[Path], list[str]]:
            notes: list[str] = []
            told = partial(emit, self, "_progressed")
            paths = write_snapshot(
                taken, request, progress=told, cancelled=cancelled.is_set, noted=notes.append
            )
            return paths, notes

        cancelled = self._cancelled = threading.Event()
        self._progress.setRange(0, 0)
        self._set_writing(True)
        self._say("Writing …")
        # A window that is closed now must not take the files with it that a person asked for.
        self._tasks.run(work, self._on_written, self._on_failed, what="The export", finish=True)

    # -- inside ---------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        group = QGroupBox("Formats", self)
        self._boxes = {
            name: check_box(
                f"{words} ({ending.replace('_*', '_ORGAN')})", f"format_{name}", group, self._refresh
            )
            for name, (ending, words) in FORMATS.items()
        }
        column(*self._boxes.values(), within=group, margin=9)
        self._folder, self._stem = line_edit("export_folder", self), line_edit("export_name", self)
        choose = push_button("Choose…", "export_choose", self, self._on_choose)
        self._coordinates = ElidingCombo("mesh_coordinates", self)
        self._coordinates.addItem("LPS, as DICOM and ITK have them", "LPS")
        self._coordinates.addItem("RAS, as Slicer and NIfTI have them", "RAS")
        self._overwrite = check_box("Replace files that exist", "export_overwrite", self)
        self._status = StatusLine("export_status", self)
        self._progress = QProgressBar(self)
        self._progress.setObjectName("export_progress")
        self._progress.setTextVisible(False)
        self._go = push_button("Export", "export_go", self, self._on_go)
        self._go.setDefault(True)
        tip = "Stop before the next file, and remove what this export wrote"
        self._cancel = push_button("Cancel export", "export_cancel", self, self.cancel, tip)
        close = push_button("Close", "export_close", self, self.close)
        self._folder.textChanged.connect(self._refresh)
        self._stem.textChanged.connect(self._refresh)
        form = QFormLayout()
        form.addRow("Folder", row((self._folder, 1), choose))
        form.addRow("Name", self._stem)
        form.addRow("Surfaces in", self._coordinates)
        buttons = row(None, self._cancel, close, self._go)
        column(group, form, self._overwrite, self._status, self._progress, buttons, within=self, margin=9)
        self.resize(520, self.sizeHint().height())

    def _set_writing(self, on: bool) -> None:
        self._progress.setVisible(on)
        self._cancel.setEnabled(on)
        self._refresh()

    def _refresh(self) -> None:
        chosen = any(box.isChecked() for box in self._boxes.values())
        ready = chosen and bool(self._folder.text().strip()) and bool(self._stem.text().strip())
        self._go.setEnabled(ready and not self._cancel.isEnabled())
        self._coordinates.setEnabled(self._boxes["stl"].isChecked() or self._boxes["ply"].isChecked())

    def _on_choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Export to", self._folder.text())
        if folder:
            self._folder.setText(folder)

    def _on_go(self) -> None:
        if self._result is not None:
            self.write(self._result, self._image, self.request())

    def _on_progress(self, done: int, total: int) -> None:
        if self._tasks.busy and not self._cancelled.is_set():
            self._progress.setRange(0, total)
            self._progress.setValue(done)
            self._say(f"Writing: {done} of {count(total, 'file')} done …")

    def _on_written(self, written: tuple[list[Path], list[str]]) -> None:
        paths, notes = written
        self._set_writing(False)
        what = str(paths[0]) if len(paths) == 2 else f"{count(len(paths), 'file')} to {paths[0].parent}"
        sentence = f"Exported {what}; names and provenance are in {paths[-1].name}."
        self._say(" ".join([sentence, *notes]))
        self.exported.emit(paths)

    def _on_failed(self, sentence: str) -> None:
        self._set_writing(False)
        self._fail(sentence)

    def _say(self, sentence: str) -> None:
        self._status.setText(sentence)
        self.message.emit(sentence)

    def _fail(self, sentence: str) -> None:
        self._say(sentence)
        self.failed.emit(sentence)


def provenance_of(
    layer: Labels, session: AnnotationSession | None, fingerprint: Callable[[], str] | None = None
) -> Provenance:
    """A function of labels, for any thread, that says where those of this layer come from, as is known now."""
    record = record_of(layer)
    opened = {OPENED: record.opened} if record.opened else {}
    # On a scan's grid, what its own reader assumed counts.
    assumed = record.file.notes if record.file is not None and record.scan is None else ()
    moment = session.moment() if session is not None else None

    def provenance(labels: Any) -> Mapping[str, Any]:
        told = moment.provenance(labels) if moment is not None else opened
        if assumed:
            told = {**told, READING_NOTES: list(assumed)}
        return told if fingerprint is None else {**told, "source": {"fingerprint": fingerprint()}}

    return provenance


def exporter_of(viewer: Viewer) -> Exporter:
    """The exporter of a viewer's window; it lives as long as it."""
    return window_object(viewer, Exporter, _NAME, lambda _viewer, window: Exporter(window))
