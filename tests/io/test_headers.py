"""Numbers and units in headers: what is converted, assumed and said, or refused by name. Never taken in silence."""

import bz2
import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from napari_transunet.errors import VolumeError
from napari_transunet.io.metaimage import write_metaimage
from napari_transunet.io.nifti import write_nifti
from napari_transunet.io.nrrd import write_nrrd
from napari_transunet.io.reading import read_volume
from napari_transunet.io.units import is_unsaid, millimetres
from napari_transunet.io.writing import LABELS_KEY, write_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume

DATA = np.arange(-1000, -1000 + 60, dtype=np.int16).reshape(3, 4, 5)
NRRD = (
    "NRRD0005\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n"
    "space: left-posterior-superior\nspace directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)\nspace origin: (1,2,3)\n"
)
BARE_NRRD = "NRRD0005\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n"
META = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\n"


def nrrd(folder: Path, more: str, *, base: str = NRRD, data: bytes = DATA.tobytes(), name: str = "a") -> Path:
    """A file in which lines of `more` take the place of lines of `base` for the same field."""
    path = folder / f"{name}.nrrd"
    given = [line.partition(":")[0] for line in more.splitlines()]
    kept = [line for line in base.splitlines(keepends=True) if line.partition(":")[0] not in given]
    path.write_bytes(f"{''.join(kept)}{more}\n".encode() + data)
    return path


def meta(folder: Path, more: str, data: bytes = DATA.tobytes()) -> Path:
    path = folder / "a.mha"
    path.write_bytes(f"{META}{more}ElementDataFile = LOCAL\n".encode() + data)
    return path


def notes(volume: Volume) -> str:
    return " ".join(volume.source.notes)


@pytest.mark.parametrize(
    ("unit", "size"),
    [("mm", 1), ("MM", 1), (" mm. ", 1), ("Millimeters", 1), ("millimetre", 1), ("cm", 10), ("m", 1000),
     ("metres", 1000), ("um", 1e-3), ("µm", 1e-3), ("μm", 1e-3), ("\\u00B5m", 1e-3), ("Microns", 1e-3),
     ("nm", 1e-6), ("inches", 25.4), ("inch", 25.4), ("Å", 1e-7), ("Mm", None), ("Pm", None), ("foo", None),
     ("s", None), ("", None), ("pixel", None)],
)  # fmt: skip
def test_units_of_length(unit: str, size: float | None) -> None:
    assert millimetres(unit) == (None if size is None else pytest.approx(size))


def test_units_that_say_nothing() -> None:
    assert all(map(is_unsaid, ("", "pixels", "Unknown", "???", "voxel")))
    assert not any(map(is_unsaid, ("foo", "parsec", "s")))


class TestNrrd:
    @pytest.mark.parametrize("skip", [0, 7])
    @pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
    def test_a_byte_skip_of_minus_one_is_the_end_of_the_data(
        self, tmp_path: Path, encoding: str, skip: int
    ) -> None:
        pack = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}[encoding]
        (tmp_path / "a.raw").write_bytes(pack(b"Z" * skip + DATA.tobytes()))
        header = (
            NRRD.replace("encoding: raw", f"encoding: {encoding}") + "byte skip: -1\ndata file: ./a.raw\n"
        )
        (tmp_path / "a.nhdr").write_text(header)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nhdr").data, DATA)

    @pytest.mark.parametrize(
        ("line", "why"),
        [("byte skip: -2\n", "skips"), ("line skip: -1\n", "skips"), ("byte skip: 1.5\n", "whole number"),
         ("byte skip: much\n", "whole number"), ("encoding: hex\nbyte skip: -1\n", "skips"),
         ("encoding: gzip\nbyte skip: 2000000000\n", "skips"), ("byte skip: " + "9" * 400 + "\n", "whole number")],
    )  # fmt: skip
    def test_other_skips_are_refused(self, tmp_path: Path, line: str, why: str) -> None:
        with pytest.raises(VolumeError, match=why):
            read_volume(nrrd(tmp_path, line))

    @pytest.mark.parametrize("more", ["", "spacings: 1 1 1\n", "axis mins: 0 0 0\naxis maxs: 1 1 1\n"])
    def test_sizes_that_no_number_of_bytes_holds_are_refused(self, tmp_path: Path, more: str) -> None:
        base = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {'9' * 400} 9 7\nencoding: raw\nendian: little\n"
        with pytest.raises(VolumeError, match="sizes"):
            read_volume(nrrd(tmp_path, more, base=base))

    def test_a_short_skip_within_compressed_data(self, tmp_path: Path) -> None:
        base = NRRD.replace("raw", "gzip")
        for skip, padding in ((10, b"Z" * 10), (-1, b"Z" * 10)):
            data = gzip.compress(padding + DATA.tobytes())
            path = nrrd(tmp_path, f"byte skip: {skip}\n", base=base, data=data)
            np.testing.assert_array_equal(read_volume(path).data, DATA)
        with pytest.raises(VolumeError, match="truncated"):
            read_volume(nrrd(tmp_path, "byte skip: -1\n", base=base, data=gzip.compress(b"short")))

    @pytest.mark.parametrize("unit", ["µm", "μm", "micrometer", "um"])
    def test_space_units_are_converted(self, tmp_path: Path, unit: str) -> None:
        volume = read_volume(nrrd(tmp_path, f'space units: "{unit}" "{unit}" "{unit}"\n'))
        assert volume.geometry.spacing == pytest.approx((2.5e-3, 0.8e-3, 0.7e-3))
        assert volume.geometry.origin == pytest.approx((1e-3, 2e-3, 3e-3))

    def test_a_missing_origin_is_said(self, tmp_path: Path) -> None:
        assert notes(read_volume(nrrd(tmp_path, ""))) == ""
        bare = NRRD.replace(next(line for line in NRRD.splitlines() if "origin" in line) + "\n", "")
        assert "origin" in notes(read_volume(nrrd(tmp_path, "", base=bare)))

    def test_latin_1_is_read_too(self, tmp_path: Path) -> None:
        path = tmp_path / "a.nrrd"
        path.write_bytes(f'{NRRD}space units: "µm" "µm" "µm"\n\n'.encode("latin-1") + DATA.tobytes())
        assert read_volume(path).geometry.spacing == pytest.approx((2.5e-3, 0.8e-3, 0.7e-3))

    def test_units_hold_axis_by_axis(self, tmp_path: Path) -> None:
        volume = read_volume(nrrd(tmp_path, 'space units: "mm" "cm" "um"\n'))
        assert volume.geometry.spacing == pytest.approx((2.5e-3, 8, 0.7))
        bare = nrrd(tmp_path, 'spacings: 0.7 0.8 2.5\nunits: "mm" "cm" "um"\n', base=BARE_NRRD)
        assert read_volume(bare).geometry.spacing == pytest.approx((2.5e-3, 8, 0.7))

    def test_other_units_are_said_or_refused(self, tmp_path: Path) -> None:
        assert "'pixel'" in notes(read_volume(nrrd(tmp_path, 'space units: "pixel" "mm" "mm"\n')))
        for more, base in (
            ('space units: "mm" "foo" "mm"\n', NRRD),
            ('units: "foo" "mm" "mm"\nspacings: 1 1 1\n', BARE_NRRD),
            ('units: "um" "um" "um"\n', NRRD),
            ('space units: "mm" "mm"\n', NRRD),
        ):
            with pytest.raises(VolumeError, match="unit"):
                read_volume(nrrd(tmp_path, more, base=base))

    def test_absent_spacings_are_said_and_bad_ones_refused(self, tmp_path: Path) -> None:
        assert "no spacing along x, y, z" in notes(read_volume(nrrd(tmp_path, "", base=BARE_NRRD)))
        volume = read_volume(nrrd(tmp_path, "spacings: 2 2 NaN\n", base=BARE_NRRD))
        assert volume.geometry.spacing == (1, 2, 2)
        assert "no spacing along z" in notes(volume)
        for more in ("spacings: 1 1 inf\n", "spacings: 0 1 1\n", "spacings: 1 1 2,5x\n"):
            with pytest.raises(VolumeError):
                read_volume(nrrd(tmp_path, more, base=BARE_NRRD))
        with pytest.raises(VolumeError, match="space origin"):
            read_volume(nrrd(tmp_path, "space origin: (1,2,inf)\n"))

    @pytest.mark.parametrize("values", ["300", "-1", "1.5", "many"])
    def test_text_that_its_type_cannot_hold_is_refused(self, tmp_path: Path, values: str) -> None:
        base = BARE_NRRD.replace("short", "uchar").replace("raw", "text")
        path = nrrd(tmp_path, "", base=base, data=b"1 2,3\n" + b"7 " * 56 + values.encode())
        with pytest.raises(VolumeError, match="no such numbers"):
            read_volume(path)
        path = nrrd(tmp_path, "", base=base, data=b"1 2,3\n" + b"7 " * 56 + b"9")
        assert read_volume(path).data.ravel()[[0, 2, 58, 59]].tolist() == [1, 3, 7, 9]

    def test_what_a_header_says_twice(self, tmp_path: Path) -> None:
        assert "contradicts itself" in notes(read_volume(nrrd(tmp_path, "spacings: 7 7 7\n")))
        assert not notes(read_volume(nrrd(tmp_path, "spacings: 0.7 -0.8 2.5\n")))
        path = tmp_path / "a.nrrd"
        path.write_bytes(f"{NRRD}sizes: 4 5 3\n\n".encode() + DATA.tobytes())
        with pytest.raises(VolumeError, match="'sizes' twice"):
            read_volume(path)

    @pytest.mark.parametrize(("centers", "last"), [("", 5), ("centers: node node node\n", 4)])
    def test_spacings_may_be_given_by_the_ends_of_axes(self, tmp_path: Path, centers: str, last: int) -> None:
        more = f"axis mins: 0 0 0\naxis maxs: {0.7 * last} {0.8 * (last - 1)} {2.5 * (last - 2)}\n{centers}"
        assert read_volume(nrrd(tmp_path, more, base=BARE_NRRD)).geometry.spacing == pytest.approx(
            (2.5, 0.8, 0.7)
        )

    @pytest.mark.parametrize(
        ("space", "origin"), [("RAS", (-1, -2, 3)), ("LAS", (1, -2, 3)), ("LPS", (1, 2, 3))]
    )
    def test_an_origin_without_directions_lies_in_its_space(
        self, tmp_path: Path, space: str, origin: tuple[float, ...]
    ) -> None:
        more = f"spacings: 1 1 1\nspace: {space}\nspace origin: (1,2,3)\n"
        assert read_volume(nrrd(tmp_path, more, base=BARE_NRRD)).geometry.origin == origin

    @pytest.mark.parametrize(
        ("keys", "names", "left"),
        [({"0_ID": "a", "2_Name": "b", "2_LabelValue": "7"}, {1: "a", 7: "b"}, None),
         ({"1_Name": "a", "1_LabelValue": "3"}, {3: "a"}, None),
         ({"0_Name": "guessed", "1_Name": "given", "1_LabelValue": "1"}, {1: "given"}, "guessed"),
         ({"0_Name": "a", "0_LabelValue": "1", "1_Name": "b", "1_LabelValue": "1"}, {1: "a"}, "'b'"),
         ({"0_Name": "a", "0_LabelValue": "70000", "1_Name": "b", "1_LabelValue": "2"}, {2: "b"}, "'a'")],
    )  # fmt: skip
    def test_no_name_of_a_segment_is_lost_or_moved(
        self, tmp_path: Path, keys: dict[str, str], names: dict[int, str], left: str | None
    ) -> None:
        more = "".join(f"Segment{key}:={value}\n" for key, value in keys.items())
        volume = read_volume(nrrd(tmp_path, more))
        assert volume.labels is not None
        assert {label.value: label.name for label in volume.labels} == names
        assert (left in notes(volume)) if left else not notes(volume)

    def test_segments_of_old_versions_lie_in_layers_of_their_own(self, tmp_path: Path) -> None:
        more = (
            "dimension: 4\nsizes: 2 5 2 3\nkinds: list domain domain domain\n"
            "space directions: none (0.7,0,0) (0,0.8,0) (0,0,2.5)\nSegment0_Name:=liver\nSegment1_Name:=spleen\n"
        )
        for layer, name in enumerate(("liver", "spleen")):
            volume = read_volume(nrrd(tmp_path, more), channel=layer)
            assert volume.labels is not None
            assert [(label.value, label.name) for label in volume.labels] == [(1, name)]


class TestMetaImage:
    def test_a_scaling_of_values_is_said(self, tmp_path: Path) -> None:
        path = meta(
            tmp_path, "ElementToIntensityFunctionSlope = 2\nElementToIntensityFunctionOffset = -1000\n"
        )
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
        assert "ElementToIntensityFunctionSlope" in notes(volume)
        assert not any("scales" in note for note in read_volume(meta(tmp_path, "")).source.notes)

    def test_header_sizes_count_from_the_files_begin(self, tmp_path: Path) -> None:
        path = meta(tmp_path, "HeaderSize = -1\n", b"Z" * 9 + DATA.tobytes())
        np.testing.assert_array_equal(read_volume(path).data, DATA)
        size = len(f"{META}HeaderSize = 000\nElementDataFile = LOCAL\n") + 9
        path = meta(tmp_path, f"HeaderSize = {size:03d}\n", b"Z" * 9 + DATA.tobytes())
        np.testing.assert_array_equal(read_volume(path).data, DATA)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), DATA)

    @pytest.mark.parametrize(
        ("more", "why"),
        [("HeaderSize = -2\n", "HeaderSize"), ("HeaderSize = -1\nCompressedData = True\n", "HeaderSize"),
         ("HeaderSize = ten\n", "HeaderSize"), ("DistanceUnits = foo\n", "DistanceUnits"),
         ("ElementSpacing = 1 1 nan\n", "ElementSpacing"), ("ElementSpacing = 1 1 2,5\n", "ElementSpacing"),
         ("Offset = 1 2 x\n", "Offset"), ("BinaryDataByteOrderMSB = perhaps\n", "neither"),
         ("ElementNumberOfChannels = 0\n", "ElementNumberOfChannels"), ("DimSize = 5.5 4 3\n", "DimSize"),
         ("DimSize = 5 4 " + "9" * 400 + "\n", "DimSize"), ("NDims = 3.9\n", "NDims")],
    )  # fmt: skip
    def test_unreadable_fields_are_named(self, tmp_path: Path, more: str, why: str) -> None:
        with pytest.raises(VolumeError, match=why):
            read_volume(meta(tmp_path, more))

    @pytest.mark.parametrize(("unit", "size"), [("um", 1e-3), ("µm", 1e-3), ("cm", 10), ("mm", 1)])
    def test_distance_units(self, tmp_path: Path, unit: str, size: float) -> None:
        volume = read_volume(
            meta(tmp_path, f"ElementSpacing = 0.7 0.8 2.5\nOffset = 1 2 3\nDistanceUnits = {unit}\n")
        )
        assert volume.geometry.spacing == pytest.approx((2.5 * size, 0.8 * size, 0.7 * size))
        assert volume.geometry.origin == pytest.approx((size, 2 * size, 3 * size))

    def test_what_is_assumed_is_said(self, tmp_path: Path) -> None:
        assert "1 mm" in notes(read_volume(meta(tmp_path, "DistanceUnits = ?\n")))
        assert "'?'" in notes(read_volume(meta(tmp_path, "DistanceUnits = ?\n")))

    @pytest.mark.parametrize(
        ("more", "said"),
        [("", "says nothing about orientation"), ("AnatomicalOrientation = RAI\n", ""),
         ("AnatomicalOrientation = LPS\n", ""), ("AnatomicalOrientation = ???\nRotation = 1 0 0 0 1 0 0 0 1\n", ""),
         ("AnatomicalOrientation = LAS\n", "AnatomicalOrientation is LAS"),
         ("TransformMatrix = 0 1 0 -1 0 0 0 0 1\nAnatomicalOrientation = RAI\n", "is RAI"),
         ("TransformMatrix = 0 1 0 -1 0 0 0 0 1\nAnatomicalOrientation = ALI\n", ""),
         ("AnatomicalOrientation = RAI\nOffset = 1 2 3\nPosition = 4 5 6\n", "Offset was used, not its Position"),
         ("AnatomicalOrientation = RAI\nOffset = 1 2 3\nOrigin = 1 2  3\n", "")],
    )  # fmt: skip
    def test_what_a_header_says_of_directions_is_compared(self, tmp_path: Path, more: str, said: str) -> None:
        told = notes(read_volume(meta(tmp_path, f"ElementSpacing = 0.7 0.8 2.5\n{more}")))
        assert said in told if said else not told

    def test_a_rounded_matrix_is_read_and_said(self, tmp_path: Path) -> None:
        matrix = "0.978 -0.208 0.015 0.196 0.946 0.259 -0.068 -0.25 0.966"
        volume = read_volume(meta(tmp_path, f"ElementSpacing = 0.7 0.8 2.5\nTransformMatrix = {matrix}\n"))
        assert volume.geometry.spacing == pytest.approx((2.5, 0.8, 0.7), abs=3e-3)
        assert "rectangular grid" in notes(volume)
        with pytest.raises(VolumeError, match="length one"):
            read_volume(meta(tmp_path, "TransformMatrix = 2 0 0 0 1 0 0 0 1\n"))


class TestNifti:
    def write(self, path: Path, **changes: object) -> Path:
        image = nibabel.Nifti1Image(DATA.T, np.diag([-0.7, -0.8, 2.5, 1]))
        image.set_qform(image.affine, code=1)
        image.set_sform(image.affine, code=1)
        nibabel.save(image, path)
        raw = bytearray(path.read_bytes())
        header = np.frombuffer(raw, nibabel.nifti1.header_dtype, 1)
        for name, value in changes.items():
            header[name] = value
        path.write_bytes(raw)
        return path

    def test_sform_and_qform_that_differ(self, tmp_path: Path) -> None:
        assert read_volume(self.write(tmp_path / "a.nii")).source.notes == ()
        path = self.write(tmp_path / "a.nii", pixdim=[1, 0.5, 0.8, 2.5, 0, 0, 0, 0])
        volume = read_volume(path)
        assert volume.geometry.spacing == pytest.approx((2.5, 0.8, 0.7))
        assert "qform" in notes(volume)
        assert "0.5" in notes(volume)
        path = self.write(tmp_path / "a.nii", pixdim=[1, 0.5, 0.8, 2.5, 0, 0, 0, 0], qform_code=0)
        assert "pixdim" in notes(read_volume(path))
        path = self.write(tmp_path / "a.nii", qoffset_x=9)
        assert "mm elsewhere" in notes(read_volume(path))
        path = self.write(tmp_path / "a.nii", quatern_b=7)
        assert "qform was left aside" in notes(read_volume(path))

    @pytest.mark.parametrize(
        ("changes", "why"),
        [({"srow_x": np.nan}, "sform"), ({"sform_code": 0, "qoffset_x": np.inf}, "qoffset"),
         ({"sform_code": 0, "pixdim": np.nan}, "pixdim"),
         ({"sform_code": 0, "qform_code": 0, "pixdim": np.nan}, "pixdim"),
         ({"scl_slope": np.inf}, "scl_slope"), ({"scl_slope": 2, "scl_inter": np.nan}, "scl_inter")],
    )  # fmt: skip
    def test_unreadable_numbers_are_named(self, tmp_path: Path, changes: dict[str, object], why: str) -> None:
        with pytest.raises(VolumeError, match=why):
            read_volume(self.write(tmp_path / "a.nii", **changes))

    def test_absent_numbers_are_the_standards(self, tmp_path: Path) -> None:
        volume = read_volume(self.write(tmp_path / "a.nii", scl_slope=0, scl_inter=np.nan))
        np.testing.assert_array_equal(volume.data, DATA)
        assert not volume.source.notes
        volume = read_volume(self.write(tmp_path / "a.nii", scl_slope=np.nan, scl_inter=np.nan))
        np.testing.assert_array_equal(volume.data, DATA)
        assert "scl_slope" in notes(volume)
        changes = {"sform_code": 0, "qform_code": 0, "pixdim": [1, 0.7, 0, 2.5, 0, 0, 0, 0]}
        volume = read_volume(self.write(tmp_path / "a.nii", **changes))
        assert volume.geometry.spacing == pytest.approx((2.5, 1, 0.7))
        assert "voxel size along y" in notes(volume)

    @pytest.mark.parametrize(("code", "size"), [(0, 1), (1, 1000), (2, 1), (3, 1e-3), (10, 1)])
    def test_units(self, tmp_path: Path, code: int, size: float) -> None:
        volume = read_volume(self.write(tmp_path / "a.nii", xyzt_units=code))
        assert volume.geometry.spacing == pytest.approx((2.5 * size, 0.8 * size, 0.7 * size))
        assert not volume.source.notes
        assert "unit" in notes(read_volume(self.write(tmp_path / "a.nii", xyzt_units=5)))

    def test_an_empty_sform_and_signs_of_voxel_sizes(self, tmp_path: Path) -> None:
        right = read_volume(self.write(tmp_path / "a.nii")).geometry
        nothing = {f"srow_{axis}": 0 for axis in "xyz"}
        volume = read_volume(self.write(tmp_path / "a.nii", **nothing))
        assert volume.geometry.matches(right)
        assert "its qform was used" in notes(volume)
        changes = {"sform_code": 0, "pixdim": [1, -0.7, 0.8, 2.5, 0, 0, 0, 0]}
        volume = read_volume(self.write(tmp_path / "a.nii", **changes))
        assert volume.geometry.matches(right)
        assert "negative voxel sizes" in notes(volume)

    def test_a_sform_of_three_decimals(self, tmp_path: Path) -> None:
        angle = np.radians(9)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        affine = np.eye(4)
        affine[:3, :3] = np.round(turn @ tilt * 0.3, 3)
        image = nibabel.Nifti1Image(np.zeros((180, 180, 9), np.uint8), affine)
        image.set_qform(None, code=0)
        image.set_sform(affine, code=1)
        nibabel.save(image, tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        np.testing.assert_allclose(volume.geometry.spacing, 0.3, atol=1e-3)
        assert "rectangular grid" in notes(volume)


class TestTiff:
    def test_slices_written_one_by_one(self, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "loop.tif") as writer:
            for plane in DATA:
                writer.write(plane)
        for number, plane in enumerate(DATA):
            tifffile.imwrite(tmp_path / "append.tif", plane, append=number > 0)
        tifffile.imwrite(tmp_path / "blocks.tif", DATA[:2])
        tifffile.imwrite(tmp_path / "blocks.tif", DATA[2:], append=True)
        for name in ("loop", "append", "blocks"):
            volume = read_volume(tmp_path / f"{name}.tif")
            np.testing.assert_array_equal(volume.data, DATA)
            assert "slices" in notes(volume)

    def test_stacks_of_one_size_are_asked_about(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "two.tif", DATA, photometric="minisblack")
        tifffile.imwrite(tmp_path / "two.tif", DATA + 1, append=True, photometric="minisblack")
        with pytest.raises(VolumeError, match="time"):
            read_volume(tmp_path / "two.tif")
        np.testing.assert_array_equal(read_volume(tmp_path / "two.tif", time=1).data, DATA + 1)

    @pytest.mark.parametrize(
        ("size", "unit", "z"),
        [
            ("2.5", "mm", 2.5),
            ("2.5", "µm", 2.5e-3),
            ("2.5", "μm", 2.5e-3),
            ("2.5", None, 2.5e-3),
            ("2.5", "cm", 25),
        ],
    )
    def test_ome_units(self, tmp_path: Path, size: str, unit: str | None, z: float) -> None:
        assert read_volume(self.ome(tmp_path, size, unit)).geometry.spacing[0] == pytest.approx(z)

    def test_what_ome_leaves_open_is_said_and_nonsense_refused(self, tmp_path: Path) -> None:
        assert "along z" in notes(read_volume(self.ome(tmp_path, "2.5", "pixel")))
        for size, unit in (("2,5", "mm"), ("nan", "mm"), ("-1", "mm"), ("2.5", "foo")):
            with pytest.raises(VolumeError, match="PhysicalSizeZ"):
                read_volume(self.ome(tmp_path, size, unit))

    def ome(self, folder: Path, size: str, unit: str | None) -> Path:
        path = folder / "a.ome.tif"
        tifffile.imwrite(path, DATA, metadata={"axes": "ZYX", "PhysicalSizeX": 0.7, "PhysicalSizeY": 0.8})
        with tifffile.TiffFile(path) as file:
            xml = file.ome_metadata
        assert xml is not None
        more = f' PhysicalSizeZ="{size}"' + (f' PhysicalSizeZUnit="{unit}"' if unit else "")
        tifffile.tiffcomment(path, xml.replace("<Pixels ", f"<Pixels{more} ", 1).encode())
        return path

    def test_imagej_units(self, tmp_path: Path) -> None:
        for unit, size in (("micron", 1e-3), ("um", 1e-3), ("mm", 1), ("cm", 10)):
            path = tmp_path / "a.tif"
            tifffile.imwrite(
                path,
                DATA,
                imagej=True,
                resolution=(2, 4),
                metadata={"axes": "ZYX", "spacing": 3, "unit": unit},
            )
            assert read_volume(path).geometry.spacing == pytest.approx((3 * size, 0.25 * size, 0.5 * size))
        tifffile.imwrite(path, DATA, imagej=True, metadata={"axes": "ZYX", "spacing": 3, "unit": "foo"})
        assert "'foo'" in notes(read_volume(path))


OURS = '{"format": "napari-transunet labels", "file": "a.nii", "labels": %s}'


@pytest.mark.parametrize(
    "content",
    [
        OURS % '[{"value": Infinity, "name": "liver", "color": "#a8442f"}]',
        OURS % '[{"value": 1.5, "name": "liver", "color": "#a8442f"}]',
        OURS % "3",
        OURS % ("1" * 5000),
        "{",
        "[]",
        '{"Modality": 7}',
        "[" * 100_000,
    ],
)
def test_a_bad_sidecar_is_said_and_the_volume_read(tmp_path: Path, content: str) -> None:
    image = Volume(np.ones((2, 3, 4), np.uint8), Geometry.default((2, 3, 4)), None, Source(None, "", ""))
    path = write_volume(tmp_path / "a.nii", image)
    (tmp_path / "a.json").write_text(content)
    volume = read_volume(path)
    assert volume.data.all()
    assert volume.labels is None
    assert "a.json" in notes(volume)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_bad_names_in_a_header_are_said_and_the_volume_read(tmp_path: Path, suffix: str) -> None:
    bad = json.loads('{"value": Infinity, "name": "liver", "color": "#a8442f"}')
    keys = {LABELS_KEY: json.dumps([bad])}
    data, geometry = np.ones((2, 3, 4), np.uint8), Geometry.default((2, 3, 4))
    path = tmp_path / f"a{suffix}"
    if suffix == ".nii":
        write_nifti(path, data, geometry, comment=f"{LABELS_KEY} = {keys[LABELS_KEY]}")
    else:
        (write_nrrd if suffix == ".nrrd" else write_metaimage)(path, data, geometry, keys)
    volume = read_volume(path)
    assert volume.data.all()
    assert volume.labels is None
    assert "label names in the header" in notes(volume)


def test_a_volume_is_named_as_its_link_is(tmp_path: Path) -> None:
    """As git-annex and DVC keep large files: under their hashes, with links in their places."""
    (tmp_path / "store").mkdir()
    image = Volume(DATA, Geometry.default(DATA.shape), None, Source(None, "", ""))
    stored = write_volume(tmp_path / "store" / "MD5E-s9--abc.nii.gz", image)
    link = tmp_path / "patient01.nii.gz"
    link.symlink_to(stored)
    assert read_volume(link).source.name == "patient01"
    (tmp_path / ".git" / "annex").mkdir(parents=True)
    (tmp_path / ".git" / "annex" / "key.raw").write_bytes(DATA.tobytes())
    (tmp_path / "b.raw").symlink_to(tmp_path / ".git" / "annex" / "key.raw")
    (tmp_path / "b.mhd").write_text(f"{META}ElementDataFile = b.raw\n")
    np.testing.assert_array_equal(read_volume(tmp_path / "b.mhd").data, DATA)


def test_a_sidecar_that_says_things_twice_is_said(tmp_path: Path) -> None:
    write_nifti(
        tmp_path / "a.nii", DATA, Geometry(DATA.shape, (1, 1, 1)), description="", labels=True, comment=""
    )
    (tmp_path / "a.json").write_text('{"Modality": "CT", "Modality": "MR"}')
    volume = read_volume(tmp_path / "a.nii")
    assert volume.modality is None
    assert "'Modality' twice" in notes(volume)


def labelled_in_xml(path: Path, code: int, rows: str) -> Path:
    image = nibabel.Nifti1Image(np.ones((4, 3, 2), np.uint8), np.eye(4))
    text = f'<?xml version="1.0" encoding="UTF-8"?> <CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>'
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, text.encode()))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("code", [0, 30])  # TotalSegmentator's, and Connectome Workbench's
def test_names_in_a_label_table_of_the_header_are_read(tmp_path: Path, code: int) -> None:
    rows = (
        '<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0">???</Label>\n'
        '<Label Key="1" Red="1.0" Green="0.0" Blue="0.0" Alpha="1"><![CDATA[kidney_right]]></Label>\n'
        '<Label Key="117" Red="0" Green="1" Blue="0" Alpha="1">a &amp; b</Label>'
    )
    found = read_volume(labelled_in_xml(tmp_path / "a.nii.gz", code, rows)).labels
    assert found is not None
    assert found.names == {1: "kidney_right", 117: "a & b"}


@pytest.mark.parametrize(
    "rows", ["", '<Label Key="0">x</Label>', '<Label Key="99999">x</Label>', "<Label Key=" * 5000]
)
def test_a_label_table_without_labels_is_none(tmp_path: Path, rows: str) -> None:
    assert read_volume(labelled_in_xml(tmp_path / "a.nii.gz", 0, rows)).labels is None
