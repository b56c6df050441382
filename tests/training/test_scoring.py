import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.errors import DatasetError
from napari_transunet.inference.predictor import Predictor
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.metrics.segmentation_metrics import evaluate
from napari_transunet.training.datasets import Dataset, open_dataset
from napari_transunet.training.scoring import (
    card_scores,
    image_and_reference,
    mean_dice,
    picture_of,
    score_volumes,
    worst_and_median,
)
from napari_transunet.volumes.orientation import Reorientation
from tests.training.samples import network, write_dataset

CLASSES = {0: 0, 3: 1, 7: 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_dataset(tmp_path_factory.mktemp("scoring") / "data", patients=3))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    net = network().eval()
    with torch.inference_mode():
        mean = net(0.5 * torch.rand(1, 1, 32, 32)).mean((0, 2, 3))
    # So that no class is found everywhere.
    net.segmentation_head[0].bias.data -= mean
    card = default_card(net, labels={1: "body", 2: "head"}, modality="MR").updated(orientation="LPS")
    return Predictor(net, device="cpu", precision="float32", card=card)


def test_scores_are_what_evaluate_says(dataset: Dataset, predictor: Predictor) -> None:
    told: list[tuple[int, int]] = []
    scores = score_volumes(predictor, dataset.cases, CLASSES, progress=lambda *now: told.append(now))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert list(scores) == [case.name for case in dataset.cases]
    for case in dataset.cases:
        image, labels = case.read()
        reference = np.select([labels.data == 3, labels.data == 7], [1, 2], 0).astype(np.uint8)
        expected = evaluate(
            predictor.predict(image), reference, spacing=(2.0, 1.0, 1.0), labels_to_score=[1, 2]
        )
        for label, of in expected.items():
            assert scores[case.name][label] == pytest.approx(of, nan_ok=True)
    assert any(of["dice"] > 0 for labels in scores.values() for of in labels.values())


def test_labels_may_be_stored_in_another_orientation(
    dataset: Dataset, predictor: Predictor, tmp_path: Path
) -> None:
    expected = score_volumes(predictor, dataset.cases[:1], CLASSES)
    (name,) = expected
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        image = sitk.ReadImage(str(dataset.path / folder / f"{name}.nii.gz"))
        image = sitk.DICOMOrient(image, "PIR") if folder == "labels" else image
        sitk.WriteImage(image, str(tmp_path / folder / f"{name}.nii.gz"))
    turned = open_dataset(tmp_path)
    assert turned.cases[0].read()[1].data.shape != dataset.cases[0].read()[1].data.shape
    scores = score_volumes(predictor, turned.cases, CLASSES)
    for label, of in expected[name].items():
        assert scores[name][label] == pytest.approx(of, nan_ok=True)


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".nii.gz"])
def test_where_labels_do_not_reach_is_background_or_counts_for_nothing_as_their_format_has_it(
    dataset: Dataset, tmp_path: Path, suffix: str
) -> None:
    root = write_dataset(tmp_path, patients=1)
    image = sitk.ReadImage(str(root / "images" / "patient0.nii.gz"))
    image.SetOrigin((5.0, 6.0, 7.0))
    sitk.WriteImage(image, str(root / "images" / "patient0.nii.gz"))
    path = root / "labels" / "patient0.nii.gz"
    whole = read_volume(path)
    geometry = read_volume(root / "images" / "patient0.nii.gz").geometry
    origin = tuple((geometry.affine_lps @ [0, 0, 2, 1.0])[:3].tolist())
    path.unlink()
    part = replace(geometry, shape=(3, 32, 32), origin=origin)
    write_labels(path.with_name(f"patient0{suffix}"), whole.data[2:5], part, {3: "body", 7: "head"})
    _, found = image_and_reference(open_dataset(root).cases[0], CLASSES)
    expected = np.select([whole.data == 3, whole.data == 7], [1, 2], 0).astype(np.uint8)
    assert expected[[0, 1, 5]].any()
    expected[[0, 1, 5]] = 255 if suffix == ".nii.gz" else 0
    np.testing.assert_array_equal(found, expected)


def test_another_grid_is_told(dataset: Dataset, predictor: Predictor, tmp_path: Path) -> None:
    root = write_dataset(tmp_path, patients=1)
    image = sitk.ReadImage(str(root / "labels" / "patient0.nii.gz"))
    image.SetSpacing((2.0, 1.0, 2.0))
    sitk.WriteImage(image, str(root / "labels" / "patient0.nii.gz"))
    with pytest.raises(DatasetError, match="patient0: image and labels lie on different grids"):
        score_volumes(predictor, open_dataset(root).cases, CLASSES)


def test_scoring_can_be_cancelled(dataset: Dataset, predictor: Predictor) -> None:
    count = itertools.count()
    scores = score_volumes(predictor, dataset.cases, CLASSES, cancelled=lambda: next(count) == 1)
    assert list(scores) == [dataset.cases[0].name]


def of(dice: float, hd95: float = 1.0) -> dict[str, float]:
    found = {"dice": dice, "hd95": hd95, "asd": hd95, "nsd": dice}
    return found | {"volume_ml": 1.0, "reference_ml": 1.0, "volume_difference_ml": 0.0}


def test_what_a_card_says_of_scores() -> None:
    scores = {
        "a": {1: of(0.5), 2: of(math.nan, math.nan)},
        "b": {1: of(0.7, math.inf), 2: of(math.nan, math.nan)},
        "c": {1: of(0.9), 2: of(math.nan, math.nan)},
    }
    told = card_scores(scores, {1: "body"})
    assert told["cases"] == 3
    body = told["labels"]["body"]
    assert body["dice"] == {"mean": 0.7, "sd": 0.2, "median": 0.7, "worst": 0.5, "cases": 3}
    assert body["hd95_mm"]["infinite"] == 1
    assert told["labels"]["class 2"]["dice"]["mean"] is None
    assert told["mean"]["dice"] == 0.7


def test_the_worst_and_the_median_case() -> None:
    scores = {
        name: {1: of(dice), 2: of(math.nan)}
        for name, dice in (("b", 0.9), ("a", 0.1), ("none", math.nan), ("c", 0.5))
    }
    assert worst_and_median(scores) == ("a", "c")
    assert mean_dice(scores["b"]) == 0.9
    assert math.isnan(mean_dice(scores["none"]))
    assert worst_and_median({"none": scores["none"]}) == ("none", "none")


def test_a_picture_shows_the_slice_with_the_most_labels(dataset: Dataset, predictor: Predictor) -> None:
    case = dataset.cases[0]
    picture = picture_of(predictor, case, CLASSES)
    assert (picture.shape, picture.dtype) == ((3, 256, 3 * 256), torch.uint8)
    bare, true, found = picture.split(256, dim=2)
    assert torch.equal(bare[0], bare[1])
    assert torch.equal(bare[1], bare[2])
    assert not torch.equal(found, bare)

    image, labels = case.read()
    turn = Reorientation.between(image.geometry, "LPS")
    labelled = turn.apply(labels.data) > 0
    z = int(labelled.sum((1, 2)).argmax())
    tinted = (true != bare).any(0)
    shown = torch.from_numpy(labelled[z].copy()).repeat_interleave(8, 0).repeat_interleave(8, 1)
    # Where the slice has the very colour of a label, nothing changes.
    assert not (tinted & ~shown).any()
    assert (tinted & shown).sum() > 0.95 * shown.sum()
