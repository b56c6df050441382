"""What the window costs the worker: the same call in napari's worker thread, and in a process without napari.

The shipped abdominal checkpoint and the 512 x 512 x 133 CT (the phantom, where the CT's wheel is not installed), 2D,
the dock's button pressed for real with the network kept from a run before. In turn, round by round; timed is
`Predictor.iter_batches` from its start to its end, with the arguments that the dock gives it. Needs a display:

    xvfb-run -a -s "-screen 0 1920x1200x24" python benchmarks/bench_worker.py [--rounds N] [--slices N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.window import demo_ct, doze, open_dock, open_window, pause, press_segment, wait

ROUNDS = 5


def alone(slices: int | None) -> None:
    """Segment whenever a line comes, and answer with the seconds."""
    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.checkpoints.registry import default_checkpoint
    from napari_transunet.inference.predictor import Predictor

    path = default_checkpoint()
    assert path is not None
    predictor, volume = Predictor(load_checkpoint(path)), demo_ct(slices)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _batch in predictor.iter_batches(volume, first=len(volume.data) // 2, uncertainty=True):
            pass
        sys.stdout.write(f"{time.perf_counter() - started}\n")
        sys.stdout.flush()


class Timed:
    """Notes how long each `Predictor.iter_batches` took, and what ran it."""

    def __init__(self) -> None:
        from napari_transunet.inference.predictor import Predictor

        self.seconds: list[float] = []
        self.network = ""
        usual = Predictor.iter_batches

        def timed(predictor: Predictor, *args: Any, **options: Any) -> Iterator[Any]:
            self.network = f"{predictor.backend}, {predictor.precision_name}"
            started = time.perf_counter()
            yield from usual(predictor, *args, **options)
            self.seconds.append(time.perf_counter() - started)

        Predictor.iter_batches = timed  # type: ignore[method-assign, assignment]


def measure(rounds: int, slices: int | None) -> dict[str, Any]:
    os.environ["NAPARI_TRANSUNET_SESSIONS"] = tempfile.mkdtemp()
    from napari_transunet.benchmark import describe_machine

    command = [sys.executable, __file__, "--alone", *([] if slices is None else ["--slices", str(slices)])]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    volume = demo_ct(slices)
    apart: list[float] = []
    with open_window() as viewer:
        from napari_transunet.viewer.layers.layers import add_volume

        dock = open_dock(viewer)
        add_volume(viewer, volume)
        viewer.dims.set_current_step(0, len(volume.data) // 2)
        wait(lambda: dock.ready, 120)
        timed = Timed()
        for _ in range(rounds + 1):  # the first of each prepares, and counts for nothing
            press_segment(dock)
            wait(lambda: dock.running, 10)
            doze(lambda: not dock.running)
            pause(0.5)
            other.stdin.write("\n")
            other.stdin.flush()
            apart.append(float(other.stdout.readline()))
    other.stdin.close()
    other.wait()
    inside, apart = timed.seconds[1:], apart[1:]
    return {
        "rounds": rounds,
        "shape": list(volume.data.shape),
        "network": timed.network,
        "in_the_window_s": spread(inside),
        "without_napari_s": spread(apart),
        "ratio": spread([one / other for one, other in zip(inside, apart, strict=True)]),
        "machine": describe_machine(),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--slices", type=int, help="so many in the middle; all without it")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.alone:
        alone(options.slices)
        return
    found = measure(options.rounds, options.slices)
    Console().print_json(data=found)
    if options.out is not None:
        from napari_transunet.files import atomic_path

        with atomic_path(options.out, overwrite=True) as path:
            path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
