"""Pixels read by several threads, image by image and straight into the volume, are those that pydicom reads whole."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from napari_transunet.errors import VolumeError
from napari_transunet.io.dicom.headers import Header, read_header
from napari_transunet.io.dicom.pixels import Plane, read_pixels, read_planes
from napari_transunet.io.reading import read_volume
from tests.io.samples import ct_slice, enhanced, save

PLAIN = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
PACKED = ("JPEG", "JPEG2000", "RLE")


def _packed_image(plane: npt.NDArray[Any], compressor: str, folder: Path) -> tuple[bytes, str]:
    """The bytes of one packed image and its transfer syntax."""
    if compressor == "RLE":
        dataset = ct_slice(plane, (0, 0, 0))
        save(dataset, folder / "packed" / "a.dcm")
        dataset.compress(RLELossless)
        syntax = RLELossless
    else:
        (folder / "packed").mkdir(exist_ok=True)
        writer = SimpleITK.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / "packed" / "a.dcm"))
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.Execute(SimpleITK.GetImageFromArray(plane[None]))
        dataset = pydicom.dcmread(folder / "packed" / "a.dcm")
        syntax = dataset.file_meta.TransferSyntaxUID
    (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    return frame, syntax


def _put_frames(dataset: Dataset, frames: list[bytes]) -> None:
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def _values(dtype: Any, count: int) -> npt.NDArray[Any]:
    return np.random.default_rng(1).integers(0, 120, (count, 12, 16)).astype(dtype)


def _series(folder: Path, pixels: npt.NDArray[Any], packing: str) -> list[Path]:
    paths = []
    for z, plane in enumerate(pixels):
        dataset, syntax = ct_slice(plane, (0, 0, z)), packing
        if packing in PACKED:
            frame, syntax = _packed_image(plane, packing, folder)
            _put_frames(dataset, [frame])
        elif packing == ExplicitVRBigEndian:
            dataset.PixelData = plane.astype(plane.dtype.newbyteorder(">")).tobytes()
        paths.append(save(dataset, folder / "series" / f"{z}.dcm", syntax))
    return paths


def _filled(headers: list[Header], shape: tuple[int, ...], dtype: Any, threads: int) -> npt.NDArray[Any]:
    data = np.zeros(shape, dtype)
    places = iter(data)
    wanted = [(header, [Plane(index, next(places)) for index in range(header.frames)]) for header in headers]
    read_planes(wanted, None, threads=threads)
    return data


@pytest.mark.parametrize("packing", [*PLAIN, *PACKED])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_threads_and_files_read_whole_give_the_same(tmp_path: Path, packing: str, dtype: type) -> None:
    pixels = _values(dtype, 7)
    headers = [read_header(path) for path in _series(tmp_path, pixels, packing)]
    whole = np.concatenate([read_pixels(header, None) for header in headers])
    assert whole.dtype == dtype
    np.testing.assert_array_equal(whole, pixels)
    for threads in (1, 4):
        np.testing.assert_array_equal(_filled(headers, pixels.shape, dtype, threads), pixels)
    # A plane of another type than the stored one, and one that turns values into others.
    np.testing.assert_array_equal(_filled(headers, pixels.shape, np.float32, 2), pixels)
    doubled = np.zeros(pixels.shape[1:], np.float64)
    read_planes([(headers[3], [Plane(0, doubled, lambda stored: stored * 2.0)])], None)
    np.testing.assert_array_equal(doubled, pixels[3] * 2.0)


@pytest.mark.parametrize("packing", [ExplicitVRLittleEndian, ExplicitVRBigEndian, *PACKED])
def test_films_are_read_image_by_image(tmp_path: Path, packing: str) -> None:
    pixels = _values(np.uint16, 40)
    depths = [float((7 * z) % 40) for z in range(40)]
    dataset, syntax = enhanced(pixels, depths), packing
    if packing in PACKED:
        frames, syntaxes = zip(*(_packed_image(plane, packing, tmp_path) for plane in pixels), strict=True)
        syntax = syntaxes[0]
        _put_frames(dataset, list(frames))
    elif packing == ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(">u2").tobytes()
    path = save(dataset, tmp_path / "film.dcm", syntax)
    expected = pixels[np.argsort(depths)].astype(np.int16) - 1000
    np.testing.assert_array_equal(read_volume(path).data, expected)
    header = read_header(path)
    np.testing.assert_array_equal(_filled([header], pixels.shape, np.uint16, 3), pixels)
    np.testing.assert_array_equal(read_pixels(header, None), pixels)


def test_an_image_in_several_pieces(tmp_path: Path) -> None:
    pixels = _values(np.uint16, 1)
    frame, syntax = _packed_image(pixels[0], "JPEG2000", tmp_path)
    dataset = ct_slice(pixels[0], (0, 0, 0))
    dataset.PixelData = encapsulate([frame], fragments_per_frame=3)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    header = read_header(save(dataset, tmp_path / "a.dcm", syntax))
    np.testing.assert_array_equal(_filled([header], pixels.shape, np.uint16, 2), pixels)
    np.testing.assert_array_equal(read_pixels(header, None), pixels)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.integers(1, 16),
    signed=st.booleans(),
    wide=st.booleans(),
    seed=st.integers(0, 99),
    odd=st.booleans(),
)
def test_bits_above_those_stored_do_not_count(
    tmp_path: Path, stored: int, signed: bool, wide: bool, seed: int, odd: bool
) -> None:
    bits = 16 if wide or stored > 8 else 8
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    raw = np.random.default_rng(seed).integers(0, 256, (5, 3 + odd, bits // 8), np.uint8)
    plane = raw.reshape(5, -1).view(dtype)
    dataset = ct_slice(plane, (0, 0, 0), BitsStored=stored, HighBit=stored - 1)
    path = save(dataset, tmp_path / "a.dcm")
    header = read_header(path)
    found = _filled([header], (1, *plane.shape), dtype, 1)[0]
    np.testing.assert_array_equal(found, pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize("packing", [ExplicitVRLittleEndian, *PACKED])
@pytest.mark.parametrize("cut", [12, 60])
def test_the_first_damaged_file_is_named(tmp_path: Path, packing: str, cut: int) -> None:
    paths = _series(tmp_path, _values(np.uint16, 9), packing)
    for path in (paths[5], paths[7]):
        path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(VolumeError, match=r"series: .*\b5\.dcm (are damaged|has no pixel data)"):
        read_volume(paths[0].parent)


def test_a_header_that_promises_more_images_than_there_are(tmp_path: Path) -> None:
    pixels = _values(np.uint16, 3)
    for packing in (ExplicitVRLittleEndian, *PACKED):
        dataset, syntax = enhanced(pixels, [0.0, 1.0, 2.0]), packing
        if packing in PACKED:
            frame, syntax = _packed_image(pixels[0], packing, tmp_path)
            _put_frames(dataset, [frame])
        else:
            dataset.PixelData = dataset.PixelData[: 2 * pixels[0].nbytes]
        path = save(dataset, tmp_path / "film.dcm", syntax)
        with pytest.raises(VolumeError, match=r"film\.dcm"):
            read_volume(path)


def test_the_filters_of_warnings_stay_as_they_were(tmp_path: Path) -> None:
    paths = _series(tmp_path, _values(np.uint16, 8), "RLE")
    before = list(warnings.filters)
    read_volume(paths[0].parent)
    assert list(warnings.filters) == before
