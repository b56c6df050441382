"""The dock as a person uses it: real buttons, a real (tiny) network, a real worker."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel, QLineEdit, QProgressBar, QPushButton, QToolButton

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_folder import load_folder
from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.inference import backends
from napari_transunet.inference.predictor import Predictor
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_volume
from napari_transunet.model.transunet import TransUNet
from napari_transunet.viewer.layers.layers import add_volume, new_labels_layer, volume_of
from napari_transunet.viewer.layers.undo import write_as_one_step
from napari_transunet.viewer.segment import segment_dock
from napari_transunet.viewer.segment.segment_dock import SegmentDock
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.messages import organ_volumes
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.lazy_array import LazyArray
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.volume import Volume
from tests.commands import invoke
from tests.io.ome_zarr_samples import write_ome_zarr
from tests.networks import SMALL, small_network
from tests.viewer.waiting import TIMEOUT

NAMES = {1: "liver", 2: "spleen", 3: "kidney_left"}
SHAPE = (12, 48, 56)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one checkpoint that finds three organs in CT."""
    folder = tmp_path_factory.mktemp("checkpoints")
    net = small_network()
    card = default_card(net, labels=NAMES, title="Three organs, CT", modality="CT", orientation="LPS")
    save_checkpoint(folder / "three.safetensors", net, card)
    return folder


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any]) -> Any:
    return make_napari_viewer()


class Dock:
    """The dock's buttons by their object names."""

    def __init__(self, viewer: Any, widget: SegmentDock, qtbot: Any) -> None:
        self.viewer, self.widget, self.qtbot = viewer, widget, qtbot

    @classmethod
    def opened(cls, viewer: Any, qtbot: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Self:
        """The dock as it is opened, with these checkpoints, of which one is chosen."""
        monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(checkpoints))
        _, widget = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
        dock = cls(viewer, widget, qtbot)
        dock.until(lambda: bool(widget.checkpoint.candidates))
        dock.choose("checkpoint", "Three organs, CT")
        return dock

    def until(self, true: Callable[[], bool]) -> None:
        self.qtbot.waitUntil(true, timeout=TIMEOUT)

    def button(self, name: str) -> QPushButton:
        return self.widget.findChild(QPushButton, name)

    def press(self, name: str) -> None:
        button = self.button(name)
        assert button.isEnabled(), button.toolTip()
        button.click()

    def choose(self, name: str, text: str) -> None:
        combo = self.widget.findChild(QComboBox, name)
        index = combo.findText(text)
        assert index >= 0, [combo.itemText(at) for at in range(combo.count())]
        combo.setCurrentIndex(index)

    @property
    def status(self) -> str:
        return self.widget.findChild(QLabel, "status").text()

    @property
    def question(self) -> str | None:
        return self.widget.findChild(QLabel, "question").text() if self.widget.question.open else None

    @property
    def progress(self) -> QProgressBar:
        return self.widget.findChild(QProgressBar, "progress")

    def add(self, shape: tuple[int, int, int] = SHAPE, seed: int = 0, name: str | None = None) -> Any:
        volume, _, _ = synthetic_ct(shape, seed)
        return add_volume(self.viewer, volume, name=name)

    def segment(self) -> None:
        self.press("segment_volume")
        self.until(lambda: not self.widget.running)

    def exported(self, folder: Path) -> Path:
        """The file that *Export…* makes in this folder."""
        self.press("export_labels")
        dialog = self.widget.exporter
        dialog.findChild(QLineEdit, "export_folder").setText(str(folder))
        dialog.findChild(QLineEdit, "export_name").setText("labels")
        dialog.findChild(QPushButton, "export_go").click()
        self.until(lambda: "Exported" in self.status)
        dialog.close()
        return folder / "labels.nii.gz"

    def labels(self, name: str) -> Any:
        return self.viewer.layers[f"{name} labels"]


@pytest.fixture
def dock(viewer: Any, qtbot: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dock]:
    helper = Dock.opened(viewer, qtbot, checkpoints, monkeypatch)
    yield helper
    if helper.widget.running:
        helper.widget.cancel()
        helper.until(lambda: not helper.widget.running)


class Brake:
    """Holds the worker after its first batch until it is released."""

    def __init__(self) -> None:
        self._go = threading.Event()

    def wait(self) -> None:
        self._go.wait(TIMEOUT / 1000)

    def release(self) -> None:
        self._go.set()

    def hold(self) -> None:
        self._go.clear()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Brake]:
    """Lets a run be held after every batch, so that a test can act in the middle of it."""
    brake = Brake()
    plain = Predictor.iter_batches

    def braked(self: Predictor, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in plain(self, *args, **kwargs):
            yield batch
            brake.wait()

    monkeypatch.setattr(Predictor, "iter_batches", braked)
    yield brake
    brake.release()


def _expected(checkpoints: Path, volume: Volume) -> np.ndarray:
    return Predictor(load_checkpoint(checkpoints / "three.safetensors")).predict(volume)


def test_an_empty_viewer_says_what_to_do_and_what_the_checkpoint_finds(dock):
    assert "Open a volume" in dock.status
    for name in ("segment_volume", "segment_slice", "cancel", "export_labels"):
        assert not dock.button(name).isEnabled()
        assert dock.button(name).toolTip()
    # Names that other programs call.
    for kind, names in {
        QPushButton: ("open_volume", "segment_volume", "segment_slice", "cancel", "export_labels"),
        QComboBox: ("volume", "variant", "checkpoint", "device"),
        QProgressBar: ("progress",),
        QLabel: ("status",),
    }.items():
        for name in names:
            assert dock.widget.findChild(kind, name) is not None, name
    # The checkpoint says what it finds, and sets the variant.
    assert "3\N{NO-BREAK SPACE}organs" in dock.widget.findChild(QLabel, "checkpoint_info").text()
    variant = dock.widget.findChild(QComboBox, "variant")
    assert variant.currentText() == f"{SMALL.name} (from file)"
    greyed = variant.model().item(variant.findText("ViT-L_32"))
    assert not greyed.isEnabled()
    assert "ViT-L_32" in greyed.toolTip()


def test_from_opening_to_export(dock, checkpoints, tmp_path, monkeypatch):
    """Open, segment, undo, redo, paint, segment again, give edits up, undo, export and read back."""
    import SimpleITK as sitk

    image = dock.add(name="ct")
    volume = volume_of(image)
    dock.viewer.dims.set_current_step(0, 7)
    dock.segment()
    labels = dock.labels("ct")
    expected = _expected(checkpoints, volume)
    assert len(np.unique(expected)) > 1, "the network's output must vary for this test to mean anything"
    assert labels.data.dtype == np.uint8
    assert np.mean(labels.data == expected) > 0.999
    assert labels.editable
    assert list(labels.features["name"]) == ["background", *NAMES.values()]
    assert np.allclose(labels.scale, image.scale)
    assert np.allclose(labels.translate, image.translate)
    assert dock.status.startswith("12 slices in ")
    assert " mL" in dock.status
    assert dock.progress.value() == 12

    labels.undo()
    assert not labels.data.any()
    labels.redo()
    assert np.mean(labels.data == expected) > 0.999

    written = labels.data.copy()
    session = sessions_of(dock.viewer).result_of(labels).session
    assert isinstance(session, AnnotationSession)
    labels.selected_label = 3
    labels.brush_size = 5
    labels.paint((7, 20, 20), 3)
    labels.paint((7, 30, 30), 1)
    changed = session.edited_voxels(labels.data)
    assert changed > 0
    dock.until(lambda: f"{changed} voxels edited in all" in dock.status)
    voxel = float(np.prod(volume.geometry.spacing)) / 1000
    present = {name: voxel * np.count_nonzero(labels.data == value) for value, name in NAMES.items()}
    assert organ_volumes({name: ml for name, ml in present.items() if ml}) in dock.status

    painted = labels.data.copy()
    dock.segment()
    assert dock.question is None
    assert np.array_equal(labels.data, painted)
    assert f"{changed:,} edited voxels (slice 7) were kept" in dock.status
    assert session.conflicts(labels.data) == {7: changed}
    writes, step = session.accept_prediction(labels.data)
    sessions_of(dock.viewer).result_of(labels).undo.add(write_as_one_step(labels, writes), step)
    assert np.array_equal(labels.data, written)
    assert session.edited_voxels(labels.data) == 0
    labels.undo()
    assert np.array_equal(labels.data, painted)
    assert session.conflicts(labels.data) == {7: changed}

    target = dock.exported(tmp_path)
    read = sitk.ReadImage(str(target))
    assert np.array_equal(sitk.GetArrayFromImage(read), painted)
    assert np.allclose(read.GetSpacing(), volume.geometry.spacing[::-1], atol=1e-4)
    assert np.allclose(read.GetOrigin(), volume.geometry.origin, atol=1e-4)
    assert np.allclose(read.GetDirection(), np.ravel(volume.geometry.direction), atol=1e-4)
    sidecar = (tmp_path / "labels.json").read_text()
    assert session.runs[-1].sha256 in sidecar
    assert "kidney_left" in sidecar


def test_the_slice_in_view_comes_first_and_the_layer_is_locked_meanwhile(dock, slow):
    dock.add(name="ct")
    dock.viewer.dims.set_current_step(0, 5)
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() == 1)
    labels = dock.labels("ct")
    assert np.flatnonzero(labels.data.any(axis=(1, 2))).tolist() == [5]
    assert not labels.editable
    assert dock.status == "Segmenting outward from slice 5."
    assert dock.button("cancel").isEnabled()
    for name in ("segment_volume", "segment_slice", "export_labels"):
        assert not dock.button(name).isEnabled()
        assert dock.button(name).toolTip()
    slow.release()
    dock.until(lambda: not dock.widget.running)
    assert labels.editable


@pytest.mark.long
def test_the_first_remaining_time_leaves_out_what_happens_but_once(dock, monkeypatch):
    plain, left = Predictor.iter_batches, []

    def late_to_start(self: Predictor, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for number, one in enumerate([one for batch in plain(self, *args, **kwargs) for one in batch]):
            time.sleep(0.01 if number else 0.7)  # so that the window sees some between the first and the last
            yield [one]

    monkeypatch.setattr(Predictor, "iter_batches", late_to_start)
    dock.add((40, 48, 56))
    dock.until(dock.button("segment_volume").isEnabled)
    dock.widget.segmentation.progressed.connect(lambda progress: left.append((progress.done, progress.left)))
    dock.segment()
    told = [seconds for _, seconds in left if seconds is not None]
    first = next(done for done, seconds in left if seconds is not None)
    assert told, left
    assert told[0] < 0.7 / first * (40 - first)  # what the mean over all slices would say at the least


def test_cancel_keeps_what_is_there_and_leaves_one_undo_step(dock, slow, checkpoints):
    image = dock.add(name="ct")
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() >= 1)
    dock.press("cancel")
    slow.release()
    dock.until(lambda: not dock.widget.running)
    labels = dock.labels("ct")
    assert dock.status.startswith("Stopped after ")
    assert labels.editable
    done = np.flatnonzero(labels.data.any(axis=(1, 2)))
    assert 1 <= len(done) < 12
    expected = _expected(checkpoints, volume_of(image))
    assert np.mean(labels.data[done] == expected[done]) > 0.999
    assert not sessions_of(dock.viewer).result_of(labels).session.runs[-1].complete
    labels.undo()
    assert not labels.data.any()

    labels.redo()
    dock.segment()  # nobody has edited, so nobody is asked
    assert sessions_of(dock.viewer).result_of(labels).session.runs[-1].complete
    assert np.mean(labels.data == expected) > 0.999


def test_this_slice_leaves_the_others_alone(dock, checkpoints):
    image = dock.add(name="ct")
    dock.viewer.dims.set_current_step(0, 4)
    dock.press("segment_slice")
    dock.until(lambda: not dock.widget.running)
    labels = dock.labels("ct")
    expected = _expected(checkpoints, volume_of(image))
    assert np.mean(labels.data[4] == expected[4]) > 0.999
    assert not labels.data[[*range(4), *range(5, 12)]].any()
    assert dock.status.startswith("Slice 4 in ")

    labels.data[8] = 2  # a person's work elsewhere is not in the way of this slice
    dock.press("segment_slice")
    dock.until(lambda: not dock.widget.running)
    dock.viewer.dims.set_current_step(0, 8)
    dock.press("segment_slice")
    dock.until(lambda: not dock.widget.running)
    assert (labels.data[8] == 2).all()
    assert "differently" in dock.status


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_a_range_of_slices_leaves_the_others_alone(dock, checkpoints, monkeypatch, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
        monkeypatch.setattr(backends, "has_openvino", lambda: True)
        if Predictor(load_checkpoint(checkpoints / "three.safetensors")).backend != backend:
            pytest.skip("without 8 bits and fast bfloat16, this processor takes PyTorch")
    image = dock.add(name="ct")
    dock.viewer.dims.set_current_step(0, 9)
    slices = dock.widget.advanced._slices
    slices.value = "3-6"
    dock.segment()
    labels = dock.labels("ct")
    expected = _expected(checkpoints, volume_of(image))
    assert np.mean(labels.data[3:7] == expected[3:7]) > 0.999
    assert not labels.data[[*range(3), *range(7, 12)]].any()
    assert dock.status.startswith("4 slices in ")
    run = sessions_of(dock.viewer).result_of(labels).session.runs[-1]
    assert (run.first_slice, run.last_slice, run.slices, run.backend) == (3, 6, 4, backend)
    slices.value = "3-12"
    dock.segment()
    assert "this volume's slices are 0 to 11" in dock.status
    slices.value = "3-"
    assert not dock.button("segment_volume").isEnabled()
    assert labels in dock.viewer.layers


@pytest.mark.long
def test_a_large_ome_zarr_is_segmented_where_it_lies(dock, checkpoints, tmp_path, monkeypatch):
    scan, _, _ = synthetic_ct(SHAPE, 0)
    path = write_ome_zarr(tmp_path / "large.ome.zarr", scan.data, levels=1)
    monkeypatch.setattr("napari_transunet.io.ome_zarr.reading.available_memory", lambda: 100)
    monkeypatch.setattr(LazyArray, "__array__", None)  # nothing asks for the whole
    volume = read_volume(path, lazy="large")
    image = add_volume(dock.viewer, volume)
    assert image.data.voxels is volume.data

    dock.segment()

    assert np.array_equal(dock.labels("large").data, _expected(checkpoints, replace(volume, data=scan.data)))


@pytest.mark.long
def test_small_parts_go_in_the_window_as_on_the_command_line(dock, checkpoints, tmp_path):
    plain = load_checkpoint(checkpoints / "three.safetensors")
    card = plain.card.updated(smallest_part=1.0, title="Largest parts")
    path = save_checkpoint(tmp_path / "parts.safetensors", plain.model, card)
    scan = write_volume(tmp_path / "scan.nii.gz", synthetic_ct(SHAPE, 0)[0])
    target = tmp_path / "out.nii.gz"
    said = invoke("segment", scan, "-o", target, "--checkpoint", path)
    assert said.exit_code == 0, said.stderr
    volume, expected = read_volume(scan), read_volume(target).data
    changed = (expected != Predictor(plain).predict(volume)).any(axis=(1, 2))
    assert changed.sum() > 1, "nothing was small"

    add_volume(dock.viewer, volume, name="ct")
    dock.widget.checkpoints.add(path)
    dock.until(lambda: dock.widget.checkpoint.candidate.short_name == "parts")
    told, ended = [], []
    dock.widget.segmentation.progressed.connect(lambda one: told.append((one.done, one.total)))
    dock.widget.run_finished.connect(ended.append)
    dock.segment()
    labels = dock.labels("ct")
    assert np.array_equal(labels.data, expected)
    assert all(done <= total for done, total in told)
    assert dock.progress.value() == 12
    assert dock.status.startswith("12 slices in ")
    one = float(np.prod(volume.geometry.spacing)) / 1000
    held = {value: one * np.count_nonzero(expected == value) for value in NAMES}
    assert ended[0].volumes == pytest.approx({value: ml for value, ml in held.items() if ml})
    session = sessions_of(dock.viewer).result_of(labels).session
    assert np.array_equal(session.prediction, expected)
    assert (session.runs[-1].slices, session.runs[-1].total) == (12, 12)
    assert session.cards[session.runs[-1].sha256]["smallest_part"] == 1.0

    # The same run once more changes nothing, so a slice that was approved stays so.
    session.mark_reviewed(int(np.flatnonzero(changed)[0]))
    dock.segment()
    assert np.array_equal(labels.data, expected)
    assert len(session.reviewed) == 1
    for _ in range(2):
        labels.undo()
    assert not labels.data.any()

    # All slices, one by one, are the whole volume; one alone is not.
    slices = dock.widget.advanced._slices
    slices.value = "0-11"
    dock.segment()
    assert np.array_equal(labels.data, expected)
    index = int(np.flatnonzero(changed)[0])
    slices.value = f"{index}-{index}"
    dock.segment()
    assert np.array_equal(labels.data[index], Predictor(plain).predict(volume)[index])


@pytest.mark.long
def test_mirrored_slices_and_three_planes_are_averaged_where_asked_for(dock, checkpoints):
    image = dock.add(name="ct")
    volume = volume_of(image)
    checkpoint = load_checkpoint(checkpoints / "three.safetensors")
    dock.widget.findChild(QCheckBox, "mirror_tta").setChecked(True)
    dock.segment()
    expected = Predictor(checkpoint, mirror_tta=True).predict(volume)
    assert np.mean(dock.labels("ct").data == expected) > 0.999
    assert np.mean(expected == _expected(checkpoints, volume)) < 0.999

    dock.widget.findChild(QCheckBox, "mirror_tta").setChecked(False)
    dock.choose("orthogonal_planes", "Three, averaged")
    dock.press("segment_volume")
    assert "learnt from slices along one axis alone" in dock.question
    dock.press("question_yes")
    dock.until(lambda: not dock.widget.running)
    expected = Predictor(checkpoint, orthogonal_planes=True).predict(volume)
    assert np.mean(dock.labels("ct").data == expected) > 0.999


def test_the_dock_remembers_how_slices_are_looked_at(viewer, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "settings.yaml"))
    monkeypatch.setattr(
        "napari_transunet.viewer.widgets.widget_state.platformdirs.user_state_dir",
        lambda _name: str(tmp_path / "state"),
    )
    for planes, mirrored in ((None, False), (False, True)):
        _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
        options = dock.advanced.options
        assert (options.orthogonal_planes, options.mirror_tta) == (planes, mirrored)
        dock.findChild(QComboBox, "orthogonal_planes").setCurrentIndex(1)
        dock.findChild(QCheckBox, "mirror_tta").setChecked(True)
        viewer.window.remove_dock_widget(dock.parent())


def test_an_undone_run_is_no_edit_and_runs_again(dock):
    dock.add(name="ct")
    dock.segment()
    labels = dock.labels("ct")
    written = labels.data.copy()
    labels.undo()
    session = sessions_of(dock.viewer).result_of(labels).session
    assert session.runs == ()
    assert not session.prediction.any()
    dock.segment()
    assert np.array_equal(labels.data, written)
    assert len(session.runs) == 1


def test_a_second_run_uses_the_prepared_predictor(dock, monkeypatch):
    dock.add(name="ct")
    dock.segment()
    from napari_transunet.viewer.segment import predictors

    monkeypatch.setattr(predictors, "_prepare", lambda *_: pytest.fail("prepared again"))
    dock.segment()
    assert dock.status.startswith("12 slices in ")


def test_a_press_joins_the_preparation_under_way_and_can_be_cancelled_at_once(dock, monkeypatch):
    from napari_transunet.viewer.segment import predictors

    begun, go_on, plain, prepared = threading.Event(), threading.Event(), predictors._prepare, []

    def prepare(*args):
        begun.set()
        assert go_on.wait(TIMEOUT / 1000)
        prepared.append(args)
        return plain(*args)

    monkeypatch.setattr(predictors, "_prepare", prepare)
    dock.add(name="ct")
    dock.until(begun.is_set)  # half a second after the last choice, nobody having pressed
    dock.press("segment_volume")
    dock.until(lambda: dock.status.startswith("Preparing the network"))
    dock.press("cancel")
    dock.until(lambda: not dock.widget.running)
    assert not prepared
    assert dock.status == "Stopped before the first slice."
    assert [layer.name for layer in dock.viewer.layers] == ["ct"]
    dock.press("segment_volume")
    go_on.set()
    dock.until(lambda: not dock.widget.running)
    assert dock.status.startswith("12 slices in ")
    assert len(prepared) == 1


def test_two_volumes_have_labels_and_sentences_of_their_own(dock):
    first, second = dock.add(name="one"), dock.add((9, 40, 44), 3, name="two")
    dock.segment()
    dock.choose("volume", "one")
    assert "Ready" in dock.status
    dock.segment()
    one, two = dock.labels("one"), dock.labels("two")
    assert one.data.shape == first.data.shape
    assert two.data.shape == second.data.shape
    assert np.allclose(one.scale, first.scale)
    assert np.allclose(two.scale, second.scale)
    assert (
        sessions_of(dock.viewer).result_of(one).session is not sessions_of(dock.viewer).result_of(two).session
    )
    assert dock.status.startswith("12 slices")
    dock.choose("volume", "two")
    dock.until(lambda: dock.status.startswith("9 slices"))
    dock.widget.findChild(QComboBox, "volume").activated.emit(1)  # as a person does, who wants to see it
    assert [layer.name for layer in dock.viewer.layers if layer.visible] == ["two", "two labels"]


def test_other_organs_get_a_layer_of_their_own(dock, tmp_path):
    net = small_network(seed=1)
    save_checkpoint(
        tmp_path / "others.safetensors",
        net,
        default_card(net, labels={1: "aorta", 2: "stomach", 3: "pancreas"}, modality="CT"),
    )
    dock.add(name="ct")
    dock.segment()
    dock.widget.checkpoints.add(tmp_path / "others.safetensors")
    dock.until(lambda: dock.widget.checkpoint.candidate.short_name == "others")
    before = dock.labels("ct").data.copy()
    dock.segment()
    assert np.array_equal(dock.labels("ct").data, before)
    fresh = dock.viewer.layers["ct labels [1]"]
    assert "pancreas" in list(fresh.features["name"])


@pytest.fixture
def nameless(tmp_path: Path) -> Path:
    """A checkpoint of nine classes as published ones are: a state dict that names nothing."""
    path = tmp_path / "epoch_149.pth"
    torch.save(small_network(classes=9).state_dict(), path)
    return path


@pytest.mark.long
def test_classes_without_names_get_the_names_that_a_person_picks(dock, nameless, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog, QToolButton

    from napari_transunet.checkpoints.presets import LABEL_PRESETS
    from napari_transunet.io.reading import read_volume

    names = dock.widget.findChild(QComboBox, "label_names")
    assert not names.isVisibleTo(dock.widget)  # the checkpoint names its organs itself
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(nameless), ""))
    dock.press("browse_checkpoint")
    dock.until(lambda: dock.widget.checkpoint.candidate.path == nameless)
    table, btcv = LABEL_PRESETS["synapse-table"], LABEL_PRESETS["synapse-btcv-order"]
    assert names.isVisibleTo(dock.widget)
    assert names.isEnabled()
    assert [names.itemText(at) for at in range(names.count())] == [
        "No names (class 1, class 2, …)",
        table.title,
        btcv.title,
    ]
    assert names.currentIndex() == 0  # nothing is guessed
    info = dock.widget.findChild(QLabel, "checkpoint_info")
    assert info.text().startswith("8\N{NO-BREAK SPACE}unnamed\N{NO-BREAK SPACE}classes")

    def legend(value: int) -> str:
        buttons = dock.widget.findChildren(QToolButton, f"legend_{value}")
        return buttons[-1].text()  # those before it wait for their deletion

    dock.add(name="ct")
    assert legend(1) == "Class 1"
    dock.choose("label_names", table.title)
    assert legend(1) == "Aorta"
    assert dock.widget.panel._area.sizeHint().height() > 4 * dock.widget.fontMetrics().height()  # four rows
    assert info.text().startswith("8\N{NO-BREAK SPACE}organs")
    dock.choose("label_names", "No names (class 1, class 2, …)")
    assert legend(1) == "Class 1"

    dock.segment()
    labels = dock.labels("ct")
    written = labels.data.copy()
    assert "lass " in dock.status
    dock.choose("label_names", btcv.title)  # picked afterwards, they name what is there
    assert [layer.name for layer in dock.viewer.layers] == ["ct", "ct labels"]
    assert list(labels.features["name"]) == ["background", *btcv.organs]
    assert legend(1) == "Spleen"
    assert "lass " not in dock.status
    assert dock.status.startswith("12 slices")
    assert np.array_equal(labels.data, written)

    dock.choose("checkpoint", "Three organs, CT")
    assert not names.isVisibleTo(dock.widget)
    dock.choose("checkpoint", nameless.name)
    assert names.currentText() == btcv.title  # remembered for this file

    dock.segment()
    assert [layer.name for layer in dock.viewer.layers] == ["ct", "ct labels"]
    target = dock.exported(tmp_path)
    exported = read_volume(target)
    assert exported.labels is not None
    assert exported.labels.names == btcv.names


def test_names_are_not_given_to_what_another_checkpoint_found(dock, nameless, tmp_path):
    other = tmp_path / "elsewhere" / nameless.name
    other.parent.mkdir()
    other.write_bytes(nameless.read_bytes())
    dock.add(name="ct")
    for path in (nameless, other):
        dock.widget.checkpoints.add(path)
        dock.until(lambda path=path: dock.widget.checkpoint.candidate.path == path)
        if path == nameless:
            dock.segment()
    dock.widget.findChild(QComboBox, "label_names").setCurrentIndex(1)
    assert list(dock.labels("ct").features["name"])[1] == "class 1"


def test_names_cannot_be_picked_while_a_run_goes_on(dock, nameless, slow):
    dock.widget.checkpoints.add(nameless)
    dock.until(lambda: dock.widget.checkpoint.candidate.path == nameless)
    dock.add(name="ct")
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() >= 1)
    names = dock.widget.findChild(QComboBox, "label_names")
    assert not names.isEnabled()
    assert "Wait" in names.toolTip()
    slow.release()
    dock.until(lambda: not dock.widget.running)
    assert names.isEnabled()


def test_the_legend_s_volumes_follow_the_brush(dock):
    image = dock.add(name="ct")
    dock.segment()
    labels = dock.labels("ct")
    voxel_ml = float(np.prod(volume_of(image).geometry.spacing)) / 1000
    labels.data_setitem(np.nonzero(np.ones((4, *SHAPE[1:]), bool)), 3)
    expected = {v: np.count_nonzero(labels.data == v) * voxel_ml for v in np.unique(labels.data) if v}
    legend = dock.widget.panel.legend
    dock.until(lambda: legend._volumes == pytest.approx(expected))
    labels.undo()
    dock.until(lambda: legend._volumes != pytest.approx(expected))


def test_the_legend_picks_the_brush(dock):
    dock.add(name="ct")
    dock.segment()
    labels = dock.labels("ct")
    dock.viewer.layers.selection.active = dock.viewer.layers["ct"]
    from qtpy.QtWidgets import QToolButton

    button = dock.widget.findChild(QToolButton, "legend_3")
    assert button.text() == "Kidney left"
    button.click()
    assert labels.selected_label == 3
    assert str(labels.mode) == "paint"
    assert dock.viewer.layers.selection.active is labels
    labels.selected_label = 1
    assert not button.isChecked()
    assert dock.widget.findChild(QToolButton, "legend_1").isChecked()


def test_what_is_no_volume_is_explained(dock):
    for shape, rgb, words in (
        ((8, 8, 3), True, "colour"),
        ((2, 8, 8, 8), False, "4 dimensions"),
        ((8, 8), False, "single picture"),
    ):
        dock.viewer.add_image(np.zeros(shape, np.uint8), rgb=rgb, name=words)
        dock.choose("volume", words)
        assert words in dock.status
        assert not dock.button("segment_volume").isEnabled()
        assert words in dock.button("segment_volume").toolTip()


def test_a_volume_that_is_not_ct_is_asked_about(dock):
    rng = np.random.default_rng(0)
    dock.viewer.add_image(
        rng.integers(0, 1743, SHAPE).astype(np.uint16), name="mr", contrast_limits=(0, 1743)
    )
    dock.press("segment_volume")
    assert "expects CT; the volume looks like MR" in dock.question
    dock.press("question_no")
    assert not dock.widget.running
    assert "mr labels" not in dock.viewer.layers
    dock.press("segment_volume")
    dock.press("question_yes")
    dock.until(lambda: not dock.widget.running)
    assert "mr labels" in dock.viewer.layers


@pytest.fixture
def two_shipped(
    viewer: Any, qtbot: Any, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Dock:
    """A dock where nobody chose a checkpoint. Shipped are one for crops in MR, the first by name, and one for CT."""
    from napari_transunet.checkpoints import registry

    shipped = tmp_path / "weights"
    shipped.mkdir()
    (shipped / f"{registry.DEFAULT_CHECKPOINT}.safetensors").write_bytes(
        (checkpoints / "three.safetensors").read_bytes()
    )
    net = TransUNet("testing", num_classes=3, img_size=32)
    card = default_card(
        net, labels={1: "anterior", 2: "posterior"}, title="Crops, MR", modality="MR",
        normalisation="percentiles", extent=(48, 60, 60),
    )  # fmt: skip
    save_checkpoint(shipped / "a-first.safetensors", net, card)
    (tmp_path / "mine").mkdir()
    save_checkpoint(tmp_path / "mine" / "mine.safetensors", net, card.updated(title="My own"))
    monkeypatch.setattr(registry, "shipped_folder", lambda: shipped)
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path / "mine"))
    _container, widget = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
    helper = Dock(viewer, widget, qtbot)
    helper.until(lambda: bool(widget.checkpoint.candidates))
    return helper


def _add_mr(dock: Dock, shape: tuple[int, int, int] = SHAPE, name: str = "mr") -> Any:
    values = np.random.default_rng(0).integers(0, 900, shape).astype(np.uint16)
    return dock.viewer.add_image(values, name=name, contrast_limits=(0, 900))


def _chosen(dock: Dock) -> str:
    return dock.widget.findChild(QComboBox, "checkpoint").currentText()


def test_the_shipped_checkpoint_that_fits_the_volume_is_chosen(two_shipped):
    dock = two_shipped
    assert _chosen(dock) == "Three organs, CT"  # named, not the first in the list
    _add_mr(dock)
    assert _chosen(dock) == "Crops, MR"
    assert "MR" in dock.widget.findChild(QLabel, "checkpoint_info").text()
    dock.add(name="ct")
    assert _chosen(dock) == "Three organs, CT"
    dock.choose("volume", "mr")
    assert _chosen(dock) == "Crops, MR"
    _add_mr(dock, (20, 200, 200), "head")
    assert _chosen(dock) == "Crops, MR"  # nothing fits, so nothing changes
    dock.press("segment_volume")
    assert "was trained on volumes of at most" in dock.question


def test_the_only_checkpoint_of_the_modality_is_proposed_where_the_volume_names_it(two_shipped):
    dock, chooser = two_shipped, two_shipped.widget.checkpoint
    crops = next(each for each in chooser.candidates if each.title == "Crops, MR")
    body = replace(
        crops, path=crops.path.with_name("body"), card=crops.card.updated(extent=None, title="Body")
    )
    chooser.show_candidates([*chooser.candidates, body])
    image = _add_mr(dock, (20, 200, 200))
    assert _chosen(dock) == "Three organs, CT"  # values alone do not say MR
    add_volume(dock.viewer, replace(volume_of(image), modality="MR"), name="named")
    assert _chosen(dock) == "Body"
    assert "the only one for MR" in dock.widget.findChild(QLabel, "checkpoint_info").text()
    chooser.choose(crops)
    assert "only one" not in dock.widget.findChild(QLabel, "checkpoint_info").text()


@pytest.mark.parametrize("choice", ["Three organs, CT", "My own"])
def test_a_checkpoint_that_a_person_chose_stays(two_shipped, choice):
    dock = two_shipped
    combo = dock.widget.findChild(QComboBox, "checkpoint")
    if _chosen(dock) == choice:
        combo.activated.emit(combo.currentIndex())  # picked in the list, though it was chosen already
    else:
        dock.choose("checkpoint", choice)
    for add in (_add_mr, Dock.add):
        add(dock)
        assert _chosen(dock) == choice


def test_a_checkpoint_that_a_person_browsed_for_stays(two_shipped, checkpoints):
    dock = two_shipped
    dock.widget.checkpoints.add(checkpoints / "three.safetensors")
    dock.until(lambda: dock.widget.checkpoint.candidate.path == checkpoints / "three.safetensors")
    _add_mr(dock)
    assert dock.widget.checkpoint.candidate.path == checkpoints / "three.safetensors"


def test_a_volume_that_was_there_first_gets_its_checkpoint_too(two_shipped, viewer):
    dock = two_shipped
    _add_mr(dock)
    viewer.window.remove_dock_widget("all")
    _container, widget = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
    dock.until(lambda: widget.checkpoint.candidate is not None)
    assert widget.checkpoint.candidate.title == "Crops, MR"


def test_torch_is_imported_by_nobody_before_its_libraries_are_loaded(viewer, qtbot, checkpoints, monkeypatch):
    go_on, begun, asked = threading.Event(), threading.Event(), []

    def load() -> None:
        begun.set()
        go_on.wait(TIMEOUT / 1000)

    found = segment_dock.find_devices
    monkeypatch.setattr(segment_dock, "load_torch_libraries", load)
    monkeypatch.setattr(segment_dock, "find_devices", lambda: [asked.append(True), found()][1])
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(checkpoints))
    _container, widget = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
    qtbot.waitUntil(begun.is_set, timeout=TIMEOUT)
    qtbot.wait(50)
    assert not asked
    assert not widget.checkpoint.candidates
    go_on.set()
    qtbot.waitUntil(lambda: bool(asked and widget.checkpoint.candidates), timeout=TIMEOUT)


def test_whether_to_restore_is_asked_until_it_is_answered(dock, checkpoints):
    image = dock.add(name="ct")
    drawn = new_labels_layer(np.zeros(SHAPE, np.uint8), volume_of(image), LabelSet.from_names(NAMES), "drawn")
    dock.viewer.add_layer(drawn).paint((3, 10, 10), 2)
    dock.viewer.layers.clear()
    dock.until(lambda: [info.in_use for info in SessionStore().sessions()] == [False])
    image = dock.add(name="ct")
    dock.until(lambda: dock.question is not None)
    asked = dock.question
    assert "Restore" in asked
    # Checkpoints that are listed while a dock comes up, options, and layers that are nothing to it.
    dock.widget.checkpoints.message.emit("Looking for checkpoints…")
    dock.widget.checkpoint.changed.emit()
    assert dock.status.startswith("Ready")
    dock.widget.advanced.changed.emit()
    dock.viewer.add_points(np.zeros((1, 3)))
    assert dock.question == asked
    dock.add(seed=1, name="other")
    assert dock.question is None
    dock.widget.volume.choose(image)
    dock.until(lambda: dock.question == asked)
    dock.press("question_no")
    dock.widget.volume.choose(dock.viewer.layers["other"])
    dock.widget.volume.choose(image)
    dock.until(lambda: not dock.widget.recovery._tasks.busy)
    assert dock.question is None


def test_choosing_another_volume_takes_the_question_back(dock):
    dock.add(name="ct")
    rng = np.random.default_rng(0)
    dock.viewer.add_image(rng.integers(0, 900, SHAPE).astype(np.uint16), name="mr", contrast_limits=(0, 900))
    dock.press("segment_volume")
    assert dock.question is not None
    dock.choose("volume", "ct")
    assert dock.question is None


def test_a_file_that_is_no_checkpoint_is_greyed_with_the_reason(dock, tmp_path):
    dock.add(name="ct")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a checkpoint at all")
    dock.widget.checkpoints.add(bad)
    combo = dock.widget.findChild(QComboBox, "checkpoint")
    dock.until(lambda: combo.findText("bad.safetensors") >= 0)
    item = combo.model().item(combo.findText("bad.safetensors"))
    assert not item.isEnabled()
    assert item.toolTip()
    assert not dock.button("segment_volume").isEnabled()
    assert dock.button("segment_volume").toolTip() == dock.widget.checkpoint.candidate.problem


def test_an_error_becomes_a_sentence_and_leaves_no_empty_layer(dock, monkeypatch, caplog):
    def broken(self: Predictor, *args: Any, **kwargs: Any) -> Iterator[Any]:
        raise RuntimeError("shapes do not match")
        yield

    monkeypatch.setattr(Predictor, "iter_batches", broken)
    dock.add(name="ct")
    with caplog.at_level(logging.ERROR):
        dock.segment()
    assert "unexpected error" in dock.status
    assert "shapes do not match" in dock.status
    assert "ct labels" not in dock.viewer.layers
    assert any(record.exc_info for record in caplog.records)
    assert dock.button("segment_volume").isEnabled()


def test_a_gpu_without_room_becomes_a_sentence(dock, monkeypatch):
    def full(self: Predictor, *args: Any, **kwargs: Any) -> Iterator[Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(Predictor, "iter_batches", full)
    dock.add(name="ct")
    dock.segment()
    assert dock.status.startswith("The GPU ran out of memory")


def test_a_checkpoint_that_vanished_becomes_a_sentence(dock, tmp_path):
    dock.add(name="ct")
    net = small_network()
    path = save_checkpoint(tmp_path / "gone.safetensors", net, default_card(net, labels=NAMES))
    dock.widget.checkpoints.add(path)
    dock.until(lambda: dock.widget.checkpoint.candidate.short_name == "gone")
    path.unlink()
    dock.segment()
    assert "gone.safetensors" in dock.status
    assert "ct labels" not in dock.viewer.layers


@pytest.mark.parametrize(
    "what", ["labels", *(pytest.param(what, marks=pytest.mark.long) for what in ("image", "data"))]
)
def test_layers_may_vanish_or_change_in_mid_run(dock, slow, what):
    image = dock.add(name="ct")
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() >= 1)
    labels = dock.labels("ct")
    if what == "image":
        dock.viewer.layers.remove(image)
    elif what == "labels":
        dock.viewer.layers.remove(labels)
    else:
        image.data = np.zeros((5, 20, 20), np.int16)
    slow.release()
    finished = []
    dock.widget.run_finished.connect(finished.append)
    dock.until(lambda: not dock.widget.running)
    assert finished[0].kind == "cancelled"
    assert finished[0].reason is not None
    if what != "labels":
        assert labels.editable
        assert 1 <= np.count_nonzero(labels.data.any(axis=(1, 2))) < 12


def test_slices_that_are_not_drawn_yet_when_labels_go_are_saved_with_them(dock, slow):
    dock.add(name="ct")
    slow.release()
    dock.press("segment_slice")
    dock.until(lambda: not dock.widget.running)
    slow.hold()
    dock.viewer.dims.set_current_step(0, 3)  # where the next run begins
    dock.press("segment_volume")
    labels, run = dock.labels("ct"), dock.widget.segmentation.run
    run._timer.stop()  # a busy window
    dock.until(lambda: bool(run._worker.finished))
    before = labels.data.copy()
    dock.viewer.layers.remove(labels)
    slow.release()
    run._timer.start()
    dock.until(lambda: not dock.widget.running)
    dock.until(lambda: not dock.widget.segmentation.unfinished())
    (info,) = SessionStore().sessions()
    saved = load_folder(info.folder)
    assert np.array_equal(saved.arrays["labels"], labels.data)
    assert not np.array_equal(before, labels.data)
    assert len(saved.state["session"]["runs"]) == 2


def test_labels_replaced_in_mid_run_are_left_alone(dock, slow):
    dock.add(name="ct")
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() >= 1)
    labels = dock.labels("ct")
    labels.data = np.full(SHAPE, 3, np.uint8)
    slow.release()
    dock.until(lambda: not dock.widget.running)
    assert (labels.data == 3).all()
    assert "the labels were replaced" in dock.status


def test_closing_the_dock_in_mid_run_keeps_what_is_there(dock, slow, caplog):
    dock.add(name="ct")
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() >= 1)
    labels, run = dock.labels("ct"), dock.widget.segmentation.run
    dock.viewer.window.remove_dock_widget(dock.widget)
    assert labels.editable
    assert labels.data.any()
    slow.release()
    assert run.wait(TIMEOUT / 1000)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    labels.undo()
    assert not labels.data.any()


def test_a_closed_dock_finds_its_results_when_it_is_opened_again(dock):
    dock.add(name="ct")
    dock.segment()
    labels = dock.labels("ct")
    dock.viewer.window.remove_dock_widget(dock.widget)
    _, widget = dock.viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
    assert widget.result.layer is labels
    assert widget.result.session is sessions_of(dock.viewer).result_of(labels).session


def test_closing_the_window_in_mid_run_leaves_no_thread(
    make_napari_viewer, qtbot, checkpoints, monkeypatch, slow, caplog
):
    viewer = make_napari_viewer()
    dock = Dock.opened(viewer, qtbot, checkpoints, monkeypatch)
    dock.add(name="ct")
    dock.press("segment_volume")
    dock.until(lambda: dock.progress.value() >= 1)
    run = dock.widget.segmentation.run
    threading.Timer(0.3, slow.release).start()  # the batch under way ends while the window closes
    started = time.monotonic()
    viewer.close()
    assert run.wait(0), "the worker must be gone when the window is"
    assert time.monotonic() - started < TIMEOUT / 1000
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_volume_stored_upside_down_gets_its_labels_where_they_belong(dock, checkpoints):
    from dataclasses import replace

    volume, _, _ = synthetic_ct(SHAPE)
    flipped = Volume(
        np.ascontiguousarray(volume.data[::-1, :, ::-1].transpose(1, 0, 2)),
        volume.geometry.reoriented((1, 0, 2), (False, True, True)),
        "CT",
        replace(volume.source, name="turned"),
    )
    add_volume(dock.viewer, flipped)
    dock.segment()
    labels = dock.labels("turned")
    assert labels.data.shape == flipped.data.shape
    assert np.mean(labels.data == _expected(checkpoints, flipped)) > 0.999
    assert (
        sessions_of(dock.viewer).result_of(labels).session.runs[-1].total == 12
    )  # slices along the body, though that is array axis 1


def test_labels_that_no_run_made_are_asked_about_and_outlive_a_run_that_stopped(dock, slow):
    """Labels from a file, with *Review and correct* open: nothing is written into them, or removed, unasked."""
    from napari_transunet.viewer.layers.layers import labels_to_layer
    from napari_transunet.volumes.labels import LabelSet

    image = dock.add(name="ct")
    dock.viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[2, 5:9, 5:9] = 2
    data, meta, _ = labels_to_layer(
        drawn.copy(), volume_of(image).geometry, LabelSet.from_names(NAMES), "file"
    )
    layer = dock.viewer.add_labels(data, **meta)
    assert dock.widget.result.layer is layer  # the dock names it
    assert dock.widget.findChild(QComboBox, "labels").currentText() == "file"
    dock.press("segment_volume")
    assert "file" in dock.question
    dock.press("question_yes")
    dock.widget.cancel()
    slow.release()
    dock.until(lambda: not dock.widget.running)
    assert layer in dock.viewer.layers
    layer.undo()
    assert np.array_equal(layer.data, drawn)
    dock.viewer.layers.selection.active = layer
    dock.press("segment_volume")
    dock.press("question_no")
    dock.until(lambda: not dock.widget.running)
    assert np.array_equal(layer.data, drawn)
    assert dock.labels("ct").data.any()


def test_a_backup_copy_is_neither_written_into_nor_exported(dock):
    from napari.layers._layer_actions import _duplicate_layer

    dock.add(name="ct")
    dock.segment()
    labels = dock.labels("ct")
    dock.viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    dock.viewer.layers.selection = {labels}
    _duplicate_layer(dock.viewer.layers)
    copy = dock.viewer.layers["ct labels copy"]
    assert dock.widget.panel.layer is labels  # what *Export…* writes
    copy.data_setitem((np.array([0]), np.array([0]), np.array([0])), 3)
    before = copy.data.copy()
    labels.undo()
    dock.segment()
    assert np.array_equal(copy.data, before)
    assert labels.data.any()
    dock.viewer.layers.selection.active = labels
    dock.viewer.layers.selection.active = copy  # a person's own choice
    dock.until(lambda: dock.widget.findChild(QComboBox, "labels").findText("ct labels copy") >= 0)
    assert sessions_of(dock.viewer).result_of(copy) is not None
    assert dock.widget.panel.layer is copy


@pytest.mark.long
def test_an_organ_that_was_deleted_has_its_name_again_when_a_run_finds_it(dock):
    dock.add(name="ct")
    dock.segment()
    result = dock.widget.result
    _, review = dock.viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    named = result.label_set
    gone = int(np.unique(result.layer.data)[1])
    dock.until(lambda: gone in review.organs.values)
    result.layer.selected_label = gone
    review.findChild(QToolButton, "delete_label").click()
    review.findChild(QPushButton, "question_yes").click()
    dock.until(lambda: result.label_set.get(gone) is None)
    review.findChild(QToolButton, "add_label").click()
    review.findChild(QLineEdit, "label_name").setText("cyst")
    review.findChild(QPushButton, "label_ok").click()
    cyst = next(label for label in result.label_set if label.name == "cyst")
    assert cyst.value not in named.names  # or the network's organ would go by its name
    dock.segment()
    assert dock.widget.result is result
    dock.until(lambda: bool(review.model.overview and review.model.overview.conflicts))
    review.model.accept_prediction(everywhere=True)
    assert gone in result.layer.data
    assert result.label_set == LabelSet((*named, cyst))


@pytest.mark.long
def test_labels_of_another_image_are_followed_when_they_are_selected(dock):
    first, second = dock.add(name="first"), dock.add(name="second")
    for image in (first, second):
        dock.widget.volume.choose(image)
        dock.segment()
    for name, image in (("first", first), ("second", second)):
        dock.viewer.layers.selection.active = dock.labels(name)
        assert dock.widget.volume.layer is image
        assert dock.widget.panel.layer is dock.labels(name)  # what *Export…* writes
        assert dock.widget.result.layer is dock.labels(name)  # what a run writes into


@pytest.mark.parametrize("dropped", [False, True])
def test_a_label_file_that_was_opened_as_an_image_is_asked_about(dock, tmp_path, dropped):
    from napari_transunet.io.writing import write_volume
    from napari_transunet.volumes.volume import Source

    image = dock.add(name="ct")
    numbers = np.zeros(SHAPE, np.uint8)
    numbers[3:6, 4:9, 4:9] = 2
    file = Volume(numbers, volume_of(image).geometry, None, Source(None, "", "seg"))
    path = write_volume(tmp_path / "seg.nii.gz", file)
    if dropped:
        dock.viewer.open(str(path), plugin="napari-transunet")
    else:
        dock.widget.loader.open_path(path)
    dock.until(lambda: dock.question is not None)
    assert "looks like labels" in dock.question
    assert dock.widget.volume.layer is image
    dock.press("question_yes")
    labels = dock.viewer.layers["seg"]
    assert labels._type_string == "labels"
    assert dock.widget.volume.layer is image
    assert dock.widget.result.layer is labels
    assert np.array_equal(labels.data, numbers)
