"""Scans: which are found, and what is said of those that moved, changed, went, or came twice."""

import gzip
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet.errors import FileProblem, VolumeError
from napari_transunet.project.project import Project
from napari_transunet.project.scans import find_scans, locate, read_scan
from tests.cli.conftest import write_image


def scan_of(project, name):
    return next(case.scan for case in project.cases() if case.name == name)


def test_files_that_hold_labels_are_left_out_of_folders_but_not_when_named(scans):
    values = np.zeros((2, 4, 4), np.uint8)
    (scans / "labels").mkdir()
    for name in ("case_0_seg.nii.gz", "mask.nrrd", "case_1 labels.nii", "labels/case_0.nii.gz"):
        write_image(scans / name, values)
    found = find_scans([scans])
    assert [scan.name for scan in found.scans] == ["case_0", "case_1", "case_2"]
    assert len(found.left_out) == 4
    assert [scan.name for scan in find_scans([scans / "mask.nrrd"]).scans] == ["mask"]


def test_an_ome_zarr_is_left_out_with_what_to_do(scans):
    (scans / "study" / "scan.ome.zarr" / "0").mkdir(parents=True)
    for folder in ("scan.ome.zarr", "scan.ome.zarr/0"):
        (scans / "study" / folder / "zarr.json").write_text("{}")
    found = find_scans([scans])
    assert [scan.name for scan in found.scans] == ["case_0", "case_1", "case_2"]
    (why,) = found.left_out
    assert "scan.ome.zarr: " in why
    assert "convert" in why


def test_a_header_and_its_voxels_are_one_scan_that_both_files_change(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 4, 4), np.int16)), str(tmp_path / "ct.mhd"))
    project = Project.create(tmp_path / "study")
    (case,) = project.add([tmp_path / "ct.mhd"]).cases
    assert case.scan.files == 2
    data = tmp_path / "ct.raw"
    data.write_bytes(b"\1" + data.read_bytes()[1:])
    assert locate(case.scan, project.folder)[1] == "changed"


def test_dicom_is_found_by_series(shared_data, tmp_path):
    project = Project.create(tmp_path / "study")
    added = project.add([shared_data / "data" / "awkward" / "dicom_seg" / "24x38x3" / "image"])
    (case,) = added.cases
    assert (case.modality, case.scan.files) == ("CT", 3)
    assert case.scan.series
    assert read_scan(case.scan, project.folder).data.shape[0] == 3


def test_a_dicom_series_is_the_same_under_other_file_names(shared_data, tmp_path):
    copy = tmp_path / "image"
    shutil.copytree(shared_data / "data" / "awkward" / "dicom_seg" / "24x38x3" / "image", copy)
    project = Project.create(tmp_path / "study")
    (case,) = project.add([copy]).cases
    for number, path in enumerate(sorted(copy.iterdir(), reverse=True)):
        path.rename(copy / f"renamed{number}.dcm")
    assert locate(case.scan, project.folder)[1] == "here"


def test_the_same_scan_twice_becomes_one_case(project, scans, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    shutil.copy(scans / "case_0.nii.gz", other / "copy.nii.gz")
    added = project.add([other])
    assert added.cases == []
    assert "same scan as the case case_0" in added.left_out[0]


def test_cases_of_one_file_name_get_names_of_their_own(tmp_path):
    for patient in ("anna", "ben"):
        (tmp_path / patient).mkdir()
        write_image(tmp_path / patient / "ct.nii.gz", np.full((2, 4, 4), ord(patient[0]), np.int16))
    added = Project.create(tmp_path / "study").add([tmp_path / "anna", tmp_path / "ben"])
    assert [case.name for case in added.cases] == ["ct", "ben/ct"]


def test_a_project_and_its_scans_move_together(project, scans, tmp_path):
    (tmp_path / "disk").mkdir()
    scans.rename(tmp_path / "disk" / "scans")
    project.folder.rename(tmp_path / "disk" / "study")
    moved = Project.open(tmp_path / "disk" / "study")
    where, presence = locate(scan_of(moved, "case_0"), moved.folder)
    assert (where, presence) == (tmp_path / "disk" / "scans" / "case_0.nii.gz", "here")


def test_a_project_moves_alone(project, tmp_path):
    (tmp_path / "other" / "place").mkdir(parents=True)
    project.folder.rename(tmp_path / "other" / "place" / "study")
    moved = Project.open(tmp_path / "other" / "place" / "study")
    assert locate(scan_of(moved, "case_0"), moved.folder)[1] == "here"


def test_a_scan_that_moved_is_found_again_by_its_hash(project, scans, tmp_path):
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (scans / "case_1.nii.gz").rename(tmp_path / "new" / "deep" / "renamed.nii.gz")
    assert locate(scan_of(project, "case_1"), project.folder) == (None, "missing")
    with pytest.raises(FileProblem, match=r"not there any more.*project locate"):
        read_scan(scan_of(project, "case_1"), project.folder)
    (found,) = project.locate([tmp_path / "new"])
    assert found.name == "case_1"
    assert locate(scan_of(project, "case_1"), project.folder)[1] == "here"
    assert read_scan(scan_of(project, "case_1"), project.folder).data.shape == (5, 40, 36)


def test_a_scan_that_changed_is_said_and_not_read(project, scans):
    path = scans / "case_2.nii.gz"
    write_image(path, np.ones((5, 40, 36), np.int16))
    assert locate(scan_of(project, "case_2"), project.folder) == (path, "changed")
    with pytest.raises(VolumeError, match="was changed since it came into the project"):
        read_scan(scan_of(project, "case_2"), project.folder)


def test_a_scan_that_was_only_touched_or_copied_back_is_the_same(project, scans):
    os.utime(scans / "case_0.nii.gz", (0, 0))
    assert locate(scan_of(project, "case_0"), project.folder)[1] == "here"


def test_a_change_of_the_same_size_and_another_time_is_seen(project, scans):
    path = scans / "case_0.nii.gz"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert locate(scan_of(project, "case_0"), project.folder)[1] == "changed"


def test_nothing_of_a_project_becomes_its_scan(project, scans):
    with gzip.open(project.folder / "exports" / "ct.nii.gz", "wb") as file:
        file.write(b"x" * 400)
    found = find_scans([project.folder.parent])
    assert {scan.path.parent for scan in found.scans} == {scans}


def test_scans_are_never_written_to(project, scans):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in scans.iterdir()}
    case = project.cases()[0]
    project.exclude(case.id, "test")
    read_scan(case.scan, project.folder)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in scans.iterdir()} == before


def test_a_place_that_is_not_there_is_said(project, tmp_path):
    with pytest.raises(FileProblem, match="There is no file or folder"):
        project.add([tmp_path / "nowhere"])
