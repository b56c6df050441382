"""Learning from corrections on a worker of a cluster: `adapt` as one call there.

The corrections go over once. What was learnt comes back as the bytes of a safetensors file with its card, whose hash is
checked; how far it is comes as numbers over the scheduler, which keeps the last thousand.
"""

import hashlib
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, get_worker

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.checkpoints.saving import SUFFIX
from napari_transunet.cluster.address import ConnectionLost
from napari_transunet.cluster.answers import Answer, Done, Lacks, Stopped
from napari_transunet.cluster.checkpoints import CheckpointReference, file_content, file_name, sent
from napari_transunet.cluster.on_worker import answering, is_cancelled, worker_state
from napari_transunet.cluster.one_worker import OneWorker
from napari_transunet.errors import InputError
from napari_transunet.export.segmentation import LoadingOptions
from napari_transunet.training import adaptation, fine_tuning
from napari_transunet.training.adaptation import weights_sha256
from napari_transunet.training.corrections import Correction
from napari_transunet.training.fine_tuning import AdaptationCancelled, AdaptationProgress
from napari_transunet.training.replay import replay_beside, replay_path

_TOPIC = "napari-transunet learning"
_OFTEN = 0.2  # s between two reports of progress
_GIVE_WAY = 0.001  # s in which another thread takes the network


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What a worker needs beside the checkpoint.

    Attributes
    ----------
    card : of the checkpoint, as JSON; the labels may have names that its file does not know
    replay : the replay pack's file, empty where there is none
    wishes : what else `adapt` is called with
    """

    corrections: Sequence[Correction]
    card: str
    replay: bytes
    wishes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Learnt:
    """The file of the new checkpoint, and its hash."""

    content: bytes
    sha256: str


def adapt_on_cluster(
    client: Client,
    checkpoint: Checkpoint | None,
    corrections: Sequence[Correction],
    *,
    progress: Callable[[AdaptationProgress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    new_organs: Mapping[int, str] | None = None,
    drop: Collection[str] = (),
    earlier: Sequence[Correction] = (),
    steps: int | None = None,
    seconds: float = fine_tuning.SECONDS,
    seed: int = 0,
) -> Checkpoint:
    """As `adapt`, on the worker with the least to do; nothing is written here or there.

    `checkpoint` is as its file has it, but for the names in its card. `progress` is told a few times a second.

    Raises
    ------
    ConnectionLost
        The scheduler or the worker went away.
    InputError
        As `adapt`, or no worker is there.
    CheckpointError
        The replay pack beside the checkpoint cannot be used, or what came back is damaged.
    AdaptationCancelled
        `cancelled` said so.
    """
    worker = OneWorker(client, str(client.scheduler_info()["address"]))
    reference, card, replay = None, "", b""
    if checkpoint is not None:
        path = checkpoint.path
        reference = CheckpointReference(checkpoint.name, str(path.resolve()), checkpoint.sha256)
        card = checkpoint.card.to_json()
        if replay_beside(path) is not None:  # looked at here, where it can be mended
            replay = replay_path(path).read_bytes()
    wishes = {
        "new_organs": None if new_organs is None else dict(new_organs),
        "drop": tuple(drop),
        "earlier": list(earlier),
        "steps": steps,
        "seconds": seconds,
        "seed": seed,
    }
    told: deque[AdaptationProgress] = deque(maxlen=1)
    name = uuid4().hex

    def stop() -> bool:
        if progress is not None and told:
            progress(told.pop())
        return cancelled is not None and cancelled()

    def checkpoint_to_send() -> Any:
        assert reference is not None
        return sent(reference, LoadingOptions())

    with _heard(client, name, told.append):
        try:
            lesson = worker.send(_Lesson(list(corrections), card, replay, wishes))
            answer = worker.done(
                _learn, reference, lesson, name, checkpoint=checkpoint_to_send, cancelled=stop
            )
        except ConnectionLost as error:
            raise ConnectionLost(f"{error} Nothing was learnt, and nothing has changed.") from error
    if answer is None:
        if stop():
            raise AdaptationCancelled("Learning was cancelled; nothing has changed.")
        raise ConnectionLost(f"{worker.name} stopped learning; nothing has changed.")
    stop()
    learnt: _Learnt = answer.result
    return _unpacked(learnt, checkpoint)


@contextmanager
def _heard(client: Client, name: str, told: Callable[[AdaptationProgress], None]) -> Iterator[None]:
    """Be told how far the lesson of this name is, by a thread of Dask's."""

    def hear(event: tuple[float, Sequence[Any]]) -> None:
        whose, *numbers = event[1]
        if whose == name:
            told(AdaptationProgress(*numbers))

    client.subscribe_topic(_TOPIC, hear)
    try:
        yield
    finally:
        if client.status == "running":
            client.unsubscribe_topic(_TOPIC)


def _unpacked(learnt: _Learnt, parent: Checkpoint | None) -> Checkpoint:
    """What came back, as `adapt` would have given it."""
    if hashlib.sha256(learnt.content).hexdigest() != learnt.sha256:
        raise ConnectionLost("What was learnt arrived damaged; learn again.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"learnt{SUFFIX}"
        path.write_bytes(learnt.content)
        found = load_checkpoint(path)
    lineage = found.card.lineage
    if not lineage or (parent is not None and lineage[-1].parent != parent.sha256):
        raise InputError("The worker answered with another checkpoint than one that learnt from this one.")
    stem = "first" if parent is None else parent.name
    folder_of_parent = Path() if parent is None else parent.path.parent
    return replace(
        found,
        path=folder_of_parent / f"{stem}-adapted{SUFFIX}",
        sha256=weights_sha256(found.model),
        format="memory",
    )


# -- on the worker ------------------------------------------------------------------------------------------------


@answering
def _learn(reference: CheckpointReference | None, lesson: _Lesson, name: str) -> Answer:
    cancelled, state = is_cancelled(), worker_state()
    parent = None
    if reference is not None:
        parent = state.checkpoints.checkpoint(reference, LoadingOptions())
        if parent is None:
            return Lacks("checkpoint", reference.sha256)
    try:
        with (
            tempfile.TemporaryDirectory(dir=get_worker().local_directory) as folder,
            _in_turns(state.network, cancelled) as stop,
        ):
            if parent is not None and reference is not None:
                # `adapt` replays what lies beside the checkpoint: here that is the client's.
                path = Path(folder) / file_name(reference.name)
                if lesson.replay:
                    replay_path(path).write_bytes(lesson.replay)
                card = ModelCard.model_validate_json(lesson.card)
                parent = replace(parent, path=path, card=card)
            better = adaptation.adapt(
                parent, lesson.corrections, progress=_Telling(name), cancelled=stop, **lesson.wishes
            )
    except AdaptationCancelled:
        return Stopped()
    content = file_content(better)
    return Done(_Learnt(content, hashlib.sha256(content).hexdigest()))


@contextmanager
def _in_turns(network: threading.Lock, cancelled: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """The worker's network, which others may have between two steps: whenever it is asked whether to stop."""

    def asked() -> bool:
        network.release()
        time.sleep(_GIVE_WAY)
        network.acquire()
        return cancelled()

    with network:
        yield asked


class _Telling:
    """Tells the client how far its lesson is, now and then and at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._worker = get_worker()
        self._last = 0.0

    def __call__(self, progress: AdaptationProgress) -> None:
        now = time.monotonic()
        if now - self._last > _OFTEN or progress.done >= 1:
            self._last = now
            self._worker.log_event(_TOPIC, [self._name, *astuple(progress)])
