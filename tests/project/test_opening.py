"""Taking a case, working on it, giving it back; and which comes next."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from napari_transunet.annotation import session_folder
from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.annotation.saved_state import saved_state
from napari_transunet.errors import InputError, SizeError
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.io.sidecar import as_json
from napari_transunet.project.agreement import sign_off
from napari_transunet.project.case_labels import load_labels
from napari_transunet.project.exporting import export_project
from napari_transunet.project.leases import LeaseHeldError, LeaseLostError
from napari_transunet.project.opening import approval, finish_case, open_case, read_ahead
from napari_transunet.project.scans import read_scan
from napari_transunet.project.segmenting import segment_project
from napari_transunet.project.worklist import PAUSE, WorkClock, next_case
from napari_transunet.volumes.labels import LabelSet
from tests.project.conftest import abandon

CPU = PredictorOptions(device="cpu", backend="torch", precision="float32", batch_size=2)


@pytest.fixture
def segmented(project):
    list(segment_project(project, options=CPU))
    return project


def saver_of(opened):
    found = opened.found
    front = {"name": "labels", "opacity": 0.6, "label_set": [as_json(label) for label in found.label_set]}
    arrays = {"labels": lambda: found.labels, "prediction": lambda: found.session.prediction}
    return Autosaver(
        opened.folder, arrays, lambda: saved_state(found.session, found.labels, front), quiet=0.01
    )


def work(project, case, who="anna", **more):
    opened = open_case(project, case.id, who, **more)
    saver = saver_of(opened)
    opened.found.labels[0, :2, :2] = 1
    opened.found.session.mark_reviewed(0)
    assert saver.close()
    return opened


def test_work_is_in_the_case_and_its_session_afterwards(segmented):
    case = segmented.cases()[0]
    opened = work(segmented, case)
    done = finish_case(opened, opened.found, "anna", 61.25)
    assert (done.status, done.annotator, done.reviewed, done.seconds) == (
        "in review",
        "anna",
        1,
        {"anna": 61.2},
    )
    assert done.edited == pytest.approx(4 / (5 * 40 * 36), abs=1e-4)
    assert (load_labels(segmented, done).labels[0, :2, :2] == 1).all()
    assert segmented.holders() == {}
    again = open_case(segmented, case.id, "ben")
    assert again.folder.path.name == done.session
    again.folder.close()
    looked = finish_case(again, again.found, "ben", 10)
    assert (looked.annotator, looked.seconds) == ("anna", {"anna": 61.2, "ben": 10})


def test_a_scan_that_names_no_modality_has_that_of_its_case(segmented):
    case = segmented.cases()[0]
    assert case.modality == "CT"
    assert read_scan(case.scan, segmented.folder).modality is None
    opened = open_case(segmented, case.id, "anna")
    assert opened.volume.modality == "CT"
    opened.folder.close()
    opened.held.release()


def test_what_was_approved_and_then_changed_is_not_approved_any_more(segmented):
    case = segmented.cases()[0]
    opened = open_case(segmented, case.id, "anna")
    opened.folder.close()
    done = finish_case(opened, opened.found, "anna", 5, done=approval("anna", "fine"))
    assert (done.status, done.sign_off.by) == ("done", "anna")
    opened = open_case(segmented, case.id, "ben")
    opened.folder.close()
    assert finish_case(opened, opened.found, "ben", 5).status == "done"
    opened = work(segmented, case, "ben")
    changed = finish_case(opened, opened.found, "ben", 5)
    assert (changed.status, changed.sign_off, changed.done) == ("in review", None, "")


def _repainted(found):
    found.labels[found.labels == 1] = 3


def _run_again(found):
    found.labels[1] = found.session.prediction[1] = 1


def _renamed(found):
    found.label_set = LabelSet.from_names({1: "stomach", 2: "liver"})


@pytest.mark.parametrize("change", [_repainted, _run_again, _renamed])
def test_nothing_but_what_was_approved_stays_approved(segmented, change):
    """As many edits and reviewed slices as before can be others, and a run edits nothing."""
    case = segmented.cases()[0]
    opened = work(segmented, case)
    assert finish_case(opened, opened.found, "anna", 5, done=approval("anna")).status == "done"
    opened = open_case(segmented, case.id, "ben")
    change(opened.found)
    assert saver_of(opened).close()
    changed = finish_case(opened, opened.found, "ben", 5)
    assert (changed.status, changed.sign_off, changed.annotator) == ("in review", None, "ben")


@pytest.mark.parametrize("at_closing", [True, False])
def test_labels_that_a_killed_window_changed_are_approved_no_more(segmented, tmp_path, at_closing):
    case = segmented.cases()[0]
    opened = work(segmented, case)
    finish_case(opened, opened.found, "anna", 5, done=approval("anna") if at_closing else None)
    if not at_closing:
        sign_off(segmented, case.id, annotator="anna")
    (tmp_path / "before").mkdir()
    assert len(export_project(segmented, ["nifti"], folder=tmp_path / "before", statuses=["done"]).cases) == 1
    opened = open_case(segmented, case.id, "ben")
    opened.found.labels[3, :4] = 1
    assert saver_of(opened).close()
    opened.held.release()  # as it is free once its process is dead
    assert segmented.case(case.id).status == "done"
    left = export_project(segmented, ["nifti"], folder=tmp_path / "done", statuses=["done"])
    assert not left.files
    assert "changed since they were approved" in left.left_out[0]
    exported = export_project(segmented, ["nifti"], folder=tmp_path / "all")
    told = json.loads(next(path for path in exported.files if path.name == "case_0.json").read_text())
    assert told["provenance"]["case"]["sign_off"] is None
    assert told["provenance"]["case"]["status"] == "in review"
    opened = open_case(segmented, case.id, "cleo")
    opened.folder.close()
    looked = finish_case(opened, opened.found, "cleo", 5)
    assert (looked.status, looked.sign_off) == ("in review", None)


def test_who_was_taken_over_keeps_what_he_did_in_a_session_of_its_own(segmented):
    case = segmented.cases()[0]
    sleeper = open_case(segmented, case.id, "anna")
    saver = saver_of(sleeper)
    sleeper.found.labels[1] = 1
    assert saver.flush()
    abandon(segmented.leases, case.id)
    with pytest.raises(LeaseHeldError):
        open_case(segmented, case.id, "ben")
    taker = open_case(segmented, case.id, "ben", takeover=True)
    assert taker.folder.path != sleeper.folder.path
    assert (taker.found.labels[1] == 1).all()
    theirs = saver_of(taker)
    taker.found.labels[2] = 1
    assert theirs.close()
    sleeper.found.labels[3] = 1  # she wakes up and goes on
    assert saver.close()
    with pytest.raises(LeaseLostError, match="taken over by ben"):
        finish_case(sleeper, sleeper.found, "anna", 5)
    kept = finish_case(taker, taker.found, "ben", 5)
    now = load_labels(segmented, kept).labels
    assert (now[1:3] == 1).all()
    assert (now[3] == 2).all()
    from napari_transunet.annotation.session_folder import load_folder

    assert (load_folder(sleeper.folder.path).arrays["labels"][3] == 1).all()


def test_a_case_that_was_read_ahead_opens_as_it_is_now(segmented):
    case = segmented.cases()[0]
    ahead = read_ahead(segmented, case.id)
    opened = open_case(segmented, case.id, "anna", ahead=ahead)
    assert opened.volume is ahead.volume
    assert opened.found is ahead.found
    opened.folder.close()
    finish_case(opened, opened.found, "anna", 1)
    ahead = read_ahead(segmented, case.id)
    done = work(segmented, case, "ben")
    finish_case(done, done.found, "ben", 1)
    opened = open_case(segmented, case.id, "anna", ahead=ahead)
    assert opened.volume is ahead.volume
    assert (opened.found.labels[0, :2, :2] == 1).all()
    opened.folder.close()
    opened.held.release()


def test_a_case_without_labels_opens_with_the_names_of_its_checkpoint(project):
    case = project.cases()[0]
    opened = open_case(project, case.id, "anna")
    assert opened.found.label_set.names == {1: "spleen", 2: "liver"}
    assert not opened.found.labels.any()
    opened.folder.close()
    assert finish_case(opened, opened.found, "anna", 1).status == "new"


def test_a_case_that_cannot_be_opened_is_free_again(project, scans):
    case = project.cases()[0]
    (scans / "case_0.nii.gz").unlink()
    assert read_ahead(project, case.id) is None
    with pytest.raises(OSError, match="not there any more"):
        open_case(project, case.id, "anna")
    assert project.holders() == {}


def test_the_most_uncertain_case_that_is_nobody_s_comes_next(segmented):
    cases = [
        case.with_changes({"uncertainty": uncertainty})
        for case, uncertainty in zip(segmented.cases(), (0.2, 0.9, 0.5), strict=True)
    ]
    assert next_case(cases, {}, "anna") is cases[1]
    assert next_case(cases, {cases[1].id: None}, "anna") is cases[2]
    assert next_case(cases, {}, "anna", skip=[cases[1].id]) is cases[2]
    crashed = {cases[1].id: SimpleNamespace(stale=True, annotator="anna")}
    assert next_case(cases, crashed, "anna") is cases[2]
    assert next_case(cases[:2], crashed, "anna", skip=[cases[0].id]) is cases[1]
    assert next_case(cases[:2], crashed, "ben", skip=[cases[0].id]) is None
    others = [
        cases[0],
        cases[1].with_changes({"annotator": "ben"}),
        cases[2].with_changes({"status": "done"}),
    ]
    assert next_case(others, {}, "anna") is others[0]
    assert next_case(others, {}, "ben") is others[1]
    blind = [cases[0], cases[1], cases[2].with_changes({"reader": "cleo", "of": cases[0].id})]
    assert next_case(blind, {}, "anna") is cases[1]
    assert next_case(blind, {}, "cleo") is blind[2]
    assert next_case([case.with_changes({"status": "excluded"}) for case in cases], {}, "anna") is None


def test_pauses_are_no_work():
    times = iter([0.0, 10.0, 15.0, 15.0 + PAUSE + 1, 20.0 + PAUSE + 1])
    clock = WorkClock(lambda: next(times))
    for _ in range(4):
        clock.act()
    assert clock.seconds == 20.0


def test_labels_that_a_person_drew_from_nothing_count(project):
    case = project.cases()[0]
    opened = open_case(project, case.id, "anna")
    saver = saver_of(opened)
    opened.found.labels[1, 2:4] = 2
    assert saver.close()
    done = finish_case(opened, opened.found, "anna", 1)
    assert (done.status, done.edited, done.annotator) == ("in review", 1.0, "anna")
    assert np.isclose(done.volumes["liver"], 72 * 2.5 * 0.7 * 0.8 / 1000, rtol=1e-3)


def _newest_part(project, case):
    return sorted((project.folder / "sessions" / case.id / case.session).glob("*.part"))[-1]


def test_older_labels_are_not_taken_for_the_newest_where_these_are_damaged(segmented, tmp_path):
    case = segmented.cases()[0]
    before = load_labels(segmented, case).labels.copy()
    opened = work(segmented, case)
    case = finish_case(opened, opened.found, "anna", 5)
    part = _newest_part(segmented, case)
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=f"{case.name}.*last save is damaged"):
        load_labels(segmented, case)
    exported = export_project(segmented, ["nifti"], folder=tmp_path)
    assert len(exported.cases) == 2
    assert case.name in exported.left_out[0]
    again = segment_project(
        segmented, options=replace(CPU, mirror_tta=True)
    )  # others than before: all are due
    outcome = next(one for one in again if one.case == case.id)
    assert outcome.state == "failed"
    assert "cannot be read" in outcome.sentence
    assert part.is_file()
    opened = open_case(segmented, case.id, "anna")
    assert np.array_equal(opened.found.labels, before)
    assert "cannot be read" in opened.found.note
    opened.folder.close()
    opened.held.release()


def test_a_case_whose_labels_are_gone_or_damaged_does_not_begin_anew(segmented):
    case = segmented.cases()[0]
    opened = work(segmented, case)
    case = finish_case(opened, opened.found, "anna", 5)
    folder = segmented.folder / "sessions" / case.id / case.session
    for part in folder.glob("*.part"):
        part.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        open_case(segmented, case.id, "anna")
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(InputError, match="folder is gone"):
        open_case(segmented, case.id, "anna")
    assert segmented.case(case.id).session == case.session


def test_labels_that_do_not_fit_into_memory_are_not_replaced_by_older_ones(segmented, monkeypatch):
    case = segmented.cases()[0]
    monkeypatch.setattr(session_folder, "available_memory", lambda: 10)
    with pytest.raises(SizeError):
        open_case(segmented, case.id, "anna")


def test_files_that_a_save_removed_while_they_were_read_are_not_missed(segmented, monkeypatch):
    case = segmented.cases()[0]
    part = _newest_part(segmented, case)
    newer, read = part.with_name("00009999.part"), session_folder.read_part

    def read_late(path):
        if path == part and part.is_file():
            part.rename(newer)
        return read(path)

    monkeypatch.setattr(session_folder, "read_part", read_late)
    assert load_labels(segmented, case).note == ""
    assert newer.is_file()
