"""Learning on a real worker: the same as here, and what is left where it is stopped, cut off, or its worker dies."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.cluster import one_worker
from napari_transunet.cluster.adapting import adapt_on_cluster
from napari_transunet.cluster.address import (
    ClusterAddress,
    ClusterProblem,
    ConnectionLost,
    SchedulerUnreachable,
)
from napari_transunet.cluster.connecting import client_at
from napari_transunet.cluster.live import RemotePredictor
from napari_transunet.errors import InputError
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.adaptation import adapt, replay_pack
from napari_transunet.training.corrections import Correction
from napari_transunet.training.fine_tuning import AdaptationCancelled
from napari_transunet.training.replay import replay_path
from napari_transunet.volumes.volume import Volume
from tests.cli.conftest import run, write_image  # noqa: F401
from tests.cluster.conftest import tls_options
from tests.commands import error_line
from tests.networks import as_if_learnt

ENDLESS = {"steps": 1_000_000}


@pytest.fixture
def parent(tmp_path):
    torch.manual_seed(0)
    net = as_if_learnt(TransUNet("testing", num_classes=3, img_size=32))
    card = default_card(net, labels={1: "spleen", 2: "liver"}, modality="CT")
    return load_checkpoint(save_checkpoint(tmp_path / "two organs.safetensors", net, card))


@pytest.fixture(scope="module")
def correction():
    random = np.random.default_rng(0)
    volume = Volume.from_array(random.integers(-1000, 1000, (9, 24, 20)).astype(np.int16))
    labels = np.zeros(volume.data.shape, np.uint8)
    labels[:, 4:12, 4:12], labels[:, 12:20, 4:12] = 1, 2
    return Correction(volume, labels, [1, 2, 4, 5, 7])


def same(found, expected):
    states = found.model.state_dict(), expected.model.state_dict()
    assert states[0].keys() == states[1].keys()
    # The worker has another number of threads, which adds up in another order.
    return all(torch.allclose(states[0][key], states[1][key], atol=1e-4) for key in states[0])


@pytest.mark.slow
def test_it_learns_as_here(client, parent, correction):
    replay_pack(parent.card, [replace(correction, slices=[8])]).write(replay_path(parent.path))
    wishes = {"steps": 3, "seed": 1, "new_organs": {3: "cyst"}}
    told = []
    found = adapt_on_cluster(client, parent, [correction], progress=told.append, **wishes)
    expected = adapt(parent, [correction], device="cpu", precision="float32", **wishes)
    assert same(found, expected)
    assert found.path == expected.path
    assert found.card.label_names == expected.card.label_names == {1: "spleen", 2: "liver", 3: "cyst"}
    story, other = found.card.lineage[-1], expected.card.lineage[-1]
    assert (story.parent, story.parent_name, story.scans) == (other.parent, other.parent_name, other.scans)
    assert story.replayed == other.replayed == 1
    assert told[-1].done == 1
    assert told[-1].dice is not None
    assert [path.name for path in sorted(parent.path.parent.iterdir())] == [
        "two organs.replay.npz",
        "two organs.safetensors",
    ]


@pytest.mark.slow
@pytest.mark.long
def test_a_checkpoint_that_is_not_there_is_sent_and_names_are_those_of_here(
    client, parent, correction, tmp_path, monkeypatch
):
    torch.save(parent.model.state_dict(), tmp_path / "bare.pth")
    bare = load_checkpoint(tmp_path / "bare.pth").with_labels({1: "milt", 2: "lever"})
    from napari_transunet.cluster import adapting

    reference = adapting.CheckpointReference
    monkeypatch.setattr(
        adapting, "CheckpointReference", lambda name, _path, sha: reference(name, "/nowhere", sha)
    )
    monkeypatch.setattr(
        adapting,
        "sent",
        lambda one, loading, sent=adapting.sent: sent(replace(one, path=str(bare.path)), loading),
    )
    found = adapt_on_cluster(client, bare, [correction], steps=1)
    assert found.card.label_names == {1: "milt", 2: "lever"}
    assert found.card.lineage[-1].parent == bare.sha256


@pytest.mark.slow  # a step of a variant that people use
def test_a_first_network_is_begun_there(client, correction):
    volume = replace(correction.volume, modality="US")  # no shipped checkpoint is for it
    found = adapt_on_cluster(
        client, None, [replace(correction, volume=volume)], new_organs={1: "a", 2: "b"}, steps=1
    )
    assert found.card.label_names == {1: "a", 2: "b"}


def test_what_cannot_be_learnt_is_told_as_here(client, parent, correction):
    with pytest.raises(InputError, match=r"desk: .*no slice 99"):
        adapt_on_cluster(client, parent, [replace(correction, slices=[99])], steps=1)


@pytest.mark.long
def test_others_have_the_network_between_its_steps_and_it_stops_when_told_to(
    client, cluster, parent, correction
):
    wished, seen = threading.Event(), []

    def look_at_a_slice(_):
        if not wished.is_set():
            options = PredictorOptions(device="cpu", precision="float32")
            other = RemotePredictor(parent, options, ClusterAddress(cluster))
            seen.extend(
                one.index for batch in other.iter_batches(correction.volume, slices=[3]) for one in batch
            )
            other.close(wait=True)
            wished.set()

    with pytest.raises(AdaptationCancelled):
        adapt_on_cluster(
            client, parent, [correction], progress=look_at_a_slice, cancelled=wished.is_set, **ENDLESS
        )
    assert seen == [3]
    found = adapt_on_cluster(client, parent, [correction], steps=1)  # the worker is free again
    assert found.card.lineage[-1].steps <= 1


@pytest.mark.long
def test_the_command_learns_there(run, cluster, parent, tmp_path):  # noqa: F811
    scan = write_image(tmp_path / "scan.nii.gz", np.zeros((5, 40, 36), np.int16))
    labels = np.zeros((5, 40, 36), np.uint8)
    labels[:, 5:30, 5:15], labels[:, 5:30, 20:30] = 1, 2
    labels = write_image(tmp_path / "labels.nii.gz", labels)
    wanted = ("adapt", parent.path, scan, labels, "-o", "out.safetensors", "--slices", "2", "--steps", 1)
    assert "--device" in error_line(run(*wanted, "--scheduler", cluster, "--device", "cpu"))
    result = run(*wanted, "--scheduler", cluster)
    assert result.exit_code == 0, result.stderr
    assert load_checkpoint(tmp_path / "out.safetensors").card.lineage[-1].parent == parent.sha256
    assert replay_path(tmp_path / "out.safetensors").is_file()


def test_nobody_there(parent, correction, start, monkeypatch):
    monkeypatch.setattr(one_worker, "_JOINING", 0.2)
    scheduler = start("scheduler", "--port", 0)
    with (
        client_at(scheduler.line_with("Scheduler at").split()[-1]) as client,
        pytest.raises(ClusterProblem, match="No worker is at"),
    ):
        adapt_on_cluster(client, parent, [correction], steps=1)


@pytest.mark.slow
def test_with_certificates_it_learns_for_those_who_have_them(start, certificates, parent, correction):
    good = certificates("ours", "member")
    address = start("scheduler", "--port", 0, *tls_options(good)).line_with("Scheduler at").split()[-1]
    start("worker", address, "--workers", 1, "--gpu", "none", *tls_options(good)).line_with(
        "A command uses them"
    )
    with client_at(address, good) as client:
        found = adapt_on_cluster(client, parent, [correction], steps=2)
    assert same(found, adapt(parent, [correction], device="cpu", precision="float32", steps=2))
    # Another authority, or a certificate that ours did not sign.
    for wrong in (certificates("other", "other"), certificates("ours", "other")):
        with pytest.raises(SchedulerUnreachable, match="do not trust each other"), client_at(address, wrong):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("which", ["worker", "scheduler"])
def test_nothing_changes_when_the_other_side_is_killed(start, parent, correction, which):
    scheduler = start("scheduler", "--port", 0)
    address = scheduler.line_with("Scheduler at").split()[-1]
    worker = start("worker", address, "--workers", 1, "--gpu", "none", "--name", "desk")
    worker.line_with("A command uses them")
    before = parent.path.read_bytes()
    told = []

    def kill(progress):
        if not told:
            (worker if which == "worker" else scheduler).kill()
        told.append(progress)

    with client_at(address) as client, pytest.raises(ConnectionLost, match=r"was lost\. Nothing was learnt"):
        adapt_on_cluster(client, parent, [correction], progress=kill, **ENDLESS)
    assert told
    assert parent.path.read_bytes() == before
    assert len(list(parent.path.parent.iterdir())) == 1
