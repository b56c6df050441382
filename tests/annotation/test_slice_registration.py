"""Slices of an image registered with one another."""

import numpy as np
import pytest

from napari_transunet.annotation.slice_registration import SliceRegistration
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.annotation.blobs import blob


def volume(data, in_plane=1.5):
    geometry = Geometry(data.shape, (2.0, in_plane, in_plane), (0.0, 0.0, 0.0))
    return Volume(data, geometry, "MR", Source(None, "array", "moving"))


def drifting(side, step, slices=6):
    """A bright blob that moves to the right by so many pixels from slice to slice."""
    radius = side / 8
    return np.stack([blob((side, side), side / 2, side / 3 + step * z, radius) for z in range(slices)])


@pytest.mark.parametrize(("side", "in_plane", "step"), [(64, 1.5, 1.0), (256, 0.7, 3.0), (40, 1.0, 1.0)])
def test_what_moves_is_found_in_other_slices(side, in_plane, step):
    images = drifting(side, step)
    registered = SliceRegistration(volume(images, in_plane), 0)
    box = slice(side // 4, side - 3), slice(5, side - 2)
    for start, stop in ((0, 5), (5, 0)):
        for index, far in registered.from_slice(start, stop):
            left = np.abs(images[start] - images[index])[*box].sum()
            brought = registered.moved(images[start][*box], far, box)
            assert np.abs(brought - images[index][*box]).sum() < 0.4 * left
    assert [index for index, _ in registered.from_slice(4, 1)] == [3, 2, 1]


def test_registering_ahead_says_how_far_it_is_and_does_nothing_twice():
    images = drifting(40, 1.0)
    ahead, anew = (SliceRegistration(volume(images), 0) for _ in range(2))
    assert list(ahead.register(1, 3)) == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [total for _, total in ahead.register(0, 3)] == [2, 2]
    assert not list(ahead.register(0, 3))
    images[...] = 0
    known = dict(ahead.from_slice(3, 0))
    assert all(known[index].any() for index in known)
    assert not any(far.any() for _, far in anew.from_slice(3, 0))


def test_slices_along_another_axis_are_registered_alike():
    images = drifting(48, 1.0)
    first = dict(SliceRegistration(volume(images), 0).from_slice(0, 3))
    turned = Volume(
        np.moveaxis(images, 0, 1),
        Geometry((48, 6, 48), (1.5, 2.0, 1.5), (0.0, 0.0, 0.0)),
        "MR",
        Source(None, "array", "turned"),
    )
    second = dict(SliceRegistration(turned, 1).from_slice(0, 3))
    assert first.keys() == second.keys() == {1, 2, 3}
    assert all(np.array_equal(first[index], second[index]) for index in first)


@pytest.mark.parametrize("data", [np.zeros((3, 20, 20)), np.full((3, 20, 20), np.nan), np.zeros((3, 1, 20))])
def test_where_nothing_is_to_be_seen_nothing_moves(data):
    registered = SliceRegistration(volume(data.astype(np.float32)), 0)
    assert all(not far.any() for _, far in registered.from_slice(0, 2))
