"""Structure sets: written, read back, and opened by a second reader."""

import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from napari_transunet.errors import ExistsError, InputError, VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.dicom.rtstruct_writing import write_rtstruct
from napari_transunet.io.reading import read_volume
from tests.io.dicom.test_contours import blobs, second_fill
from tests.io.dicom.test_seg_writing import COLUMN, LABELS, PROVENANCE, ROW, _series


def labelled(shape):
    labels = np.zeros(shape, np.uint8)
    for index in range(1, shape[0] - 1):
        labels[index] = np.where(blobs(index, shape[1:]), 2, 0)
    labels[2:5, 2:7, 2:8] = 5
    labels[3, 4, 4:6] = 0  # a hole
    labels[6, 0, 0] = 6
    return labels


@pytest.fixture
def series(tmp_path):
    return _series(tmp_path / "ct")


def write(folder, volume, labels, **more):
    return write_rtstruct(
        folder / "rs.dcm", labels, volume.geometry, LABELS, volume.source, provenance=PROVENANCE, **more
    )


def opened(path, folder):
    """A second reader: the pixels of each region on the image that each contour refers to."""
    structures = pydicom.dcmread(path)
    images = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, folder.iterdir())}
    masks = {}
    for region in structures.ROIContourSequence:
        polygons = {}
        for contour in region.ContourSequence:
            assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3)) - image.ImagePositionPatient
            turn = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            assert np.abs(points @ np.cross(*turn)).max() < 1e-3
            across = points @ turn.T / np.array(image.PixelSpacing, float)[::-1]
            polygons.setdefault(image.SOPInstanceUID, []).append(across[:, ::-1])
        masks[int(region.ReferencedROINumber)] = {
            uid: second_fill(some, (images[uid].Rows, images[uid].Columns)) for uid, some in polygons.items()
        }
    return structures, images, masks


@pytest.mark.parametrize("turned", [{}, {"row": ROW, "column": COLUMN}])
def test_contours_give_the_labels_again_for_us_and_for_a_second_reader(tmp_path, turned):
    volume = _series(tmp_path / "ct", **turned)
    labels = labelled(volume.data.shape)
    path = write(tmp_path, volume, labels)

    again = read_volume(path)
    assert np.array_equal(again.data, labels)
    assert again.geometry.displacement(volume.geometry) < 1e-9
    assert again.labels.names == {2: "liver", 5: "kidney_left", 6: "odd thing"}
    assert np.allclose(again.labels.get(2).color, LABELS.get(2).color, atol=1 / 255)
    assert again.source.series_uid == volume.source.series_uid

    structures, images, masks = opened(path, tmp_path / "ct")
    for value, planes in masks.items():
        theirs = sum(int(plane.sum()) for plane in planes.values())
        assert theirs == (labels == value).sum()
    image = next(iter(images.values()))
    for field in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert structures[field].value == image[field].value
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == image.FrameOfReferenceUID
    referenced = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == image.SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in referenced.ContourImageSequence} == images.keys()
    regions = structures.StructureSetROISequence
    assert [one.ROIName for one in regions] == ["liver", "kidney_left", "odd thing"]
    assert {one.ROIGenerationAlgorithm for one in regions} == {"SEMIAUTOMATIC"}
    liver = structures.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
    assert (liver.CodeValue, liver.CodingSchemeDesignator) == ("10200004", "SCT")


def test_a_written_file_is_not_replaced_unasked_and_needs_its_series(tmp_path, series):
    labels = labelled(series.data.shape)
    path = write(tmp_path, series, labels)
    with pytest.raises(ExistsError):
        write(tmp_path, series, labels)
    with pytest.raises(InputError):
        write(tmp_path, series, np.zeros_like(labels))
    shutil.rmtree(tmp_path / "ct")
    with pytest.raises(VolumeError) as told:
        read_volume(path)
    assert "series" in str(told.value)


def test_the_series_is_found_beside_the_structure_sets_folder(tmp_path, series):
    labels = labelled(series.data.shape)
    (tmp_path / "rs").mkdir()
    path = write(tmp_path / "rs", series, labels)
    assert np.array_equal(read_volume(path).data, labels)


def changed(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def square(region, z, low, high, kind="CLOSED_PLANAR"):
    """Adds a square in mm to what is drawn of a region."""
    contour = Dataset()
    contour.ContourGeometricType = kind
    corners = [(low, low), (low, high), (high, high), (high, low)]
    contour.ContourData = [str(v) for x, y in corners for v in (-10 + x, -20 + y, z)]
    contour.NumberOfContourPoints = 4
    region.ContourSequence.append(contour)


def test_regions_that_overlap_are_chosen_between(tmp_path, series):
    labels = np.zeros(series.data.shape, np.uint8)
    labels[2, 1:4, 1:4], labels[3, 1:4, 1:4] = 2, 5
    path = write(tmp_path, series, labels)
    changed(path, lambda one: square(one.ROIContourSequence[1], 35.0, 0.5, 2.5))
    with pytest.raises(SeveralVolumesError) as several:
        read_volume(path)
    assert several.value.names == ("liver", "kidney_left")
    kidney = read_volume(path, channel=1)
    assert kidney.labels.names == {5: "kidney_left"}
    assert set(np.unique(kidney.data)) == {0, 5}


def test_what_is_no_region_or_lies_elsewhere_is_said(tmp_path, series):
    labels = np.zeros(series.data.shape, np.uint8)
    labels[2, 1:4, 1:4] = 2

    def change(one):
        region = one.ROIContourSequence[0]
        square(region, 300.0, 1, 3)
        square(region, 35.0, 1, 3, "OPEN_PLANAR")
        for items in (one.StructureSetROISequence, one.ROIContourSequence):
            items[0].get("ROINumber") and setattr(items[0], "ROINumber", 0)
        region.ReferencedROINumber = 0

    again = read_volume(changed(write(tmp_path, series, labels), change))
    assert np.array_equal(again.data, labels > 0)
    assert len(again.source.notes) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda one: setattr(one.ROIContourSequence[0].ContourSequence[0], "ContourData", ["1", "2"]),
        lambda one: setattr(one.ROIContourSequence[0].ContourSequence[0], "ContourData", ["1e300"] * 9),
        lambda one: square(one.ROIContourSequence[0], 36.2, 1, 3),
        lambda one: delattr(one, "StructureSetROISequence"),
        lambda one: (
            [setattr(item, "FrameOfReferenceUID", "1.2.3") for item in one.ReferencedFrameOfReferenceSequence]
            and [
                setattr(item, "ReferencedFrameOfReferenceUID", "1.2.3")
                for item in one.StructureSetROISequence
            ]
            and setattr(one, "FrameOfReferenceUID", "1.2.3")
        ),
    ],
)
def test_damaged_ones_are_refused(tmp_path, series, change):
    labels = np.zeros(series.data.shape, np.uint8)
    labels[2, 1:4, 1:4] = 2
    path = changed(write(tmp_path, series, labels), change)
    with pytest.raises(VolumeError):
        read_volume(path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_truncated_ones_are_refused(tmp_path, series, syntax):
    path = write(tmp_path, series, labelled(series.data.shape))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=syntax.is_implicit_VR)
    whole = path.read_bytes()
    assert read_volume(path).data.any()
    for length in range(200, len(whole), len(whole) // 12):
        path.write_bytes(whole[:length])
        with pytest.raises(VolumeError):
            read_volume(path)
