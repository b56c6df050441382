"""For each seed on standard input, a process that edits and saves as fast as it can, until it is killed.

Says "ready PID", then "edit N TIME" after each edit, and "dead" once the process is gone. Each is forked from this one,
so that Python and NumPy are loaded once. Arguments: the store's root, quiet and at_most in seconds.
"""

import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.annotation.session_folder import SessionAbout
from napari_transunet.annotation.session_store import SessionStore

SHAPE = (20, 64, 64)


def edit_until_killed(root: Path, quiet: float, at_most: float, seed: int) -> None:
    rng = random.Random(seed)
    store = SessionStore(root)
    labels = np.zeros(SHAPE, np.uint32)
    count = 0
    found = store.find("f" * 64)
    if found:
        folder = store.open(found[0])
        saved = folder.load()
        labels[...] = saved.arrays["labels"]
        count = int(labels.max())
    else:
        folder = store.create(SessionAbout("f" * 64, "ct", None, SHAPE, (1.0, 1.0, 1.0), "now"))
    saver = Autosaver(
        folder, {"labels": lambda: labels}, lambda: {"count": count}, quiet=quiet, at_most=at_most
    )
    sys.stdout.write(f"ready {os.getpid()}\n")
    sys.stdout.flush()
    while True:
        count += 1
        # Edit N leaves its number in a place of its own, so that what was saved tells which edits it holds.
        labels[count % SHAPE[0], rng.randrange(SHAPE[1]), rng.randrange(SHAPE[2])] = count
        saver.touch()
        sys.stdout.write(f"edit {count} {time.monotonic()}\n")
        sys.stdout.flush()
        time.sleep(rng.choice([0.0, 0.001, 0.01, 0.03]))


def main() -> None:
    root, quiet, at_most = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                edit_until_killed(root, quiet, at_most, int(line))
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        sys.stdout.write("\ndead\n")  # the child's last line may be cut off
        sys.stdout.flush()


if __name__ == "__main__":
    main()
