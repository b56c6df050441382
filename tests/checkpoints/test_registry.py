"""Checkpoints by name."""

from pathlib import Path

import pytest
import torch

from napari_transunet.checkpoints import registry
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.registry import (
    DEFAULT_CHECKPOINT,
    FOLDER_VARIABLE,
    default_checkpoint,
    list_checkpoints,
    resolve_checkpoint,
    user_checkpoint_folder,
)
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import FileProblem, InputError
from napari_transunet.model.transunet import TransUNet


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_net: TransUNet) -> tuple[Path, Path]:
    """A folder of shipped checkpoints and one of the user's, each with some."""
    shipped, user = tmp_path / "weights", tmp_path / "user"
    shipped.mkdir()
    user.mkdir()
    monkeypatch.setattr(registry, "shipped_folder", lambda: shipped)
    monkeypatch.setenv(FOLDER_VARIABLE, str(user))
    save_checkpoint(shipped / "abdomen.safetensors", small_net, default_card(small_net, title="Abdomen, CT"))
    (shipped / "README.md").write_text("About the weights.")
    torch.save(small_net.state_dict(), user / "Mine.pth")
    (user / "Mine.card.json").write_text(default_card(small_net, title="My model").to_json())
    (user / "broken.pt").write_bytes(b"PK\x03\x04 and then nothing")
    (user / ".hidden.pth").write_bytes(b"")
    (user / "folder.pth").mkdir()
    return shipped, user


def test_shipped_ones_come_first_and_broken_ones_say_why(folders: tuple[Path, Path]) -> None:
    entries = list_checkpoints()
    assert [(entry.name, entry.title, entry.shipped, entry.ok) for entry in entries] == [
        ("abdomen", "Abdomen, CT", True, True),
        ("Mine", "My model", False, True),
        ("broken", "broken", False, False),
    ]
    (problem,) = entries[2].problems
    assert problem.startswith("broken.pt is truncated or damaged")
    assert entries[0].card is not None


def test_names_and_paths_are_resolved(folders: tuple[Path, Path]) -> None:
    shipped, user = folders
    assert resolve_checkpoint("abdomen") == shipped / "abdomen.safetensors"
    assert resolve_checkpoint("mine") == user / "Mine.pth"
    assert resolve_checkpoint(user / "Mine.pth") == user / "Mine.pth"
    assert resolve_checkpoint(str(user / "Mine.pth")) == user / "Mine.pth"
    assert resolve_checkpoint("broken") == user / "broken.pt"


def test_an_unknown_name_lists_the_known(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="no checkpoint called 'liver'; there are abdomen, Mine, broken"):
        resolve_checkpoint("liver")
    with pytest.raises(FileProblem, match=r"no checkpoint file liver\.pth"):
        resolve_checkpoint("liver.pth")
    with pytest.raises(FileProblem, match="no checkpoint file"):
        resolve_checkpoint("somewhere/liver")


def test_a_name_that_is_taken_is_told_apart(folders: tuple[Path, Path], small_net: TransUNet) -> None:
    shipped, user = folders
    save_checkpoint(user / "abdomen.safetensors", small_net)
    torch.save(small_net.state_dict(), user / "abdomen.pth")
    names = {entry.name: entry.path for entry in list_checkpoints()}
    assert names["abdomen"] == shipped / "abdomen.safetensors"
    assert names["abdomen.pth"] == user / "abdomen.pth"
    assert names["abdomen.safetensors"] == user / "abdomen.safetensors"
    assert resolve_checkpoint("abdomen.safetensors") == user / "abdomen.safetensors"


def test_the_default_is_shipped_and_named_not_the_first(
    folders: tuple[Path, Path], small_net: TransUNet
) -> None:
    shipped, user = folders
    save_checkpoint(user / f"{DEFAULT_CHECKPOINT}.safetensors", small_net)
    assert default_checkpoint() is None
    save_checkpoint(shipped / f"{DEFAULT_CHECKPOINT}.safetensors", small_net)
    assert next(entry.name for entry in list_checkpoints()) == "abdomen"
    assert default_checkpoint() == shipped / f"{DEFAULT_CHECKPOINT}.safetensors"


def test_a_user_folder_that_is_not_there_is_empty(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [entry.name for entry in list_checkpoints(tmp_path / "nowhere")] == ["abdomen"]
    assert user_checkpoint_folder() == folders[1]
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert user_checkpoint_folder().name == "checkpoints"
    monkeypatch.setenv(FOLDER_VARIABLE, "~/models")
    assert user_checkpoint_folder() == Path.home() / "models"


def test_the_checkout_ships_its_weights() -> None:
    shipped = registry.shipped_folder()
    assert shipped is not None
    assert shipped.name == "weights"
    assert default_checkpoint() == shipped / f"{DEFAULT_CHECKPOINT}.safetensors"


def test_what_the_checkout_ships_says_what_it_is_for(tmp_path: Path) -> None:
    for entry in list_checkpoints(tmp_path):
        assert entry.ok, entry.problems
        assert entry.card is not None
        assert entry.card.modality is not None
        assert entry.card.label_names
    # What tells a crop of the hippocampus from other MR is its size; abdominal MR is chosen by name alone.
    extents = {
        entry.name: entry.card.extent for entry in list_checkpoints(tmp_path) if entry.card is not None
    }
    assert extents["hippocampus-mr"] is not None
    assert extents["abdominal-organs-mr"] is None
