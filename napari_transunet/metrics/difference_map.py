"""Where two label volumes of one scan differ, and how much: scores, a map, and the worst slices."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_transunet.errors import InputError
from napari_transunet.metrics.label_pairs import pair_labels, unknown_voxels
from napari_transunet.metrics.segmentation_metrics import evaluate, mean_scores
from napari_transunet.volumes.label_values import UNKNOWN

ONLY_HERE, ONLY_THERE, ANOTHER_ORGAN = 1, 2, 3
KINDS: Mapping[int, str] = {
    ONLY_HERE: "only in these labels",
    ONLY_THERE: "only in the other",
    ANOTHER_ORGAN: "another organ",
}
"""What the values of a disagreement map mean."""


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Two label volumes compared.

    Attributes
    ----------
    scores : as `evaluate` gives them, by label.
    means : their means over labels.
    map : uint8 (z, y, x): 0 where both agree, else a key of `KINDS`.
    per_slice_mm2 : area in which they differ, for each slice along the axis that was asked for.
    """

    scores: dict[int, dict[str, float]]
    means: dict[str, float]
    map: NDArray[np.uint8]
    per_slice_mm2: NDArray[np.float64]

    def worst_slices(self, count: int = 10) -> list[tuple[int, float]]:
        """(slice, mm² that differ), the worst first; slices that agree are left out."""
        order = np.argsort(-self.per_slice_mm2, kind="stable")[:count]
        return [(int(at), float(self.per_slice_mm2[at])) for at in order if self.per_slice_mm2[at] > 0]


def disagree(
    labels: NDArray[Any],
    reference: NDArray[Any],
    spacing: Sequence[float],
    *,
    organs: Collection[int] | None = None,
    tolerance_mm: float = 2.0,
    axis: int = 0,
) -> Disagreement:
    """Compare labels with a reference on the same grid; spacing in mm along (z, y, x), slices along the array's `axis`.

    `organs` are the labels that the reference knows, also where it shows none of them; those that it does not know are
    neither scored nor part of the map. None: all that occur.

    Raises
    ------
    InputError
        They are not on one grid, or hold no labels.
    """
    if organs is not None:
        labels = np.where(np.isin(labels, sorted(organs)), labels, 0)
        reference = np.where(np.isin(reference, sorted(organs)), reference, 0)
    scores = evaluate(labels, reference, spacing=spacing, labels_to_score=organs, tolerance_mm=tolerance_mm)
    differs = np.zeros(labels.shape, np.uint8)
    differs[(labels != 0) & (reference == 0)] = ONLY_HERE
    differs[(labels == 0) & (reference != 0)] = ONLY_THERE
    differs[(labels != 0) & (reference != 0) & (labels != reference)] = ANOTHER_ORGAN
    area = math.prod(size for at, size in enumerate(spacing) if at != axis)
    per_slice = np.array(
        [np.count_nonzero(plane) * area for plane in np.moveaxis(differs, axis, 0)], np.float64
    )
    return Disagreement(scores, mean_scores(scores), differs, per_slice)


@dataclass(frozen=True)
class Matching:
    """Which organ each label of a reference stands for.

    Attributes
    ----------
    organs : reference value -> value of the labels; None where it stands for none of them and is left out.
    by : how they were matched: "name"; "number", of one at least, for want of a name; or "person".
    """

    organs: Mapping[int, int | None]
    by: Literal["name", "number", "person"]

    @property
    def known(self) -> frozenset[int]:
        """The labels that the reference knows."""
        return frozenset(value for value in self.organs.values() if value is not None)


def match_labels(
    names: Mapping[int, str], reference_names: Mapping[int, str], present: Iterable[int]
) -> Matching:
    """Match a reference's labels as `pair_labels` does; `present` are the values that occur in the reference."""
    values = sorted({*reference_names, *present} - {0})
    pairs = [pair for pair in pair_labels(names, values, names, reference_names).pairs if pair.by is not None]
    organs = {pair.reference: pair.prediction[0] for pair in pairs}
    by_number = any(pair.by == "number" for pair in pairs) or not reference_names
    return Matching({value: organs.get(value) for value in values}, "number" if by_number else "name")


def without_unknown(
    labels: NDArray[Any], reference: NDArray[Any], names: Mapping[int, str], matching: Matching
) -> bool:
    """Empty both where the reference says that nobody knows what is there; whether it says so anywhere.

    `names` are those of its values. What a person takes for an organ is one.
    """
    known = names if matching.organs.get(UNKNOWN) is None else {**names, UNKNOWN: ""}
    if (hidden := unknown_voxels(reference, known)) is None:
        return False
    labels[hidden] = reference[hidden] = 0
    return True


def renumber(reference: NDArray[Any], matching: Matching) -> NDArray[Any]:
    """The reference with the numbers of the labels that its own stand for; those that stand for none become 0.

    Raises
    ------
    InputError
        It holds values that no label has.
    """
    highest = int(reference.max()) if reference.size else 0
    if highest > 65535 or (reference.size and reference.min() < 0):
        raise InputError("Labels must be from 0 to 65535 to be compared.")
    table = np.zeros(highest + 1, np.uint16)
    for value, other in matching.organs.items():
        if value <= highest and other is not None:
            table[value] = other
    renumbered: NDArray[Any] = table[reference]
    return renumbered
