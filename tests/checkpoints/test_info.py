"""Checkpoints are described without their numbers, and nothing about them is an exception."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_transunet.checkpoints import loading
from napari_transunet.checkpoints.card import card_path, default_card
from napari_transunet.checkpoints.info import inspect_checkpoint
from napari_transunet.checkpoints.layout import expected_shapes
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import FileProblem
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import VARIANTS


def hollow_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A safetensors file of these shapes whose numbers take no room on the disk."""
    header, position = {}, 0
    for key, shape in shapes.items():
        integer = key.endswith("num_batches_tracked")
        length = int(np.prod(shape, dtype=np.int64)) * (8 if integer else 4)
        header[key] = {
            "dtype": "I64" if integer else "F32",
            "shape": shape,
            "data_offsets": [position, position + length],
        }
        position += length
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    return path


def test_every_published_layout(
    golden_layout: tuple[str, dict[str, tuple[int, ...]]], tmp_path: Path
) -> None:
    name, shapes = golden_layout
    report = inspect_checkpoint(hollow_safetensors(tmp_path / "w.safetensors", shapes))
    variant, size, skips, classes = name.rsplit("_", 3)
    assert report.ok
    assert report.variant == variant
    assert report.img_size == (int(size), int(size))
    assert (f"skip{report.n_skip}", f"c{report.num_classes}") == (skips, classes)
    assert report.patch_size == VARIANTS[variant].patch
    assert report.dtype == "float32"
    assert report.tensors == len(shapes)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("ViT-B_16", 91_674_201),
        ("ViT-B_32", 93_330_777),
        ("ViT-L_16", 310_356_313),
        ("ViT-L_32", 312_565_081),
        ("R50-ViT-B_16", 105_277_081),
        ("R50-ViT-L_16", 324_024_729),
    ],
)
def test_parameters_are_counted_as_published(tmp_path: Path, variant: str, parameters: int) -> None:
    found = VARIANTS[variant]
    shapes = expected_shapes(found, 9, (224 // found.patch) ** 2, found.skips)
    assert inspect_checkpoint(hollow_safetensors(tmp_path / "w.safetensors", shapes)).parameters == parameters


def test_the_numbers_of_a_large_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = expected_shapes(VARIANTS["R50-ViT-B_16"], 9, 14 * 14, 3)
    torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "large.pth")

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("A network was built, or numbers were read.")

    monkeypatch.setattr(loading, "TransUNet", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "from_file", refuse)
    report = inspect_checkpoint(tmp_path / "large.pth")
    assert report.ok
    assert (report.format, report.variant, report.parameters) == ("pytorch", "R50-ViT-B_16", 105_277_081)
    assert report.card is None
    assert "has no model card" in report.notes[0]


def test_the_same_for_every_format(tmp_path: Path, small_net: TransUNet) -> None:
    state = {f"module.{key}": value for key, value in small_net.state_dict().items()}
    torch.save({"net": state}, tmp_path / "zip.pth")
    torch.save({"net": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_checkpoint(tmp_path / "safe.safetensors", small_net)
    reports = [inspect_checkpoint(path) for path in sorted(tmp_path.iterdir())]
    told = {
        (
            report.variant,
            report.num_classes,
            report.img_size,
            report.n_skip,
            report.patch_size,
            report.parameters,
            report.dtype,
            report.ok,
        )
        for report in reports
    }
    parameters = sum(value.numel() for value in small_net.parameters())
    assert told == {("testing", 4, (48, 48), 0, 16, parameters, "float32", True)}
    assert [report.format for report in reports] == ["pytorch (before 1.6)", "safetensors", "pytorch"]
    assert "The weights were found under net." in reports[2].notes
    assert "The keys begin with module., which was taken off." in reports[2].notes


def test_the_report_is_json(tmp_path: Path, small_net: TransUNet) -> None:
    path = save_checkpoint(
        tmp_path / "w.safetensors", small_net, default_card(small_net, labels={1: "liver"})
    )
    report = json.loads(json.dumps(inspect_checkpoint(path).to_dict()))
    assert report["ok"] is True
    assert report["card"]["labels"] == [{"value": 1, "name": "liver"}]
    assert report["card_origin"] == "header"
    assert report["img_size"] == [48, 48]
    assert report["problems"] == []


def test_problems_are_reported_not_raised(tmp_path: Path, small_net: TransUNet) -> None:
    state: dict[str, Tensor] = small_net.state_dict()
    spoilt = {**state, "segmentation_head.0.bias": torch.ones(5)}
    cases = {
        "empty.pth": (b"", "is empty"),
        "text.pth": (b"hello", "is no checkpoint"),
    }
    for name, (content, said) in cases.items():
        (tmp_path / name).write_bytes(content)
        report = inspect_checkpoint(tmp_path / name)
        assert not report.ok
        assert said in report.problems[0]
        json.dumps(report.to_dict())
    torch.save(spoilt, tmp_path / "spoilt.pth")
    report = inspect_checkpoint(tmp_path / "spoilt.pth")
    assert not report.ok
    assert (report.variant, report.num_classes) == ("testing", 4)
    assert "segmentation_head.0.bias is 5 where 4 belongs" in report.problems[0]


def test_a_card_beside_the_file_is_found_and_checked(tmp_path: Path, small_net: TransUNet) -> None:
    path = save_checkpoint(tmp_path / "w.safetensors", small_net)
    card_path(path).write_text(default_card(small_net, title="beside").to_json())
    report = inspect_checkpoint(path)
    assert report.card is not None
    assert (report.card.title, report.card_origin) == ("beside", "beside")
    assert any("not the one in the file" in note for note in report.notes)
    card_path(path).write_text(default_card(small_net).updated(num_classes=7).to_json())
    assert "num_classes is 7, in the network 4" in inspect_checkpoint(path).problems[0]


def test_another_network_has_no_variant(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(3)}, tmp_path / "w.pth")
    report = inspect_checkpoint(tmp_path / "w.pth")
    assert report.variant is None
    assert report.num_classes is None
    assert "another network" in report.problems[0]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileProblem):
        inspect_checkpoint(tmp_path / "none.pth")
