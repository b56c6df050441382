"""Small tasks off the GUI thread whose answer comes back as a call on it.

What holds here: an answer is dropped when a newer question of its name was asked, and when `drop` was called since; a
task that has to `finish` outlives the window, which waits for it visibly (`closing.py`); all others end with the
program.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Signal

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _PendingTask:
    then: Callable[[Any], None]
    otherwise: Callable[[Exception], None] | None
    name: str | None


class BackgroundTasks(QObject):
    """Runs functions in threads of their own.

    Not napari's workers: each of them redirects Python's warnings for the whole process while it runs, and two
    at a time leave them redirected to an object that is gone. They would also be listed as running tasks, about
    which napari asks when its window closes.
    """

    _answered = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._waiting: dict[int, _PendingTask] = {}
        self._next = 0
        self._finishing: list[threading.Thread] = []
        self._answered.connect(self._on_answer)

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._waiting)

    @property
    def finishing(self) -> bool:
        """Whether a task is under way that has to finish; true also after `drop`."""
        self._finishing = [thread for thread in self._finishing if thread.is_alive()]
        return bool(self._finishing)

    def run(
        self,
        function: Callable[[], Any],
        then: Callable[[Any], None],
        otherwise: Callable[[Exception], None] | None = None,
        *,
        latest: str | None = None,
        finish: bool = False,
    ) -> None:
        """Call `function` on another thread, then `then` with its value (or `otherwise` with its error) here.

        Parameters
        ----------
        latest
            A name: only the answer to the newest question of this name is heard.
        finish
            Whether the program goes on until the function is done; else it ends when the program does.
        """
        ticket = self._next
        self._next += 1
        if latest is not None:
            self._waiting = {at: asked for at, asked in self._waiting.items() if asked.name != latest}
        self._waiting[ticket] = _PendingTask(then, otherwise, latest)
        thread = threading.Thread(
            target=self._work, args=(ticket, function), daemon=not finish, name=latest or "task"
        )
        if finish:
            self._finishing.append(thread)
        thread.start()

    def drop(self) -> None:
        """Throw away the answers that are still to come."""
        self._waiting.clear()

    def _work(self, ticket: int, function: Callable[[], Any]) -> None:
        value, failure = None, None
        try:
            value = function()
        except Exception as error:  # noqa: BLE001  handed over to whoever asked
            failure = error
        try:
            self._answered.emit((ticket, value, failure))
        except RuntimeError:
            logger.debug("Nobody waits for this answer any more.")

    def _on_answer(self, answer: tuple[int, Any, Exception | None]) -> None:
        ticket, value, error = answer
        asked = self._waiting.pop(ticket, None)
        if asked is None:
            return
        if error is None:
            asked.then(value)
            return
        # As text, and the error without its frames: whoever keeps either must not keep the window.
        logger.warning("A task in the background failed.\n%s", "".join(traceback.format_exception(error)))
        error.with_traceback(None)
        if asked.otherwise is not None:
            asked.otherwise(error)
