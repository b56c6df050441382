"""Two annotators on one project, killed at random: no stroke that was saved is lost, and no case is held twice."""

import contextlib
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_folder import load_folder
from napari_transunet.project.case_labels import CaseLabels, load_labels, save_labels, store_of
from napari_transunet.project.project import Project
from napari_transunet.volumes.labels import LabelSet

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")

SHAPE = (32, 64, 64)
_UNSAID = 400  # numbers that a killed annotator may have painted and not told


class Annotator:
    """A process that lives and dies again and again, and what it told."""

    def __init__(self, name: str, first: int, folder, marks) -> None:
        self.name, self.next, self.process = name, first, 0
        self.operations, self.saved, self.wrong, self.deaths = 0, [], [], 0
        self._lines: queue.Queue[str] = queue.Queue()
        self._forker = subprocess.Popen(
            [sys.executable, "-m", "tests.project.annotating_victim", str(folder), str(marks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self._forker.stdout:
            self._lines.put(line)

    def live(self, seed: int) -> None:
        self.process = 0
        self._forker.stdin.write(f"{self.name} {seed} {self.next}\n")
        self._forker.stdin.flush()

    def hear(self) -> bool:
        """Take in what it said; whether it is dead."""
        while True:
            try:
                words = self._lines.get_nowait().split()
            except queue.Empty:
                return False
            match words:
                case ["ready", process]:
                    self.process = int(process)
                case ["operation", *_]:
                    self.operations += 1
                case ["saved", case, number] if number.isdecimal():
                    self.saved.append((case, int(number)))
                    self.next = max(self.next, int(number) + _UNSAID)
                case ["twice" | "error", *_]:
                    self.wrong.append(" ".join(words))
                case ["dead"]:
                    self.next += _UNSAID
                    self.deaths += 1
                    return True

    def kill(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        self._forker.stdin.close()
        self._forker.wait(20)


def work_and_die(project, marks, operations, seed):
    rng = random.Random(seed)
    annotators = [Annotator("anna", 1, project.folder, marks), Annotator("ben", 2, project.folder, marks)]
    until = {}
    try:
        for one in annotators:
            one.live(rng.randrange(1 << 30))
        limit = time.monotonic() + 400
        while sum(one.operations for one in annotators) < operations:
            assert time.monotonic() < limit
            for one in annotators:
                if one.hear():
                    one.live(rng.randrange(1 << 30))
                    until.pop(one, None)
                if one.process and one not in until:
                    until[one] = time.monotonic() + rng.uniform(0.05, 1.5)
                if one in until and time.monotonic() > until[one]:
                    one.kill()
                    until[one] = time.monotonic() + 60
            time.sleep(0.002)
    finally:
        for one in annotators:
            one.end()
            time.sleep(0.1)
            one.hear()
    return annotators


@pytest.mark.parametrize(
    "operations", [pytest.param(60, marks=pytest.mark.long), pytest.param(500, marks=pytest.mark.slow)]
)
def test_no_saved_stroke_is_lost_and_no_case_is_held_twice(project, tmp_path, operations):
    (tmp_path / "marks").mkdir()
    names = LabelSet.from_names({1: "spleen"})
    for case in project.cases():
        with project.hold(case.id) as held:
            labels = np.zeros(SHAPE, np.uint32)
            session = AnnotationSession(SHAPE, names.names, dtype=np.uint32)
            save_labels(
                held, CaseLabels(labels, session, names), shape=SHAPE, spacing=(1, 1, 1), status="segmented"
            )
    annotators = work_and_die(project, tmp_path / "marks", operations, seed=operations)

    assert [one.wrong for one in annotators] == [[], []]
    assert all(one.deaths for one in annotators)
    saved = [stroke for one in annotators for stroke in one.saved]
    assert saved
    again = Project.open(project.folder)
    kept = {case.id: load_labels(again, case).labels.ravel() for case in again.cases()}
    assert len(kept) == 3
    assert again.index.damaged == {}
    lost = [(case, number) for case, number in saved if kept[case][number] != number]
    assert lost == []
    for case in again.cases():
        for info in store_of(again, case).sessions():
            load_folder(info.folder)
        with again.hold(case.id, takeover=True):
            pass
