"""Slices in which an organ cannot be, though nobody said so: those beyond its ends."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_BRIDGED = np.ones((5, 3, 3), np.bool_)
"""Within how many slices, rows and columns parts count as one."""

_MARGIN = 15.0  # mm beyond an organ's ends that it may reach yet


def absent_organs(
    labels: npt.NDArray[np.uint8],
    vouched: npt.NDArray[np.bool_],
    positions: npt.NDArray[np.floating],
    organs: Collection[int],
    num_classes: int,
) -> npt.NDArray[np.bool_]:
    """(n, classes): which organs are known not to be in which slice; all false where that cannot be told.

    An organ is in one piece if at least two vouched slices show it and all that do show the same connected part. Then
    it is not more than a margin beyond that part's ends, wherever a network finds it there.

    Parameters
    ----------
    labels : (n, H, W) slices in their order, as somebody put them right or as the network labels them
    vouched : (n,) which slices somebody put right
    positions : (n,) mm along the slices' axis
    organs : the classes that are vouched for
    num_classes : with the background
    """
    absent = np.zeros((len(labels), num_classes), np.bool_)
    for organ in organs:
        mask = labels == organ
        parts, _ = ndimage.label(ndimage.binary_dilation(mask, _BRIDGED), np.ones((3, 3, 3)))
        shown = mask & vouched[:, None, None]
        seen = np.unique(parts[shown])
        if len(seen) != 1 or np.count_nonzero(shown.any((1, 2))) < 2:
            continue
        within = positions[(mask & (parts == seen[0])).any((1, 2))]
        absent[:, organ] = (positions < within.min() - _MARGIN) | (positions > within.max() + _MARGIN)
    return absent
