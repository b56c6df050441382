"""Slices of a case as small pictures, with the labels' outlines: upright, and with square pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.volumes.intensity import display_window
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.volumes.labels import Color
    from napari_transunet.volumes.volume import Volume

_UPRIGHT = "LPS"
"""Columns run to the patient's left and rows to the back, as radiologists look at axial slices."""

THUMBNAIL = 96  # pixels along the longer side
PICTURE = 320


def key_slices(labels: NDArray[Any], axis: int, count: int = 3) -> list[int]:
    """The slices along an axis that show most: of each of so many parts of equal labelled volume the fullest.

    Evenly spread slices where nothing is labelled. Fewer where there are fewer.
    """
    others = tuple(other for other in range(3) if other != axis)
    area = np.count_nonzero(labels, axis=others)
    total = int(area.sum())
    if not total:
        n = labels.shape[axis]
        return sorted({int((part + 0.5) * n / count) for part in range(count)})
    share = np.minimum(count - 1, (np.cumsum(area) - area) * count // total)
    parts = [np.flatnonzero((share == part) & (area > 0)) for part in range(count)]
    return [int(part[area[part].argmax()]) for part in parts if part.size]


def picture(
    volume: Volume,
    labels: NDArray[Any],
    axis: int,
    index: int,
    *,
    size: int = PICTURE,
    colors: Mapping[int, Color] | None = None,
) -> Tensor:
    """One slice along an axis with its labels outlined: uint8 (3, H, W), the longer side `size` pixels."""
    import torch
    from scipy import ndimage

    from napari_transunet.training.pictures import overlaid

    turn = Reorientation.between(volume.geometry, _UPRIGHT)
    along = turn.axes.index(axis)
    at = volume.data.shape[axis] - 1 - index if turn.flips[along] else index
    grid = volume.geometry.reoriented(turn.axes, turn.flips)
    plane, shown = (np.take(turn.apply(array), at, axis=along) for array in (volume.data, labels))
    if along > 0:  # rows then run along the body, and the head is up
        plane, shown = plane[::-1], shown[::-1]
    steps = [step for number, step in enumerate(grid.spacing) if number != along]
    extent = [count * step for count, step in zip(plane.shape, steps, strict=True)]
    zoom = [
        max(1, round(size * length / max(extent))) / count
        for length, count in zip(extent, plane.shape, strict=True)
    ]
    low, high = display_window(volume)
    values = np.nan_to_num(plane.astype(np.float32), nan=low, posinf=high, neginf=low)
    grey = np.clip((values - low) / (high - low), 0, 1)
    return overlaid(
        torch.from_numpy(np.ascontiguousarray(ndimage.zoom(grey, zoom, order=1))),
        torch.from_numpy(np.ascontiguousarray(ndimage.zoom(shown.astype(np.int32), zoom, order=0))),
        colors,
    )


def write_thumbnail(
    path: Path, volume: Volume, labels: NDArray[Any], axis: int, colors: Mapping[int, Color] | None = None
) -> None:
    """Write the slice that shows most as a small PNG."""
    from napari_transunet.training.pictures import write_png

    (index,) = key_slices(labels, axis, 1)
    write_png(path, picture(volume, labels, axis, index, size=THUMBNAIL, colors=colors))


def pictures_of(
    volume: Volume, labels: NDArray[Any], axis: int, colors: Mapping[int, Color] | None = None
) -> Sequence[tuple[int, Tensor]]:
    """The three key slices and their pictures."""
    return [(at, picture(volume, labels, axis, at, colors=colors)) for at in key_slices(labels, axis)]
