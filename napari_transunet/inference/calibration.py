"""Activation ranges of a network, from slices of volumes like those that it will see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.checkpoints.quantization import ActivationRanges, Agreement
from napari_transunet.errors import InputError
from napari_transunet.inference.predictor import Predictor
from napari_transunet.inference.slices import PLANES, SliceSource, as_volume
from napari_transunet.model.inference import InferenceTransUNet

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.volumes.volume import Volume

    Volumes = Iterable[Volume | npt.NDArray[Any]]


_LEFT_OUT_FIRST = (
    "transformer.embeddings.hybrid_model.root",
    "transformer.embeddings.hybrid_model.body.block1",
    "segmentation_head",
    "decoder.blocks.3",
    "decoder.blocks.2",
    "decoder.blocks.1",
    "decoder.blocks.0",
    "decoder.conv_more",
)
"""Layers that stay out of 8 bits where the labels would differ too much, the first ones first.

Everything after them hangs on the image's first layers, and they are about 6 % of the arithmetic.
"""

_LEFT_OUT_AT_ONCE = (1, 2, 5, len(_LEFT_OUT_FIRST))

_WITH_SOMETHING_IN_HAND = 0.997
"""Agreement that is sought; more than is needed, since on other volumes it is a little less."""


def observe_ranges(model: Checkpoint | TransUNet, volumes: Volumes, *, slices: int = 32) -> ActivationRanges:
    """The ranges that activations take in float32, on `slices` slices of each volume, evenly spread."""
    net, card = (model.model, model.card) if isinstance(model, Checkpoint) else (model, default_card(model))
    network = InferenceTransUNet(net, device="cpu")
    spans: dict[str, tuple[float, float]] = {}
    seen = 0
    with _watching(network.net, spans):
        for volume in volumes:
            for plane in PLANES[: card.planes]:
                source = SliceSource.from_card(as_volume(volume), card, net.img_size, plane)
                for index in _evenly(len(source), slices):
                    network(source.images([index]))
                    seen += 1
    if not seen:
        raise InputError("Activation ranges need at least one volume.")
    sha256 = model.sha256 if isinstance(model, Checkpoint) else None
    return ActivationRanges(sha256=sha256, layers=spans, img_size=net.img_size, slices=seen)


def measure_agreement(
    model: Checkpoint | TransUNet,
    ranges: ActivationRanges,
    volumes: Volumes,
    *,
    slices: int = 32,
) -> Agreement:
    """How labels in 8 bits with these ranges compare with float32's, over `slices` slices of each volume."""
    exact = Predictor(model, device="cpu", precision="float32")
    rounded = Predictor(model, device="cpu", precision="int8", ranges=ranges)
    classes = exact.card.num_classes
    both = np.zeros((classes, classes), np.int64)
    for volume in volumes:
        chosen = _evenly(len(exact.slice_source(volume)), slices)
        runs = (predictor.iter_slices(volume, slices=chosen) for predictor in (exact, rounded))
        for (_, wanted), (_, found) in zip(*runs, strict=True):
            pairs = wanted.astype(np.int64) * classes + found
            both += np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)
    sums = both.sum(axis=0) + both.sum(axis=1)
    dice = {value: float(2 * both[value, value] / sums[value]) for value in range(1, classes) if sums[value]}
    return Agreement(labels=float(np.trace(both) / both.sum()), dice=dice)


def calibrate(
    model: Checkpoint | TransUNet,
    volumes: Sequence[Volume],
    *,
    slices: int = 32,
    progress: Callable[[str], None] | None = None,
) -> ActivationRanges:
    """Ranges with which 8 bits give float32's labels, and how nearly; as many layers run in 8 bits as that allows.

    Layers next to the image and then those next to the output are left out first: their rounding shows most.

    Parameters
    ----------
    volumes : like those that will be segmented, with every organ
    slices : of each volume, evenly spread
    progress : called with a few words on what is done next
    """
    say = progress if progress is not None else lambda _: None
    say("ranges")
    every = observe_ranges(model, volumes, slices=slices)
    for count in _LEFT_OUT_AT_ONCE:
        ranges = every.without(_LEFT_OUT_FIRST[:count])
        say(f"labels, {len(ranges.layers)} of {len(every.layers)} layers in 8 bits")
        agreement = measure_agreement(model, ranges, volumes, slices=slices)
        ranges = ranges.model_copy(update={"agreement": agreement})
        if agreement.least >= _WITH_SOMETHING_IN_HAND:
            break
    return ranges


@contextmanager
def _watching(net: nn.Module, spans: dict[str, tuple[float, float]]) -> Iterator[None]:
    """Widen `spans` by what the layers of `net` are given, within the block."""

    def widen(name: str, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = (float(end) for end in inputs[0].aminmax())
        least, greatest = spans.get(name, (0.0, 0.0))
        spans[name] = (min(low, least), max(high, greatest))

    with ExitStack() as hooks:
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                hooks.callback(module.register_forward_pre_hook(partial(widen, name)).remove)
        yield


def _evenly(n: int, count: int) -> Sequence[int]:
    """At most `count` of n indices, at equal distances, the ends left out where there are enough."""
    if n <= count:
        return range(n)
    return [int((index + 0.5) * n / count) for index in range(count)]
