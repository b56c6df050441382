"""The command `convert`."""

from __future__ import annotations

import json

import numpy as np
import SimpleITK as sitk
import torch

from tests.commands import error_line


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


def test_convert_makes_a_safetensors_file_of_a_pth(run, checkpoint, tmp_path):
    from safetensors.torch import load_file

    weights = load_file(checkpoint)
    torch.save({"model": weights}, tmp_path / "weights.pth")

    assert run("convert", "weights.pth", "weights.safetensors").exit_code == 0

    again = load_file("weights.safetensors")
    assert set(again) == set(weights)
    assert all(torch.equal(again[key], weights[key]) for key in weights)
