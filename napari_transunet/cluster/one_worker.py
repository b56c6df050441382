"""One worker of a cluster, for work that stays with it: what it is asked and sent, and whether it is still there."""

import time
from collections.abc import Callable
from typing import Any

from distributed import CancelledError, Client, Future, KilledWorker, wait

from napari_transunet.cluster.address import NOT_NOW, ClusterProblem, ConnectionLost
from napari_transunet.cluster.answers import Done, Failed, Stopped, failure_of
from napari_transunet.cluster.checkpoints import SentCheckpoint
from napari_transunet.cluster.on_worker import receive_checkpoint
from napari_transunet.errors import InputError

_JOINING = 15.0  # s for one that died to be begun anew
_TICK = 0.1  # s in which a wish to stop, or that all is lost, is noticed
_LOOK = 2.0  # s between looks at whether the worker is there
_ATTEMPTS = 3  # at giving it a checkpoint


class OneWorker:
    """The worker with the least to do, of those that are at a scheduler now, or soon.

    Attributes
    ----------
    client : of the scheduler
    name : what people call the worker; its address until it has answered
    """

    def __init__(self, client: Client, scheduler: str) -> None:
        self.client = client
        self._scheduler = scheduler
        until = time.monotonic() + _JOINING
        while not (counts := self._counts()) and time.monotonic() < until:
            time.sleep(_TICK)
        if not counts:
            raise ClusterProblem(
                f"No worker is at {scheduler}; `napari-transunet worker {scheduler}` starts one."
            )
        self.name = self._address = min(counts, key=lambda address: counts[address])

    def _counts(self) -> dict[str, int]:
        """How much each worker has to do. Raises `ConnectionLost`, also where the client was closed meanwhile."""
        try:
            return {str(address): len(keys) for address, keys in self.client.processing().items()}
        except (*NOT_NOW, AttributeError, CancelledError) as error:
            if self.client.status != "running":
                raise ConnectionLost(f"The connection to {self._scheduler} was lost.") from error
            raise

    def is_there(self) -> bool:
        """Whether the scheduler still knows it."""
        if self.client.status != "running":
            return False
        try:
            return self._address in self.client.nthreads()
        except NOT_NOW:
            return False

    def submit(self, function: Callable[..., Any], *arguments: Any, key: str | None = None) -> Future[Any]:
        """Have it call a function, whose other arguments may be futures that it holds."""
        future: Future[Any] = self.client.submit(
            function, *arguments, key=key, workers=[self._address], allow_other_workers=False, pure=False
        )
        return future

    def send(self, data: Any) -> Future[Any]:
        """Data that it keeps for as long as the future is kept."""
        future: Future[Any] = self.client.scatter(data, workers=[self._address], hash=False)
        return future

    def done(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        checkpoint: Callable[[], SentCheckpoint],
        cancelled: Callable[[], bool] = lambda: False,
        timeout: float | None = None,
    ) -> Done | None:
        """What `function` answers there, after the checkpoint was sent that it lacks; None where it was stopped."""
        for _ in range(_ATTEMPTS):
            answer = self.result(self.submit(function, *arguments), cancelled, timeout)
            if isinstance(answer, Failed):
                raise InputError(f"{answer.worker}: {answer.sentence}")
            if isinstance(answer, Done):
                self.name = answer.worker
                return answer
            if answer is None or isinstance(answer, Stopped) or cancelled():
                return None
            self.result(self.submit(receive_checkpoint, self.send(checkpoint())), cancelled, timeout)
        raise ClusterProblem(f"The worker at {self._scheduler} does not keep the checkpoint; try another.")

    def result(
        self, future: Future[Any], cancelled: Callable[[], bool], timeout: float | None = None
    ) -> Any | None:
        """What a call gave; None once `cancelled`, which is asked ten times a second, says so.

        Raises
        ------
        ConnectionLost
            The scheduler or the worker went away, or said nothing for `timeout` seconds.
        InputError
            The scheduler cannot read what it was asked. What the call itself raises is raised too.
        """
        began = looked = time.monotonic()
        while True:
            if cancelled():
                if self.client.status == "running":
                    self.client.cancel([future])
                return None
            try:
                with self.client.as_current():
                    wait([future], timeout=_TICK)
                return future.result()
            except TimeoutError:
                now = time.monotonic()
                if future.status in ("lost", "cancelled", "error") or self.client.status != "running":
                    raise self.lost() from None
                if timeout is not None and now - began > timeout:
                    raise self.lost() from None
                if now - looked > _LOOK:
                    looked = now
                    # A scheduler of others waits for a dead worker to come back.
                    if not self.is_there():
                        raise self.lost() from None
            except (KilledWorker, CancelledError, OSError) as error:
                raise self.lost() from error
            except RuntimeError as error:
                raise InputError(failure_of(error).sentence) from error

    def lost(self) -> ConnectionLost:
        """That it, or the way to it, is gone."""
        where = self._scheduler if self.name == self._address else f"{self.name} at {self._scheduler}"
        return ConnectionLost(f"The connection to {where} was lost.")
