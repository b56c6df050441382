"""The saved sessions in a window of their own: restore, export, import, delete."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QDialog,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_transunet.annotation.session_store import SessionInfo, SessionStore
from napari_transunet.errors import TransUNetError
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.messages import count
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from napari.layers import Image

logger = logging.getLogger(__name__)

_COLUMNS = ("Image", "Saved", "Edited voxels", "Reviewed", "Size", "")


class SessionsDialog(QDialog):
    """Emits `restore_wanted` with the image and the `SessionInfo`; the viewer stays usable beside it."""

    restore_wanted = Signal(object, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("sessions_dialog")
        self.setWindowTitle("Saved labels")
        self.setWindowFlag(Qt.WindowType.Tool)
        self._infos: list[SessionInfo] = []
        self._image: Image | None = None
        self._fingerprint: str | None = None
        self._tasks = BackgroundTasks(self)
        self._table = QTableWidget(0, len(_COLUMNS), self)
        self._table.setObjectName("sessions_table")
        self._table.setHorizontalHeaderLabels(list(_COLUMNS))
        self._table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self._table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self._table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self._table.itemSelectionChanged.connect(self._refresh_buttons)
        self._status = QLabel(self)
        self._status.setObjectName("sessions_status")
        self._status.setWordWrap(True)
        self._status.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.MinimumExpanding)
        self._question = ConfirmBar(self)
        self._restore = self._button("Restore", "session_restore", self._on_restore)
        self._export = self._button("Export…", "session_export", self._on_export)
        self._import = self._button("Import…", "session_import", self._on_import)
        self._delete = self._button("Delete", "session_delete", self._on_delete)
        buttons = QHBoxLayout()
        for button in (self._restore, self._export, self._import, self._delete):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.addWidget(self._table)
        layout.addWidget(self._status)
        layout.addWidget(self._question)
        layout.addLayout(buttons)
        self.resize(640, 360)
        self._refresh_buttons()

    def show_for(self, image: Image | None, fingerprint: str | None) -> None:
        """Show all sessions; those of this image, which has this fingerprint, can be restored."""
        self._image, self._fingerprint = image, fingerprint
        self.show()
        self.raise_()
        self.refresh()

    def refresh(self) -> None:
        """List the sessions anew, off the GUI thread."""
        self._tasks.run(lambda: SessionStore().sessions(), self._on_listed, self._on_failed)

    def detach(self) -> None:
        """Forget what is under way, and close."""
        self._tasks.drop()
        self.close()

    def _button(self, text: str, name: str, pressed: Any) -> QPushButton:
        button = QPushButton(text, self)
        button.setObjectName(name)
        button.clicked.connect(pressed)
        return button

    def _on_listed(self, infos: list[SessionInfo]) -> None:
        self._infos = infos
        self._table.setRowCount(len(infos))
        for row, info in enumerate(infos):
            summary = info.summary
            cells = (
                info.about.image_name,
                f"{info.saved_at.astimezone():%Y-%m-%d %H:%M}",
                f"{int(summary.get('edited_voxels', 0) or 0):,}",
                f"{summary.get('reviewed', 0)} of {summary.get('slices', 0)}",
                f"{info.size / 1e6:.1f} MB",
                "in use" if info.in_use else "",
            )
            for column, text in enumerate(cells):
                self._table.setItem(row, column, QTableWidgetItem(text))
        self._table.resizeColumnsToContents()
        self._status.setText(
            f"{count(len(infos), 'session')} in {SessionStore().root}" if infos else "Nothing is saved yet."
        )
        self._refresh_buttons()

    def _chosen(self) -> SessionInfo | None:
        items = self._table.selectedItems()
        return self._infos[items[0].row()] if items and items[0].row() < len(self._infos) else None

    def _refresh_buttons(self) -> None:
        info = self._chosen()
        free = info is not None and not info.in_use
        fits = info is not None and info.about.fingerprint == self._fingerprint
        self._restore.setEnabled(free and fits)
        self._restore.setToolTip(
            f"Put these labels back onto “{self._image.name}”"
            if free and fits and self._image is not None
            else "Open the image of these labels first"
        )
        self._export.setEnabled(info is not None)
        self._delete.setEnabled(free)
        self._question.withdraw()

    def _on_restore(self) -> None:
        info = self._chosen()
        if info is not None and self._image is not None:
            self.restore_wanted.emit(self._image, info)
            self.close()

    def _on_export(self) -> None:
        info = self._chosen()
        if info is None:
            return
        name, _ = QFileDialog.getSaveFileName(
            self, "Export session", f"{info.folder.name}.zip", "Session (*.zip)"
        )
        if name:
            path = Path(name if name.lower().endswith(".zip") else f"{name}.zip")
            self._tasks.run(
                lambda: SessionStore().export(info, path, overwrite=path == Path(name)),
                lambda written: self._status.setText(f"Exported to {written}."),
                self._on_failed,
            )

    def _on_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import session", "", "Session (*.zip)")
        if name:
            self._tasks.run(
                lambda: SessionStore().import_(name), lambda _info: self.refresh(), self._on_failed
            )

    def _on_delete(self) -> None:
        info = self._chosen()
        if info is None:
            return
        self._question.ask(
            f"Delete the saved labels of “{info.about.image_name}” for good?",
            yes="Delete",
            no="Keep",
            on_yes=lambda: self._tasks.run(
                lambda: SessionStore().delete(info), lambda _none: self.refresh(), self._on_failed
            ),
        )

    def _on_failed(self, error: Exception) -> None:
        known = isinstance(error, TransUNetError)
        self._status.setText(str(error) if known else f"That did not work ({type(error).__name__}: {error}).")
