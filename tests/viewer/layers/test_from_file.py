"""A scan that stays in its file: napari reads of it what is soon read, and no more."""

import numpy as np
import pytest

pytest.importorskip("zarr")

from napari.components import ViewerModel
from napari.utils.notifications import notification_manager

from napari_transunet.io.reading import read_volume
from napari_transunet.viewer.layers import from_file, layers
from tests.io.ome_zarr_samples import write_ome_zarr

SHAPE, CHUNKS = (16, 20, 24), (2, 20, 24)
PLANE, VOLUME = (
    2 * 20 * 24 * 2,
    16 * 20 * 24 * 2,
)  # bytes that are read for an axial plane, and for any other one
VALUES = np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)


def shown(tmp_path, monkeypatch, *, levels):
    """A viewer, the layer that stays in its file, and the bytes that were read of its finest resolution, one by one."""
    monkeypatch.setattr("napari_transunet.io.ome_zarr.reading.available_memory", lambda: 100)
    monkeypatch.setattr(from_file, "_ROUGH", 4)
    path = write_ome_zarr(tmp_path / "scan.ome.zarr", VALUES, levels=levels, chunks=CHUNKS)
    volume = read_volume(path, lazy="large")
    stored, reads = volume.data._stored, []
    read = stored._read

    def noting(region):
        reads.append(2 * int(np.prod([one.stop - one.start for one in region])))
        return read(region)

    monkeypatch.setattr(stored, "_read", noting)
    viewer = ViewerModel()
    layer = layers.add_volume(viewer, volume)
    assert layers.voxels_of(layer) is volume.data
    assert layers.volume_of(layer) is volume
    return viewer, layer, reads


def drawn(viewer, layer):
    """A plane as a canvas of 12 by 12 pixels has it, which chooses the resolution."""
    shape = np.array([layer.level_shapes[0][axis] for axis in viewer.dims.displayed])
    corners = layer.data_to_world(np.zeros(3)), layer.data_to_world(np.array(layer.level_shapes[0]) - 1)
    shown = np.array([[corner[axis] for axis in viewer.dims.displayed] for corner in corners])
    layer._update_draw(scale_factor=1, corner_pixels_displayed=np.sort(shown, 0), shape_threshold=(12, 12))
    assert layer.data_level == 0, shape
    return np.asarray(layer._data_view)


def test_neither_3d_nor_a_plane_across_the_chunks_reads_a_large_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(from_file, "_MOST", PLANE)
    monkeypatch.setattr("napari_transunet.volumes.lazy_array._SAMPLED", 100)
    viewer, layer, reads = shown(tmp_path, monkeypatch, levels=1)
    said = []
    notification_manager.notification_ready.connect(said.append)
    try:
        viewer.dims.order = (1, 0, 2)
        viewer.dims.set_current_step(1, 3)
        assert drawn(viewer, layer).tolist() == [[0]]
        assert len(said) == 1  # and not for each slice anew
        viewer.dims.ndisplay = 3
        layer.refresh()
        layer._update_draw(
            scale_factor=1, corner_pixels_displayed=np.zeros((2, 3)), shape_threshold=(12,) * 3
        )
        rough = np.asarray(layer._data_view)
        assert np.isin(rough, layer.data[0].sample()).all()
        assert rough.size > 8
        if hasattr(
            viewer, "scene"
        ):  # before 0.9 napari itself fails here, with any image of several resolutions
            for depth in (0.0, 7.0, 15.0):  # where the mouse may be
                at = {"view_direction": (0, 1, 0), "dims_displayed": [0, 1, 2], "world": True}
                layer.get_value(layer.data_to_world((depth, 3.0, 20.0)), **at)
        assert len(said) == 2
        assert "“scan” stays in its file" in said[0].message
    finally:
        notification_manager.notification_ready.disconnect(said.append)
    assert max(reads, default=0) <= PLANE
    viewer.dims.ndisplay = 2
    viewer.dims.order = (0, 1, 2)
    viewer.dims.set_current_step(0, 5)
    assert np.array_equal(drawn(viewer, layer), VALUES[5])
    # Whoever else asks gets the voxels.
    assert np.array_equal(layer.data[0][:, 3], VALUES[:, 3])
    assert np.array_equal(np.asarray(layer.data[0]), VALUES)
    assert np.array_equal(np.asarray(layer.data[0][:]), VALUES)


def test_what_is_soon_read_is_shown_in_every_view(tmp_path, monkeypatch):
    monkeypatch.setattr(from_file, "_MOST", VOLUME)
    viewer, layer, _ = shown(tmp_path, monkeypatch, levels=1)
    viewer.dims.order = (1, 0, 2)
    viewer.dims.set_current_step(1, 3)
    assert np.array_equal(layer._data_view, VALUES[:, 3])
    viewer.dims.ndisplay = 3
    assert np.array_equal(np.sort(layer._data_view, axis=None), np.sort(VALUES, axis=None))


def test_planes_along_the_chunks_are_shown_however_large(tmp_path, monkeypatch):
    monkeypatch.setattr(from_file, "_MOST", 1)
    viewer, layer, _ = shown(tmp_path, monkeypatch, levels=1)
    viewer.dims.set_current_step(0, 5)
    assert np.array_equal(drawn(viewer, layer), VALUES[5])


def test_coarser_resolutions_are_shown_where_they_suffice(tmp_path, monkeypatch):
    monkeypatch.setattr(from_file, "_MOST", VOLUME // 2)
    viewer, layer, reads = shown(tmp_path, monkeypatch, levels=3)
    assert [tuple(shape) for shape in layer.level_shapes] == [(16, 20, 24), (16, 10, 12), (16, 5, 6)]
    viewer.dims.ndisplay = 3
    assert np.array_equal(np.asarray(layer._data_view), VALUES[:, ::4, ::4])
    viewer.dims.ndisplay = 2
    viewer.dims.set_current_step(0, 7)
    assert np.array_equal(np.asarray(layer._data_view), VALUES[7, ::4, ::4])  # nobody has drawn it yet
    assert max(reads, default=0) <= PLANE
