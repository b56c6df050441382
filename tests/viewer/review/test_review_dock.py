"""The dock *Review and correct* as a person uses it: real buttons and keys on labels that a run left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QToolButton,
)

from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.inference.slices import SliceSource
from napari_transunet.inference.uncertainty import SliceUncertainty
from napari_transunet.io.reading import read_volume
from napari_transunet.viewer.layers.layers import add_volume, labels_to_layer, placement, volume_of
from napari_transunet.viewer.layers.undo import UndoStep
from napari_transunet.viewer.sessions.autosave_controller import keep, keeper_of
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct
from tests.viewer.waiting import TIMEOUT

SHAPE = (12, 48, 56)
NAMES = {1: "liver", 2: "spleen", 3: "kidney_left"}


def _prediction() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 10:30, 8:24] = 1
    labels[3:8, 12:24, 32:44] = 2
    labels[5, 40:44, 50:54] = 1  # an island
    return labels


class Sitting:
    """The dock, the labels, and short names for what a person does."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        self.image = add_volume(viewer, synthetic_ct(SHAPE)[0], name="ct")
        volume = volume_of(self.image)
        self.result = sessions_of(viewer).begin(self.image, volume, LabelSet.from_names(NAMES))
        self.layer, self.session = self.result.layer, self.result.session
        viewer.add_layer(self.layer)
        self.run(_prediction())
        _, self.dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
        self.until(lambda: self.dock.bench.overview is not None)

    def run(self, prediction: np.ndarray) -> None:
        """What a run of the network does to the layer and its session."""
        write, step = UndoStep(self.layer), self.session.begin()
        unsure = self.session.unsure_along(0)
        card = ModelCard(variant="R50-ViT-Ti_16", num_classes=4, img_size=(64, 64), resize="pad")
        self.session.cards["ab"] = card.model_dump(mode="json", exclude_none=True)
        unsure.begin("ab", "card", (64, 64))
        for index in range(SHAPE[0]):
            write.write(
                0, index, self.session.merge_slice(step, 0, index, prediction[index], self.layer.data)
            )
            mean = 0.9 if index == 7 else index / 100
            per_class = np.array(
                [np.nan, mean, np.nan if index < 3 else 0.5 - index / 100, np.nan], np.float16
            )
            errors = np.array([np.nan, mean, 0 if index < 3 else 0.65 - index / 20, 0], np.float32)
            entropy = np.full((64, 64), mean, np.float16)
            unsure.put(index, SliceUncertainty(mean, per_class, mean, errors, entropy))
        self.result.undo.add(write.close(), step)

    def until(self, condition: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(condition, timeout=TIMEOUT)

    def press(self, name: str) -> None:
        button = self.dock.findChild(QPushButton, name) or self.dock.findChild(QToolButton, name)
        assert button.isEnabled(), button.toolTip()
        button.click()

    def tool(self, name: str) -> str:
        self.press(f"tool_{name}")
        self.until(lambda: not self.dock.toolbox.busy)
        return self.text("correction_status")

    def choose(self, name: str, at: int) -> None:
        """Choose an entry of a list, as a person does."""
        combo = self.dock.findChild(QComboBox, name)
        combo.setCurrentIndex(at)
        combo.activated.emit(at)

    def text(self, name: str) -> str:
        return self.dock.findChild(QLabel, name).text()

    def settle(self) -> None:
        """Until the slices were looked at anew."""
        self.qtbot.wait(450)
        self.until(lambda: not self.dock.bench._chores.busy)

    @property
    def slice(self) -> int:
        return self.viewer.dims.current_step[0]


@pytest.fixture
def sitting(make_napari_viewer: Callable[..., Any], qtbot: Any) -> Sitting:
    return Sitting(make_napari_viewer(), qtbot)


def test_the_review_walks_from_the_worst_slice_on(sitting):
    assert sitting.dock.bench.layer is sitting.layer
    sitting.press("next_slice")
    assert sitting.slice == 7
    assert sitting.text("review_progress") == "0 of 12 slices reviewed"
    sitting.press("mark_reviewed")
    assert sitting.session.reviewed.keys() == {7}
    assert sitting.slice == 11
    assert sitting.text("review_progress") == "1 of 12 slices reviewed"
    sitting.dock.review.slice_chosen.emit(7)
    assert sitting.slice == 7
    assert sitting.dock.findChild(QPushButton, "mark_reviewed").text() == "Unmark"
    sitting.press("mark_reviewed")
    assert not sitting.session.reviewed
    organ = sitting.dock.findChild(QComboBox, "review_organ")
    organ.setCurrentIndex(organ.findText("Spleen"))
    organ.activated.emit(organ.currentIndex())
    sitting.settle()
    sitting.press("next_slice")
    assert sitting.slice == 3  # the worst of those that show the spleen


def test_pressing_next_without_marking_leads_on_and_begins_anew_after_the_last(sitting):
    seen = []
    for _ in range(13):
        sitting.press("next_slice")
        seen.append(sitting.slice)
    assert seen[:4] == [7, 11, 10, 9]
    assert sorted(seen[:12]) == list(range(12))
    assert seen[12] == 7


def test_notes_belong_to_their_slices(sitting):
    note = sitting.dock.findChild(QLineEdit, "slice_note")
    sitting.dock.bench.go_to(4)
    note.setText("tip of the spleen")
    note.editingFinished.emit()
    sitting.dock.bench.go_to(5)
    assert note.text() == ""
    sitting.dock.bench.go_to(4)
    assert note.text() == "tip of the spleen"
    assert sitting.session.notes == {4: "tip of the spleen"}


def test_a_tool_is_one_undo_step_and_leaves_hands_work_alone(sitting):
    before = sitting.layer.data.copy()
    sitting.layer.data_setitem((np.array([5]), np.array([45]), np.array([5])), 1)  # by hand
    sitting.layer.selected_label = 1
    sitting.press("scope_slices_1")
    said = sitting.tool("largest")
    assert said == "16 voxels in 1 slice changed: liver -16. Left alone: 1 voxel edited by hand."
    assert not sitting.layer.data[5, 40:44, 50:54].any()
    assert sitting.layer.data[5, 45, 5] == 1
    assert sitting.session.hand_voxels(sitting.layer.data) == 1
    assert sitting.session.edited_voxels(sitting.layer.data) == 17
    sitting.layer.undo()
    sitting.layer.undo()
    assert np.array_equal(sitting.layer.data, before)
    assert sitting.session.edited_voxels(sitting.layer.data) == 0
    sitting.layer.redo()
    sitting.layer.redo()
    assert sitting.session.hand_voxels(sitting.layer.data) == 1
    sitting.dock.findChild(QCheckBox, "also_by_hand").setChecked(True)
    assert "liver -1" in sitting.tool("largest")


def test_a_tool_acts_in_the_slice_in_view_only(sitting):
    sitting.dock.bench.go_to(4)
    sitting.layer.selected_label = 2
    before = sitting.layer.data.copy()
    sitting.dock.findChild(QDoubleSpinBox, "grow_mm").setValue(9)
    assert "1 slice changed: spleen +" in sitting.tool("grow")
    changed = np.flatnonzero((sitting.layer.data != before).any(axis=(1, 2)))
    assert changed.tolist() == [4]
    assert "spleen" in sitting.tool("above")
    assert np.array_equal(sitting.layer.data[4] == 2, before[5] == 2)
    sitting.layer.selected_label = 0
    sitting.press("tool_grow")
    assert "pick an organ first" in sitting.text("correction_status")


def test_slices_between_corrected_ones_are_filled(sitting):
    sitting.layer.selected_label = 3
    for index in (1, 5):
        sitting.layer.data_setitem(
            tuple(
                np.array(part)
                for part in zip(*[(index, y, x) for y in range(2, 8) for x in range(2, 8)], strict=True)
            ),
            3,
        )
    assert "kidney left +108" in sitting.tool("interpolate")
    assert (sitting.layer.data[3, 2:8, 2:8] == 3).all()


def test_a_new_run_disagrees_and_edits_are_given_up_one_slice_at_a_time(sitting):
    sitting.layer.paint((4, 5, 5), 3)
    sitting.layer.paint((6, 5, 5), 3)
    painted = sitting.layer.data.copy()
    sitting.run(_prediction())
    sitting.settle()
    assert np.array_equal(sitting.layer.data, painted)
    assert "differently" in sitting.text("conflicts")
    assert "2 slices" in sitting.text("conflicts")
    sitting.dock.bench.go_to(0)
    sitting.press("next_conflict")
    assert sitting.slice == 4
    sitting.press("take_slice")
    assert not (sitting.layer.data[4] == 3).any()
    assert (sitting.layer.data[6] == 3).any()
    sitting.settle()
    assert "slice 6" in sitting.text("conflicts")
    sitting.press("take_all")
    sitting.settle()
    assert np.array_equal(sitting.layer.data, _prediction())
    assert not sitting.dock.findChild(QPushButton, "take_all").isVisibleTo(sitting.dock)
    sitting.layer.undo()
    assert (sitting.layer.data[6] == 3).any()


def test_a_run_that_changes_a_reviewed_slice_asks_for_another_look(sitting):
    sitting.dock.bench.go_to(4)
    sitting.press("mark_reviewed")
    sitting.dock.bench.go_to(4)
    other = _prediction()
    other[4, 12:20, 10:20] = 3
    sitting.run(other)
    sitting.settle()
    assert not sitting.session.reviewed
    assert sitting.dock.findChild(QPushButton, "mark_reviewed").text() == "Mark reviewed"
    sitting.press("mark_reviewed")
    assert sitting.session.reviewed.keys() == {4}


def test_a_locked_organ_changes_neither_by_brush_nor_by_tool(sitting):
    sitting.press("lock_1")
    before = sitting.layer.data.copy()
    sitting.layer.brush_size = 6
    sitting.layer.paint((4, 10, 8), 2)  # on the corner of the liver
    sitting.qtbot.wait(20)
    assert np.array_equal(sitting.layer.data == 1, before == 1)
    assert (sitting.layer.data != before).any()
    assert "stayed as they were" in sitting.text("correction_status")
    sitting.layer.undo()
    assert np.array_equal(sitting.layer.data, before)
    sitting.layer.selected_label = 1
    sitting.dock.findChild(QDoubleSpinBox, "grow_mm").setValue(9)
    assert "locked organs" in sitting.tool("grow")
    assert np.array_equal(sitting.layer.data, before)
    sitting.press("lock_1")
    assert "liver +" in sitting.tool("grow")


def test_the_brush_keeps_to_a_range_of_values(sitting):
    image = sitting.image.data
    low, high = sorted((int(image[4, 20, 15]) - 1, int(image[4, 20, 15]) + 1))
    sitting.dock.bench.go_to(4)
    sitting.dock.tools.set_range(low, high)
    sitting.layer.brush_size = 9
    before = sitting.layer.data.copy()
    sitting.layer.paint((4, 20, 15), 3)
    sitting.qtbot.wait(20)
    changed = sitting.layer.data != before
    assert changed.any()
    assert ((image[changed] >= low) & (image[changed] <= high)).all()
    sitting.layer.selected_label = 1
    sitting.press("range_from_organ")
    found = sitting.dock.toolbox.guard.between
    values = image[sitting.slice][sitting.layer.data[sitting.slice] == 1]
    assert found[0] < np.median(values) < found[1]
    assert found[1] - found[0] < 4 * values.std() / 3  # what was dabbed on air and bone does not count


def test_organs_are_hidden_without_losing_a_voxel(sitting):
    before = sitting.layer.data.copy()
    sitting.press("eye_1")
    assert sitting.layer.colormap.color_dict[1][3] == 0
    assert sitting.layer.colormap.color_dict[2][3] == 1
    sitting.press("eye_1")
    assert sitting.layer.colormap.color_dict[1][3] == 1
    assert np.array_equal(sitting.layer.data, before)


def test_keys_do_what_buttons_do(sitting):
    keys = {str(key): call for key, call in sitting.viewer.keymap.items()}
    sitting.viewer.layers.selection.active = sitting.layer

    def key(name: str) -> None:
        keys[name](sitting.viewer)

    key("N")
    assert sitting.slice == 7
    key("K")
    assert 7 in sitting.session.reviewed
    key("Alt+2")
    assert sitting.layer.selected_label == 2
    assert sitting.layer.mode == "paint"
    key("W")
    assert sitting.session.locked == {2}
    key("W")
    key("Shift+H")
    assert sitting.layer.colormap.color_dict[2][3] == 0
    key("H")
    assert sitting.layer.colormap.color_dict[1][3] == 0
    key("H")
    key("Shift+M")
    sitting.until(lambda: sitting.dock.findChild(QTableWidget, "measures").rowCount() == 3)
    key("F1")
    assert sitting.dock._page.isVisible()
    key("F1")


def test_organs_are_measured_and_a_row_leads_to_its_organ(sitting):
    sitting.press("measure")
    table = sitting.dock.findChild(QTableWidget, "measures")
    sitting.until(lambda: table.rowCount() == 3)
    assert [table.item(row, 0).text() for row in range(3)] == ["Liver", "Spleen", "Kidney left"]
    table.selectRow(1)
    assert sitting.slice == 5
    assert table.item(0, 6).text() == "2"


def test_other_labels_are_compared(sitting):
    reference = _prediction()
    reference[6, 10:20, 8:24] = 0
    data, meta, _ = labels_to_layer(
        np.where(reference == 1, 7, 0).astype(np.uint8), volume_of(sitting.image),
        LabelSet.from_names({7: "Liver"}), "reference",
    )  # fmt: skip
    sitting.viewer.add_labels(data, **meta)
    sitting.viewer.layers.selection.active = sitting.layer
    assert sitting.dock.bench.layer is sitting.layer
    sitting.dock.findChild(QCheckBox, "show_disagreement").setChecked(True)
    sitting.press("compare")
    scores = sitting.dock.findChild(QTableWidget, "scores")
    sitting.until(lambda: scores.rowCount() == 2)  # the reference knows the liver alone
    liver = 2 * (reference == 1).sum() / ((reference == 1).sum() + (_prediction() == 1).sum())
    assert scores.item(0, 1).text() == f"{liver:.3f}"
    assert scores.item(1, 1).text() == scores.item(0, 1).text()  # and so does the mean
    assert "Spleen" in sitting.text("compare_status")
    worst = sitting.dock.findChild(QTableWidget, "worst_slices")
    assert worst.item(0, 0).text() == "Slice 6"
    worst.selectRow(0)
    assert sitting.slice == 6
    assert "CT labels: disagreement".lower() in [layer.name.lower() for layer in sitting.viewer.layers]
    assert sitting.dock.bench.layer is sitting.layer


def test_uncertainty_is_shown_on_request_and_taken_away(sitting):
    box = sitting.dock.findChild(QCheckBox, "show_uncertainty")
    box.setChecked(True)
    sitting.until(lambda: any("uncertainty" in layer.name for layer in sitting.viewer.layers))
    layer = next(layer for layer in sitting.viewer.layers if "uncertainty" in layer.name)
    volume = volume_of(sitting.image)
    card = ModelCard(variant="R50-ViT-Ti_16", num_classes=4, img_size=(64, 64), resize="pad")
    inside = SliceSource.from_card(volume, card, (64, 64)).resize.shape
    assert layer.data.shape == (SHAPE[0], *inside)
    assert layer.data[7].mean() == pytest.approx(0.9, abs=0.02)
    assert np.allclose(layer.scale, sitting.layer.scale)
    box.setChecked(False)
    assert not any("uncertainty" in layer.name for layer in sitting.viewer.layers)


def test_several_formats_are_exported_at_once(sitting, tmp_path):
    sitting.layer.paint((4, 5, 5), 3)
    sitting.session.mark_reviewed(4)
    sitting.press("review_export")
    dialog = sitting.dock.exporter.dialog
    for name in ("nifti", "slicer", "stl", "label-table"):
        dialog.findChild(QCheckBox, f"format_{name}").setChecked(True)
    assert not dialog.findChild(QCheckBox, "format_dicom-seg").isEnabled()
    assert "DICOM" in dialog.findChild(QCheckBox, "format_dicom-seg").toolTip()
    dialog.findChild(QLineEdit, "export_folder").setText(str(tmp_path))
    dialog.findChild(QLineEdit, "export_name").setText("out")
    with sitting.qtbot.waitSignal(sitting.dock.exporter.exported, timeout=TIMEOUT):
        dialog.findChild(QPushButton, "export_go").click()
    assert np.array_equal(read_volume(tmp_path / "out.nii.gz").data, sitting.layer.data)
    told = (tmp_path / "out.json").read_text("utf-8")
    assert '"reviewed_slices": [' in told
    assert '"fingerprint": "' in told
    assert '"edited_by_hand": ' in told
    dialog.findChild(QPushButton, "export_go").click()
    sitting.until(lambda: "exists already" in dialog.findChild(QLabel, "export_status").text())
    sitting.viewer.layers.remove(sitting.image)
    sitting.dock.exporter.write(sitting.result, None, dialog.request())
    assert "is gone" in dialog.findChild(QLabel, "export_status").text()
    dialog.close()


def test_labels_that_no_run_made_can_be_corrected_too(sitting):
    sitting.viewer.layers.remove(sitting.layer)
    assert not sitting.dock.findChild(QPushButton, "next_slice").isEnabled()
    drawn = sitting.viewer.add_labels(_prediction(), name="drawn")
    assert sitting.dock.bench.layer is None  # of its size, but elsewhere: a person has to say so
    assert "drawn" in sitting.dock.status
    sitting.choose("review_image", 0)
    assert sitting.dock.bench.layer is drawn
    assert np.allclose(drawn.scale, sitting.image.scale)
    assert sessions_of(sitting.viewer).result_of(drawn).session.edited_voxels(drawn.data) == 0
    sitting.dock.bench.go_to(3)
    drawn.refresh()
    sitting.settle()
    assert keeper_of(sessions_of(sitting.viewer).result_of(drawn)) is None  # looking alone saves nothing
    sitting.press("scope_organ_1")
    sitting.press("scope_slices_1")
    sitting.tool("largest")
    assert not drawn.data[5, 40:44, 50:54].any()
    keeper = keeper_of(sessions_of(sitting.viewer).result_of(drawn))
    sitting.until(lambda: keeper._saver is not None)
    assert keeper.flush()
    assert len(SessionStore().sessions()) >= 1


def test_while_a_run_writes_nothing_can_be_done(sitting):
    step = UndoStep(sitting.layer)
    assert not sitting.dock.findChild(QPushButton, "tool_smooth").isEnabled()
    assert "Wait until" in sitting.dock.status
    step.close()
    assert sitting.dock.findChild(QPushButton, "tool_smooth").isEnabled()
    assert sitting.dock.status == ""


def test_closing_the_dock_gives_keys_and_layers_back(sitting):
    assert any(str(key) == "N" for key in sitting.viewer.keymap)
    sitting.viewer.window.remove_dock_widget(sitting.dock.parent())
    assert not any(str(key) == "N" for key in sitting.viewer.keymap)
    sitting.layer.paint((4, 5, 5), 3)
    assert sitting.dock.bench.layer is None


def test_the_part_that_is_clicked_stays(sitting):
    sitting.press("scope_slices_1")
    sitting.layer.selected_label = 1
    sitting.layer.mode = "paint"
    sitting.press("tool_clicked")
    assert "Click in the image" in sitting.text("correction_status")
    assert sitting.layer.mode == "pan_zoom"

    class Press:
        type, button = "mouse_press", 1
        position = tuple(sitting.layer.data_to_world((5, 41, 51)))

    for callback in list(sitting.viewer.mouse_drag_callbacks):
        callback(sitting.viewer, Press)
    sitting.until(lambda: not sitting.dock.toolbox.busy and "changed" in sitting.text("correction_status"))
    assert (sitting.layer.data == 1).sum() == 16
    assert sitting.layer.mode == "paint"


def test_exports_of_a_changed_scan_are_refused(make_napari_viewer, qtbot, tmp_path):
    from napari_transunet.io.writing import write_volume

    volume = synthetic_ct(SHAPE)[0]
    path: Path = write_volume(tmp_path / "ct.nii.gz", volume)
    viewer = make_napari_viewer()
    image = add_volume(viewer, read_volume(path))
    result = sessions_of(viewer).begin(image, volume_of(image), LabelSet.from_names(NAMES))
    viewer.add_layer(result.layer)
    result.layer.paint((4, 5, 5), 3)
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    request = dock.exporter.dialog.request()
    from dataclasses import replace

    request = replace(request, folder=tmp_path, stem="out", formats=("nifti",))
    path.write_bytes(path.read_bytes() + b"x")
    said: list[str] = []
    dock.exporter.said.connect(said.append)
    dock.exporter.write(result, image, request)
    qtbot.waitUntil(lambda: any("was changed" in sentence for sentence in said), timeout=TIMEOUT)
    path.unlink()
    dock.exporter.write(result, image, request)
    qtbot.waitUntil(lambda: any("is gone" in sentence for sentence in said), timeout=TIMEOUT)
    assert not (tmp_path / "out.nii.gz").exists()
    dock.exporter.dialog.close()


def test_swapped_sides_are_said_at_once(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    image = add_volume(viewer, synthetic_ct(SHAPE)[0])
    volume = volume_of(image)
    left = volume.geometry.direction[0][0] > 0  # whether larger x lies further to the patient's left
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:8, 20:30, 4:12] = 1 if left else 2
    labels[4:8, 20:30, 44:52] = 2 if left else 1
    names = LabelSet.from_names({1: "kidney_left", 2: "kidney_right"})
    data, meta, _ = labels_to_layer(labels, volume, names, "swapped")
    viewer.add_labels(data, **meta)
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    qtbot.waitUntil(lambda: "swapped, or the scan's orientation is wrong" in dock.status, timeout=TIMEOUT)


def test_two_volumes_keep_to_their_own_labels(sitting):
    other = add_volume(sitting.viewer, synthetic_ct((9, 40, 44))[0], name="other")
    volume = volume_of(other)
    second = sessions_of(sitting.viewer).begin(other, volume, LabelSet.from_names({1: "aorta"}))
    sitting.viewer.add_layer(second.layer)
    assert sitting.dock.bench.layer is second.layer
    assert sitting.dock.organs.values == [1]
    second.layer.data_setitem((np.array([2]), np.array([3]), np.array([4])), 1)
    sitting.press("mark_reviewed")
    assert len(second.session.reviewed) == 1
    assert not sitting.session.reviewed
    sitting.viewer.layers.selection.active = sitting.layer
    assert sitting.dock.bench.layer is sitting.layer
    assert sitting.dock.organs.values == [1, 2, 3]
    assert sitting.session.edited_voxels(sitting.layer.data) == 0
    sitting.settle()
    assert sitting.text("review_progress") == "0 of 12 slices reviewed"
    for result in (second, sitting.result):
        keeper = keep(sitting.viewer, result)
        sitting.until(lambda keeper=keeper: keeper._saver is not None)
        assert keeper.flush()
    assert len({info.about.fingerprint for info in SessionStore().sessions()}) == 2


def test_the_menu_shows_the_dock_for_the_selected_labels(make_napari_viewer):
    from napari_transunet.viewer.plugin.menus import review_selected

    viewer = make_napari_viewer()
    add_volume(viewer, synthetic_ct(SHAPE)[0])
    where = placement(volume_of(viewer.layers[0]).geometry)
    first = viewer.add_labels(_prediction(), name="first", **where)
    viewer.add_labels(_prediction(), name="second", **where)
    viewer.layers.selection.active = first
    review_selected()
    (dock,) = [w for w in viewer.window.dock_widgets.values() if type(w).__name__ == "ReviewDock"]
    assert dock.bench.layer is first
    review_selected()  # shown again, not made again
    assert sum(type(w).__name__ == "ReviewDock" for w in viewer.window.dock_widgets.values()) == 1


def test_labels_of_a_lazy_image_are_saved_too(make_napari_viewer, qtbot):
    dask = pytest.importorskip("dask.array")
    viewer = make_napari_viewer()
    viewer.add_image(dask.zeros((8, 8, 8), chunks=4), name="lazy", contrast_limits=(0, 1))
    labels = viewer.add_labels(np.zeros((8, 8, 8), np.uint8))
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    labels.paint((3, 3, 3), 1)
    dock.bench.mark_reviewed(True)
    keeper = keeper_of(sessions_of(viewer).result_of(labels))
    qtbot.waitUntil(lambda: keeper._saver is not None, timeout=TIMEOUT)
    assert keeper.flush()
    assert len(SessionStore().sessions()) == 1


def test_labels_restored_while_the_dock_is_open_have_one_session(sitting):
    keeper = keep(sitting.viewer, sitting.result)
    sitting.until(lambda: keeper._saver is not None)
    sitting.layer.paint((4, 5, 5), 3)
    sitting.session.mark_reviewed(4)
    sitting.session.locked = frozenset({2})
    keeper.touch()
    assert keeper.flush()
    edited = sitting.session.edited_voxels(sitting.layer.data)
    sitting.viewer.layers.remove(sitting.layer)
    sitting.until(lambda: not SessionStore().sessions()[0].in_use)
    sitting.press("sessions")
    dialog = sitting.dock._saved
    table = dialog.findChild(QTableWidget, "sessions_table")
    sitting.until(lambda: table.rowCount() == 1 and dialog._fingerprint is not None)
    table.selectRow(0)
    dialog.findChild(QPushButton, "session_restore").click()
    sitting.until(lambda: sitting.dock.bench.layer is not None)
    result = sessions_of(sitting.viewer).result_on(sitting.image)
    assert sitting.dock.bench.result is result
    assert keeper_of(result).result is result
    assert result.session.edited_voxels(result.layer.data) == edited > 0
    assert result.session.reviewed.keys() == {4}
    assert result.session.locked == {2}
    assert sitting.dock.toolbox.guard.locked == {2}


def test_a_reference_without_names_and_stored_in_another_order_is_compared_by_its_table(sitting):
    volume = volume_of(sitting.image)
    numbers = np.zeros(SHAPE, np.uint8)
    numbers[_prediction() == 1], numbers[_prediction() == 2] = 2, 1  # the other way round
    data, meta, _ = labels_to_layer(
        np.flip(numbers, 2).copy(),
        volume.geometry.reoriented((0, 1, 2), (False, False, True)),
        None,
        "reference",
    )
    sitting.viewer.layers._activate_on_insert = False  # or the dock would follow it, and turn it
    other = sitting.viewer.add_labels(data, **meta)
    assert np.array_equal(other.data, np.flip(numbers, 2))  # only looked at
    table = sitting.dock.findChild(QTableWidget, "reference_table")
    sitting.until(lambda: table.rowCount() == 2)
    other.name = "renamed"
    assert sitting.dock.findChild(QComboBox, "compare_with").currentText() == "renamed"
    sitting.press("compare")
    scores = sitting.dock.findChild(QTableWidget, "scores")
    sitting.until(lambda: scores.rowCount() == 3)
    assert scores.item(2, 1).text() == "0.000"
    assert "number" in sitting.text("compare_status")
    for value, stands_for in ((1, 2), (2, 1)):
        choice = sitting.dock.findChild(QComboBox, f"stands_for_{value}")
        choice.setCurrentIndex(choice.findData(stands_for))
    sitting.press("compare")
    sitting.until(lambda: scores.item(2, 1).text() == "1.000")


def test_labels_are_added_named_recoloured_and_deleted_also_unnamed_ones(sitting):
    sitting.layer.data_setitem((np.array([0, 0]), np.array([1, 2]), np.array([1, 1])), 9)
    sitting.settle()
    assert sitting.dock.organs.values == [1, 2, 3, 9]
    sitting.layer.selected_label = 9
    sitting.press("edit_label")
    name = sitting.dock.findChild(QLineEdit, "label_name")
    name.setText("liver")
    sitting.press("label_ok")
    assert "already" in sitting.text("label_problem")
    name.setText("tumour")
    sitting.press("label_ok")
    assert sitting.dock.bench.names[9] == "tumour"
    sitting.press("add_label")
    name.setText("cyst")
    sitting.press("label_ok")
    assert sitting.dock.bench.names[4] == "cyst"
    assert sitting.layer.selected_label == 4
    assert "cyst" in list(sitting.layer.features["name"])
    sitting.layer.selected_label = 2
    before = sitting.layer.data.copy()
    sitting.press("delete_label")
    assert np.array_equal(sitting.layer.data, before)  # asked first
    sitting.press("question_yes")
    sitting.until(lambda: not (sitting.layer.data == 2).any())
    sitting.until(lambda: 2 not in sitting.dock.organs.values)
    sitting.layer.undo()
    assert np.array_equal(sitting.layer.data, before)
    sitting.until(lambda: 2 in sitting.dock.organs.values)
    assert sitting.dock.bench.names[2] == "spleen"


def test_maps_and_measures_of_other_labels_are_not_shown(sitting):
    for _ in range(2):
        sitting.dock._toggle_uncertainty()  # twice before the first one is there
    sitting.qtbot.wait(300)
    assert not any("uncertainty" in layer.name for layer in sitting.viewer.layers)
    sitting.dock._toggle_uncertainty()
    sitting.until(lambda: any("uncertainty" in layer.name for layer in sitting.viewer.layers))
    sitting.press("measure")
    second = sessions_of(sitting.viewer).begin(
        sitting.image, volume_of(sitting.image), LabelSet.from_names({1: "aorta"})
    )
    sitting.viewer.add_layer(second.layer)
    assert sitting.dock.bench.layer is second.layer
    assert not any("uncertainty" in layer.name for layer in sitting.viewer.layers)
    sitting.qtbot.wait(500)
    assert sitting.dock.findChild(QTableWidget, "measures").rowCount() == 0
    assert sitting.dock.findChild(QPushButton, "measure").isEnabled()
