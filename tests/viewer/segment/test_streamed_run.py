"""Labels that memory cannot hold, written into the image's OME-Zarr and shown from there."""

import logging
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("zarr")

from qtpy.QtWidgets import QCheckBox

from napari_transunet.io.reading import read_volume
from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.volumes.phantom import synthetic_ct
from tests.io.ome_zarr_samples import served, write_ome_zarr
from tests.viewer.segment.test_segment_dock import (  # noqa: F401
    SHAPE,
    _expected,
    checkpoints,
    dock,
    slow,
    viewer,
)

NAME = "scan, scan.ome.zarr/labels/three"


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An OME-Zarr of two resolutions, whose labels do not fit into the memory that is said to be there."""
    scan, _, _ = synthetic_ct(SHAPE, 0)
    monkeypatch.setattr("napari_transunet.io.ome_zarr.reading.available_memory", lambda: 100)
    monkeypatch.setattr("napari_transunet.viewer.segment.streamed_run.available_memory", lambda: 100)
    monkeypatch.setattr("napari_transunet.viewer.sessions.registry.available_memory", lambda: 100)
    monkeypatch.setattr("napari_transunet.io.ome_zarr.labels._SLAB", 2 * 48 * 56)
    return write_ome_zarr(tmp_path / "scan.ome.zarr", scan.data)


def expected(checkpoints, path):  # noqa: F811
    scan, _, _ = synthetic_ct(SHAPE, 0)
    return _expected(checkpoints, replace(read_volume(path, lazy=True), data=scan.data))


@pytest.fixture(autouse=True)
def two_at_a_time(dock):  # noqa: F811
    dock.widget.advanced._options["batch_size"].value = 2


def test_they_are_written_shown_and_gone_on_with(dock, slow, checkpoints, path):  # noqa: F811
    add_volume(dock.viewer, read_volume(path, lazy="large"))
    dock.viewer.dims.set_current_step(0, 1)
    dock.press("segment_volume")
    assert "as scan.ome.zarr/labels/three?" in dock.question
    dock.press("question_yes")
    dock.until(lambda: NAME in dock.viewer.layers)
    labels = dock.viewer.layers[NAME]
    assert not labels.editable
    dock.until(lambda: labels.data[1].any())  # what is written
    shown = labels.data[1]
    assert not labels.data[5:].any()  # what is not
    assert "cannot be painted" in dock.status
    dock.press("cancel")
    slow.release()
    dock.until(lambda: not dock.widget.running)
    assert "“Segment volume” goes on" in dock.status
    assert dock.progress.value() >= 2
    right = expected(checkpoints, path)
    assert np.array_equal(shown, right[1])
    done = dock.progress.value()
    assert done < SHAPE[0]

    dock.press("segment_volume")  # without a question
    assert dock.question is None
    dock.until(lambda: not dock.widget.running)
    assert dock.status.startswith(f"{SHAPE[0] - done} slices in ")
    assert labels not in dock.viewer.layers  # others are in its place
    labels = dock.viewer.layers[NAME]
    assert len(dock.viewer.layers) == 2
    assert not labels.editable
    assert np.array_equal(labels.data[0][:], right)
    assert len(labels.data) == 2  # as many resolutions as the image
    written = read_volume(path / "labels" / "three")
    assert np.array_equal(written.data, right)
    assert written.labels.names[1] == "liver"

    dock.viewer.layers.remove(labels)
    dock.press("segment_volume")
    assert "is there already" in dock.question
    dock.press("question_no")  # show it
    assert np.array_equal(dock.viewer.layers[NAME].data[0][:], right)
    dock.press("segment_volume")
    dock.press("question_yes")
    dock.until(lambda: not dock.widget.running)
    assert dock.status.startswith(f"{SHAPE[0]} slices in ")


@pytest.mark.long
def test_another_run_is_not_gone_on_with_unasked(dock, slow, checkpoints, path):  # noqa: F811
    add_volume(dock.viewer, read_volume(path, lazy="large"))
    dock.press("segment_volume")
    dock.press("question_yes")
    dock.until(lambda: NAME in dock.viewer.layers)
    dock.press("cancel")
    slow.release()
    dock.until(lambda: not dock.widget.running)
    dock.widget.findChild(QCheckBox, "mirror_tta").setChecked(True)
    dock.press("segment_volume")
    if dock.question:  # of the mirrored slices
        dock.press("question_yes")
    dock.until(lambda: not dock.widget.running)
    assert "other options" in dock.question
    dock.press("question_yes")
    dock.until(lambda: not dock.widget.running)
    assert dock.status.startswith(f"{SHAPE[0]} slices in ")


@pytest.mark.long
def test_why_they_cannot_be_written(dock, path, tmp_path, caplog):  # noqa: F811
    caplog.set_level(logging.CRITICAL)
    image = add_volume(dock.viewer, read_volume(path, lazy="large"))
    dock.press("segment_slice")
    assert "the whole volume alone" in dock.status
    (path / "labels").write_text("in the way of the group")
    dock.press("segment_volume")
    dock.press("question_yes")
    dock.until(lambda: not dock.widget.running)
    assert "Cannot write to" in dock.status
    assert "copy it to a folder" in dock.status
    dock.viewer.layers.remove(image)
    (path / "labels").unlink()
    with served(tmp_path) as address:
        add_volume(dock.viewer, read_volume(f"{address}/scan.ome.zarr", lazy="large"))
        dock.press("segment_volume")
        assert "For one in the web" in dock.status
