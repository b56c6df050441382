"""What a model is measured for beside the command `benchmark`: roofline, memory, agreement, batches, length, steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmarks.inference.agreement import Agreement, agreement
from benchmarks.inference.batch_size import BatchRate, rates_by_batch
from benchmarks.inference.memory import PeakMemory
from benchmarks.inference.profiling import Profile, where_time_goes
from benchmarks.inference.roofline import flops_per_slice
from benchmarks.inference.scaling import LENGTHS, Scaling, central_part, time_against_slices
from napari_transunet.benchmark import (
    REFERENCE,
    ModelResult,
    ModelUnderTest,
    ReferenceImplementation,
    ready_configs,
)
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.inference.calibration import observe_ranges
from napari_transunet.model.transunet import TransUNet

if TYPE_CHECKING:
    from napari_transunet.inference.prediction import Labels
    from napari_transunet.model.variants import Variant
    from napari_transunet.volumes.volume import Volume

_SMALL_SIDE = 128
"""Of the slices whose number is varied: the network's share is the same, and a thousand are no gigabyte."""

_BATCH_ROUNDS = 3
"""A batch takes so little time that this many are always run."""

_QUICK_BATCHES, _QUICK_LENGTHS = (1, 2), (4, 8, 16)


@dataclass(frozen=True)
class ModelStudy:
    """One network.

    Attributes
    ----------
    gflop_per_slice : operations of matrix products and convolutions; a multiply-add counts as two
    roofline_s : by configuration, the seconds that a slice's operations take at the machine's matmul throughput
    peak_mb : by configuration, what memory rose by at most, the labels included
    agreements : by configuration, with the labels that it should give
    batches, scaling, profile : only where all was asked for
    """

    name: str
    gflop_per_slice: float
    roofline_s: Mapping[str, float]
    peak_mb: Mapping[str, float]
    agreements: Mapping[str, Agreement]
    batches: Sequence[BatchRate] = ()
    scaling: Scaling | None = None
    profile: Profile | None = None


def random_model(variant: str | Variant, img_size: int, volume: Volume) -> ModelUnderTest:
    """A network of nine classes with random weights, on which speed does not depend."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = TransUNet(variant, 9, img_size).eval()
        # Without this one class wins everywhere, and labels could not differ.
        head = net.segmentation_head[0]
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.bias.sub_(net(torch.rand(1, 1, *net.img_size)).mean(dim=(0, 2, 3)))
    return ModelUnderTest(net.variant.name, net, observe_ranges(net, [volume], slices=8))


def study_model(
    model: ModelUnderTest,
    volume: Volume,
    device: torch.device,
    timed: ModelResult,
    rates: Mapping[str, float],
    *,
    rounds: int,
    full: bool,
    quick: bool,
) -> ModelStudy:
    """Measure a network on the volume that `timed` was found with; `rates` are what `matmul_throughput` found."""
    ready, _ = ready_configs(model, volume, device)
    segment: dict[str, Callable[[Volume], Labels]] = {
        REFERENCE: ReferenceImplementation(model.net, device).predict
    }
    segment |= {name: one.predictor.predict for name, one in ready.items()}
    peaks, labels = PeakMemory(device), {}
    for name, predict in segment.items():
        with peaks.watch(name):
            labels[name] = predict(volume)
    card = model.model.card if isinstance(model.model, Checkpoint) else default_card(model.net)
    organs = dict(card.label_set().names)
    agreements = {
        name: agreement(labels[name], labels[base], base, organs)
        for name, one in ready.items()
        if (base := one.config.compared_with) in labels
    }
    peak_mb = {name: peaks[name] for name in segment}
    flops = flops_per_slice(model.net)
    precisions = {REFERENCE: "float32"} | {name: one.config.precision for name, one in ready.items()}
    roofline_s = {name: flops / (rates[of] * 1e12) for name, of in precisions.items() if of in rates}
    from_card = {name: one for name, one in ready.items() if one.config.pipeline == "card"}
    if not full or not from_card:
        return ModelStudy(model.name, flops / 1e9, roofline_s, peak_mb, agreements)
    slice_s = {one.config: one.slice_s.median for one in timed.configs}
    in_order = sorted(from_card, key=lambda name: slice_s[name])
    fastest = from_card[in_order[0]]
    in_torch = next((from_card[name] for name in in_order if from_card[name].config.backend == "torch"), None)
    side = min(_SMALL_SIDE, *volume.data.shape[1:])
    return ModelStudy(
        model.name,
        flops / 1e9,
        roofline_s,
        peak_mb,
        agreements,
        rates_by_batch(
            model,
            [one.config for one in from_card.values()],
            device,
            max(_BATCH_ROUNDS, rounds),
            _QUICK_BATCHES if quick else None,
        ),
        time_against_slices(
            fastest, central_part(volume, side), rounds, _QUICK_LENGTHS if quick else LENGTHS
        ),
        where_time_goes(model, fastest, in_torch, volume, slice_s[in_order[0]]),
    )
