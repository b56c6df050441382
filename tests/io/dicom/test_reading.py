"""DICOM series made on the spot: order, gaps, mixtures, scaling, multi-frame files and segmentations."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.dicom import headers as dicom_headers
from napari_transunet.io.dicom.series import SeveralSeriesError
from napari_transunet.io.reading import is_readable, list_series, read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.volumes.geometry import Geometry
from tests.io.samples import ct_slice, enhanced, geometries, rotation, save, segmentation, series


def test_slices_are_ordered_by_position_not_by_name(tmp_path: Path) -> None:
    depths = [30.0, 10.0, 20.0, 0.0]
    pixels = series(tmp_path, depths)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, pixels[np.argsort(depths)].astype(np.int16) - 1024)
    assert volume.data.dtype == np.int16
    assert volume.geometry.matches(Geometry((4, 4, 5), (10.0, 0.8, 0.7), (-10, -20, 0)))
    assert volume.modality == "CT"
    assert volume.source.series_uid == "1.2.3.4"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometry=geometries())
def test_any_orientation_puts_every_voxel_where_it_was(
    tmp_path_factory: pytest.TempPathFactory, geometry: Geometry
) -> None:
    folder = tmp_path_factory.mktemp("series")
    values = np.arange(np.prod(geometry.shape), dtype=np.uint16).reshape(geometry.shape)
    affine = geometry.affine_lps
    direction = np.array(geometry.direction)
    for z, plane in enumerate(values):
        place = (affine @ [0, 0, z, 1])[:3]
        spacing = (geometry.spacing[1], geometry.spacing[2])
        dataset = ct_slice(plane, place, row=direction[:, 0], column=direction[:, 1], spacing=spacing)
        dataset.SliceThickness = geometry.spacing[0]
        dataset.RescaleIntercept = "0"
        save(dataset, folder / f"{z}.dcm")
    volume = read_volume(folder)
    assert np.linalg.det(np.array(volume.geometry.direction)) > 0
    for index in np.ndindex(*geometry.shape):
        if 0 in index:  # the three faces at the origin are enough
            found = np.argwhere(volume.data == values[index])[0]
            np.testing.assert_allclose(
                volume.geometry.affine_lps @ [*found[::-1], 1], affine @ [*index[::-1], 1], atol=1e-4
            )


@pytest.mark.parametrize(
    ("depths", "why"),
    [
        (
            [0, 5, 10, 20, 25],
            r"1 slice is missing: the gap between .* at 10\.00 mm and .* at 20\.00 mm is 10\.00 mm",
        ),
        ([0, 5, 10, 25, 30], r"2 slices are missing"),
        ([0, 5, 10, 17, 22], r"spacing is uneven: the gap .* is 7\.00 mm where others are 5\.00 mm"),
        ([0, 5, 12, 17, 24, 29, 34], r"and 1 more gaps are uneven"),
        ([0, 5, 5, 10], r"position 5\.00 mm has 2 images .* where others have 1"),
        ([5, 5, 5], r"all 3 images lie at the same position"),
    ],
)
def test_uneven_positions_are_refused_with_the_place(tmp_path: Path, depths: list[float], why: str) -> None:
    series(tmp_path, depths)
    with pytest.raises(VolumeError, match=why):
        read_volume(tmp_path)


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    series(tmp_path, [0.0, 0.7, 1.401, 2.1, 2.799])
    assert read_volume(tmp_path).geometry.spacing[0] == pytest.approx(2.799 / 4)


def test_gantry_tilt_is_refused(tmp_path: Path) -> None:
    for z in range(4):
        save(ct_slice(np.zeros((4, 5), np.uint16), (0, 0.5 * z, 3 * z)), tmp_path / f"{z}.dcm")
    with pytest.raises(VolumeError, match=r"gantry tilt of 9\.5 degrees"):
        read_volume(tmp_path)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.035), (0.3, -0.2, 0.5), (1.1, 0.7, -2.0)])
def test_rounded_orientations_are_those_of_the_nearest_grid(
    tmp_path: Path, angles: tuple[float, float, float]
) -> None:
    turn = rotation(angles)
    values = np.arange(4 * 9 * 11, dtype=np.uint16).reshape(4, 9, 11)
    for z, plane in enumerate(values):
        place = (-20, -30, 40) + turn[:, 2] * 2.0 * z
        row, column = np.round(turn[:, 0], 3), np.round(turn[:, 1], 3)
        save(ct_slice(plane, place, row=row, column=column, RescaleIntercept="0"), tmp_path / f"{z}.dcm")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, values)
    exact = Geometry((4, 9, 11), (2.0, 0.8, 0.7), (-20, -30, 40), tuple(map(tuple, turn.tolist())))
    assert volume.geometry.matches(exact)
    assert volume.geometry.spacing == pytest.approx((2.0, 0.8, 0.7), rel=1e-3)
    for ending in (".nii.gz", ".mha"):
        path = write_labels(tmp_path / f"labels_{ending[1:]}{ending}", values > 7, volume, overwrite=True)
        assert read_volume(path).geometry.matches(volume.geometry, 1e-3)


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"row": (0, 1, 0), "column": (0, 0, -1)}, "2 different orientations"),
        ({"spacing": (0.9, 0.9)}, "differ in pixel spacing"),
        ({"pixels": np.zeros((6, 6), np.uint16)}, "differ in size"),
        ({"ImagePositionPatient": None}, "does not say where in the patient"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
    ],
)
def test_mixtures_are_refused(tmp_path: Path, odd: dict, why: str) -> None:
    series(tmp_path, [0, 1, 2])
    pixels = odd.pop("pixels", np.zeros((4, 5), np.uint16))
    save(ct_slice(pixels, (-10, -20, 3), **odd), tmp_path / "z.dcm")
    with pytest.raises(VolumeError, match=why):
        read_volume(tmp_path)


def test_localizers_reports_and_copies_are_left_out(tmp_path: Path) -> None:
    pixels = series(tmp_path, [0, 2, 4])
    localizer = ct_slice(np.zeros((9, 9), np.uint16), (0, 0, 0), row=(0, 1, 0), column=(0, 0, -1))
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save(localizer, tmp_path / "scout.dcm")
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.22", generate_uid()
    report.Modality, report.SeriesInstanceUID = "SR", "1.2.3.5"
    save(report, tmp_path / "report.dcm")
    (tmp_path / "copy.dcm").write_bytes(next(tmp_path.glob("im*_1.dcm")).read_bytes())
    (tmp_path / "notes.txt").write_text("no image")
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, pixels.astype(np.int16) - 1024)
    assert len(list_series(tmp_path)) == 1


def test_several_series_ask_and_can_be_chosen(tmp_path: Path) -> None:
    series(tmp_path / "a", [0, 1], uid="1.2.1", SeriesNumber=2, SeriesDescription="thin")
    series(tmp_path / "b", [0, 1, 2], uid="1.2.2", SeriesNumber=1, SeriesDescription="thick")
    with pytest.raises(
        SeveralSeriesError, match=r"2 DICOM series, choose one with --series .*'thick'.*'thin'"
    ) as caught:
        read_volume(tmp_path)
    assert [info.slices for info in caught.value.series] == [3, 2]
    assert read_volume(tmp_path, series=2).data.shape == (2, 4, 5)
    assert read_volume(tmp_path, series="1.2.2").source.name == "thick"
    with pytest.raises(VolumeError, match="holds no series '9'"):
        read_volume(tmp_path, series=9)
    assert read_volume(tmp_path / "b").data.shape == (3, 4, 5)


def test_one_file_reads_its_series_and_leaves_the_other(tmp_path: Path) -> None:
    series(tmp_path, [0, 1, 2], uid="1.2.1", prefix="a")
    series(tmp_path, [0, 1], uid="1.2.2", prefix="b")
    one = next(tmp_path.glob("b*.dcm"))
    volume = read_volume(one)
    assert volume.data.shape == (2, 4, 5)
    assert "whole series of 2 images" in " ".join(volume.source.notes)
    assert list_series(one)[0].uid == "1.2.2"
    assert read_volume(one, series="1.2.1").data.shape == (3, 4, 5)


def test_a_single_image_is_one_slice(tmp_path: Path) -> None:
    path = save(ct_slice(np.ones((4, 5), np.uint16), (1, 2, 3), SliceThickness=2.5), tmp_path / "x.dcm")
    volume = read_volume(path)
    assert volume.data.shape == (1, 4, 5)
    assert volume.geometry.spacing == (2.5, 0.8, 0.7)
    radiograph = ct_slice(np.ones((4, 5), np.uint16), (1, 2, 3), series="1.9", Modality="DX")
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(radiograph, name)
    assert read_volume(save(radiograph, tmp_path / "dx" / "x.dcm")).data.shape == (1, 4, 5)


def test_points_in_time_are_asked_for(tmp_path: Path) -> None:
    for time in (1, 2):
        for z in range(3):
            dataset = ct_slice(
                np.full((4, 5), 100 * time + z, np.uint16), (0, 0, 2.0 * z), AcquisitionNumber=time
            )
            save(dataset, tmp_path / f"{time}{z}.dcm")
    with pytest.raises(
        SeveralVolumesError, match=r"each of its 3 positions has 2 images .* choose one with time \(0 to 1\)"
    ) as caught:
        read_volume(tmp_path)
    assert (caught.value.which, caught.value.count) == ("time", 2)
    assert caught.value.names == ("acquisition 1", "acquisition 2")
    volume = read_volume(tmp_path, time=1)
    assert volume.data[:, 0, 0].tolist() == [200 - 1024, 201 - 1024, 202 - 1024]
    with pytest.raises(VolumeError, match="no time point 2"):
        read_volume(tmp_path, time=2)


@pytest.mark.parametrize(
    ("field", "values"),
    [("ImageType", (["ORIGINAL", "PRIMARY", "FAT"], ["ORIGINAL", "PRIMARY", "WATER"])), ("DiffusionBValue", (0, 800)),
     ("TriggerTime", (0, 30)), ("EchoTime", (2.3, 4.6)), ("InversionTime", (100, 200))],
)  # fmt: skip
def test_images_that_are_numbered_in_changing_order_are_not_mixed(
    tmp_path: Path, field: str, values: tuple[object, object]
) -> None:
    for kind, value in enumerate(values):
        for z in range(3):
            number = 2 * z + (kind if z % 2 else 1 - kind)
            pixels = np.full((4, 5), 100 * kind + z, np.uint16)
            save(ct_slice(pixels, (0, 0, z), number=number, **{field: value}), tmp_path / f"{kind}{z}.dcm")
    for kind in (0, 1):
        assert (read_volume(tmp_path, time=kind).data[:, 0, 0] + 1024).tolist() == [
            100 * kind + z for z in range(3)
        ]


def test_images_of_different_kinds_are_not_mixed(tmp_path: Path) -> None:
    for kind, word in enumerate(("FAT", "WATER")):
        for z in range(3):
            more = {"AcquisitionNumber": abs(kind - z % 2), "ImageType": ["ORIGINAL", "PRIMARY", word]}
            save(ct_slice(np.zeros((4, 5), np.uint16), (0, 0, z), **more), tmp_path / f"{kind}{z}.dcm")
    with pytest.raises(VolumeError, match=r"FAT.*WATER.*would be mixed"):
        read_volume(tmp_path, time=0)


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
def test_images_of_which_some_are_not_scaled_are_refused(tmp_path: Path, name: str) -> None:
    series(tmp_path, [0, 1])
    odd = ct_slice(np.zeros((4, 5), np.uint16), (-10, -20, 2))
    delattr(odd, name)
    save(odd, tmp_path / "odd.dcm")
    with pytest.raises(VolumeError, match=rf"has a {name} and odd\.dcm has none"):
        read_volume(tmp_path)


def test_what_images_of_a_series_should_share_is_said(tmp_path: Path) -> None:
    for z, (modality, frame) in enumerate((("CT", "1.2"), ("MR", "1.3"))):
        dataset = ct_slice(np.zeros((4, 5), np.uint16), (0, 0, z), FrameOfReferenceUID=frame)
        dataset.Modality, dataset.PatientID = modality, f"Jane Doe {z}"
        save(dataset, tmp_path / f"{z}.dcm")
    said = " ".join(read_volume(tmp_path).source.notes)
    assert "differ in Modality (CT, MR)" in said
    assert "differ in FrameOfReferenceUID" in said
    assert "differ in PatientID" in said
    assert "Doe" not in said


def test_gaps_are_found_in_the_smallest_voxels_and_rounding_is_not_one(tmp_path: Path) -> None:
    series(tmp_path / "rounded", [0.0, 0.33, 0.67, 1.0])
    assert read_volume(tmp_path / "rounded").geometry.spacing[0] == pytest.approx(1 / 3)
    series(tmp_path / "small", [0.0, 0.005, 0.01, 0.015], spacing=(0.004, 0.004))
    assert read_volume(tmp_path / "small").geometry.spacing == pytest.approx((0.005, 0.004, 0.004))
    series(tmp_path / "gap", [0.0, 0.005, 0.01, 0.02], spacing=(0.004, 0.004))
    with pytest.raises(VolumeError, match="1 slice is missing"):
        read_volume(tmp_path / "gap")


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [("1", "0", np.uint16), ("1", "-1024", np.int16), ("2", "-5", np.int16), ("0.5", "0", np.float32)],
)
def test_rescaling_stays_integer_where_exact(tmp_path: Path, slope: str, intercept: str, dtype: type) -> None:
    pixels = series(tmp_path, [0, 1, 2], RescaleSlope=slope, RescaleIntercept=intercept)
    data = read_volume(tmp_path).data
    assert data.dtype == dtype
    np.testing.assert_allclose(data, pixels * float(slope) + float(intercept))


def test_slices_scaled_differently_become_floats(tmp_path: Path) -> None:
    for z, slope in enumerate((1.0, 0.5)):
        dataset = ct_slice(np.full((4, 5), 10, np.uint16), (0, 0, z), RescaleSlope=slope, RescaleIntercept=0)
        save(dataset, tmp_path / f"{z}.dcm")
    data = read_volume(tmp_path).data
    assert data.dtype == np.float32
    assert data[:, 0, 0].tolist() == [10, 5]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_transfer_syntaxes(tmp_path: Path, syntax: str, dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype)
    for z in range(3):
        dataset = ct_slice(pixels[z], (0, 0, z), RescaleIntercept=0)
        if syntax == RLELossless:
            save(dataset, tmp_path / f"{z}.dcm")
            dataset.compress(RLELossless)
        elif syntax == ExplicitVRBigEndian:
            dataset.PixelData = pixels[z].astype(pixels.dtype.newbyteorder(">")).tobytes()
        save(dataset, tmp_path / f"{z}.dcm", syntax)
    data = read_volume(tmp_path).data
    assert data.dtype.isnative
    np.testing.assert_array_equal(data, pixels)


def test_a_series_that_itk_writes_with_jpeg_2000(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (1, 32, 48)).astype(np.int16)
    image = SimpleITK.GetImageFromArray(pixels)
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.Execute(image)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.dcm").data, pixels)


def test_files_without_suffix_or_preamble_are_found(tmp_path: Path) -> None:
    pixels = series(tmp_path, [0, 1])
    for number, path in enumerate(sorted(tmp_path.glob("*.dcm"))):
        raw = path.read_bytes()
        (tmp_path / f"IM{number}").write_bytes(raw)
        path.unlink()
    assert is_readable(tmp_path)
    assert is_readable(tmp_path / "IM0")
    np.testing.assert_array_equal(read_volume(tmp_path).data, pixels.astype(np.int16) - 1024)
    bare = tmp_path / "bare"
    bare.mkdir()
    dataset = ct_slice(pixels[0], (0, 0, 0))
    dataset.save_as(bare / "IM", implicit_vr=True, little_endian=True)
    assert read_volume(bare).data.shape == (1, 4, 5)


def test_enhanced_files_read_from_their_functional_groups(tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 2000, (3, 4, 5)).astype(np.uint16)
    path = save(enhanced(pixels, [4.0, 0.0, 2.0]), tmp_path / "e.dcm")
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, pixels[[1, 2, 0]].astype(np.int16) - 1000)
    assert volume.geometry.matches(Geometry((3, 4, 5), (2.0, 0.8, 0.7), (-10, -20, 0)))
    with pytest.raises(VolumeError, match=r"the gap between frame 2 at 2\.00 mm and frame 3 at 7\.00 mm"):
        read_volume(save(enhanced(pixels, [0.0, 2.0, 7.0]), tmp_path / "gap" / "e.dcm"))
    film = enhanced(pixels, [0.0, 1.0, 2.0])
    del film.PerFrameFunctionalGroupsSequence
    with pytest.raises(VolumeError, match="film of 3 images"):
        read_volume(save(film, tmp_path / "film" / "e.dcm"))


@pytest.mark.parametrize(
    ("group", "field", "values"),
    [("FrameContentSequence", "TemporalPositionIndex", (1, 2)), ("MREchoSequence", "EffectiveEchoTime", (2.3, 4.6)),
     ("MRDiffusionSequence", "DiffusionBValue", (0.0, 800.0))],
)  # fmt: skip
def test_frames_in_changing_order_are_not_mixed(
    tmp_path: Path, group: str, field: str, values: tuple[float, float]
) -> None:
    kinds = [0, 1, 1, 0, 0, 1]
    pixels = np.stack([np.full((4, 5), 100 * kind + at // 2, np.uint16) for at, kind in enumerate(kinds)])
    dataset = enhanced(pixels, [0.0, 0.0, 2.0, 2.0, 4.0, 4.0])
    for item, kind in zip(dataset.PerFrameFunctionalGroupsSequence, kinds, strict=True):
        told = Dataset()
        setattr(told, field, values[kind])
        setattr(item, group, [told])
    path = save(dataset, tmp_path / "e.dcm")
    for kind in (0, 1):
        assert (read_volume(path, time=kind).data[:, 0, 0] + 1000).tolist() == [
            100 * kind + z for z in range(3)
        ]


def test_segmentations_fill_the_slices_they_leave_out(tmp_path: Path) -> None:
    masks = np.zeros((4, 4, 5), bool)
    masks[0, 0, 0] = masks[1, 1, 1] = masks[2, 2, 2] = masks[3, 3, 3] = True
    path = save(segmentation(masks, [0.0, 2.0, 8.0, 2.0], [1, 1, 1, 2]), tmp_path / "s.dcm")
    volume = read_volume(path)
    assert volume.data.shape == (5, 4, 5)
    assert [tuple(map(int, index)) for index in np.argwhere(volume.data)] == [
        (0, 0, 0),
        (1, 1, 1),
        (1, 3, 3),
        (4, 2, 2),
    ]
    assert volume.data[1, 3, 3] == 2
    assert volume.labels is not None
    assert volume.labels.names == {1: "organ 1", 2: "organ 2"}
    assert volume.geometry.spacing == (2.0, 0.8, 0.7)


def test_overlapping_segments_are_refused_and_can_be_chosen(tmp_path: Path) -> None:
    masks = np.ones((2, 4, 5), bool)
    path = save(segmentation(masks, [0.0, 0.0], [1, 2]), tmp_path / "s.dcm")
    with pytest.raises(SeveralVolumesError, match=r"'organ 2' and 'organ 1' overlap") as caught:
        read_volume(path)
    assert caught.value.row(1) == "Segment 2 of 2: organ 2"
    assert np.unique(read_volume(path, channel=1).data).tolist() == [2]


def test_a_segmentation_beside_its_image_is_not_in_the_way(tmp_path: Path) -> None:
    series(tmp_path, [0, 2])
    save(segmentation(np.ones((1, 4, 5), bool), [0.0], [1]), tmp_path / "seg.dcm")
    assert read_volume(tmp_path).modality == "CT"
    assert read_volume(tmp_path / "seg.dcm").labels is not None


def test_fractional_segmentations_are_refused(tmp_path: Path) -> None:
    dataset = segmentation(np.ones((1, 4, 5), bool), [0.0], [1])
    dataset.SegmentationType = "FRACTIONAL"
    with pytest.raises(VolumeError, match="type FRACTIONAL"):
        read_volume(save(dataset, tmp_path / "s.dcm"))


def test_folders_without_images_say_so(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="it is empty"):
        read_volume(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(VolumeError, match="none of its 1 files is a DICOM image"):
        read_volume(tmp_path)
    assert not is_readable(tmp_path)
    assert list_series(tmp_path) == []


def test_a_truncated_slice_is_named(tmp_path: Path) -> None:
    series(tmp_path, [0, 1, 2])
    path = sorted(tmp_path.glob("*.dcm"))[1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(VolumeError, match=f"pixels of {path.name} are damaged or truncated"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (0, "is empty or no DICOM file"),
        (150, "has no readable DICOM header"),
        (400, "ends inside its header"),
    ],
)
def test_a_damaged_file_is_not_passed_over(tmp_path: Path, kept: int, why: str) -> None:
    series(tmp_path, [0, 1, 2, 3])
    path = sorted(tmp_path.glob("*.dcm"))[-1]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(VolumeError, match=why):
        read_volume(tmp_path)


def test_deflated_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(
        ct_slice(np.full((4, 5), 7, np.uint16), (0, 0, 0)), tmp_path / "a.dcm", DeflatedExplicitVRLittleEndian
    )
    assert (read_volume(path).data == 7 - 1024).all()
    monkeypatch.setattr(dicom_headers, "memory_limit", lambda limit: 1000)
    with pytest.raises(SizeError, match="deflated and may not fit"):
        read_volume(path)


def test_a_directory_file_stands_for_its_folder(tmp_path: Path) -> None:
    pixels = series(tmp_path / "DICOM", [0, 1, 2])
    directory = Dataset()
    directory.FileSetID = "TEST"
    directory.SOPClassUID, directory.SOPInstanceUID = "1.2.840.10008.1.3.10", generate_uid()
    save(directory, tmp_path / "DICOMDIR")
    np.testing.assert_array_equal(read_volume(tmp_path / "DICOMDIR").data, pixels.astype(np.int16) - 1024)


def test_a_report_is_no_image(tmp_path: Path) -> None:
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.22", generate_uid()
    with pytest.raises(VolumeError, match=r"without an image \(Enhanced SR Storage\)"):
        read_volume(save(report, tmp_path / "a.dcm"))
