"""What a session remembers, and how it finds edits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_transunet.annotation.session import AnnotationSession, RunRecord, now
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
    assert not session.would_lose_edits(labels)


def test_edits_are_found_where_they_are(written):
    session, labels = written
    labels[2, 1, 3] = 2
    labels[2, 1, 4] = 0
    assert session.edited_voxels(labels) == 2
    assert session.edited_voxels(labels, slices=[0, 1]) == 0
    assert session.edited_voxels(labels, axis=2, slices=[4]) == 1
    assert np.argwhere(session.edited_mask(labels)).tolist() == [[2, 1, 3], [2, 1, 4]]
    assert session.would_lose_edits(labels)
    assert session.would_lose_edits(labels, slices=[2])
    assert not session.would_lose_edits(labels, slices=[0, 1, 3])


def test_an_undone_run_leaves_nothing_to_lose(written):
    session, labels = written
    assert session.edited_voxels(np.zeros_like(labels)) == labels.size
    assert not session.would_lose_edits(np.zeros_like(labels))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_written_along_any_axis(axis):
    session = AnnotationSession(SHAPE, {1: "liver"})
    plane = np.arange(np.prod(SHAPE) // SHAPE[axis], dtype=np.uint8).reshape(np.delete(SHAPE, axis))
    session.write_slice(axis, 2, plane)
    assert np.array_equal(np.take(session.prediction, 2, axis=axis), plane)
    assert session.prediction.sum() == plane.sum()


def test_labels_of_another_volume_are_refused(written):
    session, labels = written
    for look in (session.edited_voxels, session.edited_mask, session.would_lose_edits):
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


def test_dates_carry_their_time_zone():
    assert now().endswith("+00:00")
