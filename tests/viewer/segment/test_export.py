"""*Export…*: names, grids, threads, and everything that must not be written over."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from napari.layers import Layer
from qtpy.QtWidgets import QFileDialog

from napari_transunet.annotation.provenance import RunRecord
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import ExistsError, FileProblem, VolumeError
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels, write_volume
from napari_transunet.viewer.layers.layers import geometry_of, labels_to_layer, volume_of, volume_to_layer
from napari_transunet.viewer.segment import export
from napari_transunet.viewer.segment.export import (
    FORMATS,
    ExportAction,
    complete_name,
    export_labels,
    propose_path,
    snapshot,
    write_snapshot,
)
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source, Volume
from tests.viewer.waiting import TIMEOUT

SHAPE = (4, 6, 8)
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = Geometry(
    SHAPE, (2.5, 0.7, 0.8), (-30.0, 40.0, -500.0), ((COS, -SIN, 0.0), (SIN, COS, 0.0), (0.0, 0.0, -1.0))
)
NAMES = LabelSet.from_names({1: "liver", 2: "spleen"})


@pytest.fixture
def image(tmp_path):
    volume = Volume(np.zeros(SHAPE, np.int16), OBLIQUE, "CT", Source(None, "test", "ct"))
    return Layer.create(*volume_to_layer(read_volume(write_volume(tmp_path / "ct.nii.gz", volume))))


@pytest.fixture
def labels(image):
    data = np.zeros(SHAPE, np.uint8)
    data[1, 2:4, 3:5], data[2, 1, 1] = 1, 2
    volume = volume_of(image)
    return Layer.create(*labels_to_layer(data, volume, NAMES, "ct labels"))


# No fixture: pytest would hold its value, and with it the window, longer than napari's check for leaks allows.
def action_in(viewer) -> ExportAction:
    return ExportAction(viewer.window._qt_window)


def test_export_lies_on_the_scans_exact_grid_and_says_where_it_comes_from(labels, image, tmp_path):
    session = AnnotationSession(SHAPE, NAMES.names)
    session.add_run(
        RunRecord("demo", "ab" * 32, "R50-ViT-Ti_16", "card", "cpu", "float32", "2026-01-01", 1.0, 4, 4)
    )
    path = export_labels(labels, tmp_path / "out.nii.gz", image=image, provenance=session.provenance)
    written = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), labels.data)
    np.testing.assert_allclose(written.GetOrigin(), OBLIQUE.origin, atol=1e-4)
    np.testing.assert_allclose(written.GetSpacing(), OBLIQUE.spacing[::-1], atol=1e-4)
    np.testing.assert_allclose(np.reshape(written.GetDirection(), (3, 3)), OBLIQUE.direction, atol=1e-4)
    described = json.loads((tmp_path / "out.json").read_text())
    assert described["provenance"]["sha256"] == "ab" * 32
    assert described["provenance"]["edited_voxels"] == int(np.count_nonzero(labels.data))
    assert {entry["name"] for entry in described["labels"]} == {"liver", "spleen"}


def test_labels_painted_after_the_snapshot_are_not_in_the_file(labels, tmp_path):
    taken = snapshot(labels)
    labels.data[:] = 2
    path, _ = write_snapshot(taken, tmp_path / "out.nii.gz")
    assert np.count_nonzero(read_volume(path).data == 2) == 1


def test_existing_file_stays_unless_replacing_was_asked_for(labels, tmp_path):
    target = tmp_path / "out.nii.gz"
    target.write_bytes(b"precious")
    with pytest.raises(ExistsError):
        export_labels(labels, target)
    assert target.read_bytes() == b"precious"
    export_labels(labels, target, overwrite=True)
    assert read_volume(target).data.shape == SHAPE


def test_the_scan_is_never_written_over_even_when_asked(labels, tmp_path):
    before = (tmp_path / "ct.nii.gz").read_bytes()
    (tmp_path / "alias.nii.gz").symlink_to(tmp_path / "ct.nii.gz")
    for name in ("ct.nii.gz", "alias.nii.gz"):
        with pytest.raises(FileProblem, match="scan itself"):
            export_labels(labels, tmp_path / name, overwrite=True)
    assert (tmp_path / "ct.nii.gz").read_bytes() == before


def test_label_file_that_was_opened_and_corrected_may_be_saved_over_itself(labels, tmp_path):
    path = write_labels(tmp_path / "organs.nii.gz", labels.data, OBLIQUE, NAMES)
    opened = Layer.create(*volume_to_layer(read_volume(path)))
    opened.data[0, 0, 0] = 2
    export_labels(opened, path, overwrite=True)
    assert read_volume(path).data[0, 0, 0] == 2
    assert propose_path(opened).name == "organs_2.nii.gz"


def test_labels_whose_image_changed_are_refused_and_say_why(labels, image):
    image.data = image.data[1:]
    with pytest.raises(VolumeError, match="3 × 6 × 8"):
        snapshot(labels, image=image)


def test_labels_whose_image_is_gone_are_still_exported_on_its_grid(labels, tmp_path):
    path = export_labels(labels, tmp_path / "out.nrrd", image=None)
    assert read_volume(path).geometry.matches(OBLIQUE)


def test_labels_made_with_naparis_own_button_take_the_grid_of_the_image_below(
    make_napari_viewer, image, tmp_path
):
    viewer = make_napari_viewer()
    viewer.add_layer(image)
    viewer._new_labels()
    (painted,) = (layer for layer in viewer.layers if layer is not image)
    painted.data[1] = 1
    path = export_labels(painted, tmp_path / "out.nii.gz", image=image)
    assert read_volume(path).geometry.matches(OBLIQUE)
    assert not geometry_of(painted).matches(OBLIQUE)  # what is displayed has lost the rotation


def test_proposed_name_lies_beside_the_scan_and_is_free(labels, tmp_path):
    assert propose_path(labels) == tmp_path / "ct_labels.nii.gz"
    (tmp_path / "ct_labels.nii.gz").touch()
    assert propose_path(labels) == tmp_path / "ct_labels_2.nii.gz"
    (tmp_path / "ct_labels_2.json").touch()
    assert propose_path(labels, suffix=".seg.nrrd") == tmp_path / "ct_labels.seg.nrrd"
    assert propose_path(labels) == tmp_path / "ct_labels_3.nii.gz"


def test_dicom_labels_are_proposed_beside_the_folder_not_in_it(tmp_path):
    folder = tmp_path / "IM.1.2.840"
    folder.mkdir()
    volume = Volume(np.zeros(SHAPE, np.int16), OBLIQUE, "CT", Source(folder, "DICOM series", "ct"))
    layer = Layer.create(*labels_to_layer(np.zeros(SHAPE, np.uint8), volume, NAMES, "l"))
    assert propose_path(layer) == tmp_path / "IM.1.2.840_labels.nii.gz"


def test_unwritable_folder_is_not_proposed(labels, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(export.os, "access", lambda *_: False)
    monkeypatch.setattr(export.Path, "home", lambda: home)
    assert propose_path(labels) == home / "ct_labels.nii.gz"


@pytest.mark.parametrize(
    ("typed", "written", "confirmed"),
    [
        ("a.nii.gz", "a.nii.gz", True),
        ("a.NRRD", "a.NRRD", True),
        ("a", "a.seg.nrrd", False),
        ("patient.1", "patient.1.seg.nrrd", False),
    ],
)
def test_name_without_a_suffix_gets_one_and_is_not_confirmed(tmp_path, typed, written, confirmed):
    assert complete_name(tmp_path / typed, ".seg.nrrd") == (tmp_path / written, confirmed)


def test_action_writes_off_the_gui_thread(make_napari_viewer, labels, image, tmp_path, qtbot):
    action = action_in(make_napari_viewer())
    threads = []

    def provenance(array):
        threads.append(threading.get_ident())
        return {"voxels": int(array.sum())}

    with qtbot.waitSignal(action.exported, timeout=TIMEOUT) as caught:
        action.save(labels, tmp_path / "out.mha", image=image, provenance=provenance)
    assert caught.args[0] == str(tmp_path / "out.mha")
    assert "out.json" in caught.args[1]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
    assert json.loads((tmp_path / "out.json").read_text())["provenance"]["voxels"] == int(labels.data.sum())
    assert not action.busy


def test_second_export_while_one_is_written_is_refused_in_words(make_napari_viewer, labels, tmp_path, qtbot):
    action = action_in(make_napari_viewer())
    with qtbot.waitSignal(action.exported, timeout=TIMEOUT):
        action.save(labels, tmp_path / "one.nii.gz")
        with qtbot.waitSignal(action.failed, timeout=TIMEOUT) as caught:
            action.save(labels, tmp_path / "two.nii.gz")
    assert "still being written" in caught.args[0]
    assert not (tmp_path / "two.nii.gz").exists()


def test_failures_are_sentences(make_napari_viewer, labels, image, tmp_path, qtbot):
    action = action_in(make_napari_viewer())
    with qtbot.waitSignal(action.failed, timeout=TIMEOUT) as caught:
        action.save(labels, tmp_path / "no such folder" / "out.nii.gz")
    assert "no such folder" in caught.args[0]
    with qtbot.waitSignal(action.failed, timeout=TIMEOUT) as caught:
        action.save(labels, tmp_path / "out.png")
    assert "out.png" in caught.args[0]
    image.data = image.data[1:]
    with qtbot.waitSignal(action.failed, timeout=TIMEOUT) as caught:
        action.save(labels, tmp_path / "out.nii.gz", image=image)
    assert "no longer fits" in caught.args[0]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root may write to")
def test_read_only_folder_is_a_sentence(make_napari_viewer, labels, qtbot):
    action = action_in(make_napari_viewer())
    with qtbot.waitSignal(action.failed, timeout=TIMEOUT) as caught:
        action.save(labels, "/proc/out.nii.gz")
    assert caught.args[0].startswith("Cannot write to /proc")


def test_full_disk_is_a_sentence(make_napari_viewer, labels, tmp_path, qtbot, monkeypatch):
    action = action_in(make_napari_viewer())

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_snapshot", full)
    with qtbot.waitSignal(action.failed, timeout=TIMEOUT) as caught:
        action.save(labels, tmp_path / "out.nii.gz")
    assert caught.args[0] == "The labels could not be written: No space left on device."


def test_dialog_proposes_the_preferred_format_and_its_answer_is_written(
    make_napari_viewer, labels, image, tmp_path, qtbot, monkeypatch
):
    action = action_in(make_napari_viewer())
    asked = []

    def answer(parent, title, proposal, filters):
        asked.append((proposal, filters))
        return str(tmp_path / "chosen"), FORMATS[".seg.nrrd"]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    with qtbot.waitSignal(action.exported, timeout=TIMEOUT):
        action.ask(labels, image=image)
    ((proposal, filters),) = asked
    assert proposal == str(tmp_path / "ct_labels.nii.gz")
    assert filters.split(";;")[0] == FORMATS[".nii.gz"]
    assert read_volume(tmp_path / "chosen.seg.nrrd").labels.names == NAMES.names


def test_dialog_that_is_cancelled_writes_nothing(make_napari_viewer, labels, tmp_path, qtbot, monkeypatch):
    action = action_in(make_napari_viewer())
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("", ""))
    action.ask(labels)
    qtbot.wait(50)
    assert sorted(tmp_path.iterdir()) == before
    assert not action.busy


def test_window_closed_while_writing_still_gets_its_file(make_napari_viewer, labels, tmp_path, monkeypatch):
    write = export.write_snapshot
    entered, leave, written = threading.Event(), threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        entered.set()
        leave.wait(60)
        try:
            return write(*args, **kwargs)
        finally:
            written.set()

    monkeypatch.setattr(export, "write_snapshot", slow)
    viewer = make_napari_viewer()
    action_in(viewer).save(labels, tmp_path / "out.nii.gz")
    assert entered.wait(60)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "export")
    assert not thread.daemon  # the interpreter waits for it
    viewer.close()
    leave.set()
    assert written.wait(60)
    thread.join(10)
    assert read_volume(tmp_path / "out.nii.gz").data.shape == SHAPE
