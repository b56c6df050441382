"""Checkpoints that hold several sets of weights: which are used is said, and the others are offered."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.info import inspect_checkpoint
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.errors import CheckpointError
from napari_transunet.model.transunet import TransUNet
from tests.commands import invoke

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def states() -> tuple[State, State]:
    torch.manual_seed(0)
    return tuple(TransUNet("testing", num_classes=3, img_size=32).state_dict() for _ in range(2))  # type: ignore[return-value]


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(path: Path, state: State, weights: str | None = None) -> bool:
    found = load_checkpoint(path, weights=weights).model.state_dict()
    return all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "legacy"),
    [
        ("model_ema", False),
        ("model_ema", True),
        ("ema", False),
        ("ema_state_dict", False),
        ("averaged", False),
    ],
)
def test_both_can_be_had_and_it_is_said(
    tmp_path: Path, states: tuple[State, State], name: str, legacy: bool
) -> None:
    last, averaged = states
    optimizer = {"state": {0: {"momentum": torch.zeros(3)}}, "param_groups": []}
    path = tmp_path / "a.pth"
    content = {"model": last, name: averaged, "optimizer": optimizer, "epoch": 7}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert same(path, last)
    assert same(path, averaged, name)
    assert (name != "averaged" and same(path, averaged, "ema")) or name == "averaged"
    loaded = load_checkpoint(path)
    assert loaded.weights == "model"
    assert name in loaded.notes[0]
    other = load_checkpoint(path, weights=name)
    assert other.weights == name
    assert "under model" in other.notes[0]
    assert any(name in note for note in inspect_checkpoint(path).notes)


def test_as_averaging_modules_store_them(tmp_path: Path, states: tuple[State, State]) -> None:
    last, averaged = states
    wrapped = {"n_averaged": torch.tensor(5), **{f"module.{key}": value for key, value in averaged.items()}}
    path = save(tmp_path / "a.pth", {"state_dict": last, "model_ema": wrapped})
    assert same(path, last)
    assert same(path, averaged, "ema")
    path = save(tmp_path / "b.pth", {"state_dict": last, "ema": {"decay": 0.9, "module": averaged}})
    assert same(path, averaged, "ema")
    path = save(tmp_path / "c.pth", {"ema": averaged, "epoch": 3})
    assert same(path, averaged)


def test_two_of_the_usual_names(tmp_path: Path, states: tuple[State, State]) -> None:
    path = save(tmp_path / "a.pth", {"state_dict": states[0], "model": states[1]})
    assert same(path, states[0])
    assert same(path, states[1], "model")
    assert "model" in load_checkpoint(path).notes[0]


def test_what_is_not_there_is_refused_by_name(tmp_path: Path, states: tuple[State, State]) -> None:
    path = save(tmp_path / "a.pth", {"model": states[0], "optimizer": {"state": {}}})
    assert load_checkpoint(path).notes == ()
    with pytest.raises(CheckpointError, match=r"ema.*model"):
        load_checkpoint(path, weights="ema")
    assert not inspect_checkpoint(path, weights="ema").ok


def test_the_commands_take_either(tmp_path: Path, states: tuple[State, State]) -> None:
    path = save(tmp_path / "a.pth", {"model": states[0], "model_ema": states[1]})
    np.save(tmp_path / "scan.npy", np.zeros((2, 32, 32), np.int16))
    command = (
        "segment",
        tmp_path / "scan.npy",
        "-o",
        tmp_path / "labels.nii.gz",
        "-c",
        path,
        "--device",
        "cpu",
    )
    result = invoke(*command)
    assert result.exit_code == 0
    assert "--weights ema" in result.stderr
    assert invoke(*command, "--weights", "ema", "--overwrite").exit_code == 0
    record = json.loads((tmp_path / "labels.json").read_text("utf-8"))["provenance"]
    assert record["checkpoint_weights"] == "model_ema"
    assert "model_ema" in invoke("inspect", path).stdout
    assert invoke("convert", path, tmp_path / "ema.safetensors", "--weights", "ema").exit_code == 0
    assert same(tmp_path / "ema.safetensors", states[1])
    result = invoke("inspect", path, "--weights", "swa")
    assert result.exit_code == 2
    assert "swa" in result.stderr
