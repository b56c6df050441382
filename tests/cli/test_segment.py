"""The command `segment`: what it writes, which checkpoint it takes, and what it never replaces."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet import __version__
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.model.transunet import TransUNet
from tests.cli.conftest import write_image
from tests.commands import error_line


def test_segment_writes_labels_on_the_scan_s_grid_and_says_what_made_them(run, scan, checkpoint):
    result = run("segment", scan, "-o", "labels.nrrd", "--checkpoint", checkpoint, "--device", "cpu")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert "liver" in result.stderr
    source, labels = sitk.ReadImage(str(scan)), sitk.ReadImage("labels.nrrd")
    assert labels.GetSize() == source.GetSize()
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(labels, get)(), getattr(source, get)(), atol=1e-4)
    assert (sitk.GetArrayFromImage(labels) == 2).all()

    beside = json.loads(Path("labels.json").read_text("utf-8"))
    provenance = beside["provenance"]
    assert provenance["variant"] == "testing"
    assert provenance["checkpoint"] == "organs"
    assert len(provenance["sha256"]) == 64
    assert provenance["pipeline"] == "card"
    assert provenance["device"] == "cpu"
    assert provenance["version"] == __version__
    assert provenance["date"].startswith("20")
    assert sorted(provenance["review_order"]) == list(range(5))
    order = ", ".join(map(str, provenance["review_order"]))
    assert order in result.stderr
    assert {label["name"] for label in beside["labels"]} == {"spleen", "liver"}


def test_segment_reports_what_it_found(run, scan, checkpoint):
    result = run(
        "segment", scan, "-o", "labels.nrrd", "-c", checkpoint, "--device", "cpu", "--report", "found.html"
    )
    assert result.exit_code == 0
    html = Path("found.html").read_text("utf-8")
    assert html.count("data:image/jpeg;base64,") == 3
    assert "liver" in html
    assert "organs" in Path("found.csv").read_text("utf-8")
    again = run(
        "segment", scan, "-o", "other.nrrd", "-c", checkpoint, "--device", "cpu", "--report", "found.html"
    )
    assert "exists already" in error_line(again)
    assert not Path("other.nrrd").exists()


def test_segment_looks_as_often_as_it_is_told_and_writes_it_down(run, scan, checkpoint, monkeypatch):
    from napari_transunet.model.inference import InferenceTransUNet

    looks = []
    forward = InferenceTransUNet.forward
    monkeypatch.setattr(
        InferenceTransUNet, "forward", lambda self, x: looks.append(len(x)) or forward(self, x)
    )
    common = (
        "segment",
        scan,
        "-o",
        "labels.nrrd",
        "-c",
        checkpoint,
        "--device",
        "cpu",
        "--backend",
        "torch",
        "--overwrite",
    )
    assert run(*common).exit_code == 0
    assert sum(looks) == 5
    provenance = json.loads(Path("labels.json").read_text("utf-8"))["provenance"]
    assert (provenance["planes"], provenance["flips"]) == (1, False)
    looks.clear()
    result = run(*common, "--orthogonal-planes", "--mirror-tta")
    assert result.exit_code == 0
    assert sum(looks) == 4 * (5 + 40 + 36)
    assert "Note on scan: This checkpoint learnt from slices along one axis alone" in result.stderr
    provenance = json.loads(Path("labels.json").read_text("utf-8"))["provenance"]
    assert (provenance["planes"], provenance["flips"]) == (3, True)
    assert "choose the pipeline 'card'" in error_line(run(*common, "--mirror-tta", "--pipeline", "paper"))
    looks.clear()
    result = run(*common, "--planes", "3", "--flips")  # the old names
    assert sum(looks) == 4 * (5 + 40 + 36)
    assert "--orthogonal-planes" in result.stderr
    assert "--mirror-tta" in result.stderr


def test_segment_never_replaces_a_file_unless_asked(run, scan, checkpoint, tmp_path):
    (tmp_path / "labels.nii.gz").write_bytes(b"mine")
    command = ("segment", scan, "-o", "labels.nii.gz", "-c", checkpoint)

    assert "--overwrite" in error_line(run(*command))
    assert (tmp_path / "labels.nii.gz").read_bytes() == b"mine"

    assert run(*command, "--overwrite").exit_code == 0
    assert sitk.ReadImage("labels.nii.gz").GetSize() == (36, 40, 5)


def test_segment_into_the_scan_s_own_folder_never_replaces_the_scan(run, scan, checkpoint, tmp_path):
    before = scan.read_bytes()
    result = run("segment", scan, "-o", tmp_path, "-c", checkpoint, "--overwrite")
    assert "replace the input" in error_line(result)
    assert scan.read_bytes() == before


def test_segment_never_replaces_the_file_beside_the_scan(run, scan, checkpoint, tmp_path):
    (tmp_path / "scan.json").write_text('{"Modality": "CT"}')
    result = run("segment", scan, "-o", tmp_path / "scan.nrrd", "-c", checkpoint, "--overwrite")
    assert "belongs to the input" in error_line(result)
    assert (tmp_path / "scan.json").read_text() == '{"Modality": "CT"}'


def test_labels_beside_a_scan_of_their_name_can_be_made_anew(run, scan, checkpoint, tmp_path):
    for _ in range(2):
        assert (
            run("segment", scan, "-o", tmp_path / "scan.nrrd", "-c", checkpoint, "--overwrite").exit_code == 0
        )
    assert "belongs to the input" in error_line(
        run("segment", "scan.nrrd", "-o", "scan.mha", "-c", checkpoint)
    )


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_labels_of_another_ending_keep_what_made_them(run, scan, checkpoint, tmp_path, more):
    assert run("segment", scan, "-o", "labels.nii.gz", "-c", checkpoint).exit_code == 0
    before = (tmp_path / "labels.json").read_bytes()
    result = run("segment", scan, "-o", "labels.nrrd", "-c", checkpoint, *more)
    assert "labels.nii.gz" in error_line(result)
    assert "Segmenting" not in result.stderr
    assert (tmp_path / "labels.json").read_bytes() == before


@pytest.mark.parametrize("other", ["b/scan.nii.gz", "b/Scan.nrrd", "b/\u00fc.nrrd"])
def test_no_two_inputs_have_labels_whose_names_a_file_system_may_take_for_one(run, scan, checkpoint, other):
    Path("b").mkdir()
    write_image(other, np.zeros((3, 20, 20), np.int16))
    if "scan" not in other.lower():
        scan = scan.rename("u\u0308.nii.gz")
    result = run("segment", scan, other, "-o", "out", "-c", checkpoint, "--overwrite")
    assert "Several inputs would be written to" in error_line(result)
    assert not Path("out").exists()


@pytest.mark.parametrize("link", ["labels.nrrd", "labels.json", "found.html", "found.csv"])
def test_no_link_whose_file_is_elsewhere_is_replaced_unasked(run, scan, checkpoint, link):
    Path(link).symlink_to("in a store that is not here")
    result = run("segment", scan, "-o", "labels.nrrd", "-c", checkpoint, "--report", "found.html")
    assert f"{link} " in error_line(result)
    assert "Segmenting" not in result.stderr
    assert Path(link).is_symlink()


def test_no_file_or_folder_is_called_as_standard_output_is(run, scan, checkpoint):
    for command in (
        ["segment", scan, "-o", "-", "-c", checkpoint],
        ["evaluate", scan, scan, "--csv", "-"],
        ["convert", scan, "-"],
    ):
        assert "name" in error_line(run(*command))
    assert not Path("-").exists()


def test_links_in_a_circle_are_told(run, scan, checkpoint, tmp_path):
    (tmp_path / "loop.nii.gz").symlink_to(tmp_path / "loop.nii.gz")
    for arguments in (
        ("convert", "loop.nii.gz", "new.nrrd"),
        ("convert", scan, "loop.nii.gz", "--overwrite"),
        ("evaluate", "loop.nii.gz", scan, "--csv", "scores.csv"),
    ):
        result = run(*arguments)
        assert "Traceback" not in result.stderr
        assert result.exit_code == (0 if "--overwrite" in arguments else 2)
    (tmp_path / "loop2.nii.gz").symlink_to(tmp_path / "loop2.nii.gz")
    result = run("segment", "loop2.nii.gz", scan, "-o", "out", "-c", checkpoint)
    assert result.exit_code == 2
    assert "1 of 2 volumes segmented" in result.stderr
    assert (tmp_path / "out" / "scan.nii.gz").is_file()


def test_segment_goes_on_after_an_input_fails_and_says_so(run, scan, checkpoint, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"this is no volume")
    write_image(tmp_path / "second.mha", np.zeros((3, 20, 20), np.int16))

    result = run("segment", scan, "broken.nii.gz", "second.mha", "-o", "out", "-c", checkpoint)

    assert "broken.nii.gz" in error_line(result)
    assert "2 of 3 volumes segmented; failed: broken.nii.gz" in result.stderr
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["scan.json", "scan.nii.gz", "second.json", "second.nii.gz"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_found_before_the_work(run, scan, checkpoint):
    result = run("segment", scan, "-o", "/proc/labels.nii.gz", "-c", checkpoint)
    assert result.exit_code == 2
    assert error_line(result).startswith(f"Error: {scan}: Cannot write to /proc")
    assert "Segmenting" not in result.stderr


def test_a_strangers_json_is_found_before_the_work(run, scan, checkpoint, tmp_path):
    other = tmp_path / "labels.json"
    other.write_text('{"RepetitionTime": 2}')
    result = run("segment", scan, "-o", tmp_path / "labels.nii.gz", "-c", checkpoint, "--overwrite")
    assert "does not describe labels" in error_line(result)
    assert "Segmenting" not in result.stderr
    assert other.read_text() == '{"RepetitionTime": 2}'


def test_a_wrong_checkpoint_leaves_no_folder_behind(run, scan, tmp_path):
    assert run("segment", scan, "-o", tmp_path / "results", "-c", "no-such").exit_code == 2
    assert not (tmp_path / "results").exists()


def test_a_checkpoint_that_cannot_be_used_stops_before_any_input_is_read(run, scan, tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    result = run("segment", scan, scan.parent, "-o", "out", "-c", "bad.pth")
    assert "bad.pth" in error_line(result)
    assert "volumes segmented" not in result.stderr


def test_segment_uses_the_one_shipped_checkpoint_that_fits(run, scan, checkpoint, monkeypatch):
    monkeypatch.setattr("napari_transunet.checkpoints.registry.shipped_folder", lambda: checkpoint.parent)
    result = run("segment", scan, "-o", "labels.nii.gz")
    assert result.exit_code == 0
    assert "Using the checkpoint organs" in result.stderr
    assert "for scan: it looks like CT (values -1,000 to 999)" in result.stderr


@pytest.fixture
def two_shipped(checkpoint, tmp_path, monkeypatch):
    """A shipped checkpoint of organs in CT, and one that knows crops in MR, which comes first by its name."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "organs.safetensors").write_bytes(checkpoint.read_bytes())
    net = TransUNet("testing", num_classes=2, img_size=32)
    card = default_card(net, labels={1: "crop"}, modality="MR", normalisation="percentiles",
                        extent=(48, 60, 42), title="Crops, MR")  # fmt: skip
    save_checkpoint(folder / "crops.safetensors", net, card)
    monkeypatch.setattr("napari_transunet.checkpoints.registry.shipped_folder", lambda: folder)
    return folder


@pytest.mark.parametrize(
    ("shape", "low", "modality", "chosen", "reason"),
    [
        ((5, 40, 36), -1000, None, "organs", "looks like CT"),
        ((5, 40, 36), 0, None, "crops", "may be MR"),
        ((5, 40, 36), 0, "CT", "organs", "it is CT"),
        ((5, 40, 36), 0, "MR", "crops", "it is MR"),
    ],
)
def test_segment_chooses_among_shipped_checkpoints_and_says_why(
    run, two_shipped, tmp_path, shape, low, modality, chosen, reason
):
    values = np.random.default_rng(0).integers(low, 1000, shape).astype(np.int16)
    scan = write_image(tmp_path / "scan.nii.gz", values)
    if modality is not None:
        (tmp_path / "scan.json").write_text(json.dumps({"Modality": modality}))
    result = run("segment", scan, "-o", "labels.nrrd")
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert f"Using the checkpoint {chosen} (" in said
    assert reason in said
    assert json.loads((tmp_path / "labels.json").read_text())["provenance"]["checkpoint"] == chosen


@pytest.mark.parametrize(
    ("shape", "low", "modality"),
    [
        ((40, 256, 256), 0, None),  # a head, rather than a crop of one
        ((40, 256, 256), 0, "MR"),
        ((5, 40, 36), -50, None),  # neither fat nor air, so it may be anything
        ((5, 40, 36), 0, "PT"),
    ],
)
def test_segment_names_the_checkpoints_where_it_cannot_choose(
    run, two_shipped, tmp_path, shape, low, modality
):
    scan = write_image(tmp_path / "scan.nii.gz", np.linspace(low, 900, math.prod(shape)).reshape(shape))
    if modality is not None:
        (tmp_path / "scan.json").write_text(json.dumps({"Modality": modality}))
    error = error_line(run("segment", scan, "-o", "labels.nrrd"))
    assert "No shipped checkpoint fits" in error
    assert (modality or "modality unknown") in error
    assert "name one with --checkpoint (crops, organs)" in error


def test_segment_notes_what_speaks_against_the_named_checkpoint(run, two_shipped, tmp_path):
    scan = write_image(tmp_path / "scan.nii.gz", np.zeros((5, 40, 36), np.int16), (2.5, 4.0, 4.0))
    result = run("segment", scan, "-o", "labels.nrrd", "-c", "crops")
    assert result.exit_code == 0
    assert "Note on scan: This checkpoint was trained on volumes of at most" in result.stderr


def test_segment_asks_where_no_shipped_checkpoint_fits(run, scan, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("napari_transunet.checkpoints.registry.shipped_folder", lambda: tmp_path / "empty")
    assert "--checkpoint" in error_line(run("segment", scan, "-o", "labels.nii.gz"))


def test_segment_takes_another_image_size_and_the_names_of_a_preset(run, scan, checkpoint, tmp_path):
    net = TransUNet("testing", num_classes=9, img_size=32)
    nameless = save_checkpoint(tmp_path / "nameless.safetensors", net)

    result = run("segment", scan, "-o", "labels.nrrd", "-c", nameless, "--img-size", "48x64",
                 "--labels", "synapse-table")  # fmt: skip
    assert result.exit_code == 0
    names = [label["name"] for label in json.loads((tmp_path / "labels.json").read_text())["labels"]]
    assert names[0] == "aorta"

    result = run("segment", scan, "-o", "other.nrrd", "-c", nameless, "--labels", "nobody")
    assert "synapse-table" in error_line(result)


def test_an_interrupted_segment_ends_with_130_and_leaves_nothing(
    run, scan, checkpoint, tmp_path, monkeypatch
):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_transunet.inference.predictor.Predictor.predict", interrupted)
    before = sorted(tmp_path.rglob("*"))
    result = run("segment", scan, "-o", "labels.nii.gz", "-c", checkpoint)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("Interrupted")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
@pytest.mark.long
def test_ctrl_c_in_a_real_run_leaves_no_half_file(wide_checkpoint, tmp_path):
    long = write_image(
        tmp_path / "long.nii", np.random.default_rng(0).integers(-1000, 200, (1500, 64, 64)).astype(np.int16)
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_transunet", "segment", long, "-o", tmp_path / "labels.nii.gz",
         "-c", wide_checkpoint, "--img-size", "256", "--device", "cpu", "--batch-size", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background job ignores the signal, and so would what the tests start from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        started = process.stderr.readline()
        assert started.startswith("Segmenting long"), started
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["long.nii"]


def test_without_dask_scheduler_says_what_to_install(run, scan, checkpoint, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    line = error_line(run("segment", scan, "-o", "out", "-c", checkpoint, "--scheduler", "local"))
    assert 'pip install "napari-transunet[cluster]"' in line
    monkeypatch.undo()
    assert "add --scheduler, or leave out --csv" in error_line(
        run("segment", scan, "-o", "out", "-c", checkpoint, "--csv", "f.csv")
    )
