"""Several readers: blind, compared, joined, approved."""

import numpy as np
import pytest

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.project.agreement import (
    agreement,
    combined,
    consensus,
    give_to_readers,
    readings_of,
    reopen,
    sign_off,
)
from napari_transunet.project.case_labels import CaseLabels, load_labels, save_labels
from napari_transunet.project.segmenting import tasks_due
from napari_transunet.volumes.labels import Label, LabelSet

NAMES = {1: "spleen", 2: "liver"}


def put_labels(project, case, labels, who="anna"):
    """Labels in a case, as if a network had made them."""
    with project.hold(case.id, who) as held:
        session = AnnotationSession.of_labels(labels, NAMES)
        found = CaseLabels(labels, session, LabelSet.from_names(NAMES))
        return save_labels(held, found, shape=labels.shape, spacing=(2.5, 0.7, 0.8), status="segmented")


def boxes(shift=0):
    labels = np.zeros((5, 40, 36), np.uint8)
    labels[1:4, 5 + shift : 15 + shift, 5:15] = 1
    labels[1:4, 20:35, 5:30] = 2
    return labels


@pytest.fixture
def read(project):
    """A case that three readers have read, each with another spleen."""
    case = put_labels(project, project.cases()[0], boxes())
    readings = give_to_readers(project, case.id, ["anna", "ben", "cleo"])
    for reading, shift in zip(readings, (0, 2, 2), strict=True):
        with project.hold(reading.id, reading.reader) as held:
            found = load_labels(project, reading)
            found.labels[...] = boxes(shift)
            save_labels(held, found, status="in review")
    return project.index.get(case.id)


def test_a_reading_starts_from_the_same_labels_and_opens_for_its_reader_alone(project):
    case = put_labels(project, project.cases()[0], boxes())
    anna, ben = give_to_readers(project, case.id, ["anna", "ben"])
    assert (load_labels(project, anna).labels == boxes()).all()
    with pytest.raises(ValueError, match="read blind by ben; anna cannot open it"):
        project.hold(ben.id, "anna")
    project.hold(ben.id, "ben").release()
    with pytest.raises(ValueError, match="anna would read case_0 twice"):
        give_to_readers(project, case.id, ["anna"])
    with pytest.raises(ValueError, match="is a reading itself"):
        give_to_readers(project, ben.id, ["dora"])
    assert {task.case for task in tasks_due(project)}.isdisjoint({anna.id, ben.id})


def test_a_case_without_labels_is_given_to_nobody(project):
    with pytest.raises(ValueError, match="has no labels to start from"):
        give_to_readers(project, project.cases()[0].id, ["anna"])


def test_agreement_is_told_for_each_two_readers_and_organ(project, read):
    pairs = agreement(project, read)
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("anna", "ben"),
        ("anna", "cleo"),
        ("ben", "cleo"),
    ]
    first, _, same = pairs
    assert first.scores["spleen"]["dice"] == pytest.approx(0.8)
    assert first.scores["liver"]["dice"] == 1
    assert 0 < first.scores["spleen"]["nsd"] <= 1
    assert np.count_nonzero(first.map) == 3 * 10 * 4
    assert [at for at, _ in first.worst_slices] == [1, 2, 3]
    assert same.scores["spleen"]["dice"] == 1


def test_a_consensus_is_where_a_third_starts(project, read):
    case = consensus(project, read.id, "majority")
    found = load_labels(project, case)
    assert (found.labels == boxes(2)).all()
    assert case.run.source == "consensus"
    assert found.session.edited_voxels(found.labels) == 0
    assert found.session.uncertainty.expected_error()[0] == 0
    assert found.session.uncertainty.expected_error()[1] > 0
    assert case.id not in {task.case for task in tasks_due(project)}
    with project.hold(case.id, "dora") as held:
        found.labels[0, 0, 0] = 1
        save_labels(held, found, status="in review")
    with pytest.raises(ValueError, match="Somebody worked on case_0 itself"):
        consensus(project, case.id, "staple")


def _draw(project, reading, box, value, name):
    """A reader draws an organ of their own."""
    with project.hold(reading.id, reading.reader) as held:
        found = load_labels(project, reading)
        if value > 255:
            found.labels = found.labels.astype(np.uint16)
        found.labels[box] = value
        found.label_set = LabelSet((*found.label_set, Label(value, name, (1, 0, 0))))
        save_labels(held, found, status="in review")


def test_organs_that_readers_drew_are_compared_and_joined_by_name_whatever_their_numbers(project, read):
    anna, ben, cleo = readings_of(project, read)
    _draw(project, anna, np.s_[0, :5, :5], 3, "tumour")
    _draw(project, ben, np.s_[4, :5, :5], 3, "cyst")
    _draw(project, cleo, np.s_[4, :5, :6], 300, "Cyst")
    told = {(pair.first, pair.second): pair.scores for pair in agreement(project, read)}
    assert told["anna", "ben"]["cyst"]["dice"] == told["anna", "ben"]["tumour"]["dice"] == 0
    assert told["ben", "cleo"]["cyst"]["dice"] == pytest.approx(2 * 25 / 55)
    made = load_labels(project, consensus(project, read.id, "majority"))
    (cyst,) = (value for value, name in made.label_set.names.items() if name == "cyst")
    assert cyst not in (1, 2, 3)
    assert (made.labels[4, :5, :5] == cyst).all()
    assert not made.labels[0, :5, :5].any()  # one of three


def test_a_reading_that_nobody_looked_at_is_no_vote(project):
    case = put_labels(project, project.cases()[0], boxes())
    anna, ben, _ = give_to_readers(project, case.id, ["anna", "ben", "cleo"])
    with pytest.raises(ValueError, match=r"0 readings.*not read yet by anna, ben, cleo"):
        agreement(project, case)
    for reading in (anna, ben):
        with project.hold(reading.id, reading.reader) as held:
            held.update(status="done")
    assert [(pair.first, pair.second) for pair in agreement(project, case)] == [("anna", "ben")]


def test_majority_and_staple_agree_where_two_of_three_do():
    labels = [boxes(0), boxes(2), boxes(2)]
    assert (combined(labels, "majority") == boxes(2)).all()
    assert (combined(labels, "staple") == boxes(2)).all()


def test_a_vote_without_a_winner_is_background():
    first, second = np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8)
    first[0, 0, 0], second[0, 0, 0] = 1, 2
    assert combined([first, second], "majority").tolist() == [[[0, 0], [0, 0]]]


@pytest.mark.parametrize(
    ("labels", "method", "why"),
    [
        ([boxes()], "majority", "at least two"),
        ([boxes(), boxes()[1:]], "majority", "on one grid"),
        ([boxes(), boxes()], "vote", "by majority or staple"),
    ],
)
def test_a_consensus_that_cannot_be_is_refused(labels, method, why):
    with pytest.raises(ValueError, match=why):
        combined(labels, method)


def test_signing_off_is_kept_with_its_note_and_can_be_taken_back(project):
    case = put_labels(project, project.cases()[0], boxes())
    done = sign_off(project, case.id, " fine ", "cleo")
    assert (done.status, done.sign_off.by, done.sign_off.note) == ("done", "cleo", "fine")
    assert (reopen(project, case.id).status, project.index.get(case.id).sign_off) == ("segmented", None)
    with pytest.raises(ValueError, match="has no labels"):
        sign_off(project, project.cases()[1].id)
    with pytest.raises(ValueError, match="nothing to reopen"):
        reopen(project, case.id)
