"""A program that is killed in the middle of a first run keeps the slices that the run wrote."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_transunet.annotation.session_folder import load_folder
from napari_transunet.annotation.session_store import SessionStore
from tests.viewer.segment.test_segment_dock import checkpoints, dock, viewer  # noqa: F401

ROOT = Path(__file__).parents[3]
SHAPE = (40, 48, 56)
QUIET, AT_MOST, PAUSE = 0.1, 0.3, 0.12


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the process is killed by a signal")
def test_a_killed_first_run_keeps_its_slices(dock, checkpoints):  # noqa: F811
    process = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("run_victim.py")),
            str(checkpoints / "three.safetensors"),
            *map(str, (QUIET, AT_MOST, PAUSE, *SHAPE)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))},
    )
    lines = []
    while len(lines) < 20:
        lines.append(process.stdout.readline().split())
        assert lines[-1], "the run ended too soon"
    process.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    lines += [line.split() for line in process.stdout.read().splitlines()]
    process.wait()
    written = {int(line[1]): float(line[2]) for line in lines if len(line) == 3}
    # A save may begin AT_MOST after a slice; the rest is for hashing, writing and a busy machine.
    due = max(number for number, moment in written.items() if killed - moment > AT_MOST + 1)

    (info,) = SessionStore().sessions()
    saved = load_folder(info.folder)
    labels, prediction = saved.arrays["labels"], saved.arrays["prediction"]
    assert np.array_equal(labels, prediction), "what the network wrote counts as a person's"
    (record,) = saved.state["session"]["runs"]
    assert due <= record["slices"] <= max(written) < record["total"] == len(labels)
    assert np.count_nonzero(labels.any(axis=(1, 2))) >= due

    image = dock.add(SHAPE, name="ct")
    dock.until(lambda: dock.question is not None)
    assert f"{record['slices']} of {len(labels)} slices segmented" in dock.question
    dock.press("question_yes")
    dock.until(lambda: dock.widget.result is not None)
    result = dock.widget.result
    assert result.lies_on(image)
    assert np.array_equal(result.layer.data, labels)
    assert result.session.edited_voxels(result.layer.data) == 0
    assert [run.slices for run in result.session.runs] == [record["slices"]]
    dock.segment()
    assert result.session.runs[-1].complete
