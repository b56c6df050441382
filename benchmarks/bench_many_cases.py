"""Ten thousand cases: what `project status` takes, and the dock Cases until it shows, filters and sorts them.

Times by the clock and of the processor, of which on a busy machine only the latter tells much. Needs a display:

    xvfb-run -a python benchmarks/bench_many_cases.py [--count 10000] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.window import open_window, pause, wait
from napari_transunet.benchmark import describe_machine
from napari_transunet.files import atomic_path
from napari_transunet.io.writing import write_volume
from napari_transunet.project.project import Project
from napari_transunet.volumes.volume import Volume


def study(folder: Path, count: int) -> Project:
    """A project of so many cases, all of one tiny scan, as if they were segmented."""
    (folder / "scans").mkdir()
    write_volume(folder / "scans" / "scan.nii.gz", Volume.from_array(np.zeros((3, 8, 8), np.int16)))
    project = Project.create(folder / "study")
    (first,) = project.add([folder / "scans"]).cases
    random = np.random.default_rng(0)
    for number in range(count - 1):
        facts: dict[str, object] = {
            "id": f"case-{number}",
            "name": f"case {number:05}",
            "status": "segmented",
            "session": "s",
            "uncertainty": float(random.random()),
            "volumes": {"liver": float(random.random() * 2000)},
        }
        project.index.write(first.model_copy(update=facts))
    project.index.read()
    project.index.summarise()
    return project


def timed(act: Callable[[], Any]) -> dict[str, float]:
    """Seconds by the clock and of this process's processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    act()
    return {
        "s": round(time.perf_counter() - clock, 3),
        "processor_s": round(time.process_time() - processor, 3),
    }


def status(project: Project, *more: str) -> dict[str, float]:
    """The command, as a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock = time.perf_counter()
    command = [sys.executable, "-m", "napari_transunet", "project", "status", str(project.folder), *more]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, process.memory_info().rss)
        time.sleep(0.01)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {
        "s": round(time.perf_counter() - clock, 3),
        "processor_s": round(used, 3),
        "mb": round(most / 1e6, 1),
    }


def dock(project: Project, count: int) -> dict[str, Any]:
    """The dock: opening, filtering, sorting; and its memory while it looks at the files again and again."""
    from qtpy.QtCore import Qt
    from qtpy.QtWidgets import QLineEdit

    own = psutil.Process()
    found: dict[str, Any] = {}
    with open_window() as viewer:
        _, widget = viewer.window.add_plugin_dock_widget("napari-transunet", "Cases")
        pause(1.0)
        before = own.memory_info().rss

        def open_it() -> None:
            widget.open_project(project.folder)
            wait(lambda: len(widget.table.cases.cases) == count, 60)

        found["open"] = timed(open_it)
        pause(1.0)
        line = widget.findChild(QLineEdit, "case_filter")
        found["filter"] = timed(lambda: line.setText("case 099"))
        found["unfilter"] = timed(line.clear)
        found["sort"] = timed(lambda: widget.table.sortByColumn(3, Qt.SortOrder.DescendingOrder))
        found["mb_of_the_cases"] = round((own.memory_info().rss - before) / 1e6, 1)
        with_all = own.memory_info().rss
        for _ in range(20):
            widget.refresh()
            wait(lambda: not widget._refreshing, 60)
        found["mb_more_after_20_looks"] = round((own.memory_info().rss - with_all) / 1e6, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = study(Path(folder), options.count)
        found = {
            "cases": options.count,
            "machine": describe_machine(),
            "status": [status(project) for _ in range(3)],
            "status --json": [status(project, "--json") for _ in range(3)],
            "help": [status(project, "--help") for _ in range(3)],
            "read": timed(lambda: Project.open(project.folder).cases()),
            "dock": dock(project, options.count),
        }
    print(json.dumps(found, indent=1))
    if options.out is not None:
        with atomic_path(options.out, overwrite=True) as path:
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
