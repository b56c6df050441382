"""Layers may be removed in any order, and napari goes on drawing; otherwise the process ends here."""

import numpy as np
from qtpy.QtWidgets import QApplication

from napari_transunet.viewer.sessions.registry import sessions_of


def _scroll(viewer) -> None:
    for index in range(viewer.dims.nsteps[0]):
        viewer.dims.set_current_step(0, index)
        for _ in range(3):
            QApplication.processEvents()


def test_an_image_under_labels_may_be_removed(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    sessions_of(viewer)
    for number in range(2):
        image = viewer.add_image(np.random.default_rng(number).normal(size=(4, 32, 32)))
        viewer.add_labels(np.ones((4, 32, 32), np.uint8))
        _scroll(viewer)
        if number % 2:
            viewer.layers.remove(image)
        else:
            viewer.layers.selection = {image}
            viewer.layers.remove_selected()
        _scroll(viewer)
        viewer.layers.clear()
        QApplication.processEvents()
    assert viewer.window._qt_viewer.canvas.native.isValid(), "nothing was drawn"
