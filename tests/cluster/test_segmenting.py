"""Segmenting on a real scheduler and worker: what is written, skipped, refused, sent and brought back."""

import csv
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_transunet.cluster import segmenting
from napari_transunet.cluster.batch import Batch, State
from napari_transunet.cluster.checkpoints import CheckpointReference, reference_to, sent
from napari_transunet.cluster.connecting import client_at
from napari_transunet.cluster.segmenting import Marker, SegmentationPlan, marker_in, segmentation_units
from napari_transunet.export.segmentation import LoadingOptions, ReadingOptions
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.io.reading import read_volume
from tests.cli.conftest import run  # noqa: F401
from tests.cluster.conftest import whole
from tests.commands import error_line


def rows_of(path):
    with Path(path).open(newline="") as file:
        return {Path(row["scan"]).name: row for row in csv.DictReader(file)}


def test_labels_are_those_of_the_plain_loop_and_are_not_made_again(run, cluster, scans, checkpoint):  # noqa: F811
    paths = scans(3)
    common = ("--checkpoint", checkpoint, "--device", "cpu", "--precision", "float32")
    assert run("segment", *paths, "-o", "plain", *common).exit_code == 0
    result = run("segment", *paths, "-o", "out", *common, "--scheduler", cluster, "--report", "found.html")
    assert result.exit_code == 0, result.stderr
    assert "3 of 3 scans done; 0 failed." in result.stderr
    assert Path("found.html").read_text("utf-8").count("data:image/jpeg;base64,") == 3 * 3
    with Path("found.csv").open(newline="") as file:
        cases = dict.fromkeys(row["case"] for row in csv.DictReader(file))
    assert list(cases) == ["case000", "case001", "case002"]
    for path in paths:
        one, other = (read_volume(Path(folder) / path.name) for folder in ("plain", "out"))
        np.testing.assert_array_equal(one.data, other.data)
        assert one.geometry.matches(other.geometry)
    for row in rows_of("out/segment.csv").values():
        assert (row["state"], row["worker"], row["attempts"]) == ("done", "desk", "1")  # it saw all by itself

    # What is there is left as it is, whichever of the two made it.
    for folder in ("out", "plain"):
        before = {path: path.stat().st_mtime_ns for path in Path(folder).glob("case*")}
        result = run("segment", *paths, "-o", folder, *common, "--scheduler", cluster)
        assert "3 of 3 scans done, 3 of them in an earlier run" in result.stderr
        assert {path: path.stat().st_mtime_ns for path in Path(folder).glob("case*")} == before


def test_only_what_was_made_otherwise_is_made_again_and_only_when_asked(run, cluster, scans, checkpoint):  # noqa: F811
    paths = scans(4)
    common = ("segment", *paths, "-o", "out", "-c", checkpoint, "--device", "cpu", "--scheduler", cluster)
    assert run(*common).exit_code == 0
    labels = [Path("out") / path.name for path in paths]
    labels[0].unlink()  # never finished: the JSON file comes first
    labels[1].write_bytes(labels[2].read_bytes()[:-1] + b"x")  # somebody changed it
    shutil.copy(paths[3], paths[2])  # another scan under the name of case002
    edited = labels[1].read_bytes()

    result = run(*common)
    assert result.exit_code == 2
    states = {name: row["state"] for name, row in rows_of("out/segment.csv").items()}
    assert list(states.values()).count("failed") == 2
    assert (states["case000.nii.gz"], states["case003.nii.gz"]) == ("done", "there already")
    assert "made otherwise, or changed since" in rows_of("out/segment.csv")["case001.nii.gz"]["message"]
    assert labels[1].read_bytes() == edited

    result = run(*common, "--overwrite")
    assert result.exit_code == 0
    assert "4 of 4 scans done, 2 of them in an earlier run" in result.stderr
    again = run(*common, "--overwrite", "--precision", "float32")
    assert "4 of 4 scans done; 0 failed" in again.stderr  # other options: all of them


def test_a_bad_scan_is_named_and_the_others_are_done(run, cluster, scans, checkpoint, tmp_path):  # noqa: F811
    paths = scans(2)
    bad = tmp_path / "scans/bad.nii.gz"
    bad.write_bytes(b"no scan")
    result = run("segment", bad, *paths, "-o", "out", "-c", checkpoint, "--scheduler", cluster)
    assert str(bad) in error_line(result)
    assert "2 of 3 scans done; 1 failed." in result.stderr
    assert sorted(path.name for path in Path("out").glob("*.nii.gz")) == ["case000.nii.gz", "case001.nii.gz"]
    assert rows_of("out/segment.csv")["bad.nii.gz"]["attempts"] == "1"  # no retry makes it a scan
    assert not list(Path("out").glob(".*"))


def test_a_checkpoint_that_is_not_there_stops_before_anything_begins(run, cluster, scans):  # noqa: F811
    result = run("segment", *scans(1), "-o", "out", "-c", "missing.safetensors", "--scheduler", cluster)
    assert "no checkpoint file missing.safetensors" in error_line(result)
    assert not Path("out").exists()


def test_without_a_name_a_worker_takes_the_checkpoint_that_fits(run, cluster, scans, checkpoint, monkeypatch):  # noqa: F811
    monkeypatch.setattr("napari_transunet.checkpoints.registry.shipped_folder", lambda: checkpoint.parent)
    result = run("segment", *scans(1), "-o", "out", "--scheduler", cluster)
    assert result.exit_code == 0, result.stderr
    assert rows_of("out/segment.csv")["case000.nii.gz"]["checkpoint"] == "organs"


@pytest.fixture
def plan(checkpoint):
    reference, _ = reference_to(str(checkpoint), LoadingOptions())
    options = PredictorOptions(device="cpu", precision="float32")
    return SegmentationPlan((reference,), options, LoadingOptions(), ReadingOptions(), False, Marker("", ""))


def test_scans_checkpoint_and_labels_travel_where_no_file_system_is_shared(
    client, scans, plan, tmp_path, monkeypatch
):
    """The worker sees neither the folder of the results nor the checkpoint, of which it is sent the bytes."""
    (tmp_path / "out").mkdir()
    paths = scans(2)
    targets = [tmp_path / "out" / path.name for path in paths]
    # A worker has loaded the fixture's checkpoint perhaps; this one is another, so it must come by the wire.
    own = tmp_path / "mine/organs.pth"
    own.parent.mkdir()
    import torch

    from napari_transunet.checkpoints.loading import load_checkpoint

    net = load_checkpoint(plan.checkpoints[0].path).model
    with torch.no_grad():
        net.segmentation_head[0].bias.copy_(torch.tensor([0.0, 3.0, 2.0]))
    torch.save(net.state_dict(), own)
    real, _ = reference_to(str(own), LoadingOptions())
    hidden = CheckpointReference(real.name, "/not/there/organs.pth", real.sha256)
    plan = replace(plan, checkpoints=(hidden,))
    asked = []

    def supply(digest):
        asked.append(digest)
        return sent(real, LoadingOptions())

    read = []
    monkeypatch.setattr(
        segmenting, "read_volume", lambda path, **more: read.append(path) or read_volume(path, **more)
    )
    units = [replace(unit, checkpoint=supply) for unit in segmentation_units(paths, targets, plan)]
    finished = list(Batch(client).run(units))
    assert sorted(read) == paths  # once each, not again for the labels that come back
    assert [one.state for one in finished] == [State.DONE] * 2, finished
    assert asked == [real.sha256]  # once for the worker, whatever the number of scans
    for path, target in zip(paths, targets, strict=True):
        labels, scan = read_volume(target), read_volume(path)
        assert (labels.data == 1).all()
        assert labels.geometry.matches(scan.geometry)
        provenance = json.loads(target.with_name(target.name.replace(".nii.gz", ".json")).read_text())[
            "provenance"
        ]
        assert provenance["sha256"] == real.sha256
    again = list(Batch(client).run(segmentation_units(paths, targets, plan)))
    assert [one.state for one in again] == [State.SKIPPED] * 2


def test_bytes_that_are_not_the_checkpoint_s_are_refused(client, scans, plan, tmp_path):
    good = sent(plan.checkpoints[0], LoadingOptions())
    hidden = replace(plan.checkpoints[0], path="/not/there", name="elsewhere", sha256="0" * 64)
    plan = replace(plan, checkpoints=(hidden,))
    damaged = replace(good, reference=hidden, content=good.content[:-1] + b"x")
    (path,) = scans(1)
    (unit,) = segmentation_units([path], [tmp_path / "labels.nii.gz"], plan)
    (one,) = Batch(client).run([replace(unit, checkpoint=lambda _: damaged)])
    assert one.state is State.FAILED
    assert "arrived damaged" in one.message
    assert not (tmp_path / "labels.nii.gz").exists()


def test_two_clients_at_once_have_every_scan_done_once(cluster, scans, plan, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    paths = scans(6)
    targets = [out / path.name for path in paths]
    found = {}

    def go(name):
        with client_at(cluster) as client, marker_in(out) as marker:
            units = segmentation_units(paths, targets, replace(plan, marker=marker))
            found[name] = list(Batch(client).run(units))

    threads = [threading.Thread(target=go, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for finished in found.values():
        assert {one.state for one in finished} <= {State.DONE, State.SKIPPED}, finished
        assert len(finished) == 6
    files = whole(out)
    assert sorted(files) == sorted(
        name for path in paths for name in (path.name, path.name.replace(".nii.gz", ".json"))
    )
    dates = {
        path.name: json.loads(files[path.name.replace(".nii.gz", ".json")])["provenance"] for path in paths
    }
    assert all(made["sha256"] == plan.checkpoints[0].sha256 for made in dates.values())
