"""Prepared predictors, kept so that a second run starts at once."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from napari_transunet.errors import FileProblem, TransUNetError
from napari_transunet.files import available_memory
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.viewer.widgets.priority import be_nice, no_garbage_collection

if TYPE_CHECKING:
    from napari_transunet.checkpoints.loading import Checkpoint
    from napari_transunet.cluster.address import ClusterAddress
    from napari_transunet.cluster.live import RemotePredictor
    from napari_transunet.inference.predictor import Predictor

logger = logging.getLogger(__name__)

_PART_OF_MEMORY = 10  # a file may take 1 / this of what is free to be prepared unasked


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


def load_torch_libraries() -> None:
    """Let the system load torch's large libraries while the window is served; for any thread, before torch is imported.

    The import holds Python's lock meanwhile, for half a second and more in which no thread of the window moves. Called
    through `ctypes` the system's loader does not hold it, and the import finds them loaded. What cannot be loaded so is
    left to the import.
    """
    found = importlib.util.find_spec("torch")
    if sys.platform != "linux" or "torch" in sys.modules or found is None or found.origin is None:
        return
    load = ctypes.CDLL(None).dlopen
    load.restype, load.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    libraries = Path(found.origin).parent / "lib"
    for name, how in (("libtorch_global_deps.so", os.RTLD_GLOBAL), ("libtorch_cpu.so", os.RTLD_LOCAL)):
        load(os.fsencode(libraries / name), os.RTLD_NOW | how)  # in torch's own order and manner


def load_engine() -> None:
    """Do ahead what a first run needs but once, so that it does not hold up the window then; for any thread."""
    from vispy.visuals.line.dash_atlas import DashAtlas

    with no_garbage_collection():
        import napari_transunet.checkpoints.loading
        import napari_transunet.inference.predictor  # noqa: F401

        for module in ("pandas", "skimage.color.colorconv"):  # for the first labels layer's table and colours
            import_module(module)
    DashAtlas()  # the patterns of lines, which every labels layer has for its polygons, are kept by vispy


def prepare_ahead(cache: PredictorCache, settings: PredictorSettings) -> None:
    """Make a predictor ready before anybody asks for it, so that a first run shows labels at once; for any thread.

    Only on the processor, where it takes seconds, and where memory is plentiful. What is wrong with the checkpoint is
    said when a run is asked for.
    """
    from napari_transunet.inference.devices import resolve_device

    be_nice()
    try:
        large = settings.checkpoint.stat().st_size > available_memory() / _PART_OF_MEMORY
        if not large and resolve_device(settings.options.device).type == "cpu":
            cache.get(settings)
    except (TransUNetError, OSError) as error:
        logger.debug("Nothing was prepared ahead: %s", error)


def _file_of(key: _Key) -> tuple[Path, int | None, int, int]:
    """What a loaded checkpoint depends on."""
    settings, changed, size = key
    return settings.checkpoint, settings.img_size, changed, size


def _prepare(settings: PredictorSettings, checkpoint: Checkpoint | None) -> PreparedPredictor:
    from napari_transunet.checkpoints.loading import load_checkpoint

    if checkpoint is None:
        checkpoint = load_checkpoint(settings.checkpoint, img_size=settings.img_size)
    if settings.cluster is not None:
        from napari_transunet.cluster.security import need_distributed

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
