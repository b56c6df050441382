"""Slices to the network's size and logits back to the slice, as matrix products on any device.

Every resize here is linear and separable: a plane `p` becomes `A · p · Bᵀ` with two matrices that depend on the
sizes alone. They are made once a volume, in float64 on the CPU, and applied to whole batches where these lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Matrix = npt.NDArray[np.float64]
Size = tuple[int, int]
Box = tuple[slice, slice]

_EDGE = 1e-6  # pixels by which a sample may miss a grid's edge through rounding and still count as inside


@dataclass(frozen=True, eq=False)
class Resize:
    """A way from slices to the network and back.

    Attributes
    ----------
    steps
        Pixels of the slice, along (y, x), from one pixel of the network to the next.
    rows, columns
        (H, h) and (W, w) float32 matrices that lead to the network. A row of zeros is padding: its pixels become
        0, the low end of the window.
    back_rows, back_columns
        (h, H) and (w, W) float32 matrices that lead back: every row is a mean of at most two neighbours, or zeros.
    """

    steps: tuple[float, float]
    rows: Tensor
    columns: Tensor
    back_rows: Tensor
    back_columns: Tensor

    @property
    def shape(self) -> Size:
        """(h, w) of a slice in pixels."""
        return self.back_rows.shape[0], self.back_columns.shape[0]

    @property
    def size(self) -> Size:
        """(H, W) of the network's input in pixels."""
        return self.rows.shape[0], self.columns.shape[0]

    def to(self, device: torch.device | str) -> Resize:
        """The same resize for tensors on that device."""
        matrices = (self.rows, self.columns, self.back_rows, self.back_columns)
        return Resize(self.steps, *(matrix.to(device) for matrix in matrices))

    def forward(self, planes: Tensor) -> Tensor:
        """Scaled float32 slices to the network's size: (..., h, w) -> (..., H, W)."""
        return self.rows @ planes @ self.columns.mT

    def inverse(self, logits: Tensor) -> Tensor:
        """Float32 logits to the slices' grid: (..., H, W) -> (..., h, w)."""
        return self.back_rows @ logits @ self.back_columns.mT

    def labels(self, logits: Tensor) -> Tensor:
        """The most likely class of every pixel of the slices: (B, classes, H, W) -> (B, h, w).

        uint8, or int32 above 255 classes. It is `inverse(logits).argmax(dim=1)`, one class at a time: logits at
        the slices' size would grow with the classes, and PyTorch's argmax across planes is slow on the CPU. There a
        class is brought back only where it can be the most likely one at all.
        """
        dtype = torch.uint8 if logits.shape[1] <= 255 else torch.int32
        if logits.device.type == "cpu":
            return torch.stack([self._labels_where_possible(each, dtype) for each in logits])
        best = self.inverse(logits[:, 0])
        labels = torch.zeros(best.shape, dtype=dtype, device=best.device)
        for label in range(1, logits.shape[1]):
            plane = self.inverse(logits[:, label])
            labels.masked_fill_(plane > best, label)
            torch.maximum(best, plane, out=best)
        return labels

    def _labels_where_possible(self, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """The same of one slice: (classes, H, W) -> (h, w)."""
        labels = torch.zeros(self.shape, dtype=dtype)
        boxes = {}
        for label, cells in enumerate(_boxes(logits)):
            if label and cells is not None and (box := self._pixels_of(cells)) is not None:
                boxes[label] = box
        if not boxes:
            return labels
        top, bottom = min(box[0].start for box in boxes.values()), max(box[0].stop for box in boxes.values())
        left, right = min(box[1].start for box in boxes.values()), max(box[1].stop for box in boxes.values())
        best = self._part(logits[0], (slice(top, bottom), slice(left, right)))
        for label, (rows, columns) in boxes.items():
            plane = self._part(logits[label], (rows, columns))
            before = best[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            labels[rows, columns].masked_fill_(plane > before, label)
            torch.maximum(before, plane, out=before)
        return labels

    def _part(self, plane: Tensor, box: Box) -> Tensor:
        """`inverse` of one plane (H, W), in a box of the slice's pixels alone."""
        return self.back_rows[box[0]] @ plane @ self.back_columns[box[1]].mT

    def _pixels_of(self, cells: Box) -> Box | None:
        """The slice's pixels that lie in these cells between the network's pixels; None where none does."""
        rows = _reached(self.back_rows, cells[0])
        columns = _reached(self.back_columns, cells[1])
        return None if rows is None or columns is None else (rows, columns)


def _boxes(logits: Tensor) -> list[Box | None]:
    """Of each class of (classes, H, W), the cells within which it can be the most likely one; None where in none.

    Between four pixels every class lies between the least and the greatest of its four logits, so it cannot win in a
    cell where its greatest is below the least of another. A box is (rows, columns); cell i lies between the pixels i
    and i + 1.
    """
    most, least = _over_cells(logits, torch.maximum), _over_cells(logits, torch.minimum)
    # A hair's breadth for what rounding does to sums of products.
    beaten = least.amax(dim=0) - 1e-4 * logits.abs().amax()
    possible = most >= beaten
    spans = []
    for axis in (2, 1):
        along = possible.any(dim=axis).int()
        first = along.argmax(dim=1)
        last = along.shape[1] - along.flip(1).argmax(dim=1)
        spans.append(list(zip(first.tolist(), last.tolist(), strict=True)))
    somewhere = possible.flatten(1).any(dim=1).tolist()
    return [
        (slice(*rows), slice(*columns)) if there else None
        for there, rows, columns in zip(somewhere, *spans, strict=True)
    ]


def _over_cells(planes: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`pick` of the four corners of every cell: (..., H, W) -> (..., H − 1, W − 1), at least 1×1."""
    for axis in (-1, -2):
        size = planes.shape[axis]
        if size > 1:
            planes = pick(planes.narrow(axis, 0, size - 1), planes.narrow(axis, 1, size - 1))
    return planes


def _reached(back: Tensor, cells: slice) -> slice | None:
    """The rows of a (h, H) matrix that draw on pixels of these cells, and perhaps a few more beside them."""
    drawn = (back[:, cells.start : cells.stop + 1] != 0).any(dim=1).nonzero()
    return slice(int(drawn[0]), int(drawn[-1]) + 1) if len(drawn) else None


def make_resize(
    how: Literal["squash", "pad"],
    spacing: Sequence[float],
    shape: Size,
    size: Size,
    target_spacing: Sequence[float | None] | None = None,
) -> Resize:
    """The resize that a model card asks for.

    "squash" stretches the slice to the network's size. "pad" gives its pixels `target_spacing` where that is
    given (None for one axis keeps the slice's own), shrunk alike along both axes where the slice would not fit;
    without it the slice is scaled, alike in mm, to just fit. It is centred and padded with zeros.

    Parameters
    ----------
    how : "squash" or "pad"
    spacing : mm between the slice's pixels along (y, x)
    shape : (h, w) of the slice
    size : (H, W) of the network
    target_spacing : mm between the network's pixels along (y, x); "pad" alone uses it
    """
    if how == "squash":
        steps = shape[0] / size[0], shape[1] / size[1]
    elif how == "pad":
        target = _fitting_spacing(spacing, shape, size, target_spacing)
        steps = target[0] / spacing[0], target[1] / spacing[1]
    else:
        raise InputError(f"A resize is 'squash' or 'pad', not {how!r}.")
    forward = [sampling_matrix(n, m, step) for n, m, step in zip(shape, size, steps, strict=True)]
    # Logits are sampled at the pixels' centres without antialiasing: a label says what lies at the centre.
    back = [
        sampling_matrix(m, n, 1 / step, antialias=False)
        for n, m, step in zip(shape, size, steps, strict=True)
    ]
    return Resize(steps, *(_float32(matrix) for matrix in (*forward, *back)))


def paper_resize(shape: Size, size: Size) -> Resize:
    """The published test procedure's zooms: cubic splines to the network, the nearest pixel back.

    It zooms labels back; the argmax of the nearest pixel's logits is the nearest pixel's label, so picking logits
    gives the same and needs no second kind of resize.

    Parameters
    ----------
    shape : (h, w) of the slice
    size : (H, W) of the network
    """
    sizes = tuple(zip(shape, size, strict=True))
    return Resize(
        (shape[0] / size[0], shape[1] / size[1]),
        *(_float32(spline_matrix(n, m)) for n, m in sizes),
        *(_float32(nearest_matrix(m, n)) for n, m in sizes),
    )


def sampling_matrix(n_in: int, n_out: int, step: float, *, antialias: bool = True) -> Matrix:
    """Linear resampling of `n_in` pixels at `n_out` points `step` pixels apart, both centred alike: (n_out, n_in).

    Shrinking widens the triangle to the step, so nothing between the samples is missed (unless `antialias` is
    off); at step = n_in / n_out this is `torch.nn.functional.interpolate(mode="bilinear", antialias=True)`.
    Points beyond the outer pixels' edges get a row of zeros.
    """
    centres = (np.arange(n_out) - (n_out - 1) / 2) * step + (n_in - 1) / 2
    width = max(1.0, step) if antialias else 1.0
    inside = (centres > -0.5 - _EDGE) & (centres < n_in - 0.5 + _EDGE)
    if not antialias:
        centres = centres.clip(0, n_in - 1)
    weights = np.maximum(0.0, 1 - np.abs(np.arange(n_in) - centres[:, None]) / width)
    weights[~inside] = 0
    total = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def spline_matrix(n_in: int, n_out: int) -> Matrix:
    """`scipy.ndimage.zoom(order=3)` from `n_in` to `n_out` pixels: (n_out, n_in).

    Its columns are the zooms of the unit vectors, so it holds for whatever scipy does at the edges.
    """
    from scipy import ndimage  # 0.2 s that a run by the card need not wait for

    return ndimage.zoom(np.eye(n_in), (n_out / n_in, 1), order=3)


def nearest_matrix(n_in: int, n_out: int) -> Matrix:
    """`scipy.ndimage.zoom(order=0)` from `n_in` to `n_out` pixels: (n_out, n_in), at most one 1 a row.

    At some pairs of sizes a rounding error takes scipy's last sample off the edge, where it writes 0; the last
    row is then zeros, which makes all logits equal and the label 0 as well.
    """
    from scipy import ndimage  # 0.2 s that a run by the card need not wait for

    return ndimage.zoom(np.eye(n_in), (n_out / n_in, 1), order=0)


def _fitting_spacing(
    spacing: Sequence[float], shape: Size, size: Size, target: Sequence[float | None] | None
) -> tuple[float, float]:
    """mm between the network's pixels along (y, x): the target, or as much more as makes the slice fit."""
    extent = (shape[0] * spacing[0], shape[1] * spacing[1])
    if target is None or all(wanted is None for wanted in target):
        fit = max(extent[0] / size[0], extent[1] / size[1])
        return fit, fit
    y, x = (own if wanted is None else wanted for own, wanted in zip(spacing, target, strict=True))
    excess = max(1.0, extent[0] / (size[0] * y), extent[1] / (size[1] * x))
    return y * excess, x * excess


def _float32(matrix: Matrix) -> Tensor:
    return torch.from_numpy(matrix.astype(np.float32))
