"""The dock *Review and correct* as a person uses it: real buttons and keys on labels that a run left."""

import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QTableWidget,
    QToolButton,
)

from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.annotation.slice_registration import SliceRegistration
from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.inference.slices import SliceSource
from napari_transunet.inference.uncertainty import SliceUncertainty
from napari_transunet.io.reading import read_volume
from napari_transunet.viewer.layers.layer_record import change_record, record_of
from napari_transunet.viewer.layers.layers import add_volume, labels_to_layer, placement, volume_of
from napari_transunet.viewer.layers.undo import UndoStep
from napari_transunet.viewer.review import correction_controller
from napari_transunet.viewer.sessions.autosave_controller import autosave_of, start_autosave
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.labels import Label, LabelSet
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.volume import Source, Volume
from tests.annotation.blobs import blob
from tests.viewer.waiting import TIMEOUT

SHAPE = (12, 48, 56)
_PROGRESS = (QProgressBar, "progress"), (QPushButton, "cancel")
NAMES = {1: "liver", 2: "spleen", 3: "kidney_left"}


def _prediction() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 10:30, 8:24] = 1
    labels[3:8, 12:24, 32:44] = 2
    labels[5, 40:44, 50:54] = 1  # an island
    return labels


class ReviewDriver:
    """The dock, the labels, and short names for what a person does."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        self.image = add_volume(viewer, synthetic_ct(SHAPE)[0], name="ct")
        volume = volume_of(self.image)
        self.result = sessions_of(viewer).new_result(self.image, volume, LabelSet.from_names(NAMES))
        self.layer, self.session = self.result.layer, self.result.session
        viewer.add_layer(self.layer)
        self.run(_prediction())
        _, self.dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
        self.until(lambda: self.dock.model.overview is not None)

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
        self.until(lambda: not self.dock.corrections.busy)
        return self.text("correction_status")

    def choose(self, name: str, at: int) -> None:
        """Choose an entry of a list, as a person does."""
        combo = self.dock.findChild(QComboBox, name)
        combo.setCurrentIndex(at)
        combo.activated.emit(at)

    def text(self, name: str) -> str:
        return self.dock.findChild(QLabel, name).text()

    def settle(self) -> None:
        """Until the slices were looked at anew, which is not waited for here."""
        self.qtbot.wait(20)
        pause = self.dock.model._pause
        if pause.isActive():
            pause.stop()
            pause.timeout.emit()
        self.until(lambda: not self.dock.model._tasks.busy)

    @property
    def slice(self) -> int:
        return self.viewer.dims.current_step[0]


@pytest.fixture
def driver(make_napari_viewer: Callable[..., Any], qtbot: Any) -> ReviewDriver:
    return ReviewDriver(make_napari_viewer(), qtbot)


def test_the_review_walks_from_the_worst_slice_on(driver):
    assert driver.dock.model.layer is driver.layer
    driver.press("next_slice")
    assert driver.slice == 7
    assert driver.text("review_progress") == "0 of 12 slices reviewed"
    driver.press("mark_reviewed")
    assert driver.session.reviewed.keys() == {7}
    assert driver.slice == 11
    assert driver.text("review_progress") == "1 of 12 slices reviewed"
    driver.dock.review.slice_chosen.emit(7)
    assert driver.slice == 7
    assert driver.dock.findChild(QPushButton, "mark_reviewed").text() == "Unmark"
    driver.press("mark_reviewed")
    assert not driver.session.reviewed
    organ = driver.dock.findChild(QComboBox, "review_organ")
    organ.setCurrentIndex(organ.findText("Spleen"))
    organ.activated.emit(organ.currentIndex())
    driver.settle()
    driver.press("next_slice")
    assert driver.slice == 3  # the worst of those that show the spleen


def test_pressing_next_without_marking_leads_on_and_begins_anew_after_the_last(driver):
    seen = []
    for _ in range(13):
        driver.press("next_slice")
        seen.append(driver.slice)
    assert seen[:4] == [7, 11, 10, 9]
    assert sorted(seen[:12]) == list(range(12))
    assert seen[12] == 7


def test_notes_belong_to_their_slices(driver):
    note = driver.dock.findChild(QLineEdit, "slice_note")
    driver.dock.model.go_to(4)
    note.setText("tip of the spleen")
    note.editingFinished.emit()
    driver.dock.model.go_to(5)
    assert note.text() == ""
    driver.dock.model.go_to(4)
    assert note.text() == "tip of the spleen"
    assert driver.session.notes == {4: "tip of the spleen"}


def test_a_tool_is_one_undo_step_and_leaves_hands_work_alone(driver):
    before = driver.layer.data.copy()
    driver.layer.data_setitem((np.array([5]), np.array([45]), np.array([5])), 1)  # by hand
    driver.layer.selected_label = 1
    driver.press("scope_slices_1")
    said = driver.tool("largest")
    assert said == "16 voxels in 1 slice changed: liver -16. Left alone: 1 voxel edited by hand."
    assert not driver.layer.data[5, 40:44, 50:54].any()
    assert driver.layer.data[5, 45, 5] == 1
    assert driver.session.hand_voxels(driver.layer.data) == 1
    assert driver.session.edited_voxels(driver.layer.data) == 17
    driver.layer.undo()
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, before)
    assert driver.session.edited_voxels(driver.layer.data) == 0
    driver.layer.redo()
    driver.layer.redo()
    assert driver.session.hand_voxels(driver.layer.data) == 1
    driver.dock.findChild(QCheckBox, "also_by_hand").setChecked(True)
    assert "liver -1" in driver.tool("largest")


def test_a_tool_acts_in_the_slice_in_view_only(driver):
    driver.dock.model.go_to(4)
    driver.layer.selected_label = 2
    before = driver.layer.data.copy()
    driver.dock.findChild(QDoubleSpinBox, "grow_mm").setValue(9)
    assert "1 slice changed: spleen +" in driver.tool("grow")
    changed = np.flatnonzero((driver.layer.data != before).any(axis=(1, 2)))
    assert changed.tolist() == [4]
    assert "spleen" in driver.tool("above")
    assert np.array_equal(driver.layer.data[4] == 2, before[5] == 2)
    driver.layer.selected_label = 0
    driver.press("tool_grow")
    assert "pick an organ first" in driver.text("correction_status")


def test_slices_between_corrected_ones_are_filled(driver):
    driver.layer.selected_label = 3
    for index in (1, 5):
        driver.layer.data_setitem(
            tuple(
                np.array(part)
                for part in zip(*[(index, y, x) for y in range(2, 8) for x in range(2, 8)], strict=True)
            ),
            3,
        )
    assert "kidney left +108" in driver.tool("interpolate")
    assert (driver.layer.data[3, 2:8, 2:8] == 3).all()


def test_reviewed_slices_are_interpolated_from_and_stay(driver):
    driver.dock.model.go_to(5)  # it alone has an island
    driver.press("mark_reviewed")
    for index in (3, 7):
        rows, columns = (side.ravel() for side in np.mgrid[10:24, 24:28])
        driver.layer.data_setitem((np.full(len(rows), index), rows, columns), 1)
    before = driver.layer.data.copy()
    driver.layer.selected_label = 1
    assert "liver" in driver.tool("interpolate")
    assert (driver.layer.data != before).any(axis=(1, 2)).nonzero()[0].tolist() == [4, 6]
    assert 5 in driver.session.reviewed


def test_outlines_between_corrected_slices_follow_the_image(driver):
    driver.run(np.zeros_like(_prediction()))
    columns = 20 + 12 * np.sin(np.arange(SHAPE[0]) * np.pi / (SHAPE[0] - 1))  # to the right and back
    shown = np.stack([blob(SHAPE[1:], 24, column, 7) for column in columns])
    driver.image.data[...] = 400 * shown - 160
    driver.layer.selected_label = 3
    ends = (0, SHAPE[0] - 1)
    for index in (*ends, SHAPE[0] // 2):
        rows, across = np.nonzero(shown[index] > 0.5)
        driver.layer.data_setitem((np.full(len(rows), index), rows, across), 3)
    driver.tool("interpolate")
    for index in range(SHAPE[0]):
        assert abs(np.nonzero(driver.layer.data[index] == 3)[1].mean() - columns[index]) < 1
    by_shape = np.interp(2, [0, SHAPE[0] // 2], columns[[0, SHAPE[0] // 2]])
    assert abs(columns[2] - by_shape) > 1.5


def test_registering_slices_shows_how_far_it_is_and_can_be_cancelled(driver, monkeypatch):
    before = driver.layer.data.copy()
    for index in (1, 9):
        driver.layer.data_setitem((np.full(3, index), np.arange(3), np.arange(3)), 3)
    driver.layer.selected_label = 3
    painted = driver.layer.data.copy()
    steps, register = threading.Semaphore(1), SliceRegistration.register

    def slowly(registration, first, last):
        for step in register(registration, first, last):
            steps.acquire()
            yield step

    monkeypatch.setattr(SliceRegistration, "register", slowly)
    monkeypatch.setattr(correction_controller, "_PACE", 0.0)
    bar, cancel = (driver.dock.findChild(kind, f"tool_{part}") for kind, part in _PROGRESS)
    assert not bar.isVisible()
    driver.press("tool_interpolate")
    driver.until(lambda: bar.value() > 0)
    assert bar.value() == round(1000 / 16)
    assert "left" in bar.format()
    assert "once" in driver.text("correction_status")
    cancel.click()
    steps.release(20)
    assert "nothing was changed" in driver.text("correction_status")
    assert not bar.isVisible()
    # The next one goes on from where that one was, and is not disturbed by it.
    assert "kidney left" in driver.tool("interpolate")
    assert not bar.isVisible()
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, painted)
    driver.layer.undo()
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, before)


def test_what_was_erased_in_two_slices_goes_in_between(driver):
    for index in (3, 7):
        where = np.nonzero(driver.layer.data[index] == 2)
        driver.layer.data_setitem((np.full(len(where[0]), index), *where), 0)
    driver.layer.selected_label = 2
    assert "spleen -432" in driver.tool("interpolate")
    assert not (driver.layer.data == 2).any()
    driver.layer.undo()
    assert (driver.layer.data == 2).sum() == 432


def test_the_next_slice_to_interpolate_from_is_shown_and_marking_goes_on_from_there(driver):
    seen = []
    driver.press("interpolate_next")
    for _ in range(5):
        seen.append(driver.slice)
        driver.press("mark_reviewed")
    assert len(set(seen)) == 5
    assert all(_prediction()[index].any() or index in (1, 9) for index in seen)
    # Slice 5 alone has an island, and liver and spleen end at 2, 8 and 3, 7.
    assert 5 in seen
    driver.press("next_slice")
    driver.press("mark_reviewed")
    # It goes on in the other order again, or to a neighbour that is nearly as wrong.
    error = {index: 0.9 if index == 7 else index / 100 for index in range(SHAPE[0])}
    left = error.keys() - driver.session.reviewed.keys() - set(seen)
    assert error[driver.slice] >= 0.8 * max(error[index] for index in left)


def test_a_new_run_disagrees_and_edits_are_given_up_one_slice_at_a_time(driver):
    driver.layer.paint((4, 5, 5), 3)
    driver.layer.paint((6, 5, 5), 3)
    painted = driver.layer.data.copy()
    driver.run(_prediction())
    driver.settle()
    assert np.array_equal(driver.layer.data, painted)
    assert "differently" in driver.text("conflicts")
    assert "2 slices" in driver.text("conflicts")
    driver.dock.model.go_to(0)
    driver.press("next_conflict")
    assert driver.slice == 4
    driver.press("take_slice")
    assert not (driver.layer.data[4] == 3).any()
    assert (driver.layer.data[6] == 3).any()
    driver.settle()
    assert "slice 6" in driver.text("conflicts")
    driver.dock.corrections.lock(3, True)
    driver.press("take_all")
    assert (driver.layer.data[6] == 3).any()
    assert "Locked organs stay" in driver.text("correction_status")
    driver.dock.corrections.lock(3, False)
    driver.press("take_all")
    driver.settle()
    assert np.array_equal(driver.layer.data, _prediction())
    assert not driver.dock.findChild(QPushButton, "take_all").isVisibleTo(driver.dock)
    driver.layer.undo()
    assert (driver.layer.data[6] == 3).any()


def test_a_run_that_changes_a_reviewed_slice_asks_for_another_look(driver):
    driver.dock.model.go_to(4)
    driver.press("mark_reviewed")
    driver.dock.model.go_to(4)
    other = _prediction()
    other[4, 12:20, 10:20] = 3
    driver.run(other)
    driver.settle()
    assert not driver.session.reviewed
    assert driver.dock.findChild(QPushButton, "mark_reviewed").text() == "Mark reviewed"
    driver.press("mark_reviewed")
    assert driver.session.reviewed.keys() == {4}


def test_a_locked_organ_changes_neither_by_brush_nor_by_tool(driver):
    driver.press("lock_1")
    before = driver.layer.data.copy()
    driver.layer.brush_size = 6
    driver.layer.paint((4, 10, 8), 2)  # on the corner of the liver
    driver.qtbot.wait(20)
    assert np.array_equal(driver.layer.data == 1, before == 1)
    assert (driver.layer.data != before).any()
    assert "stayed as they were" in driver.text("correction_status")
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, before)
    driver.layer.selected_label = 1
    driver.dock.findChild(QDoubleSpinBox, "grow_mm").setValue(9)
    assert "locked organs" in driver.tool("grow")
    assert np.array_equal(driver.layer.data, before)
    driver.press("lock_1")
    assert "liver +" in driver.tool("grow")


def test_the_brush_keeps_to_a_range_of_values(driver):
    image = driver.image.data
    low, high = sorted((int(image[4, 20, 15]) - 1, int(image[4, 20, 15]) + 1))
    driver.dock.model.go_to(4)
    driver.dock.tools.set_range(low, high)
    driver.layer.brush_size = 9
    before = driver.layer.data.copy()
    driver.layer.paint((4, 20, 15), 3)
    driver.qtbot.wait(20)
    changed = driver.layer.data != before
    assert changed.any()
    assert ((image[changed] >= low) & (image[changed] <= high)).all()
    driver.layer.selected_label = 1
    driver.press("range_from_organ")
    found = driver.result.constraint.between
    values = image[driver.slice][driver.layer.data[driver.slice] == 1]
    assert found[0] < np.median(values) < found[1]
    assert found[1] - found[0] < 4 * values.std() / 3  # what was dabbed on air and bone does not count


def test_organs_are_hidden_without_losing_a_voxel(driver):
    before = driver.layer.data.copy()
    driver.press("eye_1")
    assert driver.layer.colormap.color_dict[1][3] == 0
    assert driver.layer.colormap.color_dict[2][3] == 1
    driver.press("eye_1")
    assert driver.layer.colormap.color_dict[1][3] == 1
    assert np.array_equal(driver.layer.data, before)


def test_the_list_shows_the_colours_that_a_person_chose_in_napari(driver):
    def swatches() -> dict[int, tuple[int, ...]]:
        buttons = {value: driver.dock.findChild(QToolButton, f"organ_{value}") for value in NAMES}
        images = {value: button.icon().pixmap(12, 12).toImage() for value, button in buttons.items()}
        return {value: image.pixelColor(6, 6).getRgb()[:3] for value, image in images.items()}

    def on_canvas() -> dict[int, tuple[int, ...]]:
        return {value: tuple(np.rint(driver.layer.get_color(value)[:3] * 255).astype(int)) for value in NAMES}

    driver.press("eye_1")
    driver.layer.new_colormap(seed=3)  # *shuffle colors*
    assert all(np.allclose(swatches()[value], on_canvas()[value], atol=2) for value in NAMES)
    assert driver.layer.get_color(1)[3] == 0  # its eye is closed still
    assert len(set(swatches().values())) == len(NAMES)
    # the strip's lines, too
    driver.until(
        lambda: np.allclose(
            np.array([color for _, color, _ in driver.dock.model.overview.strip.extents]) * 255,
            [on_canvas()[value] for value in (1, 2)],
            atol=2,
        )
    )


def test_a_click_on_a_button_leaves_the_keyboard_to_the_canvas(driver):
    # else Space, which moves the view, repeats the tool that was pressed last
    takes = [
        one for one in driver.dock.findChildren(QPushButton) if one.focusPolicy() & Qt.FocusPolicy.ClickFocus
    ]
    assert not takes


def test_keys_do_what_buttons_do(driver):
    keys = {str(key): call for key, call in driver.viewer.keymap.items()}
    driver.viewer.layers.selection.active = driver.layer

    def key(name: str) -> None:
        keys[name](driver.viewer)

    key("N")
    assert driver.slice == 7
    key("K")
    assert 7 in driver.session.reviewed
    key("Alt+2")
    assert driver.layer.selected_label == 2
    assert driver.layer.mode == "paint"
    key("W")
    assert driver.session.locked == {2}
    key("W")
    key("Shift+H")
    assert driver.layer.colormap.color_dict[2][3] == 0
    key("H")
    assert driver.layer.colormap.color_dict[1][3] == 0
    key("H")
    key("Shift+M")
    driver.until(lambda: driver.dock.findChild(QTableWidget, "measures").rowCount() == 3)
    key("F1")
    assert driver.dock._help_page.isVisible()
    key("F1")


def test_organs_are_measured_and_a_row_leads_to_its_organ(driver):
    driver.press("measure")
    table = driver.dock.findChild(QTableWidget, "measures")
    driver.until(lambda: table.rowCount() == 3)
    assert [table.item(row, 0).text() for row in range(3)] == ["Liver", "Spleen", "Kidney left"]
    table.selectRow(1)
    assert driver.slice == 5
    assert table.item(0, 6).text() == "2"


def test_other_labels_are_compared(driver):
    reference = _prediction()
    reference[6, 10:20, 8:24] = 0
    data, meta, _ = labels_to_layer(
        np.where(reference == 1, 7, 0).astype(np.uint8), volume_of(driver.image),
        LabelSet.from_names({7: "Liver"}), "reference",
    )  # fmt: skip
    driver.viewer.add_labels(data, **meta)
    driver.viewer.layers.selection.active = driver.layer
    assert driver.dock.model.layer is driver.layer
    driver.dock.findChild(QCheckBox, "show_disagreement").setChecked(True)
    driver.press("compare")
    driver.viewer.layers["reference"].name = "renamed"  # while it is compared
    scores = driver.dock.findChild(QTableWidget, "scores")
    driver.until(lambda: scores.rowCount() == 2)  # the reference knows the liver alone
    assert "Comparing" not in driver.text("compare_status")
    assert driver.dock.findChild(QComboBox, "compare_with").currentText() == "renamed"
    liver = 2 * (reference == 1).sum() / ((reference == 1).sum() + (_prediction() == 1).sum())
    assert scores.item(0, 1).text() == f"{liver:.3f}"
    assert scores.item(1, 1).text() == scores.item(0, 1).text()  # and so does the mean
    assert "Spleen" in driver.text("compare_status")
    worst = driver.dock.findChild(QTableWidget, "worst_slices")
    assert worst.item(0, 0).text() == "Slice 6"
    worst.selectRow(0)
    assert driver.slice == 6
    assert "CT labels: disagreement".lower() in [layer.name.lower() for layer in driver.viewer.layers]
    assert driver.dock.model.layer is driver.layer


def test_uncertainty_is_shown_on_request_and_taken_away(driver):
    box = driver.dock.findChild(QCheckBox, "show_uncertainty")
    box.setChecked(True)
    driver.until(lambda: any("uncertainty" in layer.name for layer in driver.viewer.layers))
    layer = next(layer for layer in driver.viewer.layers if "uncertainty" in layer.name)
    volume = volume_of(driver.image)
    card = ModelCard(variant="R50-ViT-Ti_16", num_classes=4, img_size=(64, 64), resize="pad")
    inside = SliceSource.from_card(volume, card, (64, 64)).resize.shape
    assert layer.data.shape == (SHAPE[0], *inside)
    assert layer.data[7].mean() == pytest.approx(0.9, abs=0.02)
    assert np.allclose(layer.scale, driver.layer.scale)
    box.setChecked(False)
    assert not any("uncertainty" in layer.name for layer in driver.viewer.layers)


def test_several_formats_are_exported_at_once(driver, tmp_path):
    driver.layer.paint((4, 5, 5), 3)
    driver.session.mark_reviewed(4)
    driver.press("review_export")
    dialog = driver.dock.exporter
    for name in ("nifti", "slicer", "stl", "label-table"):
        dialog.findChild(QCheckBox, f"format_{name}").setChecked(True)
    assert not dialog.findChild(QCheckBox, "format_dicom-seg").isEnabled()
    assert "DICOM" in dialog.findChild(QCheckBox, "format_dicom-seg").toolTip()
    dialog.findChild(QLineEdit, "export_folder").setText(str(tmp_path))
    dialog.findChild(QLineEdit, "export_name").setText("out")
    with driver.qtbot.waitSignal(driver.dock.exporter.exported, timeout=TIMEOUT):
        dialog.findChild(QPushButton, "export_go").click()
    assert np.array_equal(read_volume(tmp_path / "out.nii.gz").data, driver.layer.data)
    told = (tmp_path / "out.json").read_text("utf-8")
    assert '"reviewed_slices": [' in told
    assert '"fingerprint": "' in told
    assert '"edited_by_hand": ' in told
    dialog.findChild(QPushButton, "export_go").click()
    driver.until(lambda: "exists already" in dialog.findChild(QLabel, "export_status").text())
    driver.viewer.layers.remove(driver.image)
    driver.dock.exporter.write(driver.result, None, dialog.request())
    assert "is gone" in dialog.findChild(QLabel, "export_status").text()
    dialog.close()


def test_labels_that_no_run_made_can_be_corrected_too(driver):
    driver.viewer.layers.remove(driver.layer)
    assert not driver.dock.findChild(QPushButton, "next_slice").isEnabled()
    drawn = driver.viewer.add_labels(_prediction(), name="drawn")
    assert driver.dock.model.layer is None  # of its size, but elsewhere: a person has to say so
    assert "drawn" in driver.dock.status
    driver.choose("review_image", 0)
    assert driver.dock.model.layer is drawn
    assert np.allclose(drawn.scale, driver.image.scale)
    assert sessions_of(driver.viewer).result_of(drawn).session.edited_voxels(drawn.data) == 0
    driver.dock.model.go_to(3)
    drawn.refresh()
    driver.settle()
    assert autosave_of(sessions_of(driver.viewer).result_of(drawn)) is None  # looking alone saves nothing
    driver.press("scope_organ_1")
    driver.press("scope_slices_1")
    driver.tool("largest")
    assert not drawn.data[5, 40:44, 50:54].any()
    autosave = autosave_of(sessions_of(driver.viewer).result_of(drawn))
    driver.until(lambda: autosave._saver is not None)
    assert autosave.flush()
    assert len(SessionStore().sessions()) >= 1


def test_while_a_run_writes_nothing_can_be_done(driver):
    driver.dock.tools.status.setText("3 voxels changed.")
    step = UndoStep(driver.layer)
    for name in ("tool_smooth", "take_slice", "take_all"):
        assert not driver.dock.findChild(QPushButton, name).isEnabled()
    assert driver.text("correction_status") == ""
    assert "Wait until" in driver.dock.status
    step.close()
    assert driver.dock.findChild(QPushButton, "tool_smooth").isEnabled()
    assert driver.dock.status == ""


def test_closing_the_dock_gives_keys_and_layers_back(driver):
    assert any(str(key) == "N" for key in driver.viewer.keymap)
    driver.viewer.window.remove_dock_widget(driver.dock.parent())
    assert not any(str(key) == "N" for key in driver.viewer.keymap)
    driver.layer.paint((4, 5, 5), 3)
    assert driver.dock.model.layer is None


def test_the_part_that_is_clicked_stays(driver):
    driver.press("scope_slices_1")
    driver.layer.selected_label = 1
    driver.layer.mode = "paint"
    driver.press("tool_clicked")
    assert "Click in the image" in driver.text("correction_status")
    assert driver.layer.mode == "pan_zoom"

    class Press:
        type, button = "mouse_press", 1
        position = tuple(driver.layer.data_to_world((5, 41, 51)))

    for callback in list(driver.viewer.mouse_drag_callbacks):
        callback(driver.viewer, Press)
    driver.until(lambda: not driver.dock.corrections.busy and "changed" in driver.text("correction_status"))
    assert (driver.layer.data == 1).sum() == 16
    assert driver.layer.mode == "paint"


def test_exports_of_a_changed_scan_are_refused(make_napari_viewer, qtbot, tmp_path):
    from napari_transunet.io.writing import write_volume

    volume = synthetic_ct(SHAPE)[0]
    path: Path = write_volume(tmp_path / "ct.nii.gz", volume)
    viewer = make_napari_viewer()
    image = add_volume(viewer, read_volume(path))
    result = sessions_of(viewer).new_result(image, volume_of(image), LabelSet.from_names(NAMES))
    viewer.add_layer(result.layer)
    result.layer.paint((4, 5, 5), 3)
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    request = dock.exporter.request()
    from dataclasses import replace

    request = replace(request, folder=tmp_path, stem="out", formats=("nifti",))
    path.write_bytes(path.read_bytes() + b"x")
    said: list[str] = []
    dock.exporter.message.connect(said.append)
    dock.exporter.write(result, image, request)
    qtbot.waitUntil(lambda: any("was changed" in sentence for sentence in said), timeout=TIMEOUT)
    path.unlink()
    dock.exporter.write(result, image, request)
    qtbot.waitUntil(lambda: any("is gone" in sentence for sentence in said), timeout=TIMEOUT)
    assert not (tmp_path / "out.nii.gz").exists()
    dock.exporter.close()


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


def test_two_volumes_keep_to_their_own_labels(driver):
    other = add_volume(driver.viewer, synthetic_ct((9, 40, 44))[0], name="other")
    volume = volume_of(other)
    second = sessions_of(driver.viewer).new_result(other, volume, LabelSet.from_names({1: "aorta"}))
    driver.viewer.add_layer(second.layer)
    assert driver.dock.model.layer is second.layer
    assert driver.dock.organs.values == [1]
    second.layer.data_setitem((np.array([2]), np.array([3]), np.array([4])), 1)
    driver.press("mark_reviewed")
    assert len(second.session.reviewed) == 1
    assert not driver.session.reviewed
    driver.viewer.layers.selection.active = driver.layer
    assert driver.dock.model.layer is driver.layer
    assert driver.dock.organs.values == [1, 2, 3]
    assert driver.session.edited_voxels(driver.layer.data) == 0
    driver.settle()
    assert driver.text("review_progress") == "0 of 12 slices reviewed"
    for result in (second, driver.result):
        autosave = start_autosave(driver.viewer, result)
        driver.until(lambda autosave=autosave: autosave._saver is not None)
        assert autosave.flush()
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
    assert dock.model.layer is first
    review_selected()  # shown again, not made again
    assert sum(type(w).__name__ == "ReviewDock" for w in viewer.window.dock_widgets.values()) == 1


@pytest.mark.parametrize(
    ("lazy", "levels"),
    [(True, 2), *(pytest.param(*one, marks=pytest.mark.long) for one in ((False, 1), (False, 2), (True, 1)))],
)
def test_labels_of_lazy_and_of_multiscale_images_are_corrected_measured_and_saved(
    make_napari_viewer, qtbot, lazy, levels
):
    dask = pytest.importorskip("dask.array")
    voxels = np.zeros((8, 16, 16), np.int16)
    voxels[:, 4:12, 4:12] = 100
    read_by_us: list[str] = []

    def block(part: np.ndarray) -> np.ndarray:
        if threading.current_thread() is threading.main_thread():
            frames = [frame.filename for frame in traceback.extract_stack()]
            read_by_us.extend(
                name for name in frames if "napari_transunet/viewer/" in name.replace("\\", "/")
            )
        return part

    data = (
        dask.from_array(voxels, chunks=(1, 16, 16)).map_blocks(block, dtype=voxels.dtype) if lazy else voxels
    )
    viewer = make_napari_viewer()
    pyramid = [data, data[:, ::2, ::2]]
    scan = pyramid if levels == 2 else data
    viewer.add_image(scan, name="scan", contrast_limits=(0, 100), multiscale=levels == 2)
    labels = viewer.add_labels(np.zeros(voxels.shape, np.uint8))
    read_by_us.clear()
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    press = lambda name: dock.findChild(QToolButton, name) or dock.findChild(QPushButton, name)  # noqa: E731
    viewer.dims.set_point(0, 3)
    labels.brush_size = 4
    labels.paint((3, 8, 8), 1)
    painted = labels.data.copy()
    assert painted.any()
    dock.model.mark_reviewed(True)
    assert (
        dock.tools.findChild(QToolButton, "range_from_organ").isEnabled() is not lazy
    )  # and the tooltip says why
    if not lazy:
        press("range_from_organ").click()
        assert dock.tools.paint_range == (100, 100)
        labels.paint((3, 2, 2), 1)  # all of it outside the range
        qtbot.wait(30)
        assert np.array_equal(labels.data, painted)
    press("measure").click()
    table = dock.findChild(QTableWidget, "measures")
    qtbot.waitUntil(lambda: table.rowCount() == 1, timeout=TIMEOUT)
    autosave = autosave_of(sessions_of(viewer).result_of(labels))
    qtbot.waitUntil(lambda: autosave._saver is not None, timeout=TIMEOUT)
    assert autosave.flush()
    assert len(SessionStore().sessions()) == 1
    assert not read_by_us


def test_labels_restored_while_the_dock_is_open_have_one_session(driver):
    autosave = start_autosave(driver.viewer, driver.result)
    driver.until(lambda: autosave._saver is not None)
    driver.layer.paint((4, 5, 5), 3)
    driver.session.mark_reviewed(4)
    driver.session.locked = frozenset({2})
    autosave.touch()
    assert autosave.flush()
    edited = driver.session.edited_voxels(driver.layer.data)
    driver.viewer.layers.remove(driver.layer)
    driver.until(lambda: not SessionStore().sessions()[0].in_use)
    driver.press("sessions")
    dialog = driver.dock._sessions_dialog
    table = dialog.findChild(QTableWidget, "sessions_table")
    driver.until(lambda: table.rowCount() == 1 and dialog._fingerprint is not None)
    table.selectRow(0)
    dialog.findChild(QPushButton, "session_restore").click()
    driver.until(lambda: driver.dock.model.layer is not None)
    result = sessions_of(driver.viewer).result_on(driver.image)
    assert driver.dock.model.result is result
    assert autosave_of(result).result is result
    assert result.session.edited_voxels(result.layer.data) == edited > 0
    assert result.session.reviewed.keys() == {4}
    assert result.session.locked == {2}
    assert result.constraint.locked == driver.dock.corrections.locked == {2}


def test_the_worst_slices_lie_along_the_axis_that_is_reviewed(driver):
    driver.session.axis = 1
    other = sessions_of(driver.viewer).new_result(
        driver.image, volume_of(driver.image), LabelSet.from_names(NAMES)
    )
    other.layer.data[...] = driver.layer.data
    other.layer.data[:, 30:40, :9] = 3
    other.layer.data[2:6, 35, 20:] = 3
    driver.viewer.layers._activate_on_insert = False
    driver.viewer.add_layer(other.layer)
    driver.press("compare")
    worst = driver.dock.findChild(QTableWidget, "worst_slices")
    driver.until(lambda: worst.rowCount() == 10)
    spacing = volume_of(driver.image).geometry.spacing
    area = (9 * SHAPE[0] + 4 * (SHAPE[2] - 20)) * spacing[0] * spacing[2]
    assert worst.item(0, 0).text() == f"Slice {driver.dock.model.numbers.number(35)}"
    assert worst.item(0, 1).text() == f"{area:,.0f}"
    worst.selectRow(0)
    driver.until(lambda: driver.dock.model.slice_in_view == 35)


def test_a_reference_without_names_and_stored_in_another_order_is_compared_by_its_table(driver):
    volume = volume_of(driver.image)
    numbers = np.zeros(SHAPE, np.uint8)
    numbers[_prediction() == 1], numbers[_prediction() == 2] = 2, 1  # the other way round
    data, meta, _ = labels_to_layer(
        np.flip(numbers, 2).copy(),
        volume.geometry.reoriented((0, 1, 2), (False, False, True)),
        None,
        "reference",
    )
    driver.viewer.layers._activate_on_insert = False  # or the dock would follow it, and turn it
    other = driver.viewer.add_labels(data, **meta)
    assert np.array_equal(other.data, np.flip(numbers, 2))  # only looked at
    table = driver.dock.findChild(QTableWidget, "reference_table")
    driver.until(lambda: table.rowCount() == 2)
    other.name = "renamed"
    assert driver.dock.findChild(QComboBox, "compare_with").currentText() == "renamed"
    driver.press("compare")
    scores = driver.dock.findChild(QTableWidget, "scores")
    driver.until(lambda: scores.rowCount() == 3)
    assert scores.item(2, 1).text() == "0.000"
    assert "number" in driver.text("compare_status")
    for value, stands_for in ((1, 2), (2, 1)):
        choice = driver.dock.findChild(QComboBox, f"stands_for_{value}")
        choice.setCurrentIndex(choice.findData(stands_for))
    driver.press("compare")
    driver.until(lambda: scores.item(2, 1).text() == "1.000")
    other.data[7:, :, 20:] = 255  # nobody says what is there, as in files that are scored
    driver.press("compare")
    driver.until(lambda: "255" in driver.text("compare_status"))
    assert "unknown" in driver.text("compare_status")
    assert [scores.item(at, 1).text() for at in range(3)] == ["1.000"] * 3
    assert not driver.dock.measurements.disagreement.map.any()


def test_a_reference_on_a_part_of_the_grid_is_compared_where_it_says_what_there_is(driver):
    volume = volume_of(driver.image)
    part = _prediction()[4:]
    origin = tuple((volume.geometry.affine_lps @ [0, 0, 4, 1.0])[:3].tolist())
    drawn = Volume(
        part,
        replace(volume.geometry, shape=part.shape, origin=origin),
        None,
        Source(None, "NIfTI", "reference"),
        LabelSet.from_names(NAMES),
    )
    driver.viewer.layers._activate_on_insert = False
    other = add_volume(driver.viewer, drawn)
    scores = driver.dock.findChild(QTableWidget, "scores")
    driver.press("compare")
    driver.until(lambda: scores.rowCount() > 0)
    assert "covers 8 of 12 slices along z; the rest counts for nothing" in driver.text("compare_status")
    assert scores.item(0, 1).text() == "1.000"  # of the slices that it has
    file = replace(record_of(other).file, omits_background=True)
    change_record(other, file=file)
    driver.press("compare")
    driver.until(lambda: "the rest is background" in driver.text("compare_status"))
    expected = _prediction()
    expected[:4] = 0
    liver = 2 * (expected == 1).sum() / ((expected == 1).sum() + (_prediction() == 1).sum())
    assert scores.item(0, 1).text() == f"{liver:.3f}"
    assert other.data.shape == part.shape  # only looked at


def test_labels_are_added_named_recoloured_and_deleted_also_unnamed_ones(driver):
    driver.layer.data_setitem((np.array([0, 0]), np.array([1, 2]), np.array([1, 1])), 9)
    driver.settle()
    assert driver.dock.organs.values == [1, 2, 3, 9]
    driver.layer.selected_label = 9
    driver.press("edit_label")
    name = driver.dock.findChild(QLineEdit, "label_name")
    name.setText("liver")
    driver.press("label_ok")
    assert "already" in driver.text("label_problem")
    name.setText("tumour")
    driver.press("label_ok")
    assert driver.dock.model.names[9] == "tumour"
    driver.press("add_label")
    assert driver.dock.findChild(QLabel, "label_value").isHidden()
    name.setText("cyst")
    driver.press("label_ok")
    assert driver.dock.model.names[4] == "cyst"
    assert driver.layer.selected_label == 4
    assert "cyst" in list(driver.layer.features["name"])
    driver.layer.selected_label = 2
    before = driver.layer.data.copy()
    driver.press("delete_label")
    assert np.array_equal(driver.layer.data, before)  # asked first
    driver.press("question_yes")
    driver.until(lambda: not (driver.layer.data == 2).any())
    driver.until(lambda: 2 not in driver.dock.organs.values)
    driver.layer.undo()
    assert np.array_equal(driver.layer.data, before)
    driver.until(lambda: 2 in driver.dock.organs.values)
    assert driver.dock.model.names[2] == "spleen"


def test_a_label_keeps_its_name_for_as_long_as_its_voxels(driver):
    """Deleting it takes both, undo brings both back, and where the voxels stay, the name does."""
    driver.dock.organs.editor.done.emit(None, Label(9, "cyst", (0.25, 0.5, 0.75)))
    named = driver.result.label_set
    driver.layer.data_setitem((np.array([0, 0]), np.array([1, 2]), np.array([1, 1])), 9)

    def delete(answered: Callable[[], None] = lambda: None) -> None:
        driver.layer.selected_label = 9
        driver.press("delete_label")
        answered()
        driver.press("question_yes")
        driver.until(lambda: not driver.dock.corrections.busy)

    delete()
    assert driver.result.label_set.names == NAMES
    assert driver.dock.organs.values == [1, 2, 3]
    driver.layer.undo()
    assert driver.result.label_set == named
    assert driver.dock.organs.values == [1, 2, 3, 9]
    driver.layer.redo()
    assert driver.result.label_set.names == NAMES
    driver.layer.undo()
    delete(lambda: driver.press("tool_smooth"))  # works still
    assert (driver.layer.data == 9).any()
    assert driver.result.label_set == named
    delete(lambda: driver.dock.corrections.lock(9, on=True))
    assert (driver.layer.data == 9).any()
    assert driver.result.label_set == named
    driver.dock.corrections.lock(9, on=False)
    driver.layer.data_setitem((np.array([0, 0]), np.array([1, 2]), np.array([1, 1])), 0)
    delete()  # without voxels there is nothing to undo
    assert driver.result.label_set.names == NAMES
    assert driver.dock.organs.values == [1, 2, 3]
    driver.dock.organs.editor.done.emit(None, Label(9, "tumour", (1, 0, 0)))
    for step in ("undo", "undo", "undo", "redo", "redo", "redo"):
        getattr(driver.layer, step)()
        assert driver.result.label_set.names[9] == "tumour"


@pytest.mark.long
def test_maps_and_measures_of_other_labels_are_not_shown(driver):
    for _ in range(2):
        driver.dock.overlays.toggle_uncertainty()  # twice before the first one is there
    driver.qtbot.wait(300)
    assert not any("uncertainty" in layer.name for layer in driver.viewer.layers)
    driver.dock.overlays.toggle_uncertainty()
    driver.until(lambda: any("uncertainty" in layer.name for layer in driver.viewer.layers))
    driver.press("measure")
    second = sessions_of(driver.viewer).new_result(
        driver.image, volume_of(driver.image), LabelSet.from_names({1: "aorta"})
    )
    driver.viewer.add_layer(second.layer)
    assert driver.dock.model.layer is second.layer
    assert not any("uncertainty" in layer.name for layer in driver.viewer.layers)
    driver.qtbot.wait(500)
    assert driver.dock.findChild(QTableWidget, "measures").rowCount() == 0
    assert driver.dock.findChild(QPushButton, "measure").isEnabled()


def test_maps_are_shown_where_labels_are_that_somebody_rotated(driver):
    driver.layer.rotate = (0, 0, 25)
    driver.dock.overlays.show_plane(np.zeros(SHAPE[1:], np.float32), 6, "attention")
    shown = driver.viewer.layers[f"{driver.layer.name}: attention"]
    there = driver.layer.data_to_world((6, 20, 30))
    np.testing.assert_allclose(shown.data_to_world((0, 20, 30)), there, atol=1e-6)


@pytest.mark.parametrize("value", [-3, 70_000])
def test_values_that_no_label_can_have_are_said_and_left_alone(driver, value):
    labels = np.zeros(SHAPE, np.int64)
    labels[3, 10:20, 10:20], labels[4, 3, 3] = 1, value
    drawn = driver.viewer.add_labels(labels, name="drawn")
    driver.choose("review_image", 0)
    driver.until(lambda: f"{value:,}" in driver.dock.status)
    assert driver.dock.model.names == {1: "label 1"}
    assert not driver.dock.findChild(QPushButton, "tool_smooth").isEnabled()
    driver.viewer.dims.set_point(0, drawn.data_to_world((4, 3, 3))[0])
    drawn.fill((4, 3, 3), 0)
    driver.settle()
    driver.until(driver.dock.findChild(QPushButton, "tool_smooth").isEnabled)
    assert driver.dock.status == ""


def test_labels_that_are_no_volume_in_memory_are_said_to_be_none(make_napari_viewer):
    viewer = make_napari_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    assert "Segment" in dock.status
    viewer.add_labels(np.zeros((2, *SHAPE), np.uint8), name="over time")
    assert "“over time”" in dock.status
    viewer.layers.clear()
    assert "Segment" in dock.status


def test_an_error_of_measuring_names_the_measuring(driver, monkeypatch):
    def fails(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("no such organ")

    monkeypatch.setattr("napari_transunet.viewer.review.measurement_controller.measure", fails)
    said: list[str] = []
    driver.dock.measurements.message.connect(said.append)
    driver.press("measure")
    driver.until(lambda: bool(said))
    assert said[0].startswith("The measuring stopped")
    assert "no such organ" in said[0]
    assert driver.dock.findChild(QPushButton, "measure").isEnabled()
