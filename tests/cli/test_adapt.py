import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.cli.adapt import _corrections
from napari_transunet.io.dicom.rtstruct_writing import write_rtstruct
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.fine_tuning import AdaptationCancelled
from napari_transunet.training.replay import ReplayPack
from napari_transunet.volumes.labels import LabelSet
from tests.cli.conftest import write_image
from tests.commands import error_line
from tests.io.dicom.test_seg_writing import _series
from tests.networks import as_if_learnt


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(0)
    net = as_if_learnt(TransUNet("testing", num_classes=3, img_size=32))
    card = default_card(net, labels={1: "spleen", 2: "liver"}, modality="CT")
    return save_checkpoint(tmp_path / "start.safetensors", net, card)


@pytest.fixture
def labels(tmp_path, scan):
    data = np.zeros((5, 40, 36), np.uint8)
    data[:, 5:30, 5:15], data[:, 5:30, 20:30] = 1, 2
    return write_image(tmp_path / "labels.nii.gz", data)


def test_it_writes_a_checkpoint_with_lineage_and_what_to_replay(run, start, scan, labels, tmp_path):
    result = run(
        "adapt", start, scan, labels, "-o", "out.safetensors", "--slices", "2", "--steps", 2, "--json"
    )

    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    better = load_checkpoint(tmp_path / "out.safetensors")
    (story,) = better.card.lineage
    assert story.scans[0].slices == (2,)
    assert told["lineage"]["parent"] == story.parent == load_checkpoint(start).sha256
    assert str(tmp_path) not in better.card.to_json()
    assert len(ReplayPack.read(tmp_path / "out.replay.npz")) == 1
    shown = run("inspect", "out.safetensors")
    assert "start" in shown.stdout
    assert "1 slice of 1 scan" in shown.stdout


def test_a_new_organ_is_named(run, start, scan, labels, tmp_path):
    image = sitk.ReadImage(str(labels))
    data = sitk.GetArrayFromImage(image)
    data[:, 32:38, 5:30] = 7
    write_image(labels, data)
    wanted = ("adapt", start, scan, labels, "-o", "out.safetensors", "--slices", "1", "--steps", 1)

    assert "7" in error_line(run(*wanted))
    assert run(*wanted, "--new-organ", "7=cyst").exit_code == 0
    assert load_checkpoint(tmp_path / "out.safetensors").card.label_names[3] == "cyst"
    assert int(ReplayPack.read(tmp_path / "out.replay.npz").slices.labels.max()) == 3


def test_labels_go_by_the_names_that_their_file_gives_them(run, start, scan, labels, tmp_path, monkeypatch):
    taken = []

    def adapted(checkpoint, corrections, **_more):
        taken.append(corrections[0].labels)
        raise AdaptationCancelled

    monkeypatch.setattr("napari_transunet.training.adaptation.adapt", adapted)
    volume = read_volume(labels)
    own, wanted = np.zeros((2, *volume.data.shape), np.uint8)
    for value, organ, slices in (
        (1, 2, slice(0, 2)),
        (3, 1, slice(2, 3)),
        (255, 255, slice(3, 4)),
        (4, 7, slice(4, 5)),
    ):
        own[slices, 5:9], wanted[slices, 5:9] = value, organ

    def adapt(names, *more):
        file = tmp_path / "named.seg.nrrd"
        write_labels(file, own, volume, LabelSet.from_names(names), overwrite=True)
        return run("adapt", start, scan, file, "-o", "out.safetensors", *more)

    # As 3D Slicer numbers segments: in the order in which they were drawn.
    result = adapt({1: "Liver", 3: "Spleen", 4: "Cyst"}, "--new-organ", "7=cyst")
    assert "3 as spleen, 1 as liver, 4 as cyst" in result.stderr
    np.testing.assert_array_equal(taken.pop(), wanted)
    assert result.stderr.count("Interrupted") == 1
    # A value that --new-organ names is that organ, whatever the file calls it.
    adapt({1: "Liver", 3: "Spleen", 4: "Segment_4"}, "--new-organ", "4=cyst")
    np.testing.assert_array_equal(taken.pop(), np.where(wanted == 7, 4, wanted))
    own[own == 3] = 2  # which is the checkpoint's liver
    message = error_line(adapt({1: "Liver", 2: "Adrenal gland", 4: "Cyst"}, "--new-organ", "7=cyst"))
    assert "'Adrenal gland'" in message
    assert "2 is liver" in message
    assert taken == []
    nameless = load_checkpoint(start)
    start = save_checkpoint(
        tmp_path / "nameless.safetensors", nameless.model, nameless.card.updated(labels=())
    )
    own[own > 2] = 0
    adapt({1: "Liver", 2: "Spleen"})
    np.testing.assert_array_equal(taken.pop(), own)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--slices", "9"], "9"),
        (["--slices", "a"], "--slices"),
        (["--slices", "1", "--slices", "2"], "pairs"),
        (["--organs", "heart"], "heart"),
        (["--drop", "heart"], "heart"),
        (["--new-organ", "cyst"], "--new-organ"),
        (["-o", "out.pth"], "out.pth"),
        (["--earlier", "1"], "--earlier"),
    ],
)
def test_bad_usage_is_one_sentence(run, start, scan, labels, more, word):
    assert word in error_line(run("adapt", start, scan, labels, "-o", "out.safetensors", *more))


def test_scans_without_labels_and_other_grids_are_refused(run, start, scan, labels, tmp_path):
    other = write_image(tmp_path / "other.nii.gz", np.zeros((5, 40, 36), np.uint8), (2.5, 0.7, 0.9))

    assert "pairs" in error_line(run("adapt", start, scan, "-o", "out.safetensors"))
    assert "grid" in error_line(run("adapt", start, scan, other, "-o", "out.safetensors"))
    assert not (tmp_path / "out.safetensors").exists()


def test_earlier_scans_are_replayed(run, start, scan, labels, tmp_path):
    wanted = ("adapt", start, scan, labels, scan, labels, "--slices", "2", "--slices", "0,4")

    result = run(*wanted, "--earlier", "1", "-o", "out.safetensors", "--steps", 1)

    assert result.exit_code == 0, result.stderr
    (story,) = load_checkpoint(tmp_path / "out.safetensors").card.lineage
    assert [one.slices for one in story.scans] == [(2,)]
    assert story.replayed == 2
    assert len(ReplayPack.read(tmp_path / "out.replay.npz")) == 3


def test_without_a_checkpoint_a_first_network_learns(run, scan, labels, tmp_path, monkeypatch):
    from napari_transunet.training import first_network

    monkeypatch.setattr(first_network, "list_checkpoints", list)
    monkeypatch.setattr(
        first_network.first_network, "__kwdefaults__", {"variant": "testing", "modality": None}
    )
    wanted = ("adapt", "none", scan, labels, "-o", "out.safetensors", "--slices", "2", "--steps", 1)

    assert "organs" in error_line(run(*wanted))
    result = run(*wanted, "--new-organ", "1=spleen", "--new-organ", "2=femur", "--modality", "XA")

    assert result.exit_code == 0, result.stderr
    card = load_checkpoint(tmp_path / "out.safetensors").card
    assert card.label_names == {1: "spleen", 2: "femur"}
    assert card.modality == "XA"
    assert card.lineage[0].parent is None


def test_the_series_of_a_structure_set_is_the_scan_that_it_is_given_with(start, tmp_path):
    scan, far = _series(tmp_path / "ct"), tmp_path / "far" / "away"
    far.mkdir(parents=True)
    drawn = np.zeros(scan.data.shape, np.uint8)
    drawn[2:5, 2:6, 3:7] = 2
    write_rtstruct(far / "drawn.dcm", drawn, scan.geometry, LabelSet.from_names({2: "liver"}), scan.source)
    card = load_checkpoint(start).card
    (one,) = _corrections([tmp_path / "ct", far / "drawn.dcm"], ["2-4"], None, card, {})
    assert np.array_equal(one.labels, drawn)
