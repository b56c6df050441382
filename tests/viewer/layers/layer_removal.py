"""Run by test_graphics.py in a process of its own: an image is removed from under labels, and the slider is moved."""

from __future__ import annotations

import os
import sys

os.environ["NAPARI_CONFIG"] = ""

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from napari_transunet.viewer.sessions.registry import sessions_of


def _draw() -> None:
    for _ in range(3):
        QApplication.processEvents()


def _scroll(viewer: napari.Viewer) -> None:
    for index in range(viewer.dims.nsteps[0]):
        viewer.dims.set_current_step(0, index)
        _draw()


def main(rounds: int) -> None:
    viewer = napari.Viewer()
    sessions_of(viewer)
    for number in range(rounds):
        image = viewer.add_image(np.random.default_rng(number).normal(size=(4, 32, 32)))
        viewer.add_labels(np.ones((4, 32, 32), np.uint8))
        _scroll(viewer)
        if number % 2:
            viewer.layers.remove(image)
        else:
            viewer.layers.selection = {image}
            viewer.layers.remove_selected()
        _draw()
        _scroll(viewer)
        viewer.layers.clear()
        _draw()
    sys.stdout.write("still there")
    sys.stdout.flush()
    os._exit(0)  # closing is not what is tested


main(int(sys.argv[1]))
