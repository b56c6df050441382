"""What a window shows of the patient while a dock is open, and that it is gone afterwards."""

import numpy as np
import pytest
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QLabel, QToolButton, QWidget

from napari_transunet.viewer.anatomy.actions import VIEW_ACTIONS
from napari_transunet.viewer.anatomy.anatomy import anatomy_of
from napari_transunet.viewer.anatomy.directions import Edges, Plane
from napari_transunet.viewer.anatomy.edge_letters import EdgeLetters
from napari_transunet.viewer.anatomy.view_bar import ViewBar
from napari_transunet.viewer.layers.layers import add_volume, geometry_of, labels_to_layer, volume_of
from napari_transunet.viewer.layers.napari_versions import camera_of, scale_bar_of
from napari_transunet.viewer.review.review_dock import ReviewDock
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.volume import Source, Volume
from tests.viewer.waiting import TIMEOUT

AXIAL = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
CORONAL = {"left": "R", "right": "L", "top": "H", "bottom": "F"}


class Looking:
    """A window with the review dock and a CT."""

    def __init__(self, viewer, qtbot, shape=(12, 48, 56)):
        self.viewer, self.qtbot = viewer, qtbot
        volume, labels, names = synthetic_ct(shape)
        self.image = add_volume(viewer, volume, name="ct")
        data, meta, _ = labels_to_layer(labels.copy(), volume, names, "organs")
        self.labels = viewer.add_labels(data, **meta)
        self.dock, _ = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
        self.anatomy = anatomy_of(viewer)
        self.until(lambda: self.anatomy.letters == AXIAL)

    def until(self, condition):
        self.qtbot.waitUntil(condition, timeout=TIMEOUT)

    def planes(self):
        self.anatomy.do("planes")
        self.until(lambda: self.anatomy.three_planes.complete)
        return self.anatomy.three_planes

    def press(self, key):
        self.viewer.keymap[next(known for known in self.viewer.keymap if str(known) == key)](self.viewer)


def test_buttons_and_keys_lead_to_planes_with_their_letters(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    viewer, bar = looking.viewer, looking.viewer.window._qt_window.findChild(ViewBar)
    bar.findChild(QToolButton, "view_coronal").click()
    looking.until(lambda: looking.anatomy.letters == CORONAL)
    assert viewer.dims.displayed == (0, 2)
    looking.press("F2")
    looking.until(lambda: looking.anatomy.letters == AXIAL)
    viewer.dims.order = (0, 2, 1)  # napari's own roll
    looking.until(lambda: looking.anatomy.letters["top"] == "R")
    assert scale_bar_of(viewer).visible


def test_front_hides_the_scan_until_a_plane_is_shown(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    looking.anatomy.do("front")
    assert looking.viewer.dims.ndisplay == 3
    assert not looking.image.visible
    assert looking.labels.visible
    looking.until(lambda: looking.anatomy.letters == CORONAL)
    camera_of(looking.viewer).angles = (20, 30, 40)  # turned: the edges are no sides any more
    looking.until(lambda: looking.anatomy.letters == {})
    looking.anatomy.do("sagittal")
    assert looking.image.visible
    assert looking.viewer.dims.ndisplay == 2


def test_window_presets_set_hounsfield_units_of_ct_alone(make_napari_viewer, qtbot, monkeypatch):
    looking = Looking(make_napari_viewer(), qtbot)
    said = []
    monkeypatch.setattr("napari.utils.notifications.show_info", said.append)
    for name, limits in {
        "window_abdomen": (-160, 240),
        "window_lung": (-1350, 150),
        "window_bone": (-500, 1300),
        "window_liver": (-45, 105),
        "window_brain": (0, 80),
    }.items():
        looking.anatomy.do(name)
        assert tuple(looking.image.contrast_limits) == limits
        low, high = looking.image.contrast_limits_range
        assert low <= limits[0] < limits[1] <= high
    looking.press("Ctrl+2")
    assert tuple(looking.image.contrast_limits) == (-1350, 150)
    mr = Volume(np.zeros((3, 4, 5), np.int16), Geometry.default((3, 4, 5)), "MR", Source(None, "test", "mr"))
    looking.viewer.layers.selection.active = add_volume(looking.viewer, mr)
    looking.anatomy.do("window_lung")
    assert "not known to be CT" in said[-1]


def test_value_and_place_are_told_on_the_image_and_on_its_labels(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    viewer, index = looking.viewer, (4, 20, 15)
    at = tuple(looking.image.data_to_world(index))
    place = geometry_of(looking.image).affine_lps @ [15, 20, 4, 1]
    for active in (looking.image, looking.labels):
        viewer.layers.selection.active = active
        viewer.cursor.position = tuple(looking.image.data_to_world((4, -20, 16)))
        assert looking.anatomy.readout == ""
        viewer.cursor.position = at
        assert f"{float(looking.image.data[index]):,.6g} HU" in looking.anatomy.readout
        for mm in place[:3]:
            assert f" {abs(mm):.0f}" in looking.anatomy.readout


def test_overlays_can_be_hidden(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    looking.anatomy._show_overlay("letters", False)
    looking.until(lambda: looking.anatomy.letters == {})
    looking.anatomy._show_overlay("scale_bar", False)
    assert not scale_bar_of(looking.viewer).visible


def test_all_goes_with_the_last_dock(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    viewer = looking.viewer
    assert any(str(key) == "F3" for key in viewer.keymap)
    viewer.window.remove_dock_widget(looking.dock)
    looking.qtbot.wait(20)
    assert looking.anatomy.letters == {}
    assert not scale_bar_of(viewer).visible
    assert not any(str(key) in {action.key for action in VIEW_ACTIONS.values()} for key in viewer.keymap)
    viewer.dims.order = (1, 0, 2)
    viewer.cursor.position = (0, 0, 0)


def test_strokes_in_another_plane_are_strokes_of_the_window(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    viewer, layer = looking.viewer, looking.labels
    planes = looking.planes()
    coronal = planes.planes[Plane.CORONAL]
    twin = coronal.twin(layer)
    assert twin.data is layer.data
    assert coronal.letters.texts == CORONAL
    viewer.layers.selection.active = layer
    layer.mode, layer.selected_label, layer.brush_size = "paint", 7, 3
    assert (str(twin.mode), twin.selected_label, twin.brush_size) == ("paint", 7, 3)
    assert coronal.model.layers.selection.active is twin

    before, told = layer.data.copy(), []
    layer.events.paint.connect(lambda event: told.append(event.value))
    twin.paint((3, 5, 6), 7)
    changed = layer.data != before
    assert changed.any()
    looking.until(lambda: len(told) == 1)
    assert changed[:, 5].sum() == changed.sum()  # in the coronal slice alone
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)
    layer.redo()
    np.testing.assert_array_equal(layer.data != before, changed)
    next(act for key, act in twin.keymap.items() if str(key) == "Ctrl+Z")(twin)  # the key in the other plane
    np.testing.assert_array_equal(layer.data, before)


@pytest.mark.long
def test_strokes_in_another_plane_leave_locked_organs_alone_whatever_the_dock_shows(
    make_napari_viewer, qtbot, monkeypatch
):
    looking, said = Looking(make_napari_viewer(), qtbot), []
    monkeypatch.setattr("napari.utils.notifications.show_info", said.append)
    layer = looking.labels
    result = sessions_of(looking.viewer).result_for(layer)
    twin = looking.planes().planes[Plane.CORONAL].twin(layer)
    looking.dock.findChild(ReviewDock).follow(None)
    before = layer.data.copy()
    at = tuple(int(axis) for axis in np.argwhere(before)[len(np.argwhere(before)) // 2])
    locked = int(before[at])
    result.session.locked = frozenset({locked})
    twin.brush_size = 15
    twin.paint(at, 99)
    assert (layer.data[before == locked] == 99).any()
    looking.until(lambda: bool(said))
    np.testing.assert_array_equal(layer.data == locked, before == locked)
    assert (layer.data == 99).any()
    layer.undo()
    np.testing.assert_array_equal(layer.data, before)


@pytest.mark.long
def test_planes_meet_where_the_mouse_was_before_they_were_there(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    place = looking.image.data_to_world((3, 7, 9))
    looking.viewer.cursor.position = tuple(place)
    looking.viewer.dims.point = looking.image.data_to_world(
        (3, 2, 2)
    )  # the planes are moved there: no mouse does it
    planes = looking.planes()
    looking.anatomy.do("here")
    for plane, axis in ((Plane.CORONAL, 1), (Plane.SAGITTAL, 2)):  # each along the axis that it does not show
        assert planes.planes[plane].model.dims.point[axis] == pytest.approx(place[axis])


def test_planes_are_linked_and_follow_the_layers(make_napari_viewer, qtbot):
    looking = Looking(make_napari_viewer(), qtbot)
    viewer = looking.viewer
    planes = looking.planes()
    coronal, sagittal = (planes.planes[plane].model for plane in (Plane.CORONAL, Plane.SAGITTAL))
    drawn = []
    planes.planes[Plane.SAGITTAL].twin(looking.image).events.set_data.connect(drawn.append)
    viewer.dims.set_point(0, 20.0)
    at = viewer.dims.point[0]
    assert not drawn  # it shows the same slice as before
    sagittal.dims.set_point(2, 5.0)
    assert drawn
    assert sagittal.dims.point[2] != viewer.dims.point[2]
    looking.anatomy.do("sagittal")  # of the window, which now shows that plane too
    assert viewer.dims.point[2] == pytest.approx(sagittal.dims.point[2])
    looking.anatomy.do("axial")
    assert viewer.dims.point[0] == pytest.approx(at)
    sagittal.cursor.position = tuple(looking.image.data_to_world((3, 7, 9)))
    looking.anatomy.do("here")
    for axis, model in enumerate((viewer, coronal, sagittal)):
        assert model.dims.point[axis] == pytest.approx(sagittal.cursor.position[axis])
    viewer.dims.point = looking.image.data_to_world((5, 9, 11))  # as a script does
    for axis, model in enumerate((viewer, coronal, sagittal)):
        assert model.dims.point[axis] == pytest.approx(viewer.dims.point[axis])

    looking.image.contrast_limits = (-100, 300)
    assert tuple(planes.planes[Plane.SAGITTAL].twin(looking.image).contrast_limits) == (-100, 300)
    other = viewer.add_image(volume_of(looking.image).data * 2, scale=looking.image.scale)
    looking.until(lambda: planes.planes[Plane.CORONAL].twin(other) is not None)
    viewer.layers.remove(other)
    looking.until(lambda: planes.planes[Plane.CORONAL].twin(other) is None)
    looking.anatomy.do("planes")
    assert looking.anatomy.three_planes is None
    looking.image.contrast_limits = (-160, 240)  # nobody listens any more


@pytest.mark.parametrize(("width", "clear_of_bar"), [(250, True), (800, False)])
def test_on_a_narrow_canvas_the_letter_below_stands_beside_the_scale_bar(qtbot, width, clear_of_bar):
    around = QWidget()
    qtbot.addWidget(around)
    canvas = QOpenGLWidget(around)
    canvas.resize(width, 300)
    letters = EdgeLetters(around)
    letters.show_edges(Edges(left="R", right="L", top="A", bottom="P"))
    below = canvas.findChild(QLabel, "letter_bottom").geometry()
    above = canvas.findChild(QLabel, "letter_top").geometry()
    assert below.right() < width - 165
    assert (below.center().x() < above.center().x()) == clear_of_bar
