"""Many units of work on a cluster: a bounded number at a time, tried again, set aside, cancelled.

Dask's scheduler decides who works on what. What it cannot know is added here: how many units may wait there, what a
worker lacks, and which unit it was that killed a worker.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker

from napari_transunet.cluster.address import NOT_NOW, ConnectionLost
from napari_transunet.cluster.answers import Answer, Done, Failed, Lacks, Stopped, failure_of
from napari_transunet.cluster.checkpoints import SentCheckpoint
from napari_transunet.cluster.on_worker import receive_checkpoint
from napari_transunet.errors import TransUNetError

_log = logging.getLogger(__name__)

_UNITS_A_THREAD = 2  # at the scheduler: one that runs, one that waits
_LEAST = 4
_HANDS = 4  # threads here, that read scans, send them, and write what came back
_IN_VAIN = 20  # attempts at a unit that others stopped, or whose worker lacked something
_LOOK_AROUND = 2.0  # s between looks at how many workers there are
_TICK = 0.2  # s in which a wish to stop is noticed
_SAY_WAITING = 5.0  # s without any worker
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

    The last three are called on threads of the batch, several units' at a time.
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


@dataclass(eq=False)
class _Attempt:
    unit: Unit
    number: int = 1
    tries: int = 1  # of `number`, those that failed by themselves count against the retries
    deaths: int = 0
    with_files: bool = False
    worker: str | None = None  # on which it had better run
    future: Future[Any] | None = None


_Then = Callable[[_Attempt, Any], "Finished | None"]


class Batch:
    """Units on a cluster.

    Parameters
    ----------
    client : of the scheduler
    retries : how often a unit that failed for a reason that may pass is tried again
    limit : units in hand at once; by default twice the workers' threads
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
        self._events: queue.SimpleQueue[tuple[_Attempt, _Then | None, Any]] = queue.SimpleQueue()
        self._hands = ThreadPoolExecutor(_HANDS, "batch")
        self._ending = False
        self._in_hand: set[_Attempt] = set()  # at the scheduler, or on a thread here
        self._again: deque[_Attempt] = deque()
        self._suspects: deque[_Attempt] = deque()
        self._threads: dict[str, int] = {}
        self._looked = self._worked = -1e9
        self._said_waiting = False
        self._making = threading.Lock()
        self._has_checkpoint: set[tuple[str, str]] = set()
        self._on_the_way: dict[tuple[str, str], list[_Attempt]] = {}  # who else waits for a checkpoint

    def run(self, units: Iterable[Unit]) -> Iterator[Finished]:
        """What became of each unit, in the order in which they end; for one call.

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
        try:
            reason = yield from self._handed_out(waiting)
            if reason:
                yield from self._stopped(waiting, reason)
        except ConnectionLost:
            yield from self._finished_here()
            raise
        finally:
            self._ending = True
            self._hands.shutdown(wait=False)

    def _handed_out(self, waiting: Iterator[Unit]) -> Generator[Finished, None, str]:
        """Units as they end; gives why the others were not begun, or nothing."""
        while True:
            # What may have killed a worker runs alone.
            alone = any(attempt.deaths for attempt in self._in_hand)
            while not alone and len(self._in_hand) < self._window() and not self._cancelled():
                if self._again:
                    self._submit(self._again.popleft())
                elif (unit := next(waiting, None)) is not None:
                    self._submit(_Attempt(unit))
                else:
                    break
            if self._cancelled():
                return "stopped before it was done"
            if not self._in_hand:
                if not self._suspects:
                    return ""
                self._submit_suspects()
            full = ""
            for finished in self._ended():
                if isinstance(finished.result, Failed) and finished.result.disk:
                    full = finished.message
                yield finished
            if full:
                return full

    def _window(self) -> int:
        """How many units may be in hand."""
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
        except NOT_NOW as error:
            if self._client.status != "running":
                raise ConnectionLost(_LOST) from error
            return self._threads

    def _submit(self, attempt: _Attempt) -> None:
        if attempt.with_files:
            self._here(attempt, partial(self._read, attempt.unit), self._place)
        else:
            self._place(attempt)

    def _submit_suspects(self) -> None:
        """One unit that may have killed a worker on each worker, and nothing else of this batch."""
        self._looked = -1e9
        self._window()
        workers: list[str | None] = [*self._threads]
        for worker in workers or [None]:
            if self._suspects:
                attempt = self._suspects.popleft()
                attempt.worker = worker
                self._submit(attempt)

    def _here(self, attempt: _Attempt, job: Callable[[], Any], then: _Then) -> None:
        """Do a job on a thread of this process; `then` is called where the others are handed out, with what it gave."""

        def done() -> None:
            try:
                given = job()
            except Exception as error:  # noqa: BLE001  it is what becomes of the unit
                given = failure_of(error)
            self._events.put((attempt, then, given))

        self._in_hand.add(attempt)
        self._hands.submit(done)

    def _read(self, unit: Unit) -> Answer | Future[Any]:
        """What a worker does not see, on its way there."""
        assert unit.files is not None
        given = Stopped() if self._ending else unit.files()
        if isinstance(given, Done | Failed | Stopped):
            return given
        try:
            sent: Future[Any] = self._client.scatter(given, hash=False)
        except NOT_NOW as error:
            _log.info("A unit's files were not sent: %s", error)
            return Stopped()
        return sent

    def _place(self, attempt: _Attempt, given: Any = None) -> Finished | None:
        """Hand an attempt to the scheduler, with what was read for it."""
        if isinstance(given, Done | Failed | Stopped):
            return self._told(attempt, given)
        if self._ending:
            return self._told(attempt, Stopped())
        unit = attempt.unit
        placed: dict[str, Any] = {}
        if attempt.worker is not None:
            placed = {"workers": [attempt.worker], "allow_other_workers": True}
        arguments = [*unit.arguments, *([] if given is None else [given])]
        key = f"{unit.key}-{attempt.number}"
        self._in_hand.add(attempt)
        attempt.future = self._client.submit(unit.function, *arguments, key=key, pure=False, **placed)
        attempt.future.add_done_callback(lambda _: self._events.put((attempt, None, None)))
        return None

    def _ended(self) -> Iterator[Finished]:
        """What has ended since; waits a moment for it."""
        try:
            events = [self._events.get(timeout=_TICK)]
        except queue.Empty:
            self._window()
            return
        while not self._events.empty():
            events.append(self._events.get())
        answers = self._answers([attempt for attempt, then, _ in events if then is None])
        for attempt, then, given in events:
            self._in_hand.discard(attempt)
            if then is not None:
                finished = then(attempt, given)
            else:
                attempt.future = None
                answer = answers[attempt]
                finished = (
                    self._died(attempt, answer) if isinstance(answer, str) else self._told(attempt, answer)
                )
            if finished is not None:
                yield finished

    def _answers(self, attempts: Sequence[_Attempt]) -> dict[_Attempt, Answer | str]:
        """The answer of each; a text where its worker died."""
        found: dict[_Attempt, Answer | str] = {}
        good: list[_Attempt] = []
        for attempt in attempts:
            future = attempt.future
            assert future is not None
            if future.status == "finished":
                good.append(attempt)
            elif future.status == "error":
                error = future.exception()
                died = isinstance(error, KilledWorker)
                found[attempt] = str(error.last_worker.name) if died else failure_of(error)
            else:
                found[attempt] = Stopped()
        if good:
            try:
                answers = self._client.gather([attempt.future for attempt in good])
                found |= dict(zip(good, answers, strict=True))
            except (OSError, CancelledError, KilledWorker) as error:
                # A worker died with its answers. The units are asked again, and find what they had written.
                _log.info("Answers were lost: %s", error)
                found |= dict.fromkeys(good, Stopped())
        if any(isinstance(answer, Stopped) for answer in found.values()) and not self._connected():
            raise ConnectionLost(_LOST)
        return found

    def _connected(self) -> bool:
        if self._client.status != "running":
            return False
        try:
            self._client.nthreads()
        except NOT_NOW:
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
        if isinstance(answer, Lacks):
            return self._lacking(attempt, answer)
        if isinstance(answer, Done):
            if unit.finish is None:
                return self._finished(answer, attempt, answer.result)
            self._here(attempt, partial(unit.finish, answer.result), partial(self._finished, answer))
            return None
        if isinstance(answer, Stopped):  # somebody else cancelled it, or the answer was lost
            again = attempt.number - attempt.tries < _IN_VAIN
            answer = Failed("It was stopped again and again, though not from here.")
        else:
            again = answer.again and attempt.tries <= self._retries
            attempt.tries += again
        if not again:
            return Finished(unit, State.FAILED, answer, answer.sentence, answer.worker, attempt.number)
        attempt.number += 1
        self._again.append(attempt)
        return None

    def _finished(self, answer: Done, attempt: _Attempt, given: Any) -> Finished | None:
        """The end of a unit of which nothing is left to do here."""
        if isinstance(given, Failed):
            return self._told(attempt, replace(given, worker=answer.worker))
        state = State.SKIPPED if answer.skipped else State.DONE
        return Finished(attempt.unit, state, given, worker=answer.worker, attempts=attempt.number)

    def _lacking(self, attempt: _Attempt, lacks: Lacks) -> Finished | None:
        """Have what a worker lacks sent, and the unit tried again; the end of the unit where that is not possible."""
        unit, to = attempt.unit, (lacks.what, lacks.address)
        attempt.number += 1
        problem = ""
        if attempt.number - attempt.tries > _IN_VAIN:
            problem = f"No worker kept what it was sent ({lacks.kind})."
        elif lacks.kind == "files" and (unit.files is None or attempt.with_files):
            problem = "The worker does not see the files of this unit."
        elif lacks.kind == "checkpoint" and unit.checkpoint is None:
            problem = "The worker has no such checkpoint."
        if problem:
            return self._told(attempt, Failed(problem, worker=lacks.address))
        if lacks.kind == "files":
            attempt.with_files = True
        elif to in self._on_the_way:
            self._on_the_way[to].append(attempt)
            self._in_hand.add(attempt)
            return None
        elif to not in self._has_checkpoint:
            self._on_the_way[to] = []
            self._here(attempt, partial(self._send, unit, lacks), partial(self._sent, to))
            return None
        self._again.appendleft(attempt)
        return None

    def _send(self, unit: Unit, lacks: Lacks) -> Answer:
        """Give a worker the checkpoint that it lacks, for as long as the batch goes on and the worker is there."""
        assert unit.checkpoint is not None
        with self._making:  # one at a time, for it takes the memory of one
            if self._ending:
                return Stopped()
            content = unit.checkpoint(lacks.what)
        try:
            data = self._client.scatter(content, workers=[lacks.address], hash=False)
            received = self._client.submit(
                receive_checkpoint, data, workers=[lacks.address], pure=False, allow_other_workers=False
            )
            while not self._ending and lacks.address in self._threads:
                try:
                    received.result(timeout=_TICK)
                except TimeoutError:
                    continue
                return Done()
        except TransUNetError:  # some of them are ValueErrors too
            raise
        except (CancelledError, KilledWorker, TimeoutError, ValueError) as error:
            _log.info("A worker left before its checkpoint came: %s", error)
        return Stopped()

    def _sent(self, to: tuple[str, str], attempt: _Attempt, answer: Answer) -> Finished | None:
        others = self._on_the_way.pop(to)
        self._in_hand.difference_update(others)
        self._again.extendleft([*others, attempt] if not isinstance(answer, Failed) else others)
        if isinstance(answer, Done):
            self._has_checkpoint.add(to)
        return self._told(attempt, answer) if isinstance(answer, Failed) else None

    def _finished_here(self) -> Iterator[Finished]:
        """What threads here had in hand when all stopped: labels that came back are written, nothing else begins."""
        self._ending = True
        self._hands.shutdown()
        while not self._events.empty():
            attempt, then, given = self._events.get()
            if then is not None and (finished := then(attempt, given)) is not None:
                self._in_hand.discard(attempt)
                yield finished

    def _stopped(self, waiting: Iterator[Unit], reason: str) -> Iterator[Finished]:
        """Cancel what is at the scheduler; what ended in the meantime is still told."""
        self._ending = True
        yield from self._ended()
        futures = [attempt.future for attempt in self._in_hand if attempt.future is not None]
        if futures and self._client.status == "running":
            self._client.cancel(futures, reason="cancelled by the client", msg=reason)
        yield from self._finished_here()
        for attempt in {*self._in_hand, *self._again, *self._suspects}:
            yield Finished(attempt.unit, State.STOPPED, message=reason, attempts=attempt.number)
        for unit in waiting:
            yield Finished(unit, State.STOPPED, message=reason)
