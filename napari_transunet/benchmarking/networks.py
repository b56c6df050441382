"""The network alone, against the size of its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from napari_transunet.benchmarking.report import BatchRate
from napari_transunet.benchmarking.timing import interleaved, timed
from napari_transunet.segmentation.backends import Network, make_network
from napari_transunet.segmentation.devices import PRECISIONS, free_cached_memory, is_out_of_memory

if TYPE_CHECKING:
    from napari_transunet.benchmarking.subjects import Subject
    from napari_transunet.benchmarking.ways import Way
    from napari_transunet.checkpoints.ranges import ActivationRanges

T = TypeVar("T")

_LARGEST_BATCH = {"cpu": 16}
_LARGEST_ON_GPU = 512
_GAIN = 1.02
"""A batch twice as large has to be so many times as fast to count as better."""


def batch_sizes(device: torch.device) -> list[int]:
    """1, 2, 4, … to where more cannot be expected to gain anything there."""
    largest = _LARGEST_BATCH.get(device.type, _LARGEST_ON_GPU)
    return [2**power for power in range(largest.bit_length())]


def rates_by_batch(
    subject: Subject,
    ways: Sequence[Way],
    device: torch.device,
    rounds: int,
    floors: Mapping[str, float],
    *,
    ranges: ActivationRanges | None = None,
    sizes: Iterable[int] | None = None,
) -> list[BatchRate]:
    """The network alone in each way, at batch sizes from 1 upward until memory runs out.

    Parameters
    ----------
    subject, ways, device : what runs where; of the ways, backend and precision count
    rounds : how often every network runs at every size, in turn
    floors : seconds of a slice at the machine's matrix rate, by precision
    ranges : for ways in 8 bits
    sizes : in ascending order; by default those of `batch_sizes`
    """
    found: list[BatchRate] = []
    running = list(ways)
    for size in batch_sizes(device) if sizes is None else sizes:
        works: dict[str, Callable[[], object]] = {}
        for way in list(running):
            work = _if_it_fits(partial(_warm, subject, way, device, size, ranges), device)
            if work is None:
                running.remove(way)
            else:
                works[way.name] = work
        if not works:
            break
        timings = _if_it_fits(partial(interleaved, works, rounds, device), device)
        if timings is None:
            break
        for way in running:
            spread = timings.spread(way.name)
            floor = floors.get(way.precision)
            share = None if floor is None else floor * size / spread.median
            found.append(BatchRate(way.name, size, spread, size / spread.median, share))
    return found


def best_batch(rates: Sequence[BatchRate]) -> int | None:
    """The smallest batch size that no larger one is clearly better than; None of no rates."""
    best: BatchRate | None = None
    for rate in sorted(rates, key=lambda rate: rate.batch_size):
        if best is None or rate.slices_per_s > _GAIN * best.slices_per_s:
            best = rate
    return None if best is None else best.batch_size


def _warm(
    subject: Subject, way: Way, device: torch.device, size: int, ranges: ActivationRanges | None
) -> Callable[[], object]:
    """The network at work on one batch, after its first, slower run."""
    dtype = torch.int8 if way.precision == "int8" else PRECISIONS[way.precision]
    network = make_network(
        subject.net, way.backend, device=device, precision=dtype, batch=size, ranges=ranges
    )
    channels = subject.card.context
    images = torch.rand(size, channels, *subject.net.img_size, device=device)
    work = partial(_run, network, images)
    timed(work, device)
    return work


@torch.inference_mode()
def _run(network: Network, images: torch.Tensor) -> torch.Tensor:
    return network(images)


def _if_it_fits(work: Callable[[], T], device: torch.device) -> T | None:
    """What the work gives; None where memory ran out."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # The traceback held the tensors until here.
    free_cached_memory(device)
    return None
