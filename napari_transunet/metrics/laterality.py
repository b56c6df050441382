"""Whether organs lie on the sides that their names say, by the scan's own orientation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.labels import parted

_CLEAR = 10.0  # mm; organs may reach across the middle, their centres do not do so by much
_MIDDLE = ("aorta", "inferior vena cava", "spinal cord", "vertebrae")


def side_warnings(labels: NDArray[Any], geometry: Geometry, names: Mapping[int, str]) -> list[str]:
    """A sentence for every pair whose sides contradict the scan's orientation; none where all is well.

    Left and right of a pair are compared with each other; a single one of a pair, with an organ of the middle; and
    the liver with the spleen, which tell whether the orientation itself can be right. `labels` is (z, y, x).
    """
    lefts = _left_positions(labels, geometry, names)
    found = []
    for base in sorted({base for base, side in lefts if side}):
        left, right = lefts.get((base, "left")), lefts.get((base, "right"))
        if left is not None and right is not None and left < right:
            found.append(
                f"“{base} left” lies on the patient's right and “{base} right” on the left: the two labels are "
                "swapped, or the scan's orientation is wrong."
            )
            continue
        middle = next((lefts[name, ""] for name in _MIDDLE if (name, "") in lefts), None)
        if middle is None or (left is not None and right is not None):
            continue
        if left is not None and left < middle - _CLEAR:
            found.append(f"“{base} left” lies on the patient's right side; is it the right one?")
        if right is not None and right > middle + _CLEAR:
            found.append(f"“{base} right” lies on the patient's left side; is it the left one?")
    liver, spleen = lefts.get(("liver", "")), lefts.get(("spleen", ""))
    if liver is not None and spleen is not None and liver > spleen + _CLEAR:
        found.append(
            "The liver lies on the patient's left and the spleen on the right: unless the organs are mirrored in this "
            "patient, the scan's orientation is wrong."
        )
    return found


def _left_positions(
    labels: NDArray[Any], geometry: Geometry, names: Mapping[int, str]
) -> dict[tuple[str, str], float]:
    """(organ, "left" | "right" | "") -> mm towards the patient's left, of the centres of the organs that occur."""
    size = max(names, default=0) + 1
    counts = np.zeros(size, np.int64)
    sums = np.zeros((3, size))
    _, y, x = labels.shape
    columns = np.tile(np.arange(x, dtype=np.float64), y)
    rows = np.repeat(np.arange(y, dtype=np.float64), x)
    for index, plane in enumerate(labels):
        flat = np.where((plane > 0) & (plane < size), plane, 0).ravel()
        if not flat.any():
            continue
        here = np.bincount(flat, minlength=size)
        counts += here
        sums[2] += here * index
        sums[1] += np.bincount(flat, rows, size)
        sums[0] += np.bincount(flat, columns, size)
    positions = {}
    for value, name in names.items():
        if value and counts[value]:
            centre = sums[:, value] / counts[value]  # of x, y, z
            left = geometry.origin[0] + float(
                np.asarray(geometry.direction[0]) @ (centre * np.asarray(geometry.spacing[::-1]))
            )
            positions[parted(name)] = left
    return positions
