"""Exports: every format reopens with the same labels, all or nothing is written, and provenance says it all."""

import json
import os
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet.errors import ExistsError, FileProblem, InputError, VolumeError
from napari_transunet.export import writing
from napari_transunet.export.formats import FORMATS, REFERRING, unavailable
from napari_transunet.export.source import check_source, source_state
from napari_transunet.export.writing import ExportRequest, export, write_label_table
from napari_transunet.io.reading import read_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet
from napari_transunet.volumes.volume import Source
from tests.io.dicom.test_seg_writing import _series
from tests.io.ome_zarr_samples import write_ome_zarr

SHAPE = (8, 10, 12)
GEOMETRY = Geometry(SHAPE, (2.5, 0.7, 0.8), (10.0, -20.0, 30.0), ((0, -1, 0), (1, 0, 0), (0, 0, 1)))
NAMES = LabelSet.from_names({1: "liver", 3: "kidney/left"})
PROVENANCE = {"checkpoint": "c", "sha256": "ab" * 32, "edited_voxels": 5, "runs": [{"checkpoint": "c"}]}
WITHOUT_SCAN = tuple(name for name in FORMATS if name not in REFERRING)


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:6, 2:8, 2:6] = 1
    labels[4:7, 3:6, 7:11] = 3
    return labels


def _request(folder: Path, *formats: str, **more) -> ExportRequest:
    return ExportRequest(folder, "ct_labels", formats or WITHOUT_SCAN, **more)


def test_every_format_is_there_and_reopens(labels, tmp_path):
    seen = []
    request = _request(tmp_path)
    paths = export(
        labels, GEOMETRY, NAMES, request, provenance=PROVENANCE, progress=lambda *at: seen.append(at)
    )
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}
    assert len(paths) == 5 + 2 + 2 + 2 + 1 + 1
    assert seen[-1] == (12, 12)
    for ending in (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha"):
        again = read_volume(tmp_path / f"ct_labels{ending}")
        assert np.array_equal(again.data, labels)
        assert again.labels.names == NAMES.names
        assert np.allclose(again.geometry.origin, GEOMETRY.origin, atol=1e-4)
        assert np.allclose(again.geometry.direction, GEOMETRY.direction, atol=1e-4)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ct_labels.nii.gz"))), labels)
    mask = nibabel.load(tmp_path / "ct_labels_kidney_left.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj).T, labels == 3)
    content = json.loads((tmp_path / "ct_labels.json").read_text("utf-8"))
    told = content["provenance"]
    assert told["checkpoint"] == "c"
    assert told["edited_voxels"] == 5
    assert {"napari-transunet", "python", "numpy", "SimpleITK"} <= told["versions"].keys()
    assert told["meshes"]["coordinates"] == "LPS"
    assert {entry["name"]: entry["voxels"] for entry in content["labels"]} == {
        "liver": int((labels == 1).sum()),
        "kidney/left": int((labels == 3).sum()),
    }


@pytest.mark.parametrize("name", ["nifti", "nii", "nrrd", "slicer", "metaimage"])
def test_exported_reopened_and_exported_again_is_the_same_to_the_byte(labels, tmp_path, name):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    (one, *_) = export(labels, GEOMETRY, NAMES, _request(first, name), provenance=PROVENANCE)
    again = read_volume(one)
    (two, *_) = export(
        again.data, again.geometry, again.labels, _request(second, name), provenance=PROVENANCE
    )
    reread = read_volume(two)
    assert reread.data.tobytes() == labels.tobytes()
    assert reread.data.dtype == labels.dtype
    assert reread.labels == again.labels


def test_nothing_is_replaced_unasked_and_nothing_is_left_half_done(labels, tmp_path, monkeypatch):
    for make in (lambda file: file.symlink_to("gone"), lambda file: file.write_text("theirs")):
        (tmp_path / "ct_labels_liver.stl").unlink(missing_ok=True)
        make(tmp_path / "ct_labels_liver.stl")
        with pytest.raises(ExistsError, match="ct_labels_liver"):
            export(labels, GEOMETRY, NAMES, _request(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["ct_labels_liver.stl"]
    export(labels, GEOMETRY, NAMES, _request(tmp_path, "stl", overwrite=True))
    assert (tmp_path / "ct_labels_liver.stl").read_bytes()[:4] == b"mesh"

    empty = tmp_path / "empty"
    empty.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_label_table", _full)
        with pytest.raises(FileProblem, match=f"{re.escape(str(empty))}: No space"):
            export(labels, GEOMETRY, NAMES, _request(empty))
    assert not list(empty.iterdir())
    with pytest.raises(InputError, match="cancelled"):
        export(labels, GEOMETRY, NAMES, _request(empty), cancelled=lambda: True)
    assert not list(empty.iterdir())
    told = []
    with pytest.raises(InputError, match="cancelled"):  # when the last file is already written
        export(
            labels,
            GEOMETRY,
            NAMES,
            _request(empty, "nifti"),
            progress=lambda *at: told.append(at),
            cancelled=lambda: bool(told),
        )
    assert not list(empty.iterdir())
    (empty / "ct_labels.json").write_text('{"Modality": "CT"}')
    with pytest.raises(ExistsError, match="does not describe labels"):
        export(labels, GEOMETRY, NAMES, _request(empty, "nifti", overwrite=True))


def test_an_export_that_cannot_replace_a_file_leaves_all_of_the_earlier_one(labels, tmp_path, monkeypatch):
    export(labels, GEOMETRY, NAMES, _request(tmp_path, "nifti", "masks"), provenance=PROVENANCE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    move = Path.replace

    def open_elsewhere(path, target):
        if Path(target) == tmp_path / "ct_labels_liver.nii.gz":
            raise PermissionError(13, "Permission denied", str(target))
        return move(path, target)

    fewer = np.where(labels == 3, 0, labels)  # whose mask is removed first
    request = _request(tmp_path, "nifti", "masks", "stl", overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", open_elsewhere)
        with pytest.raises(FileProblem, match="Permission denied"):
            export(fewer, GEOMETRY, NAMES, request)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    export(fewer, GEOMETRY, NAMES, request)


def test_no_organ_that_is_gone_stays_beside_those_of_a_new_export(labels, tmp_path):
    for name in ("ct_labels_pelvis.stl", "ct_labels_2_liver.stl"):
        (tmp_path / name).write_text("theirs")
    export(labels, GEOMETRY, NAMES, _request(tmp_path, "masks", "stl"))
    notes = []
    request = _request(tmp_path, "masks", "stl", overwrite=True)
    export(np.where(labels == 3, 0, labels), GEOMETRY, NAMES, request, noted=notes.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ct_labels.json",
        "ct_labels_2_liver.stl",
        "ct_labels_liver.nii.gz",
        "ct_labels_liver.stl",
        "ct_labels_pelvis.stl",
    ]
    gone = ["ct_labels_kidney_left.nii.gz", "ct_labels_kidney_left.stl"]
    assert [note.split()[0] for note in notes] == gone
    assert json.loads((tmp_path / "ct_labels.json").read_text())["provenance"]["export_notes"] == notes


@pytest.mark.parametrize("which", [{"channel": 0}, {"time": 1}, {"key": "b"}])
def test_the_record_says_which_of_several_volumes_in_a_file_labels_were_made_on(labels, tmp_path, which):
    if "key" in which:
        np.savez(tmp_path / "ct.npz", a=labels, b=labels)
        path = tmp_path / "ct.npz"
    else:
        path = tmp_path / "ct.ome.zarr"
        axes = {"channel": "czyx", "time": "tzyx"}[next(iter(which))]
        write_ome_zarr(path, np.stack([labels, labels]), axes=axes)
    scan = read_volume(path, **which)
    export(labels, scan.geometry, NAMES, _request(tmp_path, "nifti"), source=scan.source)
    told = json.loads((tmp_path / "ct_labels.json").read_text())["provenance"]["source"]
    assert told.items() >= which.items()


def test_a_json_file_is_not_replaced_without_the_files_that_it_tells_of(labels, tmp_path):
    export(labels, GEOMETRY, NAMES, _request(tmp_path, "nifti", "masks"), provenance=PROVENANCE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for formats in (("nrrd",), ("nifti",), ("masks", "stl")):
        with pytest.raises(ExistsError, match="tells what made ct_labels"):
            export(labels, GEOMETRY, NAMES, _request(tmp_path, *formats, overwrite=True))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    export(labels, GEOMETRY, NAMES, _request(tmp_path, "nifti", "masks", "stl", overwrite=True))
    assert (tmp_path / "ct_labels_liver.stl").is_file()


def test_what_a_killed_export_left_goes_with_the_next_one(labels, tmp_path):
    old, young = tmp_path / ".exporting-old", tmp_path / ".exporting-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "ct_labels.nii.gz").touch()
    for path in (old / "ct_labels.nii.gz", old):
        os.utime(path, (0, 0))
    export(labels, GEOMETRY, NAMES, _request(tmp_path, "nifti"))
    assert not old.exists()
    assert young.exists()  # it may be another program's that goes on


def _full(*_args, **_kwargs):
    raise OSError(28, "No space left on device")


def test_what_cannot_be_exported_is_refused(labels, tmp_path):
    for request, match in (
        (_request(tmp_path, "obj"), "obj is none of them"),
        (ExportRequest(tmp_path, "a", ()), "at least one format"),
        (ExportRequest(tmp_path, "../a", ("nifti",)), "no file name"),
        (_request(tmp_path, "dicom-seg"), "DICOM series"),
    ):
        with pytest.raises(InputError, match=match):
            export(labels, GEOMETRY, NAMES, request)
    with pytest.raises(VolumeError, match="shape"):
        export(labels[1:], GEOMETRY, NAMES, _request(tmp_path, "nifti"))
    with pytest.raises(FileProblem, match="not there"):
        export(labels, GEOMETRY, NAMES, _request(tmp_path / "none", "nifti"))
    scan = tmp_path / "ct_labels.nii.gz"
    scan.write_bytes(b"the scan")
    source = Source(scan, "NIfTI", "ct_labels")
    with pytest.raises(FileProblem, match="the scan itself"):
        export(labels, GEOMETRY, NAMES, _request(tmp_path, "nifti", overwrite=True), source=source)
    assert scan.read_bytes() == b"the scan"
    assert "DICOM series" in unavailable("dicom-seg", source)
    assert unavailable("nifti", None) is None


def test_names_from_outside_make_no_paths(labels, tmp_path):
    names = LabelSet.from_names({1: "../../etc/passwd", 3: "..\\..__etc_passwd"})
    paths = export(labels, GEOMETRY, names, _request(tmp_path, "masks"))
    assert all(path.parent == tmp_path for path in paths)
    assert len({path.name for path in paths}) == 3


def test_a_scan_that_is_gone_or_another_is_noticed(tmp_path):
    file, folder = tmp_path / "ct.nii.gz", tmp_path / "series"
    file.write_bytes(b"123")
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"1")
    for path, change in (
        (file, lambda: file.write_bytes(b"1234")),
        (folder, lambda: (folder / "2.dcm").touch()),
    ):
        source = Source(path, "NIfTI", "ct")
        before = source_state(source)
        check_source(source, before)
        change()
        with pytest.raises(VolumeError, match="was changed"):
            check_source(source, before)
    file.unlink()
    with pytest.raises(FileProblem, match="is gone"):
        check_source(Source(file, "NIfTI", "ct"), before)
    assert source_state(Source(None, "array", "a")) is None
    check_source(None, None)


def test_what_is_other_in_a_file_is_told_and_in_the_json(tmp_path):
    scan = _series(tmp_path / "ct")
    values = np.zeros(scan.data.shape, np.uint16)
    values[2, 3:5, 3:5] = 7
    told = []
    paths = export(
        values,
        scan.geometry,
        LabelSet.from_names({7: "liver"}),
        _request(tmp_path, "dicom-seg"),
        source=scan.source,
        noted=told.append,
    )
    assert any("7 as 1" in note for note in told)
    assert json.loads(paths[-1].read_text())["provenance"]["export_notes"] == told


def test_a_structure_set_is_exported_beside_a_segmentation(tmp_path):
    scan = _series(tmp_path / "ct")
    values = np.zeros(scan.data.shape, np.uint16)
    values[2, 3:5, 3:5] = 7
    labels = LabelSet.from_names({7: "liver"})
    paths = export(
        values, scan.geometry, labels, _request(tmp_path, "rtstruct", "dicom-seg"), source=scan.source
    )
    assert [path.name for path in paths] == ["ct_labels.dcm", "ct_labels.rtstruct.dcm", "ct_labels.json"]
    assert np.array_equal(read_volume(paths[1]).data, values)
    assert unavailable("rtstruct", scan.source) is None


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("a", "a_3", "a"), ["_a", "_a_3", "_a_3_3"]),
        (("Liver", "liver", "LIVER"), ["_Liver", "_liver_2", "_LIVER_3"]),
        (("f\u00e9mur", "fe\u0301mur", "x"), ["_f\u00e9mur", "_f\u00e9mur_2", "_x"]),
    ],
)
def test_masks_of_like_names_stay_apart(tmp_path, names, files):
    labels = np.zeros(SHAPE, np.uint8)
    labels.flat[[10, 20, 30]] = 1, 2, 3
    request = _request(tmp_path, "masks")
    *paths, _ = export(labels, GEOMETRY, LabelSet.from_names(dict(enumerate(names, 1))), request)
    assert [path.name for path in paths] == [f"ct_labels{name}.nii.gz" for name in files]
    assert [int(np.flatnonzero(read_volume(path).data)[0]) for path in paths] == [10, 20, 30]


@pytest.mark.parametrize("formats", [("masks",), ("stl", "nifti"), ("label-table",)])
def test_values_that_are_no_labels_are_refused_in_every_format(labels, tmp_path, formats):
    for bad in (
        labels * 1.5,
        np.where(labels, np.nan, 0.0),
        labels.astype(int) * -1,
        labels.astype(int) * 70000,
    ):
        with pytest.raises(VolumeError, match="abels must be"):
            export(bad, GEOMETRY, NAMES, _request(tmp_path, *formats))
    assert not list(tmp_path.iterdir())
    export(labels * np.float32(0.9999999), GEOMETRY, NAMES, _request(tmp_path, "masks"))
    assert read_volume(tmp_path / "ct_labels_liver.nii.gz").data.sum() == (labels == 1).sum()


@pytest.mark.parametrize("size", [2.0, 0.2, 0.02])
def test_surfaces_of_small_voxels_keep_their_shape(tmp_path, size):
    labels = np.zeros((24, 40, 24), np.uint8)
    labels[6:18, 14:26, 6:18] = 1
    labels[10:14, 4:36, 10:14] = 1  # a rod, 4 voxels thick
    export(labels, Geometry(labels.shape, (size,) * 3), NAMES, _request(tmp_path, "stl"))
    raw = (tmp_path / "ct_labels_liver.stl").read_bytes()[84:]
    corners = np.frombuffer(raw, [("n", "<f4", 3), ("v", "<f4", (3, 3)), ("u", "<u2")])["v"].reshape(-1, 3)
    np.testing.assert_allclose(np.ptp(corners, axis=0) / size, (12, 32, 12), atol=2.5)
    record = json.loads((tmp_path / "ct_labels.json").read_text())["provenance"]["meshes"]
    assert record["smoothed_mm"] == min(1.0, size)


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize("name", ["dicom-seg", "rtstruct"])
def test_an_image_of_the_series_is_never_replaced(tmp_path, given, name):
    volume = _series(tmp_path / "scan")
    if given == "file":
        volume = read_volume(tmp_path / "scan" / "0.dcm")
    victim = tmp_path / "scan" / "3.dcm"
    if name == "rtstruct":
        victim = victim.rename(victim.with_name("3.rtstruct.dcm"))
    before = victim.read_bytes()
    labels = np.ones(volume.data.shape, np.uint8)
    request = ExportRequest(victim.parent, "3", (name,), overwrite=True)
    with pytest.raises(FileProblem, match="an image of it"):
        export(labels, volume.geometry, NAMES, request, source=volume.source)
    assert victim.read_bytes() == before
    for _ in range(2):  # what was exported before may be replaced
        other = ExportRequest(victim.parent, "labels", (name,), overwrite=True)
        export(labels, volume.geometry, NAMES, other, source=volume.source)


def test_a_table_has_numbers_colours_and_names(tmp_path):
    labels = LabelSet((Label(1, "liver", (0.5, 0.25, 1.0)), Label(300, 'the "odd"\nname', (0, 0, 0))))
    path = write_label_table(tmp_path / "labels.txt", labels)
    lines = [line.split(maxsplit=7) for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        ["0", "0", "0", "0", "0", "0", "0", '"Clear Label"'],
        ["1", "128", "64", "255", "1", "1", "1", '"liver"'],
        ["300", "0", "0", "0", "1", "1", "1", "\"the 'odd' name\""],
    ]
