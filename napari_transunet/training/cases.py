"""Labelled volumes as slices of the network's size, prepared by the very steps that inference takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from napari_transunet.errors import InputError
from napari_transunet.segmentation.preprocessing import scaling_for
from napari_transunet.segmentation.resize import make_resize
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.volumes.volume import Volume


@dataclass(frozen=True, eq=False)
class Case:
    """One labelled volume at the network's size.

    Attributes
    ----------
    name : of the volume
    patient : volumes of one patient bear the same; a split never separates them
    planes : (Z, H, W) float32, scaled to 0..1
    labels : (Z, H, W) uint8 classes
    """

    name: str
    patient: str
    planes: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.planes.shape[0]


def class_labels(labels: npt.NDArray[Any], classes: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """Label values of a source as this model's classes; values that `classes` does not name become background."""
    table = np.zeros(int(max(labels.max(), *classes)) + 1, np.uint8)
    for value, target in classes.items():
        table[value] = target
    return table[labels]


def prepare_case(
    image: Volume, labels: Volume, classes: Mapping[int, int], card: ModelCard, patient: str
) -> Case:
    """An image and its labels, turned to the card's orientation, scaled and resized as the card says.

    Labels are resampled class by class and the largest share wins, so that small organs keep smooth outlines.

    Raises
    ------
    InputError
        Image and labels do not lie on the same grid (to 0.01 mm; in any orientation), or no class is in them.
    """
    codes = card.orientation or image.geometry.axis_codes
    to_image, to_labels = (Reorientation.between(volume.geometry, codes) for volume in (image, labels))
    grid, label_grid = (
        volume.geometry.reoriented(turn.axes, turn.flips)
        for volume, turn in ((image, to_image), (labels, to_labels))
    )
    if not grid.matches(label_grid, tolerance=1e-2):
        raise InputError(f"{image.source.name} and its labels {labels.source.name} lie on different grids.")
    data = to_image.apply(image.data)
    wanted = class_labels(to_labels.apply(labels.data), classes)
    if not wanted.any():
        raise InputError(f"{labels.source.name} holds none of the labels {sorted(classes)}.")
    resize = make_resize(
        card.resize,
        grid.spacing[1:],
        grid.shape[1:],
        card.img_size,
        card.spacing[1:] if card.spacing else None,
    )
    scaling = scaling_for(card, image.data)
    planes, targets = [], []
    for plane, target in zip(data, wanted, strict=True):
        planes.append(resize.forward(scaling.apply(torch.from_numpy(np.ascontiguousarray(plane)))))
        shares = functional.one_hot(torch.from_numpy(np.ascontiguousarray(target)).long(), card.num_classes)
        targets.append(resize.forward(shares.permute(2, 0, 1).float()).argmax(0).to(torch.uint8))
    return Case(image.source.name, patient, torch.stack(planes), torch.stack(targets))
