"""The pictures of docs/anatomy.md: the CT of the demo, segmented by the real button, in every view.

Run on a virtual display: scripts/with-display.sh .venv/bin/python scripts/anatomy_pictures.py [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_transunet.viewer.segment.segment_dock import SegmentDock

os.environ["NAPARI_CONFIG"] = ""

VIEWS = ("axial", "coronal", "sagittal", "front", "planes")
ORGAN = 5  # the liver
SIZE = (1500, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"))
    folder = parser.parse_args().pictures
    folder.mkdir(parents=True, exist_ok=True)

    import napari
    import numpy as np
    from PIL import Image
    from qtpy.QtWidgets import QAbstractButton, QApplication

    from napari_transunet.viewer.anatomy.anatomy import anatomy_of
    from napari_transunet.viewer.anatomy.directions import Plane
    from napari_transunet.viewer.layers.layers import add_volume
    from napari_transunet.viewer.plugin.samples import load_real_ct
    from napari_transunet.viewer.widgets.docks import SEGMENT, show_dock

    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(*SIZE)

    def until(condition: Callable[[], object], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not condition():
            QApplication.processEvents()
            time.sleep(0.005)
            if time.monotonic() > end:
                raise TimeoutError("It did not come about in time.")

    def wait(seconds: float) -> None:
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() > end)

    def picture(name: str) -> None:
        wait(1.0)
        pixels = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
        image = Image.fromarray(pixels).resize((1200, 800), Image.Resampling.LANCZOS)
        image.quantize(256, Image.Quantize.MAXCOVERAGE).save(folder / f"view-{name}.png", optimize=True)
        print(name, anatomy.letters, flush=True)

    dock: SegmentDock = show_dock(viewer, SEGMENT)
    until(lambda: dock.checkpoint.candidates)
    image = add_volume(viewer, load_real_ct())
    until(lambda: dock.ready)
    dock.findChild(QAbstractButton, "segment_volume").click()
    until(lambda: dock.running)
    until(lambda: not dock.running)
    print(dock.status, flush=True)
    assert dock.result is not None
    labels = dock.result.layer
    anatomy = anatomy_of(viewer)
    middle = np.argwhere(labels.data == ORGAN).mean(axis=0)
    for view in VIEWS:
        anatomy.do(view)
        until(lambda: anatomy.three_planes is None or anatomy.three_planes.complete)
        viewer.dims.point = image.data_to_world(middle)
        viewer.cursor.position = tuple(image.data_to_world(middle))
        if view == "planes":
            assert anatomy.three_planes is not None
            coronal = anatomy.three_planes.planes[Plane.CORONAL]
            viewer.layers.selection.active = labels
            labels.mode, labels.selected_label, labels.brush_size = "paint", 8, 16
            twin = coronal.twin(labels)
            assert twin is not None
            z, y, x = (round(float(v)) for v in middle)
            for step in range(-30, 31, 3):  # a stroke in the coronal plane, seen in all three
                twin.paint((z, y, x + step), 8)
            wait(0.5)
        picture({"front": "3d"}.get(view, view))
    viewer.close()


if __name__ == "__main__":
    main()
