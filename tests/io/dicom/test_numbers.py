"""Numbers in DICOM headers: refused by the name of their field where they cannot be read, the standard's default where
they are absent."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from napari_transunet.errors import VolumeError
from napari_transunet.io.dicom.numbers import number, numbers, whole_number
from napari_transunet.io.reading import read_volume
from tests.io.samples import ct_slice, enhanced, save, segmentation, series


def put(dataset: Dataset, name: str, text: str) -> Dataset:
    """The data set with a field that holds any text, as a careless program writes it."""
    tag = Tag(name)
    raw = text.encode() + b" " * (len(text) % 2)
    dataset[tag] = RawDataElement(tag, "DS", len(raw), raw, 0, False, True)
    return dataset


@pytest.mark.parametrize("text", ["-1024,0", "-1024 HU", "nan", "inf", "1e999", "1_024", "--3", "1\\2", "x"])
def test_what_is_no_number_is_not_taken_for_an_absent_one(text: str) -> None:
    with pytest.raises(VolumeError, match="RescaleIntercept of a file"):
        number(put(Dataset(), "RescaleIntercept", text), "RescaleIntercept", "a file")


def test_absent_and_empty_fields_have_no_value() -> None:
    assert number(Dataset(), "RescaleIntercept", "a file") is None
    assert number(None, "RescaleIntercept", "a file") is None
    assert number(put(Dataset(), "RescaleIntercept", ""), "RescaleIntercept", "a file") is None
    assert number(put(Dataset(), "RescaleIntercept", "  "), "RescaleIntercept", "a file") is None
    assert number(put(Dataset(), "RescaleIntercept", " -1.024e3 "), "RescaleIntercept", "a file") == -1024
    assert numbers(put(Dataset(), "PixelSpacing", "0.5\\.25"), "PixelSpacing", "a file", 2) == (0.5, 0.25)
    with pytest.raises(VolumeError, match="2 numbers"):
        numbers(put(Dataset(), "PixelSpacing", "0.5"), "PixelSpacing", "a file", 2)
    with pytest.raises(VolumeError, match="whole"):
        whole_number(put(Dataset(), "InstanceNumber", "2.5"), "InstanceNumber", "a file")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RescaleIntercept", "-1024,0"),
        ("RescaleIntercept", "-1024 HU"),
        ("RescaleSlope", "1,0"),
        ("PixelSpacing", "0,8\\0,7"),
        ("PixelSpacing", "0.8"),
        ("ImagePositionPatient", "-10\\-20\\5 mm"),
        ("ImageOrientationPatient", "1\\0\\0\\0\\1\\?"),
        ("Rows", "four"),
        ("NumberOfFrames", "one"),
        ("NumberOfFrames", "-1"),
        ("BitsStored", "12,0"),
        ("PixelRepresentation", "unsigned"),
    ],
)
def test_a_number_that_cannot_be_read_is_refused_by_its_field(tmp_path: Path, name: str, text: str) -> None:
    series(tmp_path, [0, 1, 2])
    save(put(ct_slice(np.zeros((4, 5), np.uint16), (-10, -20, 3)), name, text), tmp_path / "z.dcm")
    with pytest.raises(VolumeError, match=rf"{name} of z\.dcm"):
        read_volume(tmp_path)


@pytest.mark.parametrize("case", ["rescale_intercept_comma", "rescale_intercept_unit"])
def test_intercepts_with_a_comma_or_a_unit(shared_data: Path, case: str) -> None:
    if not (folder := shared_data / "cases" / case).exists():
        pytest.skip("the cases are not here")
    with pytest.raises(VolumeError, match="RescaleIntercept"):
        read_volume(folder)


def test_a_thickness_matters_where_a_slice_has_no_neighbour(tmp_path: Path) -> None:
    series(tmp_path / "three", [0, 1, 2], SliceThickness=None)
    for path in (tmp_path / "three").iterdir():
        save(put(pydicom.dcmread(path), "SliceThickness", "2,0"), path)
    assert read_volume(tmp_path / "three").geometry.spacing[0] == 1
    alone = put(ct_slice(np.zeros((4, 5), np.uint16), (0, 0, 0)), "SliceThickness", "2,0")
    with pytest.raises(VolumeError, match="SliceThickness"):
        read_volume(save(alone, tmp_path / "one" / "a.dcm"))
    bare = ct_slice(np.zeros((4, 5), np.uint16), (0, 0, 0))
    assert any("1 mm" in note for note in read_volume(save(bare, tmp_path / "bare" / "a.dcm")).source.notes)


def test_numbers_in_functional_groups(tmp_path: Path) -> None:
    pixels = np.zeros((3, 4, 5), np.uint16)
    for place, (group, name, text) in enumerate(
        [
            ("PixelValueTransformationSequence", "RescaleIntercept", "-1000,0"),
            ("PixelMeasuresSequence", "PixelSpacing", "0,8\\0,7"),
            ("PlaneOrientationSequence", "ImageOrientationPatient", "1\\0\\0\\0\\1"),
        ]
    ):
        dataset = enhanced(pixels, [0.0, 2.0, 4.0])
        put(dataset.SharedFunctionalGroupsSequence[0][group][0], name, text)
        with pytest.raises(VolumeError, match=f"{name} of frame 1"):
            read_volume(save(dataset, tmp_path / str(place) / "e.dcm"))
    labels = segmentation(np.ones((1, 4, 5), bool), [0.0], [1])
    put(labels.SegmentSequence[0], "SegmentNumber", "one")
    with pytest.raises(VolumeError, match="SegmentNumber"):
        read_volume(save(labels, tmp_path / "s" / "s.dcm"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, "Hounsfield"),
        ({"RescaleIntercept": None}, "RescaleIntercept"),
        ({"RescaleSlope": "0"}, "RescaleSlope is 0"),
        ({"RescaleType": "US"}, "RescaleType"),
    ],
)
def test_what_the_scaling_assumes_is_said(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    pixels = series(tmp_path, [0, 1, 2], **change)
    volume = read_volume(tmp_path)
    assert any(named in note for note in volume.source.notes)
    intercept = 0 if change.get("RescaleIntercept", 1) is None else -1024
    np.testing.assert_array_equal(volume.data, pixels.astype(int) + intercept)


def test_bits_that_do_not_end_where_they_should_are_refused(tmp_path: Path) -> None:
    series(tmp_path, [0, 1, 2], BitsStored=12, HighBit=15)
    with pytest.raises(VolumeError, match="HighBit"):
        read_volume(tmp_path)


def test_an_order_that_cannot_be_read_matters_where_there_are_several_images(tmp_path: Path) -> None:
    for z in range(3):
        dataset = put(ct_slice(np.full((4, 5), z, np.uint16), (0, 0, 2.0 * z)), "AcquisitionNumber", "2,0")
        save(dataset, tmp_path / f"a{z}.dcm")
    assert read_volume(tmp_path).data.shape == (3, 4, 5)
    for z in range(3):
        dataset = ct_slice(np.full((4, 5), z + 7, np.uint16), (0, 0, 2.0 * z), AcquisitionNumber=3)
        save(dataset, tmp_path / f"b{z}.dcm")
    with pytest.raises(VolumeError, match="AcquisitionNumber"):
        read_volume(tmp_path, time=0)
