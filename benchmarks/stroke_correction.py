"""How far two strokes correct a damaged organ, and how long that takes: `python benchmarks/stroke_correction.py DATA`.

On TotalSegmentator s0009, for each organ: a part of it is left out and gets a short stroke in each of two slices, or
what lies within 25 mm of another organ is given to it and gets two strokes of background.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_transunet.annotation.stroke_correction import BACKGROUND, box_around, correct_from_strokes
from napari_transunet.io.reading import read_volume

ORGANS = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    5: "liver",
    6: "stomach",
    7: "pancreas",
    8: "aorta",
}
NEAR_MM = 25.0


def main() -> None:
    """Print a line for each damage: Dice before and after, and seconds of this machine's clock and processor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    folder = parser.parse_args().data / "ct_abdomen_more"
    image = read_volume(folder / "images" / "ts_s0009.nii.gz")
    reference = read_volume(folder / "labels" / "ts_s0009.nii.gz").data
    spacing = image.geometry.spacing
    sys.stdout.write("organ          damage            before  strokes  after   s    s of processor\n")
    for organ, name in ORGANS.items():
        mask = reference == organ
        for damage, wrong, value in _damages(reference, mask, spacing):
            labels = np.where(wrong, organ if value == BACKGROUND else 0, reference).astype(reference.dtype)
            strokes = _strokes(wrong, organ if value != BACKGROUND else value)
            painted = np.where(strokes != 0, np.maximum(strokes, 0), labels)
            z, y, x = ndimage.find_objects((strokes != 0).view(np.uint8))[0]
            box = box_around((z, y, x), labels.shape, spacing)
            clock, processor = time.perf_counter(), time.process_time()
            fixed = labels.copy()
            fixed[box] = correct_from_strokes(image.data[box], labels[box], strokes[box], spacing)
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
            scores = [_dice(found == organ, mask) for found in (labels, painted, fixed)]
            row = "  ".join(f"{score:6.3f}" for score in scores)
            sys.stdout.write(f"{name:14} {damage:16} {row}  {clock:5.2f}  {processor:5.2f}\n")


def _damages(reference: NDArray[Any], mask: NDArray[Any], spacing: Any) -> Any:
    """Name, what is wrong, and `BACKGROUND` where it has to be taken away."""
    for axis, share, name in (
        (0, 0.55, "45 % missing"),
        (2, 0.55, "45 % missing, x"),
        (0, 0.9, "10 % missing"),
    ):
        along = np.arange(mask.shape[axis]).reshape([-1 if at == axis else 1 for at in range(3)])
        missing = mask & (along > np.quantile(np.nonzero(mask)[axis], share))
        if np.count_nonzero(missing) > 200:
            yield name, missing, 0
    near = (ndimage.distance_transform_edt(~mask, sampling=spacing) < NEAR_MM) & ~mask
    largest = int(np.argmax(np.bincount(reference[near], minlength=2)[1:])) + 1
    leak = near & (reference == largest)
    if np.count_nonzero(leak) > 200:
        yield f"takes {ORGANS.get(largest, largest)}"[:16], leak, BACKGROUND


def _strokes(wrong: NDArray[Any], value: int) -> NDArray[np.int16]:
    """A stroke of 21 by 3 voxels at most in each of two slices, through the deepest voxel."""
    strokes = np.zeros(wrong.shape, np.int16)
    areas = wrong.sum(axis=(1, 2))
    slices = np.flatnonzero(areas > areas.max() / 4)
    for index in slices[[len(slices) // 4, 3 * len(slices) // 4]]:
        depth = ndimage.distance_transform_edt(wrong[index])
        row, column = np.unravel_index(np.argmax(depth), depth.shape)
        line = np.zeros(wrong.shape[1:], np.bool_)
        line[row - 1 : row + 2, max(0, column - 10) : column + 11] = True
        strokes[index][line & wrong[index]] = value
    return strokes


def _dice(first: NDArray[Any], second: NDArray[Any]) -> float:
    return 2 * int((first & second).sum()) / max(1, int(first.sum()) + int(second.sum()))


if __name__ == "__main__":
    main()
