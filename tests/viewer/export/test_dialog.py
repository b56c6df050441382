"""What the export dialog asks for."""

from __future__ import annotations

import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from qtpy.QtWidgets import QCheckBox, QComboBox, QPushButton

from napari_transunet.viewer.export.dialog import ExportDialog


def test_the_export_dialog_asks_for_a_request(qtbot, tmp_path):
    dialog = ExportDialog()
    qtbot.addWidget(dialog)
    dialog.offer(None, tmp_path, "ct_labels")
    assert dialog.request().formats == ("nifti",)
    assert not dialog.findChild(QComboBox, "mesh_coordinates").isEnabled()
    dialog.findChild(QCheckBox, "format_ply").setChecked(True)
    dialog.findChild(QComboBox, "mesh_coordinates").setCurrentIndex(1)
    asked = []
    dialog.wanted.connect(asked.append)
    dialog.findChild(QPushButton, "export_go").click()
    assert asked[0].formats == ("nifti", "ply")
    assert asked[0].coordinates == "RAS"
    assert (asked[0].folder, asked[0].stem, asked[0].overwrite) == (tmp_path, "ct_labels", False)
    for name in ("nifti", "ply"):
        dialog.findChild(QCheckBox, f"format_{name}").setChecked(False)
    assert not dialog.findChild(QPushButton, "export_go").isEnabled()
