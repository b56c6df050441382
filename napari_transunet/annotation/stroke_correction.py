"""A few strokes correct the structure around them, in three dimensions.

A random walker with priors (Grady, "Multilabel random walker image segmentation using prior models", CVPR 2005): a
voxel takes after its neighbours, less across an edge of the image, and after its label. Strokes are sure. Near one,
what was labelled is in doubt, and how the values of organ and rest differ in this box counts instead; these are told
from the result, a few times over. scikit-image's `random_walker` takes no priors, without which two short strokes would
divide the whole box between them; the sparse system is SciPy's to solve. What a network believed is not asked: where
somebody has to correct it, it was wrong, and often sure (docs/review-results.md has the numbers).

What holds here: organ strokes only add to their organ, and background strokes only take away, each in one piece with a
stroke; all lengths are in mm; and what is fixed, or is another organ that no stroke crossed, stays.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg

from napari_transunet.errors import InputError
from napari_transunet.volumes.boxes import Box, Mask

Array = NDArray[Any]
Floats = NDArray[np.float32]

BACKGROUND = -1
"""How a stroke of background is marked; 0 is no stroke."""
MARGIN_MM = 30.0
"""How far around the strokes labels may change."""

_LARGEST = 60_000_000  # voxels of a box
_NODES = 60_000  # of the grid that is solved on, roughly: a larger box gets a coarser one
_BLUR_MM = 2.0  # of the image, so that organs are told apart and not noise
_EDGE = 1.0  # steps between neighbours, in units of the usual one, that count as an edge
_LEAST = 0.01  # what passes across the sharpest edge
_REACH_MM = 8.0  # how far a voxel is felt by others in even tissue
_DOUBT_MM = 20.0  # how far a stroke puts what was believed into doubt
_HELD = 2.0  # the most that labels may say, in log odds
_CLEAR = 3.0  # the most that values alone may say, in log odds
_STROKE = 60.0  # how many voxels a voxel of a stroke counts for in how things look
_ROUNDS = 3
_BINS = 64
_CERTAIN = 1e3  # how much more than a belief a stroke weighs
_TOLERANCE = 0.01  # of the pull of a belief, at which the solver may stop


def box_around(strokes: Box, shape: Sequence[int], spacing: Sequence[float]) -> Box:
    """The part of a volume of that shape that strokes in a box can change: `MARGIN_MM` around it.

    Raises
    ------
    InputError
        It is too large to be corrected at once.
    """
    margins = [math.ceil(MARGIN_MM / step) for step in spacing]
    z, y, x = (
        slice(max(0, part.start - margin), min(size, part.stop + margin))
        for part, margin, size in zip(strokes, margins, shape, strict=True)
    )
    if math.prod(part.stop - part.start for part in (z, y, x)) > _LARGEST:
        raise InputError("These strokes lie too far apart; correct one part of the volume at a time.")
    return z, y, x


def correct_from_strokes(
    image: Array,
    labels: Array,
    strokes: NDArray[np.integer[Any]],
    spacing: Sequence[float],
    *,
    fixed: Mask | None = None,
) -> Array:
    """Correct the labels of a box by the strokes in it.

    Parameters
    ----------
    image : (z, y, x), its values in any unit
    labels : unsigned integers of the same shape, as they were before the strokes
    strokes : integers of the same shape: an organ's label, `BACKGROUND`, or 0 for none
    spacing : mm along (z, y, x)
    fixed : bool of the same shape: voxels that keep their labels, strokes excepted

    Returns
    -------
    The labels of the box with strokes and what follows from them, of the type of `labels`.

    Raises
    ------
    InputError
        Shapes differ, or there is no stroke.
    """
    for array, what in ((labels, "labels"), (strokes, "strokes"), (fixed, "fixed voxels")):
        if array is not None and array.shape != image.shape:
            raise InputError(f"The {what} have shape {array.shape}, but the image has {image.shape}.")
    drawn = strokes != 0
    if not drawn.any():
        raise InputError("Paint a stroke of the organ, or of background, first.")
    kept = drawn.copy() if fixed is None else drawn | fixed
    result = np.where(drawn, np.maximum(strokes, 0), labels).astype(labels.dtype)
    values = np.unique(strokes[strokes > 0]).tolist()
    erased = np.unique(labels[strokes == BACKGROUND])
    organs = sorted({*values, *erased[erased > 0].tolist()})
    overwritten = {0, *np.unique(labels[strokes > 0]).tolist()}  # what organ strokes may take from
    grid = _Grid(image, drawn, spacing)
    best = np.full(image.shape, 0.5, np.float32)
    for organ in organs:
        here = labels == organ
        share = grid.walk(here, strokes == organ, drawn & (strokes != organ), kept, result == organ)
        gained = ~kept & ~here & np.isin(labels, list(overwritten)) & (share > best)
        gained = _touching(gained, strokes == organ)
        result[gained] = organ
        best[gained] = share[gained]
        lost = ~kept & here & (result == organ) & (share < 0.5)
        result[_touching(lost, (strokes == BACKGROUND) & here)] = 0
    return result


class _Grid:
    """A box on a grid coarse enough to solve on, with the edges of its image.

    Parameters
    ----------
    image, spacing
        As for `correct_from_strokes`.
    drawn
        Where there are strokes, around whose values the image's are told apart.
    """

    def __init__(self, image: Array, drawn: Mask, spacing: Sequence[float]) -> None:
        self._shape = image.shape
        step = (math.prod(spacing) * image.size / _NODES) ** (1 / 3)
        self._factors = tuple(
            max(1, min(size, round(step / width))) for size, width in zip(image.shape, spacing, strict=True)
        )
        self._steps = [width * factor for width, factor in zip(spacing, self._factors, strict=True)]
        values = np.nan_to_num(np.asarray(image, np.float32))
        # What lies far from all strokes is just different: bone and metal would make all else alike.
        low, high = np.percentile(values[drawn], (2, 98))
        spread = max(float(high - low), 4 * _noise(values), 1e-6)
        values = np.clip(values, low - 2 * spread, high + 2 * spread)
        coarse = self._reduced(values)
        sigma = [_BLUR_MM / width for width in self._steps]
        self._image = ndimage.gaussian_filter(coarse, sigma)
        self._noise = max(_noise(self._image), 1e-3 * spread)
        floor, ceiling = float(self._image.min()), float(self._image.max())
        scaled = (self._image - floor) / max(ceiling - floor, 1e-6) * (_BINS - 1)
        self._bins = np.rint(scaled).astype(np.intp)
        self._laplacian = self._edges()

    def walk(self, here: Mask, organ: Mask, other: Mask, kept: Mask, settled: Mask) -> Floats:
        """The share of walkers that reach the organ first, from 0 to 1, of the shape of the box.

        Parameters
        ----------
        here : where the organ was labelled
        organ, other : strokes of the organ, and of anything else
        kept, settled : voxels that do not change, and where they hold the organ
        """
        inside = self._reduced(here)
        adding, removing = self._reduced(organ), self._reduced(other)
        certain, target = self._reduced(kept), self._reduced(settled & kept)
        doubt = np.where(inside >= 0.5, self._near(removing), self._near(adding))
        share = np.where(certain > 0, target / np.maximum(certain, 1e-6), inside)
        sure = np.clip(inside, 1e-3, 1 - 1e-3)
        held = np.clip(np.log(sure / (1 - sure)), -_HELD, _HELD) * (1 - doubt)
        for _ in range(_ROUNDS):
            seen = self._appearance(share + _STROKE * adding, 1 - share + _STROKE * removing)
            prior = 1 / (1 + np.exp(-held - doubt * seen))
            weight = (0.05 + np.abs(2 * prior - 1)) * (1 - certain)  # unsure voxels follow their neighbours
            start = np.where(certain > 0, share, prior).astype(np.float32)
            pull = (weight + _CERTAIN * certain) / _REACH_MM**2
            share = self._solved(pull, (weight * prior + _CERTAIN * target) / _REACH_MM**2, start)
        return self._enlarged(share)

    def _solved(self, pull: Floats, towards: Floats, start: Floats) -> Floats:
        matrix = (self._laplacian + sparse.diags(pull.ravel().astype(np.float32))).astype(np.float32)
        preconditioner = sparse.diags((1 / matrix.diagonal()).astype(np.float32))
        # Not relative to the right side, whose seeds are a thousand times what tells all other voxels apart.
        enough = _TOLERANCE * math.sqrt(pull.size) / _REACH_MM**2
        found, _ = cg(
            matrix, towards.ravel(), x0=start.ravel(), rtol=0, atol=enough, maxiter=100, M=preconditioner
        )
        shares: Floats = np.clip(found, 0, 1).reshape(pull.shape).astype(np.float32)
        return shares

    def _near(self, strokes: Floats) -> Floats:
        """How much a stroke puts into doubt what was believed, from 1 at the stroke to 0 far away."""
        if not strokes.any():
            return np.zeros(strokes.shape, np.float32)
        distance = ndimage.distance_transform_edt(strokes == 0, sampling=self._steps)
        return np.exp(-0.5 * (distance / _DOUBT_MM) ** 2).astype(np.float32)

    def _appearance(self, organ: Floats, rest: Floats) -> Floats:
        """Log of how much likelier the values are in the organ than in the rest, as both look in this box."""
        sums = [np.bincount(self._bins.ravel(), part.ravel(), _BINS) for part in (organ, rest)]
        smooth = [ndimage.gaussian_filter1d(part, 1.5, mode="nearest") for part in sums]
        shares = [part / max(part.sum(), 1e-6) + 0.01 / _BINS for part in smooth]
        ratio = np.clip(np.log(shares[0] / shares[1]), -_CLEAR, _CLEAR).astype(np.float32)
        return np.asarray(ratio[self._bins], np.float32)

    def _edges(self) -> Any:
        """The graph's Laplacian, in 1/mm²: neighbours share a face, and part at edges of the image."""
        size = self._image.size
        at = np.arange(size).reshape(self._image.shape)
        rows, columns, weights = [], [], []
        for axis, width in enumerate(self._steps):
            first, second = _pairs(self._image, axis)
            passing = np.exp(-0.5 * ((first - second) / (_EDGE * self._noise)) ** 2)
            a, b = _pairs(at, axis)
            rows.append(a.ravel())
            columns.append(b.ravel())
            weights.append(np.maximum(passing, _LEAST).ravel() / width**2)
        row, column, weight = (np.concatenate(part) for part in (rows, columns, weights))
        adjacency = sparse.coo_matrix((weight, (row, column)), (size, size)).tocsr()
        adjacency = adjacency + adjacency.T
        return sparse.diags(np.asarray(adjacency.sum(axis=1)).ravel()) - adjacency

    def _reduced(self, values: Array) -> Floats:
        """Means of blocks; a block at the far end is filled up with the last values."""
        values = np.asarray(values, np.float32)
        for axis, factor in enumerate(self._factors):
            if factor > 1:
                pad = [(0, 0)] * 3
                pad[axis] = (0, -values.shape[axis] % factor)
                values = np.pad(values, pad, mode="edge")
                shape = list(values.shape)
                shape[axis : axis + 1] = [shape[axis] // factor, factor]
                values = values.reshape(shape).mean(axis=axis + 1)
        return values

    def _enlarged(self, values: Floats) -> Floats:
        """Back to the box, linear between the centres of blocks."""
        for axis, (factor, size) in enumerate(zip(self._factors, self._shape, strict=True)):
            if factor > 1:
                at = np.clip((np.arange(size) + 0.5) / factor - 0.5, 0, values.shape[axis] - 1)
                low = np.minimum(at.astype(np.intp), max(0, values.shape[axis] - 2))
                high = np.minimum(low + 1, values.shape[axis] - 1)
                along = [1, 1, 1]
                along[axis] = size
                share = (at - low).astype(np.float32).reshape(along)
                values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
        return values


def _pairs(values: Array, axis: int) -> tuple[Array, Array]:
    """Each voxel but the last along an axis, and the one after it."""
    along = np.moveaxis(values, axis, 0)
    return np.moveaxis(along[:-1], 0, axis), np.moveaxis(along[1:], 0, axis)


def _noise(values: Array) -> float:
    """The usual step between neighbours, by which edges are told from noise."""
    steps = [np.abs(second - first) for first, second in (_pairs(values, axis) for axis in range(3))]
    usual = [float(np.median(step)) for step in steps if step.size]
    return 1.4826 * max(usual, default=0.0)


def _touching(changes: Mask, strokes: Mask) -> Mask:
    """Those changes that are in one piece with a stroke."""
    if not strokes.any():
        return np.zeros(changes.shape, np.bool_)
    found: Mask = ndimage.binary_propagation(strokes & (changes | strokes), mask=changes | strokes)
    return found & changes
