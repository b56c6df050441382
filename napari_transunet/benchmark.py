"""How fast volumes are segmented on this machine, relative to the published inference code.

Every configuration that this machine offers segments the same slices in one process, in turn, round by round. A
speed-up is the ratio of two times of one round, so that a machine whose speed drifts does not count.
"""

from __future__ import annotations

import copy
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import psutil
import torch
from scipy import ndimage

from napari_transunet.annotation.provenance import versions
from napari_transunet.checkpoints.card import CT_WINDOW
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.inference.devices import available_devices, has_fast_bfloat16
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.predictor import Predictor

if TYPE_CHECKING:
    from napari_transunet.checkpoints.quantization import ActivationRanges
    from napari_transunet.inference.backends import Backend
    from napari_transunet.inference.options import Pipeline
    from napari_transunet.inference.prediction import Labels
    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.volumes.volume import Volume

T = TypeVar("T")

REFERENCE = "reference implementation, float32"
"""The name of what every speed is relative to; see `ReferenceImplementation`."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """The options of a `Predictor` that are compared."""

    pipeline: Pipeline
    backend: Backend
    precision: str

    @property
    def name(self) -> str:
        """How tables call it."""
        backend = {"torch": "PyTorch", "openvino": "OpenVINO"}[self.backend]
        return f"{self.pipeline}, {backend}, {self.precision}"

    @property
    def compared_with(self) -> str | None:
        """Name of what should give the same labels; None where nothing does."""
        if self.pipeline == "paper":
            return REFERENCE
        return None if self == EXACT else EXACT.name


EXACT = BenchmarkConfig("card", "torch", "float32")
CONFIGS: tuple[BenchmarkConfig, ...] = (
    BenchmarkConfig("paper", "torch", "float32"),
    EXACT,
    BenchmarkConfig("card", "torch", "bfloat16"),
    BenchmarkConfig("card", "openvino", "float32"),
    BenchmarkConfig("card", "openvino", "bfloat16"),
    BenchmarkConfig("card", "openvino", "int8"),
)


@dataclass(frozen=True)
class ModelUnderTest:
    """A network to measure; `ranges` are for 8 bits, where it is no checkpoint that has its own."""

    name: str
    model: Checkpoint | TransUNet
    ranges: ActivationRanges | None = None

    @property
    def net(self) -> TransUNet:
        """The network as it was trained, on the CPU."""
        return self.model.model if isinstance(self.model, Checkpoint) else self.model

    def predictor(self, config: BenchmarkConfig, device: torch.device) -> Predictor:
        """A new predictor; TransUNetError, ImportError or RuntimeError where that is not possible here."""
        if config.precision == "bfloat16" and not has_fast_bfloat16(device):
            raise InputError(f"{device} has no arithmetic units for bfloat16; float32 is faster.")
        options = PredictorOptions(
            device=str(device),
            precision=config.precision,
            pipeline=config.pipeline,
            backend=config.backend,
            orthogonal_planes=False,
        )
        in_8_bits = config.precision == "int8" and device.type == "cpu"
        return Predictor(self.model, options, ranges=self.ranges if in_8_bits else None)


class ReferenceImplementation:
    """What the published test script does (Chen et al., arXiv 2102.04306), one slice after the other.

    A CT window, a cubic-spline zoom with scipy, the network as it was trained (nothing folded, batch 1, float32),
    argmax, and a nearest zoom back.

    Parameters
    ----------
    net : copied where `device` is not its own
    device : where the network runs; the zooms are scipy's, on the CPU
    """

    def __init__(self, net: TransUNet, device: torch.device) -> None:
        here = next(net.parameters()).device
        self._net = (net if here == device else copy.deepcopy(net).to(device)).eval()
        self._device = device

    @torch.inference_mode()
    def predict(self, volume: Volume) -> Labels:
        """Labels (z, y, x) of a volume in HU, its slices taken as they are stored."""
        low, high = CT_WINDOW
        height, width = self._net.img_size
        labels = np.zeros(volume.data.shape, np.uint8 if self._net.num_classes <= 255 else np.uint16)
        for z, plane in enumerate(volume.data):
            h, w = plane.shape
            scaled = (np.clip(plane.astype(np.float32), low, high) - low) / np.float32(high - low)
            zoomed = ndimage.zoom(scaled, (height / h, width / w), order=3)
            logits = self._net(torch.from_numpy(zoomed)[None, None].to(self._device))
            small = logits.argmax(dim=1)[0].cpu().numpy().astype(labels.dtype)
            labels[z] = ndimage.zoom(small, (h / height, w / width), order=0)
        return labels


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing, in short."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def interleaved(
    tasks: Mapping[str, Callable[[], T]], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, T]]:
    """Run all tasks in turn, `rounds` times; every round begins with another, so that none always follows the same.

    Returns
    -------
    by the tasks' names: seconds, one a round, and the last results
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    results: dict[str, T] = {}
    names = list(tasks)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            took, results[name] = timed(tasks[name], device)
            seconds[name].append(took)
    return seconds, results


def speedup(seconds: Sequence[float], base: Sequence[float]) -> Spread:
    """How many times as fast as `base`; each ratio is of two times of one round."""
    return Spread.of([slow / fast for slow, fast in zip(base, seconds, strict=True)])


def timed(task: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Seconds until the task is done on the device too, and its result."""
    synchronize(device)
    started = time.perf_counter()
    result = task()
    synchronize(device)
    return time.perf_counter() - started, result


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def middle_slices(volume: Volume, count: int) -> Volume:
    """The `count` slices along z in the middle of a volume; all of it where it has no more."""
    start = max(0, (len(volume.data) - count) // 2)
    data = volume.data[start : start + count]
    x, y, z, _ = (volume.geometry.affine_lps @ (0, 0, start, 1)).tolist()
    geometry = replace(volume.geometry, shape=data.shape, origin=(x, y, z))
    return replace(volume, data=data, geometry=geometry)


def describe_machine() -> dict[str, Any]:
    """What this machine is, how busy it is, and which versions run on it."""
    devices = available_devices()
    return {
        "processor": devices[-1].label.removeprefix("CPU – "),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "devices": [device.label for device in devices],
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions() | {"cuda": torch.version.cuda},
    }


@dataclass(frozen=True, eq=False)
class ReadyConfig:
    """A configuration whose predictor is made: seconds for that, and from then to the middle slice's labels."""

    config: BenchmarkConfig
    predictor: Predictor
    prepare_s: float
    first_slice_s: float


def ready_configs(
    model: ModelUnderTest,
    volume: Volume,
    device: torch.device,
    configs: Iterable[BenchmarkConfig] = CONFIGS,
) -> tuple[dict[str, ReadyConfig], dict[str, str]]:
    """The configurations that are possible here, by name, and why the others are not."""
    ready: dict[str, ReadyConfig] = {}
    skipped: dict[str, str] = {}
    for config in configs:
        try:
            prepare_s, predictor = timed(partial(model.predictor, config, device), device)
            middle = volume.data.shape[predictor.slice_axis(volume)] // 2
            first_s, _ = timed(lambda: next(predictor.iter_slices(volume, first=middle)), device)  # noqa: B023
        except TransUNetError as error:
            skipped[config.name] = str(error)
        except (ImportError, RuntimeError) as error:  # OpenVINO broken or too old, memory: the others go on
            skipped[config.name] = f"It fails here: {str(error).strip().splitlines()[0]}"
        else:
            ready[config.name] = ReadyConfig(config, predictor, prepare_s, first_s)
    return ready, skipped


@dataclass(frozen=True)
class ConfigResult:
    """One configuration's times.

    Attributes
    ----------
    slice_s, slices_per_s : over the whole volume, from the array in memory to labels on its grid
    speedup : relative to the reference implementation
    prepare_s, first_slice_s : seconds to make the predictor, and from then to the first labels
    equal_labels : share of voxels with the label of `compared_with`
    """

    config: str
    slice_s: Spread
    slices_per_s: float
    speedup: Spread
    prepare_s: float | None = None
    first_slice_s: float | None = None
    batch_size: int = 1
    compared_with: str | None = None
    equal_labels: float | None = None


@dataclass(frozen=True)
class ModelResult:
    """All configurations of one network; `skipped` says why the others were not possible."""

    name: str
    variant: str
    trained: bool
    img_size: tuple[int, int]
    configs: Sequence[ConfigResult]
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class BenchmarkReport:
    """All that a benchmark found; `dataclasses.asdict` makes it JSON."""

    machine: Mapping[str, Any]
    device: str
    volume: str
    shape: Sequence[int]
    rounds: int
    models: Sequence[ModelResult]
    format: str = field(default="napari-transunet benchmark", init=False)
    version: int = field(default=2, init=False)


def run_benchmark(
    models: Sequence[ModelUnderTest],
    volume: Volume,
    device: torch.device,
    *,
    rounds: int,
    report: Callable[[str], None],
) -> BenchmarkReport:
    """Measure networks on a volume of at least one slice; `report` is called with what comes next."""
    machine = describe_machine()  # first, so that its load is what others do
    results = [_measure(model, volume, device, rounds, report) for model in models]
    return BenchmarkReport(machine, str(device), volume.source.name, volume.data.shape, rounds, results)


def _measure(
    model: ModelUnderTest, volume: Volume, device: torch.device, rounds: int, report: Callable[[str], None]
) -> ModelResult:
    report(f"{model.name}: preparing")
    ready, skipped = ready_configs(model, volume, device)
    segment: dict[str, Callable[[Volume], Labels]] = {
        REFERENCE: ReferenceImplementation(model.net, device).predict
    }
    segment |= {name: one.predictor.predict for name, one in ready.items()}
    # A batch, and the volume's last and shorter one, are slower at first.
    for name, predict in segment.items():
        report(f"{model.name}: warming up {name}")
        batch = ready[name].predictor.batch_size if name in ready else 1
        predict(middle_slices(volume, batch + len(volume.data) % batch))
    report(f"{model.name}: {rounds} rounds")
    tasks = {name: partial(predict, volume) for name, predict in segment.items()}
    seconds, labels = interleaved(tasks, rounds, device)

    def times(name: str, slices: int) -> tuple[str, Spread, float, Spread]:
        slice_s = Spread.of([total / slices for total in seconds[name]])
        return name, slice_s, 1 / slice_s.median, speedup(seconds[name], seconds[REFERENCE])

    results = [ConfigResult(*times(REFERENCE, len(volume.data)))]
    for name, one in ready.items():
        base = one.config.compared_with
        results.append(
            ConfigResult(
                *times(name, volume.data.shape[one.predictor.slice_axis(volume)]),
                prepare_s=one.prepare_s,
                first_slice_s=one.first_slice_s,
                batch_size=one.predictor.batch_size,
                compared_with=base,
                equal_labels=float((labels[name] == labels[base]).mean()) if base in labels else None,
            )
        )
    net, trained = model.net, isinstance(model.model, Checkpoint)
    return ModelResult(model.name, net.variant.name, trained, net.img_size, results, skipped)
