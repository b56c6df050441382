"""Where the time of a slice goes: the steps on its way to labels, and the network's longest operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.inference.batch_size import ready_network
from napari_transunet.benchmark import synchronize, timed

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.benchmark import ModelUnderTest, ReadyConfig
    from napari_transunet.inference.slices import SliceSource
    from napari_transunet.volumes.volume import Volume


@dataclass(frozen=True)
class Step:
    """A part of the work on a slice, in seconds a slice."""

    name: str
    slice_s: float


@dataclass(frozen=True)
class Profile:
    """Where the time goes.

    Attributes
    ----------
    config : the fastest one; its steps sum up to what a slice takes
    operators_of : the configuration whose operators PyTorch's profiler told apart; it does not see OpenVINO's
    operators : the longest, by the time that they take themselves
    """

    config: str
    steps: Sequence[Step]
    operators_of: str | None
    operators: Sequence[Step]


_OPERATORS = 12
_BATCHES = 4


def where_time_goes(
    model: ModelUnderTest,
    fastest: ReadyConfig,
    in_torch: ReadyConfig | None,
    volume: Volume,
    slice_s: float,
) -> Profile:
    """Of a slice in the fastest configuration.

    Parameters
    ----------
    fastest : whose steps are timed
    in_torch : whose operators are profiled; None for none
    slice_s : seconds that a slice takes in the fastest configuration, all in all
    """
    operators = [] if in_torch is None else _operators(in_torch, volume)
    steps = _steps(model, fastest, volume)
    rest = Step("the rest: labels into the volume, loops", slice_s - sum(step.slice_s for step in steps))
    return Profile(
        config=fastest.config.name,
        steps=[*steps, rest],
        operators_of=None if in_torch is None else in_torch.config.name,
        operators=operators,
    )


def _steps(model: ModelUnderTest, ready: ReadyConfig, volume: Volume) -> list[Step]:
    predictor = ready.predictor
    size, device = predictor.batch_size, predictor.device
    source = predictor.slice_source(volume)
    network = ready_network(model, ready.config, device, size)
    names = ("scale, and resize to the network", "the network", "resize back, and argmax")
    seconds: list[list[float]] = [[] for _ in names]
    with torch.inference_mode():
        for number in range(_BATCHES + 1):
            start = number * size % max(1, len(source) - size)
            indices = range(start, min(start + size, len(source)))
            prepared, images = timed(partial(source.images, indices), device)
            computed, logits = timed(partial(network, images), device)
            labelled, _ = timed(partial(_labels, source, logits), device)
            if number:  # the first is slower
                for column, took in zip(seconds, (prepared, computed, labelled), strict=True):
                    column.append(took / len(indices))
    return [Step(name, sorted(column)[len(column) // 2]) for name, column in zip(names, seconds, strict=True)]


def _labels(source: SliceSource, logits: Tensor) -> Tensor:
    return source.resize.labels(logits).cpu()


def _operators(ready: ReadyConfig, volume: Volume) -> list[Step]:
    predictor = ready.predictor
    count = min(len(volume.data), _BATCHES * predictor.batch_size)
    on_gpu = predictor.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    indices = range(min(count, volume.data.shape[predictor.slice_axis(volume)]))
    with profile(activities=activities) as watched:
        for _ in predictor.iter_slices(volume, slices=indices):
            pass
        synchronize(predictor.device)
    found = [
        Step(entry.key, (entry.self_device_time_total if on_gpu else entry.self_cpu_time_total) / 1e6 / count)
        for entry in watched.key_averages()
    ]
    return sorted(found, key=lambda step: -step.slice_s)[:_OPERATORS]
