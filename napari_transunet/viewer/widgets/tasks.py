"""Work off the GUI thread whose answer comes back as a call on it: one runner for all but the network's runs.

What holds here: an answer is dropped when a newer question of its name was asked, and when `drop` was called since; a
task that has to `finish` outlives the window, which waits for it visibly (`closing.py`); all others end with the
program.
"""

import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_transunet.errors import TransUNetError
from napari_transunet.viewer.widgets.messages import error_sentence

logger = logging.getLogger(__name__)


def emit(sender: QObject, signal: str, *values: Any) -> None:
    """Emit a signal, by its name, from another thread: its window, and the sender with it, may be gone by now."""
    try:
        getattr(sender, signal).emit(*values)
    except RuntimeError:
        logger.debug("The window was gone before this could be shown: %s", values)


@dataclass(frozen=True, eq=False)
class _PendingTask:
    on_result: Callable[[Any], None]
    on_error: Callable[[str], None] | None
    what: str
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
        on_result: Callable[[Any], None],
        on_error: Callable[[str], None] | None = None,
        *,
        what: str = "The task",
        latest: str | None = None,
        finish: bool = False,
    ) -> None:
        """Call `function` on another thread, then `on_result` with its value, or `on_error` with a sentence, here.

        Parameters
        ----------
        what : what goes on, as the subject of a sentence that says why it failed.
        latest : a name: only the answer to the newest question of this name is heard.
        finish : whether the program goes on until the function is done; else it ends when the program does.
        """
        ticket = self._next
        self._next += 1
        if latest is not None:
            self._waiting = {at: asked for at, asked in self._waiting.items() if asked.name != latest}
        self._waiting[ticket] = _PendingTask(on_result, on_error, what, latest)
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
        emit(self, "_answered", (ticket, value, failure))

    def _on_answer(self, answer: tuple[int, Any, Exception | None]) -> None:
        ticket, value, error = answer
        asked = self._waiting.pop(ticket, None)
        if asked is None:
            return
        if error is None:
            asked.on_result(value)
            return
        if isinstance(error, TransUNetError):
            logger.info("%s failed: %s", asked.what, error)
        else:  # as text: whoever keeps the error with its frames keeps the window
            logger.warning("%s failed.\n%s", asked.what, "".join(traceback.format_exception(error)))
        if asked.on_error is not None:
            asked.on_error(error_sentence(error, asked.what))
