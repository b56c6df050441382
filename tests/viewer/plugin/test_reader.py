"""The napari reader: what it claims, what it gives, and what happens where a file is no volume."""

from dataclasses import replace

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import notification_manager

from napari_transunet.errors import VolumeError
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels, write_volume
from napari_transunet.viewer.layers.layers import geometry_of, label_set_of, volume_of
from napari_transunet.viewer.plugin.reader import napari_get_reader, read_layers
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.viewer.choices import choices, rows
from tests.viewer.waiting import TIMEOUT

PLUGIN = "napari-transunet"
SHAPE = (4, 6, 8)
GRID = Geometry(
    SHAPE, (2.5, 0.7, 0.8), (-30.0, 40.0, -500.0), ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
)


@pytest.fixture
def scan(tmp_path):
    data = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    return write_volume(tmp_path / "scan.nii.gz", Volume(data, GRID, "CT", Source(None, "test", "scan")))


@pytest.fixture
def labels(tmp_path):
    data = np.zeros(SHAPE, np.uint8)
    data[1, 2:4, 3:5], data[2, 1, 1] = 1, 2
    return write_labels(tmp_path / "organs.nii.gz", data, GRID, {1: "liver", 2: "spleen"})


def test_a_scan_opens_in_millimetres_and_its_labels_with_the_names_beside_them(
    make_napari_viewer, scan, labels
):
    viewer = make_napari_viewer()
    (layer,) = viewer.open(scan, plugin=PLUGIN)
    assert isinstance(layer, Image)
    assert layer.name == "scan"
    assert geometry_of(layer).matches(GRID)
    assert volume_of(layer).source.path == scan
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
    (layer,) = viewer.open(labels, plugin=PLUGIN)
    assert isinstance(layer, Labels)
    assert label_set_of(layer).names == {1: "liver", 2: "spleen"}
    np.testing.assert_array_equal(layer.scale, viewer.layers["scan"].scale)
    np.testing.assert_array_equal(layer.translate, viewer.layers["scan"].translate)
    assert layer.units == viewer.layers["scan"].units


def test_labels_without_their_json_are_labels_by_their_header(labels):
    labels.with_name("organs.json").unlink()
    ((_, _, kind),) = read_layers(labels)
    assert kind == "labels"


def test_whole_numbers_that_nothing_calls_labels_are_an_image(labels, tmp_path):
    plain = write_volume(tmp_path / "plain.nii.gz", replace(read_volume(labels), labels=None))
    ((_, _, kind),) = read_layers(plain)
    assert kind == "image"


def test_slicer_segmentation_comes_as_labels(tmp_path):
    data = np.zeros(SHAPE, np.uint8)
    data[1, 2:4, 3:5] = 3
    path = write_labels(tmp_path / "organs.seg.nrrd", data, GRID, {3: "aorta"})
    (found,) = read_layers(path)
    layer = Layer.create(*found)
    assert isinstance(layer, Labels)
    assert label_set_of(layer).names == {3: "aorta"}
    np.testing.assert_array_equal(layer.data, data)


def test_npy_h5_of_the_synapse_layout_opens(tmp_path):
    import h5py

    path = tmp_path / "case0001.npy.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.random.default_rng(0).random(SHAPE).astype(np.float32)
        file["label"] = np.zeros(SHAPE, np.float32)
    ((data, meta, _),) = read_layers(path)
    assert data.shape == SHAPE
    assert meta["name"] == "case0001"


@pytest.mark.parametrize("name", ["picture.png", "notes.txt", "missing.nii.gz"])
def test_other_files_are_not_claimed(tmp_path, name):
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_bytes(b"\x89PNG not a volume at all")
    assert napari_get_reader(str(path)) is None
    assert napari_get_reader([str(path), str(path)]) is None


def test_empty_folder_is_not_claimed(tmp_path):
    assert napari_get_reader(str(tmp_path)) is None


def test_nothing_is_not_claimed():
    assert napari_get_reader([]) is None


def test_what_cannot_be_read_becomes_one_notification_and_the_rest_is_read(
    make_napari_viewer, tmp_path, scan
):
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"\x5c\x01\x00\x00" + b"\x00" * 60)
    viewer = make_napari_viewer()
    before = len(notification_manager.records)
    assert viewer.open(broken, plugin=PLUGIN) == []
    (record,) = notification_manager.records[before:]
    assert "broken.nii" in record.message
    assert "Traceback" not in record.message
    assert len(viewer.layers) == 0
    assert [kind for _, _, kind in read_layers([broken, scan])] == ["image"]


def test_dropped_file_of_several_time_points_offers_them(make_napari_viewer, tmp_path, scan, qtbot):
    from napari_transunet.viewer.segment.volume_loader import loader_for

    viewer = make_napari_viewer()
    values = np.stack([np.zeros(SHAPE, np.int16), np.ones(SHAPE, np.int16)])
    for name in ("first.npy", "second.npy"):
        np.save(tmp_path / name, values)
    before = len(notification_manager.records)
    viewer.open([tmp_path / "first.npy", scan, tmp_path / "second.npy"], plugin=PLUGIN)
    assert [layer.name for layer in viewer.layers] == ["scan"]
    loader = loader_for(viewer)
    assert loader.chooser.isVisible()
    assert rows(loader.chooser) == [["Channel 1 of 2"], ["Channel 2 of 2"]]
    said = [record.message for record in notification_manager.records[before:]]
    (other,) = [text for text in said if "second.npy" in text]  # one list at a time: the other is said
    assert other.endswith("Open it by itself to choose from a list.")
    assert not [text for text in said if "first.npy" in text]
    choices(loader.chooser).selectRow(1)
    with qtbot.waitSignal(loader.opened, timeout=TIMEOUT):
        loader.chooser._accept_row()
    assert viewer.layers["first, channel 2"].data.min() == 1


def test_script_without_a_viewer_gets_the_exception(tmp_path, monkeypatch):
    import napari

    monkeypatch.setattr(napari, "current_viewer", lambda: None)
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"\x5c\x01\x00\x00" + b"\x00" * 60)
    with pytest.raises(VolumeError, match="broken"):
        read_layers(broken)


def test_dicom_folder_opens_as_its_series(make_napari_viewer, shared_data):
    folder = shared_data / "data" / "ct_abdomen" / "example_ct_dicom"
    (layer,) = make_napari_viewer().open(folder, plugin=PLUGIN)
    assert layer.data.shape == (20, 512, 512)
    np.testing.assert_allclose(np.abs(layer.scale), (2.0, 0.977, 0.977), atol=1e-3)
    assert tuple(layer.contrast_limits) == (-160.0, 240.0)
    assert volume_of(layer).modality == "CT"
