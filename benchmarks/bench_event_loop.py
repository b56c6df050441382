"""How long the window is deaf while the network runs or learns on the CPU: gaps of a 10 ms timer on the GUI thread.

The dock segments a 512 x 512 x 133 CT in 2D, its button pressed for real: first while nobody touches the window,
then while somebody scrolls through the slices. Then eight slices are marked as reviewed, and it learns from them; what
that needs is imported before its button is pressed. The gap between two ticks of the timer is what a person would
wait for the window to answer. Needs a display:

    xvfb-run -a -s "-screen 0 1920x1200x24" python benchmarks/bench_event_loop.py [--quick] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import QLabel, QPushButton
from rich.console import Console
from rich.table import Table

from benchmarks.window import chosen, demo_ct, open_dock, open_window, pause, press_segment, wait
from napari_transunet.benchmark import describe_machine
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.files import atomic_path
from napari_transunet.model.transunet import TransUNet
from napari_transunet.viewer.layers.layers import add_volume

if TYPE_CHECKING:
    from napari_transunet.viewer.segment.segment_dock import SegmentDock

QUICK_SLICES = 24
TICK = 10  # ms
LIMIT = 50.0  # ms
SCROLL = 200  # ms between two steps of the slider
REVIEWED = 8  # slices
IMPORTING = 10.0  # s


@dataclass(frozen=True)
class Gaps:
    """Gaps between ticks of the timer during one part of the session, in ms.

    `worst_own` is the most processor time that the GUI thread itself took between two ticks: what is left of a gap on a
    machine that nobody else uses, but for waiting for other threads.
    """

    part: str
    seconds: float
    ticks: int
    median: float
    p99: float
    worst: float
    over_limit: int
    worst_own: float


class Stopwatch(QObject):
    """A 10 ms timer that notes when it was served."""

    def __init__(self) -> None:
        super().__init__()
        self._times: list[float] = []
        self._own: list[float] = []
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TICK)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        self._times, self._own = [time.perf_counter()], [time.thread_time()]
        self._timer.start()

    def stop(self, part: str) -> Gaps:
        self._timer.stop()
        gaps = np.diff([*self._times, time.perf_counter()]) * 1000
        return Gaps(
            part=part,
            seconds=round(float(gaps.sum()) / 1000, 2),
            ticks=len(gaps),
            median=round(float(np.median(gaps)), 1),
            p99=round(float(np.percentile(gaps, 99)), 1),
            worst=round(float(gaps.max()), 1),
            over_limit=int((gaps > LIMIT).sum()),
            worst_own=round(float(np.diff([*self._own, time.thread_time()]).max()) * 1000, 1),
        )

    @property
    def last(self) -> float:
        """When it was served last (`time.perf_counter`)."""
        return self._times[-1] if self._times else time.perf_counter()

    def _tick(self) -> None:
        self._times.append(time.perf_counter())
        self._own.append(time.thread_time())


def random_checkpoint(folder: Path, variant: str, size: int) -> Path:
    torch.manual_seed(0)
    net = TransUNet(variant, num_classes=9, img_size=size).eval()
    names = {value: f"organ {value}" for value in range(1, 9)}
    card = default_card(net, labels=names, title="Random weights", modality="CT")
    return save_checkpoint(folder / "random.safetensors", net, card)


def run(viewer: Any, dock: SegmentDock, clock: Stopwatch, *, scroll: bool) -> list[Gaps]:
    """Press the button; gaps until the first slice is there, and from then to the end."""
    label = "network runs, scrolling" if scroll else "network runs"
    press_segment(dock)
    pause(0.5)  # making the layer is napari's, and happens once
    found = []
    clock.start()
    if not scroll:
        wait(lambda: dock.status.startswith("Segmenting") or not dock.running)
        found.append(clock.stop("loading the checkpoint"))
        clock.start()
    hand = QTimer()
    if scroll:
        hand.timeout.connect(lambda: scroll_on(viewer))
        hand.start(SCROLL)
    wait(lambda: not dock.running)
    hand.stop()
    found.append(clock.stop(label))
    if not dock.status[:1].isdigit():
        raise RuntimeError(dock.status)
    return found


def learn(viewer: Any, clock: Stopwatch) -> list[Gaps]:
    """Mark slices as reviewed and press *Learn from my corrections*; gaps until the first step, and from then on."""
    _, review = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    button, status = review.findChild(QPushButton, "learn"), review.findChild(QLabel, "learn_status")
    wait(lambda: review.model.overview is not None)
    count = int(viewer.dims.nsteps[0])
    for index in range(count // 16, count, count // REVIEWED):
        review.model.go_to(index)
        review.model.mark_reviewed(True)
    pause(1.0)
    clock.start()
    review.model.update_overview()
    wait(button.isEnabled, 60)
    pause(IMPORTING)
    found = [clock.stop("importing what learning needs")]
    clock.start()
    button.click()
    wait(lambda: "left" in status.text() or not review.adaptation.busy)
    found.append(clock.stop("learning, to its first step"))
    clock.start()
    wait(lambda: not review.adaptation.busy)
    found.append(clock.stop("learning"))
    wait(lambda: "left" not in status.text(), 10)  # what it came to is said a little later
    if "Learnt" not in status.text():
        raise RuntimeError(status.text())
    return found


def scroll_alone(viewer: Any, clock: Stopwatch) -> Gaps:
    """What scrolling costs by itself: without a GPU, OpenGL draws on the processor."""
    hand = QTimer()
    hand.timeout.connect(lambda: scroll_on(viewer))
    hand.start(SCROLL)
    clock.start()
    pause(3.0)
    hand.stop()
    return clock.stop("nothing runs, scrolling")


def scroll_on(viewer: Any) -> None:
    step = (viewer.dims.current_step[0] + 1) % int(viewer.dims.nsteps[0])
    viewer.dims.set_current_step(0, step)


def measure(quick: bool, variant: str, size: int) -> dict[str, Any]:
    volume = demo_ct(QUICK_SLICES if quick else None)
    clock = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, open_window() as viewer:
        dock = open_dock(viewer)
        pause(3.0)  # the dock has started its tasks
        add_volume(viewer, volume)
        path = random_checkpoint(Path(folder), variant, size)
        dock.checkpoints.add(path)
        wait(partial(chosen, dock, path), 120)
        pause(1.0)
        clock.start()
        pause(3.0)
        parts = [clock.stop("nothing runs")]
        parts.append(scroll_alone(viewer, clock))
        parts += run(viewer, dock, clock, scroll=False)
        speed = dock.status
        # The second run is the same again, so that only the scrolling differs; nothing was edited, nobody asks.
        parts += run(viewer, dock, clock, scroll=True)
        parts += learn(viewer, clock)
    return {
        "volume": volume.source.name if volume.source is not None else "",
        "shape": list(volume.data.shape),
        "variant": variant,
        "img_size": size,
        "status": speed,
        "limit_ms": LIMIT,
        "machine": describe_machine(),
        "gaps_ms": [asdict(part) for part in parts],
    }


def show(found: dict[str, Any], what: str) -> None:
    table = Table(title=f"Gaps of a {TICK} ms timer, {what}")
    for column in (
        "part",
        "seconds",
        "median ms",
        "99 % ms",
        "worst ms",
        f"over {LIMIT:.0f} ms",
        "worst own ms",
    ):
        table.add_column(column, justify="left" if column == "part" else "right")
    for gaps in found["gaps_ms"]:
        table.add_row(
            gaps["part"],
            *(str(gaps[name]) for name in ("seconds", "median", "p99", "worst", "over_limit", "worst_own")),
        )
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="24 slices instead of 133")
    parser.add_argument("--variant", default="R50-ViT-Ti_16")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args(arguments)
    found = measure(options.quick, options.variant, options.size)
    size = " × ".join(str(n) for n in reversed(found["shape"]))
    show(found, f"{found['variant']} at {found['img_size']}, {size}")
    if options.out is not None:
        with atomic_path(options.out, overwrite=True) as path:
            path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
