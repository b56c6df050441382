"""Labels that lie on no open image are saved while a person paints, and come back without one."""

import numpy as np
import pytest
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtWidgets import QPushButton, QTableWidget

from napari_transunet.annotation.session_store import SessionStore
from napari_transunet.errors import InputError
from napari_transunet.viewer.layers.layers import add_volume, geometry_of, label_set_of, new_labels_layer
from napari_transunet.viewer.sessions.kept_labels import grid_of, is_lone
from napari_transunet.viewer.sessions.recovery import Recovery
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.sessions.sessions_dialog import SessionsDialog
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct
from tests.viewer.waiting import TIMEOUT

SHAPE = (8, 24, 28)
LABELS = LabelSet.from_names({1: "liver", 2: "spleen"})
VOLUME = synthetic_ct(SHAPE)[0]
_ORGAN = np.zeros(SHAPE, np.uint8)
_ORGAN[2:5, 10:20, 10:20] = 1


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer()
    sessions_of(viewer)
    return viewer


def _painted(viewer):
    layer = viewer.add_layer(new_labels_layer(np.zeros(SHAPE, np.uint8), VOLUME, LABELS, "drawn"))
    layer.paint((3, 5, 5), 2)
    return layer


def _saved(qtbot, viewer, layer):
    """What is saved of it, once its layer is gone from the window."""
    viewer.layers.remove(layer)
    store = SessionStore()
    qtbot.waitUntil(lambda: any(not info.in_use for info in store.sessions()), timeout=TIMEOUT)
    return [info for info in store.sessions() if not info.in_use]


def test_strokes_come_back_alone_and_go_on_being_saved(viewer, qtbot):
    layer = _painted(viewer)
    layer.paint((6, 5, 5), 1)
    geometry, painted = geometry_of(layer), layer.data.copy()
    (info,) = _saved(qtbot, viewer, layer)
    assert is_lone(info)
    assert info.about.image_name == "drawn"

    dialog = SessionsDialog()
    qtbot.addWidget(dialog)
    recovery = Recovery(viewer)
    dialog.restore_wanted.connect(recovery.restore)
    dialog.show_for(None, None)
    table = dialog.findChild(QTableWidget, "sessions_table")
    qtbot.waitUntil(lambda: table.rowCount() == 1, timeout=TIMEOUT)
    table.selectRow(0)
    dialog.findChild(QPushButton, "session_restore").click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 1, timeout=TIMEOUT)
    back = viewer.layers["drawn"]
    np.testing.assert_array_equal(back.data, painted)
    assert geometry_of(back).matches(geometry)
    assert label_set_of(back).names == LABELS.names

    back.paint((1, 5, 5), 1)
    (again,) = _saved(qtbot, viewer, back)
    assert again.folder == info.folder
    folder = SessionStore().open(again)
    np.testing.assert_array_equal(folder.load().arrays["labels"], back.data)
    folder.close()


def test_labels_whose_image_is_closed_are_saved_alone_until_it_is_there_again(viewer, qtbot):
    image = add_volume(viewer, VOLUME, name="ct")
    layer = viewer.add_layer(new_labels_layer(np.zeros(SHAPE, np.uint8), VOLUME, LABELS, "drawn"))
    sessions = sessions_of(viewer)
    sessions.result_for(layer)
    viewer.layers.remove(image)
    layer.paint((3, 5, 5), 2)
    lone = sessions._lone[layer]
    qtbot.waitUntil(lambda: lone._saver is not None, timeout=TIMEOUT)
    sessions.assign_image(layer, add_volume(viewer, VOLUME, name="ct"))
    assert lone.closed
    layer.paint((4, 5, 5), 2)
    assert sessions.result_of(layer).autosave is not None
    qtbot.waitUntil(lambda: not lone.saving, timeout=TIMEOUT)


@pytest.mark.parametrize("kind", ["new", "copy"])
def test_strokes_in_labels_that_no_dock_took_up_are_saved_as_edits_of_their_image(viewer, qtbot, kind):
    image = add_volume(viewer, VOLUME, name="ct")
    sessions = sessions_of(viewer)
    if kind == "copy":
        viewer.layers.selection = {viewer.add_layer(new_labels_layer(_ORGAN, VOLUME, LABELS, "drawn"))}
        _duplicate_layer(viewer.layers)
        qtbot.waitUntil(lambda: sessions._new_copy is None, timeout=TIMEOUT)
    else:
        viewer.layers.selection = {image}
        viewer._new_labels()
    layer = viewer.layers.selection.active = viewer.layers[-1]
    start = layer.data.copy()
    layer.paint((3, 5, 5), 2)
    layer.fill((6, 0, 0), 2)  # of which napari tells before it writes
    edited = int((layer.data != start).sum())
    result = sessions.result_of(layer)
    assert sessions.image_of(result) is image
    assert result.session.edited_voxels(layer.data) == edited > 0
    (info,) = _saved(qtbot, viewer, layer)
    assert not is_lone(info)
    assert info.summary["edited_voxels"] == edited


def test_what_is_written_into_labels_that_nobody_selected_is_saved_alone(viewer, qtbot):
    image = add_volume(viewer, VOLUME, name="ct")
    layer = viewer.add_layer(new_labels_layer(_ORGAN, VOLUME, LABELS, "drawn"))
    viewer.layers.selection.active = image
    layer.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)
    assert sessions_of(viewer).result_of(layer) is None
    (info,) = _saved(qtbot, viewer, layer)
    assert is_lone(info)


def test_strokes_in_labels_that_lie_on_several_images_are_saved_alone(viewer, qtbot):
    for name in ("T1", "T2"):
        add_volume(viewer, VOLUME, name=name)
    layer = _painted(viewer)
    painted = int((layer.data > 0).sum())
    assert sessions_of(viewer).result_of(layer) is None  # a person decides
    (info,) = _saved(qtbot, viewer, layer)
    assert is_lone(info)
    assert info.summary["edited_voxels"] == painted > 0


def test_what_was_painted_before_an_image_was_chosen_stays_an_edit(viewer):
    first, _ = (add_volume(viewer, VOLUME, name=name) for name in ("T1", "T2"))
    layer = _painted(viewer)
    result = sessions_of(viewer).assign_image(layer, first)
    assert result.session.edited_voxels(layer.data) == int((layer.data > 0).sum()) > 0


def test_labels_without_a_grid_are_said_not_to_be_saved(viewer):
    layer = viewer.add_labels(np.zeros(SHAPE, np.uint8), name="sheared", shear=[0.5, 0, 0])
    told = []
    sessions_of(viewer).save_failed.connect(told.append)
    layer.paint((3, 5, 5), 2)
    assert len(told) == 1
    assert "“sheared” is not being saved" in told[0]


@pytest.mark.parametrize("grid", [None, {}, {"shape": [1, 2], "spacing": 1, "origin": [], "direction": [1]}])
def test_a_grid_that_is_none_is_refused(grid):
    with pytest.raises(InputError, match="were not restored"):
        grid_of({"grid": grid})
