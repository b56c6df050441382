"""Which formats to export, and where to; the viewer stays usable beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QLineEdit,
    QProgressBar,
    QVBoxLayout,
    QWidget,
)

from napari_transunet.export.formats import FORMATS, unavailable
from napari_transunet.export.writing import ExportRequest
from napari_transunet.viewer.widgets.qt_helpers import push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine

if TYPE_CHECKING:
    from napari_transunet.volumes.volume import Source


class ExportDialog(QDialog):
    """Emits `wanted` with an `ExportRequest`, and `cancel_wanted` while one is written."""

    wanted = Signal(object)
    cancel_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("export_dialog")
        self.setWindowTitle("Export labels")
        self.setWindowFlag(Qt.WindowType.Tool)
        self._boxes: dict[str, QCheckBox] = {}
        group = QGroupBox("Formats", self)
        inner = QVBoxLayout(group)
        for name, (ending, words) in FORMATS.items():
            box = QCheckBox(f"{words} ({ending.replace('_*', '_ORGAN')})", group)
            box.setObjectName(f"format_{name}")
            box.toggled.connect(self._refresh)
            inner.addWidget(box)
            self._boxes[name] = box
        self._folder = QLineEdit(self)
        self._folder.setObjectName("export_folder")
        choose = push_button("Choose…", "export_choose", self, self._on_choose)
        self._stem = QLineEdit(self)
        self._stem.setObjectName("export_name")
        self._coordinates = QComboBox(self)
        self._coordinates.setObjectName("mesh_coordinates")
        self._coordinates.addItem("LPS, as DICOM and ITK have them", "LPS")
        self._coordinates.addItem("RAS, as Slicer and NIfTI have them", "RAS")
        self._overwrite = QCheckBox("Replace files that exist", self)
        self._overwrite.setObjectName("export_overwrite")
        self._status = StatusLine("export_status", self)
        self._progress = QProgressBar(self)
        self._progress.setObjectName("export_progress")
        self._progress.setTextVisible(False)
        self._progress.hide()
        self._go = push_button("Export", "export_go", self, lambda: self.wanted.emit(self.request()))
        self._go.setDefault(True)
        self._cancel = push_button(
            "Cancel export",
            "export_cancel",
            self,
            self.cancel_wanted,
            "Stop before the next file; nothing of this export stays",
        )
        self._cancel.setEnabled(False)
        self._busy = False
        close = push_button("Close", "export_close", self, self.close)
        self._folder.textChanged.connect(self._refresh)
        self._stem.textChanged.connect(self._refresh)

        form = QFormLayout()
        form.addRow("Folder", row((self._folder, 1), choose))
        form.addRow("Name", self._stem)
        form.addRow("Surfaces in", self._coordinates)
        layout = QVBoxLayout(self)
        layout.addWidget(group)
        layout.addLayout(form)
        layout.addWidget(self._overwrite)
        layout.addWidget(self._status)
        layout.addWidget(self._progress)
        layout.addLayout(row(None, self._cancel, close, self._go))
        self.resize(520, self.sizeHint().height())

    def offer(self, source: Source | None, folder: Path, stem: str, preferred: str = ".nii.gz") -> None:
        """Set the dialog up for labels of this scan; where no format is chosen yet, the one of this ending is."""
        for name, box in self._boxes.items():
            why = unavailable(name, source)
            box.setEnabled(why is None)
            box.setToolTip(why or "")
            if why is not None:
                box.setChecked(False)
        if not any(box.isChecked() for box in self._boxes.values()):
            self._boxes[next(name for name, (end, _) in FORMATS.items() if end == preferred)].setChecked(True)
        self._folder.setText(str(folder))
        self._stem.setText(stem)
        self._overwrite.setChecked(False)
        if not self._busy:
            self.set_status("")
        self._refresh()

    def request(self) -> ExportRequest:
        """What pressing *Export* asks for."""
        return ExportRequest(
            folder=Path(self._folder.text()).expanduser(),
            stem=self._stem.text().strip(),
            formats=tuple(name for name, box in self._boxes.items() if box.isChecked()),
            coordinates="RAS" if self._coordinates.currentData() == "RAS" else "LPS",
            overwrite=self._overwrite.isChecked(),
        )

    def set_status(self, sentence: str) -> None:
        """Say how the export went."""
        self._status.setText(sentence)

    def set_progress(self, done: int, total: int) -> None:
        """An export is being written, of which so many files are done; `total` 0 where that is not known yet."""
        self._progress.setRange(0, total)
        self._progress.setValue(done)
        self._set_busy(True)

    def set_idle(self) -> None:
        """No export is being written."""
        self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self._progress.setVisible(busy)
        self._cancel.setEnabled(busy)
        self._refresh()

    def _on_choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Export to", self._folder.text())
        if folder:
            self._folder.setText(folder)

    def _refresh(self) -> None:
        chosen = any(box.isChecked() for box in self._boxes.values())
        ready = chosen and bool(self._folder.text().strip()) and bool(self._stem.text().strip())
        self._go.setEnabled(ready and not self._busy)
        meshes = self._boxes["stl"].isChecked() or self._boxes["ply"].isChecked()
        self._coordinates.setEnabled(meshes)
