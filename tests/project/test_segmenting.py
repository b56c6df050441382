"""Segmenting a project: resumable, past failures, beside people, and never over their work."""

import pickle

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.predictor import Predictor
from napari_transunet.io.reading import read_volume
from napari_transunet.model.transunet import TransUNet
from napari_transunet.project.case_labels import load_labels, save_labels, uncertainty_of_case
from napari_transunet.project.index import ProjectWriteError
from napari_transunet.project.project import Project
from napari_transunet.project.segmenting import (
    SegmentTask,
    segment_case,
    segment_project,
    tasks_due,
    values_of_classes,
)
from napari_transunet.volumes.labels import Label, LabelSet
from tests.networks import balanced, varied
from tests.project.conftest import abandon

CPU = PredictorOptions(device="cpu", backend="torch", precision="float32", batch_size=2)


def segment(project, **more):
    return list(segment_project(project, options=CPU, **more))


def states(outcomes):
    return [outcome.state for outcome in outcomes]


def test_each_case_gets_labels_facts_and_a_thumbnail(project):
    outcomes = segment(project)
    assert states(outcomes) == ["segmented"] * 3
    case = project.cases()[0]
    assert (case.status, case.shape, case.slices, case.run.name) == ("segmented", (5, 40, 36), 5, "organs")
    one = 2.5 * 0.7 * 0.8 / 1000
    assert case.volumes == pytest.approx({"liver": 5 * 40 * 36 * one}, rel=1e-3)
    assert len(case.run.sha256) == 64
    assert 0 < case.uncertainty <= 1
    found = load_labels(project, case)
    assert (found.labels == 2).all()
    assert found.session.runs[0].slices == 5
    assert found.label_set.names == {1: "spleen", 2: "liver"}
    assert (project.folder / "thumbnails" / f"{case.id}.png").read_bytes()[:4] == b"\x89PNG"
    assert project.holders() == {}


def test_what_is_done_with_the_same_checkpoint_and_options_is_skipped(project):
    segment(project)
    assert segment(project) == []
    assert len(tasks_due(project, options=CPU)) == 0
    assert len(tasks_due(project, options=CPU.changed(device="cuda", batch_size=3))) == 0
    assert len(tasks_due(project, options=CPU.changed(mirror_tta=True))) == 3


def test_a_failure_is_told_and_kept_and_the_others_go_on(project, scans):
    (scans / "case_1.nii.gz").write_bytes(b"nothing")
    outcomes = segment(project)
    assert states(outcomes) == ["segmented", "failed", "segmented"]
    assert "was changed since" in outcomes[1].sentence
    assert "was changed since" in project.cases()[1].problem
    assert [task.case for task in tasks_due(project, options=CPU)] == [project.cases()[1].id]


def test_a_cancelled_case_keeps_nothing_and_is_done_the_next_time(project):
    asked = iter([False, False, True, True, True, True])
    outcomes = segment(project, cancelled=lambda: next(asked, True))
    assert states(outcomes) == ["cancelled"]
    assert [case.status for case in project.cases()] == ["new"] * 3
    assert states(segment(project)) == ["segmented"] * 3


def test_a_case_that_somebody_has_is_left_to_them(project):
    first = project.cases()[0]
    with project.hold(first.id, "anna"):
        outcomes = segment(project)
    assert states(outcomes) == ["skipped", "segmented", "segmented"]
    assert "anna" in outcomes[0].sentence


def test_a_segmentation_that_died_is_taken_over_but_a_sleeping_person_is_not(project):
    first, second, _ = project.cases()
    for case, purpose in ((first, "segment"), (second, "review")):
        project.hold(case.id, "anna", purpose=purpose)
        abandon(project.leases, case.id)
    assert states(segment(project)) == ["segmented", "skipped", "segmented"]


def edit(project, case, *, review=()):
    with project.hold(case.id, "anna") as held:
        found = load_labels(project, case)
        found.labels[1, :3, :3] = 1
        for index in review:
            found.session.mark_reviewed(index)
        save_labels(held, found, status="in review")


def other_checkpoint(folder, names, bias):
    net = TransUNet("testing", num_classes=len(bias), img_size=32)
    with torch.no_grad():
        net.segmentation_head[0].weight.zero_()
        net.segmentation_head[0].bias.copy_(torch.tensor(bias))
    return save_checkpoint(folder / "other.safetensors", net, default_card(net, labels=names, modality="CT"))


def test_small_parts_are_left_out_of_all_but_a_person_s_work(tmp_path, scans):
    torch.manual_seed(0)
    net = balanced(varied(TransUNet("testing", num_classes=3, img_size=32)))
    card = default_card(net, labels={1: "spleen", 2: "liver"}, modality="CT")
    held = card.updated(smallest_part=1.0)
    project = Project.create(
        tmp_path / "study", checkpoint=str(save_checkpoint(tmp_path / "parts.safetensors", net, held))
    )
    project.add([scans / "case_0.nii.gz"])
    case, told = project.cases()[0], []
    assert states(segment(project, progress=lambda *said: told.append(said[1:]))) == ["segmented"]
    assert told == [(2, 5), (4, 5), (5, 5)]
    volume = read_volume(scans / "case_0.nii.gz")
    expected = Predictor(net, CPU, card=held).predict(volume)
    changed = (expected != Predictor(net, CPU, card=card).predict(volume)).any(axis=(1, 2))
    assert changed.sum() > 1, "nothing was small"
    found = load_labels(project, project.index.get(case.id))
    np.testing.assert_array_equal(found.labels, expected)
    assert np.isfinite(found.session.uncertainty.means).all()

    edit(project, project.index.get(case.id), review=np.flatnonzero(changed)[-1:].tolist())
    before = load_labels(project, project.index.get(case.id))
    other = save_checkpoint(tmp_path / "raw.safetensors", net, card)
    for path in (other, tmp_path / "parts.safetensors"):
        assert states(segment(project, checkpoint=str(path))) == ["segmented"]
    found = load_labels(project, project.index.get(case.id))
    np.testing.assert_array_equal(found.labels, before.labels)
    assert found.session.reviewed.keys() == before.session.reviewed.keys()


def test_another_checkpoint_labels_anew_but_what_a_person_edited_or_reviewed(project, tmp_path):
    segment(project)
    case = project.cases()[0]
    edit(project, case, review=[3])
    path = other_checkpoint(tmp_path, {1: "spleen", 2: "liver"}, [0.0, 2.0, 1.0])
    project.use_checkpoint(project.keep_checkpoint(str(path)))
    assert states(segment(project)) == ["segmented"] * 3
    case = project.index.get(case.id)
    found = load_labels(project, case)
    assert (found.labels[3] == 2).all()
    assert (found.labels[1] == 1).all()
    assert (found.labels[0] == 1).all()
    assert (found.labels[[2, 4]] == 1).all()
    assert (case.status, case.reviewed, sorted(found.session.reviewed)) == ("in review", 1, [3])
    assert [run.checkpoint for run in found.session.runs] == ["organs", "other"]
    untouched = load_labels(project, project.cases()[1])
    assert (untouched.labels == 1).all()


def test_names_and_locks_of_a_person_stay_though_nothing_was_painted_yet(project, tmp_path):
    segment(project)
    named, locked, untouched = project.cases()
    with project.hold(named.id, "anna") as held:
        found = load_labels(project, named)
        found.label_set = LabelSet((*found.label_set, Label(9, "cyst", (1, 0, 0))))
        save_labels(held, found)
    with project.hold(locked.id, "anna") as held:
        found = load_labels(project, locked)
        found.session.locked = frozenset({1})
        save_labels(held, found)
    for number in range(2):  # also the time after the next
        bias = [0.0, 2.0, 1.0 + number / 2]
        path = other_checkpoint(tmp_path, {1: "spleen", 2: "liver"}, bias)
        assert states(segment(project, checkpoint=str(path))) == ["segmented"] * 3
        path.unlink()
        assert load_labels(project, project.index.get(named.id)).label_set.names[9] == "cyst"
        assert load_labels(project, project.index.get(locked.id)).session.locked == {1}
        assert 9 not in load_labels(project, project.index.get(untouched.id)).label_set.names


def test_a_checkpoint_with_other_numbers_keeps_those_of_labels_that_were_edited(project, tmp_path):
    segment(project)
    case = project.cases()[0]
    edit(project, case)
    path = other_checkpoint(tmp_path, {1: "liver", 2: "aorta", 3: "spleen"}, [0.0, 0.0, 2.0, 1.0])
    project.use_checkpoint(project.keep_checkpoint(str(path)))
    segment(project)
    found = load_labels(project, project.index.get(case.id))
    assert found.label_set.names == {1: "spleen", 2: "liver", 3: "aorta"}
    assert (found.labels[1, :3, :3] == 1).all()
    assert (found.labels[0] == 3).all()
    untouched = load_labels(project, project.cases()[1])
    assert (untouched.labels == 2).all()
    assert untouched.label_set.names == {1: "liver", 2: "aorta", 3: "spleen"}


def test_what_is_done_or_excluded_is_left_alone(project):
    segment(project)
    first, second, _ = project.cases()
    with project.hold(first.id) as held:
        held.update(status="done")
    project.exclude(second.id, "motion")
    assert len(tasks_due(project, options=CPU.changed(mirror_tta=True))) == 1


def test_only_wanted_organs_are_labelled(tmp_path, scans, checkpoint):
    project = Project.create(tmp_path / "study", checkpoint=str(checkpoint), organs=["Spleen"])
    project.add([scans / "case_0.nii.gz"])
    segment(project)
    case = project.cases()[0]
    assert case.volumes == {}
    assert case.uncertainty == 1.0  # nothing was found, which a person should see first
    assert load_labels(project, case).label_set.names == {1: "spleen"}


def test_an_organ_that_the_checkpoint_lacks_is_refused(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="finds no kidney; it finds spleen, liver"):
        Project.create(tmp_path / "study", checkpoint=str(checkpoint), organs=["kidney"])
    assert not (tmp_path / "study").exists()


def test_a_task_is_plain_and_another_process_can_do_it(project):
    tasks = pickle.loads(pickle.dumps(tasks_due(project, options=CPU)))
    assert isinstance(tasks[0], SegmentTask)
    assert segment_case(tasks[0]).state == "segmented"
    assert segment_case(tasks[0]).state == "skipped"


def test_a_case_keeps_the_checkpoint_that_was_chosen_for_it(project, tmp_path):
    first = project.cases()[0]
    path = other_checkpoint(tmp_path, {1: "spleen", 2: "liver"}, [0.0, 2.0, 1.0])
    assert states(segment(project, only=[first.id], checkpoint=str(path))) == ["segmented"]
    assert project.index.get(first.id).checkpoint == "other.safetensors"
    segment(project)
    assert [case.run.name for case in project.cases()] == ["other", "organs", "organs"]
    assert segment(project) == []


def test_what_speaks_against_a_checkpoint_or_the_options_is_told(project):
    assert not any("spoil" in outcome.sentence for outcome in segment(project))
    three = CPU.changed(orthogonal_planes=True)
    assert all("may spoil its labels" in one.sentence for one in segment_project(project, options=three))


def test_a_checkpoint_takes_the_place_of_no_other_one_of_its_name(project, tmp_path):
    segment(project)
    own = project.folder / "checkpoints" / "organs.safetensors"
    before = own.read_bytes()
    path = other_checkpoint(tmp_path, {1: "spleen", 2: "liver"}, [0.0, 2.0, 1.0])
    path = path.rename(tmp_path / "organs.safetensors")
    segment(project, checkpoint=str(path))
    assert own.read_bytes() == before
    assert {case.checkpoint for case in project.cases()} == {"organs-2.safetensors"}
    assert project.checkpoint_path("organs-2.safetensors").read_bytes() == path.read_bytes()
    assert project.keep_checkpoint(str(path)) == "organs-2.safetensors"  # the same one needs no other name
    assert project.keep_checkpoint(str(own)) == "organs.safetensors"
    path.with_suffix(".card.json").write_text("{}")  # another card makes another checkpoint of it
    assert project.keep_checkpoint(str(path)) == "organs-3.safetensors"
    assert (own.parent / "organs-3.card.json").read_text() == "{}"


def test_a_full_disk_ends_it_with_a_sentence_and_leaves_what_there_was(project, monkeypatch):
    segment(project, only=[project.cases()[0].id])
    before = load_labels(project, project.cases()[0]).labels.copy()

    def full(*_):
        raise OSError(28, "No space left on device")

    from napari_transunet.annotation import session_file

    monkeypatch.setattr(session_file, "atomic_path", full)
    with pytest.raises(ProjectWriteError, match="No space left"):
        segment(project)
    monkeypatch.undo()
    assert (load_labels(project, project.cases()[0]).labels == before).all()
    assert [case.status for case in project.cases()] == ["segmented", "new", "new"]
    assert states(segment(project)) == ["segmented"] * 2


def test_the_case_is_as_unsure_as_its_slices_where_something_is_expected(project):
    segment(project)
    found = load_labels(project, project.cases()[0])
    unsure = found.session.uncertainty
    unsure.means[:] = [0.1, 0.5, np.nan, 0.3, 0.0]
    unsure.expected_errors[:] = [0.2, 0.6, 0.9, 0.2, 0.0]
    assert uncertainty_of_case(found) == pytest.approx((0.02 + 0.3 + 0.06) / 1.0, abs=1e-3)


def test_classes_go_by_name_into_labels_that_have_names():
    net = TransUNet("testing", num_classes=4, img_size=32)
    card = default_card(net, labels={1: "liver", 2: "spleen", 3: "aorta"})
    assert values_of_classes(card, None, ())[0] is None
    values, names = values_of_classes(card, LabelSet.from_names({1: "Spleen", 3: "cyst"}), ())
    assert values == (0, 4, 1, 5)
    assert names.names == {1: "Spleen", 3: "cyst", 4: "liver", 5: "aorta"}
    values, names = values_of_classes(card, None, ["aorta"])
    assert (values, names.names) == ((0, 0, 0, 3), {3: "aorta"})
