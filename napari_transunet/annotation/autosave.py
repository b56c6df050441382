"""Saving a session while a person works: when, and on which thread.

`touch` says that something may have changed. A save starts a little after the last touch, so that strokes are not
interrupted, and at the latest some time after the first one that is not saved yet. What changed is found by comparing
each plane's digest with that of the plane as last saved, so that it need not be known who changed it or how.

Arrays are read while a person paints on them. A plane that a stroke is changing at that moment may be saved half-way;
the stroke's own touch then saves it again. Who writes several arrays that must agree, as a run does, holds `writing`
meanwhile, which the saver holds while it copies; who must not wait tries to take it, and writes a little later.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.session_file import ArraySpec
from napari_transunet.annotation.session_folder import SessionFolder

logger = logging.getLogger(__name__)

QUIET = 1.5
AT_MOST = 4.0
"""Seconds after the last and after the first unsaved touch: with the saving itself, about five."""

_LONGEST_PAUSE = 30.0
_DIGEST = 16


class Autosaver:
    """Saves arrays and a state into a session's folder from a thread of its own.

    Parameters
    ----------
    folder
        Where to; closed with the saver.
    sources
        Array name -> function that gives the array now, or None while there is none. Called on the saver's thread.
    state
        Gives the state as JSON has it. Called on the saver's thread, so it must copy what other threads change.
    writing
        Held while state and arrays are read, so that they agree.
    quiet, at_most
        Seconds from the last touch, and at most from the first unsaved one, to the start of a save.
    on_saved
        Called with the time of each save that changed something, on the saver's thread.
    on_problem
        Called with a sentence when saving begins to fail, once until it works again or fails otherwise; on that thread.
    """

    def __init__(
        self,
        folder: SessionFolder,
        sources: Mapping[str, Callable[[], NDArray[Any] | None]],
        state: Callable[[], dict[str, Any]],
        *,
        writing: AbstractContextManager[Any] | None = None,
        quiet: float = QUIET,
        at_most: float = AT_MOST,
        on_saved: Callable[[datetime], None] = lambda _when: None,
        on_problem: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self._folder = folder
        self._sources = dict(sources)
        self._state = state
        self._writing = writing if writing is not None else nullcontext()
        self._quiet, self._at_most = quiet, at_most
        self._on_saved, self._on_problem = on_saved, on_problem
        self._digests: dict[str, tuple[ArraySpec, list[bytes]]] = {}
        self._last_state: dict[str, Any] | None = None
        self._said: str | None = None
        self._failures = 0
        self._changed = threading.Condition()
        self._first: float | None = None  # when the first touch that is not saved yet came
        self._last = 0.0
        self._not_before = 0.0
        self._hurry = False
        self._stopping = False
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._run, name="autosave", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """Something may have changed. Takes microseconds; from any thread."""
        with self._changed:
            self._last = time.monotonic()
            if self._first is None:
                self._first = self._last
            self._idle.clear()
            self._changed.notify()

    def flush(self, timeout: float | None = 10.0) -> bool:
        """Save now and wait for it, at most so long; whether all is saved. It ends by itself if that fails."""
        self.touch()
        with self._changed:
            self._hurry = True
            self._changed.notify()
        return self._idle.wait(timeout) and self._said is None

    def close(self) -> bool:
        """Save what is left; whether that worked. The thread then ends and lets the folder go.

        A save may take a minute where disks are slow, and what was painted meanwhile another one.
        """
        saved = self.flush(None)
        self.stop()
        return saved

    def stop(self, timeout: float = 1.0) -> None:
        """End without another save; one that is under way is finished, and waited for at most so long."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _tell(self, listener: Callable[[Any], None], value: object) -> None:
        try:
            listener(value)
        except Exception:  # saving goes on, whatever becomes of those who watch it
            logger.exception("A listener of the autosave failed.")

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._folder.close()  # only now: until here a save may be under way

    def _work(self) -> None:
        while self._wait():
            with self._changed:
                began, self._first, self._hurry = self._first, None, False
            try:
                when = self._save()
            except Exception as error:  # noqa: BLE001  whatever it is, the next attempt may work
                self._fail(error, began)
                continue
            again, self._failures, self._said = self._said is not None, 0, None
            if when is not None or again:  # also where what failed to be saved was taken back
                self._tell(self._on_saved, when or datetime.now(UTC))
            with self._changed:
                if self._first is None:
                    self._idle.set()

    def _wait(self) -> bool:
        """Sleep until a save is due; False when there will be none any more."""
        with self._changed:
            while True:
                if self._stopping:
                    return False
                if self._first is None:
                    self._changed.wait()
                    continue
                due = min(self._last + self._quiet, self._first + self._at_most)
                left = max(due, self._not_before) - time.monotonic()
                if self._hurry or left <= 0:
                    return True
                self._changed.wait(left)

    def _save(self) -> datetime | None:
        whole = self._folder.wants_whole
        planes: dict[str, dict[int, NDArray[Any]]] = {}
        digests: dict[str, tuple[ArraySpec, list[bytes]]] = {}
        with self._writing:
            # The state first: should a stroke come between, the arrays know more than the state, never less.
            state = self._state()
            for name, source in self._sources.items():
                array = source()
                if array is None:
                    continue
                spec = ArraySpec.of(array)
                known = self._digests.get(name)
                before = known[1] if known is not None and known[0] == spec else None
                changed, now = _changed_planes(array, None if whole else before)
                digests[name] = (spec, now)
                if changed:
                    planes[name] = changed
        specs = {name: spec for name, (spec, _) in digests.items()}
        same = not planes and state == self._last_state and specs.keys() == self._digests.keys()
        if same and not whole:
            return None
        when = self._folder.save(planes, specs, state, whole=whole)
        self._digests, self._last_state = digests, state
        return when

    def _fail(self, error: Exception, began: float | None) -> None:
        self._failures += 1
        reason = (
            str(error) if isinstance(error, OSError | ValueError) else f"unexpected {type(error).__name__}"
        )
        if reason != self._said:
            self._said = reason
            logger.warning("The session was not saved.", exc_info=error)
            self._tell(
                self._on_problem,
                f"Your labels are not being saved while you work: {reason.rstrip('.')}. "
                "Saving is tried again by itself; export the labels to be safe.",
            )
        with self._changed:
            self._first = began if self._first is None else min(self._first, began or self._first)
            self._not_before = time.monotonic() + min(2.0**self._failures * self._quiet / 2, _LONGEST_PAUSE)
            self._hurry = False
            self._idle.set()  # whoever waits for it waits in vain


def _changed_planes(
    array: NDArray[Any], before: list[bytes] | None
) -> tuple[dict[int, NDArray[Any]], list[bytes]]:
    """Copies of the planes whose digest is another than before (all where there is none), and all digests."""
    changed: dict[int, NDArray[Any]] = {}
    now = []
    for index, plane in enumerate(array):
        digest = hashlib.blake2b(np.ascontiguousarray(plane).data, digest_size=_DIGEST).digest()
        if before is None or digest != before[index]:
            copy = np.array(plane, order="C")
            # Of the copy, for a stroke may have come between.
            digest = hashlib.blake2b(copy.data, digest_size=_DIGEST).digest()
            changed[index] = copy
        now.append(digest)
    return changed, now
