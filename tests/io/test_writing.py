"""What is written about labels: headers that every reader can open, the JSON file beside, and who may replace it."""

import json
import os
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from napari_transunet.errors import ExistsError, VolumeError
from napari_transunet.io.nifti import read_nifti
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import WRITABLE_SUFFIXES, write_labels, write_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Volume

RUN = {
    "checkpoint": "abdomen",
    "sha256": "ab" * 32,
    "variant": "R50-ViT-B_16",
    "pipeline": "card",
    "date": "2026-11-23T15:46:21+00:00",
}
SOME = np.array([[[0, 1, 2, 1]]], np.uint8)
GRID = Geometry.default((1, 1, 4))


def _itk(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))))


@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_many_names_and_runs_fit_every_reader(tmp_path: Path, suffix: str) -> None:
    labels = np.arange(701).reshape(1, 1, -1)
    names = {value: f"organ number {value}" for value in range(1, 701)}
    provenance = RUN | {"runs": [RUN | {"slices": number} for number in range(2000)]}
    path = write_labels(
        tmp_path / f"c{suffix}", labels, Geometry.default(labels.shape), names, provenance=provenance
    )
    np.testing.assert_array_equal(_itk(path), labels)
    again = read_volume(path)
    assert again.labels is not None
    assert again.labels.names == names
    assert len(json.loads((tmp_path / "c.json").read_text("utf-8"))["provenance"]["runs"]) == 2000


@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".mha"])
def test_the_header_keeps_the_essentials_of_a_long_record(tmp_path: Path, suffix: str) -> None:
    provenance = {"notes": "é" * 9000, "runs": [RUN, RUN | {"checkpoint": "newest"}]}
    path = write_labels(tmp_path / f"a{suffix}", SOME, GRID, provenance=provenance)
    image = SimpleITK.ReadImage(str(path))
    kept = json.loads(image.GetMetaData("napari_transunet_provenance"))
    assert kept | RUN | {"checkpoint": "newest"} == kept
    assert kept["software"].startswith("napari-transunet")
    assert "runs" not in kept


@pytest.mark.parametrize("step", [21, pytest.param(1, marks=pytest.mark.slow)])  # 21 reaches 65,535 too
@pytest.mark.parametrize("suffix", [".nii", ".seg.nrrd", ".mha"])
def test_every_possible_label_is_named_again(tmp_path: Path, suffix: str, step: int) -> None:
    labels = np.arange(0, 65536, step).reshape(1, 1, -1)
    names = {value: f"structure of the body, number {value}" for value in labels.ravel()[1:].tolist()}
    path = write_labels(tmp_path / f"a{suffix}", labels, Geometry.default(labels.shape), names)
    again = read_volume(path)
    assert again.labels is not None
    assert again.labels.names == names


@pytest.mark.parametrize("other", ['{"Modality": "CT"}', "no JSON", "[]"])
def test_another_json_file_is_never_replaced(tmp_path: Path, other: str) -> None:
    (tmp_path / "ct.json").write_text(other)
    with pytest.raises(ExistsError, match=r"ct\.json does not describe labels"):
        write_labels(tmp_path / "ct.nrrd", SOME, GRID, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["ct.json"]
    assert (tmp_path / "ct.json").read_text() == other


def test_the_json_file_of_other_labels_is_never_replaced(tmp_path: Path) -> None:
    write_labels(tmp_path / "ct.nii.gz", SOME, GRID, {1: "liver"}, provenance=RUN)
    before = (tmp_path / "ct.json").read_text()
    with pytest.raises(ExistsError, match=r"tells what made ct\.nii\.gz"):
        write_labels(tmp_path / "ct.nrrd", SOME, GRID, overwrite=True)
    assert (tmp_path / "ct.json").read_text() == before
    assert not (tmp_path / "ct.nrrd").exists()
    write_labels(tmp_path / "ct.nii.gz", SOME, GRID, overwrite=True)
    (tmp_path / "ct.nii.gz").unlink()
    write_labels(tmp_path / "ct.nrrd", SOME, GRID, overwrite=True)


def test_no_image_takes_the_name_of_labels_whose_json_file_would_stay(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "ct.nii.gz", SOME, GRID, {1: "liver"})
    image = replace(Volume.from_array(SOME.astype(np.int16)), geometry=GRID)
    with pytest.raises(ExistsError, match=r"ct\.json says that ct\.nii\.gz holds labels"):
        write_volume(labels, image, overwrite=True)
    assert read_volume(labels).labels is not None
    write_volume(tmp_path / "ct.nrrd", image)
    assert read_volume(tmp_path / "ct.nrrd").labels is None


@pytest.mark.parametrize(
    ("date", "written"),
    [
        ("2026-11-23T15:46:21+00:00", "2026-11-23T15:46:21Z"),
        ("2026-11-23T17:46:21.123456+02:00", "2026-11-23T15:46:21Z"),
        ("2026-11-23T15:46:21.123456", "2026-11-23T15:46:21"),
        ("2026-11-23", "2026-11-23"),
    ],
)
def test_the_date_in_a_nifti_description_is_whole(tmp_path: Path, date: str, written: str) -> None:
    provenance = RUN | {"variant": "a variant with a long name", "date": date}
    path = write_labels(tmp_path / "a.nii", SOME, GRID, provenance=provenance)
    text = nibabel.load(path).header["descrip"].tobytes().rstrip(b"\0").decode()
    assert text.split("; ")[-1] == written
    assert datetime.fromisoformat(text.split("; ")[-1]).day == 23
    assert text.startswith("napari-transunet")


@pytest.mark.skipif(sys.platform != "linux", reason="Only here can file names be any bytes.")
@pytest.mark.parametrize("suffix", WRITABLE_SUFFIXES)
def test_a_file_name_that_is_no_text_stays_as_it_is(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())
    provenance = {"checkpoint": target.name, "variants": [target]}
    path = write_labels(target, SOME, GRID, {1: target.name}, provenance=provenance)
    found = sorted(os.fsencode(file.name) for file in tmp_path.iterdir())
    assert found == sorted([b"caf\xe9.json", b"caf\xe9" + suffix.encode()])
    assert (
        json.loads(path.with_name(os.fsdecode(b"caf\xe9.json")).read_bytes())["file"] == f"caf\\udce9{suffix}"
    )
    again = read_volume(path)
    np.testing.assert_array_equal(again.data, SOME)
    assert again.labels is not None
    assert again.labels.names == {1: f"caf\\udce9{suffix}", 2: "label 2"}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_series_is_refused_where_there_are_none(tmp_path: Path, suffix: str) -> None:
    path = write_volume(tmp_path / f"a{suffix}", Volume.from_array(np.zeros((2, 3, 4), np.int16)))
    for series in (1, "1.2.3"):
        with pytest.raises(VolumeError, match="only DICOM has series"):
            read_volume(path, series=series)


@pytest.mark.parametrize("data_file", ["LIST\na0.raw\na1.raw", "LIST 2\na0.raw\na1.raw", "a%d.raw 1 2 1"])
def test_slices_in_several_files_are_refused_by_their_name(tmp_path: Path, data_file: str) -> None:
    path = tmp_path / "a.nhdr"
    fields = "type: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw"
    path.write_text(f"NRRD0005\n{fields}\ndata file: {data_file}\n")
    with pytest.raises(VolumeError, match="several files, which is not supported; convert it to one"):
        read_volume(path)


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 1, 33000)])  # NIfTI-1 and -2
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_alone_names_its_labels(tmp_path: Path, suffix: str, shape: tuple[int, int, int]) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[..., :4] = SOME
    names = {1: "liver", 2: "Käse = gut"}
    path = write_labels(tmp_path / f"a{suffix}", labels, Geometry.default(shape), names, provenance=RUN)
    (tmp_path / "a.json").unlink()
    again = read_volume(path)
    np.testing.assert_array_equal(again.data, labels)
    assert again.labels is not None
    assert again.labels.names == names
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, labels)
    (comment,) = image.header.extensions
    assert comment.get_code() == 6
    assert "ab" * 32 in str(comment.get_content())
    if shape == GRID.shape:  # ITK has no reader for NIfTI-2
        np.testing.assert_array_equal(_itk(path), labels)


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [
        *((suffix, GRID.shape) for suffix in (".nii", ".nii.gz", ".nrrd", ".seg.nrrd", ".mha")),
        (".nii", (2, 2, 40000)),  # a NIfTI-2
        (".nii.gz", (2, 2, 40000)),
    ],
)
def test_a_file_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, shape: tuple[int, int, int]
) -> None:
    labels = np.ones(shape, np.uint8)
    path = write_labels(tmp_path / f"a{suffix}", labels, Geometry.default(shape), {1: "liver"})
    (tmp_path / "a.json").unlink()
    paths: list[Path] = []
    really = Path.open

    def counted(self: Path, *args: Any, **options: Any) -> Any:
        paths.append(self)
        return really(self, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    again = read_volume(path)
    assert paths.count(path) == 1
    np.testing.assert_array_equal(again.data, labels)
    assert again.labels is not None
    assert again.labels.names == {1: "liver"}


@pytest.mark.parametrize("size", [-16, 0, 8, 1 << 30])
def test_extensions_that_lie_are_ignored(tmp_path: Path, size: int) -> None:
    path = write_labels(tmp_path / "a.nii", SOME, GRID, {1: "liver"})
    (tmp_path / "a.json").unlink()
    raw = bytearray(path.read_bytes())
    raw[352:356] = size.to_bytes(4, "little", signed=True)
    path.write_bytes(raw)
    assert read_nifti(path)[-1] == []
    again = read_volume(path)
    np.testing.assert_array_equal(again.data, SOME)
    assert again.labels is None


@pytest.mark.parametrize("said", [None, {}, {"shape_zyx": [1, 1, 4], "spacing_zyx_mm": "no"}])
def test_that_a_header_was_changed_since_is_said(tmp_path: Path, said: Any) -> None:
    path = write_labels(tmp_path / "a.mha", SOME, GRID, {1: "liver"})
    assert read_volume(path).source.notes == ()
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing", b"DistanceUnits = um\nElementSpacing"))
    changed = read_volume(path)
    assert changed.geometry.spacing == pytest.approx((0.001,) * 3)
    assert ["a.json" in note or "JSON" in note for note in changed.source.notes] == [True]
    assert changed.labels is not None
    beside = tmp_path / "a.json"
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"grid": said}))
    assert read_volume(path).source.notes == ()


def test_what_is_written_in_any_two_formats_lies_on_one_grid(tmp_path: Path) -> None:
    """Cosines that a scanner rounded: NIfTI keeps a matrix, MetaImage the cosines and the spacing apart."""
    rounded = ((0.9994, -0.035, 0.0), (0.035, 0.9994, 0.0), (0.0, 0.0, 1.0))
    geometry = Geometry((60, 512, 512), (2.5, 0.7, 0.7), (-170.0, -160.0, 12.3), rounded)
    labels = np.zeros(geometry.shape, np.uint8)
    paths = [write_labels(tmp_path / f"a{number}{suffix}", labels, geometry)
             for number, suffix in enumerate((".nii", ".mha", ".nrrd", ".seg.nrrd"))]  # fmt: skip
    grids = [read_volume(path).geometry for path in paths]
    assert all(one.matches(other) for one in (*grids, geometry) for other in grids)
