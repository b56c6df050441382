"""`napari-transunet benchmark` as scripts use it: exit status, clean stdout, files written whole or not at all."""

import json
from functools import partial

import pytest
import torch

from napari_transunet.benchmark import CONFIGS, ready_configs
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.io.writing import write_volume
from napari_transunet.model.transunet import TransUNet
from napari_transunet.volumes.phantom import synthetic_ct
from tests.commands import invoke

pytestmark = pytest.mark.usefixtures("wide")  # shipped checkpoints are measured too


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path / "no-checkpoints"))
    monkeypatch.chdir(tmp_path)
    # What the others give is tested in tests/test_benchmark.py.
    few = partial(ready_configs, configs=[*CONFIGS[:2], CONFIGS[-1]])
    monkeypatch.setattr("napari_transunet.benchmark.ready_configs", few)

    return partial(invoke, "benchmark")


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    net = TransUNet("testing", num_classes=3, img_size=32)
    card = default_card(net, labels={1: "spleen", 2: "liver"}, modality="CT")
    return save_checkpoint(tmp_path / "organs.safetensors", net, card)


@pytest.fixture
def scan(tmp_path):
    return write_volume(tmp_path / "scan.nii.gz", synthetic_ct((10, 40, 36))[0])


def error_line(result):
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def test_json_is_all_that_is_on_stdout(run, checkpoint, scan):
    result = run(scan, "--checkpoint", checkpoint, "--slices", 4, "--rounds", 2, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["shape"] == [4, 40, 36]
    assert found["rounds"] == 2
    (network,) = found["models"]
    assert network["name"] == "organs"
    assert network["trained"]
    assert network["configs"][0]["speedup"]["median"] == 1
    assert str(scan.parent) not in result.stdout


def test_tables_show_configurations_machine_and_what_is_not_possible(run, checkpoint, scan):
    result = run(scan, "-c", checkpoint, "--slices", 2, "--rounds", 1)
    assert result.exit_code == 0, result.stderr
    text = result.stdout
    assert "reference implementation, float32" in text
    assert "card, PyTorch, float32" in text
    assert "organs (testing, trained)" in text
    assert "Not available here: card, OpenVINO, int8: " in text
    assert f"torch {torch.__version__}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.nii.gz",), "missing.nii.gz"),
        (("--checkpoint", "nobody"), "nobody"),
        (("--device", "abacus"), "abacus"),
        (("--rounds", "0"), "rounds"),
        (("--slices", "0"), "slices"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run, arguments, words):
    assert words in error_line(run(*arguments))


def test_without_a_shipped_checkpoint_a_network_is_asked_for(run, monkeypatch):
    monkeypatch.setattr("napari_transunet.checkpoints.registry.shipped_folder", lambda: None)
    assert "--checkpoint" in error_line(run())
