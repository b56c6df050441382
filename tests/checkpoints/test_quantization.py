import json
from pathlib import Path

import pytest

from napari_transunet.checkpoints.quantization import (
    MAX_RANGES_BYTES,
    ActivationRanges,
    Agreement,
    ranges_beside,
    ranges_path,
)
from napari_transunet.errors import CheckpointError, ExistsError

RANGES = ActivationRanges(
    sha256="ab" * 32,
    layers={"decoder.conv_more.0": (-1.5, 2.25), "segmentation_head.0": (0.0, 7.0)},
    img_size=(160, 160),
    slices=12,
    agreement=Agreement(labels=0.9999, dice={1: 0.998, 5: 0.9991}),
)


def test_ranges_come_back_from_beside_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "organs.v2.safetensors"
    assert ranges_beside(checkpoint, "ab" * 32) is None
    assert ranges_path(checkpoint) == tmp_path / "organs.v2.ranges.json"
    RANGES.write(ranges_path(checkpoint))
    assert ranges_beside(checkpoint, "ab" * 32) == RANGES
    with pytest.raises(ExistsError):
        RANGES.write(ranges_path(checkpoint))


def test_ranges_of_other_weights_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "organs.safetensors"
    RANGES.write(ranges_path(checkpoint))
    with pytest.raises(CheckpointError, match="belong to other weights"):
        ranges_beside(checkpoint, "cd" * 32)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "something else"},
        {"layers": {"a": [1, 2]}},
        {"layers": {"a": [-1, float("inf")]}},
        {"layers": {"a": [float("nan"), 1]}},
        {"layers": {"a": [0]}},
        {"img_size": None},
        {"slices": 0},
        {"agreement": {"labels": 1.5}},
    ],
)
def test_what_is_no_range_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "a.ranges.json"
    path.write_text(json.dumps(RANGES.model_dump(mode="json") | change))
    with pytest.raises(CheckpointError, match=r"a\.ranges\.json is not usable: .*make it again"):
        ActivationRanges.read(path)


def test_damage_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.ranges.json"
    path.write_bytes(b"\x80\x04 no JSON")
    with pytest.raises(CheckpointError, match="not usable"):
        ActivationRanges.read(path)
    path.write_bytes(b" " * (MAX_RANGES_BYTES + 1))
    with pytest.raises(CheckpointError, match="longer than 1024 KiB"):
        ActivationRanges.read(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        ActivationRanges.read(tmp_path)


def test_layers_are_left_out_by_the_beginning_of_their_names() -> None:
    assert list(RANGES.without(("decoder",)).layers) == ["segmentation_head.0"]
    assert RANGES.without(()).layers == RANGES.layers


def test_the_least_agreement_counts() -> None:
    assert Agreement(labels=0.9999, dice={1: 0.994}).good is False
    assert Agreement(labels=0.994, dice={}).good is False
    assert Agreement(labels=0.9999, dice={1: 0.995}).good is True
    assert Agreement(labels=0.9999, dice={1: 0.996, 2: 0.998}).least == 0.996
