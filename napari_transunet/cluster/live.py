"""One scan on a cluster, slice by slice: what the window uses in the place of a predictor of its own.

The scan goes over once and stays with one worker. There the run is an object that gives its next batch whenever it is
asked; two requests are on their way at a time, so that the network waits for no connection. All of it is held by
Dask's futures of this client: it goes when the client does.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
from distributed import Future, get_worker

from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.cluster.address import ClusterAddress
from napari_transunet.cluster.answers import Answer, Done, Lacks, PackedLabels
from napari_transunet.cluster.checkpoints import CheckpointReference, sent
from napari_transunet.cluster.connecting import client_at
from napari_transunet.cluster.on_worker import answering, is_cancelled, worker_name, worker_state
from napari_transunet.cluster.one_worker import OneWorker
from napari_transunet.errors import InputError
from napari_transunet.export.segmentation import LoadingOptions
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.prediction import Labels, SlicePrediction
from napari_transunet.inference.predictor import Predictor
from napari_transunet.inference.slices import orientation_for
from napari_transunet.volumes.fingerprint import scan_fingerprint
from napari_transunet.volumes.volume import Volume

_AHEAD = 2  # batches asked for at a time
_TICK = 0.1  # s in which a wish to stop is noticed
_LOADING = 600.0  # s that a worker may take to load a checkpoint


@dataclass(frozen=True)
class RunsOn:
    """What runs the network: the worker's name, its device ("GPU" or "CPU"), and how many others wait for it."""

    worker: str
    device: str
    precision: str
    waiting: int = 0

    def __str__(self) -> str:
        waiting = f", {self.waiting} other{'s' if self.waiting > 1 else ''} waiting" if self.waiting else ""
        return f"{self.device} on {self.worker}, {self.precision}{waiting}"


@dataclass(frozen=True)
class _Ready:
    """What a worker says of the predictor that it made ready."""

    on: RunsOn
    backend: str
    orthogonal_planes: bool


@dataclass(frozen=True, eq=False)
class _Batch:
    """Slices on their way, each without its plane and that beside it; none where the run is over."""

    slices: tuple[tuple[SlicePrediction, PackedLabels], ...]
    waiting: int


class LiveRun:
    """A run that a worker keeps between the requests for its batches."""

    def __init__(
        self,
        predictor: Predictor,
        volume: Volume,
        first: int | None,
        slices: Sequence[int] | None,
        known: Mapping[int, Labels] | None = None,
    ) -> None:
        self._asked: Callable[[], bool] = lambda: False
        self._turn = threading.Condition()
        self._number = 0
        self._batches = predictor.iter_batches(
            volume,
            first=first,
            slices=slices,
            cancelled=self._is_cancelled,
            uncertainty=True,
            known=known,
        )

    def next(
        self, number: int, cancelled: Callable[[], bool], network: threading.Lock
    ) -> list[SlicePrediction]:
        """The batch of this number, after those before it; nothing past the last, or once `cancelled` says so."""
        with self._turn:
            while self._number != number:
                if cancelled():
                    return []
                self._turn.wait(_TICK)
            try:
                with network:
                    self._asked = cancelled
                    return next(self._batches, [])
            finally:
                self._number += 1
                self._turn.notify_all()

    def _is_cancelled(self) -> bool:
        return self._asked()


@answering
def _make_ready(reference: CheckpointReference, options: PredictorOptions, loading: LoadingOptions) -> Answer:
    predictor = worker_state().checkpoints.predictor(reference, options, loading)
    if predictor is None:
        return Lacks("checkpoint", reference.sha256)
    device = "CPU" if predictor.device.type == "cpu" else "GPU"
    on = RunsOn(worker_name(), device, predictor.precision_name)
    return Done(_Ready(on, predictor.backend, predictor.orthogonal_planes))


def _begin(
    reference: CheckpointReference,
    options: PredictorOptions,
    loading: LoadingOptions,
    volume: Volume,
    first: int | None,
    slices: Sequence[int] | None,
    known: Mapping[int, PackedLabels] | None,
) -> LiveRun:
    predictor = worker_state().checkpoints.predictor(reference, options, loading)
    if predictor is None:
        raise InputError("The worker has let the checkpoint go; begin again.")
    planes = None if known is None else {index: plane.unpacked() for index, plane in known.items()}
    return LiveRun(predictor, volume, first, slices, planes)


def _next_batch(run: LiveRun, name: str, number: int) -> _Batch:
    found = run.next(number, is_cancelled(), worker_state().network)
    packed = tuple((replace(one, plane=one.plane[:0]), PackedLabels.of(one.plane)) for one in found)
    return _Batch(packed, _others(name))


def _others(name: str) -> int:
    """How many other runs and scans this worker has in hand or waiting."""
    state = get_worker().state
    keys = [str(task.key) for tasks in (state.executing, state.ready) for task in list(tasks)]
    others = {key.rsplit("-", 1)[0] if key.startswith("live-") else key for key in keys}
    return len(others - {name})


class RemotePredictor:
    """A checkpoint on a worker of a cluster. For one thread at a time, but `close`.

    Attributes
    ----------
    checkpoint, card, options, pipeline, mirror_tta : as those of `Predictor`
    device, precision_name, backend, orthogonal_planes : what the worker chose; known once `connect` was called
    on : what runs it; None before
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: PredictorOptions,
        cluster: ClusterAddress,
        loading: LoadingOptions | None = None,
    ) -> None:
        self.checkpoint: Checkpoint | None = checkpoint
        self.card = checkpoint.card
        self.options = replace(options, device="auto")
        self.pipeline = options.pipeline
        self.mirror_tta = options.mirror_tta
        self.orthogonal_planes = False
        self.device = ""
        self.precision_name = ""
        self.backend = ""
        self.on: RunsOn | None = None
        self.cluster = cluster
        self._loading = loading or LoadingOptions()
        self._reference = CheckpointReference(
            checkpoint.name, str(checkpoint.path.resolve()), checkpoint.sha256
        )
        self._open = contextlib.ExitStack()
        self._worker: OneWorker | None = None
        self._sent: tuple[str, Future[Any]] | None = None

    def slice_axis(self, volume: Volume | npt.NDArray[Any]) -> int:
        """As `Predictor.slice_axis`."""
        if self.pipeline == "paper" or not isinstance(volume, Volume):
            return 0
        return orientation_for(volume, self.card).slice_axis

    def connect(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Have the checkpoint ready on a worker; where it is, this looks whether it still is."""
        worker = self._worker
        if worker is None or not worker.is_there():
            self.close(wait=True)
            client = self._open.enter_context(client_at(self.cluster.address, self.cluster.tls))
            worker = self._worker = OneWorker(client, self.cluster.address)
        answer = worker.done(
            _make_ready,
            self._reference,
            self.options,
            self._loading,
            checkpoint=lambda: sent(self._reference, self._loading),
            cancelled=cancelled,
            timeout=_LOADING,
        )
        if answer is None:
            return
        ready: _Ready = answer.result
        self.on, self.backend = ready.on, ready.backend
        self.orthogonal_planes = ready.orthogonal_planes
        self.precision_name = ready.on.precision
        self.device = f"{ready.on.device} on {ready.on.worker}"

    def iter_batches(
        self,
        volume: Volume | npt.NDArray[Any],
        *,
        first: int | None = None,
        slices: Sequence[int] | None = None,
        cancelled: Callable[[], bool] | None = None,
        uncertainty: bool = True,  # noqa: ARG002  it always comes along
        known: Mapping[int, Labels] | None = None,
    ) -> Iterator[list[SlicePrediction]]:
        """As `Predictor.iter_batches`."""
        given = volume if isinstance(volume, Volume) else Volume.from_array(volume)
        wanted = cancelled or (lambda: False)
        self.connect(wanted)
        worker = self._worker
        assert worker is not None
        futures: deque[Future[Any]] = deque()
        try:
            run = worker.submit(
                _begin,
                self._reference,
                self.options,
                self._loading,
                self._scan(worker, given),
                first,
                None if slices is None else list(slices),
                None if known is None else {index: PackedLabels.of(plane) for index, plane in known.items()},
            )
            name = f"live-{run.key}"
            number = 0
            while True:
                while len(futures) < _AHEAD:
                    futures.append(worker.submit(_next_batch, run, name, number, key=f"{name}-{number}"))
                    number += 1
                batch: _Batch | None = worker.result(futures.popleft(), wanted)
                if batch is None or not batch.slices:
                    return
                if self.on is not None:
                    self.on = replace(self.on, waiting=batch.waiting)
                yield [replace(one, plane=plane.unpacked()) for one, plane in batch.slices]
        finally:
            if worker.client.status == "running":
                worker.client.cancel(list(futures))

    def close(self, *, wait: bool = False) -> None:
        """Let go of the cluster, and of what it keeps for this client; from any thread, without waiting by default."""
        left, self._open = self._open, contextlib.ExitStack()
        self._worker = self._sent = None
        if wait:
            left.close()
        else:
            threading.Thread(target=left.close, name="leaving the cluster", daemon=True).start()

    def _scan(self, worker: OneWorker, volume: Volume) -> Future[Any]:
        """The scan on the worker; it goes over once, as long as it stays the same."""
        fingerprint = scan_fingerprint(volume)
        if self._sent is None or self._sent[0] != fingerprint or self._sent[1].status != "finished":
            self._sent = None  # the one before may go first
            self._sent = fingerprint, worker.send(volume)
        return self._sent[1]
