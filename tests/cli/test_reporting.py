"""What a reader had to assume reaches the person at the terminal and the files that are written."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import ModelCard, default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.export.writing import ExportRequest, export
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_volume
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.cases import prepare_cases
from napari_transunet.training.datasets import open_dataset
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source, Volume
from tests.commands import invoke
from tests.networks import slim_parts

ASSUMED = "1 mm voxels were assumed"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    np.save(tmp_path / "bare.npy", np.zeros((3, 20, 20), np.int16))
    return tmp_path / "bare.npy"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    with slim_parts():
        net = TransUNet("testing", num_classes=3, img_size=32)
        return save_checkpoint(folder / "organs.safetensors", net, default_card(net, modality="CT"))


def test_segment_says_it_and_writes_it_down(bare: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.nii.gz"
    result = invoke("segment", bare, "-o", out, "-c", checkpoint, "--device", "cpu")
    assert ASSUMED in result.stderr
    written = json.loads((tmp_path / "labels.json").read_text("utf-8"))["provenance"]
    assert any(ASSUMED in note for note in written["reading_notes"])


def test_convert_and_evaluate_say_it(bare: Path, tmp_path: Path) -> None:
    result = invoke("convert", bare, tmp_path / "image.nrrd")
    assert ASSUMED in result.stderr
    assert ASSUMED not in result.stdout
    labels = np.ones((3, 20, 20), np.uint8)
    np.save(tmp_path / "one.npy", labels)
    result = invoke("evaluate", tmp_path / "one.npy", tmp_path / "one.npy", "--json")
    assert result.stderr.count(ASSUMED) == 2  # of the prediction, and of the reference
    json.loads(result.stdout)


def test_evaluate_says_it_once_for_many_cases(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for case in range(4):
            np.save(tmp_path / folder / f"case{case}.npy", np.ones((3, 20, 20), np.uint8))
    result = invoke("evaluate", tmp_path / "a", tmp_path / "b", "--json")
    assert result.stderr.count(ASSUMED) == 2


def test_training_is_told_once_for_all_cases(tmp_path: Path) -> None:
    for folder, value in (("images", 0), ("labels", 1)):
        (tmp_path / folder).mkdir()
        for case in range(3):
            np.save(tmp_path / folder / f"case{case}.npy", np.full((2, 32, 32), value, np.uint8))
    card = ModelCard(variant="testing", num_classes=2, img_size=(32, 32), n_skip=3, window=(0.0, 1.0))
    told: list[str] = []
    prepare_cases(open_dataset(tmp_path).cases, {1: 1}, card, noted=told.append)
    assert len(told) == 1
    assert ASSUMED in told[0]
    assert "2 more" in told[0]


def test_an_export_writes_it_down(bare: Path, tmp_path: Path) -> None:
    source = read_volume(bare).source
    geometry = Geometry.default((3, 20, 20))
    request = ExportRequest(tmp_path, "out", ("nifti",))
    export(np.zeros(geometry.shape, np.uint8), geometry, LabelSet(), request, source=source)
    record = json.loads((tmp_path / "out.json").read_text("utf-8"))["provenance"]
    assert record["reading_notes"] == list(source.notes)
    assert Source(None, "array", "array").notes == ()


def test_labels_are_named_after_the_link_to_the_scan(bare: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("patient01.npy", "patient02.npy"):
        (tmp_path / "scans" / name).symlink_to(bare)
    links = sorted((tmp_path / "scans").iterdir())
    invoke("segment", *links, "-o", tmp_path / "out", "-c", checkpoint, "--device", "cpu")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        "patient01.nii.gz",
        "patient02.nii.gz",
    ]


@pytest.mark.parametrize(("towards", "ends"), [(1.0, "0 feet, 4 head"), (-1.0, "0 head, 4 feet")])
def test_slices_to_check_are_napari_s_with_head_and_feet_named(
    checkpoint: Path, tmp_path: Path, towards: float, ends: str
) -> None:
    geometry = Geometry(
        (5, 32, 32), (2.0, 1.0, 1.0), (0, 0, 0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, towards))
    )
    values = np.random.default_rng(0).integers(-1000, 1000, geometry.shape).astype(np.int16)
    scan = write_volume(tmp_path / "scan.nii.gz", Volume(values, geometry, "CT", Source(None, "", "scan")))
    result = invoke("segment", scan, "-o", tmp_path / "out.nii.gz", "-c", checkpoint, "--device", "cpu")
    assert ends in result.stderr


def test_where_a_command_cannot_choose_one_of_several_volumes_it_says_what_can(tmp_path: Path) -> None:
    several, one = tmp_path / "several.nii", tmp_path / "one.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.uint8), np.eye(4)), several)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), one)
    scored = invoke("evaluate", several, one)
    assert scored.exit_code == 2
    assert scored.stderr.count("\n") == 1
    assert "To extract one into a file, use `napari-transunet convert --time`." in scored.stderr
    converted = invoke("convert", several, tmp_path / "out.nii")
    assert converted.exit_code == 2
    assert "To extract one" not in converted.stderr
    assert invoke("convert", several, tmp_path / "out.nii", "--time", 1).exit_code == 0
