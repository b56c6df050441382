"""A training starts from what is named, takes what fits, and says what that was."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_transunet.checkpoints.card import ModelCard, default_card
from napari_transunet.checkpoints.layout import HEAD, POSITIONS
from napari_transunet.checkpoints.pretrained import initialize
from napari_transunet.checkpoints.pretrained.hub import fetch
from napari_transunet.checkpoints.pretrained.initialize import (
    IMAGENET_REPOSITORIES,
    RESNET_REPOSITORY,
    initialise,
    shared_classes,
)
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import CheckpointError, FileProblem, InputError
from napari_transunet.model.positions import resize_position_embeddings
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import VARIANTS, Variant
from tests.checkpoints.conftest import random_network
from tests.checkpoints.pretrained.test_imagenet import TINY as FLAX_TINY
from tests.checkpoints.pretrained.test_imagenet import vit_arrays
from tests.checkpoints.pretrained.test_timm import (
    TINY,
    TINY_HYBRID,
    hybrid_tensors,
    resnet_places,
    state_of,
    unchanged,
    vit_tensors,
)

HEAD_KEYS = (f"{HEAD}.weight", f"{HEAD}.bias")


@pytest.fixture(scope="module")
def source_net() -> TransUNet:
    """A trained hybrid: 4 classes, 48×48 pixels, 3 skips."""
    return random_network(TINY_HYBRID, num_classes=4, img_size=48, seed=1)


@pytest.fixture(scope="module")
def checkpoint(source_net: TransUNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("source") / "trained.safetensors", source_net)


def started(num_classes: int = 4, img_size: int = 48, n_skip: int = 3) -> TransUNet:
    return random_network(TINY_HYBRID, num_classes, img_size, n_skip, seed=2)


# --- Checkpoints of ours -----------------------------------------------------------------------------------------


def test_the_same_network_is_taken_whole(checkpoint: Path, source_net: TransUNet) -> None:
    net = started()
    report = initialise(net, checkpoint)
    assert unchanged(net, source_net.state_dict())
    assert report.kept == ()
    assert report.sentence == "ResNet, encoder, decoder and head from trained.safetensors."


def test_pth_files_and_names_will_do(
    source_net: TransUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"state_dict": source_net.state_dict()}, tmp_path / "published.pth")
    monkeypatch.setenv("NAPARI_TRANSUNET_CHECKPOINTS", str(tmp_path))
    for source in (str(tmp_path / "published.pth"), "published"):
        net = started()
        assert initialise(net, source).sentence.endswith("from published.pth.")
        assert unchanged(net, source_net.state_dict())
    with pytest.raises(InputError, match="no checkpoint called 'unheard-of'"):
        initialise(net, "unheard-of")
    with pytest.raises(FileProblem):
        initialise(net, tmp_path / "none.safetensors")


def test_other_classes_keep_the_head(checkpoint: Path, source_net: TransUNet) -> None:
    net = started(num_classes=6)
    before, source = state_of(net), source_net.state_dict()
    report = initialise(net, checkpoint)
    assert report.kept == HEAD_KEYS
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key] if key in HEAD_KEYS else source[key])
    assert report.sentence == "ResNet, encoder and decoder from trained.safetensors; head from scratch."


@pytest.mark.parametrize("num_classes", [3, 4, 6])
def test_rows_of_the_head_by_class(checkpoint: Path, source_net: TransUNet, num_classes: int) -> None:
    net = started(num_classes)
    before, source = state_of(net), source_net.state_dict()
    report = initialise(net, checkpoint, class_sources={2: 1})
    for key in HEAD_KEYS:
        expected = before[key].clone()
        expected[0], expected[2] = source[key][0], source[key][1]
        assert torch.equal(net.state_dict()[key], expected)
    assert report.head_classes == (2, num_classes)
    assert report.sentence == (
        f"ResNet, encoder, decoder and 2 of the head's {num_classes} classes from trained.safetensors; "
        "the head's other classes from scratch."
    )


def test_classes_that_do_not_exist(checkpoint: Path) -> None:
    net = started(num_classes=6)
    before = state_of(net)
    for classes, reason in [({6: 1}, "no class 6 to start"), ({1: 4}, r"no class 4 in trained\.safetensors")]:
        with pytest.raises(InputError, match=reason):
            initialise(net, checkpoint, class_sources=classes)
    with pytest.raises(InputError, match="leave it out"):
        initialise(net, checkpoint, cnn=checkpoint)
    assert unchanged(net, before)


def test_classes_are_matched_by_name() -> None:
    theirs = {1: "Spleen", 2: "liver", 3: "cyst", 4: "cyst"}
    assert shared_classes({1: "liver", 2: "stomach", 3: " spleen", 4: "cyst"}, theirs) == {1: 2, 3: 1}


def test_another_image_size(checkpoint: Path, source_net: TransUNet) -> None:
    net = started(img_size=80)
    report = initialise(net, checkpoint)
    assert report.resized == ((3, 3), (5, 5))
    assert torch.equal(
        net.state_dict()[POSITIONS], resize_position_embeddings(source_net.state_dict()[POSITIONS], (5, 5))
    )
    assert report.sentence.endswith("; position embeddings resampled from 3×3 to 5×5.")


def test_the_grid_of_the_source_comes_from_its_card(tmp_path: Path) -> None:
    source = random_network(TINY, img_size=(32, 128))
    path = tmp_path / "wide.pth"
    torch.save(source.state_dict(), path)
    path.with_suffix(".card.json").write_text(default_card(source).to_json())
    net = random_network(TINY, img_size=64, seed=2)
    assert initialise(net, path).resized == ((2, 8), (4, 4))
    expected = resize_position_embeddings(source.state_dict()[POSITIONS], (4, 4), source_grid=(2, 8))
    assert torch.equal(net.state_dict()[POSITIONS], expected)


def test_other_skips_leave_whole_layers_alone(checkpoint: Path, source_net: TransUNet) -> None:
    net = started(n_skip=1)
    before, source = state_of(net), source_net.state_dict()
    report = initialise(net, checkpoint)
    layers = ("decoder.blocks.1.conv1", "decoder.blocks.2.conv1")
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key] if key.startswith(layers) else source[key]), key
    assert all(key.startswith(layers) for key in report.kept)
    assert report.sentence == (
        "ResNet, encoder, decoder and head from trained.safetensors; "
        "decoder.blocks.1.conv1 and decoder.blocks.2.conv1 from scratch."
    )


def test_another_variant_is_refused(small_net: TransUNet, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "small.safetensors", small_net)
    net = started()
    before = state_of(net)
    with pytest.raises(CheckpointError, match=r"small\.safetensors is testing and cannot start tiny hybrid;"):
        initialise(net, path)
    save_file({"conv.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="holds another network"):
        initialise(net, tmp_path / "other.safetensors")
    spoilt = state_of(small_net)
    spoilt[POSITIONS][0, 0] = torch.nan
    torch.save(spoilt, tmp_path / "spoilt.pth")
    own = random_network("testing", num_classes=4, img_size=48, seed=3)
    own_before = state_of(own)
    with pytest.raises(CheckpointError, match="not finite"):
        initialise(own, tmp_path / "spoilt.pth")
    assert unchanged(net, before)
    assert unchanged(own, own_before)


def test_the_card_must_agree(source_net: TransUNet, tmp_path: Path) -> None:
    path = tmp_path / "carded.pth"
    torch.save(source_net.state_dict(), path)
    card: ModelCard = default_card(source_net).updated(num_classes=7)
    path.with_suffix(".card.json").write_text(card.to_json())
    with pytest.raises(CheckpointError, match="contradicts its tensors"):
        initialise(started(), path)


# --- Pretrained encoders -----------------------------------------------------------------------------------------


def test_npz_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "ViT.npz", **vit_arrays(FLAX_TINY))  # type: ignore[arg-type]
    net = TransUNet(FLAX_TINY, img_size=64)
    report = initialise(net, tmp_path / "ViT.npz")
    assert report.sentence == (
        "Encoder from ViT.npz; decoder and head from scratch; position embeddings resampled from 3×3 to 4×4."
    )
    assert {*report.origins, *report.kept} == set(net.state_dict())
    with pytest.raises(InputError, match=r"ViT\.npz has no head"):
        initialise(net, tmp_path / "ViT.npz", class_sources={1: 1})
    with pytest.raises(FileProblem):
        initialise(net, tmp_path / "none.npz")


def test_timm_files(tmp_path: Path) -> None:
    save_file(vit_tensors(TINY), tmp_path / "vit.safetensors")
    save_file(hybrid_tensors(TINY_HYBRID), tmp_path / "r50.safetensors")
    report = initialise(TransUNet(TINY, img_size=48), tmp_path / "vit.safetensors")
    assert report.sentence == "Encoder from vit.safetensors; decoder and head from scratch."
    assert report.unused == ("cls_token", "head.bias", "head.weight")

    net = TransUNet(TINY_HYBRID, img_size=48)
    report = initialise(net, str(tmp_path / "r50.safetensors"))
    assert report.sentence == "ResNet and encoder from r50.safetensors; decoder and head from scratch."
    report = initialise(net, tmp_path / "vit.safetensors", cnn=tmp_path / "r50.safetensors")
    assert report.sentence == (
        "ResNet from r50.safetensors; encoder from vit.safetensors; decoder and head from scratch."
    )
    with pytest.raises(CheckpointError, match="has no ResNet"):
        initialise(net, tmp_path / "vit.safetensors")
    with pytest.raises(InputError, match="has no head"):
        initialise(net, tmp_path / "vit.safetensors", class_sources={1: 1})


# --- The hub -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The client, with a hub of two made-up repositories; what was asked of it."""
    client = pytest.importorskip("huggingface_hub")
    errors = pytest.importorskip("huggingface_hub.errors")
    small = Variant("small", patch=16, hidden=8, mlp=20, heads=2, blocks=2)
    files = {"timm/tiny": vit_tensors(TINY), RESNET_REPOSITORY: hybrid_tensors(small)}
    for repository, tensors in files.items():
        (tmp_path / repository).mkdir(parents=True)
        save_file(tensors, tmp_path / repository / "model.safetensors", metadata={"format": "pt"})
    asked: list[tuple[str, str]] = []

    def download(repo_id: str, filename: str, *, local_files_only: bool = False) -> str:
        asked.append((repo_id, "cache" if local_files_only else "hub"))
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(client, "hf_hub_download", download)
    monkeypatch.setattr(client, "get_hf_file_metadata", lambda url, timeout: None)
    return asked


def test_a_damaged_download_is_named(hub: list[tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "timm" / "tiny" / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"^timm/tiny: model\.safetensors is a web page"):
        initialise(TransUNet(TINY, img_size=48), "hub:timm/tiny")


def test_a_repository_and_the_one_with_the_resnet(hub: list[tuple[str, str]]) -> None:
    report = initialise(TransUNet(TINY, img_size=48), "hub:timm/tiny")
    assert report.sentence == "Encoder from timm/tiny; decoder and head from scratch."
    assert hub == [("timm/tiny", "cache"), ("timm/tiny", "hub")]

    net = TransUNet(TINY_HYBRID, img_size=48)
    report = initialise(net, "hub:timm/tiny")
    assert report.sentence == (
        f"ResNet from {RESNET_REPOSITORY}; encoder from timm/tiny; patch embedding, decoder and head from scratch."
    )
    assert {report.origins[key] for key in resnet_places()} == {RESNET_REPOSITORY}
    with pytest.raises(CheckpointError, match=rf"^{RESNET_REPOSITORY} does not fit tiny hybrid"):
        initialise(net, f"hub:{RESNET_REPOSITORY}")


def test_imagenet_stands_for_the_right_repository(
    hub: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(initialize, "IMAGENET_REPOSITORIES", {"tiny hybrid": "timm/tiny"})
    net = TransUNet(TINY_HYBRID, img_size=48)
    assert set(initialise(net, "imagenet").origins.values()) == {"timm/tiny", RESNET_REPOSITORY}
    save_file(vit_tensors(TINY), tmp_path / "vit.safetensors")
    report = initialise(net, tmp_path / "vit.safetensors", cnn="imagenet")
    assert set(report.origins.values()) == {"vit.safetensors", RESNET_REPOSITORY}


def test_repositories_are_listed_for_the_published_variants() -> None:
    assert set(VARIANTS) - set(IMAGENET_REPOSITORIES) == {"ViT-L_32", "ViT-H_14", "testing"}
    with pytest.raises(InputError, match=r"No ImageNet weights are listed for testing, only for ViT-B_16"):
        initialise(TransUNet("testing", img_size=48), "imagenet")


def test_a_file_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("huggingface_hub")

    def download(repo_id: str, filename: str, *, local_files_only: bool = False) -> str:
        assert local_files_only
        return str(tmp_path / filename)

    monkeypatch.setattr(client, "hf_hub_download", download)
    assert fetch("timm/tiny") == tmp_path / "model.safetensors"


@pytest.mark.parametrize("forbidden", [True, False])
def test_without_a_network_one_sentence_comes_soon(
    forbidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", forbidden)
    # Nothing listens there, so that the test needs no network and takes none where there is one.
    address = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    start = time.monotonic()
    with pytest.raises(FileProblem) as caught:
        initialise(TransUNet(TINY, img_size=48), "hub:timm/vit_tiny_patch16_224.augreg_in21k")
    assert time.monotonic() - start < 5
    sentence = str(caught.value)
    assert sentence.startswith("timm/vit_tiny_patch16_224.augreg_in21k ")
    assert ("HF_HUB_OFFLINE" in sentence) == forbidden
    assert "\n" not in sentence
    assert sentence.count(". ") == 0


def test_what_the_hub_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MissingRepositoryError(Exception):
        pass

    class MissingEntryError(Exception):
        pass

    class NotCachedError(MissingEntryError):
        pass

    class OfflineError(Exception):
        pass

    errors = SimpleNamespace(
        RepositoryNotFoundError=MissingRepositoryError,
        EntryNotFoundError=MissingEntryError,
        LocalEntryNotFoundError=NotCachedError,
        OfflineModeIsEnabled=OfflineError,
    )

    def fail(error: Exception) -> None:
        raise error

    client = SimpleNamespace(
        hf_hub_download=lambda *_, **__: fail(NotCachedError()), hf_hub_url=lambda *_: "http://hub"
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)  # type: ignore[arg-type]
    for error, reason in [
        (MissingRepositoryError("404"), "There is no repository timm/none on"),
        (MissingEntryError("404"), r"timm/none on the Hugging Face hub has no model\.safetensors"),
        (
            TimeoutError(),
            r"could not be fetched from the Hugging Face hub \(TimeoutError\); without a network",
        ),
    ]:
        client.get_hf_file_metadata = lambda *_, error=error, **__: fail(error)
        with pytest.raises(FileProblem, match=reason):
            fetch("timm/none")


def test_names_that_are_no_repositories_and_a_missing_client(monkeypatch: pytest.MonkeyPatch) -> None:
    net = TransUNet(TINY, img_size=48)
    for name in ("hub:", "hub:timm", "hub:timm/../../x", "hub:https://host/x", "hub:timm/x/y"):
        with pytest.raises(InputError, match="names no repository; it goes hub:OWNER/NAME"):
            initialise(net, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"needs the package huggingface_hub: pip install .*\[train\]"):
        initialise(net, "hub:timm/tiny")
    with pytest.raises(InputError, match="not a Linear"):
        initialise(torch.nn.Linear(2, 2), "imagenet")  # type: ignore[arg-type]
