"""How long the window is deaf while somebody paints, with autosave and without: gaps of a 10 ms timer.

On labels of 512 × 512 × 300 voxels with a session, as after a run. Ten strokes of 12 points each, in turn with the
autosave and without it, so that whatever else differs does so for both; the dock Review and correct is open.
Needs a display:

    xvfb-run -a -s "-screen 0 1920x1200x24" python benchmarks/bench_painting.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bench_event_loop import LIMIT, Gaps, Stopwatch
from benchmarks.window import open_window, pause, wait
from napari_transunet.benchmark import describe_machine
from napari_transunet.files import atomic_path
from napari_transunet.viewer.layers.layers import add_volume
from napari_transunet.viewer.sessions.autosave_controller import start_autosave
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Source, Volume

ROUNDS, STROKES, POINTS = 3, 10, 12


def scene(slices: int) -> tuple[Volume, np.ndarray]:
    """A CT-like volume, and eight ellipsoids of labels in it."""
    shape = (slices, 512, 512)
    rng = np.random.default_rng(0)
    image = rng.normal(40, 20, shape).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    z, y, x = np.ogrid[:slices, :512, :512]
    for k in range(1, 9):
        inside = (
            ((z - slices / 2) / (slices / 4)) ** 2
            + ((y - 90 - 40 * k) / 60) ** 2
            + ((x - 60 - 45 * k) / 50) ** 2
        )
        labels[inside < 1] = k
    return Volume(image, Geometry(shape, (1.0, 0.8, 0.8)), "CT", Source(None, "benchmark", "ct")), labels


def paint(viewer: Any, layer: Any, rng: np.random.Generator) -> None:
    """One stroke: brush down, a dozen points, brush up, as napari handles a mouse."""
    z = int(rng.integers(layer.data.shape[0]))
    viewer.dims.set_current_step(0, z)
    pause(0.1)
    y, x = rng.integers(80, 420, 2)
    layer._begin_stroke()
    for step in range(POINTS):
        layer.paint((z, int(y) + 3 * step, int(x) + 2 * step), int(rng.integers(1, 9)))
        pause(0.016)
    layer._commit_stroke()
    pause(0.5)


def measure(quick: bool) -> dict[str, Any]:
    from napari_transunet.viewer.widgets.docks import REVIEW, show_dock

    slices = 60 if quick else 300
    volume, labels = scene(slices)
    parts: dict[str, list[Gaps]] = {"autosave off": [], "autosave on": []}
    saves = 0
    with open_window() as viewer:
        image = add_volume(viewer, volume)
        result = sessions_of(viewer).new_result(
            image, volume, LabelSet.from_names({k: f"organ {k}" for k in range(1, 9)})
        )
        result.layer.data[...] = labels
        result.session.prediction[...] = labels
        viewer.add_layer(result.layer)
        layer = result.layer
        layer.mode, layer.brush_size = "paint", 15
        dock = show_dock(viewer, REVIEW)
        pause(2.0)
        clock = Stopwatch()
        rng = np.random.default_rng(1)
        autosave = start_autosave(viewer, result)
        assert autosave is not None
        wait(lambda: autosave._saver is not None, 60)
        autosave.flush(60)
        saver = autosave._saver
        assert saver is not None
        for _ in range(ROUNDS):
            for name, on in (("autosave off", False), ("autosave on", True)):
                autosave._saver = saver if on else None
                before = len(list(saver._folder.path.glob("*.part")))
                pause(0.5)
                clock.start()
                for _ in range(STROKES):
                    paint(viewer, layer, rng)
                parts[name].append(clock.stop(name))
                saves += len(list(saver._folder.path.glob("*.part"))) - before
        autosave._saver = saver
        assert autosave.flush(60)
        del dock
    return {
        "shape": [slices, 512, 512],
        "saves": saves,
        "machine": describe_machine(),
        "parts": {name: [asdict(gaps) for gaps in found] for name, found in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer slices")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_TRANSUNET_SESSIONS"] = folder
        result = measure(arguments.quick)
    table = Table("part", "median, ms", "99 %, ms", "worst, ms", f"over {LIMIT:.0f} ms")
    for name, rounds in result["parts"].items():
        for gaps in rounds:
            table.add_row(name, *(str(gaps[key]) for key in ("median", "p99", "worst", "over_limit")))
    Console().print(table)
    Console().print(f"{result['saves']} saves")
    if arguments.out is not None:
        with atomic_path(arguments.out, overwrite=True) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
