"""OME-Zarr images and labels: read from disk and over HTTP, refused where hostile, written slab by slab."""

import json
import shutil
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr

from napari_transunet.errors import ExistsError, InputError, VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.ome_zarr.labels import LabelsPlace, LabelWriter
from napari_transunet.io.ome_zarr.metadata import plain_path, web_address
from napari_transunet.io.ome_zarr.reading import open_ome_zarr
from napari_transunet.io.reading import is_readable, read_volume
from napari_transunet.volumes.labels import Label, LabelSet
from napari_transunet.volumes.lazy_array import LazyArray
from tests.io.ome_zarr_samples import served, write_ome_zarr

VERSIONS = ["0.4", "0.5"]
LABELS = LabelSet((Label(1, "liver", (1.0, 0.0, 0.0), "10200004"), Label(3, "Milz", (0.0, 0.2, 1.0))))


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).integers(-1000, 1000, (9, 10, 12)).astype(np.int16)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_is_read_with_its_grid_from_disk_and_over_http(tmp_path, values, version):
    path = write_ome_zarr(tmp_path / "scan.ome.zarr", values, version=version)
    assert is_readable(path)
    volume = read_volume(path)
    assert np.array_equal(volume.data, values)
    assert volume.geometry.spacing == pytest.approx((2.0, 0.5, 0.8))
    assert volume.geometry.origin == pytest.approx((-2.0, 1.0, 10.0))
    assert (volume.source.name, volume.source.format) == ("scan", "OME-Zarr")
    assert any("how its axes lie" in note for note in volume.source.notes)

    with served(tmp_path) as address:
        remote = read_volume(f"{address}/scan.ome.zarr", level=1)
        typed = read_volume(Path(f"{address}/scan.ome.zarr"), lazy=True)
        assert np.array_equal(remote.data, values[:, ::2, ::2])
        assert remote.geometry.spacing == pytest.approx((2.0, 1.0, 1.6))
        assert np.array_equal(typed.data[3:5], values[3:5])


def test_channels_and_time_points_are_chosen(tmp_path):
    data = np.random.default_rng(0).random((2, 3, 4, 8, 8)).astype(np.float32)
    path = write_ome_zarr(tmp_path / "scan.zarr", data, axes="tczyx", chunks=(1, 1, 2, 8, 8))
    with pytest.raises(SeveralVolumesError) as several:
        read_volume(path, time=0)
    assert several.value.names == ("stain 0", "stain 1", "stain 2")
    with pytest.raises(SeveralVolumesError):
        read_volume(path, channel=0)
    with pytest.raises(VolumeError):
        read_volume(path, channel=3, time=0)
    assert np.array_equal(read_volume(path, channel=2, time=1).data, data[1, 2])


def test_a_lazy_volume_reads_what_is_asked_for(tmp_path, values):
    path = write_ome_zarr(tmp_path / "scan.zarr", values, chunks=(4, 5, 5))
    lazy = read_volume(path, lazy=True).data
    assert isinstance(lazy, LazyArray)
    turned, whole = (
        np.flip(np.transpose(lazy, (2, 0, 1)), (0, 2)),
        np.flip(np.transpose(values, (2, 0, 1)), (0, 2)),
    )
    assert isinstance(turned, LazyArray)
    for key in (
        0, -1, [2, 5, 5], np.array([8, 1]), slice(2, 6), (slice(None), 3), (slice(1, 4), slice(None, None, -1), 2),
        (0, 0, 0), (Ellipsis, slice(2, 3)), (slice(None, None, 3), slice(None, None, 2)), slice(4, 4),
    ):  # fmt: skip
        assert np.array_equal(turned[key], whole[key]), key
    assert np.array_equal(np.asarray(turned), whole)
    assert np.array_equal(np.asarray(lazy[::-1]), values[::-1])
    assert (len(turned), turned.shape, turned.size, turned.nbytes) == (
        12,
        whole.shape,
        whole.size,
        whole.nbytes,
    )
    assert set(np.unique(lazy.sample())) <= set(np.unique(values))


def test_shards_missing_chunks_and_two_dimensions(tmp_path, values):
    path = write_ome_zarr(tmp_path / "a.zarr", values, shards=(8, 8, 8), levels=1)
    assert np.array_equal(read_volume(path).data, values)
    zeros = write_ome_zarr(tmp_path / "b.zarr", np.zeros((8, 8, 8), np.uint16), levels=1)
    assert not list((zeros / "s0").glob("c/*"))
    assert not read_volume(zeros).data.any()
    flat = write_ome_zarr(tmp_path / "c.zarr", values[:1], levels=1)
    content = json.loads((flat / "zarr.json").read_text())
    entry = content["attributes"]["ome"]["multiscales"][0]
    entry["axes"] = entry["axes"][1:]
    for transform in entry["datasets"][0]["coordinateTransformations"]:
        transform[transform["type"]] = transform[transform["type"]][1:]
    (flat / "zarr.json").write_text(json.dumps(content))
    zarr.open_group(flat).create_array("s0", data=values[0], chunks=(4, 4), overwrite=True)
    assert np.array_equal(read_volume(flat).data, values[:1])


def changed(path, change):
    file = path / "zarr.json"
    content = json.loads(file.read_text())
    change(content["attributes"]["ome"]["multiscales"][0])
    file.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image["datasets"][0].update(path="../secret"),
        lambda image: image["datasets"][0].update(path="/etc"),
        lambda image: image["datasets"][0].update(path="a/./b"),
        lambda image: image["datasets"][0].update(path="http://elsewhere"),
        lambda image: image["datasets"][0].update(path=7),
        lambda image: image["datasets"][0].update(path="missing"),
        lambda image: image["datasets"][0].update(
            coordinateTransformations=[{"type": "scale", "path": "s0"}]
        ),
        lambda image: image["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 1]),
        lambda image: image["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 0, 1]),
        lambda image: image["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 1, "x"]),
        lambda image: image["datasets"][0]["coordinateTransformations"][0].update(scale=[1, 1, 10**400]),
        lambda image: image["axes"][0].update(unit="parsec"),
        lambda image: image["axes"].reverse(),
        lambda image: image["axes"].pop(),
        lambda image: image.update(datasets={}),
        lambda image: image.update(axes=None),
    ],
)
def test_damaged_and_hostile_descriptions_are_refused(tmp_path, values, change):
    path = changed(write_ome_zarr(tmp_path / "scan.zarr", values), change)
    with pytest.raises(VolumeError) as told:
        read_volume(path)
    assert str(told.value).startswith("scan.zarr: ")


def test_a_voxel_size_that_is_not_given_is_said(tmp_path, values):
    path = write_ome_zarr(tmp_path / "a.ome.zarr", values)
    assert not any("voxel size" in note for note in read_volume(path).source.notes)
    content = json.loads((path / "zarr.json").read_text())
    for level in content["attributes"]["ome"]["multiscales"][0]["datasets"]:
        level["coordinateTransformations"] = []
    (path / "zarr.json").write_text(json.dumps(content))
    volume = read_volume(path)
    assert any("no voxel size; 1 × 0.001 × 0.001 mm" in note for note in volume.source.notes), (
        volume.source.notes
    )


def test_pickles_objects_and_giants_are_refused(tmp_path, values):
    path = write_ome_zarr(tmp_path / "scan.zarr", values, version="0.4", levels=1)
    file = path / "s0" / ".zarray"
    good = json.loads(file.read_text())
    for change in (
        {"filters": [{"id": "pickle", "protocol": 5}]},
        {"compressor": {"id": "pickle", "protocol": 5}},
        {"dtype": "|O"},
        {"dtype": [["a", "<i2"]]},
        {"dtype": "<c8"},
        {"chunks": [100000, 100000, 4]},
        {"shape": [-1, 10, 12]},
        {"shape": [9, 10]},
    ):
        file.write_text(json.dumps(good | change))
        with pytest.raises(VolumeError):
            read_volume(path)
    file.write_text(json.dumps(good | {"shape": [1 << 30, 1 << 12, 1 << 12], "chunks": [4, 4, 4]}))
    with pytest.raises(VolumeError):
        read_volume(path)
    assert read_volume(path, lazy=True).geometry.shape[0] == 1 << 30
    file.write_text(json.dumps(good))
    assert np.array_equal(read_volume(path).data, values)


def test_damaged_chunks_are_told(tmp_path, values):
    path = write_ome_zarr(tmp_path / "scan.zarr", values, version="0.4", levels=1)
    chunk = next(one for one in (path / "s0").rglob("*") if one.is_file() and not one.name.startswith("."))
    chunk.write_bytes(chunk.read_bytes()[:5])
    with pytest.raises(VolumeError):
        read_volume(path)


def test_what_is_no_image_is_named(tmp_path, values):
    group = tmp_path / "plain.zarr"
    zarr.open_group(group, mode="w")
    with pytest.raises(VolumeError):
        read_volume(group)
    zarr.open_group(group, mode="w").attrs["bioformats2raw.layout"] = 3
    write_ome_zarr(group / "0", values)
    assert np.array_equal(read_volume(group).data, values)
    write_ome_zarr(group / "1", values)
    with pytest.raises(VolumeError) as told:
        read_volume(group)
    assert "several images" in str(told.value)
    assert not is_readable(tmp_path)


def test_that_a_file_describes_other_images_too_is_said(tmp_path, values):
    folder = write_ome_zarr(tmp_path / "scan.ome.zarr", values, version="0.4")
    assert not [note for note in read_volume(folder).source.notes if "images" in note]
    attributes = json.loads((folder / ".zattrs").read_text())
    (first,) = attributes["multiscales"]
    coarse = first | {"name": "coarse", "datasets": first["datasets"][1:]}
    (folder / ".zattrs").write_text(json.dumps(attributes | {"multiscales": [coarse, first, 5]}))
    volume = read_volume(folder)
    assert volume.data.shape[2] < values.shape[2]
    (note,) = (note for note in volume.source.notes if "images" in note)
    assert "coarse, scan, damaged; the first was read" in note


def test_a_folder_of_several_labels_names_them(tmp_path, values):
    folder = write_ome_zarr(tmp_path / "scan.ome.zarr", values, version="0.4")
    for name in ("organs", "vessels"):
        write_ome_zarr(folder / "labels" / name, values.astype(np.uint8), version="0.4")
    (folder / "labels" / ".zattrs").write_text('{"labels": ["organs", "vessels"]}')
    with pytest.raises(VolumeError, match=r"organs, vessels; give one of them"):
        read_volume(folder / "labels")


def test_addresses_and_paths():
    assert web_address("http://a/b.zarr/") == "http://a/b.zarr"
    assert web_address(Path("https://a/b.zarr")) == "https://a/b.zarr"
    assert web_address("/data/http/b.zarr") is None
    assert plain_path("labels/0") == "labels/0"
    assert LabelsPlace.of(Path("a/b.ome.zarr")) == LabelsPlace(Path("a/b.ome.zarr"))
    assert LabelsPlace.of(Path("b.zarr/labels/organs")) == LabelsPlace(Path("b.zarr"), "organs")
    assert LabelsPlace.of(Path("b.nii.gz")) is None
    for bad in ("b.zarr/0", "b.zarr/labels/.x", "b.zarr/labels/a:b"):
        with pytest.raises(InputError):
            LabelsPlace.of(Path(bad))


def plane_of(labels, axis, index):
    return np.moveaxis(labels, axis, 0)[index]


def writer(path, *, axis=0, identity=None, image=None, **more):
    return LabelWriter(
        LabelsPlace(path, "organs"),
        image or open_ome_zarr(path),
        dtype=np.uint8,
        axis=axis,
        identity=identity or {"checkpoint": "a"},
        **more,
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("axis", [0, 2])
def test_labels_are_written_into_the_image_and_resumed(tmp_path, values, version, axis, monkeypatch):
    monkeypatch.setattr("napari_transunet.io.ome_zarr.labels._SLAB", 400)  # some slices a slab
    path = write_ome_zarr(tmp_path / "scan.zarr", values, version=version)
    labels = np.where(values > 500, 3, np.where(values < -500, 1, 0)).astype(np.uint8)
    first = writer(path, axis=axis)
    for index in range(5):
        first.put(index, plane_of(labels, axis, index))
    # The process ends here.
    assert 0 < first.done <= 5
    with pytest.raises(ExistsError):
        writer(path, axis=axis, identity={"checkpoint": "b"})
    assert zarr.open_group(path / "labels").attrs.get("labels") is None
    second = writer(path, axis=axis)
    assert second.done == first.done
    for index in range(second.done, values.shape[axis]):
        second.put(index, plane_of(labels, axis, index))
    assert second.finish(LABELS, {"checkpoint": "a"}) == path / "labels" / "organs"

    # By Zarr alone, as the standard has it.
    group = zarr.open_group(path / "labels" / "organs", mode="r")
    about = dict(group.attrs)
    assert about["napari_transunet"] == {"checkpoint": "a"}
    about = about.get("ome", about)
    image = about["multiscales"][0]
    assert [one["path"] for one in image["datasets"]] == ["0", "1"]
    assert np.array_equal(group["0"][:], labels)
    assert group["1"].shape == values[:, ::2, ::2].shape
    assert set(np.unique(group["1"][:])) <= {0, 1, 3}
    assert about["image-label"]["source"] == {"image": "../../"}
    assert {"label-value": 1, "rgba": [255, 0, 0, 255]} in about["image-label"]["colors"]
    assert [axis["unit"] for axis in image["axes"]] == ["millimeter", "micrometer", "micrometer"]
    listed = dict(zarr.open_group(path / "labels", mode="r").attrs)
    assert listed.get("ome", listed)["labels"] == ["organs"]
    again = read_volume(path / "labels" / "organs")
    assert again.labels.names == {1: "liver", 3: "Milz"}
    assert again.geometry == read_volume(path).geometry
    assert second.voxels == {1: int((labels == 1).sum()), 3: int((labels == 3).sum())}

    with pytest.raises(ExistsError):
        writer(path)
    assert writer(path, axis=axis, overwrite=True).done == 0
    assert np.array_equal(read_volume(path).data, values)  # the image itself is as it was


@pytest.mark.parametrize("version", VERSIONS)
def test_labels_that_are_replaced_are_no_longer_listed(tmp_path, values, version):
    path = write_ome_zarr(tmp_path / "scan.zarr", values, version=version)

    def listed():
        about = dict(zarr.open_group(path / "labels", mode="r").attrs)
        return about.get("ome", about)["labels"]

    for name in ("other", "organs"):
        one = LabelWriter(
            LabelsPlace(path, name), open_ome_zarr(path), dtype=np.uint8, axis=0, identity={"checkpoint": "a"}
        )
        for index in range(9):
            one.put(index, np.ones(values.shape[1:], np.uint8))
        one.finish(LABELS, {})
    assert listed() == ["other", "organs"]
    writer(path, overwrite=True)
    assert listed() == ["other"]
    assert sorted(entry.name for entry in (path / "labels").iterdir() if entry.is_dir()) == [
        "organs",
        "other",
    ]


def test_labels_whose_replacing_was_killed_can_be_replaced_again(tmp_path, values, monkeypatch):
    path = write_ome_zarr(tmp_path / "scan.zarr", values)
    one = writer(path)
    for index in range(9):
        one.put(index, np.ones(values.shape[1:], np.uint8))
    one.finish(LABELS, {})

    remove = shutil.rmtree

    def killed(folder, **options):
        if not (Path(folder) / "zarr.json").exists():  # where a file is written
            return remove(folder, **options)
        next(Path(folder).glob("*/zarr.json")).unlink()
        (Path(folder) / "zarr.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("napari_transunet.io.ome_zarr.labels.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            writer(path, overwrite=True)
    assert writer(path).done == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda progress: progress.pop("done"),
        lambda progress: progress.update(done="many"),
        lambda progress: progress.update(done=1),
        lambda progress: progress.update(done=-4),
        lambda progress: progress.update(done=99),
        lambda progress: progress.update(voxels=[1]),
    ],
)
def test_a_damaged_record_of_unfinished_labels_is_told(tmp_path, values, change, monkeypatch):
    monkeypatch.setattr("napari_transunet.io.ome_zarr.labels._SLAB", 400)
    path = write_ome_zarr(tmp_path / "scan.zarr", values)
    one = writer(path)
    for index in range(5):
        one.put(index, np.ones(values.shape[1:], np.uint8))
    assert one.done > 1
    file = path / "labels" / "organs" / ".progress.json"
    progress = json.loads(file.read_text())
    change(progress)
    file.write_text(json.dumps(progress))
    with pytest.raises(ExistsError, match="damaged"):
        writer(path)
    assert writer(path, overwrite=True).done == 0


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_unfinished_labels_whose_array_is_damaged_are_told(tmp_path, values, damage, monkeypatch):
    monkeypatch.setattr("napari_transunet.io.ome_zarr.labels._SLAB", 400)
    path = write_ome_zarr(tmp_path / "scan.zarr", values)
    one = writer(path)
    for index in range(5):
        one.put(index, np.ones(values.shape[1:], np.uint8))
    file = path / "labels" / "organs" / "0" / "zarr.json"
    if damage == "gone":
        file.unlink()
    else:
        text = file.read_text()
        file.write_text(text[:100] if damage == "cut" else text.replace("uint8", "int16"))
    with pytest.raises(ExistsError, match="damaged"):
        writer(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_ome_zarr_py_reads_the_labels_with_names_and_colours(tmp_path, values, version):
    reader = pytest.importorskip(
        "ome_zarr.reader", reason="ome-zarr, which wants another pydantic, is not here"
    )
    from ome_zarr.io import parse_url

    path = write_ome_zarr(tmp_path / "scan.zarr", values, version=version)
    labels = np.where(values > 500, 3, np.where(values < -500, 1, 0)).astype(np.uint8)
    one = writer(path)
    for index, plane in enumerate(labels):
        one.put(index, plane)
    one.finish(LABELS, {})
    found = next(node for node in reader.Reader(parse_url(str(path)))() if "color" in node.metadata)
    assert np.array_equal(np.asarray(found.data[0]), labels)
    assert found.metadata["color"][1] == [1, 0, 0, 1]
    assert {value: one["name"] for value, one in found.metadata["properties"].items()} == {
        1: "liver",
        3: "Milz",
    }


def test_labels_of_a_time_point_have_the_images_axes_but_for_the_channel(tmp_path):
    data = np.zeros((2, 3, 4, 8, 8), np.uint8)
    path = write_ome_zarr(tmp_path / "scan.zarr", data, axes="tczyx", chunks=(1, 1, 2, 8, 8))
    one = writer(path, image=open_ome_zarr(path, time=1, channel=0))
    for index in range(4):
        one.put(index, np.full((8, 8), index, np.uint8))
    one.finish(LabelSet(), {})
    array = zarr.open_array(path / "labels" / "organs" / "0", mode="r")
    assert array.shape == (2, 4, 8, 8)
    assert not array[0].any()
    assert array[1, :, 0, 0].tolist() == [0, 1, 2, 3]


def test_labels_of_what_lies_elsewhere_get_an_ome_zarr_of_their_own(tmp_path, values):
    write_ome_zarr(tmp_path / "scan.zarr", values, version="0.4")
    with served(tmp_path) as address:
        one = writer(tmp_path / "new.ome.zarr", image=open_ome_zarr(f"{address}/scan.zarr"))
        for index in range(9):
            one.put(index, (values[index] > 0).astype(np.uint8))
        folder = one.finish(LABELS, {})
    assert np.array_equal(read_volume(folder).data, values > 0)
    (tmp_path / "other").mkdir()
    with pytest.raises(ExistsError):
        writer(tmp_path / "other", image=open_ome_zarr(tmp_path / "scan.zarr"))


assert numcodecs.get_codec({"id": "pickle"}) is not None  # what must be refused is there to be called
