"""The published test procedure on real CT, against labels that the published implementation made."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from napari_transunet.inference.predictor import Predictor
from tests.references import OWN_REFERENCE, reference_network

NAME = "R50-ViT-B_16_224_skip3_c9"


@pytest.fixture(scope="module")
def paper() -> Predictor:
    net = reference_network(NAME, OWN_REFERENCE / f"{NAME}.json")
    return Predictor(net, device="cpu", pipeline="paper")


# Every second slice tells; `make test-slow` looks at all.
every = pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.slow)])


def golden(folder: Path, stem: str, step: int) -> tuple[list[int], npt.NDArray[np.integer]]:
    """The slices that a reference file holds, by its name, and their labels (n, y, x)."""
    (path,) = (folder / "golden" / "volume").glob(f"{stem}_slices_*.npz")
    with np.load(path) as file:
        (key,) = file.files
        indices = [int(part) for part in path.stem.split("_slices_")[1].split("_")]
        return indices[::step], file[key][::step]


def equal(
    paper: Predictor, data: npt.NDArray[np.generic], indices: list[int], expected: npt.NDArray[np.integer]
) -> float:
    planes = dict(paper.iter_slices(data, slices=indices))
    return float((np.stack([planes[index] for index in indices]) == expected).mean())


@every
def test_a_nifti_volume(shared_data: Path, paper: Predictor, step: int) -> None:
    indices, expected = golden(shared_data, "example_ct", step)
    data = sitk.GetArrayFromImage(sitk.ReadImage(shared_data / "data" / "ct_abdomen" / "example_ct.nii.gz"))
    assert equal(paper, data, indices, expected) >= 0.999


@every
@pytest.mark.long
def test_a_dicom_series(shared_data: Path, paper: Predictor, step: int) -> None:
    indices, expected = golden(shared_data, "example_ct_dicom", step)
    reader = sitk.ImageSeriesReader()
    folder = shared_data / "data" / "ct_abdomen" / "example_ct_dicom"
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    data = sitk.GetArrayFromImage(reader.Execute())
    assert equal(paper, data, indices, expected) >= 0.999
