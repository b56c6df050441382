"""Where the time of a slice goes: the steps on its way to labels, and the network's longest operators."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from napari_transunet.benchmarking.report import Profile, Step
from napari_transunet.benchmarking.timing import synchronise, timed
from napari_transunet.segmentation.backends import make_network

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.benchmarking.subjects import Subject
    from napari_transunet.benchmarking.ways import ReadyWay
    from napari_transunet.checkpoints.ranges import ActivationRanges
    from napari_transunet.segmentation.slices import SliceSource
    from napari_transunet.volumes.volume import Volume

_OPERATORS = 12
_BATCHES = 4


def where_time_goes(
    subject: Subject,
    fastest: ReadyWay,
    in_torch: ReadyWay | None,
    volume: Volume,
    slice_s: float,
    ranges: ActivationRanges | None,
) -> Profile:
    """Of a slice in the fastest way.

    Parameters
    ----------
    fastest : whose steps are told
    in_torch : whose operators are told; None for none
    slice_s : seconds that a slice takes in the fastest way, all in all
    ranges : for a network in 8 bits
    """
    operators = [] if in_torch is None else _operators(in_torch, volume)
    steps = _steps(subject, fastest, volume, ranges)
    rest = Step("the rest: labels into the volume, loops", slice_s - sum(step.slice_s for step in steps))
    return Profile(
        way=fastest.way.name,
        steps=[*steps, rest],
        operators_of=None if in_torch is None else in_torch.way.name,
        operators=operators,
    )


def _steps(subject: Subject, ready: ReadyWay, volume: Volume, ranges: ActivationRanges | None) -> list[Step]:
    predictor = ready.predictor
    size, device = predictor.batch_size, predictor.device
    source = predictor.slice_source(volume)
    network = make_network(
        subject.net,
        ready.way.backend,
        device=device,
        precision=predictor.precision,
        batch=size,
        ranges=ranges,
    )
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


def _operators(ready: ReadyWay, volume: Volume) -> list[Step]:
    predictor = ready.predictor
    count = min(len(volume.data), _BATCHES * predictor.batch_size)
    on_gpu = predictor.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    indices = range(min(count, volume.data.shape[predictor.slice_axis(volume)]))
    with profile(activities=activities) as watched:
        for _ in predictor.iter_slices(volume, slices=indices):
            pass
        synchronise(predictor.device)
    found = [
        Step(entry.key, (entry.self_device_time_total if on_gpu else entry.self_cpu_time_total) / 1e6 / count)
        for entry in watched.key_averages()
    ]
    return sorted(found, key=lambda step: -step.slice_s)[:_OPERATORS]
