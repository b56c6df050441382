"""The dock *Cases* as a person uses it: a real project, a real (tiny) network, real buttons."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QComboBox, QLabel, QLineEdit, QProgressBar, QPushButton

from napari_transunet.annotation.session_folder import SessionFolder, load_folder
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.io.reading import read_volume
from napari_transunet.project.agreement import give_to_readers
from napari_transunet.project.case_labels import load_labels, save_labels
from napari_transunet.project.exporting import export_project
from napari_transunet.project.segmenting import segment_project
from napari_transunet.viewer.anatomy.anatomy import anatomy_of
from napari_transunet.viewer.project import background_segmentation, case_actions, cases_dock
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets import preferences
from napari_transunet.viewer.widgets.tables import RowTable
from tests.cli.conftest import write_image
from tests.project.conftest import abandon, checkpoint, narrow, project, scans
from tests.viewer.waiting import TIMEOUT

__all__ = ["checkpoint", "narrow", "project", "scans"]

CPU = PredictorOptions(device="cpu", backend="torch", precision="float32", batch_size=2)


@pytest.fixture
def segmented(project):
    """The project with labels; the middle case is the most uncertain."""
    list(segment_project(project, options=CPU))
    for case, uncertainty in zip(project.cases(), (0.2, 0.9, 0.5), strict=True):
        with project.hold(case.id) as held:
            held.update(uncertainty=uncertainty)
    return project


class Driver:
    """The dock's buttons, and what its project's files say."""

    def __init__(self, viewer, dock, qtbot) -> None:
        self.viewer, self.dock, self.qtbot = viewer, dock, qtbot

    def until(self, true) -> None:
        self.qtbot.waitUntil(true, timeout=TIMEOUT)

    def open(self, project) -> None:
        self.dock.open_project(project.folder)
        self.until(lambda: len(self.dock.table.cases.cases) == len(project.cases()))

    def press(self, name) -> None:
        button = self.dock.findChild(QPushButton, name)
        assert button.isEnabled()
        button.click()

    def until_shown(self, name) -> None:
        self.until(lambda: self.current == name and not self.dock.cases.busy)

    def settle(self) -> None:
        self.until(lambda: not self.dock.cases.finishing and not self.dock.cases.busy)
        self.dock.refresh()  # a look that is under way may have begun before the last change
        self.until(lambda: not (self.dock._refreshing or self.dock._again))

    def entry(self, identifier, title):
        self.dock.table.choose(identifier)
        menu = self.dock.actions_of_case.menu
        menu.aboutToShow.emit()
        return next(one for one in menu.actions() if one.text() == title)

    def choose_entry(self, identifier, title) -> None:
        entry = self.entry(identifier, title)
        assert entry.isEnabled(), entry.toolTip()
        entry.trigger()

    @property
    def current(self):
        shown = self.dock.cases.current
        return None if shown is None else shown.case.name

    @property
    def names(self):
        return [case.name for case in self.dock.table.cases.shown]


@pytest.fixture
def driver(make_napari_viewer, qtbot, monkeypatch):
    loaded = preferences.Preferences(options=CPU)
    monkeypatch.setattr("napari_transunet.viewer.project.cases_dock.load_preferences", lambda: loaded)
    viewer = make_napari_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Cases")
    dock.cases.annotator = "anna"
    made = Driver(viewer, dock, qtbot)
    yield made
    dock.segmentation.stop()
    dock.cases.close()
    made.until(lambda: not dock.segmentation.running and not dock.cases.finishing)


def test_cases_are_worked_through_from_the_most_uncertain_one(driver, segmented):
    driver.open(segmented)
    driver.press("next_case")
    driver.until_shown("case_1")
    assert segmented.leases.holder(segmented.cases()[1].id).annotator == "anna"
    layer = driver.viewer.layers["case_1 labels"]
    assert layer.data.shape == (5, 40, 36)
    driver.until(
        lambda: anatomy_of(driver.viewer).letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    )
    layer.paint((0, 5, 5), 1)
    driver.dock.cases.current.result.session.mark_reviewed(0)

    driver.press("next_case")
    driver.until_shown("case_2")
    driver.settle()
    assert [layer.name for layer in driver.viewer.layers] == ["case_2", "case_2 labels"]
    case = segmented.index.get(segmented.cases()[1].id)
    assert (case.status, case.annotator, case.reviewed) == ("in review", "anna", 1)
    assert case.edited > 0
    assert load_labels(segmented, case).labels[0, 5, 5] == 1
    assert set(segmented.holders()) == {segmented.cases()[2].id}

    driver.press("previous_case")
    driver.until_shown("case_1")
    assert driver.viewer.layers["case_1 labels"].data[0, 5, 5] == 1
    assert driver.dock.cases.current.result.session.reviewed.keys() == {0}

    driver.press("finish_case")
    driver.until_shown("case_2")  # what she began comes first; case_1 is done
    driver.settle()
    done = segmented.index.get(segmented.cases()[1].id)
    assert (done.status, done.sign_off.by) == ("done", "anna")


def test_a_stroke_is_in_the_project_although_the_case_is_never_closed(driver, segmented):
    driver.open(segmented)
    case = segmented.cases()[0]
    driver.dock.cases.open(case.id)
    driver.until_shown("case_0")
    driver.viewer.layers["case_0 labels"].paint((2, 3, 3), 1)
    assert driver.dock.cases.current.autosave.flush()
    assert load_labels(segmented, segmented.index.get(case.id)).labels[2, 3, 3] == 1


@pytest.mark.long
def test_the_next_case_is_read_ahead(driver, segmented):
    driver.open(segmented)
    driver.press("next_case")
    driver.until_shown("case_1")
    following = segmented.cases()[2].id
    driver.until(lambda: following in driver.dock.cases._ahead)
    driver.press("next_case")
    driver.until_shown("case_2")


def test_a_case_of_somebody_else_is_not_opened_and_a_stale_one_after_a_question(driver, segmented):
    driver.open(segmented)
    case = segmented.cases()[0]
    held = segmented.hold(case.id, "ben")
    driver.dock.cases.open(case.id)
    driver.until(lambda: "held by ben" in driver.dock.status)
    abandon(segmented.leases, case.id)
    driver.dock.cases.open(case.id)
    driver.until(lambda: driver.dock.question.open)
    driver.press("question_yes")
    driver.until_shown("case_0")
    assert not held.lease.held


def test_all_cases_are_segmented_while_one_is_open(driver, project):
    driver.open(project)
    driver.dock.cases.open(project.cases()[0].id)
    driver.until_shown("case_0")
    assert not driver.viewer.layers["case_0 labels"].data.any()
    driver.press("segment_all")
    driver.until(lambda: not driver.dock.segmentation.running)
    driver.settle()
    assert [case.status for case in project.cases()] == ["new", "segmented", "segmented"]
    assert "2 of 3 cases segmented" in driver.dock.status


def test_the_cases_shown_are_segmented_with_another_checkpoint(driver, project, monkeypatch, checkpoint):
    asked = []
    listed = [
        SimpleNamespace(name=str(checkpoint), path=checkpoint, ok=True, shipped=False),
        SimpleNamespace(name="broken", path=None, ok=False, shipped=False),
    ]
    monkeypatch.setattr("napari_transunet.checkpoints.registry.list_checkpoints", lambda: listed)
    monkeypatch.setattr(
        cases_dock.QInputDialog, "getItem", lambda *a, **_: (asked.append(a[2:4]), (a[3][0], True))[1]
    )
    driver.open(project)
    driver.dock.findChild(QLineEdit, "case_filter").setText("case_1")
    next(one for one in driver.dock.project_menu.actions() if "shown with" in one.text()).trigger()
    driver.until(lambda: "1 of 1 cases segmented" in driver.dock.status)
    assert asked == [("The checkpoint for the cases that are shown (1)", [str(checkpoint)])]
    assert [case.checkpoint for case in project.cases()] == [None, "organs.safetensors", None]
    assert [case.status for case in project.cases()] == ["new", "segmented", "new"]


def test_segmenting_all_gives_way_to_the_window_and_can_be_stopped(driver, project, monkeypatch):
    driver.open(project)
    other = SimpleNamespace(running=True)
    monkeypatch.setattr(background_segmentation.docks, "find_dock", lambda *_: other)
    driver.press("segment_all")
    driver.qtbot.wait(300)
    assert driver.dock.segmentation.waiting
    assert [case.status for case in project.cases()] == ["new"] * 3
    driver.press("segment_all")
    driver.until(lambda: not driver.dock.segmentation.running)
    driver.until(lambda: driver.dock.findChild(QPushButton, "segment_all").text() == "Segment all")
    driver.press("segment_all")
    other.running = False
    driver.until(lambda: not driver.dock.segmentation.running)
    assert [case.status for case in project.cases()] == ["segmented"] * 3


def test_the_table_is_filtered_sorted_and_used_by_keys(menus, driver, segmented):
    segmented.exclude("case_0", "motion")
    driver.open(segmented)
    table = driver.dock.table
    driver.dock.findChild(QLineEdit, "case_filter").setText("MOTION")
    assert driver.names == ["case_0"]
    driver.dock.findChild(QLineEdit, "case_filter").clear()
    driver.dock.findChild(QComboBox, "case_status").setCurrentText("segmented")
    assert driver.names == ["case_1", "case_2"]
    driver.dock.findChild(QComboBox, "case_status").setCurrentIndex(0)
    table.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    assert driver.names == ["case_1", "case_2", "case_0"]
    model = table.cases
    assert model.data(model.index(0, 3)) == "0.90"
    assert not model.data(model.index(0, 0), Qt.ItemDataRole.DecorationRole).isNull()
    for names in (["case_0", "case_2", "case_1"], ["case_1", "case_2", "case_0"]):
        QTest.keyClick(table, Qt.Key.Key_4, Qt.KeyboardModifier.ControlModifier)
        assert driver.names == names
    table.choose(segmented.cases()[2].id)
    assert not table.tabKeyNavigation()  # else no button is reached without a mouse
    QTest.keyClick(table, Qt.Key.Key_Menu)
    assert driver.dock.actions_of_case.menu.isVisible()
    driver.dock.actions_of_case.menu.close()
    QTest.keyClick(table, Qt.Key.Key_Return)
    driver.until_shown("case_2")


def test_of_what_others_read_blind_nothing_is_shown(driver, segmented):
    give_to_readers(segmented, segmented.cases()[0].id, ["anna", "ben"])
    driver.open(segmented)
    model = driver.dock.table.cases
    assert driver.names[:3] == ["case_0", "case_0 (anna)", "case_0 (ben)"]
    assert [model.data(model.index(row, 4)) for row in (1, 2)] == ["0.0 %", "–"]
    assert "mL" in model.data(model.index(1, 0), Qt.ItemDataRole.ToolTipRole)
    assert "mL" not in model.data(model.index(2, 0), Qt.ItemDataRole.ToolTipRole)
    driver.press("next_case")
    driver.until_shown("case_0 (anna)")
    driver.dock.cases.open(model.shown[2].id)
    driver.until(lambda: "read blind by ben; anna cannot open it" in driver.dock.status)


def test_a_case_is_read_by_several_compared_joined_and_approved(driver, segmented, monkeypatch):
    answers = ["anna, ben", "agreed"]
    monkeypatch.setattr(case_actions.QInputDialog, "getText", lambda *_, **__: (answers.pop(0), True))
    first = segmented.cases()[0].id
    driver.open(segmented)
    driver.dock.cases.open(first)
    driver.until_shown("case_0")
    driver.choose_entry(first, "Give to readers…")  # the case is closed for it
    driver.until(lambda: "read blind by anna, ben" in driver.dock.status)
    driver.settle()
    _, anna, ben, *_ = segmented.cases()
    assert "approve your reading first" in driver.entry(ben.id, "Agreement of the readers…").toolTip()
    with segmented.hold(ben.id, "ben") as held:
        found = load_labels(segmented, ben)
        found.labels[2, :20] = 1
        save_labels(held, found, status="in review")
    driver.choose_entry(anna.id, "Sign off…")
    driver.until(lambda: segmented.index.get(anna.id).sign_off is not None)
    driver.settle()
    assert segmented.index.get(anna.id).sign_off.note == "agreed"

    driver.dock.cases.open(first)
    driver.until_shown("case_0")
    driver.choose_entry(anna.id, "Agreement of the readers…")
    table = driver.dock.findChild(RowTable, "agreement")
    driver.until(table.isVisible)
    assert [table.item(0, at).text() for at in range(5)][:2] == ["anna, ben", "Spleen"]
    table.selectRow(0)
    layer = driver.viewer.layers["case_0: anna and ben differ"]
    assert set(np.unique(layer.data[2, :20])) == {3}  # liver for anna, spleen for ben
    assert not layer.data[2, 20:].any()
    assert driver.viewer.dims.current_step[0] == 2
    assert driver.viewer.layers.selection.active.name == "case_0 labels"

    driver.choose_entry(first, "Start from their majority")
    driver.until(lambda: "starts from the majority of anna, ben" in driver.dock.status)
    driver.settle()
    assert len(driver.viewer.layers) == 0  # the map went with the case
    assert not load_labels(segmented, segmented.index.get(first)).labels[2, :20].any()
    driver.choose_entry(anna.id, "Take the approval back")
    driver.until(lambda: segmented.index.get(anna.id).sign_off is None)


def test_labels_of_another_tool_are_taken_over(driver, project, tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    write_image(folder / "case_1.nii.gz", np.full((5, 40, 36), 3, np.uint8))
    driver.open(project)
    driver.dock.import_predictions(folder, "nnU-Net")
    driver.until(lambda: "left out: case_1.nii.gz: it names no labels" in driver.dock.status)
    (folder / "dataset.json").write_text('{"3": "spleen"}')
    driver.dock.import_predictions(folder, "nnU-Net")
    driver.until(lambda: driver.dock.status == "1 case starts from the labels of nnU-Net now.")
    assert project.cases()[1].run.name == "nnU-Net"


def test_a_case_is_excluded_with_a_reason_and_taken_in_again(driver, segmented):
    driver.open(segmented)
    identifier = segmented.cases()[0].id
    driver.dock.cases.open(identifier)
    driver.until_shown("case_0")
    driver.dock.exclude_case(identifier, "motion")
    driver.until(lambda: segmented.index.get(identifier).status == "excluded")
    driver.settle()
    assert driver.current is None
    driver.dock.exclude_case(identifier, "")
    driver.until(lambda: segmented.index.get(identifier).status == "segmented")


def test_a_project_is_made_and_scans_are_added(driver, scans, tmp_path, checkpoint):
    driver.dock.new_project(tmp_path / "made", [scans / "case_0.nii.gz"], str(checkpoint))
    driver.until(lambda: len(driver.dock.table.cases.cases) == 1)
    driver.dock.add_scans([scans])
    driver.until(lambda: len(driver.dock.table.cases.cases) == 3)
    assert "same scan as the case case_0" in driver.dock.status


def test_what_is_wrong_with_a_project_is_said(driver, tmp_path, project):
    driver.dock.open_project(tmp_path / "nowhere")
    driver.until(lambda: "is no project" in driver.dock.status)
    driver.open(project)
    for path in (tmp_path / "scans").iterdir():
        path.unlink()
    driver.dock.cases.open(project.cases()[0].id)
    driver.until(lambda: "not there any more" in driver.dock.status)
    assert project.holders() == {}


@pytest.mark.long
def test_everything_is_exported_with_a_report(driver, segmented):
    driver.open(segmented)
    driver.dock.export_and_report()
    driver.until(lambda: "3 cases exported" in driver.dock.status)
    assert (segmented.folder / "report.html").is_file()
    assert len(list((segmented.folder / "exports").glob("*.nii.gz"))) == 3


def test_cases_that_were_exported_in_other_formats_are_asked_about_before_these_are_replaced(
    driver, segmented
):
    first, *_ = segmented.cases()
    export_project(segmented, ["nifti", "slicer"], only=[first.id])
    segments = segmented.folder / "exports" / "case_0.seg.nrrd"
    before = segments.stat().st_mtime_ns
    driver.open(segmented)
    driver.dock.export_and_report()
    driver.until(lambda: driver.dock.question.open)
    assert "2 cases exported" in driver.dock.status
    assert segments.stat().st_mtime_ns == before
    driver.dock.question._no.click()
    assert segments.stat().st_mtime_ns == before
    driver.dock.export_and_report()
    driver.until(lambda: driver.dock.question.open)
    driver.dock.question._yes.click()
    driver.until(lambda: "1 case exported anew" in driver.dock.status)
    assert segments.stat().st_mtime_ns > before
    assert read_volume(segments).labels is not None


def test_learning_is_begun_for_the_project_and_says_what_came_of_it(driver, segmented, monkeypatch):
    driver.open(segmented)
    driver.dock.learn()
    driver.until(lambda: "nothing to learn from" in driver.dock.status)
    asked = []

    def adapt(project, *, annotator, progress, cancelled, **_):
        asked.append((project.folder, annotator))
        progress(SimpleNamespace(done=0.25, remaining=75.0))
        while not cancelled():
            time.sleep(0.01)
        return SimpleNamespace(sentence="It learnt.")

    monkeypatch.setattr("napari_transunet.project.adapting.adapt_project", adapt)
    driver.dock.learn()
    bar = driver.dock.findChild(QProgressBar, "project_progress")
    driver.until(lambda: bar.format() == "Learning, 1 min 15 s left")
    assert (bar.value(), bar.maximum()) == (250, 1000)
    driver.dock.export_and_report()
    assert driver.dock.status == "Wait until what goes on is done, or stop it."
    stop = driver.dock.findChild(QPushButton, "segment_all")
    assert stop.text() == "Stop"
    stop.click()
    driver.until(lambda: driver.dock.status == "It learnt.")
    assert stop.text() == "Segment all"
    assert bar.isHidden()
    assert asked == [(segmented.folder, "anna")]


def test_a_closed_dock_or_removed_layer_gives_the_case_back_with_its_work(driver, segmented):
    driver.open(segmented)
    case = segmented.cases()[0]
    driver.dock.cases.open(case.id)
    driver.until_shown("case_0")
    driver.viewer.layers["case_0 labels"].paint((1, 3, 3), 1)
    driver.viewer.layers.remove(driver.viewer.layers["case_0"])
    driver.until(lambda: segmented.holders() == {})
    assert load_labels(segmented, segmented.index.get(case.id)).labels[1, 3, 3] == 1
    assert len(driver.viewer.layers) == 0


def test_a_case_whose_labels_cannot_be_saved_is_not_approved_and_they_stay_in_the_window(
    driver, segmented, monkeypatch
):
    driver.open(segmented)
    case = segmented.cases()[0]
    driver.dock.cases.open(case.id)
    driver.until_shown("case_0")
    layer = driver.viewer.layers["case_0 labels"]
    save = SessionFolder.save

    def full(folder, *planes, **more):
        if segmented.folder in folder.path.parents:
            raise OSError(28, "No space left on device")
        return save(folder, *planes, **more)

    monkeypatch.setattr(SessionFolder, "save", full)
    layer.paint((0, 5, 5), 1)
    driver.press("finish_case")
    driver.until(lambda: layer in driver.viewer.layers and not driver.dock.cases.finishing)
    assert "could not be saved in the project" in driver.dock.status
    after = segmented.index.get(case.id)
    assert (after.status, after.edited, after.sign_off) == (case.status, case.edited, None)
    assert case.id not in segmented.holders()
    # What is done from now on is saved like labels of any image.
    kept = sessions_of(driver.viewer).result_of(layer).autosave
    driver.until(lambda: kept._saver is not None)
    assert kept.flush()
    assert [info.summary["edited_voxels"] for info in SessionStore().sessions()] == [
        int((layer.data != 2).sum())
    ]
    kept.close()


def _worked_on_beside(driver, segmented):
    """The case, and a copy of its labels that the annotator took for them."""
    driver.open(segmented)
    case = segmented.cases()[0]
    driver.dock.cases.open(case.id)
    driver.until_shown("case_0")
    layers = driver.viewer.layers
    layers["case_0 labels"].paint((0, 5, 5), 1)
    layers.selection = {layers["case_0 labels"]}
    _duplicate_layer(layers)
    copy = layers["case_0 labels copy"]
    driver.qtbot.wait(1)
    driver.press("next_case")  # a backup is no other labels
    driver.until_shown("case_1")
    driver.settle()
    assert load_labels(segmented, segmented.index.get(case.id)).labels[0, 5, 5] == 1
    layers.remove(copy)
    driver.dock.cases.open(case.id)
    driver.until_shown("case_0")
    _duplicate_layer(layers)
    copy = layers["case_0 labels copy"]
    driver.qtbot.wait(1)
    layers.selection.active = copy
    copy.paint((3, 20, 20), 1)
    driver.until(lambda: "not what is saved in the project" in driver.dock.status)
    driver.press("next_case")
    driver.until(lambda: driver.dock.question.open and not driver.dock.cases.busy)
    assert driver.current == "case_0"
    assert "case_0 labels copy" in driver.dock.findChild(QLabel, "question").text()
    return case


@pytest.mark.long
def test_labels_beside_those_of_a_case_are_its_labels_where_the_annotator_says_so(driver, segmented):
    case = _worked_on_beside(driver, segmented)
    driver.press("question_no")
    assert "will take the place" in driver.dock.status
    driver.press("finish_case")
    driver.until(lambda: driver.current not in ("case_0", None))
    driver.settle()
    after = segmented.index.get(case.id)
    found = load_labels(segmented, after)
    assert found.labels[3, 20, 20] == 1
    assert (found.labels[0, 5, 5], after.status) == (1, "done")
    assert case.id not in segmented.holders()
    assert export_project(segmented, ["nifti"], statuses=["done"]).cases == [after]


@pytest.mark.long
def test_labels_beside_those_of_a_case_are_saved_outside_where_they_are_not_its(driver, segmented):
    case = _worked_on_beside(driver, segmented)
    driver.press("question_yes")
    driver.press("next_case")
    driver.until(lambda: driver.current not in ("case_0", None))
    driver.settle()
    found = load_labels(segmented, segmented.index.get(case.id))
    assert (found.labels[0, 5, 5], found.labels[3, 20, 20]) == (1, 2)
    driver.until(lambda: not any(info.in_use for info in SessionStore().sessions()))
    (info,) = SessionStore().sessions()
    assert load_folder(info.folder).arrays["labels"][3, 20, 20] == 1
    driver.dock.cases.open(case.id)
    driver.until(lambda: "are not in the project" in driver.dock.status)
    assert driver.current == "case_0"


@pytest.mark.long
def test_a_case_whose_layer_was_removed_in_mid_run_is_closed_after_it(driver, segmented, monkeypatch):
    driver.open(segmented)
    case = segmented.cases()[0]
    driver.dock.cases.open(case.id)
    driver.until_shown("case_0")
    cases, layer = driver.dock.cases, driver.viewer.layers["case_0 labels"]
    layer.paint((0, 5, 5), 1)
    monkeypatch.setattr(cases, "_why_not_now", lambda: "A run goes on.")
    driver.viewer.layers.remove(layer)
    assert driver.current == "case_0"
    monkeypatch.undo()
    cases._look()
    driver.until(lambda: driver.current is None and not cases.finishing)
    assert segmented.index.get(case.id).edited > 0


def test_a_case_is_given_back_where_its_project_is_left_while_it_is_put_in_place(driver, segmented):
    driver.open(segmented)
    case = segmented.cases()[0]
    cases = driver.dock.cases
    inserted = driver.viewer.layers.events.inserted
    inserted.connect(lambda _event: QTimer.singleShot(0, lambda: cases.use(None)))
    cases.open(case.id)
    driver.until(lambda: not cases.busy and segmented.holders() == {})
    assert cases.current is None
    assert len(driver.viewer.layers) == 0


def test_a_thousand_cases_are_shown_sorted_and_filtered_at_once(driver, segmented):
    case = segmented.cases()[0]
    cases = [
        case.model_copy(
            update={"id": f"c{number}", "name": f"case {number:05d}", "uncertainty": number / 1e4}
        )
        for number in np.random.default_rng(0).permutation(10_000).tolist()
    ]
    table = driver.dock.table
    table.show_cases(cases, {}, None)
    started = time.process_time()
    table.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    table.cases.filter("case 099", "")
    spent = time.process_time() - started
    assert [case.name for case in table.cases.shown[:2]] == ["case 09999", "case 09998"]
    assert len(table.cases.shown) == 100
    assert spent < 0.5
