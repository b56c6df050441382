"""Checkpoints become networks strictly, in float32, at the size asked for."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from napari_transunet.checkpoints.card import ModelCard, card_path, default_card
from napari_transunet.checkpoints.info import inspect_checkpoint
from napari_transunet.checkpoints.layout import POSITIONS
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import CheckpointError, FileProblem, InputError
from napari_transunet.files import sha256
from napari_transunet.model.positions import resize_position_embeddings
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from tests.checkpoints.conftest import random_network

State = dict[str, Tensor]


def sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_the_published_checkpoint_gives_the_published_logits(
    large_checkpoint: Path, golden: ModuleType, shared_data: Path
) -> None:
    loaded = load_checkpoint(large_checkpoint)
    net = loaded.model
    assert (net.variant.name, net.num_classes, net.img_size, net.n_skip) == ("R50-ViT-B_16", 9, (224, 224), 3)
    assert not net.training
    assert (loaded.format, loaded.name) == ("pytorch", "TU_Synapse224")
    with torch.inference_mode():
        logits = net(torch.from_numpy(golden.image(224)))
    with np.load(shared_data / "golden" / "logits" / "R50-ViT-B_16_224_skip3_c9.npz") as reference:
        error = golden.relative_error(logits[0, :, ::4, ::4].numpy(), reference["logits"])
    assert error < 3e-5


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_loading_changes_no_bit(tmp_path: Path, small_state: State, kind: str) -> None:
    path = tmp_path / f"w.{kind}"
    if kind == "pth":
        torch.save(small_state, path)
    else:
        save_file(small_state, path)
    loaded = load_checkpoint(path)
    assert loaded.sha256 == sha256(path)
    found = loaded.model.state_dict()
    assert found.keys() == small_state.keys()
    for key, value in small_state.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)
        assert not found[key].is_meta
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_the_network_does_not_depend_on_the_file(tmp_path: Path, small_state: State, kind: str) -> None:
    path = tmp_path / f"w.{kind}"
    if kind == "pth":
        torch.save(small_state, path)
    else:
        save_file(small_state, path)
    net = load_checkpoint(path).model
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(value, small_state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("position", [0, 1, -1])
def test_one_number_among_many_that_is_not_finite_is_found(
    tmp_path: Path, small_state: State, position: int
) -> None:
    key = max(small_state, key=lambda key: small_state[key].numel())
    small_state[key].view(-1)[position] = float("nan")
    path = tmp_path / "w.safetensors"
    save_file(small_state, path)
    with pytest.raises(CheckpointError, match="not finite"):
        load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_other_precisions_become_float32(
    tmp_path: Path, small_state: State, dtype: torch.dtype, kind: str
) -> None:
    state = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in small_state.items()
    }
    path = tmp_path / f"w.{kind}"
    if kind == "pth":
        torch.save({"model_state_dict": state}, path)
    else:
        save_file(state, path)
    found = load_checkpoint(path).model.state_dict()
    for key, value in state.items():
        assert found[key].dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(found[key], value.to(found[key].dtype))


def test_wrapped_and_prefixed_weights(tmp_path: Path, small_state: State) -> None:
    state = {f"module._orig_mod.model.{key}": value for key, value in small_state.items()}
    path = saved({"epoch": 3, "state_dict": {"net": state}}, tmp_path / "w.pth")
    found = load_checkpoint(path).model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in small_state.items())


# --- Mismatches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, small_state: State, bad: float) -> None:
    keys = ["decoder.conv_more.1.running_var", "segmentation_head.0.bias"]
    for key in keys:
        small_state[key][0] = bad
    with pytest.raises(CheckpointError, match="not finite") as caught:
        load_checkpoint(saved(small_state, tmp_path / "w.pth"))
    assert ", ".join(keys) in sentence(caught)


def test_a_missing_an_unexpected_and_a_misshapen_tensor_are_named(tmp_path: Path, small_state: State) -> None:
    del small_state["segmentation_head.0.bias"]
    small_state["decoder.blocks.0.conv2.0.weight"] = torch.ones(256, 255, 3, 3)
    small_state["discriminator.weight"] = torch.ones(3)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved(small_state, tmp_path / "w.pth"))
    text = sentence(caught)
    assert "w.pth does not fit testing" in text
    assert "decoder.blocks.0.conv2.0.weight is 256×255×3×3 where 256×256×3×3 belongs" in text
    assert "segmentation_head.0.bias missing" in text
    assert "discriminator.weight not expected" in text


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = saved(torch.nn.Sequential(torch.nn.Linear(3, 3)).state_dict(), tmp_path / "mlp.pth")
    with pytest.raises(CheckpointError, match=r"another network: 0\.weight, 0\.bias") as caught:
        load_checkpoint(path)
    sentence(caught)


def test_quantised_weights_are_refused(tmp_path: Path, small_state: State) -> None:
    key = "segmentation_head.0.weight"
    small_state[key] = small_state[key].to(torch.int8)
    with pytest.raises(CheckpointError, match=f"{key} is int8"):
        load_checkpoint(saved(small_state, tmp_path / "w.pth"))


def test_arguments_must_agree_with_the_tensors(tmp_path: Path, small_state: State) -> None:
    path = saved(small_state, tmp_path / "w.pth")
    assert load_checkpoint(path, variant="testing", n_skip=0).model.variant.name == "testing"
    with pytest.raises(CheckpointError, match="is testing with n_skip 0, not ViT-B_16;"):
        load_checkpoint(path, variant="ViT-B_16")
    with pytest.raises(CheckpointError, match="not testing with n_skip 1;"):
        load_checkpoint(path, n_skip=1)
    with pytest.raises(InputError, match="There is no variant 'ViT-X'"):
        load_checkpoint(path, variant="ViT-X")
    with pytest.raises(InputError, match="n_skip must be"):
        load_checkpoint(path, n_skip=7)
    with pytest.raises(FileProblem, match="There is no file"):
        load_checkpoint(tmp_path / "none.pth")


def test_sizes_of_ones_own(tmp_path: Path) -> None:
    own = Variant("own", patch=16, hidden=8, mlp=12, heads=2, blocks=2)
    net = random_network(own, num_classes=2, img_size=32).eval()
    path = saved(net.state_dict(), tmp_path / "own.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    loaded = load_checkpoint(path, variant=own)
    x = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.model(x), net(x))


# --- Image size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, (32, 80)])
def test_another_image_size_resamples_the_position_embeddings(
    tmp_path: Path, small_state: State, size: int | tuple[int, int]
) -> None:
    path = saved(small_state, tmp_path / "w.pth")
    loaded = load_checkpoint(path, img_size=size)
    sides = (size, size) if isinstance(size, int) else size
    assert loaded.model.img_size == loaded.card.img_size == sides
    expected = resize_position_embeddings(small_state[POSITIONS], (sides[0] // 16, sides[1] // 16))
    assert torch.equal(loaded.model.state_dict()[POSITIONS], expected)
    with torch.inference_mode():
        assert loaded.model(torch.rand(1, 1, *sides)).shape == (1, 4, *sides)


def test_an_image_size_that_the_patch_does_not_divide(tmp_path: Path, small_state: State) -> None:
    with pytest.raises(InputError, match="48×48 or 64×64"):
        load_checkpoint(saved(small_state, tmp_path / "w.pth"), img_size=50)


@pytest.fixture
def wide(tmp_path: Path) -> tuple[TransUNet, Path]:
    """A network for 32×80 pixels, saved without a card."""
    net = random_network("testing", num_classes=3, img_size=(32, 80))
    return net, saved(net.state_dict(), tmp_path / "wide.pth")


def test_a_rectangle_asks_for_its_size(wide: tuple[TransUNet, Path]) -> None:
    net, path = wide
    with pytest.raises(CheckpointError, match=r"10 position embeddings.*img_size") as caught:
        load_checkpoint(path)
    assert "32×80" in sentence(caught)
    with pytest.raises(CheckpointError, match="10 position embeddings"):
        load_checkpoint(path, img_size=(48, 48))
    loaded = load_checkpoint(path, img_size=(32, 80))
    assert torch.equal(loaded.model.state_dict()[POSITIONS], net.state_dict()[POSITIONS])


def test_a_card_tells_the_size_of_a_rectangle(wide: tuple[TransUNet, Path]) -> None:
    net, path = wide
    loaded = load_checkpoint(path, card=default_card(net))
    assert loaded.model.img_size == (32, 80)
    resized = load_checkpoint(path, card=default_card(net), img_size=(48, 48)).model.state_dict()[POSITIONS]
    expected = resize_position_embeddings(net.state_dict()[POSITIONS], (3, 3), source_grid=(2, 5))
    assert torch.equal(resized, expected)


def test_a_square_number_is_a_square_unless_the_card_or_the_caller_says_otherwise(tmp_path: Path) -> None:
    net = random_network("testing", num_classes=3, img_size=(16, 64))
    path = saved(net.state_dict(), tmp_path / "w.pth")
    assert load_checkpoint(path).model.img_size == (32, 32)
    asked_for = load_checkpoint(path, img_size=(16, 64)).model
    assert asked_for.img_size == (16, 64)
    assert torch.equal(
        asked_for.transformer.embeddings.position_embeddings, net.transformer.embeddings.position_embeddings
    )
    assert load_checkpoint(path, card=default_card(net)).model.img_size == (16, 64)


# --- Cards -------------------------------------------------------------------------------------------------------


def test_without_a_card_the_default_one_is_made(tmp_path: Path, small_state: State) -> None:
    loaded = load_checkpoint(saved(small_state, tmp_path / "w.pth"))
    assert loaded.card == default_card(loaded.model)
    assert loaded.with_labels({1: "liver"}).card.label_names == {1: "liver"}


def test_a_card_given_goes_before_one_beside_and_that_before_one_inside(
    tmp_path: Path, small_net: TransUNet
) -> None:
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, small_net, default_card(small_net, title="inside"))
    assert load_checkpoint(path).card.title == "inside"
    card_path(path).write_text(default_card(small_net, title="beside").to_json())
    assert load_checkpoint(path).card.title == "beside"
    assert not load_checkpoint(path).notes  # a title changes no labels
    swapped = default_card(small_net, labels={1: "right", 2: "left"}, modality="CT")
    card_path(path).write_text(swapped.to_json())
    for notes in (load_checkpoint(path).notes, inspect_checkpoint(path).notes):
        assert any("w.card.json is used" in note and "labels, modality" in note for note in notes)
    other = tmp_path / "other.json"
    other.write_text(default_card(small_net, title="given").to_json())
    assert load_checkpoint(path, card=other).card.title == "given"
    assert load_checkpoint(path, card=ModelCard.read(other)).card.title == "given"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("variant", "ViT-B_16", "variant is ViT-B_16, in the network testing"),
        ("num_classes", 9, "num_classes is 9, in the network 4"),
        ("n_skip", 3, "n_skip is 3, in the network 0"),
        ("img_size", 224, "says images of 224×224 pixels, but the checkpoint has 9 position embeddings"),
    ],
)
def test_a_card_that_contradicts_the_tensors_is_refused(
    tmp_path: Path, small_net: TransUNet, small_state: State, field: str, value: object, said: str
) -> None:
    path = saved(small_state, tmp_path / "w.pth")
    fields: dict[str, Any] = json.loads(default_card(small_net).to_json())
    card_path(path).write_text(json.dumps({**fields, field: value}))
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert said in sentence(caught)


def test_a_damaged_card_beside_the_file_is_named(tmp_path: Path, small_state: State) -> None:
    path = saved(small_state, tmp_path / "w.pth")
    card_path(path).write_text('{"variant": ')
    with pytest.raises(CheckpointError, match=r"w\.card\.json is not usable"):
        load_checkpoint(path)


def test_a_card_may_leave_n_skip_to_the_tensors(
    tmp_path: Path, small_net: TransUNet, small_state: State
) -> None:
    path = saved(small_state, tmp_path / "w.pth")
    card_path(path).write_text(
        json.dumps({"variant": "testing", "num_classes": 4, "img_size": 48, "extra": 1})
    )
    card = load_checkpoint(path).card
    assert card.n_skip == 0
    assert card.model_dump()["extra"] == 1
