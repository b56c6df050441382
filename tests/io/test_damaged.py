"""Hostile and damaged files: truncated anywhere, bits flipped, headers that lie. A sentence, never a crash."""

import gzip
import random
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tifffile

from napari_transunet.errors import FileProblem, SizeError, TransUNetError, VolumeError
from napari_transunet.io.dicom.rtstruct_writing import write_rtstruct
from napari_transunet.io.reading import SeveralVolumesError, is_readable, list_series, read_volume
from napari_transunet.io.writing import write_labels, write_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Volume
from tests.io.samples import ct_slice, enhanced, save, segmentation, series

GEOMETRY = Geometry((3, 8, 9), (2.0, 0.7, 0.8), (1, 2, 3))
VALUES = np.random.default_rng(0).integers(-1000, 1000, GEOMETRY.shape).astype(np.int16)


def _written(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        volume = Volume.from_array(VALUES)
        if suffix == ".seg.nrrd":
            return write_labels(folder / f"a{suffix}", np.abs(VALUES) % 3, GEOMETRY, {1: "liver"})
        return write_volume(folder / f"a{suffix}", volume)

    return make


def _npy(folder: Path) -> Path:
    np.save(folder / "a.npy", VALUES)
    return folder / "a.npy"


def _npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", image=VALUES)
    return folder / "a.npz"


def _h5(folder: Path) -> Path:
    with h5py.File(folder / "a.npy.h5", "w") as file:
        file["image"] = VALUES
    return folder / "a.npy.h5"


def _mgz(folder: Path) -> Path:
    nibabel.save(nibabel.MGHImage(VALUES.T, np.diag([-0.8, -0.7, 2.0, 1])), folder / "a.mgz")
    return folder / "a.mgz"


def _tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", VALUES, photometric="minisblack")
    return folder / "a.tif"


def _classic(folder: Path) -> Path:
    return save(ct_slice(VALUES[0].view(np.uint16), (0, 0, 0)), folder / "a.dcm")


def _multiframe(folder: Path) -> Path:
    return save(enhanced(VALUES.view(np.uint16), [0.0, 1.0, 2.0]), folder / "a.dcm")


def _segmentation(folder: Path) -> Path:
    return save(segmentation(VALUES > 0, [0.0, 1.0, 2.0], [1, 2, 1]), folder / "a.dcm")


def _structure_set(folder: Path) -> Path:
    more = {"StudyInstanceUID": "1.2.3.5", "FrameOfReferenceUID": "1.2.3.6"}
    series(folder / "ct", [0.0, 1.0, 2.0], **more)
    scan = read_volume(folder / "ct")
    (folder / "rs").mkdir()
    labels = (np.arange(60).reshape(scan.data.shape) % 7 == 0).astype(np.uint8)
    return write_rtstruct(
        folder / "rs" / "a.dcm", labels, scan.geometry, LabelSet.from_names({1: "liver"}), scan.source
    )


MAKERS = {
    "nii": _written(".nii"),
    "nii.gz": _written(".nii.gz"),
    "nrrd": _written(".nrrd"),
    "seg.nrrd": _written(".seg.nrrd"),
    "mha": _written(".mha"),
    "npy": _npy,
    "npz": _npz,
    "h5": _h5,
    "mgz": _mgz,
    "tiff": _tiff,
    "dicom": _classic,
    "dicom multiframe": _multiframe,
    "dicom segmentation": _segmentation,
    "dicom structure set": _structure_set,
}


def _try(path: Path) -> bool:
    """Whether the file can be read; anything but a volume or one sentence of ours is a failure of the test."""
    is_readable(path)
    list_series(path)
    problem: TransUNetError | None = None
    try:
        volume = read_volume(path, max_bytes=50_000_000)
    except TransUNetError as error:
        problem = error
    if problem is not None:
        assert isinstance(problem, VolumeError)
        assert "\n" not in str(problem)
        assert path.name in str(problem)
        return False
    assert volume.data.shape == volume.geometry.shape
    return True


@pytest.mark.parametrize("kind", MAKERS)
def test_truncated_anywhere(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path)
    whole = path.read_bytes()
    assert _try(path)
    lengths = {0, 1, 4, len(whole) // 2, len(whole) - 1}
    lengths |= set(random.Random(1).sample(range(len(whole)), min(60, len(whole))))
    read = 0
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        read += _try(path)
    # Formats may carry a few bytes at their end that no voxel needs, such as a checksum; no more than that.
    assert read <= len(lengths) // 8


@pytest.mark.parametrize("files", [30, pytest.param(120, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", MAKERS)
def test_bytes_changed_anywhere(tmp_path: Path, kind: str, files: int) -> None:
    path = MAKERS[kind](tmp_path)
    whole = path.read_bytes()
    dice = random.Random(2)
    for _ in range(files):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 1, 4, 16))):
            # Mostly in the header, where it hurts.
            damaged[dice.randrange(min(len(whole), dice.choice((64, 400, len(whole)))))] = dice.randrange(256)
        path.write_bytes(damaged)
        _try(path)


@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "seg.nrrd", "mha", "npz"])
def test_one_wrong_byte_in_compressed_voxels_is_noticed(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path)
    whole = path.read_bytes()
    place = whole.index(b"PK\x01\x02") - 20 if kind == "npz" else len(whole) - 20
    expected = read_volume(path).data
    refused = 0
    for offset in range(12):
        damaged = bytearray(whole)
        damaged[place + offset] ^= 0x10
        path.write_bytes(damaged)
        if _try(path):  # the last byte of the compressed stream has bits that mean nothing
            np.testing.assert_array_equal(read_volume(path).data, expected)
        else:
            refused += 1
    assert refused >= 10


def test_bytes_after_the_voxels_do_no_harm(tmp_path: Path) -> None:
    for kind in ("nii", "nii.gz", "nrrd", "mha"):
        path = MAKERS[kind](tmp_path)
        path.write_bytes(path.read_bytes() + b"\0 more")
        np.testing.assert_array_equal(read_volume(path).data, VALUES)


def test_nothing_empty_or_missing_or_foreign(tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").touch()
    with pytest.raises(VolumeError, match=r"empty\.nii\.gz: the file is empty"):
        read_volume(tmp_path / "empty.nii.gz")
    with pytest.raises(FileProblem, match="There is no file or folder"):
        read_volume(tmp_path / "nowhere.nii")
    (tmp_path / "letter.docx").write_text("Dear all")
    with pytest.raises(VolumeError, match="no format that can be read"):
        read_volume(tmp_path / "letter.docx")
    assert not is_readable(tmp_path / "letter.docx")
    assert not is_readable(tmp_path / "nowhere.nii")
    with pytest.raises(FileProblem, match="There is no file or folder"):
        list_series(tmp_path / "nowhere")


def _nifti_header(dim: tuple[int, ...], datatype: int = 4) -> bytearray:
    raw = bytearray(352)
    struct.pack_into("<i", raw, 0, 348)
    struct.pack_into("<8h", raw, 40, len(dim), *dim, *[1] * (7 - len(dim)))
    struct.pack_into("<h", raw, 70, datatype)
    struct.pack_into("<8f", raw, 76, *[1.0] * 8)
    struct.pack_into("<f", raw, 108, 352.0)
    raw[344:348] = b"n+1\0"
    return raw


def test_a_small_gzip_that_claims_terabytes(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(bytes(_nifti_header((30000, 30000, 30000))) + b"\0" * 100_000))
    with pytest.raises(SizeError, match="54 TB of memory"):
        read_volume(path)


def test_a_small_gzip_that_claims_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "short.nii.gz"
    path.write_bytes(gzip.compress(bytes(_nifti_header((2000, 2000, 200)))))
    with pytest.raises(VolumeError, match=r"promises 1\.6 GB of voxels, but the file ends early"):
        read_volume(path)


@pytest.mark.parametrize(
    ("dim", "datatype", "why"),
    [
        ((4, 4, 4, 3), 4, r"3 time points, not one volume; choose one with time \(0 to 2\)"),
        ((4, 4, 4, 1, 2), 4, "2 channels"),
        ((4, 4, 4, 1, 1, 2), 4, "up to five can be read"),
        ((4, 4, 4), 128, "RGB"),
        ((4, 4, 4), 32, "complex"),
        ((4, 4, 4), 77, "unknown type 77"),
        ((9,), 4, "one line of 9 values"),
        ((4, 0, 4), 4, "without voxels"),
        ((4, -4, 4), 4, "without voxels"),
    ],
)
def test_nifti_headers_that_are_no_volume(
    tmp_path: Path, dim: tuple[int, ...], datatype: int, why: str
) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(_nifti_header(dim, datatype)) + b"\0" * 4000)
    with pytest.raises(VolumeError, match=why):
        read_volume(path)


def test_a_time_point_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    values = np.arange(24, dtype=np.int16)
    path.write_bytes(bytes(_nifti_header((2, 2, 2, 3))) + values.tobytes())
    with pytest.raises(SeveralVolumesError) as caught:
        read_volume(path)
    several = caught.value
    assert (several.which, several.count, several.noun) == ("time", 3, "time point")
    again = read_volume(path, **{several.which: several.choice(1)})
    np.testing.assert_array_equal(again.data.ravel(), values[8:16])
    with pytest.raises(VolumeError, match="no time point 3"):
        read_volume(path, time=3)


def test_a_header_without_its_other_half(tmp_path: Path) -> None:
    raw = _nifti_header((2, 2, 2))
    raw[344:348] = b"ni1\0"
    (tmp_path / "a.hdr").write_bytes(raw)
    with pytest.raises(VolumeError, match=r"a\.img must lie in the same folder"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "b.img").write_bytes(b"\0" * 16)
    with pytest.raises(VolumeError, match=r"b\.hdr must lie in the same folder"):
        read_volume(tmp_path / "b.img")


@pytest.mark.parametrize(
    "name", ["../secret.raw", "/etc/passwd", "sub/a.raw", "..", "C:\\a.raw", "a%03d.raw 1 3 1", "LIST"]
)
def test_headers_may_name_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    folder = tmp_path / "in"
    folder.mkdir()
    nhdr = "NRRD0004\ntype: short\ndimension: 3\nsizes: 9 8 3\nencoding: raw\nendian: little\n"
    (folder / "a.nhdr").write_text(nhdr + f"data file: {name}\n")
    mhd = "ObjectType = Image\nNDims = 3\nDimSize = 9 8 3\nElementType = MET_SHORT\n"
    (folder / "a.mhd").write_text(mhd + f"ElementDataFile = {name}\n")
    for header in ("a.nhdr", "a.mhd"):
        with pytest.raises(VolumeError, match=r"same folder|several files"):
            read_volume(folder / header)
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    (folder / "a.mhd").write_text(mhd + "ElementDataFile = link.raw\n")
    with pytest.raises(VolumeError, match="link out of the folder"):
        read_volume(folder / "a.mhd")
    (folder / "a.raw").write_bytes(VALUES.tobytes())
    (folder / "a.mhd").write_text(mhd + "ElementDataFile = a.raw\n")
    np.testing.assert_array_equal(read_volume(folder / "a.mhd").data, VALUES)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("dimension: 4\nsizes: 3 9 8 3\nkinds: RGB-color domain domain domain\nspace: LPS\n", "colours"),
        ("dimension: 4\nsizes: 9 8 3 2\nkinds: domain domain domain time\n", "2 time points"),
        (
            "dimension: 3\nsizes: 9 8 3\nspace: scanner-xyz\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n",
            "its space is",
        ),
        ("dimension: 3\nsizes: 9 8 3\nspace: LPS\nspace directions: (1,0,0) (0.5,1,0) (0,0,1)\n", "sheared"),
        ("dimension: 3\nsizes: 9 8 3\nspace: LPS\nspace directions: (1,0,0) (0,1,0)\n", "more or fewer axes"),
        ("dimension: 3\nsizes: 9 8\n", "3 dimensions and the sizes"),
        ("dimension: 3\nsizes: 9 eight 3\n", "readable 'sizes'"),
        ("sizes: 9 8 3\n", "readable 'dimension'"),
    ],
)
def test_nrrd_headers_that_are_no_volume(tmp_path: Path, fields: str, why: str) -> None:
    path = tmp_path / "a.nrrd"
    head = f"NRRD0004\ntype: short\nencoding: raw\nendian: little\n{fields}\n"
    path.write_bytes(head.encode() + b"\0" * 4000)
    with pytest.raises(VolumeError, match=why):
        read_volume(path)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (-1, -1, 1)), ("LAS", (1, -1, 1)), ("LPS", (1, 1, 1))])
def test_nrrd_spaces(tmp_path: Path, space: str, signs: tuple[int, int, int]) -> None:
    head = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 9 8 3\nencoding: raw\nendian: little\n"
        f"space: {space}\nspace directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (10,20,30)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(head.encode() + VALUES.tobytes())
    volume = read_volume(tmp_path / "a.nrrd")
    np.testing.assert_allclose(volume.geometry.origin, np.multiply(signs, (10, 20, 30)))
    np.testing.assert_allclose(np.diag(volume.geometry.affine_lps)[:3], np.multiply(signs, (1, 2, 3)))
    np.testing.assert_array_equal(volume.data, VALUES)


@pytest.mark.parametrize("encoding", ["ascii", "hex", "bzip2"])
def test_nrrd_encodings(tmp_path: Path, encoding: str) -> None:
    import bz2

    packed = {
        "ascii": " ".join(map(str, VALUES.ravel())).encode(),
        "hex": VALUES.tobytes().hex().encode(),
        "bzip2": bz2.compress(VALUES.tobytes()),
    }[encoding]
    head = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 9 8 3\nencoding: {encoding}\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(head.encode() + packed)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd").data, VALUES)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ("NDims = 3\nDimSize = 9 8 3\nElementType = MET_SHORT\nElementNumberOfChannels = 2\n", "2 channels"),
        ("NDims = 3\nDimSize = 9 8 1\nElementType = MET_UCHAR\nElementNumberOfChannels = 3\n", "colours"),
        ("NDims = 4\nDimSize = 9 8 3 2\nElementType = MET_UCHAR\n", "2 time points"),
        ("NDims = 3\nDimSize = 9 8\nElementType = MET_SHORT\n", "DimSize should be 3 whole numbers"),
        ("NDims = 3\nDimSize = 9 8 3\nElementType = MET_STRING\n", "MET_STRING"),
        (
            "NDims = 3\nDimSize = 9 8 3\nElementType = MET_SHORT\nTransformMatrix = 1 0 0 0.5 1 0 0 0 1\n",
            "axes",
        ),
    ],
)
def test_metaimage_headers_that_are_no_volume(tmp_path: Path, fields: str, why: str) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(f"ObjectType = Image\n{fields}ElementDataFile = LOCAL\n".encode() + b"\0" * 4000)
    with pytest.raises(VolumeError, match=why):
        read_volume(path)


def test_numbers_that_are_lists_are_damage(tmp_path: Path) -> None:
    import pydicom

    path = MAKERS["dicom"](tmp_path)
    dataset = pydicom.dcmread(path)
    for name in ("BitsAllocated", "PixelRepresentation"):
        kept = dataset[name].value
        dataset[name].value = [16, 16]
        dataset.save_as(path)
        with pytest.raises(VolumeError):
            read_volume(path)
        dataset[name].value = kept
