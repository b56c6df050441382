"""One scan, slice by slice, on a real worker: the same slices, the one in view first, and what a cut leaves."""

import threading

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.cluster.address import ClusterAddress, ConnectionLost, SchedulerUnreachable
from napari_transunet.cluster.live import RemotePredictor, RunsOn
from napari_transunet.errors import InputError
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.transunet import TransUNet
from napari_transunet.volumes.volume import Volume
from tests.networks import balanced, varied

OPTIONS = PredictorOptions(device="cpu", precision="float32", batch_size=2)


@pytest.fixture(scope="module")
def volume():
    return Volume.from_array(np.random.default_rng(0).integers(-1000, 1000, (9, 24, 20)).astype(np.int16))


@pytest.fixture
def remote(cluster, checkpoint):
    predictor = RemotePredictor(load_checkpoint(checkpoint), OPTIONS, ClusterAddress(cluster))
    yield predictor
    predictor.close(wait=True)


def test_slices_are_those_of_a_predictor_here(remote, checkpoint, volume):
    here = Predictor(load_checkpoint(checkpoint), OPTIONS)
    assert remote.slice_axis(volume) == here.slice_axis(volume)
    expected = [one for batch in here.iter_batches(volume, first=6, uncertainty=True) for one in batch]
    found = [one for batch in remote.iter_batches(volume, first=6) for one in batch]
    assert [one.index for one in found] == [one.index for one in expected]
    assert found[0].index == 6
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.plane, other.plane)
        assert one.uncertainty.mean == pytest.approx(other.uncertainty.mean)
        np.testing.assert_array_equal(one.uncertainty.entropy, other.uncertainty.entropy)
    assert (remote.precision_name, remote.device) == ("float32", "CPU on desk")
    assert str(remote.on).startswith("CPU on desk, float32")
    only = [one.index for batch in remote.iter_batches(volume, slices=[3, 1]) for one in batch]
    assert only == [3, 1]


def test_small_parts_go_as_here_also_where_a_part_is_known_already(cluster, tmp_path, volume):
    torch.manual_seed(0)
    net = balanced(varied(TransUNet("testing", num_classes=3, img_size=32)))
    card = default_card(net, modality="CT")
    path = save_checkpoint(tmp_path / "parts.safetensors", net, card.updated(smallest_part=1.0))
    raw = dict(Predictor(net, OPTIONS, card=card).iter_slices(volume))
    expected = Predictor(load_checkpoint(path), OPTIONS).predict(volume)
    changed = [index for index in range(9) if (raw[index] != expected[index]).any()]
    assert len(changed) > 1, "nothing was small"
    remote = RemotePredictor(load_checkpoint(path), OPTIONS, ClusterAddress(cluster))
    known = {index: raw[index] for index in changed[:-1]}
    others = [index for index in range(9) if index not in known]
    for options in ({"first": 6}, {"slices": others, "known": known}):
        found = {one.index: one.plane for batch in remote.iter_batches(volume, **options) for one in batch}
        np.testing.assert_array_equal(
            np.stack([{**options.get("known", {}), **found}[z] for z in range(9)]), expected
        )
    remote.close(wait=True)


def test_the_scan_goes_over_once(remote, volume, monkeypatch):
    list(remote.iter_batches(volume, slices=[0]))
    sent = []
    scatter = type(remote._worker.client).scatter
    monkeypatch.setattr(
        type(remote._worker.client),
        "scatter",
        lambda self, data, **more: sent.append(data) or scatter(self, data, **more),
    )
    list(remote.iter_batches(Volume.from_array(volume.data.copy()), slices=[1]))
    assert not sent
    list(remote.iter_batches(Volume.from_array(volume.data + 1), slices=[1]))
    assert len(sent) == 1


def test_it_ends_within_a_batch_when_told_to(remote, volume):
    wished = threading.Event()
    batches = remote.iter_batches(volume, first=4, cancelled=wished.is_set)
    assert [one.index for one in next(batches)] == [4]
    wished.set()
    assert list(batches) == []
    assert [one.index for one in next(remote.iter_batches(volume, first=2))] == [
        2
    ]  # the worker is free again


def test_a_wrong_slice_is_told_as_here(remote, volume):
    with pytest.raises(InputError, match="no slice 99"):
        list(remote.iter_batches(volume, first=99))


def test_nobody_there(checkpoint, volume, monkeypatch):
    predictor = RemotePredictor(load_checkpoint(checkpoint), OPTIONS, ClusterAddress("tcp://127.0.0.1:9"))
    monkeypatch.setattr("napari_transunet.cluster.connecting._ANSWERING", 0.5)
    with pytest.raises(SchedulerUnreachable):
        list(predictor.iter_batches(volume))


def test_others_are_counted():
    assert str(RunsOn("ws-14", "GPU", "bfloat16", 2)) == "GPU on ws-14, bfloat16, 2 others waiting"
    assert str(RunsOn("ws-14", "GPU", "bfloat16", 1)).endswith("1 other waiting")
    assert str(RunsOn("ws-14", "GPU", "bfloat16")) == "GPU on ws-14, bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("which", ["worker", "scheduler"])
def test_what_came_stays_when_the_other_side_is_killed(start, checkpoint, volume, which):
    scheduler = start("scheduler", "--port", 0)
    address = scheduler.line_with("Scheduler at").split()[-1]
    worker = start("worker", address, "--workers", 1, "--gpu", "none")
    worker.line_with("A command uses them")
    predictor = RemotePredictor(load_checkpoint(checkpoint), OPTIONS, ClusterAddress(address))
    long = Volume.from_array(np.tile(volume.data, (40, 1, 1)))
    batches = predictor.iter_batches(long, first=4)
    assert [one.index for one in next(batches)] == [4]
    (worker if which == "worker" else scheduler).kill()
    with pytest.raises(ConnectionLost, match="was lost"):
        list(batches)
    predictor.close(wait=True)
