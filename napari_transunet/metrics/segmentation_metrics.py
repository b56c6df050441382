"""How well two label volumes of one scan agree: overlap, surface distances in mm, volumes in mL.

`metrics/summary.py` sums such scores up over many scans.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.errors import InputError, VolumeError
from napari_transunet.metrics.label_pairs import LabelPair, pair_labels
from napari_transunet.volumes.boxes import bounding_box
from napari_transunet.volumes.geometry import voxel_ml
from napari_transunet.volumes.label_values import whole_number, whole_numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Mask = NDArray[np.bool_]

AGREEMENT = ("dice", "hd95", "asd", "nsd")
"""The keys of the scores that tell agreement; the volumes follow them."""

METRICS = (*AGREEMENT, "volume_ml", "reference_ml", "volume_difference_ml")
"""The keys of every label's scores, in the order in which tables show them."""

_TOLERANCE_ROUNDING = 1e-6  # a distance of exactly the tolerance may be computed to lie above it
_VOXELS = (1.0, 1.0, 1.0)


def evaluate(
    labels: ArrayLike,
    reference: ArrayLike,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    labels_to_score: Iterable[int] | None = None,
    tolerance_mm: float = 2.0,
    published_scoring: bool = False,
    match: Mapping[int, int] | Sequence[LabelPair] | None = None,
) -> dict[int, dict[str, float]]:
    """Score a label volume against a reference, label by label.

    The surface of a label is its voxels with a face neighbour (or the volume's border) outside of it, in an image of
    one slice its outline; distances run between the centres of surface voxels, both ways.

    Parameters
    ----------
    labels, reference
        (z, y, x) arrays of whole numbers on one grid.
    spacing
        Voxel size in mm along (z, y, x).
    labels_to_score
        The label values to score; all but 0 that occur in either volume when None.
    tolerance_mm
        Up to this distance in mm a surface voxel counts as right in `nsd`.
    published_scoring
        Score as the published TransUNet code does, to compare with numbers made by it and for nothing else; see
        `published_agreement`. ``hd95`` is then in voxels, whatever the spacing, and ``asd`` and ``nsd`` are NaN.
    match
        Which label of `labels` is which of the reference, where their numbers differ: ``{5: 1}``, or what
        `pair_labels` found by name. Labels that a mapping does not have are compared by number.

    Returns
    -------
    dict
        One entry a label of the reference, in ascending order (and one for each that it lacks, see
        `LabelPair.label`), with

        - ``dice``: 2 |A ∩ B| / (|A| + |B|), from 0 to 1;
        - ``hd95``: the greater of the 95th percentiles of the two directed surface distances, in mm;
        - ``asd``: the mean of all surface distances of both directions, in mm;
        - ``nsd``: the share of surface voxels of both that lie within the tolerance of the other (normalised surface
          Dice, Nikolov et al., arXiv 1809.04430, with voxels counted instead of their areas), from 0 to 1;
        - ``volume_ml``, ``reference_ml``: the two volumes; ``volume_difference_ml``: the first less the second.

        A label absent from both volumes has NaN in the first four; one absent from a single volume has
        Dice and NSD 0 and infinite distances.

    Raises
    ------
    InputError
        The arrays have different shapes, are not 3D or do not hold whole numbers; the spacing or the tolerance
        is not usable.
    """
    first, second = _label_array(labels, "labels"), _label_array(reference, "reference")
    if first.shape != second.shape:
        raise InputError(
            f"The labels have the shape {first.shape} and the reference {second.shape}; "
            "both must lie on the same grid."
        )
    sizes = _spacing(spacing)
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise InputError(f"The tolerance must be a number of mm from 0 up, not {tolerance_mm}.")
    if match is None or isinstance(match, Mapping):
        found = (np.unique(first).tolist(), np.unique(second).tolist())
        match = pair_labels(
            *found, match={_label(own): _label(other) for own, other in (match or {}).items()}
        ).pairs
    known = {pair.label: pair for pair in match}
    if labels_to_score is None:
        pairs = {label: pair for label, pair in known.items() if pair.occurs}
    else:
        wanted = sorted({_label(value) for value in labels_to_score})
        pairs = {value: known.get(value, LabelPair(value, (), value)) for value in wanted}
    scores = {}
    for value, pair in pairs.items():
        mask = _mask(first, pair.prediction)
        other = _mask(second, () if pair.reference is None else (pair.reference,))
        agreement = (
            published_agreement(mask, other)
            if published_scoring
            else _agreement(mask, other, sizes, tolerance_mm)
        )
        scores[value] = agreement | _volumes(mask, other, sizes)
    return scores


def _mask(labels: NDArray[Any], values: Sequence[int]) -> Mask:
    """Where one of these values is."""
    mask: Mask = labels == values[0] if len(values) == 1 else np.isin(labels, values)
    return mask


def absent_scores(*, published_scoring: bool = False) -> dict[str, float]:
    """What `evaluate` says of a label that neither volume holds."""
    nothing = np.zeros((1, 1, 1), np.bool_)
    agreement = (
        published_agreement(nothing, nothing) if published_scoring else dict.fromkeys(AGREEMENT, math.nan)
    )
    return agreement | _volumes(nothing, nothing, _VOXELS)


def mean_scores(scores: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """The mean over labels of `dice`, `hd95`, `asd` and `nsd`; labels with NaN are left out, infinity is kept.

    A metric that no label has is NaN.
    """
    means: dict[str, float] = {}
    for metric in AGREEMENT:
        values = [score[metric] for score in scores.values() if not math.isnan(score[metric])]
        means[metric] = float(np.mean(values)) if values else math.nan
    return means


def published_agreement(mask: Mask, reference: Mask) -> dict[str, float]:
    """Dice and HD95 as the code published with the TransUNet paper finds them, quirks included.

    Follows `calculate_metric_percase` in that code's utils.py, where both masks hold the label: the Dice of `evaluate`,
    and medpy's `hd95`, the 95th percentile of the surface distances of both directions taken together, called without
    a voxel size, so in voxels. Elsewhere its numbers say little: a label that only the prediction holds has Dice 1 and
    HD95 0, one that the prediction lacks Dice 0 and HD95 0, also where the reference lacks it too.

    Both masks are (z, y, x) booleans on one grid. ``asd`` and ``nsd``, which that code does not know, are NaN.
    """
    voxels, reference_voxels = int(np.count_nonzero(mask)), int(np.count_nonzero(reference))
    dice, hd95 = (1.0 if voxels else 0.0), 0.0
    if voxels and reference_voxels:
        dice = _dice(mask, reference)
        hd95 = float(np.percentile(np.concatenate(surface_distances(mask, reference, _VOXELS)), 95))
    return {"dice": dice, "hd95": hd95, "asd": math.nan, "nsd": math.nan}


def _agreement(mask: Mask, reference: Mask, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    in_mask, in_reference = bool(mask.any()), bool(reference.any())
    if in_mask and in_reference:
        return {"dice": _dice(mask, reference), **_surface_scores(mask, reference, spacing, tolerance)}
    if in_mask or in_reference:
        return {"dice": 0.0, "hd95": math.inf, "asd": math.inf, "nsd": 0.0}
    return dict.fromkeys(AGREEMENT, math.nan)


def _dice(mask: Mask, reference: Mask) -> float:
    shared = int(np.count_nonzero(mask & reference))
    return 2 * shared / (int(np.count_nonzero(mask)) + int(np.count_nonzero(reference)))


def _volumes(mask: Mask, reference: Mask, spacing: tuple[float, ...]) -> dict[str, float]:
    voxels, reference_voxels = int(np.count_nonzero(mask)), int(np.count_nonzero(reference))
    one = voxel_ml(spacing)
    return {
        "volume_ml": voxels * one,
        "reference_ml": reference_voxels * one,
        "volume_difference_ml": (voxels - reference_voxels) * one,
    }


def _surface_scores(
    mask: Mask, reference: Mask, spacing: tuple[float, ...], tolerance: float
) -> dict[str, float]:
    forth, back = surface_distances(mask, reference, spacing)
    limit = tolerance * (1 + _TOLERANCE_ROUNDING)
    near = np.count_nonzero(forth <= limit) + np.count_nonzero(back <= limit)
    return {
        "hd95": float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        "asd": float((forth.sum() + back.sum()) / (forth.size + back.size)),
        "nsd": float(near / (forth.size + back.size)),
    }


def surface_distances(
    mask: Mask, reference: Mask, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each surface voxel of one mask to the nearest of the other, and back.

    Both masks are (z, y, x) booleans, neither empty; `spacing` is in mm along the same axes.
    """
    from scipy import ndimage
    from scipy.spatial import KDTree

    box = bounding_box(mask | reference)
    assert box is not None  # neither is empty
    # What lies beyond an array counts as background, so that a label has a surface at the volume's border; but not
    # across the only slice of an image, all of whose pixels would be surface.
    neighbours = ndimage.generate_binary_structure(3, 1)
    if mask.shape.count(1) == 1:
        np.moveaxis(neighbours, mask.shape.index(1), 0)[[0, 2]] = False
    first, second = (
        np.argwhere(one & ~ndimage.binary_erosion(one, neighbours)) * np.asarray(spacing, np.float64)
        for one in (mask[box], reference[box])
    )
    forth, back = KDTree(second).query(first)[0], KDTree(first).query(second)[0]
    return np.asarray(forth, np.float64), np.asarray(back, np.float64)


def _label(value: Any) -> int:
    return whole_number(value, "A label to score")


def _label_array(values: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 3:
        raise InputError(f"The {name} must be a (z, y, x) volume, not an array of the shape {array.shape}.")
    try:
        return whole_numbers(array)
    except VolumeError as error:
        raise InputError(f"The {name} cannot be scored: {error}") from error


def _spacing(spacing: Sequence[float]) -> tuple[float, ...]:
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != 3 or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise InputError(f"The spacing must be three positive numbers of mm along (z, y, x), not {sizes}.")
    return sizes
