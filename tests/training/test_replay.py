from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.errors import CheckpointError, FileProblem
from napari_transunet.training.partial_slices import PartialSlices
from napari_transunet.training.replay import MOST_ASIDE, ReplayPack, replay_beside, replay_path, set_aside


def card(*names: str, size: int = 32) -> ModelCard:
    labels = [{"value": value, "name": name} for value, name in enumerate(names, 1)]
    return ModelCard(variant="testing", num_classes=len(names) + 1, img_size=(size, size), labels=labels)


@pytest.fixture
def pack() -> ReplayPack:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (4, 32, 32), generator=generator, dtype=torch.uint8)
    labels[0, 0] = 255
    slices = PartialSlices(
        torch.rand(6, 32, 32, generator=generator).half(),
        torch.randint(6, (4, 5), generator=generator),
        labels,
        torch.ones(4, 3, dtype=torch.bool),
        torch.ones(4, dtype=torch.bool),
        torch.zeros(4, dtype=torch.long),
    )
    return ReplayPack(slices, {1: "liver", 2: "spleen"}, "made up, CC0-1.0")


def test_a_pack_comes_back_as_it_was_written(pack: ReplayPack, tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.safetensors"
    assert replay_beside(checkpoint) is None
    pack.write(replay_path(checkpoint))

    read = replay_beside(checkpoint)

    assert read is not None
    assert (read.names, read.source) == (pack.names, pack.source)
    for name in ("around", "labels", "annotated"):
        assert torch.equal(getattr(read.slices, name), getattr(pack.slices, name))
    assert (read.slices.planes - pack.slices.planes).abs().max() < 1 / 255


def test_classes_are_matched_by_name(pack: ReplayPack) -> None:
    found = pack.for_card(card("Spleen", "bladder"))

    assert torch.equal(found.labels == 1, pack.slices.labels == 2)
    assert not (found.labels == 2).any()
    assert torch.equal(found.labels == 255, pack.slices.labels == 255)
    assert found.annotated[0].tolist() == [True, True, False]


def test_another_size_is_refused(pack: ReplayPack) -> None:
    with pytest.raises(CheckpointError, match="32×32"):
        pack.for_card(card("liver", size=64))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("planes", np.array([[[{}]]], object)),
        ("planes", np.zeros((6, 32, 32), np.float32)),
        ("planes", np.zeros((6, 16, 32), np.uint8)),
        ("around", np.full((4, 5), 6)),
        ("around", np.full((4, 5), -1)),
        ("around", np.zeros((3, 5), int)),
        ("labels", np.full((4, 32, 32), 9, np.uint8)),
        ("about", np.frombuffer(b"[1]", np.uint8)),
        ("about", np.frombuffer(b"{", np.uint8)),
        ("labels", None),
    ],
)
def test_what_is_no_pack_is_refused(
    pack: ReplayPack, tmp_path: Path, name: str, array: np.ndarray | None
) -> None:
    path = tmp_path / "a.replay.npz"
    pack.write(path)
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored}
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    np.savez(path, **arrays)

    with pytest.raises(CheckpointError):
        ReplayPack.read(path)


def test_a_size_that_is_not_there_takes_no_memory(pack: ReplayPack, tmp_path: Path) -> None:
    path = tmp_path / "a.replay.npz"
    pack.write(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            ReplayPack.read(path)
    with pytest.raises(FileProblem):
        ReplayPack.read(tmp_path / "none.replay.npz")


def test_a_pack_that_claims_to_be_huge_is_refused(
    tmp_path: Path, pack: ReplayPack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_transunet.training.replay.MAX_BYTES", 1 << 20)
    path = tmp_path / "a.replay.npz"
    pack.write(path)
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored}
    arrays["planes"] = np.broadcast_to(np.uint8(0), (80, 128, 128))
    np.savez_compressed(path, **arrays)

    with pytest.raises(CheckpointError, match="bytes"):
        ReplayPack.read(path)


@pytest.mark.parametrize(("count", "scored"), [(20, 0), (24, 6), (100, MOST_ASIDE)])
def test_a_part_is_scored_in_place_of_being_replayed(count: int, scored: int) -> None:
    slices = distinct(count)

    shown, aside = set_aside(slices, slices.pick([]))

    assert len(aside) == scored
    assert sorted([*shown.numbers.tolist(), *aside.numbers.tolist()]) == list(range(count))
    gaps = aside.numbers.diff()
    assert not scored or gaps.max() - gaps.min() <= 1


def test_what_is_taught_is_not_scored() -> None:
    slices = distinct(40)
    taught = slices.pick(list(range(30)))

    _, aside = set_aside(slices, replace(taught, planes=taught.planes + 0.002))

    assert len(aside) == 2
    assert set(aside.numbers.tolist()) <= set(range(30, 40))


def distinct(count: int) -> PartialSlices:
    """So many slices, each unlike the others."""
    generator = torch.Generator().manual_seed(0)
    return PartialSlices(
        torch.rand(count, 8, 8, generator=generator).half(),
        torch.arange(count)[:, None].expand(count, 5),
        torch.zeros(count, 8, 8, dtype=torch.uint8),
        torch.ones(count, 3, dtype=torch.bool),
        torch.ones(count, dtype=torch.bool),
        torch.arange(count),
    )
