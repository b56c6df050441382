import json
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet.errors import DatasetError
from napari_transunet.io.dicom.rtstruct_writing import write_rtstruct
from napari_transunet.io.writing import write_volume
from napari_transunet.training.datasets import Dataset, label_values, open_dataset, whole_labels
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source, Volume
from tests.io.dicom.test_seg_writing import _series
from tests.io.samples import series

SHAPE = (3, 4, 5)
IMAGE = np.arange(60, dtype=np.int16).reshape(SHAPE)
LABELS = (IMAGE % 3).astype(np.uint8)
SCALED = IMAGE / np.float32(59)


def write(path: Path, data: np.ndarray = IMAGE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    geometry = Geometry(SHAPE, (3.0, 1.0, 1.0))
    return write_volume(path, Volume(data, geometry, None, Source(None, "array", "made")))


def write_4d(path: Path, channels: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(
        sitk.JoinSeries([sitk.GetImageFromArray(IMAGE + 100 * n) for n in range(channels)]), str(path)
    )


def describe(folder: Path, **content: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


def names_of(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b", "a"):
        write(tmp_path / "images" / f"{name}.nii.gz")
        write(tmp_path / "labels" / f"{name}.nii.gz", LABELS)
    return tmp_path


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    for number in (1, 2):
        write(tmp_path / "imagesTr" / f"liver_{number}.nii.gz")
        write(tmp_path / "labelsTr" / f"liver_{number}.nii.gz", LABELS)
    return tmp_path


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    """Two channels; the cases' own names end in four digits as well."""
    for case in ("BRATS_0001", "BRATS_0002"):
        for channel in range(2):
            write(tmp_path / "imagesTr" / f"{case}_{channel:04d}.nii.gz", IMAGE + 100 * channel)
        write(tmp_path / "labelsTr" / f"{case}.nii.gz", LABELS)
    describe(tmp_path, channel_names={"0": "FLAIR", "1": "T1w"}, labels={"background": 0, "tumour": 1})
    return tmp_path


def write_slice(path: Path, z: int, data: np.ndarray = SCALED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, image=data[z], label=LABELS[z].astype(np.float32))


@pytest.fixture
def synapse(tmp_path: Path) -> Path:
    for case in ("case0005", "case0006"):
        for z in range(3):
            write_slice(tmp_path / "train_npz" / f"{case}_slice{z:03d}.npz", z)
    (tmp_path / "test_vol_h5").mkdir()
    for case in ("case0001", "case0002"):
        with h5py.File(tmp_path / "test_vol_h5" / f"{case}.npy.h5", "w") as file:
            file["image"], file["label"] = SCALED, LABELS.astype(np.float32)
    return tmp_path


class TestFolder:
    def test_images_and_labels_of_one_name_are_a_case(self, folder: Path) -> None:
        dataset = open_dataset(folder)
        assert (dataset.layout, dataset.scaled, dataset.test) == ("folder", False, frozenset())
        assert names_of(dataset) == ["a", "b"]
        assert dataset.patients == ("a", "b")
        assert (dataset.names, dataset.modality) == ({}, None)
        image, labels = dataset.cases[0].read()
        assert np.array_equal(image.data, IMAGE)
        assert np.array_equal(labels.data, LABELS)
        assert image.geometry.spacing == (3.0, 1.0, 1.0)

    def test_formats_may_differ_and_other_files_are_passed_over(self, folder: Path) -> None:
        write(folder / "images" / "c.mha")
        write(folder / "labels" / "c.nrrd", LABELS)
        series(folder / "images" / "d", [0.0, 2.0, 4.0])
        write(folder / "labels" / "d.nii", LABELS)
        sitk.WriteImage(sitk.GetImageFromArray(IMAGE), str(folder / "images" / "e.hdr"))
        write(folder / "labels" / "e.nii", LABELS)
        for rubbish in ("._a.nii.gz", ".hidden.nii.gz", "README.txt", "c.json"):
            (folder / "images" / rubbish).write_text("?")
        (folder / "images" / "notes").mkdir()
        dataset = open_dataset(folder)
        assert names_of(dataset) == ["a", "b", "c", "d", "e"]
        assert [case.read()[0].data.shape[0] for case in dataset.cases] == [3] * 5

    def test_channel_numbers_of_nnunet_are_tolerated(self, folder: Path) -> None:
        for name in ("a", "b"):
            (folder / "images" / f"{name}.nii.gz").rename(folder / "images" / f"{name}_0000.nii.gz")
        assert names_of(open_dataset(folder)) == ["a", "b"]
        assert names_of(open_dataset(folder, channel=0)) == ["a", "b"]

    def test_a_description_beside_them_is_read(self, folder: Path) -> None:
        describe(
            folder,
            name="Livers",
            licence="CC BY 4.0",
            reference="A hospital\nsomewhere",
            modality={"0": "CT"},
            labels={"0": "background", "1": "liver", "2": "tumour"},
        )
        dataset = open_dataset(folder)
        assert dataset.names == {1: "liver", 2: "tumour"}
        assert (dataset.about.title, dataset.about.licence, dataset.about.source, dataset.modality) == (
            "Livers",
            "CC BY 4.0",
            "A hospital somewhere",
            "CT",
        )
        assert open_dataset(folder, names={2: "cyst", 0: "air"}).names == {2: "cyst"}

    def test_patients_are_found_by_pattern(self, tmp_path: Path) -> None:
        for name in ("p1_day1", "p1_day2", "p2_day1"):
            write(tmp_path / "images" / f"{name}.nii")
            write(tmp_path / "labels" / f"{name}.nii", LABELS)
        grouped = open_dataset(tmp_path, patient_pattern=r"^(p\d+)_")
        assert [case.patient for case in grouped.cases] == ["p1", "p1", "p2"]
        assert open_dataset(tmp_path, patient_pattern=r"p\d").patients == ("p1", "p2")
        with pytest.raises(DatasetError, match="finds none in the case 'p1_day1'"):
            open_dataset(tmp_path, patient_pattern=r"q\d")
        with pytest.raises(DatasetError, match="no regular expression"):
            open_dataset(tmp_path, patient_pattern="(")

    def test_label_values_are_counted_by_case(self, folder: Path) -> None:
        write(folder / "images" / "c.nii")
        write(folder / "labels" / "c.nii", (LABELS == 2) * np.float32(7))
        assert label_values(open_dataset(folder)) == {1: 2, 2: 2, 7: 1}

    def test_label_values_name_the_case_that_has_none(self, folder: Path) -> None:
        (folder / "labels" / "a.nii.gz").write_bytes(b"")
        with pytest.raises(DatasetError, match=r"a: labels/a.nii.gz: the file is empty"):
            label_values(open_dataset(folder))


class TestBadFolders:
    def test_no_folder_or_no_layout(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="is no folder"):
            open_dataset(tmp_path / "none")
        with pytest.raises(DatasetError, match="none of the known layouts"):
            open_dataset(tmp_path)
        (tmp_path / "imagesTr").mkdir()
        with pytest.raises(DatasetError, match="no folder labelsTr"):
            open_dataset(tmp_path)
        (tmp_path / "labelsTr").mkdir()
        with pytest.raises(DatasetError, match="hold no volumes"):
            open_dataset(tmp_path)

    def test_images_without_labels(self, folder: Path) -> None:
        (folder / "labels" / "b.nii.gz").unlink()
        with pytest.raises(DatasetError, match="images without labels in labels: b; add their labels"):
            open_dataset(folder)

    def test_labels_without_images(self, folder: Path) -> None:
        for number in range(5):
            write(folder / "labels" / f"x{number}.nii", LABELS)
        with pytest.raises(DatasetError, match="without an image in images: x0, x1, x2 and 2 more; add"):
            open_dataset(folder)

    def test_two_files_of_one_name(self, folder: Path) -> None:
        write(folder / "images" / "a.nrrd")
        with pytest.raises(DatasetError, match=r"both a\.nii\.gz and a\.nrrd"):
            open_dataset(folder)

    def test_names_that_cannot_be(self, folder: Path) -> None:
        for names, sentence in (
            ({1: "liver", 2: "liver"}, "calls both 1 and 2 'liver'"),
            ({-1: "liver"}, "value -1"),
            ({1: " \n"}, "empty name"),
        ):
            with pytest.raises(DatasetError, match=f"The list of names .*{sentence}"):
                open_dataset(folder, names=names)

    def test_damaged_volumes_are_named_when_read(self, folder: Path) -> None:
        (folder / "images" / "a.nii.gz").write_bytes(b"")
        with pytest.raises(DatasetError, match=r"^a: images/a\.nii\.gz: the file is empty"):
            open_dataset(folder).cases[0].read()
        case = open_dataset(folder).cases[1]
        (folder / "labels" / "b.nii.gz").unlink()
        with pytest.raises(DatasetError, match=r"^b: There is no file"):
            case.read()

    def test_folders_that_cannot_be_listed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(DatasetError, match="images cannot be listed: Permission denied"):
            open_dataset(folder)


class TestDecathlon:
    def test_names_and_modality_come_from_the_description(self, decathlon: Path) -> None:
        describe(
            decathlon,
            name="Liver",
            modality={"0": "MRI"},
            labels={"0": "background", "1": "liver", "2": "cancer"},
            training=[{"image": "../../etc/passwd", "label": "/etc/shadow"}],
        )
        (decathlon / "imagesTr" / "._liver_1.nii.gz").write_bytes(b"?")
        dataset = open_dataset(decathlon)
        assert (dataset.layout, dataset.modality, dataset.about.title) == ("decathlon", "MR", "Liver")
        assert dataset.names == {1: "liver", 2: "cancer"}
        assert names_of(dataset) == ["liver_1", "liver_2"]

    def test_it_may_lack_a_description(self, decathlon: Path) -> None:
        assert open_dataset(decathlon).names == {}

    @pytest.mark.parametrize("labels", [{"background": 0, "liver": 1}, {"background": "0", "liver": "1"}])
    def test_names_may_come_first(self, decathlon: Path, labels: dict[str, Any]) -> None:
        describe(decathlon, labels=labels, channel_names={"0": "CT"})
        dataset = open_dataset(decathlon)
        assert (dataset.names, dataset.modality) == ({1: "liver"}, "CT")

    @pytest.mark.parametrize(
        ("name", "modality"),
        [("FLAIR", "MR"), ("T1w", "MR"), ("cMRI", "MR"), ("CTA", "CT"), ("PET", "PT"), ("zscore", None)],
    )
    def test_modalities_by_the_names_of_channels(
        self, decathlon: Path, name: str, modality: str | None
    ) -> None:
        describe(decathlon, channel_names=[name])
        assert open_dataset(decathlon).modality == modality

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            ({"labels": {"background": 0, "whole": [1, 2]}}, "'whole' is a region"),
            ({"labels": ["liver"]}, "must be an object"),
            ({"labels": {"liver": "one"}}, "'liver': 'one', where one of them must be a number"),
            ({"labels": {"liver": 1, "cyst": 1}}, "names the label 1 twice"),
            ({"labels": {"1": "liver", "2": "liver"}}, "calls both 1 and 2 'liver'"),
            ({"labels": {"liver": 70000}}, "label value 70000"),
            ({"labels": {"liver": True}}, "must be a number"),
            ({"labels": {"1": ""}}, "empty name"),
            ({"labels": {"background": 1, "liver": 0}}, "calls the label 1 'background', which is 0"),
            ({"modality": 3}, "modality must be an object"),
            ({"modality": {"first": "CT"}}, "not a number and a name"),
        ],
    )
    def test_bad_descriptions(self, decathlon: Path, content: dict[str, Any], sentence: str) -> None:
        describe(decathlon, **content)
        with pytest.raises(DatasetError, match=f"dataset.json.*{sentence}"):
            open_dataset(decathlon)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("{", "not valid JSON"),
            ("[" * 99999, "not valid JSON"),
            ("[]", "one JSON object"),
            ('{"labels": {"1": "liver", "1": "spleen"}}', "'1' twice"),
            ("\xff", "not valid"),
        ],
    )
    def test_descriptions_that_are_no_json(self, decathlon: Path, text: str, sentence: str) -> None:
        (decathlon / "dataset.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(DatasetError, match=f"dataset.json.*{sentence}"):
            open_dataset(decathlon)

    def test_a_description_of_any_length_is_not_read(
        self, decathlon: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("napari_transunet.training.dataset_json._MAX_BYTES", 10)
        describe(decathlon, name="longer than ten bytes")
        with pytest.raises(DatasetError, match="at most 16 MiB"):
            open_dataset(decathlon)

    def test_a_channel_of_a_fourth_axis(self, decathlon: Path) -> None:
        for number in (1, 2):
            write_4d(decathlon / "imagesTr" / f"liver_{number}.nii.gz", 2)
        describe(decathlon, modality={"0": "T2", "1": "ADC"})
        image, _ = open_dataset(decathlon, channel=1).cases[0].read()
        assert np.array_equal(image.data, IMAGE + 100)
        with pytest.raises(
            DatasetError, match=r"liver_1: its image has the channels 0 \(T2\), 1 \(ADC\); ch"
        ):
            open_dataset(decathlon).cases[0].read()
        with pytest.raises(DatasetError, match=r"no channel 2; there are 0 \(T2\), 1 \(ADC\)"):
            open_dataset(decathlon, channel=2).cases[0].read()

    def test_a_single_channel_is_channel_0(self, decathlon: Path) -> None:
        assert open_dataset(decathlon, channel=0).cases[0].read()[0].data.shape == SHAPE
        with pytest.raises(DatasetError, match="no channel 1; there is 0"):
            open_dataset(decathlon, channel=1).cases[0].read()


class TestNnunet:
    def test_channel_picks_a_file(self, nnunet: Path) -> None:
        dataset = open_dataset(nnunet, channel=1)
        assert names_of(dataset) == ["BRATS_0001", "BRATS_0002"]
        assert np.array_equal(dataset.cases[1].read()[0].data, IMAGE + 100)
        assert (dataset.names, dataset.modality) == ({1: "tumour"}, "MR")

    def test_several_channels_are_told(self, nnunet: Path) -> None:
        with pytest.raises(DatasetError, match=r"the channels 0 \(FLAIR\), 1 \(T1w\); choose one"):
            open_dataset(nnunet)
        with pytest.raises(DatasetError, match="no channel 5"):
            open_dataset(nnunet, channel=5)

    def test_a_channel_may_not_be_missing_from_a_case(self, nnunet: Path) -> None:
        (nnunet / "imagesTr" / "BRATS_0002_0001.nii.gz").unlink()
        with pytest.raises(DatasetError, match="lacks channel 1 of BRATS_0002"):
            open_dataset(nnunet, channel=1)
        assert len(open_dataset(nnunet, channel=0).cases) == 2

    def test_names_that_end_in_four_digits_are_no_channels(self, tmp_path: Path) -> None:
        for name in ("scan_0000", "scan_0001"):
            write(tmp_path / "images" / f"{name}.nii")
            write(tmp_path / "labels" / f"{name}.nii", LABELS)
        assert names_of(open_dataset(tmp_path)) == ["scan_0000", "scan_0001"]

    def test_a_case_named_like_a_channel_of_another(self, tmp_path: Path) -> None:
        for number, name in enumerate(("scan", "scan_0000")):
            write(tmp_path / "imagesTr" / f"{name}_0000.nii", IMAGE + number)
            write(tmp_path / "labelsTr" / f"{name}.nii", LABELS)
        dataset = open_dataset(tmp_path)
        assert names_of(dataset) == ["scan", "scan_0000"]
        assert [int(case.read()[0].data.min()) for case in dataset.cases] == [0, 1]


class TestSynapse:
    def test_slices_are_stacked_to_cases(self, synapse: Path) -> None:
        dataset = open_dataset(synapse)
        assert (dataset.layout, dataset.scaled, dataset.names) == ("synapse", True, {})
        assert names_of(dataset) == ["case0005", "case0006", "case0001", "case0002"]
        assert dataset.test == {"case0001", "case0002"}
        for case in dataset.cases:
            image, labels = case.read()
            np.testing.assert_allclose(image.data, SCALED, atol=1e-6)
            assert np.array_equal(labels.data, LABELS)
        assert label_values(dataset) == {1: 4, 2: 4}

    def test_slices_are_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        for z, number in enumerate((2, 10, 100)):
            write_slice(tmp_path / "train_npz" / f"case_slice{number}.npz", z)
        np.testing.assert_allclose(open_dataset(tmp_path).cases[0].read()[0].data, SCALED, atol=1e-6)

    @pytest.mark.parametrize("where", [".", "lists", "lists/lists_Synapse"])
    def test_lists_choose(self, synapse: Path, where: str) -> None:
        (synapse / where).mkdir(parents=True, exist_ok=True)
        (synapse / where / "train.txt").write_text("case0005_slice000\r\ncase0005_slice001.npz\n\n")
        (synapse / where / "test_vol.txt").write_text("case0002\n")
        dataset = open_dataset(synapse)
        assert names_of(dataset) == ["case0005", "case0002"]
        assert dataset.cases[0].read()[0].data.shape == (2, 4, 5)
        assert dataset.test == {"case0002"}

    def test_what_a_list_names_must_be_there(self, synapse: Path) -> None:
        (synapse / "train.txt").write_text("case0005_slice000\n../../secret\n")
        with pytest.raises(DatasetError, match=r"train\.txt names \.\./\.\./secret, which .*train_npz lacks"):
            open_dataset(synapse)

    def test_lists_must_be_text(self, synapse: Path) -> None:
        (synapse / "train.txt").write_bytes(b"\xff\xfe\xff")
        with pytest.raises(DatasetError, match="cannot be read as a list"):
            open_dataset(synapse)

    def test_a_case_is_trained_or_tested_on(self, synapse: Path) -> None:
        write_slice(synapse / "train_npz" / "case0002_slice000.npz", 0)
        with pytest.raises(DatasetError, match="case0002 both for training and for testing"):
            open_dataset(synapse)

    def test_patients_may_have_several_cases(self, synapse: Path) -> None:
        dataset = open_dataset(synapse, patient_pattern="case000[15]|case")
        assert dataset.test == {"case0001", "case"}
        assert dataset.patients == ("case", "case0001", "case0005")

    def test_bad_slices_are_named(self, synapse: Path, caplog: pytest.LogCaptureFixture) -> None:
        (synapse / "train_npz" / "case0005_slice001.npz").unlink()
        with caplog.at_level(logging.WARNING):
            open_dataset(synapse)
        assert "case0005: 1 slices are missing" in caplog.text
        write_slice(synapse / "train_npz" / "case0005_slice001.npz", 1, IMAGE[:, 1:])
        with pytest.raises(DatasetError, match=r"case0005: 'image' in case0005_slice001\.npz has the shape"):
            open_dataset(synapse).cases[0].read()
        np.savez(synapse / "train_npz" / "case0006_slice001.npz", image=IMAGE[0])
        with pytest.raises(
            DatasetError, match=r"case0006: train_npz/case0006_slice001\.npz: it has no array 'label'"
        ):
            open_dataset(synapse).cases[1].read_labels()
        write_slice(synapse / "train_npz" / "case0006_slice01.npz", 1)
        with pytest.raises(DatasetError, match=r"both case0006_slice001\.npz and case0006_slice01\.npz"):
            open_dataset(synapse)
        (synapse / "train_npz" / "case0006_slice01.npz").rename(synapse / "train_npz" / "other.npz")
        with pytest.raises(DatasetError, match=r"other\.npz is no slice"):
            open_dataset(synapse)

    def test_there_is_one_channel(self, synapse: Path) -> None:
        with pytest.raises(DatasetError, match="no channel 1"):
            open_dataset(synapse, channel=1)

    def test_empty_folders_hold_no_cases(self, tmp_path: Path) -> None:
        (tmp_path / "train_npz").mkdir()
        with pytest.raises(DatasetError, match="holds no cases"):
            open_dataset(tmp_path)


class TestLabelArrays:
    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.float32, np.uint16])
    def test_whole_numbers_of_any_type(self, kind: type) -> None:
        labels = whole_labels(LABELS.astype(kind), "case")
        assert labels.dtype in (np.uint8, np.uint16)
        assert np.array_equal(labels, LABELS)

    def test_masks_and_large_values(self) -> None:
        assert np.array_equal(whole_labels(LABELS > 0, "case"), LABELS > 0)
        assert np.unique(whole_labels(LABELS * np.int32(30000), "case")).tolist() == [0, 30000, 60000]

    @pytest.mark.parametrize(
        ("labels", "sentence"),
        [
            (LABELS * 0.5, "case: Labels must be whole numbers.*0.5"),
            (np.full(SHAPE, np.nan), "case: Labels must be whole numbers.*nan"),
            (np.full(SHAPE, np.inf, np.float32), "case: Labels must be whole numbers.*inf"),
            (LABELS.astype(np.int16) - 1, "case: Labels must be .* reach from -1 to 1"),
            (LABELS * np.float64(1e9), "case: Labels must be .* reach from 0 to 2000000000"),
        ],
    )
    def test_other_numbers_are_no_labels(self, labels: np.ndarray, sentence: str) -> None:
        with pytest.raises(DatasetError, match=sentence):
            whole_labels(labels, "case")


def test_real_hippocampi(shared_data: Path) -> None:
    folder = shared_data / "data" / "hippocampus_mr"
    if not folder.is_dir():
        pytest.skip(f"the hippocampus images are not at {folder}")
    dataset = open_dataset(folder)
    assert len(dataset.cases) == len(dataset.patients) == 200
    assert label_values(dataset) == {1: 200, 2: 200}


def test_cases_may_name_the_organs_that_were_annotated_in_them(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for name in ("one", "two"):
            np.save(tmp_path / part / f"{name}.npy", np.zeros((2, 3, 4), np.uint8))
    about = {"labels": {"liver": 1, "spleen": 2, "ignore": 9}, "labelled": {"two": ["spleen"]}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    dataset = open_dataset(tmp_path)
    assert dataset.names == {1: "liver", 2: "spleen"}
    assert dataset.about.annotated == {"two": frozenset({2})}
    assert dataset.about.unknown == 9


@pytest.mark.parametrize(
    ("labelled", "names"),
    [({"two": ["kidney"]}, "kidney"), ({"three": ["liver"]}, "three"), ([1], "labelled")],
)
def test_what_labelled_names_must_be_there(tmp_path: Path, labelled: object, names: str) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        np.save(tmp_path / part / "two.npy", np.zeros((2, 3, 4), np.uint8))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"liver": 1}, "labelled": labelled}))
    with pytest.raises(DatasetError, match=names):
        open_dataset(tmp_path)


def test_the_series_of_a_structure_set_is_its_cases_image(tmp_path: Path) -> None:
    labels = {}
    for name in ("a", "b"):
        scan = _series(tmp_path / "images" / name)
        labels[name] = np.zeros(scan.data.shape, np.uint8)
        labels[name][2:5, 2:6, 3 : 7 + len(labels)] = 3
        drawn = tmp_path / "labels" / f"{name}.dcm"
        drawn.parent.mkdir(exist_ok=True)
        write_rtstruct(drawn, labels[name], scan.geometry, LabelSet.from_names({3: "liver"}), scan.source)
    dataset = open_dataset(tmp_path)
    assert label_values(dataset) == {3: 2}
    for case in dataset.cases:
        image, read = case.read()
        assert np.array_equal(read.data, labels[case.name])
        assert read.geometry.matches(image.geometry)
