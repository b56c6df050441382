"""Volumes as napari layers: where they lie, what they show, and the way back."""

from dataclasses import replace

import dask.array
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points

from napari_transunet.errors import VolumeError
from napari_transunet.io.reading import read_volume
from napari_transunet.viewer.layers import layers
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.lazy_array import LazyArray
from napari_transunet.volumes.volume import Source, Volume
from tests.io.ome_zarr_samples import write_ome_zarr

FLIPPED_Y = ((1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
RAS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def make_volume(direction=FLIPPED_Y, shape=(5, 8, 10), modality="CT", low=-1000, high=1000) -> Volume:
    data = np.random.default_rng(0).integers(low, high, shape).astype(np.int16)
    geometry = Geometry(shape, (2.5, 0.703125, 0.75), (-166.0, 187.6, -340.0), direction)
    return Volume(data, geometry, modality, Source(None, "NIfTI", "ct"))


def rotation(angles) -> np.ndarray:
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


def image_layer(volume: Volume) -> Image:
    return Layer.create(*layers.volume_to_layer(volume))


def test_image_lies_in_millimetres_with_units_and_the_volumes_own_array():
    volume = make_volume()
    layer = image_layer(volume)
    assert layer.data is volume.data
    np.testing.assert_allclose(layer.scale, (2.5, -0.703125, 0.75), atol=1e-7)
    np.testing.assert_allclose(layer.translate, (-340.0, 187.6, -166.0), atol=1e-7)
    assert [str(u) for u in layer.units] == ["millimeter"] * 3
    assert layer.axis_labels == ("z", "y", "x")
    assert layers.volume_of(layer) is volume


@pytest.mark.parametrize("direction", [FLIPPED_Y, RAS, ((1, 0, 0), (0, 1, 0), (0, 0, -1))])
def test_world_is_the_patient_for_axes_along_the_patient(direction):
    volume = make_volume(direction)
    layer = image_layer(volume)
    for index in [(0, 0, 0), (4, 7, 9), (1, 5, 2)]:
        lps = volume.geometry.affine_lps @ [*index[::-1], 1]
        np.testing.assert_allclose(layer.data_to_world(index), lps[2::-1], atol=1e-5)


def test_volumes_stored_in_different_directions_lie_on_each_other():
    volume = make_volume(RAS)
    flipped = Volume(
        volume.data[:, ::-1, ::-1],
        volume.geometry.reoriented((0, 1, 2), (False, True, True)),
        "CT",
        volume.source,
    )
    one, other = image_layer(volume), image_layer(flipped)
    for index in np.ndindex(2, 3, 2):
        world = one.data_to_world(index)
        there = tuple(np.round(other.world_to_data(world)).astype(int))
        assert one.data[index] == other.data[there]


@given(
    spacing=st.tuples(*[st.floats(0.05, 9).map(lambda v: round(v, 5))] * 3),
    origin=st.tuples(*[st.floats(-900, 900).map(lambda v: round(v, 4))] * 3),
    shape=st.tuples(*[st.integers(2, 700)] * 3),
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
)
@settings(max_examples=200)
def test_the_slider_reaches_every_slice(spacing, origin, shape, angles):
    direction = tuple(tuple(row) for row in rotation(angles))
    placed = layers.placement(Geometry(shape, spacing, origin, direction))
    for n, scale, translate in zip(shape, placed["scale"], placed["translate"], strict=True):
        ends = sorted((translate, translate + scale * (n - 1)))
        assert int((ends[1] - ends[0]) / abs(scale)) + 1 == n  # how napari counts steps


@given(angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3))
@settings(max_examples=25)
def test_oblique_geometry_survives_display_exactly(angles):
    volume = make_volume(tuple(tuple(row) for row in rotation(angles)))
    layer = image_layer(volume)
    assert layers.geometry_of(layer) == volume.geometry
    labels = Layer.create(*layers.labels_to_layer(np.zeros((5, 8, 10), np.uint8), volume, None, "l"))
    assert layers.geometry_of(labels) == volume.geometry
    np.testing.assert_array_equal(labels.scale, layer.scale)
    np.testing.assert_array_equal(labels.translate, layer.translate)
    matrix = layer.affine.affine_matrix
    np.testing.assert_array_equal(matrix, np.eye(4))


def test_last_slice_is_reachable_in_the_viewer():
    viewer = ViewerModel()
    shape = (7, 8, 10)
    geometry = Geometry(shape, (2.37, 0.713, 0.713), (-166.1, 187.59, -340.3), FLIPPED_Y)
    volume = Volume(np.zeros(shape, np.int16), geometry, "CT", Source(None, "", "ct"))
    layer = layers.add_volume(viewer, volume)
    assert viewer.dims.nsteps == shape
    viewer.dims.set_current_step(0, 6)
    assert round(layer.world_to_data(viewer.dims.point)[0]) == 6


def test_added_image_can_be_windowed_over_its_whole_range():
    layer = layers.add_volume(ViewerModel(), make_volume())
    assert tuple(layer.contrast_limits) == (-160.0, 240.0)
    assert layer.contrast_limits_range[0] < -950
    assert layer.contrast_limits_range[1] > 950


def test_labels_layer_has_names_fixed_colours_and_a_visible_colour_for_the_rest():
    viewer = ViewerModel()
    volume = make_volume()
    names = LabelSet.from_names({1: "spleen", 5: "liver"})
    data = np.zeros(volume.geometry.shape, np.uint8)
    data[2, 3, 4] = 5
    layer = Layer.create(*layers.labels_to_layer(data, volume, names, "ct labels"))
    viewer.add_layer(layer)
    assert layer.data is data
    assert layer.name == "ct labels"
    np.testing.assert_allclose(layer.get_color(5)[:3], names.get(5).color, atol=1 / 255)
    assert layer.get_color(0) is None
    assert layer.get_color(99)[3] == 1
    status = layer.get_status(layer.data_to_world((2, 3, 4)), world=True)
    assert "liver" in status["value"]
    assert layers.label_set_of(layer) == names
    volume_in_metadata = record_of(layer).volume
    assert volume_in_metadata is None  # a label layer must not keep a closed scan in memory


def test_names_come_from_features_where_the_layer_is_not_ours():
    layer = Labels(
        np.zeros((2, 3, 4), np.uint8), features={"index": [0, 2], "name": ["background", "spleen"]}
    )
    assert layers.label_set_of(layer).names == {2: "spleen"}
    assert len(layers.label_set_of(Labels(np.zeros((2, 3, 4), np.uint8)))) == 0


def test_rows_of_features_that_name_no_label_are_passed_over():
    table = {
        "index": ["one", None, np.nan, 1.5, 70000, -3, 2, 3, 4, 5, 5.0],
        "name": ["text", "none", "nan", "half", "big", "negative", "", np.nan, None, "old", "spleen"],
    }
    layer = Labels(np.zeros((2, 3, 4), np.uint8), features=pd.DataFrame(table))
    assert layers.label_set_of(layer).names == {5: "spleen"}


def test_names_that_a_script_gives_in_features_are_the_labels_names():
    geometry = Geometry.default((2, 3, 4))
    names = LabelSet.from_names({1: "liver", 2: "spleen"})
    layer = layers.new_labels_layer(np.zeros(geometry.shape, np.uint8), geometry, names, "labels")
    assert layers.label_set_of(layer) is names
    layer.features = pd.DataFrame(
        {"index": [0, 1, 7], "name": ["background", "Leber", "cyst"], "area": [1, 2, 3]}
    )
    assert layers.label_set_of(layer).names == {1: "Leber", 2: "spleen", 7: "cyst"}
    assert layers.label_set_of(layer).colors[1] == names.colors[1]


def test_labels_of_another_shape_are_refused():
    with pytest.raises(VolumeError, match="5 × 8 × 10"):
        layers.labels_to_layer(np.zeros((5, 8, 9), np.uint8), make_volume(), None, "l")


def test_named_volume_becomes_a_labels_layer():
    volume = make_volume(low=0, high=3)
    named = Volume(
        volume.data,
        volume.geometry,
        None,
        volume.source,
        labels=LabelSet.from_names({1: "liver", 2: "spleen"}),
    )
    layer = Layer.create(*layers.volume_to_layer(named))
    assert isinstance(layer, Labels)
    assert layer.data.dtype == np.uint8
    np.testing.assert_array_equal(layer.data, volume.data)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 255], np.uint8), ([0, 256], np.uint16), ([0, 70000], np.uint32), ([0.0, 3.0], np.uint8)],
)
def test_labels_take_the_smallest_unsigned_type(values, dtype):
    labels = layers.labels_dtype(np.array(values))
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, values)


@pytest.mark.parametrize("values", [[-1, 2], [0.5, 1.0], [np.nan, 1.0]])
def test_what_cannot_be_labels_is_refused(values):
    with pytest.raises(VolumeError):
        layers.labels_dtype(np.array(values))


def test_layer_from_elsewhere_gets_its_grid_from_scale_translate_and_units():
    data = np.zeros((3, 4, 5), np.int16)
    layer = Image(data, scale=(2, -1, 0.5), translate=(5, 6, 7))
    volume = layers.volume_of(layer)
    assert volume.data is data
    assert volume.geometry.spacing == (2, 1, 0.5)
    assert volume.geometry.origin == (7, 6, 5)
    assert volume.geometry.axis_codes == "LAS"
    metres = Image(data, scale=(0.002, 0.001, 0.001), units=("m", "m", "m"))
    np.testing.assert_allclose(layers.volume_of(metres).geometry.spacing, (2, 1, 1))
    assert ["millimetres" in " ".join(layers.notes_of(one)) for one in (layer, metres)] == [True, False]
    for one in (layer, metres):  # what is assumed goes with the volume, and so into what is exported
        assert not layers.volume_of(one).source.has_orientation
        assert layers.volume_of(one).source.notes == layers.notes_of(one)


def test_rotated_layer_keeps_its_rotation_and_a_sheared_one_is_refused():
    data = np.zeros((3, 4, 5), np.int16)
    turned = layers.volume_of(Image(data, scale=(2, 1, 1), rotate=20)).geometry
    assert turned.affine_lps[1, 1] == pytest.approx(np.cos(np.radians(20)))
    with pytest.raises(VolumeError, match="shear"):
        layers.volume_of(Image(data, shear=(0.0, 0.0, 0.3)))


def test_layer_that_was_rescaled_or_cropped_no_longer_counts_as_the_file():
    volume = make_volume()
    layer = image_layer(volume)
    layer.scale = (3, 1, 1)
    assert layers.volume_of(layer).geometry.spacing == (3, 1, 1)
    assert layers.volume_of(layer).modality == "CT"
    layer = image_layer(volume)
    layer.data = volume.data[1:]
    assert layers.volume_of(layer).geometry.shape == (4, 8, 10)


def test_layer_whose_voxels_were_changed_keeps_its_grid():
    volume = make_volume()
    layer = image_layer(volume)
    layer.data = volume.data + 1
    changed = layers.volume_of(layer)
    assert changed.geometry == volume.geometry
    np.testing.assert_array_equal(changed.data, volume.data + 1)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Image(np.zeros((4, 5, 6, 3), np.uint8), rgb=True), "RGB"),
        (Image(np.zeros((2, 3, 4, 5), np.int16)), "4 dimensions"),
        (Image(np.zeros((4, 5), np.int16)), "single picture"),
        (Points(np.zeros((1, 3))), "points layer"),
        (Labels(np.zeros((3, 4, 5), np.uint8)), "labels layer"),
    ],
)
def test_what_cannot_be_segmented_says_why(layer, words):
    sentence = layers.problem_with(layer)
    assert words in sentence
    assert sentence.endswith(".")
    if isinstance(layer, Image):
        with pytest.raises(VolumeError, match=words):
            layers.volume_of(layer)


def counted_lazy_array(reads: list[int]):
    """A dask array that notes how many voxels were computed."""

    def note(block):
        reads.append(block.size)
        return block

    whole = dask.array.ones((3, 4, 5), dtype=np.int16, chunks=(1, 4, 5))
    return whole.map_blocks(note, dtype=np.int16, meta=np.empty((0, 0, 0), np.int16))


def test_lazy_array_is_computed_only_when_the_volume_is_asked_for():
    reads: list[int] = []
    layer = Image(counted_lazy_array(reads), contrast_limits=(0, 1), cache=False)
    reads.clear()
    assert layers.is_lazy(layer)
    assert layers.problem_with(layer) is None
    assert layers.geometry_of(layer).shape == (3, 4, 5)
    assert reads == []
    assert layers.volume_of(layer).data.sum() == 60
    assert sum(reads) == 60


def test_a_lazy_array_that_takes_much_of_the_memory_stays_lazy(monkeypatch):
    reads: list[int] = []
    layer = Image(counted_lazy_array(reads), contrast_limits=(0, 1), cache=False)
    reads.clear()
    monkeypatch.setattr(layers, "available_memory", lambda: 4 * 119)
    data = layers.volume_of(layer).data
    assert isinstance(data, LazyArray)
    reads.clear()  # a sample was looked at
    assert data[1].tolist() == np.ones((4, 5)).tolist()
    assert reads == [20]
    monkeypatch.setattr(layers, "available_memory", lambda: 4 * 120)
    assert isinstance(layers.volume_of(layer).data, np.ndarray)


def test_a_large_ome_zarr_is_shown_and_stays_in_its_file(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(-1000, 1000, (6, 8, 10)).astype(np.int16)
    path = write_ome_zarr(tmp_path / "scan.ome.zarr", values, levels=1)
    assert not layers.is_lazy(Layer.create(*layers.volume_to_layer(read_volume(path, lazy="large"))))
    monkeypatch.setattr("napari_transunet.io.ome_zarr.reading.available_memory", lambda: 100)
    volume = read_volume(path, lazy="large")
    layer = Layer.create(*layers.volume_to_layer(volume))
    assert layers.is_lazy(layer)
    assert layers.volume_of(layer) is volume
    viewer = ViewerModel()
    viewer.add_layer(layer)
    viewer.dims.set_current_step(0, 2)
    assert np.array_equal(np.asarray(layer._data_view), values[2])


def test_what_was_assumed_in_reading_goes_with_image_and_labels():
    notes = ("Voxels of 1 mm were assumed.",)
    scan = replace(make_volume(), source=Source(None, "npy", "scan", notes=notes))
    drawn = Layer.create(*layers.labels_to_layer(np.zeros(scan.data.shape, np.uint8), scan, None, "drawn"))
    from_file = Layer.create(*layers.volume_to_layer(replace(scan, data=drawn.data, labels=LabelSet())))
    assert layers.notes_of(image_layer(scan)) == layers.notes_of(drawn) == notes
    assert layers.notes_of(from_file) == notes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1, 2), True),
        ((0, 1, 2.5), False),
        ((-1, 0, 1), False),
        ((0, 300), False),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_stored_as_floats_look_like_labels_too(values, expected, dtype):
    data = np.resize(np.array(values, dtype), (3, 4, 5))
    volume = Volume(data, Geometry.default(data.shape), None, Source(None, "NIfTI", "seg"))
    assert layers.looks_like_labels(Layer.create(*layers.volume_to_layer(volume))) is expected
