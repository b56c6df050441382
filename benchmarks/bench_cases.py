"""How long the window is deaf while a large case is opened in place of another one: gaps of a 10 ms timer.

A project of two scans of 512 x 512 x 300 voxels, both with labels. The first is opened from disk; once the second was
read ahead it takes the first one's place. Without and with the other two docks open. What the GUI thread does whenever
the timer is late is looked up from another thread, and the lines of this package that were met most are printed.
Needs a display:

    xvfb-run -a -s "-screen 0 1920x1200x24" python benchmarks/bench_cases.py [--slices 300] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_event_loop import LIMIT, Gaps, Stopwatch, show
from benchmarks.window import open_window, pause, wait
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.benchmark import describe_machine
from napari_transunet.files import atomic_path
from napari_transunet.io.writing import write_volume
from napari_transunet.project.case_labels import CaseLabels, save_labels
from napari_transunet.project.project import Project
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.volume import Volume

if TYPE_CHECKING:
    from napari_transunet.project.case import Case

LOOK = 0.005  # s
OTHER_DOCKS = ("Segment volume", "Review and correct")


class LateTicks:
    """Where the GUI thread is whenever the timer of a stopwatch is late."""

    def __init__(self, clock: Stopwatch) -> None:
        self._clock = clock
        self._main = threading.main_thread().ident or 0
        self.seen: Counter[str] = Counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._watch, args=(stop,), daemon=True)
        thread.start()
        yield
        stop.set()
        thread.join()

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK):
            if (time.perf_counter() - self._clock.last) * 1000 < LIMIT:
                continue
            frame = sys._current_frames().get(self._main)
            stack = traceback.extract_stack(frame)
            own = [one for one in stack if "napari_transunet" in one.filename]
            for one in own[-1:] or stack[-1:]:
                self.seen[f"{Path(one.filename).name}:{one.lineno} {one.name}: {one.line}"] += 1


def study(folder: Path, slices: int) -> Project:
    """Two large cases with labels; each voxel of a small phantom fills 4 × 4 × 4."""
    small, few, names = synthetic_ct((-(-slices // 4), 128, 128))
    data, labels = (large(array)[:slices] for array in (small.data, few))
    grid = small.geometry
    step = (grid.spacing[0] / 4, grid.spacing[1] / 4, grid.spacing[2] / 4)
    geometry = Geometry(data.shape, step, grid.origin, grid.direction)
    for number in (1, 2):
        data[0, 0, :8] += number  # or it would be the same scan
        volume = Volume(data, geometry, "CT", small.source)
        write_volume(folder / "scans" / f"case_{number}.nii", volume)
    project = Project.create(folder / "study")
    project.add([folder / "scans"])
    for case in project.cases():
        session = AnnotationSession(labels.shape, names.names)
        session.prediction[...] = labels
        with project.hold(case.id) as held:
            found = CaseLabels(labels, session, names)
            save_labels(held, found, shape=labels.shape, spacing=step, status="segmented")
    return project


def large(array: NDArray[Any]) -> NDArray[Any]:
    for axis in range(3):
        array = np.repeat(array, 4, axis=axis)
    return array


def measure(slices: int) -> dict[str, Any]:
    clock = Stopwatch()
    late = LateTicks(clock)
    parts: list[Gaps] = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scans").mkdir()
        project = study(Path(folder), slices)
        first, second = project.cases()
        with open_window() as viewer:
            _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Cases")
            dock.open_project(project.folder)
            wait(lambda: len(dock.table.cases.cases) == 2, 60)
            pause(2.0)

            def opened(case: Case, what: str) -> None:
                """Gaps until a case is shown, and in the five seconds after."""
                clock.start()
                with late.watching():
                    dock.cases.open(case.id)
                    wait(lambda: shown() == case.id, 120)
                    parts.append(clock.stop(f"{what}, until it is shown"))
                    clock.start()
                    pause(5.0)
                    parts.append(clock.stop(f"{what}, the five seconds after"))

            def shown() -> str | None:
                return None if dock.cases.current is None else dock.cases.current.case.id

            def ahead(identifier: str) -> bool:
                return identifier in dock.cases._ahead

            opened(first, "the first case, from disk")
            for docks in ((), OTHER_DOCKS):
                for name in docks:
                    viewer.window.add_plugin_dock_widget("napari-transunet", name)
                    pause(4.0)
                other = second if shown() == first.id else first
                dock.cases.read_ahead(other.id)
                wait(partial(ahead, other.id), 120)
                opened(other, f"read ahead, {1 + len(docks)} docks")
            dock.cases.close()
            wait(lambda: not dock.cases.finishing, 60)
    return {
        "shape": [slices, 512, 512],
        "limit_ms": LIMIT,
        "machine": describe_machine(),
        "gaps_ms": [asdict(part) for part in parts],
        "where": [[count, place] for place, count in late.seen.most_common(25)],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args(arguments)
    found = measure(options.slices)
    show(found, f"two cases of 512 × 512 × {options.slices}")
    for count, place in found["where"]:
        print(f"{count * LOOK * 1000:6.0f} ms  {place}")
    if options.out is not None:
        with atomic_path(options.out, overwrite=True) as path:
            path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
