"""Edits and saves as fast as it can, until it is killed. Says "edit N TIME" after each edit.

Arguments: the store's root, quiet and at_most in seconds, and a seed.
"""

import random
import sys
import time
from pathlib import Path

import numpy as np

from napari_transunet.annotation.autosave import Autosaver
from napari_transunet.annotation.session_store import SessionAbout, SessionStore

SHAPE = (20, 64, 64)


def main() -> None:
    root, quiet, at_most, seed = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
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
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        count += 1
        # Edit N leaves its number in a place of its own, so that what was saved tells which edits it holds.
        labels[count % SHAPE[0], rng.randrange(SHAPE[1]), rng.randrange(SHAPE[2])] = count
        saver.touch()
        sys.stdout.write(f"edit {count} {time.monotonic()}\n")
        sys.stdout.flush()
        time.sleep(rng.choice([0.0, 0.001, 0.01, 0.03]))


if __name__ == "__main__":
    main()
