"""Label maps, fractional segmentations, packed ones, and how far apart the slices of a segmentation lie."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from napari_transunet.errors import VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.reading import read_volume
from tests.io.samples import ct_slice, enhanced, save, segmentation, series

LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def _label_map(values: np.ndarray, depths: list[float], numbers: list[int], **more: object) -> Dataset:
    dataset = enhanced(values, depths, sop_class=LABEL_MAP)
    dataset.Modality, dataset.SegmentationType = "SEG", "LABELMAP"
    items = []
    for number in numbers:
        item = Dataset()
        item.SegmentNumber, item.SegmentLabel = number, f"organ {number}"
        items.append(item)
    dataset.SegmentSequence = items
    for name, value in more.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "PALETTE COLOR"])
def test_label_maps_are_labels_with_names(tmp_path: Path, dtype: type, photometric: str) -> None:
    values = np.random.default_rng(0).integers(0, 4, (3, 4, 5)).astype(dtype)
    dataset = _label_map(values, [4.0, 0.0, 2.0], [0, 1, 3], PhotometricInterpretation=photometric)
    volume = read_volume(save(dataset, tmp_path / "l.dcm"))
    np.testing.assert_array_equal(volume.data, values[[1, 2, 0]])
    assert volume.labels is not None
    assert volume.labels.names == {1: "organ 1", 2: "segment 2", 3: "organ 3"}
    assert any("2" in note and "no segment" in note for note in volume.source.notes)
    one = read_volume(tmp_path / "l.dcm", channel=2)
    np.testing.assert_array_equal(one.data, np.where(volume.data == 3, 3, 0))


def test_a_background_that_is_not_0(tmp_path: Path) -> None:
    values = np.array([[[255, 0], [7, 255]]], np.uint8)
    dataset = _label_map(values, [0.0], [0, 7], PixelPaddingValue=255)
    volume = read_volume(save(dataset, tmp_path / "l.dcm"))
    assert volume.data.tolist() == [[[0, 256], [7, 0]]]
    assert volume.labels is not None
    assert volume.labels.names == {7: "organ 7", 256: "organ 0"}
    assert any("Segment 0" in note for note in volume.source.notes)


def test_fractional_segmentations_are_read_where_they_hold_no_fractions(tmp_path: Path) -> None:
    values = np.array([[[0, 200], [200, 0]]], np.uint8)
    dataset = segmentation(values > 0, [0.0], [1])
    dataset.SegmentationType, dataset.MaximumFractionalValue = "FRACTIONAL", 200
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelData = 7, values.tobytes()
    assert read_volume(save(dataset, tmp_path / "f.dcm")).data.tolist() == [[[0, 1], [1, 0]]]
    values[0, 0, 0] = 100
    dataset.PixelData = values.tobytes()
    with pytest.raises(VolumeError, match="FRACTIONAL"):
        read_volume(save(dataset, tmp_path / "g.dcm"))


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", ExplicitVRLittleEndian),
        ("LABELMAP", ExplicitVRLittleEndian),
        ("LABELMAP", RLELossless),
        ("LABELMAP", JPEG2000Lossless),
        ("LABELMAP", JPEGLSLossless),
        ("FRACTIONAL", RLELossless),
    ],
)
def test_what_highdicom_writes(tmp_path: Path, kind: str, syntax: str) -> None:
    study = {
        "StudyInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.4",
        "SliceThickness": "2",
        "PatientID": "p",
    }
    empty = (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
    )
    images = []
    for z in range(3):
        image = ct_slice(np.zeros((32, 40), np.uint16), (0, 0, 2 * z), **study, **dict.fromkeys(empty, ""))
        images.append(pydicom.dcmread(save(image, tmp_path / "ct" / f"{z}.dcm")))
    values = np.random.default_rng(1).integers(0, 3, (3, 32, 40)).astype(np.uint8)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type="MANUAL",
        )
        for number, name in ((1, "liver"), (2, "spleen"))
    ]
    try:
        written = hd.seg.Segmentation(
            images, values, kind, described, hd.UID(), 7, hd.UID(), 1, "m", "m", "1", "1",
            transfer_syntax_uid=syntax,
        )  # fmt: skip
    except (RuntimeError, ImportError) as error:
        pytest.skip(f"nothing here packs this: {error}")
    written.save_as(tmp_path / "seg.dcm")
    volume = read_volume(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(volume.data, values)
    assert volume.labels is not None
    assert volume.labels.names == {1: "liver", 2: "spleen"}
    assert volume.source.format == "DICOM segmentation"


def _sparse(folder: Path, depths: list[float], **measures: float | None) -> Path:
    masks = np.zeros((len(depths), 4, 5), bool)
    masks[:, 1, 1] = True
    dataset = segmentation(masks, depths, [1] * len(depths))
    shared = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    for name, value in measures.items():
        setattr(shared, name, value)
    reference = Dataset()
    reference.SeriesInstanceUID = "1.2.3.4"
    dataset.ReferencedSeriesSequence = [reference]
    return save(dataset, folder / "seg.dcm")


def test_the_step_is_that_of_the_header_or_of_the_scan(tmp_path: Path) -> None:
    said = read_volume(_sparse(tmp_path / "said", [0.0, 4.0], SpacingBetweenSlices=2.0, SliceThickness=1.0))
    assert (said.data.shape[0], said.geometry.spacing[0], said.source.notes) == (3, 2, ())
    series(tmp_path / "scan", [0.0, 2.0, 4.0, 6.0])
    beside = read_volume(_sparse(tmp_path / "scan", [0.0, 4.0], SliceThickness=1.0))
    assert (beside.data.shape[0], beside.geometry.spacing[0], beside.source.notes) == (3, 2, ())
    alone = read_volume(_sparse(tmp_path / "scan", [4.0], SliceThickness=1.0))
    assert (alone.geometry.spacing[0], alone.source.assumes_distance) == (2, False)
    series(tmp_path / "disc" / "scan", [0.0, 2.0, 4.0, 6.0])
    path = _sparse(tmp_path / "disc" / "seg", [0.0, 4.0], SliceThickness=1.0)
    folder = read_volume(tmp_path / "disc", series=pydicom.dcmread(path).SeriesInstanceUID)
    assert folder.geometry.spacing[0] == 2


@pytest.mark.parametrize(
    ("depths", "measures", "shape", "step"),
    [
        ([0.0, 4.0], {"SliceThickness": 1.0}, 2, 4.0),
        ([0.0, 4.0, 10.0], {"SliceThickness": 1.0}, 6, 2.0),
        ([0.0, 4.0], {"SliceThickness": 1.0, "SpacingBetweenSlices": 3.0}, 2, 4.0),
        ([0.0], {"SliceThickness": 1.5}, 1, 1.5),
        ([0.0], {"SliceThickness": None}, 1, 1.0),
    ],
)
def test_a_step_that_nothing_tells_is_that_of_the_frames_and_said(
    tmp_path: Path, depths: list[float], measures: dict[str, float | None], shape: int, step: float
) -> None:
    volume = read_volume(_sparse(tmp_path, depths, **measures))
    assert (volume.data.shape[0], volume.geometry.spacing[0]) == (shape, step)
    assert any(f"{step:g} mm" in note for note in volume.source.notes)
    assert volume.source.assumes_distance == (shape == 1)
    assert np.count_nonzero(volume.data) == len(depths)


def test_segments_that_are_not_described_or_twice(tmp_path: Path) -> None:
    masks = np.zeros((2, 4, 5), bool)
    masks[0, 0], masks[1, 1] = True, True
    dataset = segmentation(masks, [0.0, 2.0], [1, 3])
    del dataset.SegmentSequence[1]
    volume = read_volume(save(dataset, tmp_path / "s.dcm"))
    assert np.unique(volume.data, return_counts=True)[1].tolist() == [30, 5, 5]
    assert volume.labels is not None
    assert volume.labels.names == {1: "organ 1", 3: "segment 3"}
    assert any("3, which no segment describes" in note for note in volume.source.notes)
    dataset.SegmentSequence.append(dataset.SegmentSequence[0])
    with pytest.raises(VolumeError, match="have one number"):
        read_volume(save(dataset, tmp_path / "s.dcm"))


def test_steps_of_small_voxels_are_not_rounded(tmp_path: Path) -> None:
    depths = [0.0, 0.0125, 0.05]
    for more in ({"SpacingBetweenSlices": 0.0125}, {"SpacingBetweenSlices": None}):
        volume = read_volume(_sparse(tmp_path, depths, SliceThickness=0.0125, **more))
        assert volume.geometry.spacing[0] == pytest.approx(0.0125)
        assert np.flatnonzero(volume.data.any(axis=(1, 2))).tolist() == [0, 1, 4]


def test_label_maps_of_one_place_may_not_disagree(tmp_path: Path) -> None:
    dataset = _label_map(np.array([[[1, 0]], [[2, 0]]], np.uint8), [0.0, 0.0], [1, 2])
    with pytest.raises(SeveralVolumesError, match="overlap"):
        read_volume(save(dataset, tmp_path / "l.dcm"))


def test_segmentations_of_the_cases(shared_data: Path) -> None:
    cases = shared_data / "cases"
    if not cases.exists():
        pytest.skip("the cases are not here")
    volume = read_volume(cases / "D18_labelmap" / "labelmap.dcm")
    assert volume.labels is not None
    assert volume.labels.names == {1: "liver", 2: "spleen"}
    assert volume.source.format == "DICOM segmentation"
    gap = read_volume(cases / "seg_gap")
    assert gap.geometry.spacing[0] == 4
    assert any("4 mm" in note for note in gap.source.notes)


def test_a_packing_that_is_not_known_is_not_called_damage(tmp_path: Path) -> None:
    path = save(segmentation(np.ones((1, 4, 5), bool), [0.0], [1]), tmp_path / "s.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.8", 1))
    with pytest.raises(VolumeError, match=r"1\.2\.840\.10008\.1\.2\.8") as caught:
        read_volume(path)
    assert "damaged" not in str(caught.value)
