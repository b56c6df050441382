"""Real files that have broken readers: each is read as a second reader reads it, or refused with its reason."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK

from napari_transunet.errors import TransUNetError, VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.dicom.series import SeveralSeriesError
from napari_transunet.io.reading import is_readable, list_series, read_volume
from napari_transunet.volumes.volume import Volume

Second = Callable[[Path, Volume], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


def _nibabel(path: Path, volume: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(affine to LPS, values) as nibabel reads it."""
    image = nibabel.load(path)
    values = np.asarray(image.dataobj, dtype=np.float64)
    return np.diag([-1, -1, 1, 1]) @ image.affine, values.reshape(values.shape[:3]).T


def _pynrrd(path: Path, volume: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    values, header = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(header["space directions"])[-3:].T
    affine[:3, 3] = header["space origin"]
    return affine, values.T


def _simpleitk(path: Path, volume: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine, SimpleITK.GetArrayFromImage(image)


def _pydicom(path: Path, volume: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The matrix of DICOM PS3.3 C.7.6.2.1.1 from headers, values from pydicom where it can decode them."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    planes = []
    for file in files:
        dataset = pydicom.dcmread(file)
        turn = np.array(dataset.ImageOrientationPatient, float)
        normal = np.cross(turn[:3], turn[3:])
        place = np.array(dataset.ImagePositionPatient, float)
        slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))[0]  # applies the rescale
        else:
            values = dataset.pixel_array * float(slope) + float(intercept)
        steps = np.array(dataset.PixelSpacing, float)
        planes.append((float(normal @ place), place, turn, steps, values))
    planes.sort(key=lambda plane: plane[0])
    _, first, turn, steps, _ = planes[0]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = turn[:3] * steps[1], turn[3:] * steps[0]
    affine[:3, 2] = (planes[-1][1] - first) / max(len(planes) - 1, 1)
    affine[:3, 3] = first
    return affine, np.stack([plane[4] for plane in planes])


def _enhanced(path: Path, volume: Volume) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    (file,) = path.iterdir()
    dataset = pydicom.dcmread(file)
    shared, frames = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence

    def group(frame: pydicom.Dataset, name: str) -> pydicom.Dataset:
        return (frame.get(name) or shared.get(name))[0]

    turn = np.array(group(frames[0], "PlaneOrientationSequence").ImageOrientationPatient, float)
    steps = np.array(group(frames[0], "PixelMeasuresSequence").PixelSpacing, float)
    normal = np.cross(turn[:3], turn[3:])
    planes = []
    for frame, values in zip(frames, dataset.pixel_array, strict=True):
        place = np.array(group(frame, "PlanePositionSequence").ImagePositionPatient, float)
        scaling = group(frame, "PixelValueTransformationSequence")
        scaled = values * float(scaling.RescaleSlope) + float(scaling.RescaleIntercept)
        planes.append((float(normal @ place), place, scaled))
    planes.sort(key=lambda plane: plane[0])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = turn[:3] * steps[1], turn[3:] * steps[0]
    affine[:3, 2] = (planes[-1][1] - planes[0][1]) / (len(planes) - 1)
    affine[:3, 3] = planes[0][1]
    return affine, np.stack([plane[2] for plane in planes])


def _beside(name: str) -> Second:
    """A NRRD of the same segmentation, written by the authors of the data."""
    return lambda path, volume: _pynrrd(path.parent.joinpath(name).resolve(), volume)


READ: list[tuple[str, tuple[int, int, int], str, Second]] = [
    ("dicom_failing/slicecount/001", (2, 256, 256), "MR", _pydicom),
    ("dicom_generic/anatomical/001", (4, 256, 256), "MR", _pydicom),
    ("dicom_generic/anatomical/001_implicit", (4, 256, 256), "MR", _pydicom),
    ("dicom_generic/anatomical/002_non_isotropic", (4, 28, 64), "MR", _pydicom),
    ("dicom_generic/compressed/001", (4, 256, 256), "MR", _pydicom),
    ("dicom_generic/compressed_j2k/001", (4, 256, 256), "MR", _pydicom),
    ("dicom_generic/compressed_jpeg/001", (4, 256, 256), "MR", _pydicom),
    ("dicom_generic/compressed_jpegls/001", (4, 256, 256), "MR", _pydicom),
    ("dicom_generic/compressed_rle/001", (4, 256, 256), "MR", _pydicom),
    ("dicom_multiframe/philips_enhanced", (8, 256, 256), "MR", _enhanced),
    ("dicom_seg/24x38x3/image", (3, 38, 24), "CT", _pydicom),
    ("dicom_seg/24x38x3/multiframe", (3, 38, 24), "CT", _enhanced),
    ("dicom_seg/24x38x3/seg/label.seg", (3, 38, 24), "", _beside("../nrrd/label.nrrd")),
    ("dicom_seg/ct-3slice", (3, 512, 512), "CT", _pydicom),
    ("nifti/CT_pitch.nii.gz", (58, 248, 175), "", _nibabel),
    ("nifti/FLAIR.nii.gz", (140, 160, 124), "", _nibabel),
    ("nifti/air.hdr.gz", (64, 67, 79), "", _nibabel),
    ("nifti/air.img.gz", (64, 67, 79), "", _nibabel),
    ("nifti/avg152T1_LR_nifti2.nii.gz", (91, 109, 91), "", _nibabel),
    ("nifti/big.nii.gz", (21, 64, 64), "", _nibabel),
    ("nifti/with_extension.nii.gz", (151, 191, 161), "", _nibabel),
    ("nrrd/CTChest4.nrrd", (34, 128, 128), "", _pynrrd),
    ("nrrd/FLAIR.nrrd", (140, 160, 124), "", _pynrrd),
    ("nrrd/Segmentation.seg.nrrd", (34, 128, 128), "", _pynrrd),
    ("dicom_seg/liver_spine_seg.nrrd", (3, 512, 512), "", _pynrrd),
    ("dicom_seg/24x38x3/nrrd/label.nrrd", (3, 38, 24), "", _pynrrd),
    ("mha/3DCT_lung_baseline_small.mha", (64, 78, 57), "", _simpleitk),
    ("mha/3DCT_lung_baseline_mask.mha", (129, 157, 115), "", _simpleitk),
]

REFUSED: list[tuple[str, str]] = [
    ("dicom_failing/gantrytilting/001", r"gantry tilt of 14\.0 degrees"),
    ("dicom_failing/notavolume/001", r"all 4 images lie at the same position"),
    (
        "dicom_failing/sliceincrement/001",
        (
            r"1 slice is missing: the gap between IM-0001-0009-0001\.dcm at 28\.11 mm and .* is 10\.00 mm where others"
            r" are 5\.00 mm"
        ),
    ),
    ("dicom_failing/sliceincrement/002", r"1 slice is missing: .* is 1\.50 mm where .*; and .*gantry tilt"),
    ("dicom_failing/sliceorientation/001", r"2 different orientations"),
    ("dicom_generic/rgb/001", r"in colour \(RGB"),
    ("nifti/5D_small.nii", r"holds 3 channels, not one volume; choose one with channel \(0 to 2\)"),
    ("nifti/5D_zeros.nii.gz", r"holds 3 channels, not one volume; choose one with channel \(0 to 2\)"),
    ("nifti/shear.nii.gz", r"sheared .* qform puts voxels up to 35\.8 mm elsewhere"),
    ("nifti/not-nifti.nii", r"not a NIfTI file"),
    ("nrrd/SegmentationOverlapping.seg.nrrd", r"segments overlap and lie in 2 layers"),
    ("dicom_seg/24x38x3", r"3 DICOM series, choose one with --series"),
]


@pytest.fixture(scope="module")
def awkward(shared_data: Path) -> Path:
    return shared_data / "data" / "awkward"


def test_every_file_is_in_a_table(awkward: Path) -> None:
    named = {awkward / name for name, *_ in READ} | {awkward / name for name, _ in REFUSED}
    named |= {awkward / "dicom_seg" / "liver.dcm"}  # has a test of its own
    files = {file for file in awkward.rglob("*") if file.is_file() and "ground_truth" not in file.name}
    forgotten = {file for file in files if not ({file, *file.parents} & named)}
    assert not forgotten


@pytest.mark.parametrize(("name", "shape", "modality", "second"), READ, ids=[row[0] for row in READ])
def test_reads_as_a_second_reader_does(
    awkward: Path, name: str, shape: tuple[int, int, int], modality: str, second: Second
) -> None:
    path = awkward / name
    assert is_readable(path)
    volume = read_volume(path)
    assert volume.data.shape == volume.geometry.shape == shape
    assert volume.data.dtype.isnative
    assert (volume.modality or "") == modality
    affine, values = second(path, volume)
    np.testing.assert_allclose(volume.geometry.affine_lps, affine, atol=1e-4)
    assert values.dtype.kind == "f" or volume.data.dtype.kind in "iu"  # integers stay integers
    np.testing.assert_allclose(volume.data, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "why"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refuses_with_the_reason(awkward: Path, name: str, why: str) -> None:
    with pytest.raises(VolumeError, match=why) as caught:
        read_volume(awkward / name)
    text = str(caught.value)
    assert text.startswith(f"{Path(name).name}: ")
    assert "\n" not in text


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_channel_of_a_5d_file_can_be_chosen(awkward: Path, channel: int) -> None:
    path = awkward / "nifti" / "5D_small.nii"
    volume = read_volume(path, channel=channel)
    expected = np.asarray(nibabel.load(path).dataobj)[:, :, :, 0, channel].T
    np.testing.assert_allclose(volume.data, expected, rtol=1e-6)
    with pytest.raises(VolumeError, match="no channel 3"):
        read_volume(path, channel=3)


def test_slicer_segments_keep_names_and_colours(awkward: Path) -> None:
    labels = read_volume(awkward / "nrrd" / "Segmentation.seg.nrrd").labels
    assert labels is not None
    assert labels.names[5] == "right lung"
    assert labels.colors[5] == pytest.approx((0.0862745, 0.772549, 0.278431))
    assert labels.get(1).snomed == "113197003"  # type: ignore[union-attr]


def test_a_layer_of_overlapping_segments_can_be_chosen(awkward: Path) -> None:
    path = awkward / "nrrd" / "SegmentationOverlapping.seg.nrrd"
    values, _ = nrrd.read(str(path))
    with pytest.raises(SeveralVolumesError, match="its segments overlap and lie in 2 layers") as caught:
        read_volume(path)
    assert [len(names.split(", ")) for names in caught.value.names] == [7, 1]
    for layer, names in ((0, 7), (1, 1)):
        volume = read_volume(path, channel=layer)
        np.testing.assert_array_equal(volume.data, values[layer].T)
        assert volume.labels is not None
        assert len(volume.labels) == names


def test_a_segmentation_object_lies_on_its_image(awkward: Path) -> None:
    volume = read_volume(awkward / "dicom_seg" / "liver.dcm")
    image = read_volume(awkward / "dicom_seg" / "ct-3slice")
    assert volume.geometry.matches(image.geometry)
    assert volume.labels is not None
    assert volume.labels.names == {1: "Liver"}
    drawn = read_volume(awkward / "dicom_seg" / "liver_spine_seg.nrrd")
    assert drawn.geometry.matches(volume.geometry)
    np.testing.assert_array_equal(volume.data == 1, drawn.data == 1)


def test_several_series_are_listed_and_chosen(awkward: Path) -> None:
    folder = awkward / "dicom_seg" / "24x38x3"
    with pytest.raises(SeveralSeriesError) as caught:
        read_volume(folder)
    assert [info.uid for info in caught.value.series] == [info.uid for info in list_series(folder)]
    for info in caught.value.series:
        assert info.uid in str(caught.value)
        by_uid = read_volume(folder, series=info.uid)
        by_number = read_volume(folder, series=info.number)
        assert by_uid.source.series_uid == by_number.source.series_uid == info.uid
        assert by_uid.data.shape == (info.slices, *info.size)


def test_one_file_brings_its_series(awkward: Path) -> None:
    folder = awkward / "dicom_seg" / "ct-3slice"
    volume = read_volume(folder / "02.dcm")
    whole = read_volume(folder)
    np.testing.assert_array_equal(volume.data, whole.data)
    assert "series of 3 images" in " ".join(volume.source.notes)
    assert [info.slices for info in list_series(folder / "02.dcm")] == [3]


def test_ct_with_jpeg_2000_reads_in_hounsfield_units(shared_data: Path) -> None:
    volume = read_volume(shared_data / "data" / "ct_abdomen" / "example_ct_dicom")
    labels = read_volume(shared_data / "data" / "ct_abdomen" / "example_seg_dicom.nii.gz")
    assert volume.data.dtype == np.int16
    assert volume.modality == "CT"
    assert volume.data.min() == -1024
    # The labels were made on the same grid, stored with other axes.
    assert sorted(labels.geometry.shape) == sorted(volume.geometry.shape)
    np.testing.assert_allclose(
        sorted(map(abs, volume.geometry.spacing)), sorted(map(abs, labels.geometry.spacing)), atol=1e-4
    )


def test_every_input_that_once_went_wrong_gives_a_volume_or_a_sentence(shared_data: Path) -> None:
    places = sorted((shared_data / "cases").rglob("*"))
    assert len(places) > 90
    for path in places:
        with suppress(TransUNetError):
            read_volume(path)
