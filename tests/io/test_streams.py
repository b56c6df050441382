"""Scaling in the memory that is there, and reading in pieces: the same values as in the plain way."""

import gzip
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.io import streams as limits
from napari_transunet.io.gzip_stream import Inflated
from napari_transunet.io.reading import read_volume
from napari_transunet.io.streams import opened, read_array, read_voxels, rescaled
from napari_transunet.io.writing import write_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.io.samples import ct_slice, save

INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4")
WIDE = (np.int16, np.int32, np.int64)


def _plainly(values: npt.NDArray[Any], slope: int, intercept: int) -> npt.NDArray[Any]:
    """The rule for integers, with numbers that cannot overflow."""
    products = [int(value) * slope for value in values.ravel()]
    results = [product + intercept for product in products]
    involved = [*products, *results, *map(int, values.ravel()), slope, intercept]
    kind = next(
        kind for kind in WIDE if np.iinfo(kind).min <= min(involved) and max(involved) <= np.iinfo(kind).max
    )
    if min(results) >= -32768 and max(results) <= 32767:
        kind = np.int16
    return np.array(results, kind).reshape(values.shape)


@settings(max_examples=40)
@given(
    values=st.sampled_from(INTEGERS).flatmap(lambda kind: arrays.arrays(kind, (2, 3, 2))),
    slope=st.one_of(st.integers(-3, 3).filter(bool), st.integers(-70_000, 70_000).filter(bool)),
    intercept=st.one_of(st.just(-1024), st.integers(-70_000, 70_000)),
)
def test_integers_are_scaled_exactly(values: npt.NDArray[Any], slope: int, intercept: int) -> None:
    if (slope, intercept) == (1, 0):
        return
    expected = _plainly(values, slope, intercept)
    for array in (values.copy(), values.copy()):
        array.flags.writeable = array is not values
        found = rescaled(array, slope, intercept)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    values.flags.writeable = False
    np.testing.assert_array_equal(rescaled(values, slope, intercept), expected)


def test_values_as_wide_as_the_result_need_no_new_memory() -> None:
    for dtype, slope, intercept in ((np.uint16, 1, -1024), (np.int16, -2, 5), (np.float32, 0.5, 3)):
        values = np.arange(2000, dtype=dtype)
        expected = values.astype(np.float64) * slope + intercept
        found = rescaled(values, slope, intercept)
        assert np.shares_memory(found, values)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u1", ">f4", "<f8", "<i4", "<i8"])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (0.5, 3), (2, 0.25)])
@pytest.mark.parametrize("packed", [False, True])
def test_reading_in_pieces_is_scaling_the_whole(
    monkeypatch: pytest.MonkeyPatch, dtype: str, slope: float, intercept: float, packed: bool
) -> None:
    values = np.random.default_rng(0).integers(0, 100, (5, 6, 7)).astype(dtype)
    expected = rescaled(values.astype(values.dtype.newbyteorder("=")), slope, intercept)
    monkeypatch.setattr(limits, "_CHUNK", 64)
    raw = values.tobytes()
    stream = Inflated(io.BytesIO(gzip.compress(raw))) if packed else io.BytesIO(raw)
    found = read_array(stream, values.dtype, values.shape, slope, intercept)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(VolumeError, match=rf"ends after .* of {limits._readable(values.nbytes)} of voxels"):
        read_array(io.BytesIO(raw[:-5]), values.dtype, values.shape, slope, intercept)


def _nifti(suffix: str, slope: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import nibabel

        if slope == 1:
            geometry = Geometry(_ct().shape, (1, 1, 1), (0, 0, 0))
            return write_volume(folder / f"a{suffix}", Volume(_ct(), geometry, "CT", Source(None, "", "")))
        image = nibabel.Nifti1Image(_ct().T, np.eye(4))
        image.header.set_slope_inter(slope, 0.25)
        nibabel.save(image, folder / f"a{suffix}")
        return folder / f"a{suffix}"

    return make


def _dicom(slope: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for z, plane in enumerate(_ct()):
            save(ct_slice(plane.view(np.uint16), (0, 0, z), RescaleSlope=slope), folder / f"{z}.dcm")
        return folder

    return make


def _ct() -> npt.NDArray[np.int16]:
    return np.random.default_rng(0).integers(0, 3000, (24, 512, 512)).astype(np.int16)


@pytest.mark.parametrize(
    "make",
    [_nifti(".nii", 1), _nifti(".nii", 0.5), _nifti(".nii.gz", 1), _dicom("1"), _dicom("0.5")],
    ids=["nii", "nii scaled", "nii.gz", "dicom", "dicom scaled"],
)
def test_no_reader_holds_the_volume_twice(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    read_volume(path)
    tracemalloc.start()
    try:
        volume = read_volume(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.4 * volume.data.nbytes


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_voxels_of_a_frame_are_read_and_what_cannot_be_there_is_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    frames = np.arange(48, dtype=">i2").reshape(2, 2, 3, 4)
    (tmp_path / "a.raw").write_bytes(pack(b"header" + frames.tobytes()))

    def read(frame: int, shape: tuple[int, ...] = frames.shape[1:], **options: Any) -> npt.NDArray[Any]:
        with opened(tmp_path / "a.raw") as file:
            return read_voxels(file, 6, frames.dtype, shape, frame=frame, **options)

    found = read(1, slope=2, intercept=-1)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, frames[1] * 2 - 1)
    with pytest.raises(VolumeError, match="truncated"):
        read(2)
    with pytest.raises(VolumeError, match="promises"):
        read(2, (1000, 1000, 4))
    # The limit holds for the floats that the scaling gives.
    with pytest.raises(SizeError):
        read(0, slope=0.5, max_bytes=frames[0].nbytes)
