"""Slices of which something is vouched for, at the network's size, with the neighbours that are its other channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.inference.slices import Plane, SliceSource, fill_from_neighbours
from napari_transunet.training.cases import resized_classes
from napari_transunet.training.losses import UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.volumes.volume import Volume

REACH = 2
"""How far neighbours are kept: channels may be taken from further apart, as if slices were thicker."""

_AT_ONCE = 1 << 22  # pixels


@dataclass(frozen=True, eq=False)
class PartialSlices:
    """Slices for a network to learn from, or to be scored on.

    Attributes
    ----------
    planes : (M, H, W) float16, scaled to 0..1
    around : (N, 2 · `REACH` + 1) int64, of each slice which planes are its neighbours and, in the middle, itself
    labels : (N, H, W) uint8 classes, or `UNKNOWN`
    annotated : (N, classes) bool, of which classes it is known where they are not, too
    whole : (N,) bool, whether the whole slice is vouched for, not single voxels
    numbers : (N,) int64, which slices of their volume they are, along its own axis
    """

    planes: Tensor
    around: Tensor
    labels: Tensor
    annotated: Tensor
    whole: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, numbers: Sequence[int] | Tensor) -> PartialSlices:
        """Only these slices, and the planes that they need."""
        chosen = torch.as_tensor(numbers, dtype=torch.long)
        needed, around = self.around[chosen].unique(return_inverse=True)
        return PartialSlices(
            self.planes[needed],
            around.reshape(len(chosen), self.around.shape[1]),
            self.labels[chosen],
            self.annotated[chosen],
            self.whole[chosen],
            self.numbers[chosen],
        )

    @classmethod
    def joined(cls, parts: Sequence[PartialSlices]) -> PartialSlices:
        """All slices of all parts, of one size and with one number of classes."""
        offsets = np.cumsum([0, *(len(part.planes) for part in parts)])
        return cls(
            torch.cat([part.planes for part in parts]),
            torch.cat([part.around + int(offset) for part, offset in zip(parts, offsets, strict=False)]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.annotated for part in parts]),
            torch.cat([part.whole for part in parts]),
            torch.cat([part.numbers for part in parts]),
        )

    def batch(
        self, chosen: Tensor, distance: Tensor | int, context: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Slices by number on the device: (B, context, H, W) float32, (B, H, W) uint8, (B, classes) bool.

        `distance` from 0 to `REACH`, (B,) or one for all: how far the neighbours are taken from.
        """
        if context == 3:
            around = torch.as_tensor(distance).expand(len(chosen))[:, None] * torch.tensor([-1, 0, 1])
            columns = REACH + around
        else:
            columns = torch.full((len(chosen), 1), REACH)
        images = self.planes[self.around[chosen].gather(1, columns)]
        return (
            images.to(device).float(),
            self.labels[chosen].to(device),
            self.annotated[chosen].to(device),
        )


def partial_slices(
    volume: Volume,
    labels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    card: ModelCard,
    *,
    slices: Collection[int] | None,
    voxels: npt.NDArray[np.bool_] | None,
    classes: Mapping[int, int],
    annotated: Collection[int],
    plane: Plane = "z",
) -> PartialSlices:
    """What is vouched for in a volume, in the order of the slices' own axis; prepared as for prediction.

    Parameters
    ----------
    labels : (z, y, x) label values on the volume's grid
    slices : vouched for as a whole; indices along the volume's axis along which `plane` takes them; None
        for all
    voxels : (z, y, x), single voxels vouched for wherever they are; None for none
    classes : label value → class, or `UNKNOWN`; other values are background
    annotated : the classes that are vouched for. A voxel of another class is known to be none of these, no more
    plane : the axis, in the card's orientation, along which slices are taken
    """
    source = SliceSource.from_card(volume, card, card.img_size, plane)
    turn = source.orientation
    turned = turn.apply(labels)
    marked = None if voxels is None else turn.apply(voxels)
    if slices is None:
        slices = range(len(source))
    whole = {turn.original_index(int(index), volume.data.shape) for index in slices}
    single = set() if marked is None else set(np.flatnonzero(marked.any(axis=(1, 2))).tolist()) - whole
    chosen = np.array(sorted(whole | single), np.int64)
    table = np.zeros(1 << 16, np.uint8)
    for value, own in classes.items():
        table[value] = own if own in (*annotated, UNKNOWN) else 0

    reach = np.arange(-REACH, REACH + 1) if card.context == 3 else np.zeros(2 * REACH + 1, np.int64)
    wanted = np.clip(np.add.outer(chosen, reach), 0, len(source) - 1)
    distinct, around = np.unique(wanted, return_inverse=True)
    height, width = source.resize.size
    planes = torch.empty(len(distinct), height, width, dtype=torch.float16)
    targets = torch.empty(len(chosen), height, width, dtype=torch.uint8)
    step = max(1, _AT_ONCE // (source.data.shape[1] * source.data.shape[2]))
    for begin in range(0, len(distinct), step):
        part = slice(begin, begin + step)
        values = source.data[distinct[part]].astype(np.float32)
        if source.data.dtype.kind == "f":
            fill_from_neighbours(values)
        planes[part] = source.resize.forward(source.scaling.apply(torch.from_numpy(values))).half()
    for number, index in enumerate(chosen.tolist()):
        found = table[np.ascontiguousarray(turned[index])]
        if index in whole:
            targets[number] = resized_classes(found[None], source.resize)[0]
            continue
        assert marked is not None
        found[~marked[index]] = UNKNOWN
        target = resized_classes(found[None], source.resize)[0]
        # Beyond the image lies nothing that anybody vouched for.
        inside = source.resize.forward(torch.ones(1, *found.shape))[0]
        targets[number] = target.masked_fill(inside < 0.5, UNKNOWN)
    known = torch.tensor([value == 0 or value in annotated for value in range(card.num_classes)])
    return PartialSlices(
        planes,
        torch.from_numpy(around.reshape(wanted.shape).astype(np.int64)),
        targets,
        known.repeat(len(chosen), 1),
        torch.tensor([index in whole for index in chosen.tolist()], dtype=torch.bool),
        torch.tensor([turn.original_index(index, volume.data.shape) for index in chosen.tolist()]),
    )
