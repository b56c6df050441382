"""What is saved comes back bit for bit, with its card."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.info import inspect_checkpoint
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import CheckpointError, ExistsError, FileProblem, InputError
from napari_transunet.files import available_memory
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import VARIANTS
from tests.checkpoints.conftest import random_network, randomise


def assert_same(net: TransUNet, other: TransUNet) -> None:
    state, again = net.state_dict(), other.state_dict()
    assert list(state) == list(again)
    for key, value in state.items():
        assert value.dtype == again[key].dtype
        assert torch.equal(value, again[key])


@pytest.mark.parametrize(
    ("variant", "size", "n_skip"),
    [("testing", (32, 64), None), ("R50-ViT-Ti_16", (64, 96), 2)],
)
def test_saving_and_loading_changes_no_bit(
    tmp_path: Path, variant: str, size: tuple[int, int], n_skip: int | None
) -> None:
    net = random_network(variant, num_classes=5, img_size=size, n_skip=n_skip).eval()
    card = default_card(net, labels={2: "liver"}, modality="CT", title="A test", own={"a": 1})
    path = save_checkpoint(tmp_path / "w.safetensors", net, card)
    loaded = load_checkpoint(path)
    assert loaded.format == "safetensors"
    assert loaded.card == card
    assert loaded.model.img_size == size
    assert_same(net, loaded.model)
    x = torch.rand(1, 1, *size)
    with torch.inference_mode():
        assert torch.equal(net(x), loaded.model(x))


def test_channels_last_weights_are_the_same_weights(tmp_path: Path, small_net: TransUNet) -> None:
    state = small_net.state_dict()
    net = TransUNet("testing", num_classes=4, img_size=48)
    net.load_state_dict(state)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_same(small_net, load_checkpoint(save_checkpoint(tmp_path / "w.safetensors", net)).model)


def test_the_card_is_in_the_header(tmp_path: Path, small_net: TransUNet) -> None:
    path = save_checkpoint(tmp_path / "w.safetensors", small_net)
    with safe_open(path, framework="np") as file:
        card = json.loads(file.metadata()["transunet_card"])
    assert card["variant"] == "testing"
    assert card["img_size"] == [48, 48]


def test_float16_halves_the_file_and_is_rounded_once(tmp_path: Path, small_net: TransUNet) -> None:
    full = save_checkpoint(tmp_path / "full.safetensors", small_net)
    half = save_checkpoint(tmp_path / "half.safetensors", small_net, dtype="float16")
    assert half.stat().st_size < 0.51 * full.stat().st_size
    assert inspect_checkpoint(half).dtype == "float16"
    found = load_checkpoint(half).model.state_dict()
    for key, value in small_net.state_dict().items():
        assert torch.equal(found[key], value.half().float() if value.is_floating_point() else value)


def test_weights_too_large_for_float16_are_named(tmp_path: Path, small_net: TransUNet) -> None:
    net = TransUNet("testing", num_classes=4, img_size=48)
    with torch.no_grad():
        net.segmentation_head[0].bias[1] = 1e6  # type: ignore[operator]
    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError, match=r"segmentation_head\.0\.bias holds numbers too large"):
        save_checkpoint(path, net, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_network_is_not_saved(tmp_path: Path) -> None:
    net = TransUNet("testing", num_classes=4, img_size=48)
    with torch.no_grad():
        net.segmentation_head[0].bias[1] = float("nan")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="not finite"):
        save_checkpoint(tmp_path / "w.safetensors", net)


def test_nothing_is_replaced_unasked(tmp_path: Path, small_net: TransUNet) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("mine")
    with pytest.raises(ExistsError):
        save_checkpoint(path, small_net)
    assert path.read_text() == "mine"
    save_checkpoint(path, small_net, overwrite=True)
    assert inspect_checkpoint(path).ok
    assert [found.name for found in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, small_net: TransUNet) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(FileProblem, match=r"net\.safetensors cannot be written: File too large\.$"):
            save_checkpoint(tmp_path / "net.safetensors", small_net)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_names_and_folders_that_cannot_be(tmp_path: Path, small_net: TransUNet) -> None:
    with pytest.raises(InputError, match=r"must be called w\.safetensors"):
        save_checkpoint(tmp_path / "w.pth", small_net)
    with pytest.raises(FileProblem):
        save_checkpoint(tmp_path / "nowhere" / "w.safetensors", small_net)


def test_only_this_network_is_saved(tmp_path: Path, small_net: TransUNet) -> None:
    with pytest.raises(InputError, match="not a Linear"):
        save_checkpoint(tmp_path / "w.safetensors", torch.nn.Linear(2, 2))
    wrapped = torch.nn.DataParallel(small_net)
    assert_same(small_net, load_checkpoint(save_checkpoint(tmp_path / "w.safetensors", wrapped)).model)


def test_a_card_of_another_network_is_refused(tmp_path: Path, small_net: TransUNet) -> None:
    card = default_card(small_net).updated(num_classes=9)
    with pytest.raises(CheckpointError, match="num_classes is 9, in the network 4"):
        save_checkpoint(tmp_path / "w.safetensors", small_net, card)


def test_a_loaded_checkpoint_is_saved_with_its_card(tmp_path: Path, small_net: TransUNet) -> None:
    torch.save(small_net.state_dict(), tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth").with_labels({1: "spleen"})
    again = load_checkpoint(save_checkpoint(tmp_path / "w2.safetensors", loaded))
    assert again.card.label_names == {1: "spleen"}
    assert_same(small_net, again.model)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "testing"])
def test_every_variant_comes_back_bit_for_bit(tmp_path: Path, variant: str) -> None:
    patch = VARIANTS[variant].patch
    with on_meta_device():
        net = TransUNet(variant, num_classes=3, img_size=(2 * patch, 3 * patch))
    if available_memory() < 12 * sum(value.numel() for value in net.parameters()):
        pytest.skip("There is not enough memory for two such networks.")
    net = randomise(net.to_empty(device="cpu"))
    path = save_checkpoint(tmp_path / "w.safetensors", net)
    assert_same(net, load_checkpoint(path).model)
    path.unlink()
