"""DICOM segmentations, read back by our reader, pydicom and highdicom."""

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from napari_transunet.errors import ExistsError, FileProblem, InputError, VolumeError
from napari_transunet.io.dicom.organ_codes import code_of
from napari_transunet.io.dicom.rtstruct_writing import write_rtstruct
from napari_transunet.io.dicom.seg_writing import write_dicom_seg
from napari_transunet.io.reading import read_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet
from napari_transunet.volumes.orientation import Reorientation
from napari_transunet.volumes.volume import Volume
from tests.io.samples import ct_slice, save

LABELS = LabelSet(
    (
        Label(2, "liver", (0.66, 0.27, 0.18)),
        Label(5, "kidney_left", (0.9, 0.7, 0.3)),
        Label(6, "odd thing", (0.1, 0.2, 0.3), "181262009"),
    )
)
PROVENANCE = {"checkpoint": "abdominal-organs-ct", "sha256": "ab" * 32, "edited_voxels": 3}
ROW, COLUMN = (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)  # sagittal


def _series(folder: Path, *, count: int = 8, size=(9, 11), **turned) -> Volume:
    """Slices of 9 x 11 pixels, with all that a segmentation has to repeat."""
    normal = np.cross(turned.get("row", (1, 0, 0)), turned.get("column", (0, 1, 0)))
    rng = np.random.default_rng(0)
    study, frame, series = generate_uid(), generate_uid(), generate_uid()
    for number in range(count):
        dataset = ct_slice(
            rng.integers(0, 2000, size).astype(np.uint16),
            np.array([-10.0, -20.0, 30.0]) + normal * number * 2.5,
            number=number + 1,
            series=series,
            **turned,
            StudyInstanceUID=study,
            FrameOfReferenceUID=frame,
            PatientID="p",
            PatientName="A^B",
            PatientBirthDate="",
            PatientSex="",
            StudyID="1",
            StudyDate="20250101",
            StudyTime="120000",
            AccessionNumber="",
            ReferringPhysicianName="",
            PositionReferenceIndicator="",
            SeriesNumber=3,
            SliceThickness="2.5",
        )
        save(dataset, folder / f"{number}.dcm")
    return read_volume(folder)


def _labels(shape) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[1:5, 2:6, 1:5] = 2
    labels[4:7, 3:8, 5:8] = 5
    labels[6, 0, 0] = 6
    return labels


def _write(folder, volume, labels, **more):
    return write_dicom_seg(
        folder / "seg.dcm", labels, volume.geometry, LABELS, volume.source, provenance=PROVENANCE, **more
    )


@pytest.mark.parametrize("turned", [{}, {"row": ROW, "column": COLUMN}])
def test_labels_lie_on_the_instances_for_every_reader(tmp_path, turned):
    volume = _series(tmp_path / "ct", **turned)
    labels = _labels(volume.data.shape)
    path = _write(tmp_path, volume, labels)

    # Ours: the slices that show something, at their places.
    again = read_volume(path)
    assert again.labels.names == {2: "liver", 5: "kidney_left", 6: "odd thing"}
    assert np.allclose(again.labels.get(2).color, LABELS.get(2).color, atol=0.03)
    back = np.linalg.inv(np.asarray(volume.geometry.direction))
    for value in (2, 5, 6):
        theirs = {tuple(np.round(p, 3)) for p in _points(again.geometry, again.data == value)}
        ours = {tuple(np.round(p, 3)) for p in _points(volume.geometry, labels == value)}
        assert theirs == ours
    assert np.allclose(
        np.sort(np.abs(back @ np.asarray(again.geometry.direction)), axis=None)[-3:], 1, atol=1e-4
    )

    # highdicom: pixel by pixel of the source images.
    seg = hd.seg.segread(path)
    files = {str(pydicom.dcmread(f).SOPInstanceUID): pydicom.dcmread(f) for f in (tmp_path / "ct").iterdir()}
    pixels = seg.get_pixels_by_source_instance(
        list(files), combine_segments=True, ignore_spatial_locations=True
    )
    assert {1, 2, 3} == set(np.unique(pixels)) - {0}
    assert (pixels == 1).sum() == (labels == 2).sum()
    assert (pixels == 2).sum() == (labels == 5).sum()
    if not turned:
        depths = [float(f.ImagePositionPatient[2]) for f in files.values()]
        ordered = pixels[np.argsort(depths)]
        if volume.geometry.direction[2][2] < 0:
            ordered = ordered[::-1]
        assert np.array_equal(ordered == 1, labels == 2)

    # pydicom: what the header says.
    header = pydicom.dcmread(path)
    source = next(iter(files.values()))
    assert header.StudyInstanceUID == source.StudyInstanceUID
    assert header.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert header.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert header.PatientID == "p"
    liver, kidney, odd = header.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert liver.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "abdominal-organs-ct"
    code = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert code.CodeValue == "64033007"
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    assert odd.SegmentedPropertyTypeCodeSequence[0].CodeValue == "181262009"


def _points(geometry: Geometry, mask: np.ndarray) -> np.ndarray:
    indices = np.argwhere(mask)[:, ::-1] * np.asarray(geometry.spacing[::-1])
    return np.asarray(geometry.origin) + indices @ np.asarray(geometry.direction).T


def test_what_cannot_be_written_is_refused(tmp_path):
    volume = _series(tmp_path / "ct")
    labels = _labels(volume.data.shape)
    with pytest.raises(InputError, match="no labels"):
        _write(tmp_path, volume, np.zeros_like(labels))
    with pytest.raises(InputError, match="has no UID"):
        _write(tmp_path, replace(volume, source=replace(volume.source, series_uid=None)), labels)
    moved = replace(volume, geometry=replace(volume.geometry, origin=(0.3, 0.0, 0.0)))
    with pytest.raises(VolumeError, match="another grid"):
        _write(tmp_path, moved, labels)
    _write(tmp_path, volume, labels)
    with pytest.raises(ExistsError):
        _write(tmp_path, volume, labels)
    next((tmp_path / "ct").iterdir()).unlink()
    with pytest.raises(VolumeError, match="does not have the slices"):
        _write(tmp_path, volume, labels, overwrite=True)
    elsewhere = replace(volume, source=replace(volume.source, path=tmp_path / "elsewhere"))
    with pytest.raises(FileProblem, match="gone"):
        _write(tmp_path, elsewhere, labels, overwrite=True)


def test_a_real_series_whose_identifiers_were_removed_is_refused(tmp_path, shared_data):
    volume = read_volume(shared_data / "data" / "ct_abdomen" / "example_ct_dicom")
    with pytest.raises(InputError, match="anonymising"):
        _write(tmp_path, volume, np.ones(volume.data.shape, np.uint8))


def test_a_real_segmentation_is_written_as_it_was(tmp_path, shared_data):
    folder = shared_data / "data" / "awkward" / "dicom_seg" / "ct-3slice"
    volume = read_volume(folder)
    liver = read_volume(folder.parent / "liver.dcm")
    turn = Reorientation.between(liver.geometry, volume.geometry.axis_codes)
    path = write_dicom_seg(
        tmp_path / "seg.dcm", turn.apply(liver.data), volume.geometry, liver.labels, volume.source
    )
    again = read_volume(path)
    assert np.array_equal(again.data != 0, liver.data != 0)
    assert np.allclose(again.geometry.origin, liver.geometry.origin, atol=1e-4)
    assert again.labels.get(1).snomed == "10200004"
    pixels = hd.seg.segread(path).get_volume(combine_segments=True)
    assert (pixels.array != 0).sum() == (liver.data != 0).sum()


def _changed(folder, **fields):
    """The volume of a series whose files have other fields; None takes a field out."""
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for name, value in fields.items():
            if value is None:
                del dataset[name]
            else:
                setattr(dataset, name, value)
        save(dataset, path)
    return read_volume(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"SliceThickness": None},
        {"SliceThickness": ""},
        {"SliceThickness": "0"},
        dict.fromkeys(("PatientID", "PatientName", "PatientBirthDate", "PatientSex"), None),
        dict.fromkeys(
            ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"), None
        ),
        {"SeriesNumber": None},
    ],
)
def test_a_series_without_what_may_be_empty_is_exported(tmp_path, fields):
    _series(tmp_path / "ct")
    volume = _changed(tmp_path / "ct", **fields)
    notes = []
    path = _write(tmp_path, volume, _labels(volume.data.shape), noted=notes.append)
    seg = hd.seg.segread(path)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SliceThickness, measures.SpacingBetweenSlices) == (2.5, 2.5)
    assert any("SliceThickness" in note for note in notes) == ("SliceThickness" in fields)
    for name in fields:
        assert name in ("SliceThickness", "SeriesNumber") or (name in seg and not seg[name].value)
    again = read_volume(path)
    assert again.geometry.spacing == volume.geometry.spacing
    assert again.source.notes == ()


def test_invalid_fields_of_the_patient_are_left_empty_and_said(tmp_path):
    _series(tmp_path / "ct")
    volume = _changed(tmp_path / "ct", PatientSex="X", StudyDate="last year", SeriesNumber="3")
    notes = []
    seg = hd.seg.segread(_write(tmp_path, volume, _labels(volume.data.shape), noted=notes.append))
    assert (seg.PatientSex or "", seg.StudyDate or "") == ("", "")
    assert any("PatientSex, StudyDate" in note for note in notes)


@pytest.mark.parametrize("name", ["StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "ANON"])
def test_a_series_without_a_uid_is_refused_by_its_name(tmp_path, name, value):
    _series(tmp_path / "ct")
    for path in (tmp_path / "ct").iterdir():
        dataset = pydicom.dcmread(path)
        setattr(dataset, name, value)
        dataset.save_as(path)
    volume = read_volume(tmp_path / "ct")
    with pytest.raises(InputError, match=name):
        _write(tmp_path, volume, _labels(volume.data.shape))
    assert not (tmp_path / "seg.dcm").exists()


def test_images_that_share_a_uid_cannot_be_referred_to(tmp_path):
    _series(tmp_path / "ct")
    volume = _changed(tmp_path / "ct", SOPInstanceUID="1.2.3")
    with pytest.raises(InputError, match="SOPInstanceUID"):
        _write(tmp_path, volume, _labels(volume.data.shape))


def test_files_without_a_preamble_are_referred_to(tmp_path):
    _series(tmp_path / "ct")
    for path in (tmp_path / "ct").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    volume = read_volume(tmp_path / "ct")
    labels = _labels(volume.data.shape)
    assert np.count_nonzero(read_volume(_write(tmp_path, volume, labels)).data) == np.count_nonzero(labels)


def test_names_in_any_script_are_kept(tmp_path):
    _series(tmp_path / "ct")
    volume = _changed(
        tmp_path / "ct", SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="Yamada^Tarou=山田^太郎"
    )
    kanji = LabelSet((Label(2, "肝臓", (0.5, 0.2, 0.2)), Label(5, "Milz, geschwärzt", (0.2, 0.2, 0.5))))
    path = write_dicom_seg(
        tmp_path / "seg.dcm", _labels(volume.data.shape) % 6, volume.geometry, kanji, volume.source
    )
    assert str(hd.seg.segread(path).PatientName) == "Yamada^Tarou=山田^太郎"
    assert list(read_volume(path).labels.names.values()) == ["肝臓", "Milz, geschwärzt"]


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int64, np.uint16])
def test_labels_of_any_type_that_holds_whole_numbers(tmp_path, dtype):
    volume = _series(tmp_path / "ct")
    labels = _labels(volume.data.shape).astype(dtype)
    path = _write(tmp_path, volume, labels)
    assert np.count_nonzero(read_volume(path).data) == np.count_nonzero(labels)
    if dtype is np.float32:
        with pytest.raises(VolumeError, match="fractions"):
            _write(tmp_path, volume, labels + 0.5, overwrite=True)


def test_that_segments_have_other_numbers_than_labels_is_said(tmp_path):
    volume = _series(tmp_path / "ct")
    labels = np.zeros(volume.data.shape, np.uint16)
    labels.ravel()[:260] = np.arange(1, 261)
    notes = []
    path = _write(tmp_path, volume, labels, noted=notes.append)
    assert notes == []
    assert read_volume(path).data.max() == 260
    labels[labels > 9] = 0
    labels[labels > 0] += 7
    path = _write(tmp_path, volume, labels, noted=notes.append, overwrite=True)
    assert any("8 as 1" in note for note in notes)
    seg = hd.seg.segread(path)
    assert seg.SegmentSequence[0].TrackingID == "label 8"
    again = read_volume(path)
    assert set(np.unique(again.data)) == set(np.unique(labels))
    assert again.labels.names[16] == "label 16"
    assert set(np.unique(read_volume(path, channel=1).data)) == {0, 9}
    seg.ManufacturerModelName = "another program"  # what its identifiers mean is not known
    seg.save_as(path)
    assert set(np.unique(read_volume(path).data)) == set(range(10))


def test_exports_of_the_cases(tmp_path, shared_data):
    cases = shared_data / "cases"
    if not cases.exists():
        pytest.skip("the cases are not here")
    names = ("D14_no_preamble", "D15/rounded_orientation", "D19/anonymised_bare", "D19/empty_slice_thickness",
             "D19/no_slice_thickness", "seg_kanji")  # fmt: skip
    for name in names:
        volume = read_volume(cases / name)
        labels = np.zeros(volume.data.shape, np.uint8)
        labels[1:4, 2:6, 3:5], labels[4, 7, 7] = 2, 5
        path = _write(tmp_path, volume, labels, overwrite=True)
        assert len(hd.seg.segread(path).SegmentSequence) == len(np.unique(labels)) - 1
        assert np.count_nonzero(read_volume(path).data) == np.count_nonzero(labels)
    volume = read_volume(cases / "D19" / "no_frame_of_reference")
    with pytest.raises(InputError, match="FrameOfReferenceUID"):
        _write(tmp_path, volume, np.ones(volume.data.shape, bool), overwrite=True)


def test_one_image_keeps_its_thickness(tmp_path):
    volume = _series(tmp_path / "scan", count=1)
    assert volume.geometry.spacing[0] == 2.5
    _write(tmp_path, volume, np.ones((1, 9, 11), np.uint8))
    assert read_volume(tmp_path / "seg.dcm").geometry.matches(volume.geometry)


@pytest.mark.parametrize("distance", [None, 3.5])
@pytest.mark.parametrize("thickness", [None, 2.5])
def test_of_one_image_no_distance_is_told_that_nobody_knows(tmp_path, distance, thickness):
    _series(tmp_path / "scan", count=1)
    (file,) = (tmp_path / "scan").iterdir()
    image = pydicom.dcmread(file)
    image.SliceThickness, image.SpacingBetweenSlices = thickness, distance
    image.save_as(file)
    volume, notes = read_volume(tmp_path / "scan"), []
    _write(tmp_path, volume, np.ones((1, 9, 11), np.uint8), noted=notes.append)
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.get("SpacingBetweenSlices") == distance
    assert any("assumed" in note for note in notes) == (distance is thickness is None)
    again = read_volume(tmp_path / "seg.dcm")
    assert again.geometry.matches(volume.geometry)
    assert again.source.assumes_distance == (distance is None)


def test_images_too_small_to_be_packed_are_refused(tmp_path):
    volume = _series(tmp_path / "scan", count=3, size=(1, 6))
    with pytest.raises(InputError, match="6 pixels"):
        _write(tmp_path, volume, np.ones((3, 1, 6), np.uint8))


@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_names_that_dicom_cannot_hold_are_told(tmp_path, write):
    volume = _series(tmp_path / "scan")
    names = {1: "back\\slash", 2: "L" * 70 + "1", 3: "L" * 70 + "2", 4: "liver", 5: "two\nlines"}
    labels = np.zeros(volume.data.shape, np.uint8)
    labels.flat[: 2 * len(names) : 2] = list(names)
    told: list[str] = []
    label_set = LabelSet.from_names(names)
    write(tmp_path / "scan" / "z.dcm", labels, volume.geometry, label_set, volume.source, noted=told.append)
    again = read_volume(tmp_path / "scan" / "z.dcm").labels.names
    assert again == {1: "back/slash", 2: "L" * 64, 3: "L" * 56 + " (3)", 4: "liver", 5: "two lines"}
    assert [sum(f"label {value};" in note for note in told) for value in names] == [1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("name", "code"), [("Liver", "Liver"), ("liver tumor", "Neoplasm"), ("kidney cyst", "Organ")]
)
def test_codes_are_those_of_the_organ_and_not_of_its_host(name, code):
    assert code_of(Label(1, name, (1.0, 0.0, 0.0)), name) == getattr(codes.SCT, code)
