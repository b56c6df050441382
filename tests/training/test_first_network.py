from pathlib import Path

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints import registry
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import InputError
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.adaptation import adapt
from napari_transunet.training.corrections import Correction
from napari_transunet.training.first_network import first_network
from napari_transunet.volumes.volume import Volume
from tests.training.samples import case


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One shipped CT checkpoint of two organs."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    torch.manual_seed(0)
    net = TransUNet("testing", num_classes=3, img_size=32)
    card = default_card(net, labels={1: "spleen", 2: "liver"}, modality="CT")
    monkeypatch.setattr(registry, "shipped_folder", lambda: folder)
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "none"))
    return save_checkpoint(folder / "organs.safetensors", net, card)


def volume(modality: str) -> Volume:
    return Volume.from_array((100 * case().planes.float()).numpy(), modality=modality)


def test_it_starts_from_the_shipped_checkpoint_of_the_modality(shipped: Path) -> None:
    start = load_checkpoint(shipped)

    first = first_network(volume("CT"), {1: "Liver", 2: "cyst"}, variant="testing")

    assert first.sha256 == start.sha256
    assert first.card.label_names == {1: "Liver", 2: "cyst"}
    head, old = first.model.segmentation_head[0], start.model.segmentation_head[0]
    assert torch.equal(head.weight[1], old.weight[2])


def test_another_modality_starts_from_scratch(shipped: Path) -> None:
    first = first_network(volume("MR"), {1: "liver"}, variant="testing")

    assert first.sha256 == ""
    assert (first.card.modality, first.card.normalisation) == ("MR", "percentiles")
    made = case()
    labels = (made.labels == 1).numpy().astype(np.uint8)
    better = adapt(first, [Correction(volume("MR"), labels, [1, 3, 4])], device="cpu", steps=3)
    assert better.card.lineage[0].parent is None
    assert better.card.label_names == {1: "liver"}
    assert (better.card.lineage[0].steps, better.card.lineage[0].dice) == (3, {})  # too few to hold one back
    assert not torch.equal(better.model.segmentation_head[0].bias, first.model.segmentation_head[0].bias)


def test_what_was_learnt_from_scratch_is_kept_whatever_the_slices_held_out_say(shipped: Path) -> None:
    first = first_network(volume("MR"), {1: "liver"}, variant="testing")
    labels = (case().labels == 1).numpy().astype(np.uint8)
    whole = Correction(volume("MR"), labels, range(len(labels)))

    better = adapt(first, [whole, whole], device="cpu", steps=1)

    story = better.card.lineage[0]
    assert story.dice["liver"].before == 0  # by chance it may find more
    assert story.steps + story.further_steps == 1
    assert not torch.equal(better.model.segmentation_head[0].bias, first.model.segmentation_head[0].bias)


@pytest.mark.parametrize(("organs", "modality"), [({}, "CT"), ({2: "liver"}, "CT"), ({1: "liver"}, "")])
def test_what_is_missing_is_said(shipped: Path, organs: dict[int, str], modality: str) -> None:
    with pytest.raises(InputError):
        first_network(volume(modality), organs, variant="testing")
