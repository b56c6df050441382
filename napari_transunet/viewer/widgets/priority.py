"""The window is served before what computes beside it."""

import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from napari.viewer import Viewer

logger = logging.getLogger(__name__)

_NICENESS = 19


def be_nice() -> None:
    """Lower the priority of the thread that calls this, where that does not lower the whole program's."""
    if sys.platform == "linux":  # elsewhere niceness belongs to the whole process
        try:
            thread = threading.get_native_id()
            usual = os.getpriority(os.PRIO_PROCESS, os.getpid())
            os.setpriority(os.PRIO_PROCESS, thread, min(19, usual + _NICENESS))
        except OSError:
            logger.debug("The priority of the worker's thread could not be lowered.", exc_info=True)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect no garbage while thousands of modules are imported: it stops every thread, and finds next to nothing.

    Where threads overlap, it is on again when the first of them is done. It counts as enabled all the while: where dask
    is imported with it disabled, the first slice of an array leaves it so for good.
    """
    first, *others = gc.get_threshold()
    gc.set_threshold(0, *others)
    try:
        yield
    finally:
        if first:
            gc.set_threshold(first, *others)


def spare_what_is_loaded(viewer: Viewer) -> None:
    """Leave all modules that are loaded out of later searches for garbage, each of which stopped every thread.

    Half a million objects belong to napari, torch and what they import, and looking through them took 0.36 s of one
    core; now it takes 0.08 s. Nothing is done where a layer is open, for it would never be given back.
    """
    if not viewer.layers:
        gc.freeze()


def spare_nothing() -> None:
    """Look for garbage everywhere again: a window closes, and the program may go on."""
    gc.unfreeze()
