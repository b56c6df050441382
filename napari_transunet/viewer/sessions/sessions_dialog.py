"""The saved sessions in a window of their own: restore, export, import, delete."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.layers import Image
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QDialog, QFileDialog, QWidget

from napari_transunet.annotation.session_store import SessionInfo, SessionStore
from napari_transunet.viewer.sessions.kept_labels import is_lone
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.messages import count
from napari_transunet.viewer.widgets.qt_helpers import column, push_button, row
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.viewer.widgets.tables import RowTable
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

_COLUMNS = ("Image", "Saved", "Edited voxels", "Reviewed", "Size", "State")


class SessionsDialog(QDialog):
    """Emits `restore_wanted` with the image (None for labels of no image) and the `SessionInfo`.

    The viewer stays usable beside it.
    """

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
        self._table = RowTable("sessions_table", _COLUMNS, self, fitting=True)
        self._table.itemSelectionChanged.connect(self._refresh_buttons)
        self._status = StatusLine("sessions_status", self)
        self._question = ConfirmBar(self)
        self._restore = push_button("Restore", "session_restore", self, self._on_restore)
        self._export = push_button("Export…", "session_export", self, self._on_export)
        import_button = push_button("Import…", "session_import", self, self._on_import)
        self._delete = push_button("Delete", "session_delete", self, self._on_delete)
        buttons = row(self._restore, self._export, import_button, self._delete)
        column((self._table, 1), self._status, self._question, buttons, within=self, margin=9)
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
        self._run(SessionStore().sessions, self._on_listed, "Listing the sessions")

    def _on_listed(self, infos: list[SessionInfo]) -> None:
        self._infos = infos
        self._table.show_rows([_cells(info) for info in infos])
        self._status.setText(
            f"{count(len(infos), 'session')} in {SessionStore().root}" if infos else "Nothing is saved yet."
        )
        self._refresh_buttons()

    def _chosen(self) -> SessionInfo | None:
        at = self._table.chosen
        return self._infos[at] if at is not None and at < len(self._infos) else None

    def _refresh_buttons(self) -> None:
        info = self._chosen()
        free = info is not None and not info.in_use
        lone = info is not None and is_lone(info)
        fits = lone or (info is not None and info.about.fingerprint == self._fingerprint)
        self._restore.setEnabled(free and fits)
        self._restore.setToolTip(
            "Put these labels, which lay on no open image, back into the window"
            if free and lone
            else f"Put these labels back onto “{self._image.name}”"
            if free and fits and self._image is not None
            else "Open the image of these labels first"
        )
        self._export.setEnabled(info is not None)
        self._delete.setEnabled(free)
        self._question.withdraw()

    def _on_restore(self) -> None:
        info = self._chosen()
        if info is not None and (self._image is not None or is_lone(info)):
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
            self._run(
                lambda: SessionStore().export(info, path, overwrite=path == Path(name)),
                lambda written: self._status.setText(f"Exported to {written}."),
                "The export",
            )

    def _on_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import session", "", "Session (*.zip)")
        if name:
            self._run(lambda: SessionStore().import_(name), lambda _info: self.refresh(), "The import")

    def _on_delete(self) -> None:
        info = self._chosen()
        if info is None:
            return
        self._question.ask(
            f"Delete the saved labels of “{info.about.image_name}” for good?",
            yes="Delete",
            no="Keep",
            on_yes=lambda: self._run(
                lambda: SessionStore().delete(info), lambda _none: self.refresh(), "Deleting"
            ),
        )

    def _run(self, function: Callable[[], Any], on_result: Callable[[Any], None], what: str) -> None:
        self._tasks.run(function, on_result, self._status.setText, what=what)


def _cells(info: SessionInfo) -> tuple[str, ...]:
    summary = info.summary
    return (
        info.about.image_name,
        f"{info.saved_at.astimezone():%Y-%m-%d %H:%M}",
        f"{int(summary.get('edited_voxels', 0) or 0):,}",
        f"{summary.get('reviewed', 0)} of {summary.get('slices', 0)}",
        f"{info.size / 1e6:.1f} MB",
        "in use" if info.in_use else "closed",
    )
