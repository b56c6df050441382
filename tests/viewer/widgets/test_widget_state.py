"""Docks come back as they were left."""

from qtpy.QtWidgets import QDoubleSpinBox, QPushButton, QToolButton, QWidget

from napari_transunet.viewer.review.correction_panel import REMEMBERED, CorrectionPanel
from napari_transunet.viewer.widgets.collapsible import CollapsibleSection
from napari_transunet.viewer.widgets.widget_state import WidgetState


def test_a_dock_remembers_its_choices(qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    monkeypatch.setattr(
        "napari_transunet.viewer.widgets.widget_state.platformdirs.user_state_dir",
        lambda _name: str(tmp_path / "state"),
    )

    def dock():
        outer = QWidget()
        CollapsibleSection("Correct", CorrectionPanel(), "section_correct", outer)
        qtbot.addWidget(outer)
        return outer, WidgetState(outer, "test", (*REMEMBERED, "section_correct"))

    first, memory = dock()
    first.findChild(QDoubleSpinBox, "grow_mm").setValue(7.5)
    first.findChild(QPushButton, "scope_slices_1").setChecked(True)
    first.findChild(QToolButton, "section_correct").setChecked(True)
    memory.keep()
    second, _ = dock()
    assert second.findChild(QDoubleSpinBox, "grow_mm").value() == 7.5
    assert second.findChild(QPushButton, "scope_slices_1").isChecked()
    assert second.findChild(QToolButton, "section_correct").isChecked()
    (tmp_path / "state" / "test.json").write_text('{"grow_mm": "many", "count": [1]}')
    third, _ = dock()
    assert third.findChild(QDoubleSpinBox, "grow_mm").value() == 2.0


def test_the_other_dock_remembers_its_fold(make_napari_viewer, tmp_path, monkeypatch):
    viewer = make_napari_viewer()
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    monkeypatch.setattr(
        "napari_transunet.viewer.widgets.widget_state.platformdirs.user_state_dir",
        lambda _name: str(tmp_path / "state"),
    )
    for expected in (False, True):
        _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
        fold = dock.findChild(QToolButton, "advanced")
        assert fold.isChecked() is expected
        fold.setChecked(True)
        viewer.window.remove_dock_widget(dock.parent())
