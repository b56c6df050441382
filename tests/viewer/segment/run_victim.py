"""Segments a volume for the first time, slowly, until it is killed. Says "written N TIME" after each slice drawn.

Arguments: the checkpoint, quiet and at_most of the saver and seconds a slice, and the volume's shape.
"""

import sys
import time
from pathlib import Path

import napari
import pytest
from qtpy.QtCore import QTimer

from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.inference.predictor import Predictor
from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.viewer.segment.segment_dock import SegmentDock
from napari_transunet.viewer.widgets import priority
from napari_transunet.volumes.phantom import synthetic_ct
from tests.networks import make_networks_quick


def main() -> None:
    checkpoint = Path(sys.argv[1])
    quiet, at_most, pause = (float(text) for text in sys.argv[2:5])
    Autosaver.__init__.__kwdefaults__.update(quiet=quiet, at_most=at_most)
    priority._NICENESS = 0  # the test's other processes must not starve it
    make_networks_quick(pytest.MonkeyPatch())
    plain = Predictor.iter_batches

    def slowly(self, *args, **kwargs):
        for batch in plain(self, *args, **kwargs):
            for prediction in batch:
                time.sleep(pause)
                yield [prediction]

    Predictor.iter_batches = slowly
    viewer = napari.Viewer(show=False)
    dock = SegmentDock(viewer)
    add_volume(viewer, synthetic_ct(tuple(int(text) for text in sys.argv[5:8]))[0], name="ct")
    dock.checkpoints.add(checkpoint)

    def report():
        sys.stdout.write(f"written {len(dock.segmentation.run._painter.drawn)} {time.monotonic()}\n")
        sys.stdout.flush()

    def begin():
        candidate = dock.checkpoint.candidate
        if candidate is None or candidate.path != checkpoint:
            QTimer.singleShot(20, begin)
            return
        dock.segment_volume()
        dock.segmentation.run.wrote.connect(report)

    begin()
    napari.run(force=True)


if __name__ == "__main__":
    main()
