"""Labels drawn over slices, as images."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from napari_transunet.training.losses import UNKNOWN
from napari_transunet.volumes.labels import Color, LabelSet

_OPACITY = 0.35


def overlaid(plane: Tensor, labels: Tensor, colors: Mapping[int, Color] | None = None) -> Tensor:
    """A slice (H, W) in 0..1 with labels (H, W) in colour, outlined: uint8 (3, H, W). `UNKNOWN` is left as it is."""
    values = [int(value) for value in labels.unique() if value not in (0, UNKNOWN)]
    if colors is None:
        colors = {
            label.value: label.color for label in LabelSet.from_names({v: f"class {v}" for v in values})
        }
    picture = plane.float().clamp(0, 1).expand(3, -1, -1).clone()
    for value in values:
        mask = (labels == value).float()
        inner = -functional.max_pool2d(-mask[None], 3, stride=1, padding=1)[0]
        share = _OPACITY * mask + (1 - _OPACITY) * (mask - inner)
        picture = picture + share * (torch.tensor(colors[value])[:, None, None] - picture)
    return (255 * picture).round().to(torch.uint8)


def write_png(path: Path, picture: Tensor) -> None:
    """Write uint8 (3, H, W) as a PNG; replaces a file of that name once it is complete."""
    import SimpleITK as sitk

    from napari_transunet.files import atomic_path

    image = sitk.GetImageFromArray(picture.permute(1, 2, 0).contiguous().numpy(), isVector=True)
    with atomic_path(path, overwrite=True) as temporary:
        sitk.WriteImage(image, str(temporary))
