"""Learning from a project: what is learnt from, what is held out, and what decides."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.checkpoints import registry
from napari_transunet.checkpoints.info import CheckpointInfo
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.project import adapting
from napari_transunet.project.adapting import (
    StoredCorrections,
    adapt_project,
    held_out_cases,
    reviewed_cases,
)
from napari_transunet.project.agreement import give_to_readers
from napari_transunet.project.case_labels import CaseLabels, load_labels, save_labels
from napari_transunet.project.project import Project
from napari_transunet.project.segmenting import segment_project
from napari_transunet.volumes.label_values import UNKNOWN
from napari_transunet.volumes.labels import LabelSet
from tests.project.test_segmenting import other_checkpoint

CPU = PredictorOptions(device="cpu", backend="torch", precision="float32", batch_size=2)


def review(project, case, slices=(0, 2)):
    """Slices whose left half is spleen, approved."""
    with project.hold(case.id, case.reader or "anna") as held:
        found = load_labels(project, case)
        for index in slices:
            found.labels[index, :, :18] = 1
            found.session.mark_reviewed(index)
        return save_labels(held, found, status="in review")


@pytest.fixture
def reviewed(project):
    list(segment_project(project, options=CPU))
    for case in project.cases():
        review(project, case)
    return project


def test_it_learns_from_reviewed_slices_and_held_out_scans_decide(reviewed, monkeypatch):
    scored = []

    def gained(parent, child, held, *_):
        scored.append([one.volume.source.name for one in held])
        return {"spleen": (0.5, 0.6), "liver": (0.5, 0.45)}

    monkeypatch.setattr(adapting, "_scored", gained)
    found = adapt_project(reviewed, device="cpu", options=CPU, steps=2)
    assert scored == [list(found.held_out)]
    assert len(found.held_out) == 1
    assert len(found.learnt) == 2
    assert (found.slices, found.by) == (4, "scans")
    assert found.child == "adapted-001.safetensors"
    again = Project.open(reviewed.folder)
    assert again.settings.checkpoint == "adapted-001.safetensors"
    path = again.checkpoint_path()
    assert path.parent == reviewed.folder / "checkpoints"
    story = CheckpointInfo.from_file(path).card.lineage[-1]
    assert story.parent_name == "organs"
    assert len(story.scans) == 2
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["held_out"] == list(found.held_out)
    assert {one.state for one in segment_project(again, options=CPU)} == {"segmented"}


def test_held_out_scans_are_scored_on_their_reviewed_slices_before_and_after(reviewed, checkpoint, tmp_path):
    parent = load_checkpoint(checkpoint)
    child = load_checkpoint(other_checkpoint(tmp_path, {1: "spleen", 2: "liver"}, [0.0, 2.0, 1.0]))
    held = StoredCorrections(reviewed, reviewed.cases()[:2], parent.card)
    # All liver, then all spleen, where half is spleen and half liver.
    dice = adapting._scored(parent, child, held, CPU, "cpu")
    assert dice == {"spleen": (0.0, 0.6667), "liver": (0.6667, 0.0)}


def test_where_each_scan_takes_what_fits_what_learnt_takes_the_place_of_its_parent(
    tmp_path, scans, checkpoint, monkeypatch
):
    (tmp_path / "shipped").mkdir()
    shutil.copy(checkpoint, tmp_path / "shipped" / "organs.safetensors")
    monkeypatch.setattr(registry, "shipped_folder", lambda: tmp_path / "shipped")
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "none"))
    monkeypatch.setattr(adapting, "_scored", lambda *_: {"spleen": (0.5, 0.6)})
    project = Project.create(tmp_path / "study")
    project.add([scans])
    list(segment_project(project, options=CPU))
    assert {case.run.name for case in project.cases()} == {"organs"}
    for case in project.cases():
        review(project, case)
    with pytest.raises(ValueError, match="of the labels that it made"):
        adapt_project(project, device="cpu", options=CPU, steps=1, checkpoint="another")
    for number in (1, 2):
        found = adapt_project(project, device="cpu", options=CPU, steps=1)
        assert found.child == f"adapted-{number:03d}.safetensors"
        project = Project.open(project.folder)
        list(segment_project(project, options=CPU))
        assert {case.run.name for case in project.cases()} == {f"adapted-{number:03d}"}
        assert list(segment_project(project, options=CPU)) == []
    assert found.parent == "adapted-001"
    assert project.settings.checkpoint is None
    assert set(project.settings.adapted.values()) == {"organs"}
    assert project.checkpoint_path("organs") == project.folder / "checkpoints" / "adapted-002.safetensors"


def test_what_does_not_gain_is_not_kept(reviewed, monkeypatch):
    monkeypatch.setattr(adapting, "_scored", lambda *_: {"spleen": (0.5, 0.5)})
    found = adapt_project(reviewed, device="cpu", options=CPU, steps=1)
    assert found.child is None
    assert "did not gain" in found.sentence
    assert Project.open(reviewed.folder).settings.checkpoint == "organs.safetensors"
    assert list((reviewed.folder / "checkpoints").glob("adapted*")) == []


def test_nothing_reviewed_is_said(project):
    with pytest.raises(ValueError, match="nothing to learn from"):
        adapt_project(project, device="cpu", steps=1)
    assert project.holders() == {}


def test_each_scan_counts_once_the_case_before_its_readings(reviewed):
    case = reviewed.cases()[0]
    for reading in give_to_readers(reviewed, case.id, ["ben", "cleo"]):
        review(reviewed, reading)
    assert [one.id for one in reviewed_cases(reviewed)] == [one.id for one in reviewed.cases() if not one.of]


def test_the_same_scans_are_held_out_when_more_are_reviewed():
    cases = [SimpleNamespace(scan=SimpleNamespace(sha256=f"{number:064x}")) for number in range(40)]
    few, many = held_out_cases(cases[:20]), held_out_cases(cases)
    assert (len(few), len(many)) == (5, 10)
    assert sum(case in many for case in few) >= 3
    assert held_out_cases(cases[:1]) == []


def test_no_scan_is_held_out_that_the_checkpoint_has_learnt_from(reviewed, monkeypatch):
    monkeypatch.setattr(adapting, "_scored", lambda *_: {"liver": (0.5, 0.6)})
    first, second = (adapt_project(reviewed, device="cpu", options=CPU, steps=2) for _ in range(2))
    assert first.held_out == second.held_out  # the only one of three that is new to it
    assert not set(second.held_out) & set(first.learnt)
    card = CheckpointInfo.from_file(reviewed.checkpoint_path()).card
    learnt = adapting._learnt_before(card)
    assert {case.name for case in reviewed.cases() if learnt(case)} == set(first.learnt)
    assert held_out_cases(reviewed.cases(), lambda _: True) == []
    assert learnt(reviewed.cases()[0].with_changes({"fingerprint": None}))


def test_labels_with_other_numbers_are_learnt_by_name_and_other_axes_by_voxel(project, checkpoint):
    case = project.cases()[0]
    labels = np.zeros((5, 40, 36), np.uint8)
    labels[:, :, :10] = 7
    session = AnnotationSession.of_labels(labels, {7: "Spleen", 8: "cyst"})
    session.axis = 1
    session.mark_reviewed(3)
    with project.hold(case.id) as held:
        names = LabelSet.from_names({7: "Spleen", 8: "cyst"})
        case = save_labels(held, CaseLabels(labels, session, names), shape=labels.shape, status="in review")
    card = CheckpointInfo.from_file(Path(checkpoint)).card
    (one,) = StoredCorrections(project, [case], card)
    assert set(np.unique(one.labels)) == {0, 1}
    assert one.organs == ["spleen"]
    assert list(one.slices) == []
    assert one.voxels[:, 3].all()
    assert one.voxels.sum() == 5 * 36


def test_what_a_label_without_a_name_is_is_not_taught_as_background(project, checkpoint):
    case = project.cases()[0]
    labels = np.zeros((5, 40, 36), np.uint8)
    labels[:, :, :10], labels[1, 0, 20], labels[1, 0, 21], labels[1, 0, 22] = 7, 9, 3, 8
    names = LabelSet.from_names(
        {7: "Spleen", 8: "cyst", 3: "label 3"}
    )  # 9 was painted with napari's own number
    session = AnnotationSession.of_labels(labels, names.names)
    session.mark_reviewed(1)
    with project.hold(case.id) as held:
        case = save_labels(held, CaseLabels(labels, session, names), shape=labels.shape, status="in review")
    card = CheckpointInfo.from_file(Path(checkpoint)).card
    (one,) = StoredCorrections(project, [case], card)
    assert one.labels[1, 0, [0, 20, 21, 22, 23]].tolist() == [1, UNKNOWN, UNKNOWN, 0, 0]


def test_an_organ_that_two_labels_are_is_vouched_for_alone(checkpoint):
    card = CheckpointInfo.from_file(Path(checkpoint)).card.updated(
        num_classes=3, labels=[{"value": 1, "name": "spleen"}, {"value": 2, "name": "liver"}]
    )
    table, organs = adapting._to_classes({4: "spleen", 5: "Spleen"}, 5, card, ())
    assert table[[4, 5]].tolist() == [1, 1]
    assert organs == ["spleen"]  # and nothing is said of the liver
