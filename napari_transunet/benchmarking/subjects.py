"""What is measured: networks and the volume that they segment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from napari_transunet.checkpoints.card import CT_WINDOW, ModelCard, default_card
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.errors import InputError
from napari_transunet.model.transunet import TransUNet

if TYPE_CHECKING:
    from napari_transunet.model.variants import Variant
    from napari_transunet.volumes.volume import Volume

_NUM_CLASSES = 9


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes
    ----------
    name : the checkpoint's, or the variant's
    model : what a predictor is made of
    load_s : seconds it took to load; None where its weights are random
    """

    name: str
    model: Checkpoint | TransUNet
    load_s: float | None = None

    @classmethod
    def from_checkpoint(cls, path: Path, img_size: Sequence[int] | None = None) -> Subject:
        """A trained network.

        Raises
        ------
        CheckpointError, FileProblem
            As `load_checkpoint`.
        """
        started = time.perf_counter()
        checkpoint = load_checkpoint(path, img_size=img_size)
        return cls(checkpoint.name, checkpoint, time.perf_counter() - started)

    @classmethod
    def random(cls, variant: str | Variant, img_size: int | Sequence[int] = 224) -> Subject:
        """A network as at the start of a training, of nine classes; speed does not depend on the weights.

        Raises
        ------
        InputError
            There is no such variant, or the size does not suit it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = TransUNet(variant, _NUM_CLASSES, img_size).eval()
            image = torch.rand(1, 1, *net.img_size)
        head = net.segmentation_head[0]
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        with torch.no_grad():  # so that no class wins everywhere, and labels can differ
            head.bias.sub_(net(image).mean(dim=(0, 2, 3)))
        return cls(net.variant.name, net)

    @property
    def net(self) -> TransUNet:
        """The trained network, on the CPU."""
        return self.model.model if isinstance(self.model, Checkpoint) else self.model

    @property
    def trained(self) -> bool:
        """Whether its labels mean anything."""
        return isinstance(self.model, Checkpoint)

    @property
    def card(self) -> ModelCard:
        """How its slices are prepared."""
        return self.model.card if isinstance(self.model, Checkpoint) else default_card(self.model)

    @property
    def organs(self) -> dict[int, str]:
        """Names of its label values."""
        return dict(self.card.label_set().names)


def operations_per_slice(net: TransUNet) -> int:
    """Floating-point operations of one image, multiplications and additions counted singly.

    PyTorch's counter, on a network without memory: matrix products and convolutions alone, as `matrix_rates` counts
    them.
    """
    with torch.device("meta"):
        shape = TransUNet(net.variant, net.num_classes, net.img_size, net.n_skip).eval()
        image = torch.empty(1, 3, *net.img_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shape(image)
    return int(counter.get_total_flops())


def middle_slices(volume: Volume, count: int) -> Volume:
    """The `count` slices along z in the middle of a volume; all of it where it has no more.

    Raises
    ------
    InputError
        The count is below 1.
    """
    if count < 1:
        raise InputError(f"At least one slice is needed, not {count}.")
    return _middle(volume, (count, *volume.data.shape[1:]))


def central_part(volume: Volume, side: int) -> Volume:
    """The square of `side` pixels in the middle of every slice, or what there is of it."""
    return _middle(volume, (len(volume.data), side, side))


def _middle(volume: Volume, counts: tuple[int, ...]) -> Volume:
    starts = [max(0, (has - count) // 2) for has, count in zip(volume.data.shape, counts, strict=True)]
    z, y, x = (slice(start, start + count) for start, count in zip(starts, counts, strict=True))
    data = volume.data[z, y, x]
    geometry = volume.geometry
    at = geometry.affine_lps @ (*reversed(starts), 1)
    origin = (float(at[0]), float(at[1]), float(at[2]))
    shape = (data.shape[0], data.shape[1], data.shape[2])
    return replace(volume, data=data, geometry=replace(geometry, shape=shape, origin=origin))


def repeated_slices(volume: Volume, count: int) -> Volume:
    """A volume of `count` slices that takes those of another again and again."""
    data = volume.data[np.arange(count) % len(volume.data)]
    shape = (data.shape[0], data.shape[1], data.shape[2])
    return replace(volume, data=data, geometry=replace(volume.geometry, shape=shape))


def slices_of_one_value(volume: Volume) -> int:
    """How many slices are air alone within the CT window, which a predictor computes but once."""
    low, high = CT_WINDOW
    return sum(int(np.ptp(plane.clip(low, high)) == 0) for plane in volume.data)
