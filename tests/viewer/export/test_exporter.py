"""*Export…*: names, grids, threads, and everything that must not be written over."""

import gc
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from napari.layers import Layer
from napari.utils.colormaps import DirectLabelColormap, label_colormap
from qtpy.QtWidgets import QCheckBox, QComboBox, QProgressBar, QPushButton

from napari_transunet.annotation.provenance import RunRecord
from napari_transunet.annotation.session import AnnotationSession, SessionMoment, Write
from napari_transunet.errors import ExistsError, FileProblem, VolumeError
from napari_transunet.export.writing import ExportRequest, request_for
from napari_transunet.io.dicom.referenced_series import made_by
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels, write_volume
from napari_transunet.viewer.export import exporter
from napari_transunet.viewer.export import snapshot as snapshots
from napari_transunet.viewer.export.exporter import exporter_of
from napari_transunet.viewer.export.snapshot import propose_path, snapshot, write_snapshot
from napari_transunet.viewer.layers.layers import geometry_of, labels_to_layer, volume_of, volume_to_layer
from napari_transunet.viewer.layers.visibility import shown_colormap
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.preferences import Preferences
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet
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


def export_labels(layer, path, *, image=None, provenance=None, overwrite=False):
    """Write a labels layer now, in this thread."""
    taken = snapshot(layer, image=image, provenance=provenance)
    return write_snapshot(taken, request_for(path, overwrite=overwrite))[0]


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


@pytest.mark.parametrize("cycle", [True, False])
def test_colors_in_files_are_those_that_the_window_shows(labels, image, tmp_path, cycle):
    labels.data[3, 4, 5] = 9  # of no name
    if cycle:
        labels.colormap = label_colormap(7, seed=0.3)
    else:
        picked = {
            None: np.ones(4),
            0: np.zeros(4),
            2: np.array([0.2, 0.8, 0.4, 1]),
            9: np.array([1, 0, 1, 1]),
        }
        labels.colormap = DirectLabelColormap(color_dict={**labels.colormap.color_dict, **picked})
    shown = {value: labels.get_color(value)[:3] for value in (1, 2, 9)}
    labels.colormap = shown_colormap(labels, {2})  # hidden for a moment, and still green
    taken = snapshot(labels, image=image)
    labels.colormap = label_colormap(7, seed=0.9)
    written = write_snapshot(taken, ExportRequest(tmp_path, "out", ("slicer", "label-table", "nifti")))
    colors = {label.value: label.color for label in read_volume(written[0]).labels}
    table = [line.split() for line in (tmp_path / "out.label.txt").read_text().splitlines() if line[0] == " "]
    listed = json.loads((tmp_path / "out.json").read_text())["labels"]
    for value, color in shown.items():
        assert colors[value] == pytest.approx(color, abs=1 / 254)
        assert [line[1:4] for line in table if line[0] == str(value)] == [
            [str(round(255 * part)) for part in color]
        ]
        (entry,) = (one for one in listed if one["value"] == value)
        assert entry["color"] == Label(value, "x", color).hex
    # Whoever opens them again sees them so.
    again = Layer.create(*volume_to_layer(read_volume(tmp_path / "out.nii.gz")))
    assert again.get_color(2)[:3] == pytest.approx(shown[2], abs=1 / 254)


def test_labels_painted_after_the_snapshot_are_not_in_the_file(labels, tmp_path):
    taken = snapshot(labels)
    labels.data[:] = 2
    path, _ = write_snapshot(taken, request_for(tmp_path / "out.nii.gz"))
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
    monkeypatch.setattr(snapshots.os, "access", lambda *_: False)
    monkeypatch.setattr(snapshots.Path, "home", lambda: home)
    assert propose_path(labels) == home / "ct_labels.nii.gz"


def test_a_name_with_an_ending_in_capitals_replaces_nothing(tmp_path):
    assert request_for(tmp_path / "a.nrrd", overwrite=True).overwrite
    capital = request_for(tmp_path / "patient.1.NRRD", overwrite=True)
    assert (capital.stem, capital.formats, capital.overwrite) == ("patient.1", ("nrrd",), False)
    with pytest.raises(VolumeError, match="cannot be written"):
        request_for(tmp_path / "out.png")


# No fixture: pytest would hold its value, and with it the window, longer than napari's check for leaks allows.
class Desk:
    """A viewer with labels of an image, and its exporter."""

    def __init__(self, viewer, image, labels):
        self.image, self.labels = image, labels
        viewer.add_layer(image)
        viewer.add_layer(labels)
        session = AnnotationSession(SHAPE, NAMES.names)
        self.result = sessions_of(viewer).bind_result(labels, image, session)
        self.exporter = exporter_of(viewer)

    def write(self, path, **more):
        self.exporter.write(self.result, self.image, request_for(path, **more))


def test_a_window_has_one_exporter(make_napari_viewer):
    viewer = make_napari_viewer()
    assert exporter_of(viewer) is exporter_of(viewer)


def test_it_is_written_off_the_gui_thread(make_napari_viewer, image, labels, tmp_path, qtbot, monkeypatch):
    desk = Desk(make_napari_viewer(), image, labels)
    threads = []
    plain = SessionMoment.provenance

    def provenance(moment, array=None):
        threads.append(threading.get_ident())
        return plain(moment, array)

    monkeypatch.setattr(SessionMoment, "provenance", provenance)
    with qtbot.waitSignal(desk.exporter.exported, timeout=TIMEOUT) as caught:
        desk.write(tmp_path / "out.mha")
    assert caught.args[0] == [tmp_path / "out.mha", tmp_path / "out.json"]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
    written = json.loads((tmp_path / "out.json").read_text())["provenance"]
    assert written["edited_voxels"] == np.count_nonzero(desk.labels.data)
    assert written["source"]["fingerprint"]
    qtbot.waitUntil(lambda: not desk.exporter.busy)


def test_what_changes_while_it_is_written_is_not_told(
    make_napari_viewer, image, labels, tmp_path, qtbot, monkeypatch
):
    desk, go_on = Desk(make_napari_viewer(), image, labels), threading.Event()
    session, plain = desk.result.session, SessionMoment.provenance

    def provenance(moment, array=None):
        assert go_on.wait(30)
        return plain(moment, array)

    session.mark_reviewed(1)
    session.note(2, "tip")
    expected = session.provenance(desk.labels.data)
    monkeypatch.setattr(SessionMoment, "provenance", provenance)
    with qtbot.waitSignal(desk.exporter.exported, timeout=TIMEOUT):
        desk.write(tmp_path / "out.mha")
        session.mark_reviewed(1, False)
        session.mark_reviewed(3)
        session.note(2, "")
        box = (slice(0, 3), slice(0, 4), slice(0, 5))
        session.record_correction([Write(box, desk.labels.data[box].copy(), np.ones((3, 4, 5), np.uint8))])
        desk.labels.data[box] = 1
        session.merge_slice(session.begin(), 2, 3, np.full(SHAPE[:2], 2, np.uint8), desk.labels.data)
        go_on.set()
    told = json.loads((tmp_path / "out.json").read_text())["provenance"]
    assert {key: told[key] for key in expected} == json.loads(json.dumps(expected))
    assert told["reviewed_slices"] == [1]
    assert session.provenance(desk.labels.data)["edited_voxels"] != told["edited_voxels"]


def test_second_export_while_one_is_written_is_refused_in_words(
    make_napari_viewer, image, labels, tmp_path, qtbot
):
    desk = Desk(make_napari_viewer(), image, labels)
    with qtbot.waitSignal(desk.exporter.exported, timeout=TIMEOUT):
        desk.write(tmp_path / "one.nii.gz")
        with qtbot.waitSignal(desk.exporter.failed, timeout=TIMEOUT) as caught:
            desk.write(tmp_path / "two.nii.gz")
    assert "still being written" in caught.args[0]
    assert not (tmp_path / "two.nii.gz").exists()


def test_failures_are_sentences(make_napari_viewer, image, labels, tmp_path, qtbot):
    desk = Desk(make_napari_viewer(), image, labels)
    with qtbot.waitSignal(desk.exporter.failed, timeout=TIMEOUT) as caught:
        desk.write(tmp_path / "no such folder" / "out.nii.gz")
    assert "no such folder" in caught.args[0]
    desk.image.data = desk.image.data[1:]
    with qtbot.waitSignal(desk.exporter.failed, timeout=TIMEOUT) as caught:
        desk.write(tmp_path / "out.nii.gz")
    assert "no longer fits" in caught.args[0]


def test_labels_that_were_removed_while_the_dialog_was_open_are_a_sentence(
    make_napari_viewer, image, tmp_path, qtbot
):
    viewer = make_napari_viewer()
    viewer.add_layer(image)
    result = sessions_of(viewer).new_result(image, volume_of(image), NAMES)
    viewer.add_layer(result.layer)
    dialog = exporter_of(viewer)
    dialog.ask(result, image)
    viewer.layers.remove(result.layer)
    qtbot.waitUntil(lambda: gc.collect() >= 0 and result._layer() is None, timeout=TIMEOUT)
    with qtbot.waitSignal(dialog.failed, timeout=TIMEOUT) as caught:
        dialog.findChild(QPushButton, "export_go").click()
    assert "were removed" in caught.args[0]
    dialog.close()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root may write to")
def test_what_made_the_labels_of_a_file_is_told_where_they_are_corrected_and_saved(
    make_napari_viewer, image, tmp_path, qtbot
):
    viewer = make_napari_viewer()
    viewer.add_layer(image)
    found = np.zeros(SHAPE, np.uint8)
    found[1, 2:4, 3:5] = 1
    made = {"checkpoint": "organs", "sha256": "ab", "runs": [{"checkpoint": "organs"}]}
    path = write_labels(tmp_path / "organs.nii.gz", found, OBLIQUE, NAMES, provenance=made)
    layer = viewer.add_layer(Layer.create(*volume_to_layer(read_volume(path))))
    result = sessions_of(viewer).result_for(layer)
    exporter = exporter_of(viewer)
    for edits in range(2):  # over itself, and once more
        layer.data[0, 0, edits] = 2
        with qtbot.waitSignal(exporter.exported, timeout=TIMEOUT):
            exporter.write(result, image, request_for(path, overwrite=True))
        told = json.loads(path.with_name("organs.json").read_text())["provenance"]
        assert told["edited_voxels"] == edits + 1
        assert "checkpoint" not in told
        assert {key: told["opened"][key] for key in made} == made
        assert "opened" not in told["opened"]
        assert made_by(told) == ("organs", "ab", "SEMIAUTOMATIC")


def test_read_only_folder_is_a_sentence(make_napari_viewer, image, labels, qtbot):
    desk = Desk(make_napari_viewer(), image, labels)
    with qtbot.waitSignal(desk.exporter.failed, timeout=TIMEOUT) as caught:
        desk.write(Path("/proc/out.nii.gz"))
    assert caught.args[0].startswith("Cannot write to /proc")


def test_full_disk_is_a_sentence(make_napari_viewer, image, labels, tmp_path, qtbot, monkeypatch):
    desk = Desk(make_napari_viewer(), image, labels)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter, "write_snapshot", full)
    with qtbot.waitSignal(desk.exporter.failed, timeout=TIMEOUT) as caught:
        desk.write(tmp_path / "out.nii.gz")
    assert "No space left on device" in caught.args[0]


def test_dialog_proposes_the_preferred_format_and_its_answer_is_written(
    make_napari_viewer, image, labels, tmp_path, qtbot, monkeypatch
):
    desk = Desk(make_napari_viewer(), image, labels)
    monkeypatch.setattr(exporter, "load_preferences", lambda: Preferences(export_format=".seg.nrrd"))
    desk.exporter.ask(desk.result, desk.image)
    dialog = desk.exporter
    request = dialog.request()
    assert (request.folder, request.stem, request.formats) == (tmp_path, "ct_labels", ("slicer",))
    with qtbot.waitSignal(desk.exporter.exported, timeout=TIMEOUT):
        dialog.findChild(QPushButton, "export_go").click()
        assert not dialog.findChild(QPushButton, "export_go").isEnabled()
        assert dialog.findChild(QPushButton, "export_cancel").isEnabled()
        assert dialog.findChild(QProgressBar, "export_progress").isVisible()
    assert not dialog.findChild(QProgressBar, "export_progress").isVisible()
    assert read_volume(tmp_path / "ct_labels.seg.nrrd").labels.names == NAMES.names


def test_dialog_asks_for_what_is_ticked(make_napari_viewer, image, labels, tmp_path, monkeypatch):
    desk = Desk(make_napari_viewer(), image, labels)
    desk.exporter.ask(desk.result, desk.image)
    dialog, asked = desk.exporter, []
    assert desk.result.layer.name in dialog.windowTitle()
    monkeypatch.setattr(dialog, "write", lambda *wanted: asked.append(wanted[-1]))
    assert dialog.request().formats == ("nifti",)
    assert not dialog.findChild(QComboBox, "mesh_coordinates").isEnabled()
    dialog.findChild(QCheckBox, "format_ply").setChecked(True)
    dialog.findChild(QComboBox, "mesh_coordinates").setCurrentIndex(1)
    dialog.findChild(QPushButton, "export_go").click()
    assert asked[0].formats == ("nifti", "ply")
    assert asked[0].coordinates == "RAS"
    assert (asked[0].folder, asked[0].stem, asked[0].overwrite) == (tmp_path, "ct_labels", False)
    for name in ("nifti", "ply"):
        dialog.findChild(QCheckBox, f"format_{name}").setChecked(False)
    assert not dialog.findChild(QPushButton, "export_go").isEnabled()
    dialog.close()


def test_window_closed_while_writing_still_gets_its_file(
    make_napari_viewer, image, labels, tmp_path, monkeypatch
):
    desk = Desk(make_napari_viewer(), image, labels)
    write = exporter.write_snapshot
    entered, leave, written = threading.Event(), threading.Event(), threading.Event()

    def slow(*args, **kwargs):
        entered.set()
        leave.wait(10)
        try:
            return write(*args, **kwargs)
        finally:
            written.set()

    monkeypatch.setattr(exporter, "write_snapshot", slow)
    desk.write(tmp_path / "out.nii.gz")
    assert entered.wait(5)
    (thread,) = desk.exporter._tasks._finishing
    assert not thread.daemon  # the interpreter waits for it
    desk.exporter.close()
    leave.set()
    assert written.wait(10)
    thread.join(10)
    assert read_volume(tmp_path / "out.nii.gz").data.shape == SHAPE
