"""The side of a run that computes: on a thread of its own, and touches no layer, viewer or widget.

It loads the checkpoint, prepares the predictor and computes slices. What it finds is left in its attributes, each of
which is written by one side alone; nobody waits for the other.
"""

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.provenance import RunRecord, now
from napari_transunet.errors import USERS_ERRORS, InputError
from napari_transunet.inference.prediction import Labels, SlicePrediction, renumbered
from napari_transunet.viewer.layers.slice_numbers import SliceNumbers
from napari_transunet.viewer.segment.predictors import PredictorCache, PreparedPredictor
from napari_transunet.viewer.segment.run_messages import RunRequest
from napari_transunet.viewer.widgets.priority import be_nice
from napari_transunet.viewer.widgets.worker import QuietWorker
from napari_transunet.volumes.geometry import voxel_ml
from napari_transunet.volumes.volume import Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStart:
    """What is known of a run before its first slice.

    Attributes
    ----------
    axis, first, slices : array axis along which the slices lie, the slice to start at, and those that are computed.
    voxel_ml : volume of a voxel in mL.
    record : the run's record, with no slice done.
    card, img_size : the checkpoint's card as JSON has it, and the network's input (height, width) in pixels.
    """

    axis: int
    first: int
    slices: frozenset[int]
    voxel_ml: float
    record: RunRecord
    card: dict[str, Any]
    img_size: tuple[int, int]

    @property
    def total(self) -> int:
        """How many slices are computed."""
        return len(self.slices)


class SegmentationWorker:
    """Computes one run; napari's worker runs `work`.

    Parameters
    ----------
    request, cache : what to compute, and where prepared predictors are kept.
    volume : gives the volume; called on the worker's thread, because a lazy array may have to be computed.
    numbers : the slider's numbers of the slices along each axis.
    position
        Voxel (z, y, x) in view, at which the run starts. The GUI thread may change it until then.

    Attributes
    ----------
    stop : set by the GUI thread to end the run after its batch.
    start : what is known before the first slice; None while the checkpoint loads.
    finished : slices that were not drawn yet, in the order in which they came.
    first_batch : how many slices the first batch had, and when it was done.
    last_slice : when the last batch was done, and before it when the run was asked for.
    voxels : of each slice, by label: how many were predicted.
    missing : indices of the slices that were asked for and are not there yet.
    known : planes that came from another machine, which may be lost before it can look for small parts in all of them.
    on : what runs the network, where that is another machine.
    error : why it failed.
    ended : set when nothing more will come.
    """

    def __init__(
        self,
        request: RunRequest,
        cache: PredictorCache,
        volume: Callable[[], Volume],
        *,
        numbers: Sequence[SliceNumbers],
        position: tuple[int, int, int],
    ) -> None:
        self.numbers = tuple(numbers)
        self.position = position
        self.stop = threading.Event()
        self.start: RunStart | None = None
        self.finished: deque[SlicePrediction] = deque()
        self.first_batch: tuple[int, float] | None = None
        self.began = self.last_slice = time.perf_counter()
        self.voxels: dict[int, NDArray[np.int64]] = {}
        self.missing: set[int] = set()
        self.known: dict[int, Labels] = {}
        self.on = ""
        self.error: Exception | None = None
        self.ended = threading.Event()
        self._date = now()
        self._asked: tuple[RunRequest, PredictorCache, Callable[[], Volume]] | None = request, cache, volume
        self._thread: weakref.ref[QuietWorker] | None = None

    def run_in(self, thread: QuietWorker) -> None:
        """Follow what napari's worker, which holds this object and must not be held by it, is asked."""
        self._thread = weakref.ref(thread)
        thread.finished.connect(self.ended.set)

    @property
    def seconds(self) -> float:
        """From the request, loading included, to the last slice."""
        return self.last_slice - self.began

    def cancelled(self) -> bool:
        """Whether the person, or napari on closing its window, wants the run to stop."""
        thread = self._thread() if self._thread is not None else None
        return self.stop.is_set() or (thread is not None and bool(thread.abort_requested))

    def work(self) -> Generator[None, None, None]:
        """Load, prepare, compute; one yield per batch. Errors are kept, and never go into napari's popups."""
        assert self._asked is not None
        request, cache, read = self._asked
        try:
            be_nice()
            prepared = cache.get(request.settings)
            if self.cancelled():  # the window may have been closed since: nobody waits for the rest
                return
            yield
            volume = read()
            slices = self._begin(request, prepared, volume)
            yield
            start, predictor = self.start, prepared.predictor
            assert start is not None
            for batch in predictor.iter_batches(
                volume,
                first=start.first,
                slices=slices,
                cancelled=self.cancelled,
                uncertainty=True,
                known=request.known,
            ):
                self.last_slice = time.perf_counter()
                if self.first_batch is None:
                    self.first_batch = len(batch), self.last_slice
                self.on = str(getattr(predictor, "on", None) or "")
                if self.on and predictor.card.smallest_part is not None:
                    self.known.update((one.index, one.plane) for one in batch)
                for prediction in renumbered(batch, request.values):
                    self.missing.discard(int(prediction.index))
                    self.voxels[prediction.index] = np.bincount(prediction.plane.ravel())
                    self.finished.append(prediction)
                yield
        except Exception as error:
            if not isinstance(error, USERS_ERRORS):
                logger.exception("The segmentation failed.")
            self.error = error
        finally:
            # napari keeps every worker, with its arguments, for as long as the window lives.
            self._asked = None
            del request, cache, read
            self.ended.set()

    def _begin(
        self, request: RunRequest, prepared: PreparedPredictor, volume: Volume
    ) -> Sequence[int] | None:
        """Say what is known before the first slice; the slices to compute, None for all."""
        predictor = prepared.predictor
        axis = int(predictor.slice_axis(volume))
        first = self.position[axis]
        slices, every = _wanted_slices(request, first, self.numbers[axis]), range(volume.data.shape[axis])
        if slices is not None and len(slices) == len(every):
            slices = None
        if slices is not None and first not in slices:
            first = min(slices, key=lambda index: abs(index - first))
        wanted = every if slices is None else slices
        self.missing, self.known = set(wanted), dict(request.known or {})
        self.on = str(getattr(predictor, "on", None) or "")
        record = RunRecord.from_predictor(
            predictor,
            date=self._date,
            seconds=0.0,
            slices=0,
            total=len(wanted),
            axis=axis,
            between=(wanted[0], wanted[-1]),
            name=request.candidate.short_name,
        )
        self.start = RunStart(
            axis=axis,
            first=first,
            slices=frozenset(wanted),
            voxel_ml=voxel_ml(volume.geometry.spacing),
            record=record,
            card=prepared.checkpoint.card.model_dump(mode="json", exclude_none=True),
            img_size=predictor.card.img_size,
        )
        return slices


def _wanted_slices(request: RunRequest, shown: int, numbers: SliceNumbers) -> Sequence[int] | None:
    """The indices of the slices to compute; None for all."""
    if request.slices is not None:
        return request.slices
    if request.only_this_slice:
        return [shown]
    if request.between is None:
        return None
    found = [numbers.index(number) for number in request.between]
    ends = sorted(index for index in found if index is not None)
    if len(ends) < len(found):
        first, last = request.between
        raise InputError(
            f"There are no slices {first} to {last}; this volume's slices are {numbers.lowest} to "
            f"{numbers.highest}. Change “Slices” under Advanced."
        )
    return range(ends[0], ends[1] + 1)
