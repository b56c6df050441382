"""Measures against SimpleITK's own statistics, and what a table says."""

import csv
import io
import math

import numpy as np
import pytest
import SimpleITK as sitk

from napari_transunet.errors import ExistsError, InputError, VolumeError
from napari_transunet.metrics.region_properties import as_csv, measure, write_measures
from napari_transunet.volumes.geometry import Geometry

SHAPE = (30, 36, 40)
ANGLE = math.radians(20)
OBLIQUE = (
    (math.cos(ANGLE), -math.sin(ANGLE), 0.0),
    (math.sin(ANGLE), math.cos(ANGLE), 0.0),
    (0.0, 0.0, 1.0),
)
GEOMETRY = Geometry(SHAPE, (2.5, 0.9, 0.8), (5.0, -7.0, 9.0), OBLIQUE)
NAMES = {1: "liver", 2: "spleen", 7: "pancreas"}


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:30, :36, :40]
    labels = np.zeros(SHAPE, np.uint8)
    labels[((z - 15) / 9) ** 2 + ((y - 14) / 10) ** 2 + ((x - 16) / 12) ** 2 < 1] = 1
    labels[20:25, 25:33, 28:38] = 2
    labels[2, 2, 2:5] = 2  # a second part
    return labels, rng.normal(50, 20, SHAPE).astype(np.float32)


def test_numbers_are_those_of_simpleitk(scene):
    labels, image = scene
    found = {organ.value: organ for organ in measure(labels, GEOMETRY, NAMES, image=image)}
    itk = sitk.GetImageFromArray(labels)
    itk.SetSpacing(GEOMETRY.spacing[::-1])
    itk.SetOrigin(GEOMETRY.origin)
    itk.SetDirection(np.ravel(OBLIQUE).tolist())
    values = sitk.GetImageFromArray(image)
    values.CopyInformation(itk)
    shape, intensity = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelIntensityStatisticsImageFilter()
    shape.Execute(itk)
    intensity.Execute(itk, values)
    for value in (1, 2):
        organ = found[value]
        assert organ.voxels == shape.GetNumberOfPixels(value)
        assert organ.volume_ml == pytest.approx(shape.GetPhysicalSize(value) / 1000)
        assert organ.surface_mm2 == pytest.approx(shape.GetPerimeter(value), rel=1e-6)
        assert organ.mean == pytest.approx(intensity.GetMean(value), abs=1e-4)
        n = organ.voxels
        assert organ.sd == pytest.approx(
            intensity.GetStandardDeviation(value) * math.sqrt((n - 1) / n), abs=1e-3
        )
        _, _, z, nx, ny, nz = shape.GetBoundingBox(value)
        assert organ.extent_mm == pytest.approx((nz * 2.5, ny * 0.9, nx * 0.8))
        assert (organ.first_slice, organ.last_slice) == (z, z + nz - 1)
        assert labels[organ.centre] == value
    centroid = shape.GetCentroid(1)
    at = itk.TransformContinuousIndexToPhysicalPoint([float(v) for v in reversed(found[1].centre)])
    assert np.linalg.norm(np.subtract(at, centroid)) < 2.5
    assert found[1].components == 1
    assert found[2].components == 2
    assert found[2].slices == 6
    assert found[7].voxels == 0
    assert found[7].centre is None


def test_the_surface_of_a_sphere_is_right_to_two_per_cent():
    z, y, x = np.ogrid[:50, :100, :100]
    radius = 38.0
    ball = ((z - 25) * 2.0) ** 2 + (y - 50.0) ** 2 + (x - 50.0) ** 2 < radius**2
    geometry = Geometry(ball.shape, (2.0, 1.0, 1.0))
    organ = measure(ball.astype(np.uint8), geometry, {})[0]
    assert organ.surface_mm2 == pytest.approx(4 * math.pi * radius**2, rel=0.02)
    assert organ.volume_ml == pytest.approx(4 / 3 * math.pi * radius**3 / 1000, rel=0.01)


def test_the_share_by_hand_and_what_is_unknown(scene):
    labels, _ = scene
    hand = np.zeros(SHAPE, bool)
    hand[20:25, 25:33, 28:33] = True
    organs = {organ.value: organ for organ in measure(labels, GEOMETRY, {}, by_hand=hand)}
    assert organs[2].by_hand == pytest.approx(200 / 403)
    assert organs[1].by_hand == 0
    assert math.isnan(organs[1].mean)
    assert math.isnan(measure(labels, GEOMETRY, {})[0].by_hand)
    with pytest.raises(InputError, match="shape"):
        measure(labels[:5], GEOMETRY, {})


def test_a_table_is_written_for_other_programs(scene, tmp_path):
    labels, image = scene
    measures = measure(labels, GEOMETRY, {1: 'liver, "big"', 7: "pancreas"}, image=image)
    rows = list(csv.DictReader(io.StringIO(as_csv(measures))))
    assert [row["name"] for row in rows] == ['liver, "big"', "label 2", "pancreas"]
    assert float(rows[0]["volume_ml"]) == pytest.approx(measures[0].volume_ml, rel=1e-5)
    assert float(rows[0]["extent_z_mm"]) == pytest.approx(measures[0].extent_mm[0], rel=1e-5)
    assert rows[0]["share_by_hand"] == rows[2]["mean"] == ""
    path = write_measures(tmp_path / "m.csv", measures)
    assert path.read_text("utf-8") == as_csv(measures)
    with pytest.raises(ExistsError):
        write_measures(path, measures)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_name_is_no_formula_of_a_spreadsheet(name: str) -> None:
    labels = np.ones((1, 2, 3), np.uint8)
    (measured,) = measure(labels, Geometry.default(labels.shape), {1: name})
    (row,) = csv.DictReader(io.StringIO(as_csv([measured]), newline=""))
    assert row["name"] == "'" + name.replace("\r", "\n")
    assert float(row["voxels"]) == 6


def test_voxels_without_a_number_are_left_out_and_counted():
    labels = np.ones((2, 3, 4), np.uint8)
    labels[1] = 2
    image = np.arange(24, dtype=np.float32).reshape(labels.shape)
    image[0, 0, :2] = np.nan, np.inf
    image[1] = np.nan
    first, second = measure(labels, Geometry.default(labels.shape), {}, image=image)
    known = image[0][np.isfinite(image[0])]
    assert (first.voxels, first.without_value) == (12, 2)
    assert first.mean == pytest.approx(known.mean())
    assert first.sd == pytest.approx(known.std())
    assert second.without_value == 12
    assert math.isnan(second.mean)
    assert math.isnan(second.sd)
    row = next(csv.DictReader(io.StringIO(as_csv([first]))))
    assert row["voxels_without_value"] == "2"


@pytest.mark.parametrize("value", [-3, 70_000, 2**40])
def test_values_that_no_label_can_have_are_refused(value: int) -> None:
    labels = np.zeros((2, 3, 4), np.int64)
    labels[0, 0, 0] = value
    with pytest.raises(VolumeError, match=str(value)):
        measure(labels, Geometry.default(labels.shape), {})
