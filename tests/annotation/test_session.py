"""What a session remembers, and how it finds edits."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_transunet.annotation.provenance import RunRecord, now
from napari_transunet.annotation.session import AnnotationSession, Write
from napari_transunet.errors import InputError

SHAPE = (4, 5, 6)
RECORD = RunRecord(
    checkpoint="abdomen",
    sha256="ab" * 32,
    variant="R50-ViT-Ti_16",
    pipeline="card",
    device="cpu",
    precision="float32",
    date="2024-05-01T10:00:00+00:00",
    seconds=1.5,
    slices=4,
    total=4,
)


@pytest.fixture
def written() -> tuple[AnnotationSession, np.ndarray]:
    """A session whose every slice along axis 0 was predicted as label 1, and the labels that show it."""
    session = AnnotationSession(SHAPE, {1: "liver", 2: "spleen"})
    for index in range(SHAPE[0]):
        session.write_slice(0, index, np.ones(SHAPE[1:], np.uint8))
    return session, session.prediction.copy()


def test_labels_as_written_hold_no_edits(written):
    session, labels = written
    assert session.edited_voxels(labels) == 0
    assert not session.edited_mask(labels).any()


def test_edits_are_found_where_they_are(written):
    session, labels = written
    labels[2, 1, 3] = 2
    labels[2, 1, 4] = 0
    assert session.edited_voxels(labels) == 2
    assert session.edited_per_slice(labels)[:2].tolist() == [0, 0]
    assert session.edited_per_slice(labels, axis=2)[4] == 1
    assert np.argwhere(session.edited_mask(labels)).tolist() == [[2, 1, 3], [2, 1, 4]]
    assert session.edited_per_slice(labels).tolist() == [0, 0, 2, 0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_written_along_any_axis(axis):
    session = AnnotationSession(SHAPE, {1: "liver"})
    plane = np.arange(np.prod(SHAPE) // SHAPE[axis], dtype=np.uint8).reshape(np.delete(SHAPE, axis))
    session.write_slice(axis, 2, plane)
    assert np.array_equal(np.take(session.prediction, 2, axis=axis), plane)
    assert session.prediction.sum() == plane.sum()


def test_labels_of_another_volume_are_refused(written):
    session, labels = written
    for look in (session.edited_voxels, session.edited_mask, session.manual_edit_mask, session.conflicts):
        with pytest.raises(InputError, match=r"shape \(3, 5, 6\)"):
            look(labels[:3])


def test_a_session_needs_three_axes():
    with pytest.raises(InputError, match="volume"):
        AnnotationSession((4, 5), {})


def test_provenance_names_the_last_run_and_counts_the_edits(written):
    session, labels = written
    assert session.provenance() == {"runs": []}
    session.add_run(replace(RECORD, checkpoint="first", slices=2))
    session.add_run(RECORD)
    labels[0, 0, 0] = 2
    found = session.provenance(labels)
    assert found["checkpoint"] == "abdomen"
    assert found["sha256"] == RECORD.sha256
    assert found["variant"] == "R50-ViT-Ti_16"
    assert found["edited_voxels"] == 1
    assert [run["checkpoint"] for run in found["runs"]] == ["first", "abdomen"]
    assert [run.complete for run in session.runs] == [False, True]
    assert json.loads(json.dumps(found)) == found


def test_provenance_says_along_which_axis_reviewed_slices_and_notes_count(written):
    for act in (lambda one: one.mark_reviewed(1), lambda one: one.note(1, "tip")):
        session = AnnotationSession.restored(written[0].arrays(), written[0].state())
        session.axis = 2
        act(session)
        assert session.provenance()["reviewed_axis"] == 2


def test_what_labels_covered_is_told_and_saved_with_them(written):
    session, labels = written
    assert "coverage" not in session.provenance(labels)
    session.coverage = "They covered 2 of 4 slices."
    again = AnnotationSession.restored(session.arrays(), json.loads(json.dumps(session.state())))
    for one in (session, again):
        assert one.provenance(labels)["coverage"] == "They covered 2 of 4 slices."
    earlier = {key: value for key, value in session.state().items() if key != "coverage"}
    assert "coverage" not in AnnotationSession.restored(session.arrays(), earlier).provenance()


def test_dates_carry_their_time_zone():
    assert now().endswith("+00:00")


def test_a_new_run_leaves_edits_alone_and_says_where_it_disagrees(written):
    session, labels = written
    labels[1, 0, :3] = 2  # spleen instead of liver
    labels[2, 0, 0] = 0  # painted back to background
    step = session.begin()
    for index in range(SHAPE[0]):
        plane = np.full(SHAPE[1:], 3 if index != 1 else 2, np.uint8)
        labels[index] = session.merge_slice(step, 0, index, plane, labels)
    assert labels[1, 0, :3].tolist() == [2, 2, 2]
    assert labels[2, 0, 0] == 0
    assert np.count_nonzero(labels == 3) == 3 * 30 - 1
    # In slice 1 the new prediction agrees with the edit by chance; it stays an edit and is no conflict.
    assert session.conflicts(labels) == step.conflicts == {2: 1}
    assert session.edited_per_slice(labels).tolist() == [0, 3, 1, 0]
    third = session.begin()
    labels[1] = session.merge_slice(third, 0, 1, np.full(SHAPE[1:], 7, np.uint8), labels)
    assert labels[1, 0, :3].tolist() == [2, 2, 2]


def test_edits_are_given_up_slice_by_slice_and_come_back(written):
    session, labels = written
    labels[1, 0, 0] = labels[2, 0, 0] = labels[2, 1, 1] = 2
    step = session.begin()
    for index in range(SHAPE[0]):
        labels[index] = session.merge_slice(step, 0, index, np.full(SHAPE[1:], 3, np.uint8), labels)
    labels[2, 4, 4] = 2  # edited since: no conflict with a run that came before
    assert session.conflicts(labels) == {1: 1, 2: 2}
    writes, taken = session.accept_prediction(labels, slices=[2])
    for write in writes:
        labels[write.index] = write.after
    assert session.conflicts(labels) == {1: 1}
    assert labels[2, 0, 0] == labels[2, 1, 1] == 3
    assert labels[2, 4, 4] == 2
    assert session.edited_per_slice(labels).tolist() == [0, 1, 1, 0]
    for write in writes:
        labels[write.index] = write.before
    taken.undo()
    assert session.conflicts(labels) == {1: 1, 2: 2}
    taken.undo()  # twice changes nothing
    assert session.conflicts(labels) == {1: 1, 2: 2}


def test_what_a_tool_did_is_not_by_hand_but_no_run_takes_it(written):
    session, labels = written
    labels[0, 0, 0] = 2
    box = (slice(1, 2), slice(0, 2), slice(0, 2))
    write = Write(box, labels[box].copy(), np.zeros((1, 2, 2), np.uint8))
    step = session.record_correction([write])
    labels[box] = write.after
    assert session.manual_edit_mask(labels).sum() == 1
    assert session.edited_mask(labels).sum() == 5
    run = session.begin()
    for index in range(SHAPE[0]):
        labels[index] = session.merge_slice(run, 0, index, np.zeros(SHAPE[1:], np.uint8), labels)
    assert session.edited_mask(labels).sum() == 5
    assert session.manual_edit_mask(labels).sum() == 1
    labels[1, 0, 0] = 2
    assert session.manual_edit_mask(labels).sum() == 2
    labels[1, 0, 0] = 0
    run.undo()
    labels[...] = 1
    labels[0, 0, 0] = 2
    step.undo()
    assert session.edited_mask(labels).sum() == 1
    assert np.array_equal(session.unedited_labels, session.prediction)


def test_a_locked_organ_neither_loses_nor_gains_by_a_run(written):
    session, labels = written
    labels[:, :, 3:] = session.prediction[:, :, 3:] = 2
    session.locked = frozenset({2})
    step = session.begin()
    plane = np.tile(np.array([2, 1, 0, 0, 2, 1], np.uint8), (5, 1))
    labels[0] = session.merge_slice(step, 0, 0, plane, labels)
    assert (labels[0] == [1, 1, 0, 2, 2, 2]).all()
    assert not session.manual_edit_mask(labels).any()
    session.locked = frozenset()
    labels[0] = session.merge_slice(step, 0, 0, np.zeros_like(plane), labels)
    assert (labels[0] == [1, 0, 0, 2, 0, 2]).all()


def test_a_locked_organ_neither_loses_nor_gains_where_edits_are_given_up(written):
    session, labels = written
    labels[0, 0, :4] = 1, 2, 1, 0
    labels[0] = session.merge_slice(session.begin(), 0, 0, np.full((5, 6), 3, np.uint8), labels)
    session.locked = frozenset({2})
    writes, _ = session.accept_prediction(labels)
    for write in writes:
        labels[write.index] = write.after
    assert labels[0, 0, :4].tolist() == [3, 2, 3, 3]
    assert session.conflicts(labels) == {0: 1}
    session.locked = frozenset({3})
    assert session.accept_prediction(labels)[0] == []


def test_a_slice_that_a_run_changes_has_to_be_reviewed_again(written):
    session, labels = written
    session.mark_reviewed(1)
    session.mark_reviewed(2)
    step = session.begin()
    labels[1] = session.merge_slice(step, 0, 1, np.full(SHAPE[1:], 2, np.uint8), labels)
    session.merge_slice(step, 0, 2, np.ones(SHAPE[1:], np.uint8), labels)
    assert set(session.reviewed) == {2}
    assert step.reopened == (1,)
    step.undo()
    assert set(session.reviewed) == {1, 2}
    step.redo()
    assert set(session.reviewed) == {2}
    session.mark_reviewed(2, False)
    assert not session.reviewed
    with pytest.raises(InputError, match="slices are 0 to 3"):
        session.mark_reviewed(4)


def test_what_a_run_finds_in_a_reviewed_slice_is_known_and_changes_nothing_there(written):
    session, labels = written
    session.mark_reviewed(1)
    assert session.found is session.prediction
    first, second = (np.full(SHAPE[1:], value, np.uint8) for value in (2, 3))
    step = session.begin()
    for index in (0, 1):
        labels[index] = session.merge_slice(step, 0, index, first, labels, keep_reviewed=True)
    assert session.prediction[:, 0, 0].tolist() == labels[:, 0, 0].tolist() == [2, 1, 1, 1]
    assert session.found[:, 0, 0].tolist() == [2, 2, 1, 1]
    assert session.edited_voxels(labels) == 0
    assert 1 in session.reviewed
    again = AnnotationSession.restored(session.arrays(), session.state())
    assert np.array_equal(again.found, session.found)
    later = session.begin()
    labels[1] = session.merge_slice(later, 0, 1, second, labels, keep_reviewed=True)
    labels[2] = session.merge_slice(later, 0, 2, second, labels)
    assert session.found[:, 0, 0].tolist() == [2, 3, 3, 1]
    later.undo()
    assert session.found[:, 0, 0].tolist() == [2, 2, 1, 1]
    step.undo()
    assert (session.found == 1).all()
    step.redo()
    assert session.found[:, 0, 0].tolist() == [2, 2, 1, 1]
    session.write_slice(0, 1, second)
    assert session.found[:, 0, 0].tolist() == [2, 3, 1, 1]


def test_to_interpolation_what_other_tools_made_was_found_so(written):
    session, labels = written
    box = (slice(1, 2), slice(0, 2), slice(0, 2))

    def tool(value, **how):
        write = Write(box, labels[box].copy(), np.full((1, 2, 2), value, np.uint8))
        labels[box] = write.after
        return session.record_correction([write], **how)

    step = tool(0)
    assert not session.found[box].any()
    step.undo()
    assert (session.found == 1).all()
    step.redo()
    tool(2, interpolated=True)
    assert not session.found[box].any()
    labels[box] = 0
    run = session.begin()
    labels[1] = session.merge_slice(run, 0, 1, np.full(SHAPE[1:], 3, np.uint8), labels)
    assert not session.found[box].any()  # the edit stayed, so that this is what is there
    assert (session.found[1, 2:] == 3).all()
    given_up, _ = session.accept_prediction(labels)
    assert given_up
    assert (session.found[1] == 3).all()


def test_a_run_that_is_undone_leaves_the_history(written):
    session, _ = written
    step = session.begin()
    session.add_run(RECORD, step)
    step.undo()
    assert session.runs == ()
    step.redo()
    assert session.runs == (RECORD,)


def test_labels_of_others_count_as_untouched():
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    session = AnnotationSession.of_labels(labels, {1: "liver"})
    assert session.edited_voxels(labels) == 0
    labels[0, 0, 0] = 5
    assert session.edited_voxels(labels) == 1


def test_a_session_comes_back_as_it_was_saved(written):
    session, labels = written
    labels[0, 0, 0] = 2
    step = session.begin()
    labels[0] = session.merge_slice(step, 0, 0, np.full(SHAPE[1:], 3, np.uint8), labels)
    session.add_run(RECORD, step)
    session.mark_reviewed(3)
    session.note(3, " the tip of the spleen ")
    session.cards["ab"] = {"title": "Abdomen"}
    state = json.loads(json.dumps(session.state()))
    arrays = {name: array.copy() for name, array in session.arrays().items()}
    again = AnnotationSession.restored(arrays, state)
    assert again.state() == session.state()
    assert again.notes == {3: "the tip of the spleen"}
    assert again.conflicts(labels) == session.conflicts(labels) == {0: 1}
    assert again.provenance(labels) == session.provenance(labels)


def test_what_is_no_session_is_refused():
    with pytest.raises(InputError, match="not restored"):
        AnnotationSession.restored({"prediction": np.zeros(SHAPE, np.uint8)}, {"names": []})
    session = AnnotationSession(SHAPE, {})
    for changes in ({"axis": math.inf}, {"locked": [math.inf]}, {"uncertainty": {"axis": math.inf}}):
        with pytest.raises(InputError, match="understood"):
            AnnotationSession.restored({"prediction": session.prediction}, session.state() | changes)
    with pytest.raises(InputError, match="do not fit"):
        AnnotationSession.restored(
            {"prediction": session.prediction, "flags": np.zeros((1, 1, 1), np.uint8)}, session.state()
        )


class Bench:
    """A layer with its undo, without napari, and a naive record of which voxels belong to a person."""

    def __init__(self) -> None:
        self.session = AnnotationSession(SHAPE, {1: "liver"})
        self.labels = np.zeros(SHAPE, np.uint8)
        self.theirs = np.zeros(SHAPE, bool)
        self.done: list = []
        self.undone: list = []

    def _do(self, writes, step, theirs):
        for write in writes:
            self.labels[write.index] = write.after
        self.done.append((writes, step, self.theirs, theirs))
        self.undone.clear()
        self.theirs = theirs

    def paint(self, box, value):
        before = self.labels[box].copy()
        after = np.full_like(before, value)
        theirs = self.theirs.copy()
        # Painting a voxel back to what the unedited labels have there, with no run between, is no edit.
        settled = self.session.unedited_labels[box] == after
        theirs[box] = np.where(before == after, theirs[box], ~settled | self.stuck(box))
        self._do([Write(box, before, after)], None, theirs)

    def stuck(self, box):
        flags = self.session._flags
        return np.zeros(self.labels[box].shape, bool) if flags is None else flags[box] != 0

    def run(self, axis, planes):
        step, writes = self.session.begin(), []
        before = self.labels.copy()
        for index, plane in planes.items():
            merged = self.session.merge_slice(step, axis, index, plane, self.labels)
            at = [slice(None)] * 3
            at[axis] = slice(index, index + 1)
            writes.append(Write(tuple(at), self.labels[tuple(at)].copy(), np.expand_dims(merged, axis)))
        self._do(writes, step, self.theirs)
        assert np.array_equal(before[self.theirs], self.labels[self.theirs])

    def undo(self):
        if self.done:
            writes, step, before, after = self.done.pop()
            for write in reversed(writes):
                self.labels[write.index] = write.before
            if step is not None:
                step.undo()
            self.undone.append((writes, step, before, after))
            self.theirs = before

    def redo(self):
        if self.undone:
            writes, step, before, after = self.undone.pop()
            for write in writes:
                self.labels[write.index] = write.after
            if step is not None:
                step.redo()
            self.done.append((writes, step, before, after))
            self.theirs = after


@st.composite
def _boxes(draw):
    box = []
    for size in SHAPE:
        start = draw(st.integers(0, size - 1))
        box.append(slice(start, draw(st.integers(start + 1, size))))
    return tuple(box)


@settings(max_examples=60)
@given(st.data())
def test_no_run_changes_an_edit_and_undo_and_redo_in_any_order_end_alike(data):
    bench = Bench()
    for _ in range(data.draw(st.integers(1, 12))):
        what = data.draw(st.sampled_from(["paint", "paint", "run", "run", "undo", "redo"]))
        if what == "paint":
            bench.paint(data.draw(_boxes()), data.draw(st.integers(0, 3)))
        elif what == "run":
            axis = data.draw(st.integers(0, 2))
            rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
            indices = data.draw(st.sets(st.integers(0, SHAPE[axis] - 1), min_size=1))
            shape = tuple(np.delete(SHAPE, axis))
            bench.run(axis, {index: rng.integers(0, 4, shape, dtype=np.uint8) for index in sorted(indices)})
        elif what == "undo":
            bench.undo()
        else:
            bench.redo()
        edited = bench.session.edited_mask(bench.labels)
        assert np.array_equal(edited, bench.theirs)
    end, prediction = bench.labels.copy(), bench.session.prediction.copy()
    edited = bench.session.edited_mask(end)
    steps = len(bench.done)
    while bench.done:
        bench.undo()
    assert not bench.labels.any()
    assert not bench.session.edited_mask(bench.labels).any()
    for _ in range(steps):
        bench.redo()
    assert np.array_equal(bench.labels, end)
    assert np.array_equal(bench.session.prediction, prediction)
    assert np.array_equal(bench.session.edited_mask(bench.labels), edited)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_whatever_but_the_brush_changes_a_reviewed_slice_takes_its_mark_away(axis):
    session = AnnotationSession((4, 5, 6), {1: "liver"})
    labels = np.zeros((4, 5, 6), np.uint8)
    session.axis = axis
    for index in range(session.shape[axis]):
        session.mark_reviewed(index)
    plane = np.zeros((4, 6), np.uint8)
    plane[1, 2] = 1  # a run along y
    step = session.begin()
    labels[:, 3] = session.merge_slice(step, 1, 3, plane, labels)
    changed = (1, 3, 2)[axis]
    assert step.reopened == (changed,)
    assert changed not in session.reviewed
    step.undo()
    assert changed in session.reviewed
    step.redo()

    before = labels[2:4, 1:3, 4:6].copy()
    write = Write((slice(2, 4), slice(1, 3), slice(4, 6)), before, np.where(np.eye(2)[None] > 0, 1, before))
    tool = session.record_correction([write])
    assert tool.reopened == tuple(range((2, 1, 4)[axis], (4, 3, 6)[axis]))
    tool.undo()
    assert set(session.reviewed) == set(range(session.shape[axis])) - {changed}


@settings(max_examples=60)
@given(st.data())
def test_a_reviewed_slice_is_what_was_approved_whatever_is_undone_and_done_again(data):
    session = AnnotationSession(SHAPE, {1: "liver"})
    session.axis = data.draw(st.integers(0, 2))
    labels = np.zeros(SHAPE, np.uint8)
    done, undone, approved = [], [], {}

    def put(writes, step):
        for write in writes:
            labels[write.index] = write.after
        done.append((writes, step))
        undone.clear()

    def cross(taken, other, *, back):
        if taken:
            writes, step = taken.pop()
            for write in reversed(writes) if back else writes:
                labels[write.index] = write.before if back else write.after
            lost = set(session.reviewed)
            reopened = step.undo() if back else step.redo()
            assert set(reopened) == lost - set(session.reviewed)
            other.append((writes, step))

    for _ in range(data.draw(st.integers(1, 14))):
        what = data.draw(st.sampled_from(["tool", "run", "mark", "mark", "unmark", "undo", "redo"]))
        if what == "tool":
            box = data.draw(_boxes())
            write = Write(box, labels[box].copy(), np.full_like(labels[box], data.draw(st.integers(0, 3))))
            put([write], session.record_correction([write]))
        elif what == "run":
            axis = data.draw(st.integers(0, 2))
            index = data.draw(st.integers(0, SHAPE[axis] - 1))
            plane = np.full(np.delete(SHAPE, axis), data.draw(st.integers(0, 3)), np.uint8)
            step = session.begin()
            merged = session.merge_slice(step, axis, index, plane, labels)
            box = tuple(slice(index, index + 1) if at == axis else slice(0, n) for at, n in enumerate(SHAPE))
            put([Write(box, labels[box].copy(), np.expand_dims(merged, axis))], step)
        elif what in ("mark", "unmark"):
            index = data.draw(st.integers(0, SHAPE[session.axis] - 1))
            session.mark_reviewed(index, what == "mark")
            approved.setdefault(index, []).append(np.take(labels, index, session.axis).copy())
        elif what == "undo":
            cross(done, undone, back=True)
        else:
            cross(undone, done, back=False)
        for index in session.reviewed:
            present = np.take(labels, index, session.axis)
            assert any(np.array_equal(present, was) for was in approved[index])
        marks = dict(session.reviewed)
        for _ in range(min(2, len(done))):
            cross(done, undone, back=True)
            cross(undone, done, back=False)
        assert session.reviewed == marks


@settings(max_examples=60)
@given(st.data())
def test_what_is_told_of_a_moment_is_what_it_was_whatever_changes_after_it(data):
    bench = Bench()
    asked = []
    for number in range(data.draw(st.integers(2, 14))):
        what = data.draw(st.sampled_from(["ask", "paint", "tool", "run", "undo", "redo", "mark"]))
        if what == "ask" or number == 0:
            labels = bench.labels.copy()
            asked.append((bench.session.moment(), labels, bench.session.provenance(labels)))
        elif what == "paint":
            bench.paint(data.draw(_boxes()), data.draw(st.integers(0, 3)))
        elif what == "tool":
            box = data.draw(_boxes())
            after = np.full_like(bench.labels[box], data.draw(st.integers(0, 3)))
            write = Write(box, bench.labels[box].copy(), after)
            bench._do([write], bench.session.record_correction([write]), bench.theirs)
        elif what == "run":
            bench.theirs = np.zeros(SHAPE, bool)  # what a tool made is not recorded there
            axis = data.draw(st.integers(0, 2))
            rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
            shape = tuple(np.delete(SHAPE, axis))
            indices = data.draw(st.sets(st.integers(0, SHAPE[axis] - 1), min_size=1))
            bench.run(axis, {index: rng.integers(0, 4, shape, dtype=np.uint8) for index in sorted(indices)})
        elif what == "undo":
            bench.undo()
        elif what == "redo":
            bench.redo()
        else:
            bench.session.mark_reviewed(data.draw(st.integers(0, SHAPE[0] - 1)))
            bench.session.note(1, str(number))
    for moment, labels, told in asked:
        assert moment.provenance(labels) == told
