"""Many units of work on a cluster: a bounded number at a time, tried again, set aside, cancelled.

Dask's scheduler decides who works on what. What it cannot know is added here: how many units may wait there, what a
worker lacks, and which unit it was that killed a worker.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from distributed import CancelledError, KilledWorker

from napari_transunet.cluster.address import ConnectionLost
from napari_transunet.cluster.answers import Answer, Done, Failed, Lacks, Stopped, failure_of
from napari_transunet.cluster.on_worker import receive_checkpoint
from napari_transunet.errors import TransUNetError

if TYPE_CHECKING:
    from distributed import Client, Future

    from napari_transunet.cluster.checkpoints import SentCheckpoint

_log = logging.getLogger(__name__)

_UNITS_A_THREAD = 2  # at the scheduler: one that runs, one that waits
_LEAST = 4
_SUPPLIES = 20  # for one unit, each to another worker as a rule
_LOOK_AROUND = 2.0  # s between looks at how many workers there are
_TICK = 0.2  # s in which a wish to stop is noticed
_SAY_WAITING = 5.0  # s without any worker
_STOPS = 20  # of one unit, by others than this batch
_NOT_NOW = (OSError, ValueError, RuntimeError, TimeoutError)  # what Dask raises while a connection is lost
_LOST = (
    "The connection to the scheduler was lost; what is done is done. Begin again with the same command: it goes on "
    "where this run ended."
)


class State(StrEnum):
    """What became of a unit."""

    DONE = "done"
    SKIPPED = "there already"
    FAILED = "failed"
    SET_ASIDE = "set aside"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Unit:
    """One thing to do.

    Attributes
    ----------
    name : what people call it
    key : what it is to the scheduler: two clients that name the same work by one key have it done once
    function : runs on a worker with `arguments` and answers; what it takes and gives is plain
    files : reads here what a worker that does not see the unit's files lacks; passed as a further argument. It may
        give an answer instead
    checkpoint : makes ready the checkpoint of this hash for a worker that lacks it
    finish : called here with the result where something is left to do, such as to write labels that came back;
        returns what there is to tell
    """

    name: str
    key: str
    function: Callable[..., Answer]
    arguments: tuple[Any, ...] = ()
    files: Callable[[], Any] | None = None
    checkpoint: Callable[[str], SentCheckpoint] | None = None
    finish: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Finished:
    """What became of a unit: `result` where it is done, `message` where it is not; who did it, and at which attempt."""

    unit: Unit
    state: State
    result: Any = None
    message: str = ""
    worker: str = ""
    attempts: int = 0


@dataclass
class _Attempt:
    unit: Unit
    number: int = 1
    tries: int = 1  # of `number`, those that failed by themselves count against the retries
    deaths: int = 0
    supplies: int = 0
    stops: int = 0
    with_files: bool = False
    future: Future[Any] | None = None
    held: list[Any] = field(default_factory=list)  # data that was sent for it

    @property
    def key(self) -> str:
        return f"{self.unit.key}-{self.number}"


class Batch:
    """Units on a cluster.

    Parameters
    ----------
    client : of the scheduler
    retries : how often a unit that failed for a reason that may pass is tried again
    limit : units at the scheduler at once; by default twice the workers' threads
    say : told what a person should know while waiting
    cancelled : asked a few times a second; once it says so, nothing more begins and what runs is told to stop
    """

    def __init__(
        self,
        client: Client,
        *,
        retries: int = 2,
        limit: int | None = None,
        say: Callable[[str], None] = lambda _: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = client
        self._retries = retries
        self._limit = limit
        self._say = say
        self._cancelled = cancelled
        self._events: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self._running: dict[str, _Attempt] = {}
        self._again: deque[_Attempt] = deque()
        self._suspects: deque[_Attempt] = deque()
        self._threads: dict[str, int] = {}
        self._looked = self._worked = -1e9
        self._said_waiting = False
        self._has_checkpoint: set[tuple[str, str]] = set()

    def run(self, units: Iterable[Unit]) -> Iterator[Finished]:
        """What became of each unit, in the order in which they end.

        A unit whose worker died waits until the others are done and is then tried once more, alone on a worker: only so
        it is known which of a worker's units it was. If that worker dies too, the unit is set aside.

        Where the disk is full no more units begin, since none could be written. These, and those that were stopped, are
        reported as stopped.

        Raises
        ------
        ConnectionLost
            The scheduler went away; all that ended before has been reported.
        """
        waiting = iter(units)
        more = True
        full = ""
        while True:
            # What may have killed a worker runs alone.
            alone = any(attempt.deaths for attempt in self._running.values())
            while more and not (alone or full or self._cancelled()) and len(self._running) < self._window():
                if self._again:
                    self._submit(self._again.popleft())
                elif (unit := next(waiting, None)) is not None:
                    self._submit(_Attempt(unit))
                else:
                    more = False
            if self._cancelled() or full:
                break
            if not self._running and self._again:
                more = True
                continue
            if not self._running and not self._suspects:
                return
            if not self._running:
                self._submit_suspects()
            for finished in self._ended():
                if finished.state is State.FAILED and isinstance(finished.result, Failed):
                    full = finished.message if finished.result.disk else full
                yield finished
            if self._again:
                more = True
        reason = full or "stopped before it was done"
        yield from self._stop(waiting, reason)

    def _window(self) -> int:
        """How many units may be at the scheduler."""
        now = time.monotonic()
        if now - self._looked > _LOOK_AROUND:
            self._looked = now
            self._threads = self._workers_threads()
            if self._threads:
                self._worked, self._said_waiting = now, False
            elif self._worked < 0:
                self._worked = now
            if not self._threads and now - self._worked > _SAY_WAITING and not self._said_waiting:
                self._said_waiting = True
                address = str(self._client.scheduler_info()["address"])
                self._say(
                    f"No worker is at {address}; waiting. `napari-transunet worker {address}` starts one."
                )
        return self._limit or max(_LEAST, _UNITS_A_THREAD * sum(self._threads.values()))

    def _workers_threads(self) -> dict[str, int]:
        try:
            return dict(self._client.nthreads())
        except _NOT_NOW as error:
            if self._client.status != "running":
                raise ConnectionLost(_LOST) from error
            return self._threads

    def _submit(self, attempt: _Attempt, worker: str | None = None) -> None:
        unit = attempt.unit
        placed: dict[str, Any] = {}
        if worker is not None:
            placed = {"workers": [worker], "allow_other_workers": True}
        arguments: Sequence[Any] = unit.arguments
        if attempt.with_files and unit.files is not None:
            try:
                given = unit.files()
            except Exception as error:  # noqa: BLE001  it is what becomes of the unit
                given = failure_of(error)
            if isinstance(given, Done | Failed):
                self._answered_here(attempt, given)
                return
            held = self._client.scatter(given, hash=False)
            attempt.held = [held]
            arguments = [*arguments, held]
        future = self._client.submit(unit.function, *arguments, key=attempt.key, pure=False, **placed)
        attempt.future = future
        self._running[attempt.key] = attempt
        future.add_done_callback(lambda _: self._events.put(attempt))

    def _answered_here(self, attempt: _Attempt, answer: Answer) -> None:
        """An attempt ended without a worker."""
        attempt.future = None
        attempt.held = [answer]
        self._running[attempt.key] = attempt
        self._events.put(attempt)

    def _submit_suspects(self) -> None:
        """One unit that may have killed a worker on each worker, and nothing else of this batch."""
        self._looked = -1e9
        self._window()
        workers: list[str | None] = [*self._threads]
        for worker in workers or [None]:
            if self._suspects:
                self._submit(self._suspects.popleft(), worker)

    def _ended(self) -> Iterator[Finished]:
        """What has ended since; waits a moment for it."""
        try:
            attempts = [self._events.get(timeout=_TICK)]
        except queue.Empty:
            self._window()
            return
        while True:
            try:
                attempts.append(self._events.get_nowait())
            except queue.Empty:
                break
        answers = self._answers(attempts)
        for attempt in attempts:
            self._running.pop(attempt.key, None)
            answer = answers[attempt.key]
            finished = self._died(attempt, answer) if isinstance(answer, str) else self._told(attempt, answer)
            attempt.future = None
            attempt.held = []
            if finished is not None:
                yield finished

    def _answers(self, attempts: Sequence[_Attempt]) -> dict[str, Answer | str]:
        """The answer of each by its key; a text where its worker died."""
        found: dict[str, Answer | str] = {}
        good: list[_Attempt] = []
        for attempt in attempts:
            future = attempt.future
            if future is None:
                found[attempt.key] = attempt.held[0]
            elif future.status == "finished":
                good.append(attempt)
            elif future.status == "error":
                error = future.exception()
                if isinstance(error, KilledWorker):
                    found[attempt.key] = str(error.last_worker.name)
                else:
                    found[attempt.key] = failure_of(error)
            else:
                found[attempt.key] = Stopped()
        if good:
            try:
                answers = self._client.gather([attempt.future for attempt in good])
                found |= {attempt.key: answer for attempt, answer in zip(good, answers, strict=True)}
            except (OSError, CancelledError, KilledWorker) as error:
                # A worker died with its answers. The units are asked again, and find what they had written.
                _log.info("Answers were lost: %s", error)
                found |= {attempt.key: Stopped() for attempt in good}
        if any(isinstance(answer, Stopped) for answer in found.values()) and not self._connected():
            raise ConnectionLost(_LOST)
        return found

    def _connected(self) -> bool:
        if self._client.status != "running":
            return False
        try:
            self._client.nthreads()
        except _NOT_NOW:
            return False
        return self._client.status == "running"

    def _died(self, attempt: _Attempt, worker: str) -> Finished | None:
        attempt.deaths += 1
        if attempt.deaths > 1:
            message = "It ended its worker twice, the second time alone on it; it may need more memory than that has."
            return Finished(
                attempt.unit, State.SET_ASIDE, message=message, worker=worker, attempts=attempt.number
            )
        attempt.number += 1
        self._say(
            f"The worker {worker} died with {attempt.unit.name}; it is tried once more, alone, at the end."
        )
        self._suspects.append(attempt)
        return None

    def _told(self, attempt: _Attempt, answer: Answer) -> Finished | None:
        unit = attempt.unit
        if isinstance(answer, Done):
            try:
                result = unit.finish(answer.result) if unit.finish is not None else answer.result
            except Exception as error:  # noqa: BLE001  it is what becomes of the unit
                answer = failure_of(error, answer.worker)
            else:
                state = State.SKIPPED if answer.skipped else State.DONE
                return Finished(unit, state, result, worker=answer.worker, attempts=attempt.number)
        if isinstance(answer, Lacks):
            missing = self._supplied(attempt, answer)
            if missing is None:
                return None
            answer = missing
        attempt.stops += isinstance(answer, Stopped)
        if isinstance(answer, Stopped) and attempt.stops > _STOPS:
            answer = Failed("It was stopped again and again, though not from here.")
        if isinstance(answer, Stopped):  # somebody else cancelled it, or the answer was lost
            attempt.number += 1
            self._again.append(attempt)
            return None
        assert isinstance(answer, Failed)
        if answer.again and attempt.tries <= self._retries:
            attempt.tries += 1
            attempt.number += 1
            self._again.append(attempt)
            return None
        return Finished(unit, State.FAILED, answer, answer.sentence, answer.worker, attempt.number)

    def _supplied(self, attempt: _Attempt, lacks: Lacks) -> Failed | None:
        """Send what a worker lacks, and have the unit tried again; the reason where that is not possible."""
        unit = attempt.unit
        attempt.number += 1
        attempt.supplies += 1
        if attempt.supplies > _SUPPLIES:
            return Failed(f"No worker kept what it was sent ({lacks.kind}).", worker=lacks.address)
        if lacks.kind == "files":
            if unit.files is None or attempt.with_files:
                return Failed("The worker does not see the files of this unit.", worker=lacks.address)
            attempt.with_files = True
        elif (lacks.what, lacks.address) not in self._has_checkpoint:
            if unit.checkpoint is None:
                return Failed("The worker has no such checkpoint.", worker=lacks.address)
            try:
                data = self._client.scatter(unit.checkpoint(lacks.what), workers=[lacks.address], hash=False)
                self._client.submit(
                    receive_checkpoint, data, workers=[lacks.address], pure=False, allow_other_workers=False
                ).result(timeout=600)
            except TransUNetError as error:
                return failure_of(error, lacks.address)
            except (CancelledError, KilledWorker, TimeoutError, ValueError) as error:
                _log.info("A worker left before its checkpoint came: %s", error)
            except Exception as error:  # noqa: BLE001  it is what becomes of the unit
                return failure_of(error, lacks.address)
            else:
                self._has_checkpoint.add((lacks.what, lacks.address))
        self._again.appendleft(attempt)
        return None

    def _stop(self, waiting: Iterator[Unit], reason: str) -> Iterator[Finished]:
        """Cancel what is at the scheduler; what ended in the meantime is still told."""
        yield from self._ended()
        futures = [attempt.future for attempt in self._running.values() if attempt.future is not None]
        if futures and self._client.status == "running":
            self._client.cancel(futures, reason="cancelled by the client", msg=reason)
        left = [*self._running.values(), *self._again, *self._suspects]
        for attempt in left:
            yield Finished(attempt.unit, State.STOPPED, message=reason, attempts=attempt.number)
        for unit in waiting:
            yield Finished(unit, State.STOPPED, message=reason)
