"""The parts of the dock by themselves: what they draw, what they ask for, and which keys they take."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QPushButton, QTabWidget, QToolButton, QWidget

from napari_transunet.viewer.review.actions import ACTIONS
from napari_transunet.viewer.review.correction_panel import REMEMBERED, CorrectionPanel
from napari_transunet.viewer.review.export_dialog import ExportDialog
from napari_transunet.viewer.review.help_page import help_html
from napari_transunet.viewer.review.keys import ReviewKeys
from napari_transunet.viewer.review.organ_list import OrganList
from napari_transunet.viewer.review.slice_strip import SliceStrip, StripData
from napari_transunet.viewer.widgets.widget_state import Memory
from napari_transunet.volumes.labels import LabelSet

N = 40


def _data(**changes) -> StripData:
    unsure = np.linspace(0, 1, N)
    unsure[30:] = np.nan
    shown = np.zeros(N, bool)
    shown[5:20] = True
    base = {
        "expected_error": unsure / 40,
        "uncertainty": unsure,
        "reviewed": np.zeros(N, bool),
        "edited": np.zeros(N, np.int64),
        "conflicts": np.zeros(N, np.int64),
        "extents": [("liver", (1.0, 0.0, 0.0), shown)],
    }
    return StripData(**(base | changes))


@pytest.fixture
def strip(qtbot):
    strip = SliceStrip()
    qtbot.addWidget(strip)
    strip.set_data(_data())
    strip.resize(404, strip.sizeHint().height())
    strip.show()
    return strip


def _column(strip, index):
    """Colours of the strip's pixels in the middle of a slice, from the top down."""
    image = strip.grab().toImage()
    ratio = image.width() / strip.width()
    x = round((strip._left(index) + strip._step() / 2) * ratio)
    return [image.pixelColor(x, y).getRgb()[:3] for y in range(image.height())]


def test_bars_grow_with_the_expected_error_and_organs_are_lines(strip):
    strip.set_current(39)
    tall = [
        sum(color != _column(strip, 0)[3] for color in _column(strip, index)[:46]) for index in (3, 12, 25)
    ]
    assert tall[0] < tall[1] < tall[2]
    assert (255, 0, 0) in _column(strip, 10)
    assert (255, 0, 0) not in _column(strip, 25)


def test_marks_show(strip):
    strip.set_current(39)
    plain = _column(strip, 12)
    marks = np.zeros(N, bool)
    marks[12] = True
    strip.set_data(_data(reviewed=marks))
    reviewed = _column(strip, 12)
    strip.set_data(_data(edited=marks.astype(np.int64)))
    edited = _column(strip, 12)
    strip.set_data(_data(edited=marks.astype(np.int64), conflicts=marks.astype(np.int64)))
    assert len({tuple(plain), tuple(reviewed), tuple(edited), tuple(_column(strip, 12))}) == 4
    strip.set_current(12)
    assert _column(strip, 12) != plain


def test_a_click_a_key_and_the_wheel_choose_slices(strip, qtbot):
    chosen = []
    strip.slice_chosen.connect(chosen.append)
    at = QPoint(round(strip._left(17) + strip._step() / 2), 10)
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=at)
    qtbot.keyClick(strip, Qt.Key.Key_Right)
    qtbot.keyClick(strip, Qt.Key.Key_Left)
    assert chosen == [17, 18, 17]
    strip.set_current(0)
    qtbot.keyClick(strip, Qt.Key.Key_Left)
    assert chosen[-1] == 17


def test_the_tooltip_says_all(strip):
    edited = np.zeros(N, np.int64)
    edited[12] = 214
    strip.set_data(_data(edited=edited, conflicts=edited // 2, reviewed=edited > 0))
    assert strip.words_for(12) == (
        "Slice 12: uncertainty 0.31; liver; reviewed; 214 voxels edited; the last run disagrees in 107 of them"
    )
    assert strip.words_for(35) == "Slice 35: uncertainty not known"
    strip.set_data(None)
    strip.grab()
    assert strip.words_for(3) == ""


def test_organs_are_picked_hidden_and_locked(qtbot):
    organs = OrganList()
    qtbot.addWidget(organs)
    organs.show_labels(LabelSet.from_names({1: "liver", 5: "spleen"}))
    said = []
    organs.picked.connect(lambda value: said.append(("pick", value)))
    organs.visibility_changed.connect(lambda value, on: said.append(("eye", value, on)))
    organs.lock_changed.connect(lambda value, on: said.append(("lock", value, on)))
    for name in ("organ_5", "eye_5", "lock_1"):
        organs.findChild(QWidget, name).click()
    assert said == [("pick", 5), ("eye", 5, False), ("lock", 1, True)]
    assert organs.findChild(QWidget, "organ_5").isChecked()
    organs.set_hidden({1})
    organs.set_locked(set())
    assert len(said) == 3  # showing a state is not changing it
    assert not organs.findChild(QWidget, "eye_1").isChecked()
    assert organs.findChild(QWidget, "eye_5").isChecked()
    organs.set_pickable("Wait.")
    organs.findChild(QWidget, "organ_1").click()
    assert len(said) == 3


def test_tools_ask_for_what_is_chosen(qtbot):
    panel = CorrectionPanel()
    qtbot.addWidget(panel)
    panel.show_organs({1: "liver", 5: "spleen"})
    asked = []
    panel.wanted.connect(asked.append)
    panel.findChild(QDoubleSpinBox, "smooth_mm").setValue(3.5)
    panel.findChild(QPushButton, "tool_smooth").click()
    panel.findChild(QPushButton, "scope_organ_1").click()
    panel.findChild(QPushButton, "scope_slices_1").click()
    box = panel.findChild(QComboBox, "replace_by")
    box.setCurrentIndex(box.findText("spleen"))
    panel.findChild(QPushButton, "tool_replace").click()
    smooth, replace = asked
    assert (smooth.tool, smooth.sizes) == ("smooth", {"radius_mm": 3.5})
    assert (smooth.all_organs, smooth.whole_volume, smooth.by_hand_too) == (False, False, False)
    assert replace.all_organs
    assert replace.whole_volume
    assert replace.sizes == {"by": 5}
    ranges = []
    panel.range_changed.connect(ranges.append)
    panel.set_range(100, -20)
    panel.toggle_range()
    assert ranges[0] == (-20.0, 100.0)
    assert ranges[-1] is None
    panel.set_enabled_because("Wait.")
    panel.press("smooth")
    assert len(asked) == 2
    assert panel.findChild(QPushButton, "tool_smooth").toolTip() == "Wait."


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


def test_no_key_is_taken_twice_nor_from_napari(make_napari_viewer):
    from napari.layers import Image, Labels
    from napari.utils.key_bindings import coerce_keybinding
    from napari.utils.shortcuts import default_shortcuts

    viewer = make_napari_viewer()
    from napari._app_model import get_app_model

    theirs = {coerce_keybinding(key) for keys in default_shortcuts.values() for key in keys}
    theirs |= {binding.keybinding for binding in get_app_model().keybindings}
    for owner in (Labels, Image, type(viewer)):
        theirs |= set(owner.class_keymap)
    ours = [coerce_keybinding(action.key) for action in ACTIONS.values() if action.key]
    assert len(set(ours)) == len(ours)
    # Letters that napari uses on layers of shapes or points only are not ours either: none is shared at all.
    assert not {str(key) for key in ours} & {str(key) for key in theirs}


def test_keys_work_on_the_canvas_and_are_given_back(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    layer = viewer.add_labels(np.zeros((4, 16, 16), np.uint8))
    before = dict(viewer.keymap)
    pressed = []
    keys = ReviewKeys(viewer)
    keys.bind({name: lambda name=name: pressed.append(name) for name in ("next", "smooth", "help", "above")})
    canvas = viewer.window._qt_viewer.canvas.native
    for mode in ("pan_zoom", "paint"):
        layer.mode = mode
        pressed.clear()
        qtbot.keyClick(canvas, Qt.Key.Key_N)
        qtbot.keyClick(canvas, Qt.Key.Key_S, Qt.KeyboardModifier.ShiftModifier)
        qtbot.keyClick(canvas, Qt.Key.Key_Period)
        qtbot.keyClick(canvas, Qt.Key.Key_F1)
        assert pressed == ["next", "smooth", "above", "help"]
    keys.unbind()
    assert dict(viewer.keymap) == before


def test_the_help_lists_every_action():
    page = help_html()
    for name, action in ACTIONS.items():
        if not name.startswith("organ_"):
            assert action.tip.split(";")[0].split("'")[0] in page, name


def test_a_dock_remembers_its_choices(qtbot, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    monkeypatch.setattr(
        "napari_transunet.viewer.widgets.widget_state.platformdirs.user_state_dir",
        lambda _name: str(tmp_path / "state"),
    )

    def dock():
        box = QTabWidget()
        box.setObjectName("review_tabs")
        box.addTab(CorrectionPanel(), "a")
        box.addTab(QWidget(), "b")
        outer = QWidget()
        box.setParent(outer)
        qtbot.addWidget(outer)
        return outer, Memory(outer, "test", (*REMEMBERED, "review_tabs"))

    first, memory = dock()
    first.findChild(QDoubleSpinBox, "grow_mm").setValue(7.5)
    first.findChild(QPushButton, "scope_slices_1").setChecked(True)
    first.findChild(QTabWidget, "review_tabs").setCurrentIndex(1)
    memory.keep()
    second, _ = dock()
    assert second.findChild(QDoubleSpinBox, "grow_mm").value() == 7.5
    assert second.findChild(QPushButton, "scope_slices_1").isChecked()
    assert second.findChild(QTabWidget, "review_tabs").currentIndex() == 1
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
