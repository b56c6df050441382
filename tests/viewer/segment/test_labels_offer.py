"""Label files without names that were dropped on the window: in any order, with any dock."""

import numpy as np
import pytest

from napari_transunet.io.writing import write_labels
from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.viewer.segment.labels_offer import labels_offer_of
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.confirm_bar import ConfirmBar
from napari_transunet.viewer.widgets.docks import CASES, REVIEW, SEGMENT, show_dock
from napari_transunet.viewer.widgets.status_line import StatusLine
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume
from tests.viewer.waiting import TIMEOUT

GRID = Geometry((8, 10, 12), (2.5, 0.7, 0.7), (-3.0, -4.0, 10.0))


def dropped(viewer, name, *, grid=GRID, labels=False):
    values = np.random.default_rng(0).integers(0, 3 if labels else 900, grid.shape).astype(np.int16)
    return add_volume(viewer, Volume(values, grid, None, Source(None, "", name)))


def bar_of(dock):
    return dock.findChild(ConfirmBar, "question_bar")


@pytest.mark.parametrize(
    "name", [SEGMENT, *(pytest.param(name, marks=pytest.mark.long) for name in (REVIEW, CASES))]
)
def test_the_dock_that_is_in_sight_asks_also_about_labels_that_came_before_their_image(
    make_napari_viewer, qtbot, name
):
    viewer = make_napari_viewer(show=True)
    seg = dropped(viewer, "seg", labels=True)
    scan = dropped(viewer, "scan")
    for other in (SEGMENT, name):
        dock = show_dock(viewer, other)
        qtbot.waitUntil(lambda dock=dock: not dock.visibleRegion().isEmpty())
    dropped(viewer, "elsewhere", grid=Geometry(GRID.shape, GRID.spacing, (90.0, 0.0, 0.0)), labels=True)
    qtbot.waitUntil(lambda: bar_of(dock).open)
    segment = show_dock(viewer, SEGMENT)
    assert segment.volume.layer is not seg
    with qtbot.waitSignal(labels_offer_of(viewer).opened) as told:
        bar_of(dock)._yes.click()
    (layer,) = told.args
    assert np.array_equal(layer.data, seg.data)
    sessions = sessions_of(viewer)
    assert sessions.image_of(sessions.result_of(layer)) is scan
    assert "elsewhere" in viewer.layers  # it lies on the grid of no other


@pytest.mark.long
def test_what_is_to_stay_an_image_is_chosen_and_asked_about_no_more(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    dock = show_dock(viewer, SEGMENT)
    scan = dropped(viewer, "scan")
    few = dropped(viewer, "few values", labels=True)
    qtbot.waitUntil(lambda: dock.question.open)
    assert dock.volume.layer is scan
    dock.question._no.click()
    assert dock.volume.layer is few
    dropped(viewer, "another")
    qtbot.wait(50)
    assert not dock.question.open


def test_a_mask_that_was_cropped_is_asked_about_and_put_onto_its_scan(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    dock = show_dock(viewer, SEGMENT)
    scan = dropped(viewer, "scan", grid=Geometry(GRID.shape, GRID.spacing, (50.0, 60.0, 70.0)))
    part = Geometry((4, 10, 12), GRID.spacing, (50.0, 60.0, 75.0))
    seg = dropped(viewer, "seg", grid=part, labels=True)
    qtbot.waitUntil(lambda: dock.question.open)
    assert dock.volume.layer is scan
    with qtbot.waitSignal(labels_offer_of(viewer).opened) as told:
        dock.question._yes.click()
    (layer,) = told.args
    sessions = sessions_of(viewer)
    assert sessions.image_of(sessions.result_of(layer)) is scan
    assert np.array_equal(layer.data[2:6], seg.data)
    assert not layer.data[[0, 1, 6, 7]].any()


def test_a_label_file_on_a_part_of_a_scan_says_how_it_becomes_its_labels(make_napari_viewer, qtbot, tmp_path):
    viewer = make_napari_viewer()
    dock = show_dock(viewer, SEGMENT)
    grid = Geometry(GRID.shape, GRID.spacing, (50.0, 60.0, 70.0))
    scan = dropped(viewer, "scan", grid=grid)
    part = Geometry((4, 10, 12), GRID.spacing, (50.0, 60.0, 75.0))
    data = np.random.default_rng(0).integers(0, 3, part.shape).astype(np.uint8)
    path = write_labels(tmp_path / "seg.seg.nrrd", data, part, {1: "liver", 2: "spleen"})
    with qtbot.waitSignal(dock.loader.labels_opened, timeout=TIMEOUT) as told:
        dock.loader.open_labels(path)
    (layer,) = told.args
    assert sessions_of(viewer).result_of(layer) is None
    assert "covers a part of “scan”" in dock.findChild(StatusLine, "status").text()
    dock.labels.chosen.emit(layer)
    assert np.array_equal(layer.data[2:6], data)
    assert sessions_of(viewer).image_of(sessions_of(viewer).result_of(layer)) is scan
    assert "4 of 8 slices along z" in dock.findChild(StatusLine, "status").text()
