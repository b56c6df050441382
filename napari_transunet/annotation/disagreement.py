"""Where two label volumes of one scan differ, and how much: scores, a map, and the worst slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.comparing import evaluate, mean_scores
from napari_transunet.errors import InputError

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
    per_slice_mm2 : area in which they differ, for each slice along axis 0.
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
    labels: NDArray[Any], reference: NDArray[Any], spacing: Sequence[float], *, tolerance_mm: float = 2.0
) -> Disagreement:
    """Compare labels with a reference on the same grid; spacing in mm along (z, y, x).

    Raises
    ------
    InputError
        They are not on one grid, or hold no labels.
    """
    scores = evaluate(labels, reference, spacing=spacing, tolerance_mm=tolerance_mm)
    differs = np.zeros(labels.shape, np.uint8)
    differs[(labels != 0) & (reference == 0)] = ONLY_HERE
    differs[(labels == 0) & (reference != 0)] = ONLY_THERE
    differs[(labels != 0) & (reference != 0) & (labels != reference)] = ANOTHER_ORGAN
    area = math.prod(spacing[1:])
    per_slice = np.array([np.count_nonzero(plane) * area for plane in differs], np.float64)
    return Disagreement(scores, mean_scores(scores), differs, per_slice)


def match_by_name(
    names: Mapping[int, str], reference: NDArray[Any], reference_names: Mapping[int, str]
) -> NDArray[Any]:
    """The reference with the numbers that the labels have for the same names; its other labels become 0.

    Where no name is shared, or the reference has no names, it is taken as it is: the numbers are then all there is.
    """
    own = {_plain(name): value for value, name in names.items()}
    pairs = {value: own[_plain(name)] for value, name in reference_names.items() if _plain(name) in own}
    if not pairs or all(value == other for value, other in pairs.items()):
        return reference
    highest = int(reference.max()) if reference.size else 0
    if highest > 65535 or (reference.size and reference.min() < 0):
        raise InputError("Labels must be from 0 to 65535 to be compared.")
    table = np.zeros(highest + 1, np.uint16)
    for value, other in pairs.items():
        if value <= highest:
            table[value] = other
    matched: NDArray[Any] = table[reference]
    return matched


def _plain(name: str) -> tuple[str, ...]:
    """A name free of its spelling: its words in lower case, sorted."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return tuple(sorted({"l": "left", "r": "right"}.get(word, word) for word in words))
