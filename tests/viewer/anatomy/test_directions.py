"""Sides of the patient and anatomical planes, for volumes stored and shown in any direction. No window is needed."""

import itertools

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_transunet.viewer.anatomy.directions import (
    Edges,
    Plane,
    edges_of,
    keep_hand,
    letters,
    patient_directions,
    view_of,
)
from napari_transunet.viewer.anatomy.views import Views
from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.viewer.layers.napari_versions import camera_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.orientation import Reorientation
from napari_transunet.volumes.volume import Source, Volume

EDGES = {
    Plane.AXIAL: Edges("R", "L", "A", "P"),
    Plane.CORONAL: Edges("R", "L", "H", "F"),
    Plane.SAGITTAL: Edges("A", "P", "H", "F"),
}
ALL_CODES = [
    "".join(side[at] for side, at in zip(axes, flips, strict=True))
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for flips in itertools.product((0, 1), repeat=3)
]


def turned(angle: float, shape=(6, 8, 10)) -> Geometry:
    """A grid rotated about the patient's long axis, its axes as L, P, S otherwise."""
    cos, sin = float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))
    return Geometry(shape, (3.0, 1.0, 1.0), (0, 0, 0), ((cos, -sin, 0), (sin, cos, 0), (0, 0, 1)))


def added(viewer: ViewerModel, geometry: Geometry, notes=()):
    data = np.zeros(geometry.shape, np.int16)
    return add_volume(viewer, Volume(data, geometry, "CT", Source(None, "test", "scan", notes=notes)))


@pytest.mark.parametrize("codes", ALL_CODES)
def test_every_storage_order_shows_every_plane_the_right_way_round(codes):
    base = Geometry((6, 8, 10), (3.0, 1.0, 1.0))
    turn = Reorientation.between(base, codes)
    viewer = ViewerModel()
    layer = added(viewer, base.reoriented(turn.axes, turn.flips))
    directions, views = patient_directions(layer), Views(viewer)
    for plane, edges in EDGES.items():
        views.show_plane(plane)
        assert edges_of(viewer, directions) == edges
    views.show_front()
    assert edges_of(viewer, directions) == EDGES[Plane.CORONAL]


@pytest.mark.parametrize("plane", list(Plane))
def test_planes_show_the_patient_and_no_mirror_image(plane):
    for codes in ALL_CODES[::5]:
        base = Geometry((6, 8, 10), (3.0, 1.0, 1.0))
        turn = Reorientation.between(base, codes)
        viewer = ViewerModel()
        directions = patient_directions(added(viewer, base.reoriented(turn.axes, turn.flips)))
        view = view_of(plane, directions)
        signs = [1 if part in ("towards", "up", "right") else -1 for part in view.orientation]
        towards, up, right = (directions[axis] * sign for axis, sign in zip(view.order, signs, strict=True))
        np.testing.assert_allclose(np.cross(right, up), towards, atol=1e-9)


def test_letters_follow_what_a_person_rolls_and_flips():
    viewer = ViewerModel()
    layer = added(viewer, Geometry((6, 8, 10), (3.0, 1.0, 1.0)))
    assert edges_of(viewer, patient_directions(layer)) == EDGES[Plane.AXIAL]
    viewer.dims.order = (0, 2, 1)
    assert edges_of(viewer, patient_directions(layer)) == Edges("A", "P", "R", "L")
    viewer.dims.order = (0, 1, 2)
    camera_of(viewer).orientation2d = ("up", "left")
    assert edges_of(viewer, patient_directions(layer)) == Edges("L", "R", "P", "A")
    camera_of(viewer).orientation2d = ("down", "right")
    layer.scale = layer.scale * [1, 1, -1]
    assert edges_of(viewer, patient_directions(layer)) == Edges("L", "R", "A", "P")


@pytest.mark.parametrize(
    ("angle", "right"), [(0, "L"), (14, "L"), (20, "LP"), (44, "LP"), (-20, "LA"), (100, "P")]
)
def test_oblique_volumes_have_the_nearest_side_first(angle, right):
    viewer = ViewerModel()
    directions = patient_directions(added(viewer, turned(angle)))
    assert letters(directions[2]) == right


def test_volumes_that_say_nothing_of_the_patient_have_no_letters():
    viewer = ViewerModel()
    geometry = Geometry((6, 8, 10), (3.0, 1.0, 1.0))
    layer = added(viewer, geometry, notes=("The file says nothing about voxel size or orientation.",))
    assert patient_directions(layer) is None
    other = viewer.add_image(np.zeros((6, 8, 10)))
    assert patient_directions(other) is None
    Views(viewer).show_plane(Plane.CORONAL)  # taken as left, back and head
    assert viewer.dims.order == (1, 0, 2)


def test_turning_to_3d_by_hand_never_mirrors_the_patient():
    viewer = ViewerModel()
    layer = added(viewer, Geometry((6, 8, 10), (3.0, 1.0, 1.0)))
    directions = patient_directions(layer)
    camera_of(viewer).orientation = ("towards", "down", "right")  # napari's default
    viewer.dims.ndisplay = 3
    keep_hand(viewer, directions)
    assert [str(part) for part in camera_of(viewer).orientation] == ["away", "down", "right"]
    viewer.dims.order = (0, 2, 1)
    keep_hand(viewer, directions)
    assert [str(part) for part in camera_of(viewer).orientation] == ["towards", "down", "right"]
