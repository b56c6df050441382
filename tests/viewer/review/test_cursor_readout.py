"""The status bar tells what the brush leaves alone."""

from qtpy.QtWidgets import QCheckBox

from tests.viewer.review.test_review_dock import ReviewDriver


def test_range_and_locks_are_told_while_labels_are_painted(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    driver = ReviewDriver(viewer, qtbot)
    readout = driver.dock.readout
    qtbot.waitUntil(lambda: readout._label is not None)
    viewer.layers.selection.active = driver.layer
    viewer.cursor.position = tuple(driver.image.data_to_world((4, 20, 15)))
    assert readout.text == ""

    driver.press("lock_2")
    driver.dock.findChild(QCheckBox, "paint_range").setChecked(True)
    driver.layer.mode = "paint"
    viewer.cursor.position = tuple(driver.image.data_to_world((4, 20, 16)))
    assert "spleen" in readout.text
    assert "150" in readout.text

    viewer.layers.selection.active = driver.image
    viewer.cursor.position = tuple(driver.image.data_to_world((4, 20, 15)))
    assert readout.text == ""
