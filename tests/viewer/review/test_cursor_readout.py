"""What the status bar says of the place under the cursor, and of what holds the brush back."""

from __future__ import annotations

import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")

from qtpy.QtWidgets import QCheckBox

from napari_transunet.viewer.layers.layers import geometry_of
from tests.viewer.review.test_review_dock import ReviewDriver


def test_value_place_range_and_locks_are_told_while_labels_are_active(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    driver = ReviewDriver(viewer, qtbot)
    readout = driver.dock.readout
    qtbot.waitUntil(lambda: readout._attached)
    viewer.layers.selection.active = driver.layer
    index = (4, 20, 15)
    viewer.cursor.position = tuple(driver.image.data_to_world(index))
    value = driver.image.data[index]
    assert f"{float(value):,.6g} HU" in readout.text
    place = geometry_of(driver.image).affine_lps @ [15, 20, 4, 1]
    for mm in place[:3]:
        assert f" {abs(mm):.0f}" in readout.text
    assert "locked" not in readout.text

    driver.press("lock_2")
    driver.dock.findChild(QCheckBox, "paint_range").setChecked(True)
    driver.layer.mode = "paint"
    viewer.cursor.position = tuple(driver.image.data_to_world((4, 20, 16)))
    assert "spleen" in readout.text
    assert "150" in readout.text

    viewer.cursor.position = tuple(driver.image.data_to_world((4, -20, 16)))
    assert "HU" not in readout.text
    viewer.layers.selection.active = driver.image
    viewer.cursor.position = tuple(driver.image.data_to_world(index))
    assert readout.text == ""
