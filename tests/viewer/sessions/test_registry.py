"""One answer to which image, which labels, which session: by grids and by what a person says, by nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from napari.layers._layer_actions import _duplicate_layer

from napari_transunet.annotation.provenance import RunRecord
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.viewer.layers.layer_record import change_record, record_of
from napari_transunet.viewer.layers.layers import geometry_of, labels_to_layer, volume_of, volume_to_layer
from napari_transunet.viewer.sessions import registry
from napari_transunet.viewer.sessions.registry import Sessions
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.volume import Source, Volume

SHAPE = (8, 20, 24)
LABELS = LabelSet.from_names({1: "liver", 2: "spleen"})


@pytest.fixture
def viewer(qapp):
    return ViewerModel()


@pytest.fixture
def sessions(viewer):
    made = Sessions(viewer)
    yield made
    made.deleteLater()


def _image(viewer, *, at: float = 0.0, name: str = "ct"):
    volume = synthetic_ct(SHAPE)[0]
    x, y, z = volume.geometry.origin
    moved = replace(volume, geometry=replace(volume.geometry, origin=(x, y, z + at)))
    return viewer.add_layer(Layer.create(*volume_to_layer(moved, name=name)))


def _labels(geometry: Geometry, name: str = "labels") -> Layer:
    data = np.zeros(geometry.shape, np.uint8)
    data[1, 2, 3] = 1
    return Layer.create(*labels_to_layer(data, geometry, LABELS, name))


def test_labels_belong_to_the_image_on_whose_grid_they_lie_whatever_lies_on_top(viewer, sessions):
    first = _image(viewer)
    labels = viewer.add_layer(_labels(geometry_of(first)))
    _image(viewer, at=400.0)  # of the same shape, and topmost
    result = sessions.result_for(labels)
    assert sessions.image_of(result) is first
    assert sessions.result_for(labels) is result  # one session a layer
    with pytest.raises(ValueError, match="session"):
        sessions.bind_result(labels, first, AnnotationSession(SHAPE, {}))


def test_where_two_images_share_a_grid_a_person_decides(viewer, sessions):
    first, second = _image(viewer, name="a"), _image(viewer, name="b")
    labels = viewer.add_layer(_labels(geometry_of(first)))
    assert sessions.result_for(labels) is None
    assert sessions.images_on_grid_of(labels) == [first, second]
    result = sessions.assign_image(labels, second)
    assert sessions.image_of(result) is second
    assert sessions.result_on(first) is None
    # Until a run wrote into them, it can be said again.
    assert sessions.assign_image(labels, first) is result
    assert sessions.result_on(first) is result


def test_equal_shapes_elsewhere_decide_nothing(viewer, sessions):
    image = _image(viewer)
    labels = viewer.add_labels(np.zeros(SHAPE, np.uint8))  # voxels of 1 mm at the origin
    assert sessions.result_for(labels) is None
    assert list(sessions.assignable_images(labels)) == [image]
    sessions.assign_image(labels, image)
    assert geometry_of(labels) == geometry_of(image)
    assert np.allclose(labels.data_to_world((5, 4, 3)), image.data_to_world((5, 4, 3)))
    other = viewer.add_labels(np.zeros((8, 20, 23), np.uint8))
    with pytest.raises(VolumeError, match="sizes"):
        sessions.assign_image(other, image)


PLACED_ELSEWHERE: dict[str, dict[str, Any]] = {
    "rotated": {"rotate": (0, 0, 30), "scale": (3, 0.7, 0.8), "translate": (1, 2, 3)},
    "axes swapped": {"affine": np.array([[3, 0, 0, 5], [0, 0, 1, 7], [0, -1, 0, 9], [0, 0, 0, 1.0]])},
    "micrometres": {"scale": (500, 300, 300), "units": ("um",) * 3, "translate": (100, 0, 0)},
    "pixels": {"scale": (-2, 1, 1)},
}


@pytest.mark.parametrize("how", PLACED_ELSEWHERE)
def test_labels_are_shown_where_their_image_is_whoever_placed_it(viewer, sessions, how):
    image = viewer.add_image(np.zeros(SHAPE, np.int16), name="ct", **PLACED_ELSEWHERE[how])
    made = sessions.new_result(image, volume_of(image), LABELS).layer
    drawn = viewer.add_labels(np.zeros(SHAPE, np.uint8))
    sessions.assign_image(drawn, image)
    for layer in (made, drawn):
        assert layer.units == image.units  # else napari says that it leaves all units out
        assert geometry_of(layer) == geometry_of(image)
        for corner in ((0, 0, 0), (7, 0, 3), (2, 9, 11)):
            np.testing.assert_allclose(
                layer.data_to_world(corner), image.data_to_world(corner), rtol=0, atol=1e-6
            )


def test_labels_stay_on_their_image_where_it_is_rescaled_or_moved(viewer, sessions):
    image = _image(viewer)
    exact = geometry_of(image)
    layer = viewer.add_layer(sessions.new_result(image, volume_of(image), LABELS).layer)
    place = image.scale.copy(), image.translate.copy()
    image.scale = (5, 0.6, 0.6)  # a person corrects the voxel size, say
    image.translate = (10, 20, 30)
    assert geometry_of(layer) == geometry_of(image)
    assert geometry_of(layer).spacing == pytest.approx((5, 0.6, 0.6))
    np.testing.assert_allclose(layer.data_to_world((3, 4, 5)), image.data_to_world((3, 4, 5)))
    image.shear = (0, 0, 0.5)  # has no grid
    image.shear = (0, 0, 0)
    image.scale, image.translate = place
    assert geometry_of(layer) == geometry_of(image) == exact
    other = _image(viewer, at=400.0)
    other.scale = (1, 1, 1)
    assert geometry_of(layer) == exact


def test_labels_that_cannot_be_written_to_are_copied_before_they_are_corrected(viewer, sessions):
    image = _image(viewer)
    labels = _labels(geometry_of(image))
    labels.data.flags.writeable = False
    viewer.add_layer(labels)
    assert sessions.result_for(labels) is not None
    labels.data[1, 1, 1] = 2
    assert labels.data[1, 2, 3] == 1


def test_labels_stored_in_another_axis_order_come_onto_the_images_voxels(viewer, sessions):
    image = _image(viewer)
    wanted = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    axes, flips = (2, 0, 1), (True, False, True)
    turned = np.flip(np.transpose(wanted, axes), [at for at, flip in enumerate(flips) if flip])
    geometry = geometry_of(image).reoriented(axes, flips)
    labels = viewer.add_layer(Layer.create(*labels_to_layer(turned, geometry, LABELS, "turned")))
    result = sessions.result_for(labels)
    assert sessions.image_of(result) is image
    assert np.array_equal(labels.data, wanted)
    assert result.session.edited_voxels(labels.data) == 0
    assert geometry_of(labels) == geometry_of(image)


def test_a_result_is_found_by_its_image_not_by_its_name_and_not_after_its_voxels_changed(viewer, sessions):
    image = _image(viewer)
    result = sessions.new_result(image, volume_of(image), LABELS)
    viewer.add_layer(result.layer)
    result.layer.name, image.name = "something else", "renamed"
    assert sessions.result_on(image, LABELS) is result
    assert sessions.result_on(image, LabelSet.from_names({1: "aorta"})) is None
    image.data = np.zeros(SHAPE, np.int16)
    assert sessions.result_on(image) is None


def test_a_copy_knows_what_made_the_labels_that_were_copied(viewer, sessions):
    image = _image(viewer)
    result = sessions.new_result(image, volume_of(image), LABELS)
    result.session.add_run(RunRecord.of_no_network("organs", "imported", "imported", total=8, axis=0))
    viewer.add_layer(result.layer)
    viewer.layers.selection.active = result.layer
    for copies in (1, 2):
        _duplicate_layer(viewer.layers)
        copy = viewer.layers.selection.active = viewer.layers[-1]
        told = sessions.result_for(copy).session.provenance(copy.data)
        for _ in range(copies):
            assert "checkpoint" not in told
            told = told["opened"]
        assert told["checkpoint"] == "organs"
    assert "opened" not in result.session.provenance(result.layer.data)


def test_a_copy_has_no_session_and_takes_nothing_over(viewer, sessions, qtbot):
    image = _image(viewer)
    result = sessions.new_result(image, volume_of(image), LABELS)
    viewer.add_layer(result.layer)
    selected = []
    sessions.selected.connect(selected.append)
    viewer.layers.selection = {result.layer}
    _duplicate_layer(viewer.layers)
    copy = viewer.layers[-1]
    assert viewer.layers.selection.active is copy  # napari's doing
    assert sessions.result_of(copy) is None
    assert sessions.result_on(image) is result
    assert selected == []
    assert sessions.unassigned_labels_on(image) == [copy]
    qtbot.waitUntil(
        lambda: viewer.layers.selection.active is result.layer
    )  # strokes do not go into the backup
    # A person may take the copy all the same.
    sessions.set_current(sessions.result_for(copy))
    assert sessions.result_on(image).layer is copy


def test_the_selected_labels_of_a_volume_are_meant(viewer, sessions):
    image = _image(viewer)
    one, two = (sessions.new_result(image, volume_of(image), LABELS) for _ in range(2))
    viewer.add_layer(two.layer)
    viewer.add_layer(one.layer)
    for result in (two, one, two):
        viewer.layers.selection.active = result.layer
        assert sessions.result_on(image) is result


def test_a_removed_layer_takes_its_session_along(viewer, sessions):
    image = _image(viewer)
    result = sessions.new_result(image, volume_of(image), LABELS)
    viewer.add_layer(result.layer)
    viewer.layers.remove(result.layer)
    assert sessions.result_on(image) is None


@pytest.mark.parametrize("images", [0, 1, 2])
def test_a_dropped_file_of_labels_is_tied_where_its_image_is_certain(viewer, sessions, images):
    volume = synthetic_ct(SHAPE)[0]
    for number in range(images):
        _image(viewer, name=f"ct {number}")
    turned = volume.geometry.reoriented((0, 1, 2), (False, True, True))
    data = np.zeros(SHAPE, np.uint8)
    data[1, 2, 3] = 2
    read = replace(
        volume,
        data=data,
        geometry=turned,
        labels=LABELS,
        source=Source(Path("labels.nrrd"), "NRRD", "labels"),
    )
    labels = viewer.add_layer(Layer.create(*volume_to_layer(read)))
    result = sessions.result_of(labels)
    assert (result is not None) == (images == 1)
    if result is not None:
        assert sessions.image_of(result).name == "ct 0"
        assert result.session.names == LABELS.names
        assert labels.data[1, -3, -4] == 2
        assert geometry_of(labels).matches(volume.geometry)


def test_labels_that_memory_cannot_hold_are_refused_before_anything_is_made(viewer, sessions, monkeypatch):
    image = _image(viewer)
    volume = volume_of(image)
    monkeypatch.setattr(registry, "available_memory", lambda: 6 * volume.data.size - 1)
    with pytest.raises(SizeError, match="open it as an OME-Zarr in a folder"):
        sessions.new_result(image, volume, LABELS)
    assert sessions.recently_used() == []
    monkeypatch.setattr(registry, "available_memory", lambda: 6 * volume.data.size)
    assert sessions.new_result(image, volume, LABELS).lies_on(image)


def _part(image, *, first: int = 2, **about: Any) -> Layer:
    """A labels layer, as read from a file, on slices of an image's grid from `first` on."""
    geometry = geometry_of(image)
    origin = tuple((geometry.affine_lps @ [0, 0, first, 1.0])[:3].tolist())
    data = np.zeros((5, *SHAPE[1:]), np.uint8)
    data[1, 2, 3] = 1
    source = Source(Path("seg.dcm"), "DICOM segmentation", "seg", omits_background=True, **about)
    volume = Volume(data, replace(geometry, shape=data.shape, origin=origin), None, source, LABELS)
    return Layer.create(*volume_to_layer(volume))


def test_labels_on_a_part_of_an_image_are_its_own_where_their_file_names_its_series(viewer, sessions):
    image = _image(viewer)
    volume = record_of(image).volume
    change_record(image, volume=replace(volume, source=replace(volume.source, series_uid="1.2.3")))
    other = _image(viewer, name="other patient, same size")
    layer = viewer.add_layer(_part(image, refers_to=("1.2.3",)))
    result = sessions.result_of(layer)
    assert sessions.image_of(result) is image
    assert geometry_of(layer) == geometry_of(image)
    assert np.argwhere(layer.data).tolist() == [[3, 2, 3]]
    assert result.session.shape == SHAPE
    assert result.session.edited_voxels(layer.data) == 0
    for told in (result.session.coverage, result.session.provenance(layer.data)["coverage"]):
        assert "5 of 8 slices along z; the rest counts as background" in told
    assert sessions.result_on(other) is None


def test_by_its_position_alone_labels_are_no_part_of_an_image_until_a_person_says_so(viewer, sessions):
    image = _image(viewer)
    layer = viewer.add_layer(_part(image, refers_to=("9.9",)))
    assert sessions.result_for(layer) is None
    assert layer.data.shape == (5, *SHAPE[1:])
    assert sessions.images_on_grid_of(layer) == []
    assert sessions.images_covered_by(layer) == list(sessions.assignable_images(layer)) == [image]
    assert sessions.unassigned_labels_on(image) == [layer]
    sessions.assign_image(layer, image)
    assert np.argwhere(layer.data).tolist() == [[3, 2, 3]]
    assert np.allclose(layer.data_to_world((5, 4, 3)), image.data_to_world((5, 4, 3)))
    layer.undo()  # a history of strokes would be replayed into other voxels
    assert layer.data.shape == SHAPE


def test_labels_that_stick_out_of_the_image_are_refused_and_stay_as_they_are(viewer, sessions):
    image = _image(viewer)
    layer = viewer.add_layer(_part(image, first=7))
    with pytest.raises(VolumeError, match="1 labelled voxels lie outside"):
        sessions.assign_image(layer, image)
    assert sessions.result_of(layer) is None
    assert layer.data.shape == (5, *SHAPE[1:])
    assert layer.editable
