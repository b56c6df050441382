"""Round trips through every format that can be written: values, type, grid; and a second reader's opinion."""

import gzip
import json
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from napari_transunet.errors import ExistsError, FileProblem, VolumeError
from napari_transunet.io.formats import FORMATS, Format, format_of
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import WRITABLE_SUFFIXES, write_labels, write_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import Label, LabelSet
from napari_transunet.volumes.volume import Source, Volume
from tests.io.samples import geometries, rotation

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "i8"]
quick = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _image(geometry: Geometry, dtype: str = "i2") -> Volume:
    values = np.random.default_rng(1).integers(0, 120, geometry.shape).astype(dtype)
    return Volume(values, geometry, "CT", Source(None, "test", "test"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@quick
@given(geometry=geometries(), dtype=st.sampled_from(TYPES))
def test_image_comes_back_on_the_same_grid(
    tmp_path: Path, suffix: str, geometry: Geometry, dtype: str
) -> None:
    volume = _image(geometry, dtype)
    path = write_volume(tmp_path / f"image{suffix}", volume, overwrite=True)
    again = read_volume(path)
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.data.dtype == volume.data.dtype
    assert again.geometry.matches(geometry, 0.01)
    assert again.geometry.axis_codes == geometry.axis_codes


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha"])
@quick
@given(geometry=geometries())
def test_itk_reads_labels_on_the_same_grid(tmp_path: Path, suffix: str, geometry: Geometry) -> None:
    labels = np.random.default_rng(2).integers(0, 4, geometry.shape).astype(np.uint8)
    path = write_labels(tmp_path / f"labels{suffix}", labels, geometry, overwrite=True)
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), labels)
    np.testing.assert_allclose(image.GetOrigin(), geometry.origin, atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), geometry.spacing_xyz, atol=1e-4)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), geometry.direction, atol=1e-4)


@quick
@given(geometry=geometries())
def test_nibabel_sees_the_same_matrix_in_sform_and_qform(tmp_path: Path, geometry: Geometry) -> None:
    image = nibabel.load(write_volume(tmp_path / "image.nii", _image(geometry), overwrite=True))
    np.testing.assert_allclose(image.header.get_sform(), geometry.affine_ras, atol=2e-4)
    # Near a half turn, three numbers of a quaternion in float32 tell the fourth to 6e-4 only.
    turn = geometry.affine_ras[:3, :3] / geometry.spacing_xyz
    turn[:, 2] *= np.sign(np.linalg.det(turn))
    half_turn = np.trace(turn) < -0.99
    loose = 2e-3 * max(geometry.spacing)
    np.testing.assert_allclose(
        image.header.get_qform(), geometry.affine_ras, atol=loose if half_turn else 2e-4
    )


@quick
@given(geometry=geometries())
def test_pynrrd_sees_the_same_space(tmp_path: Path, geometry: Geometry) -> None:
    volume = _image(geometry)
    values, header = nrrd.read(str(write_volume(tmp_path / "image.nrrd", volume, overwrite=True)))
    np.testing.assert_array_equal(values.T, volume.data)
    np.testing.assert_allclose(header["space origin"], geometry.origin, atol=1e-9)
    np.testing.assert_allclose(np.array(header["space directions"]).T, geometry.affine_lps[:3, :3], atol=1e-9)


@quick
@given(geometry=geometries())
def test_reads_what_nibabel_writes(tmp_path: Path, geometry: Geometry) -> None:
    values = np.random.default_rng(4).normal(size=geometry.shape).astype(np.float32)
    for kind, code in (
        (nibabel.Nifti1Image, "sform"),
        (nibabel.Nifti2Image, "qform"),
        (nibabel.Nifti1Pair, "sform"),
    ):
        image = kind(values.T, geometry.affine_ras)
        image.set_sform(geometry.affine_ras if code == "sform" else None, code=int(code == "sform"))
        try:
            image.set_qform(geometry.affine_ras, code=int(code == "qform"))
        except ValueError:  # rounding made the quaternion longer than one, and nibabel cannot read it again
            reject()
        path = tmp_path / ("pair.hdr" if kind is nibabel.Nifti1Pair else "one.nii.gz")
        nibabel.save(image, path)
        volume = read_volume(path)
        assert volume.geometry.matches(geometry, 0.01)
        np.testing.assert_array_equal(volume.data, values)
    np.testing.assert_array_equal(read_volume(tmp_path / "pair.img").data, values)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii.gz"])
@quick
@given(geometry=geometries(), dtype=st.sampled_from(["u1", "i2", "u2", "f4"]))
def test_reads_what_itk_writes(tmp_path: Path, suffix: str, geometry: Geometry, dtype: str) -> None:
    volume = _image(geometry, dtype)
    image = SimpleITK.GetImageFromArray(volume.data)
    image.SetOrigin(geometry.origin)
    image.SetSpacing(geometry.spacing_xyz)
    image.SetDirection(np.ravel(geometry.direction).tolist())
    for compress in (False, True):
        SimpleITK.WriteImage(image, str(tmp_path / f"itk{suffix}"), compress)
        again = read_volume(tmp_path / f"itk{suffix}")
        np.testing.assert_array_equal(again.data, volume.data)
        assert again.geometry.matches(geometry, 0.01)


def test_big_endian_files_come_in_native_order(tmp_path: Path) -> None:
    values = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    nibabel.save(
        nibabel.Nifti1Image(values.T, np.eye(4), nibabel.Nifti1Header(endianness=">")), tmp_path / "b.nii"
    )
    nrrd.write(str(tmp_path / "b.nrrd"), values.T, {"endian": "big", "encoding": "raw"})
    header = "NDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\nElementByteOrderMSB = True\n"
    header += "ElementDataFile = LOCAL\n"
    (tmp_path / "b.mha").write_bytes(b"ObjectType = Image\n" + header.encode() + values.tobytes())
    np.save(tmp_path / "b.npy", values)
    for name in ("b.nii", "b.nrrd", "b.mha", "b.npy"):
        data = read_volume(tmp_path / name).data
        assert data.dtype.isnative, name
        np.testing.assert_array_equal(data, values, err_msg=name)


def test_nifti_scaling_stays_integer_where_exact(tmp_path: Path) -> None:
    stored = np.array([[[0, 1000, 4095]]], np.uint16)
    for slope, intercept, dtype in (
        (1, -1024, np.int16),
        (2, 0, np.int16),
        (0.5, 1, np.float32),
        (1, 0, np.uint16),
    ):
        image = nibabel.Nifti1Image(stored.T, np.eye(4))
        image.header.set_slope_inter(slope, intercept)
        path = tmp_path / "scaled.nii"
        nibabel.save(image, path)
        raw = bytearray(path.read_bytes())
        raw[112:120] = np.array([slope, intercept], "<f4").tobytes()
        raw[352:] = stored.tobytes()
        path.write_bytes(raw)
        data = read_volume(path).data
        assert data.dtype == dtype
        np.testing.assert_array_equal(data, stored * float(slope) + intercept)


def test_nifti_units_are_heard(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([0.002, 0.003, 0.004, 1]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "metres.nii")
    assert read_volume(tmp_path / "metres.nii").geometry.spacing == pytest.approx((4, 3, 2), abs=1e-6)


def test_slightly_sheared_sform_falls_back_on_a_qform_that_agrees(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    sheared = np.eye(4)
    sheared[0, 1] = 0.01
    image.set_qform(np.eye(4), code=1)
    image.set_sform(sheared, code=1)
    nibabel.save(image, tmp_path / "s.nii")
    volume = read_volume(tmp_path / "s.nii")
    assert "qform was used" in " ".join(volume.source.notes)
    image.set_qform(None, code=0)
    sheared[0, 1] = 0.4
    image.set_sform(sheared, code=1)
    nibabel.save(image, tmp_path / "t.nii")
    with pytest.raises(VolumeError, match="sheared"):
        read_volume(tmp_path / "t.nii")


def test_long_axes_are_written_as_nifti_2(tmp_path: Path) -> None:
    geometry = Geometry(
        (1, 2, 40000), (1, 2, 0.5), (5, 6, 7), tuple(map(tuple, rotation((0.3, 0.2, 0.1)).tolist()))
    )
    volume = _image(geometry, "u1")
    path = write_volume(tmp_path / "long.nii.gz", volume)
    assert isinstance(nibabel.load(path), nibabel.Nifti2Image)
    np.testing.assert_allclose(nibabel.load(path).affine, geometry.affine_ras, atol=1e-6)
    assert read_volume(path).geometry.matches(geometry, 0.001)


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_labels_keep_names_colours_and_provenance(tmp_path: Path, suffix: str) -> None:
    geometry = Geometry((3, 4, 5), (2.5, 0.7, 0.8), (-10, 20, 30.5))
    labels = np.zeros(geometry.shape, np.int64)
    labels[1, 1:3, 1:4], labels[2, 0, 0] = 2, 7
    names = LabelSet((Label(2, "liver", (0.5, 0.25, 0.125), "10200004"), Label(7, "Milz\nzwei", (0, 1, 0))))
    provenance = {"checkpoint_sha256": "ab" * 32, "variant": "R50-ViT-B_16", "slices": np.int64(3)}
    path = write_labels(tmp_path / f"labels{suffix}", labels, geometry, names, provenance=provenance)
    beside = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert beside["file"] == path.name
    assert beside["provenance"]["checkpoint_sha256"] == "ab" * 32
    assert beside["provenance"]["slices"] == 3
    assert [entry["voxels"] for entry in beside["labels"]] == [6, 1]
    np.testing.assert_allclose(beside["grid"]["spacing_zyx_mm"], geometry.spacing)
    again = read_volume(path)
    assert again.data.dtype == np.uint8
    assert again.labels is not None
    assert again.labels.names == names.names
    assert again.labels.colors[2] == pytest.approx((0.5, 0.25, 0.125), abs=1 / 255)
    if suffix in (".nii", ".nii.gz"):
        header = nibabel.load(path).header
        assert b"abababababab" in header["descrip"].tobytes()
        assert b"R50-ViT-B_16" in header["descrip"].tobytes()
    else:
        assert b"ab" * 32 in path.read_bytes()[:6000]
    (tmp_path / "labels.json").unlink()
    alone = read_volume(path).labels  # the header alone names them
    assert alone is not None
    assert alone.names[2] == "liver"


def test_slicer_segments_have_the_keys_that_slicer_reads(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1] = 4
    path = write_labels(tmp_path / "a.seg.nrrd", labels, Geometry((3, 4, 5), (1, 1, 1)), {4: "spleen"})
    _, header = nrrd.read(str(path))
    expected = {"ID": "Segment_4", "Name": "spleen", "LabelValue": "4", "Layer": "0", "Extent": "0 4 0 3 0 2"}
    for key, value in expected.items():
        assert header[f"Segment0_{key}"] == value
    assert [float(part) for part in header["Segment0_Color"].split()] == pytest.approx(
        (142 / 255, 75 / 255, 156 / 255), abs=1e-5
    )
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["space"] == "left-posterior-superior"


def test_values_without_a_name_get_one(tmp_path: Path) -> None:
    labels = np.array([[[0, 1, 300]]])
    path = write_labels(tmp_path / "a.nii.gz", labels, Geometry((1, 1, 3), (1, 1, 1)), {1: "spleen"})
    again = read_volume(path)
    assert again.data.dtype == np.uint16
    assert again.labels is not None
    assert again.labels.names == {1: "spleen", 300: "label 300"}


@pytest.mark.parametrize("taken", ["labels.nii.gz", "labels.json"])
def test_nothing_is_replaced_unasked(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    geometry = Geometry((1, 2, 2), (1, 1, 1))
    with pytest.raises(ExistsError, match=taken):
        write_labels(tmp_path / "labels.nii.gz", np.zeros((1, 2, 2), np.uint8), geometry)
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"
    (tmp_path / taken).unlink()
    for _ in range(2):
        write_labels(tmp_path / "labels.nii.gz", np.zeros((1, 2, 2), np.uint8), geometry, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json", "labels.nii.gz"]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\), but the volume has \(1, 2, 2\)"),
        (np.full((1, 2, 2), -1), "from 0 to 65535"),
        (np.full((1, 2, 2), 70000), "from 0 to 65535"),
        (np.full((1, 2, 2), 0.5), "whole numbers"),
        (np.full((1, 2, 2), np.nan), "whole numbers"),
        (np.full((1, 2, 2), 1j), "whole numbers"),
    ],
)
def test_refuses_what_are_no_labels(tmp_path: Path, labels: np.ndarray, why: str) -> None:
    with pytest.raises(VolumeError, match=why):
        write_labels(tmp_path / "labels.nii.gz", labels, Geometry((1, 2, 2), (1, 1, 1)))
    assert not list(tmp_path.iterdir())


def test_refuses_unknown_suffixes_and_missing_folders(tmp_path: Path) -> None:
    labels, geometry = np.zeros((1, 2, 2), np.uint8), Geometry((1, 2, 2), (1, 1, 1))
    for name in ("labels.png", "labels", ".nii.gz"):
        with pytest.raises(VolumeError, match="cannot be written"):
            write_labels(tmp_path / name, labels, geometry)
    with pytest.raises(FileProblem, match="Cannot write"):
        write_labels(tmp_path / "nowhere" / "labels.nii.gz", labels, geometry)


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        write_labels(tmp_path / "a.nii.gz", np.zeros((1, 2, 2), np.uint8), Geometry((1, 2, 2), (1, 1, 1)))
    assert not list(tmp_path.iterdir())


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    labels, geometry = np.ones((2, 3, 4), np.uint8), Geometry((2, 3, 4), (1, 1, 1))
    for suffix in WRITABLE_SUFFIXES:
        first = write_labels(
            tmp_path / f"labels of {suffix[1:]}{suffix}", labels, geometry, overwrite=True
        ).read_bytes()
        assert (
            write_labels(
                tmp_path / f"labels of {suffix[1:]}{suffix}", labels, geometry, overwrite=True
            ).read_bytes()
            == first
        )


def test_a_sidecar_that_is_not_ours_or_broken_is_no_obstacle(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "ct.nii.gz", _image(Geometry((2, 2, 2), (1, 1, 1))))
    (tmp_path / "ct.json").write_text('{"Modality": "CT", "labels": [{"value": 1}]}')
    volume = read_volume(path)
    assert volume.modality == "CT"
    assert volume.labels is None
    for text in (
        "{",
        "[1]",
        '{"format": "napari-transunet labels", "file": "ct.nii.gz", "labels": [{"value": "x"}]}',
    ):
        (tmp_path / "ct.json").write_text(text)
        assert read_volume(path).labels is None


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
def test_every_suffix_leads_to_its_own_format(tmp_path: Path, entry: Format) -> None:
    for suffix in entry.suffixes:
        assert format_of(tmp_path / f"a.b{suffix.upper()}") is entry


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (bytes(128) + b"DICM", "DICOM"),
        (b"NRRD0004\n", "NRRD"),
        (b"ObjectType = Image\n", "MetaImage"),
        (b"?", None),
        (b"", None),
    ],
)
def test_without_a_known_suffix_the_content_tells(tmp_path: Path, start: bytes, name: str | None) -> None:
    (tmp_path / "a.image").write_bytes(start)
    found = format_of(tmp_path / "a.image")
    assert (found.name if found else None) == name


def test_a_file_of_no_format_is_told_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.image").write_bytes(b"?")
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path / "a.image")
    assert all(entry.name in str(caught.value) for entry in FORMATS)
