"""Docks whose modules are imported beside a window that goes on."""

import sys
import threading

import pint
import pytest
from pint.registry import LazyRegistry
from qtpy.QtCore import QTimer

from napari_transunet.errors import InputError
from napari_transunet.viewer.plugin import opening
from napari_transunet.viewer.segment.segment_dock import SegmentDock


@pytest.fixture
def slow_module(tmp_path, monkeypatch):
    """The name of a module whose import waits until `served` is set."""
    (tmp_path / "slow_dock.py").write_text("import threading\nthreading.served.wait(20)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(threading, "served", threading.Event(), raising=False)
    yield "slow_dock"
    sys.modules.pop("slow_dock", None)


def test_the_window_is_served_while_modules_are_imported_and_another_dock_is_refused(
    make_napari_viewer, slow_module, monkeypatch
):
    viewer = make_napari_viewer()
    monkeypatch.setattr(pint.application_registry, "_registry", LazyRegistry())
    refused = []

    def in_between():
        try:
            opening.import_beside(viewer, "another_dock")
        except InputError as error:
            refused.append(str(error))
        threading.served.set()

    QTimer.singleShot(0, in_between)
    opening.import_beside(viewer, slow_module)
    assert threading.served.is_set()
    assert slow_module in sys.modules
    assert refused == ["Another dock is being opened; open this one when it is there."]
    assert isinstance(pint.application_registry.get(), pint.UnitRegistry)
    assert (1 * pint.application_registry("cm")).to("mm").magnitude == 10


def test_a_window_that_is_closed_meanwhile_gets_no_dock(make_napari_viewer, slow_module):
    viewer = make_napari_viewer()

    def close():
        viewer.close()
        threading.served.set()

    QTimer.singleShot(0, close)
    with pytest.raises(InputError, match="The window was closed"):
        opening.import_beside(viewer, slow_module)


def test_what_cannot_be_imported_is_left_to_the_import_that_says_why(make_napari_viewer):
    viewer = make_napari_viewer()
    opening.import_beside(viewer, "no_such_module_of_a_dock")
    opening.import_beside(viewer, "no_such_module_of_a_dock")  # nothing is left behind


def test_napari_gets_the_dock_itself(make_napari_viewer):
    viewer = make_napari_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Segment volume")
    assert type(dock) is SegmentDock
