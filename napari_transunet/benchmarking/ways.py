"""The ways of segmenting one volume with one network, and which of them are possible here."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.checkpoints.ranges import ranges_beside
from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.segmentation.devices import has_fast_bfloat16
from napari_transunet.segmentation.predictor import Predictor

if TYPE_CHECKING:
    import torch

    from napari_transunet.benchmarking.subjects import Subject
    from napari_transunet.checkpoints.ranges import ActivationRanges
    from napari_transunet.segmentation.backends import Backend
    from napari_transunet.volumes.volume import Volume

_log = logging.getLogger(__name__)

PLAIN = "plain procedure, float32"
"""The name of what all ways are compared with; see `PlainProcedure`."""

_SLICES_FOR_RANGES = 8
_SLICES_FOR_FIRST = 3


@dataclass(frozen=True)
class Way:
    """One way for a `Predictor`.

    Attributes
    ----------
    pipeline, backend, precision : as a `Predictor` takes them
    reference : name of the way whose labels this one ought to give; None where there is none
    """

    pipeline: str
    backend: Backend
    precision: str
    reference: str | None

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.pipeline}, {BACKEND_NAMES[self.backend]}, {self.precision}"


BACKEND_NAMES: Mapping[str, str] = MappingProxyType({"torch": "PyTorch", "openvino": "OpenVINO"})

_EXACT = Way("card", "torch", "float32", None)

WAYS: tuple[Way, ...] = (
    Way("paper", "torch", "float32", PLAIN),
    _EXACT,
    Way("card", "torch", "bfloat16", _EXACT.name),
    Way("card", "openvino", "float32", _EXACT.name),
    Way("card", "openvino", "bfloat16", _EXACT.name),
    Way("card", "openvino", "int8", _EXACT.name),
)
"""In the order of tables. A way comes after the one it refers to."""


@dataclass(frozen=True)
class LeftOut:
    """A way that is not possible here, and why, in a sentence."""

    way: str
    reason: str


@dataclass(frozen=True, eq=False)
class ReadyWay:
    """A way with its predictor made.

    Attributes
    ----------
    prepare_s : seconds that making the predictor took
    first_slice_s : seconds from then until the labels of the middle slice, the first thing it computes
    next_first_slice_s : the same in a later run
    """

    way: Way
    predictor: Predictor
    prepare_s: float
    first_slice_s: float
    next_first_slice_s: float


@dataclass(frozen=True)
class Ways:
    """What is possible here, and what is not."""

    ready: Mapping[str, ReadyWay]
    left_out: list[LeftOut] = field(default_factory=list)


def ready_ways(
    subject: Subject,
    volume: Volume,
    device: torch.device,
    *,
    batch_size: int | None = None,
    ways: Iterable[Way] = WAYS,
) -> Ways:
    """Make the predictors of all ways that are possible here, each with its first slice computed.

    `batch_size` is for the card's ways; by default the predictor's own.
    """
    ready: dict[str, ReadyWay] = {}
    left_out: list[LeftOut] = []
    for way in ways:
        try:
            ready[way.name] = _ready(way, subject, volume, device, batch_size)
        except TransUNetError as error:
            left_out.append(LeftOut(way.name, str(error)))
        except ImportError as error:  # what is installed of OpenVINO may be broken or too old
            left_out.append(LeftOut(way.name, f"{BACKEND_NAMES[way.backend]} cannot be imported: {error}."))
        except RuntimeError as error:  # memory, or what this release of a backend cannot do; the others go on
            _log.info("%s fails here.", way.name, exc_info=True)
            left_out.append(LeftOut(way.name, f"it fails here: {str(error).strip().splitlines()[0]}"))
    return Ways(ready, left_out)


def ranges_for(subject: Subject, volume: Volume) -> ActivationRanges | None:
    """Activation ranges: a checkpoint's own, where it has some; for random weights from a few slices of the volume.

    Raises
    ------
    CheckpointError
        There is a file of ranges beside the checkpoint, and it cannot be used.
    """
    from napari_transunet.segmentation.calibration import observe_ranges

    if isinstance(subject.model, Checkpoint):
        return ranges_beside(subject.model.path, subject.model.sha256)
    return observe_ranges(subject.model, [volume], slices=_SLICES_FOR_RANGES)


def _ready(
    way: Way, subject: Subject, volume: Volume, device: torch.device, batch_size: int | None
) -> ReadyWay:
    if way.precision == "bfloat16" and not has_fast_bfloat16(device):
        raise InputError(
            f"{device} has no arithmetic units for bfloat16, so it would be slower than float32."
        )
    options: dict[str, Any] = {"pipeline": way.pipeline, "backend": way.backend, "precision": way.precision}
    if way.pipeline == "card":
        options |= {"planes": 1, "batch_size": batch_size}
    if way.precision == "int8" and device.type == "cpu":
        options["ranges"] = ranges_for(subject, volume)
    gc.collect()
    started = time.perf_counter()
    predictor = Predictor(subject.model, device=device, **options)
    prepared = time.perf_counter()
    _first_slice(predictor, volume)
    found = time.perf_counter()
    later = min(_timed_first_slice(predictor, volume) for _ in range(_SLICES_FOR_FIRST))
    return ReadyWay(way, predictor, prepared - started, found - prepared, later)


def _first_slice(predictor: Predictor, volume: Volume) -> None:
    middle = volume.data.shape[predictor.slice_axis(volume)] // 2
    next(predictor.iter_slices(volume, first=middle))


def _timed_first_slice(predictor: Predictor, volume: Volume) -> float:
    started = time.perf_counter()
    _first_slice(predictor, volume)
    return time.perf_counter() - started
