"""FreeSurfer's volumes, held against nibabel's reader."""

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from napari_transunet.errors import VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.reading import read_volume

OBLIQUE = np.array([[-0.8, 0.12, 0.2, 40], [0.1, 1.08, 0.5, -30], [-0.05, -0.3, 2.4, 12], [0, 0, 0, 1]])
OBLIQUE[:3, :3] = np.linalg.svd(OBLIQUE[:3, :3])[0] @ np.linalg.svd(OBLIQUE[:3, :3])[2] * (0.8, 1.1, 2.5)


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_voxels_and_grid_are_those_of_another_reader(
    tmp_path: Path, suffix: str, dtype: npt.DTypeLike
) -> None:
    values = np.random.default_rng(0).integers(0, 255, (5, 6, 7)).astype(dtype)
    path = tmp_path / f"a{suffix}"
    nibabel.save(nibabel.MGHImage(values, OBLIQUE), path)
    volume = read_volume(path)
    assert volume.data.dtype == dtype
    np.testing.assert_array_equal(volume.data, values.T)
    np.testing.assert_allclose(volume.geometry.affine_ras, nibabel.load(path).affine, atol=1e-4)


@pytest.mark.parametrize("placed", [0, -1])  # FreeSurfer takes what is not above 0 for "not placed"
def test_without_a_place_it_is_coronal_about_the_centre(tmp_path: Path, placed: int) -> None:
    path = tmp_path / "a.mgh"
    nibabel.save(nibabel.MGHImage(np.zeros((4, 6, 8), np.uint8), OBLIQUE), path)
    raw = bytearray(path.read_bytes())
    raw[28:30] = placed.to_bytes(2, "big", signed=True)
    path.write_bytes(raw)
    volume = read_volume(path)
    geometry = volume.geometry
    assert not volume.source.has_orientation
    assert (geometry.axis_codes, geometry.spacing) == ("LIA", (1, 1, 1))
    np.testing.assert_allclose(geometry.affine_ras @ (2, 3, 4, 1), (0, 0, 0, 1))


def test_one_of_several_frames_is_chosen(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((3, 4, 5, 2)).astype(np.float32)
    nibabel.save(nibabel.MGHImage(values, np.eye(4)), tmp_path / "a.mgz")
    with pytest.raises(SeveralVolumesError, match=r"2 time points.*choose one with time"):
        read_volume(tmp_path / "a.mgz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mgz", time=1).data, values[..., 1].T)


@pytest.mark.parametrize(("place", "value"), [(0, 2), (20, 7), (4, -1), (8, 1 << 30), (16, 0)])
def test_headers_that_cannot_be_are_refused(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "a.mgh"
    nibabel.save(nibabel.MGHImage(np.zeros((4, 6, 8), np.uint8), np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    raw[place : place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(raw)
    with pytest.raises(VolumeError, match=r"a\.mgh"):
        read_volume(path)
