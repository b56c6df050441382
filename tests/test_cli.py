"""The command line as scripts use it: exit status, one line for an error, clean stdout."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from napari_transunet import __version__
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import VARIANTS
from tests.commands import invoke

SPACING_ZYX = (2.5, 0.7, 0.8)
DIRECTION = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command line in an empty folder with no checkpoints of the user's."""
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path / "no-checkpoints"))
    monkeypatch.chdir(tmp_path)

    return invoke


def error_line(result):
    """The one line that tells what was wrong."""
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def write_image(path, data, spacing=SPACING_ZYX):
    image = sitk.GetImageFromArray(data)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection(DIRECTION)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def scan(tmp_path):
    values = np.random.default_rng(0).integers(-1000, 1000, (5, 40, 36)).astype(np.int16)
    return write_image(tmp_path / "scan.nii.gz", values)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A network of two named organs whose answer is all organ 2, so that results can be foretold."""
    torch.manual_seed(0)
    net = TransUNet("testing", num_classes=3, img_size=32)
    with torch.no_grad():
        head = net.segmentation_head[0]
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    card = default_card(net, labels={1: "spleen", 2: "liver"}, modality="CT")
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "organs.safetensors", net, card)


def test_version_and_help_go_to_stdout(run):
    assert run("--version").stdout.strip() == f"napari-transunet {__version__}"
    help_text = run("--help")
    assert help_text.exit_code == 0
    for command in ("demo", "segment", "inspect", "variants", "convert", "evaluate"):
        assert command in help_text.stdout
    assert run().stdout == help_text.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), "nonsense"),
        (("segment",), "INPUT"),
        (("segment", "scan.nii.gz"), "--output"),
        (("segment", "a", "-o", "b.nii.gz", "--precision", "float8"), "float8"),
        (("segment", "a", "-o", "b.nii.gz", "--batch-size", "0"), "batch-size"),
        (("segment", "a", "-o", "b.nii.gz", "--img-size", "12x3x4"), "image size"),
        (("segment", "a", "-o", "b.nii.gz", "--planes", "2"), "--planes is 1 or 3, not 2"),
        (("segment", "a.nii.gz", "-o", "labels.png"), ".nii.gz"),
        (("segment", "a.nii.gz", "b.nii.gz", "-o", "labels.nii.gz"), "folder"),
        (("segment", "a/ct.nii.gz", "b/ct.nii.gz", "-o", "out"), "ct.nii.gz"),
        (("inspect", "missing.pth"), "missing.pth"),
        (("inspect", "nobody"), "nobody"),
        (("convert", "missing.nii.gz", "out.nrrd"), "missing.nii.gz"),
        (("evaluate", "missing.nii.gz", "other.nii.gz"), "missing.nii.gz"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run, arguments, words):
    result = run(*arguments)
    assert words in error_line(result)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_variants_lists_all_ten(run):
    assert [entry["name"] for entry in json.loads(run("variants", "--json").stdout)] == list(VARIANTS)
    table = run("variants").stdout
    assert all(name in table for name in VARIANTS)


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
    result = run(*common, "--planes", "3", "--flips")
    assert result.exit_code == 0
    assert sum(looks) == 4 * (5 + 40 + 36)
    assert "Note on scan: This checkpoint learnt from slices along one axis alone" in result.stderr
    provenance = json.loads(Path("labels.json").read_text("utf-8"))["provenance"]
    assert (provenance["planes"], provenance["flips"]) == (3, True)
    assert "choose the pipeline 'card'" in error_line(run(*common, "--flips", "--pipeline", "paper"))


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


def test_a_terminal_without_unicode_gets_a_question_mark_and_the_rest():
    result = subprocess.run(
        [sys.executable, "-m", "napari_transunet", "variants"],
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "R50-ViT-Ti_16" in result.stdout


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
def test_ctrl_c_in_a_real_run_leaves_no_half_file(checkpoint, tmp_path):
    long = write_image(
        tmp_path / "long.nii", np.random.default_rng(0).integers(-1000, 200, (1500, 64, 64)).astype(np.int16)
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_transunet", "segment", long, "-o", tmp_path / "labels.nii.gz",
         "-c", checkpoint, "--img-size", "256", "--device", "cpu", "--batch-size", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background job ignores the signal, and so would what the tests start from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        started = process.stderr.readline()
        assert started.startswith("Segmenting long"), started
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["long.nii"]


def test_real_process_has_a_clean_stdout_and_status(tmp_path):
    def call(*arguments):
        environment = os.environ | {"NAPARI_TRANSUNET_CHECKPOINTS": str(tmp_path)}
        command = [sys.executable, "-m", "napari_transunet", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )

    good = call("variants", "--json")
    assert good.returncode == 0
    assert len(json.loads(good.stdout)) == len(VARIANTS)
    assert good.stderr == ""

    bad = call("convert", "missing.nii.gz", "out.nrrd")
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.count("\n") == 1
    assert "Traceback" not in bad.stderr


def test_inspect_tells_the_network_and_its_card(run, checkpoint):
    facts = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert (facts["variant"], facts["num_classes"], facts["img_size"]) == ("testing", 3, [32, 32])
    assert facts["card"]["labels"][1]["name"] == "liver"
    assert facts["ok"] is True

    shown = run("inspect", checkpoint)
    assert shown.exit_code == 0
    assert "testing" in shown.stdout
    assert "1 spleen, 2 liver" in shown.stdout


def test_inspect_of_something_else_fails_in_one_line_but_still_reports(run, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"\x00" * 100)
    result = run("inspect", "weights.safetensors", "--json")
    assert "weights.safetensors" in error_line(result)
    report = json.loads(result.stdout)
    assert report["ok"] is False
    assert report["problems"]


def test_convert_keeps_values_and_grid(run, scan):
    result = run("convert", scan, "copy.nrrd")
    assert result.exit_code == 0
    assert result.stdout.strip() == "copy.nrrd"
    source, copy = sitk.ReadImage(str(scan)), sitk.ReadImage("copy.nrrd")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(copy), sitk.GetArrayFromImage(source))
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(copy, get)(), getattr(source, get)(), atol=1e-4)

    assert "--overwrite" in error_line(run("convert", scan, "copy.nrrd"))
    assert "same" not in run("convert", scan, "copy.nrrd", "--overwrite").stderr
    assert "both" in error_line(run("convert", scan, scan, "--overwrite"))
    assert ".nii.gz" in error_line(run("convert", scan, "copy.png"))


def test_convert_keeps_label_names(run, scan, checkpoint, tmp_path):
    assert run("segment", scan, "-o", "labels.seg.nrrd", "-c", checkpoint).exit_code == 0
    assert run("convert", "labels.seg.nrrd", "again.nii.gz").exit_code == 0
    names = [label["name"] for label in json.loads((tmp_path / "again.json").read_text())["labels"]]
    assert "liver" in names


def test_convert_makes_a_safetensors_file_of_a_pth(run, checkpoint, tmp_path):
    from safetensors.torch import load_file

    weights = load_file(checkpoint)
    torch.save({"model": weights}, tmp_path / "weights.pth")

    assert run("convert", "weights.pth", "weights.safetensors").exit_code == 0

    again = load_file("weights.safetensors")
    assert set(again) == set(weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)


@pytest.fixture
def pair(tmp_path):
    """A prediction that lies one voxel along x off its reference, with a label that only the prediction has."""
    reference = np.zeros((6, 12, 12), np.uint8)
    reference[2:4, 3:8, 3:8] = 1
    prediction = np.roll(reference, 1, axis=2)
    prediction[0, 0, 0] = 4
    return (
        write_image(tmp_path / "prediction.nii.gz", prediction),
        write_image(tmp_path / "reference.nii.gz", reference),
    )


def test_evaluate_gives_a_table_strict_json_and_csv(run, pair, tmp_path):
    result = run("evaluate", *pair, "--json", "--csv", "scores.csv")
    assert result.exit_code == 0
    scores = json.loads(result.stdout, parse_constant=pytest.fail)
    one, four = scores["labels"]["1"], scores["labels"]["4"]
    assert one["dice"] == pytest.approx(0.8)
    assert one["hd95"] == pytest.approx(0.8, abs=1e-4)
    assert one["reference_ml"] == pytest.approx(50 * math.prod(SPACING_ZYX) / 1000, rel=1e-4)
    assert (four["dice"], four["hd95"]) == (0, "inf")
    assert scores["mean"]["dice"] == pytest.approx(0.4)

    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["1", "4"]
    assert float(rows[0]["dice"]) == pytest.approx(0.8)
    assert float(rows[1]["hd95"]) == math.inf

    table = run("evaluate", *pair).stdout
    assert "0.800" in table
    assert "∞" in table
    assert "--overwrite" in error_line(run("evaluate", *pair, "--csv", "scores.csv"))


def test_evaluate_notes_where_the_files_name_a_value_differently(run, pair, tmp_path):
    for name, organ in (("a", "Liver"), ("b", "liver"), ("c", "spleen")):
        volume = read_volume(pair[0])
        write_labels(tmp_path / f"{name}.nii.gz", volume.data, volume, {1: organ, 4: "aorta"})
    assert run("evaluate", "a.nii.gz", "b.nii.gz").stderr == ""
    result = run("evaluate", "a.nii.gz", "c.nii.gz")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "Note: label 1 is 'Liver' in the one and 'spleen' in the other file."
    ]


def test_evaluate_refuses_another_grid(run, pair, tmp_path):
    other = write_image(tmp_path / "other.nii.gz", np.zeros((6, 12, 12), np.uint8), spacing=(2.5, 0.7, 0.7))
    assert "same grid" in error_line(run("evaluate", pair[0], other))


def test_names_from_a_file_cannot_steer_the_terminal(run, tmp_path):
    result = run("convert", "missing\x1b[31m\nname.nii.gz", "out.nrrd")
    assert "\x1b" not in error_line(result)
    assert len(result.stderr.splitlines()) == 1


def test_demo_without_napari_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    assert "napari-transunet[gui]" in error_line(run("demo", "--headless"))
