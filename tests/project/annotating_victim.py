"""An annotator who opens, paints, saves, approves and excludes at random, until it is killed.

Reads "NAME SEED FIRST" lines on standard input and forks a process for each, so that Python and NumPy are loaded once.
That one says "ready PID", then what it did, a line each, and "dead" follows once it is gone. Arguments: the project,
and a folder for marks that show who believes to hold a case.
"""

import contextlib
import os
import random
import sys
import time
from pathlib import Path

import psutil

from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.annotation.saved_state import saved_state
from napari_transunet.errors import InputError
from napari_transunet.io.sidecar import as_json
from napari_transunet.project.agreement import reopen, sign_off
from napari_transunet.project.case_labels import facts_of, load_labels, save_labels, session_folder
from napari_transunet.project.leases import LeaseHeldError
from napari_transunet.project.project import Project


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def is_alive(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE  # that one is dead, and not buried
    except psutil.NoSuchProcess:
        return False


class Annotator:
    def __init__(self, project: Path, marks: Path, name: str, seed: int, first: int) -> None:
        self.project, self.marks, self.name = Project.open(project), marks, name
        self.random = random.Random(seed)
        self.number = first

    def operate(self) -> None:
        case = self.random.choice(self.project.cases())
        what = self.random.choices(
            ("paint", "save", "exclude", "sign off", "look", "crash"), (8, 3, 1, 1, 2, 1)
        )[0]
        say("operation", what)
        try:
            if what == "look":
                self.project.holders()
            elif what == "exclude":
                self.project.exclude(case.id, "by chance", self.name)
                self.project.include(case.id, self.name)
            elif what == "sign off":
                # Somebody may have excluded it, and been killed before taking it in again.
                with contextlib.suppress(InputError):
                    sign_off(self.project, case.id, "", self.name)
                    reopen(self.project, case.id, self.name)
            else:
                self.hold(case, what)
        except LeaseHeldError:
            return

    def hold(self, case, what) -> None:
        try:
            held = self.project.hold(case.id, self.name)
        except LeaseHeldError as error:
            if not error.holder.stale:
                raise
            held = self.project.hold(case.id, self.name, takeover=True)
        mark = self.marks / case.id
        if mark.exists() and is_alive(int(mark.read_text() or 0)):
            say("twice", case.id)
        mark.write_text(str(os.getpid()))
        found = load_labels(self.project, held.case)
        if what == "save":
            numbers = self.paint(found)
            save_labels(held, found, status="in review")
            for number in numbers:
                say("saved", case.id, number)
        else:
            self.work(held, found, case, what)
        mark.unlink()
        held.release()

    def work(self, held, found, case, what) -> None:
        """As the window does: the session is saved by its thread, the case's file at the end."""
        folder = session_folder(held)
        held.update(session=folder.path.name, annotator=self.name)
        front = {"name": "labels", "opacity": 0.6, "label_set": [as_json(label) for label in found.label_set]}
        arrays = {"labels": lambda: found.labels, "prediction": lambda: found.session.prediction}
        saver = Autosaver(
            folder, arrays, lambda: saved_state(found.session, found.labels, front), quiet=0.005, at_most=0.02
        )
        for _ in range(self.random.randint(1, 4)):
            numbers = self.paint(found)
            if self.random.random() < 0.3:
                saver.touch()
                time.sleep(self.random.choice((0, 0.004, 0.02)))
            elif saver.flush():
                for number in numbers:
                    say("saved", case.id, number)
            if what == "crash" and self.random.random() < 0.5:
                os._exit(1)
        saver.close()
        held.update(**facts_of(found, (1, 1, 1)))

    def paint(self, found) -> list[int]:
        """Strokes that leave their number in a place of their own, so that what is saved tells which it holds."""
        numbers = []
        for _ in range(self.random.randint(1, 3)):
            found.labels.ravel()[self.number] = self.number
            numbers.append(self.number)
            self.number += 2
        return numbers


def main() -> None:
    project, marks = Path(sys.argv[1]), Path(sys.argv[2])
    for line in sys.stdin:
        name, seed, first = line.split()
        child = os.fork()
        if child == 0:
            try:
                say("ready", os.getpid())
                annotator = Annotator(project, marks, name, int(seed), int(first))
                while True:
                    annotator.operate()
            except BaseException as error:
                say("error", type(error).__name__, error)
                raise
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        say("\ndead")


if __name__ == "__main__":
    main()
