"""Small networks, cases and datasets that the tests of training share."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.cases import Case
from napari_transunet.training.recipes import DEFAULT
from tests.networks import slim_parts

HYBRID = Variant("tiny hybrid", 16, 32, 64, 2, 1, hybrid=True)
PLAIN = Variant("tiny", 16, 32, 64, 2, 1)

ON_CPU: Mapping[str, Any] = {"device": "cpu", "precision": "float32"}

STILL = Augmentation(
    rotation=0,
    scale=1,
    stretch=1,
    shift=0,
    bend=0,
    contrast=0,
    brightness=0,
    gamma=1,
    phase_chance=0,
    noise=0,
    blur_chance=0,
)
"""No augmentation."""

BRIEF = DEFAULT.with_changes(steps=20, batch=4)


class Pixelwise(nn.Module):
    """A network that is no TransUNet, and takes a millisecond."""

    def __init__(self, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def network(
    variant: Variant = PLAIN, size: int = 32, dropout: float = 0.1, *, narrow: bool = True
) -> TransUNet:
    torch.manual_seed(0)
    with slim_parts() if narrow else nullcontext():
        return TransUNet(variant, 3, size, dropout=dropout)


def pixelwise(classes: int = 3, channels: int = 3) -> Pixelwise:
    torch.manual_seed(0)
    return Pixelwise(classes, channels)


def case(number: int = 0, slices: int = 6, size: int = 32) -> Case:
    """Two organs of their own brightness, in other places in each case."""
    generator = torch.Generator().manual_seed(number)
    labels = torch.zeros(slices, size, size, dtype=torch.uint8)
    row, column = torch.randint(2, size // 4, (2,), generator=generator).tolist()
    labels[1:, row : row + 12, column : column + 10] = 1
    labels[: slices - 1, row + 14 : row + 20, column : column + 8] = 2
    planes = 0.3 * torch.rand(labels.shape, generator=generator) + 0.3 * labels
    return Case(f"case{number}", f"patient{number}", planes.half(), labels)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether all weights are equal to the last bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def write_dataset(root: Path, patients: int = 6, size: int = 32) -> Path:
    """A folder with `images`, `labels` and `dataset.json`; MR, with the label values 3 and 7."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(patients):
        made = case(number, size=size)
        labels = np.array([0, 3, 7], np.uint8)[made.labels.numpy()]
        for folder, data in (("images", (1000 * made.planes).short().numpy()), ("labels", labels)):
            image = sitk.GetImageFromArray(data)
            image.SetSpacing((1.0, 1.0, 2.0))
            sitk.WriteImage(image, str(root / folder / f"patient{number}.nii.gz"))
    about = {
        "name": "Blocks",
        "licence": "CC0-1.0",
        "reference": "made up",
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "body": 3, "head": 7},
    }
    (root / "dataset.json").write_text(json.dumps(about))
    return root
