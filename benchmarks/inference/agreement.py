"""How far two ways of segmenting one volume agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Agreement:
    """Labels beside those of another way.

    Attributes
    ----------
    reference : name of the way compared with
    equal : share of voxels with the same label, of all voxels
    worst_dice : the least Dice of the organs that either has; None where there is none
    worst_organ : its name
    worst_voxels : its voxels in the reference; of a handful, one or two decide
    """

    reference: str
    equal: float
    worst_dice: float | None
    worst_organ: str | None
    worst_voxels: int | None


def agreement(
    labels: npt.NDArray[Any], reference: npt.NDArray[Any], name: str, organs: dict[int, str]
) -> Agreement:
    """Compare two label volumes of one shape.

    Parameters
    ----------
    labels, reference : whole numbers from 0 up, 0 for background
    name : what the reference is called
    organs : names of the label values
    """
    classes = int(max(labels.max(), reference.max())) + 1
    own, wanted = (np.bincount(array.ravel(), minlength=classes) for array in (labels, reference))
    same = labels == reference
    both = np.bincount(reference[same].ravel(), minlength=classes)
    sums = own + wanted
    dice = {value: float(2 * both[value] / sums[value]) for value in range(1, classes) if sums[value]}
    equal = float(same.mean())
    if not dice:
        return Agreement(name, equal, None, None, None)
    worst = min(dice, key=lambda value: dice[value])
    return Agreement(name, equal, dice[worst], organs.get(worst, f"class {worst}"), int(wanted[worst]))
