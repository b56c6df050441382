"""What a task knows of the worker that runs it. Nothing here is called outside a task."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from distributed import Worker, get_worker

from napari_transunet.cluster.answers import Answer, Lacks, Stopped, failure_of
from napari_transunet.cluster.checkpoints import CheckpointShelf, SentCheckpoint
from napari_transunet.inference.prediction import PredictionCancelled

P = ParamSpec("P")

_NAME = "napari-transunet"


@dataclass
class WorkerState:
    """What a worker keeps between tasks.

    Attributes
    ----------
    checkpoints : those it has loaded
    network : held while a network runs: one at a time, so that the others of this worker's threads read and write
    kept : what else its tasks keep, by name
    """

    checkpoints: CheckpointShelf
    network: threading.Lock = field(default_factory=threading.Lock)
    kept: dict[str, Any] = field(default_factory=dict)


def worker_state() -> WorkerState:
    """What this task's worker keeps."""
    worker: Worker = get_worker()
    # Dask's place for what belongs to a worker and no task. The first of several threads sets it.
    found: WorkerState = worker.extensions.setdefault(
        _NAME, WorkerState(CheckpointShelf(Path(worker.local_directory) / "checkpoints"))
    )
    return found


def answering(function: Callable[P, Answer]) -> Callable[P, Answer]:
    """Makes a task of a function: whatever it raises becomes an answer, and every answer says which worker gave it."""

    @wraps(function)
    def task(*args: P.args, **kwargs: P.kwargs) -> Answer:
        answer: Answer
        try:
            answer = function(*args, **kwargs)
        except PredictionCancelled:
            answer = Stopped()
        except Exception as error:  # noqa: BLE001  it is told to the client
            answer = failure_of(error)
        if isinstance(answer, Lacks):
            return replace(answer, address=str(get_worker().address))
        return answer if isinstance(answer, Stopped) else replace(answer, worker=worker_name())

    return task


def worker_name() -> str:
    """What people call this task's worker: its name where it was given one, else its host."""
    name = get_worker().name
    return name if isinstance(name, str) and "://" not in name else f"{socket.gethostname()} {name}"


def is_cancelled() -> Callable[[], bool]:
    """Asks whether the task that calls this has been cancelled, or its worker is closing.

    Dask cannot stop a thread. It does tell the worker that nobody wants the task any more, because it was cancelled
    or because its client is gone, and a network's batches are short enough to ask in between.
    """
    worker: Worker = get_worker()
    key = worker.get_current_task()

    def asked() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or worker.status.name.startswith("clos")

    return asked


def receive_checkpoint(what: SentCheckpoint) -> None:
    """Keep a checkpoint that was sent to this worker. Raises `CheckpointError` where it is not what was sent."""
    worker_state().checkpoints.receive(what)
