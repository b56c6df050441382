"""The command `segment` into an OME-Zarr: streamed, resumed, from disk and over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import zarr

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import ExistsError, TransUNetError
from napari_transunet.export.ome_zarr_segmentation import segment_ome_zarr
from napari_transunet.inference.predictor import Predictor
from napari_transunet.io.ome_zarr.labels import LabelsPlace
from napari_transunet.io.ome_zarr.reading import open_ome_zarr
from napari_transunet.io.reading import read_volume
from napari_transunet.model.transunet import TransUNet
from tests.commands import error_line
from tests.io.ome_zarr_samples import served, write_ome_zarr
from tests.networks import SMALL, balanced, make_networks_quick, varied


def saved(net, folder):
    card = default_card(net, labels={1: "spleen", 2: "liver"})
    card = card.model_copy(update={"normalisation": "percentiles", "window": None, "orientation": "LPS"})
    return save_checkpoint(folder / "organs.safetensors", net, card)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A network whose answer depends on the slice, by the percentiles of its volume."""
    make_networks_quick(monkeypatch)
    torch.manual_seed(3)
    return saved(balanced(varied(TransUNet(SMALL, num_classes=3, img_size=32))), tmp_path)


@pytest.fixture
def scan(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 1000, (11, 36, 40)).astype(np.int16)
    return write_ome_zarr(tmp_path / "scan.ome.zarr", values, chunks=(3, 16, 16))


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch):
    monkeypatch.setattr("napari_transunet.io.ome_zarr.labels._SLAB", 4 * 36 * 40)


def labels_of(network, path):
    return Predictor(load_checkpoint(network), device="cpu", backend="torch").predict(read_volume(path))


def test_labels_go_into_the_image_as_those_of_a_volume_in_memory(run, scan, network):
    result = run("segment", "scan.ome.zarr", "-o", "scan.ome.zarr", "-c", network)

    assert result.exit_code == 0, result.stderr
    group = zarr.open_group(scan / "labels" / "organs", mode="r")
    expected = labels_of(network, scan)
    assert len({found.tobytes() for found in expected}) > 1
    assert np.array_equal(group["0"][:], expected)
    provenance = group.attrs["napari_transunet"]
    assert provenance["checkpoint"] == "organs"
    assert sorted(provenance["review_order"]) == list(range(11))
    assert any("sample" in note for note in provenance["reading_notes"])
    assert read_volume(scan / "labels" / "organs").labels.names[2] == "liver"
    assert "exists already" in error_line(run("segment", scan, "-o", scan, "-c", network))
    assert run("segment", scan, "-o", scan, "-c", network, "--overwrite").exit_code == 0


def test_another_time_point_than_was_segmented_is_not_said_to_be_without_organs(run, scan, network, tmp_path):
    values = np.stack([read_volume(scan).data] * 2)
    series = write_ome_zarr(tmp_path / "series.ome.zarr", values, axes="tzyx")
    assert run("segment", series, "--time", "1", "-o", series, "-c", network).exit_code == 0
    (labels,) = (path for path in (series / "labels").iterdir() if path.is_dir())
    assert any("was segmented" in note for note in read_volume(labels, time=0).source.notes)
    assert not any("was segmented" in note for note in read_volume(labels, time=1).source.notes)
    for at, known in ((0, False), (1, True)):
        result = run("convert", labels, f"{at}.nrrd", "--time", at)
        assert ("was segmented" in result.stderr) is not known
        told = json.loads((tmp_path / f"{at}.json").read_text())["provenance"]
        assert ("checkpoint" in told) is known


def test_a_run_that_was_stopped_is_gone_on_with(run, scan, network):
    image = open_ome_zarr(scan)
    predictor = Predictor(load_checkpoint(network), device="cpu", backend="torch", batch_size=2)
    told = []
    with pytest.raises(TransUNetError):
        segment_ome_zarr(
            image,
            image.volume(),
            predictor,
            LabelsPlace(scan, "organs"),
            progress=lambda *at: told.append(at),
            cancelled=lambda: len(told) > 2,
        )
    begun = []
    made = segment_ome_zarr(
        image,
        image.volume(),
        predictor,
        LabelsPlace(scan, "organs"),
        began=lambda writer: begun.append((writer.done, writer.view())),
    )
    ((done, view),) = begun
    assert done == 4
    assert (made.slices, made.resumed_at) == (11, 4)
    labels = labels_of(network, scan)
    assert np.array_equal(zarr.open_array(made.folder / "0")[:], labels)
    assert np.array_equal(view[2:5, 3:9, 7], labels[2:5, 3:9, 7])


def test_a_run_is_not_gone_on_with_on_another_scan_of_the_same_size(run, scan, network):
    image = open_ome_zarr(scan)
    predictor = Predictor(load_checkpoint(network), device="cpu", backend="torch", batch_size=2)
    told = []
    with pytest.raises(TransUNetError):
        segment_ome_zarr(
            image,
            image.volume(),
            predictor,
            LabelsPlace(scan, "organs"),
            progress=lambda *at: told.append(at),
            cancelled=lambda: len(told) > 2,
        )
    for level in zarr.open_group(scan).array_values():
        level[:] = level[:][::-1]
    image = open_ome_zarr(scan)
    with pytest.raises(ExistsError, match="another image"):
        segment_ome_zarr(image, image.volume(), predictor, LabelsPlace(scan, "organs"))


def test_over_http_and_to_files(run, scan, network, tmp_path):
    with served(tmp_path) as address:
        result = run("segment", f"{address}/scan.ome.zarr", "-o", "new.ome.zarr/labels/mine", "-c", network)
        assert result.exit_code == 0, result.stderr
        assert run("convert", f"{address}/scan.ome.zarr", "copy.nrrd", "--level", "1").exit_code == 0
    assert np.array_equal(read_volume("new.ome.zarr/labels/mine").data, labels_of(network, scan))
    assert read_volume("copy.nrrd").data.shape == (11, 18, 20)
    assert run("segment", scan, "-o", "labels.nrrd", "-c", network).exit_code == 0
    assert np.array_equal(read_volume("labels.nrrd").data, labels_of(network, scan))
    assert "is not one" in error_line(run("segment", "copy.nrrd", "-o", "a.zarr", "-c", network))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_volume_larger_than_the_memory_that_it_takes_survives_being_killed(tmp_path, wide):
    """2 GB of voxels; the process may take 1.2 GB."""
    network = saved(balanced(varied(TransUNet("testing", num_classes=3, img_size=32))), tmp_path)
    shape = (1000, 1024, 1024)
    path = write_ome_zarr(tmp_path / "scan.ome.zarr", np.zeros((1, 1, 1), np.int16), levels=1)
    array = zarr.open_group(path).create_array(
        "s0", shape=shape, dtype="int16", chunks=(16, 512, 512), fill_value=0, overwrite=True
    )
    array[490:510, 300:700, 300:700] = 900
    command = [sys.executable, "-m", "napari_transunet", "segment", path, "-o", path, "-c", network]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    progress = path / "labels" / "organs" / ".progress.json"
    ends = time.monotonic() + 120
    while not (progress.is_file() and '"done": 0' not in progress.read_text()) and time.monotonic() < ends:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()

    # Not ru_maxrss, in which a process inherits what the one that started it took.
    measured = (
        "import re, sys; from pathlib import Path; from napari_transunet.cli import main;"
        "sys.argv[0] = 'napari-transunet'\n"
        "try: main()\n"
        "finally: print('peak', re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    second = subprocess.run(
        [sys.executable, "-c", measured, *command[3:]],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "Resuming" in second.stderr
    assert int(second.stdout.split("peak")[1]) * 1024 < 1.2e9
    labels = zarr.open_array(path / "labels" / "organs" / "0", mode="r")
    assert labels.shape == shape
    provenance = zarr.open_group(path / "labels" / "organs").attrs["napari_transunet"]
    assert provenance["resumed_at"] > 0
