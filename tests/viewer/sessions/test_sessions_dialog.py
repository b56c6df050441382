"""Saved sessions in their window."""

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtWidgets import QFileDialog, QLabel, QPushButton, QTableWidget

from napari_transunet.annotation.session_file import ArraySpec
from napari_transunet.annotation.session_folder import SessionAbout
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.viewer.sessions.sessions_dialog import SessionsDialog
from tests.viewer.waiting import TIMEOUT

IMAGE = Image(np.zeros((2, 3, 4)), name="ct")


@pytest.fixture
def dialog(qtbot):
    for letter in "ab":
        folder = SessionStore().create(
            SessionAbout(letter * 64, f"ct_{letter}", None, (2, 3, 4), (1, 1, 1), "")
        )
        labels = np.ones((2, 3, 4), np.uint8)
        folder.save({"labels": dict(enumerate(labels))}, {"labels": ArraySpec.of(labels)}, {}, whole=True)
        folder.close()
    dialog = SessionsDialog()
    qtbot.addWidget(dialog)
    dialog.show_for(IMAGE, "a" * 64)
    table = dialog.findChild(QTableWidget, "sessions_table")
    qtbot.waitUntil(lambda: table.rowCount() == 2, timeout=TIMEOUT)
    return dialog


def _select(dialog, name):
    table = dialog.findChild(QTableWidget, "sessions_table")
    table.selectRow(next(row for row in range(table.rowCount()) if table.item(row, 0).text() == name))


def _button(dialog, name):
    return dialog.findChild(QPushButton, name)


def test_only_labels_of_the_open_image_are_restored(dialog, qtbot):
    assert not _button(dialog, "session_restore").isEnabled()
    _select(dialog, "ct_b")
    assert not _button(dialog, "session_restore").isEnabled()
    _select(dialog, "ct_a")
    with qtbot.waitSignal(dialog.restore_wanted, timeout=TIMEOUT) as told:
        _button(dialog, "session_restore").click()
    assert told.args[1].about.image_name == "ct_a"


def test_all_columns_are_in_sight_however_long_a_name_is(dialog, qtbot):
    table = dialog.findChild(QTableWidget, "sessions_table")
    table.item(0, 0).setText("a name of a scan that is much too long " * 9)
    shown = sum(table.columnWidth(column) for column in range(table.columnCount()))
    assert table.viewport().width() - 4 <= shown <= table.viewport().width()
    dialog.resize(900, 360)
    qtbot.waitUntil(lambda: table.columnWidth(0) > 400, timeout=TIMEOUT)


def test_a_session_is_exported_deleted_and_imported(dialog, qtbot, tmp_path, monkeypatch):
    target = tmp_path / "session.zip"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(target), ""))
    status = dialog.findChild(QLabel, "sessions_status")
    table = dialog.findChild(QTableWidget, "sessions_table")
    _select(dialog, "ct_b")
    _button(dialog, "session_export").click()
    qtbot.waitUntil(lambda: "Exported" in status.text(), timeout=TIMEOUT)
    _button(dialog, "session_delete").click()
    assert table.rowCount() == 2  # asked first
    _button(dialog, "question_yes").click()
    qtbot.waitUntil(lambda: table.rowCount() == 1, timeout=TIMEOUT)
    _button(dialog, "session_import").click()
    qtbot.waitUntil(lambda: table.rowCount() == 2, timeout=TIMEOUT)
    target.write_bytes(b"noise")
    _button(dialog, "session_import").click()
    qtbot.waitUntil(lambda: "no exported session" in status.text(), timeout=TIMEOUT)
