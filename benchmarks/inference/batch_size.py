"""The network alone, against the size of its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from napari_transunet.benchmark import ModelUnderTest, Spread, interleaved, timed
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.checkpoints.quantization import ranges_beside
from napari_transunet.inference.backends import Network, make_network
from napari_transunet.inference.devices import PRECISIONS, free_cached_memory, is_out_of_memory

if TYPE_CHECKING:
    from napari_transunet.benchmark import BenchmarkConfig
    from napari_transunet.checkpoints.quantization import ActivationRanges

T = TypeVar("T")

_LARGEST_BATCH = {"cpu": 16}
_LARGEST_ON_GPU = 512


@dataclass(frozen=True)
class BatchRate:
    """The network alone at one batch size: seconds for one batch, slices a second."""

    config: str
    batch_size: int
    batch_s: Spread
    slices_per_s: float


def batch_sizes(device: torch.device) -> list[int]:
    """1, 2, 4, … to where more cannot be expected to gain anything there."""
    largest = _LARGEST_BATCH.get(device.type, _LARGEST_ON_GPU)
    return [2**power for power in range(largest.bit_length())]


def rates_by_batch(
    model: ModelUnderTest,
    configs: Sequence[BenchmarkConfig],
    device: torch.device,
    rounds: int,
    sizes: Iterable[int] | None = None,
) -> list[BatchRate]:
    """The network alone in each configuration, at batch sizes from 1 upward until memory runs out.

    Parameters
    ----------
    configs : of these, backend and precision count
    rounds : how often every network runs at every size, in turn
    sizes : in ascending order; by default those of `batch_sizes`
    """
    found: list[BatchRate] = []
    running = list(configs)
    for size in batch_sizes(device) if sizes is None else sizes:
        tasks: dict[str, Callable[[], object]] = {}
        for config in list(running):
            task = _if_it_fits(partial(_warm, model, config, device, size), device)
            if task is None:
                running.remove(config)
            else:
                tasks[config.name] = task
        timings = _if_it_fits(partial(interleaved, tasks, rounds, device), device) if tasks else None
        if timings is None:
            break
        for name, seconds in timings[0].items():
            spread = Spread.of(seconds)
            found.append(BatchRate(name, size, spread, size / spread.median))
    return found


def ready_network(
    model: ModelUnderTest, config: BenchmarkConfig, device: torch.device, batch: int
) -> Network:
    """The network as a predictor of this configuration runs it."""
    dtype = torch.int8 if config.precision == "int8" else PRECISIONS[config.precision]
    ranges = _ranges(model) if config.precision == "int8" else None
    return make_network(model.net, config.backend, device=device, precision=dtype, batch=batch, ranges=ranges)


def _ranges(model: ModelUnderTest) -> ActivationRanges | None:
    if isinstance(model.model, Checkpoint):
        return ranges_beside(model.model.path, model.model.sha256)
    return model.ranges


def _warm(
    model: ModelUnderTest, config: BenchmarkConfig, device: torch.device, size: int
) -> Callable[[], object]:
    """The network at work on one batch, after its first, slower run."""
    network = ready_network(model, config, device, size)
    channels = model.model.card.context if isinstance(model.model, Checkpoint) else 1
    images = torch.rand(size, channels, *model.net.img_size, device=device)
    task = partial(_run, network, images)
    timed(task, device)
    return task


@torch.inference_mode()
def _run(network: Network, images: torch.Tensor) -> torch.Tensor:
    return network(images)


def _if_it_fits(task: Callable[[], T], device: torch.device) -> T | None:
    """What the task gives; None where memory ran out."""
    try:
        return task()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # The traceback held the tensors until here.
    free_cached_memory(device)
    return None
