"""What is said of the values of any file, whatever its format."""

from pathlib import Path

import numpy as np
import pytest

from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume

SHAPE = (3, 4, 5)


def written(path: Path, data: np.ndarray) -> Volume:
    volume = Volume(data, Geometry(SHAPE, (2.0, 1.0, 1.0)), None, Source(None, "array", "v"))
    return read_volume(write_volume(path, volume))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voxels_without_a_number_are_counted(tmp_path: Path, dtype: type) -> None:
    data = np.zeros(SHAPE, dtype)
    assert written(tmp_path / "whole.nrrd", data).source.notes == ()
    data[1, 2, 3], data[0, 0, :2] = np.nan, np.inf
    (note,) = written(tmp_path / "gaps.nrrd", data).source.notes
    assert "3 voxels hold no number" in note


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha", "a.npy"])
def test_numbers_that_float32_cannot_hold_are_none_and_that_is_said(tmp_path: Path, name: str) -> None:
    data = np.arange(60, dtype=np.float64).reshape(SHAPE)
    data[0, 0, 0] = np.nan
    data[1, 1], data[2, 0, 1] = -np.finfo(np.float64).max, 3.5e38
    largest = float(np.finfo(np.float32).max)
    data[2, 3, 4] = largest
    if name.endswith(".npy"):
        np.save(tmp_path / name, data)
        volume = read_volume(tmp_path / name)
    else:
        volume = written(tmp_path / name, data)
    note = volume.source.notes[-1]
    assert "7 voxels hold no number" in note
    assert "in 6 of them, a number beyond ±3.4e+38" in note
    expected = data.copy()
    expected[1, 1], expected[2, 0, 1] = -np.inf, np.inf
    np.testing.assert_array_equal(volume.data, expected)
    assert volume.data.astype(np.float32)[2, 3, 4] == np.float32(largest)
