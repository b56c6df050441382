"""Prepared predictors, kept so that a second run starts at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from napari_transunet.errors import FileProblem
from napari_transunet.inference.options import PredictorOptions

if TYPE_CHECKING:
    from napari_transunet.checkpoints.loading import Checkpoint
    from napari_transunet.cluster.address import ClusterAddress
    from napari_transunet.cluster.live import RemotePredictor
    from napari_transunet.inference.predictor import Predictor


@dataclass(frozen=True)
class PredictorSettings:
    """Everything a predictor is made from.

    Attributes
    ----------
    checkpoint : file of the checkpoint.
    options : how it predicts.
    img_size : side of the network's square input in pixels; None takes the checkpoint's own size.
    cluster : the scheduler whose workers predict; None for this machine.
    """

    checkpoint: Path
    options: PredictorOptions = field(default_factory=PredictorOptions)
    img_size: int | None = None
    cluster: ClusterAddress | None = None


@dataclass(frozen=True)
class PreparedPredictor:
    """A predictor, on this machine or on a cluster, and the checkpoint it was made from."""

    predictor: Predictor | RemotePredictor
    checkpoint: Checkpoint


_Key = tuple[PredictorSettings, int, int]
"""Settings, and when the checkpoint's file was changed last (ns) and its size in bytes."""


class PredictorCache:
    """The last few prepared predictors, by settings and by the state of the checkpoint's file.

    Where only something else than the checkpoint differs, e.g. the precision, its file is not read again.

    `get` may be called from any thread; it loads and prepares, so never call it on the GUI thread.
    """

    def __init__(self, size: int = 2) -> None:
        self._size = size
        self._kept: OrderedDict[_Key, PreparedPredictor] = OrderedDict()
        self._coming: dict[_Key, Future[PreparedPredictor]] = {}
        # Never held while a network is prepared: others may be asked for meanwhile.
        self._lock = threading.Lock()

    def get(self, settings: PredictorSettings) -> PreparedPredictor:
        """The predictor for these settings, prepared now or before.

        Raises
        ------
        FileProblem
            The checkpoint's file cannot be read.
        CheckpointError
            It is not a usable checkpoint.
        ClusterProblem
            The cluster that it should run on cannot be used.
        """
        key = self._key(settings)
        with self._lock:
            known = self._kept  # what is loaded while `clear` comes is not kept
            if key in known:
                known.move_to_end(key)
                return _connected(known[key])
            coming = self._coming.get(key)
            if coming is None:
                checkpoint, mine = self._loaded(known, key), Future[PreparedPredictor]()
                self._coming[key] = mine
                # Room first: a large network must not be held twice while its successor is loaded.
                self._make_room(known)
        if coming is not None:  # another thread prepares it
            return _connected(coming.result())
        try:
            prepared = _prepare(settings, checkpoint)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(prepared)
            with self._lock:
                self._make_room(known)
                known[key] = prepared
        finally:
            with self._lock:
                del self._coming[key]
        return _connected(prepared)

    def _make_room(self, known: OrderedDict[_Key, PreparedPredictor]) -> None:
        while len(known) >= self._size:
            _let_go(known.popitem(last=False)[1])

    @staticmethod
    def _loaded(known: Mapping[_Key, PreparedPredictor], key: _Key) -> Checkpoint | None:
        """The checkpoint that this key needs, if one of the kept predictors was made from it."""
        for kept, prepared in known.items():
            if _file_of(kept) == _file_of(key):
                return prepared.checkpoint
        return None

    def clear(self) -> None:
        """Let go of all predictors and their memory; waits for none that is being loaded."""
        kept, self._kept = self._kept, OrderedDict()
        for prepared in list(kept.values()):
            _let_go(prepared)

    def __contains__(self, settings: PredictorSettings) -> bool:
        try:
            return self._key(settings) in self._kept
        except FileProblem:
            return False

    @staticmethod
    def _key(settings: PredictorSettings) -> _Key:
        try:
            state = settings.checkpoint.stat()
        except OSError as error:
            raise FileProblem(
                f"The checkpoint {settings.checkpoint.name} cannot be read: {error.strerror or error}."
            ) from error
        return settings, state.st_mtime_ns, state.st_size


def _file_of(key: _Key) -> tuple[Path, int | None, int, int]:
    """What a loaded checkpoint depends on."""
    settings, changed, size = key
    return settings.checkpoint, settings.img_size, changed, size


def _prepare(settings: PredictorSettings, checkpoint: Checkpoint | None) -> PreparedPredictor:
    from napari_transunet.checkpoints.loading import load_checkpoint

    if checkpoint is None:
        checkpoint = load_checkpoint(settings.checkpoint, img_size=settings.img_size)
    if settings.cluster is not None:
        from napari_transunet.cluster.address import need_distributed

        need_distributed()
        from napari_transunet.cluster.live import RemotePredictor
        from napari_transunet.export.segmentation import LoadingOptions

        side = settings.img_size
        loading = LoadingOptions(None if side is None else (side, side))
        return PreparedPredictor(
            RemotePredictor(checkpoint, settings.options, settings.cluster, loading), checkpoint
        )
    from napari_transunet.inference.predictor import Predictor

    return PreparedPredictor(Predictor(checkpoint, settings.options), checkpoint)


def _connected(prepared: PreparedPredictor) -> PreparedPredictor:
    """The same, ready to predict: one on a cluster looks whether its worker is still there."""
    connect = getattr(prepared.predictor, "connect", None)
    if connect is not None:
        connect()
    return prepared


def _let_go(prepared: PreparedPredictor) -> None:
    """Leave the cluster that it runs on, if it does."""
    close = getattr(prepared.predictor, "close", None)
    if close is not None:
        close()
