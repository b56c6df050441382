"""Small chores off the GUI thread whose answer comes back as a call on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

logger = logging.getLogger(__name__)


class Chores(QObject):
    """Runs functions in threads of their own; answers that come after `drop` are thrown away.

    Not napari's workers: each of them redirects Python's warnings for the whole process while it runs, and two
    at a time leave them redirected to an object that is gone. They would also be listed as running tasks, about
    which napari asks when its window closes.
    """

    _answered = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._waiting: dict[int, tuple[Callable[[Any], None], Callable[[Exception], None] | None]] = {}
        self._next = 0
        self._answered.connect(self._on_answer)

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._waiting)

    def run(
        self,
        function: Callable[[], Any],
        then: Callable[[Any], None],
        otherwise: Callable[[Exception], None] | None = None,
    ) -> None:
        """Call `function` on another thread, then `then` with its value (or `otherwise` with its error) here."""
        ticket = self._next
        self._next += 1
        self._waiting[ticket] = (then, otherwise)
        threading.Thread(target=self._work, args=(ticket, function), daemon=True, name="chore").start()

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
        if ticket not in self._waiting:
            return
        then, otherwise = self._waiting.pop(ticket)
        if error is None:
            then(value)
            return
        logger.warning("A chore in the background failed.", exc_info=error)
        if otherwise is not None:
            otherwise(error)
