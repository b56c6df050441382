"""The command `convert`."""

import json

import numpy as np
import pydicom
import SimpleITK as sitk
import torch

from napari_transunet.export.writing import ExportRequest, export
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from tests.commands import error_line
from tests.io.dicom.test_seg_writing import _series


def test_convert_keeps_values_and_grid(run, scan):
    result = run("convert", scan, "copy.nrrd")
    assert result.exit_code == 0
    assert result.stdout.strip() == "copy.nrrd"
    source, copy = sitk.ReadImage(str(scan)), sitk.ReadImage("copy.nrrd")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(copy), sitk.GetArrayFromImage(source))
    for get in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(copy, get)(), getattr(source, get)(), atol=1e-4)

    assert "--overwrite" in error_line(run("convert", scan, "copy.nrrd"))
    assert "same" not in run("convert", scan, "copy.nrrd", "--overwrite").stderr
    assert "both" in error_line(run("convert", scan, scan, "--overwrite"))
    assert ".nii.gz" in error_line(run("convert", scan, "copy.png"))


def test_convert_keeps_label_names(run, scan, checkpoint, tmp_path):
    assert run("segment", scan, "-o", "labels.seg.nrrd", "-c", checkpoint).exit_code == 0
    assert run("convert", "labels.seg.nrrd", "again.nii.gz").exit_code == 0
    names = [label["name"] for label in json.loads((tmp_path / "again.json").read_text())["labels"]]
    assert "liver" in names


def test_convert_keeps_what_made_labels(run, checkpoint, tmp_path):
    scan = _series(tmp_path / "ct")
    assert run("segment", "ct", "-o", "labels.seg.nrrd", "-c", checkpoint).exit_code == 0
    told = json.loads((tmp_path / "labels.json").read_text())["provenance"]
    for name in ("again.nii.gz", "last.nrrd"):
        assert run("convert", "labels.seg.nrrd", name).exit_code == 0
        assert json.loads((tmp_path / f"{name.split('.')[0]}.json").read_text())["provenance"] == told
    assert run("convert", "last.nrrd", "out.dcm", "--scan", "ct").exit_code == 0
    (segment,) = pydicom.dcmread("out.dcm").SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "organs"
    volume = read_volume("last.nrrd")
    file = sitk.ReadImage("last.nrrd")
    sitk.WriteImage(sitk.Not(file), "last.nrrd")  # by another program
    assert run("convert", "last.nrrd", "changed.nrrd").exit_code == 0
    assert "checkpoint" not in json.loads((tmp_path / "changed.json").read_text())["provenance"]
    assert volume.data.shape == scan.data.shape


def test_convert_makes_a_safetensors_file_of_a_pth(run, checkpoint, tmp_path):
    from safetensors.torch import load_file

    weights = load_file(checkpoint)
    torch.save({"model": weights}, tmp_path / "weights.pth")

    assert run("convert", "weights.pth", "weights.safetensors").exit_code == 0

    again = load_file("weights.safetensors")
    assert set(again) == set(weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)


def test_convert_twice_from_an_export_of_several_formats(run, tmp_path):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3] = 1
    geometry = Geometry((4, 5, 6), (2, 1, 1))
    export(
        labels, geometry, LabelSet.from_names({1: "liver"}), ExportRequest(tmp_path, "a", ("nifti", "nrrd"))
    )
    for _ in range(2):
        assert run("convert", "a.nii.gz", "b.nii.gz", "--overwrite").exit_code == 0
    assert "files" not in json.loads((tmp_path / "b.json").read_text())["provenance"]


def test_convert_makes_dicom_of_labels_that_refers_to_a_series_and_back(run, tmp_path):
    scan = _series(tmp_path / "ct")
    labels = np.zeros(scan.data.shape, np.uint8)
    labels[2:5, 2:6, 3:7] = 3
    write_labels(tmp_path / "labels.nrrd", labels, scan, {3: "liver"})

    for name in ("contours.rtstruct.dcm", "out.dcm"):
        assert "--scan" in error_line(run("convert", "labels.nrrd", name))
        assert run("convert", "labels.nrrd", name, "--scan", "ct").exit_code == 0
    result = run("convert", "contours.rtstruct.dcm", "back.nrrd")

    assert result.exit_code == 0
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "contours.rtstruct.dcm").rename(tmp_path / "far" / "away" / "contours.rtstruct.dcm")
    moved = run("convert", "far/away/contours.rtstruct.dcm", "again.dcm", "--scan", "ct")
    assert moved.exit_code == 0, moved.stderr
    assert np.array_equal(read_volume(tmp_path / "again.dcm").data, labels[2:5])
    back = read_volume(tmp_path / "back.nrrd")
    assert np.array_equal(back.data, labels)
    assert back.labels.names == {3: "liver"}
    assert pydicom.dcmread("out.dcm").Modality == "SEG"


def test_convert_puts_labels_without_their_empty_slices_onto_the_series(run, tmp_path):
    scan = _series(tmp_path / "ct")
    labels = np.zeros(scan.data.shape, np.uint8)
    labels[2:5, 2:6, 3:7] = 3
    write_labels(tmp_path / "labels.nrrd", labels, scan, {3: "liver"})
    assert run("convert", "labels.nrrd", "whole.dcm", "--scan", "ct").exit_code == 0
    part = read_volume(tmp_path / "whole.dcm")  # its empty slices are left out
    assert part.data.shape[0] == 3
    assert part.source.omits_background
    assert part.source.refers_to == (scan.source.series_uid,)
    result = run("convert", "whole.dcm", "again.dcm", "--scan", "ct")
    assert result.exit_code == 0, result.stderr
    assert "cover a part of the scan (slices 2 to 4 of 0 to 7 along z)" in result.stderr
    assert json.loads((tmp_path / "again.json").read_text())["provenance"]["coverage"] in result.stderr
    assert "coverage" not in json.loads((tmp_path / "whole.json").read_text())["provenance"]
    again = read_volume(tmp_path / "again.dcm")
    assert np.array_equal(again.data, part.data)
    assert again.geometry.matches(part.geometry)


def test_labels_of_one_slice_go_onto_a_series_however_thick_they_were_taken(run, tmp_path):
    scan = _series(tmp_path / "ct")
    labels = np.zeros(scan.data.shape, np.uint8)
    labels[4, 2:6, 3:7] = 3
    write_labels(tmp_path / "labels.nrrd", labels, scan, {3: "liver"})
    assert run("convert", "labels.nrrd", "seg.dcm", "--scan", "ct").exit_code == 0
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    del measures.SpacingBetweenSlices
    measures.SliceThickness = 7
    (tmp_path / "far").mkdir()
    dataset.save_as(tmp_path / "far" / "seg.dcm")

    assert run("convert", "far/seg.dcm", "alone.nrrd").exit_code == 0
    (note,) = json.loads((tmp_path / "alone.json").read_text())["provenance"]["reading_notes"]
    assert "7 mm" in note
    result = run("convert", "far/seg.dcm", "back.dcm", "--scan", "ct")
    assert result.exit_code == 0, result.stderr
    (measures,) = pydicom.dcmread("back.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SpacingBetweenSlices == scan.geometry.spacing[0]


def test_which_formats_leave_out_what_is_empty(run, scan, tmp_path):
    volume = read_volume(scan)
    labels = np.ones(volume.data.shape, np.uint8)
    for name, omits in (("a.seg.nrrd", True), ("d.nrrd", False), ("b.nii.gz", False), ("c.mha", False)):
        write_labels(tmp_path / name, labels, volume, {1: "liver"})
        assert read_volume(tmp_path / name).source.omits_background == omits, name
