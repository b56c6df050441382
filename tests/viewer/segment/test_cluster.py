"""The window and a scheduler and worker in other processes: pressed as a person does."""

import numpy as np
import pytest

pytest.importorskip("distributed", reason="the extra cluster is not installed")

import torch
from qtpy.QtWidgets import QComboBox, QLabel, QLineEdit, QPushButton

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.cluster.address import ClusterAddress
from napari_transunet.inference.devices import DeviceInfo
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.transunet import TransUNet
from napari_transunet.viewer.layers.layers import volume_of
from tests.cluster.conftest import Started, worker_process
from tests.networks import balanced, usual_parts, varied
from tests.viewer.segment.test_segment_dock import (  # noqa: F401
    NAMES,
    Dock,
    _expected,
    dock,
    viewer,
)

pytestmark = pytest.mark.usefixtures("wide")

SHAPE = (60, 48, 56)


class Cluster:
    """A scheduler and a worker on the loopback interface, each a process of its own."""

    def __init__(self):
        self.scheduler = Started("scheduler", "--port", 0)
        self.address = self.scheduler.line_with("Scheduler at").split()[-1]
        self.worker = self.new_worker()

    def new_worker(self):
        worker = Started("worker", self.address, "--workers", 1, "--gpu", "none", "--name", "desk")
        worker.line_with("A command uses them")
        return worker

    def kill(self):
        self.worker.kill()
        self.scheduler.kill()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with one checkpoint, of a variant that the worker's process knows too."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    with usual_parts():
        net = balanced(varied(TransUNet("testing", num_classes=4, img_size=64)))
    card = default_card(net, labels=NAMES, title="Three organs, CT", modality="CT", orientation="LPS")
    card = card.updated(smallest_part=1.0)
    save_checkpoint(folder / "three.safetensors", net, card)
    return folder


@pytest.fixture
def cluster():
    started = Cluster()
    yield started
    started.kill()


def fill(dock, address, **files):  # noqa: F811
    """Choose "Cluster…" in the list, and fill its window."""
    dock.choose("device", "Cluster…")
    dialog = dock.widget.cluster_dialog
    assert dialog.isVisible()
    dialog.findChild(QLineEdit, "cluster_address").setText(address)
    for name, path in files.items():
        dialog.findChild(QLineEdit, f"cluster_{name}").setText(str(path))
    dialog.findChild(QPushButton, "cluster_use").click()
    return dialog


def device_line(dock):  # noqa: F811
    return dock.widget.findChild(QComboBox, "device").currentText()


def test_the_choice_of_a_cluster(dock, tmp_path):  # noqa: F811
    chooser = dock.widget.device
    before = device_line(dock)
    for wrong in ("nowhere", "local:2", "tcp://ws-14"):
        dialog = fill(dock, wrong)
        assert dialog.isVisible()
        assert "such as tcp://host:8786; not" in dialog.findChild(QLabel, "cluster_problem").text()
    dialog.reject()
    assert device_line(dock) == before  # as it was
    assert chooser.cluster is None

    dialog = fill(dock, "tls://ws-14:8786")
    assert "certificates" in dialog.findChild(QLabel, "cluster_problem").text()
    for name in ("ca", "cert"):
        (tmp_path / name).write_text("pem")
    fill(dock, "tls://ws-14:8786", ca=tmp_path / "ca", cert=tmp_path / "cert")
    assert not dialog.isVisible()
    assert device_line(dock) == "Cluster tls://ws-14:8786"
    assert chooser.cluster.address == "tls://ws-14:8786"
    assert chooser.cluster.tls.ca == tmp_path / "ca"
    assert chooser.device == "auto"
    chooser.show_devices([DeviceInfo("cpu", "CPU")], "")  # found later: the choice stays
    assert chooser.cluster is not None
    dock.widget.findChild(QComboBox, "device").setCurrentIndex(0)
    assert chooser.cluster is None
    chooser.show_cluster(ClusterAddress("tcp://a:1"), choose=False)
    assert chooser.cluster is None


@pytest.mark.long
def test_nobody_there_can_be_done_here(dock, checkpoints, monkeypatch):  # noqa: F811
    monkeypatch.setattr("napari_transunet.cluster.connecting._ANSWERING", 0.5)
    layer = dock.add((8, 48, 56))
    fill(dock, "tcp://127.0.0.1:9")
    dock.press("segment_volume")
    dock.until(lambda: not dock.widget.running and dock.question is not None)
    assert "No scheduler answers" in dock.question
    assert len(dock.viewer.layers) == 1
    dock.button("question_no").click()
    dock.until(lambda: not dock.widget.running)
    np.testing.assert_array_equal(dock.labels(layer.name).data, _expected(checkpoints, volume_of(layer)))


@pytest.mark.slow
def test_slices_come_back_from_the_cluster_and_go_on_after_it_was_lost(dock, checkpoints, cluster, qtbot):  # noqa: F811
    layer = dock.add(SHAPE)
    dock.viewer.dims.set_current_step(0, 40)
    fill(dock, cluster.address)
    seen = []
    dock.widget.segmentation.progressed.connect(seen.append)
    dock.segment()
    assert dock.question is None
    expected = _expected(checkpoints, volume_of(layer))
    checkpoint = load_checkpoint(checkpoints / "three.safetensors")
    raw = Predictor(checkpoint, card=checkpoint.card.updated(smallest_part=None)).predict(volume_of(layer))
    assert (raw != expected).any(), "nothing was small"
    labels = dock.labels(layer.name)
    np.testing.assert_array_equal(labels.data, expected)
    assert "CPU on desk" in dock.status
    assert device_line(dock).startswith("CPU on desk, ")
    assert any(one.on.startswith("CPU on desk") for one in seen)
    (run,) = dock.widget.result.session.runs
    assert run.device == "CPU on desk"

    # The worker dies in the middle: what came stays, and the rest is computed where it is begun anew.
    dock.viewer.layers.remove(labels)
    dock.choose("device", device_line(dock))
    worker = cluster.worker

    def kill(_progress, killed=[]):  # noqa: B006
        if _progress.done > 2 and not killed:
            killed.append(True)
            worker_process(worker).kill()

    dock.widget.segmentation.progressed.connect(kill)
    dock.press("segment_volume")
    dock.until(lambda: not dock.widget.running)
    dock.widget.segmentation.progressed.disconnect(kill)
    assert "was lost" in dock.question
    assert "stay" in dock.question
    labels = dock.labels(layer.name)
    done = [index for index in range(SHAPE[0]) if labels.data[index].any()]
    assert 0 < len(done) < SHAPE[0]
    for index in done:
        np.testing.assert_array_equal(labels.data[index], raw[index])
    dock.button("question_yes").click()
    dock.until(lambda: not dock.widget.running)
    np.testing.assert_array_equal(labels.data, expected)
    assert dock.question is None
