"""From the positions of single slices to the grid of a volume, or the reason why there is none."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.volumes.geometry import Geometry, nearest_grid

# Two slices nearer than this along the normal lie at the same position: mm, or this share of a small pixel.
_SAME_POSITION, _SAME_SHARE = 1e-3, 0.02
# A gap may differ from the usual one by this share of it (scanners round positions), or by this many mm, but never by
# so large a share that a missing slice would pass.
_GAP_TOLERANCE, _GAP_ROUNDING, _GAP_MOST = 0.01, 0.01 + 1e-6, 0.4
# In-plane drift of a whole stack that counts as rounding: mm, and mm per mm of stack length.
_DRIFT_ROUNDING, _DRIFT_TOLERANCE = 0.01, 1e-3
# Largest difference between direction cosines of slices that lie parallel.
_PARALLEL = 1e-3


@dataclass(frozen=True)
class Slice:
    """One image of a stack.

    Attributes
    ----------
    position : LPS mm of the centre of its first pixel.
    row, column : unit vectors along a row (index x) and down a column (index y).
    spacing : mm between rows (y) and between columns (x).
    size : (rows, columns).
    name : how to call it in a message.
    thickness : mm, for a stack of one.
    order : what tells images at the same position apart, e.g. (time, number).
    details : the same in words, e.g. ("acquisition 1", "echo time 4.6 ms"); as many for each image of a stack.
    unordered : why `order` cannot be relied on, as a sentence; None where it can.
    kind : what images of one volume have in common, e.g. ("echo time 4.6 ms", "ORIGINAL PRIMARY WATER").
    """

    position: tuple[float, float, float]
    row: tuple[float, float, float]
    column: tuple[float, float, float]
    spacing: tuple[float, float]
    size: tuple[int, int]
    name: str
    thickness: float | None = None
    order: tuple[float | str, ...] = ()
    details: tuple[str, ...] = ()
    unordered: str | None = None
    kind: tuple[str, ...] = ()

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit vector across the slice, so that (row, column, normal) is right-handed."""
        return np.cross(self.row, self.column)


def stack(slices: Sequence[Slice], time: int | None = None) -> tuple[list[int], Geometry, tuple[str, ...]]:
    """The order of the slices along their normal, and the grid they make.

    Parameters
    ----------
    slices : in any order.
    time : which image to take where every position has the same number of them.

    Returns
    -------
    The indices into `slices`, the geometry, and what was assumed, a sentence each.

    Raises
    ------
    VolumeError
        The slices differ in size, pixel spacing or orientation; repeat a position; have uneven gaps; or are
        shifted sideways (gantry tilt). The text says where.
    """
    if not slices:
        raise VolumeError("it holds no images with a position in the patient.")
    first = slices[0]
    _check_alike(slices)
    normal = first.normal / np.linalg.norm(first.normal)
    depths = np.array([np.dot(one.position, normal) for one in slices])
    positions = _by_position(depths, same_position(first.spacing))
    chosen = _one_per_position(slices, positions, depths, time)
    depths = depths[chosen]
    ordered = [slices[index] for index in chosen]
    spacing = _slice_spacing(ordered, depths, normal)
    # Cosines are often rounded, to three digits or so. That makes them no unit vectors, but pixels no smaller.
    axes = [np.asarray(one) / np.linalg.norm(one) for one in (first.row, first.column)]
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(
        [axes[0] * first.spacing[1], axes[1] * first.spacing[0], normal * spacing]
    )
    affine[:3, 3] = ordered[0].position
    geometry, note = nearest_grid(affine, (len(ordered), *first.size))
    return chosen, geometry, (note,) if note else ()


def _check_alike(slices: Sequence[Slice]) -> None:
    first = slices[0]
    directions: list[tuple[Slice, int]] = []
    for one in slices:
        for number, (other, count) in enumerate(directions):
            if np.abs(np.subtract(one.row + one.column, other.row + other.column)).max() <= _PARALLEL:
                directions[number] = (other, count + 1)
                break
        else:
            directions.append((one, 1))
    if len(directions) > 1:
        groups = ", ".join(f"{count} like {other.name}" for other, count in directions[:4])
        raise VolumeError(
            f"its slices lie in {len(directions)} different orientations ({groups}), so they are no single volume;"
            " put each orientation into a folder of its own."
        )
    for one in slices:
        if one.size != first.size:
            raise VolumeError(
                f"its slices differ in size ({first.name} has {first.size[0]}x{first.size[1]} pixels, {one.name}"
                f" {one.size[0]}x{one.size[1]}), so they are no single volume."
            )
        if np.abs(np.subtract(one.spacing, first.spacing)).max() > 1e-3 * min(first.spacing):
            raise VolumeError(
                f"its slices differ in pixel spacing ({first.name} has {first.spacing} mm, {one.name}"
                f" {one.spacing} mm), so they are no single volume."
            )


def same_position(spacing: tuple[float, float]) -> float:
    """Within how many mm along the normal slices lie at the same position; `spacing` is that of their pixels."""
    return min(_SAME_POSITION, _SAME_SHARE * min(spacing))


def _by_position(depths: npt.NDArray[np.float64], same: float) -> list[list[int]]:
    """Indices of the slices at each position, positions in ascending order."""
    groups: list[list[int]] = []
    last = -math.inf
    for index in np.argsort(depths, kind="stable"):
        if depths[index] - last > same:
            groups.append([])
            last = depths[index]
        groups[-1].append(int(index))
    return groups


def _one_per_position(
    slices: Sequence[Slice], positions: list[list[int]], depths: npt.NDArray[np.float64], time: int | None
) -> list[int]:
    counts = {len(group) for group in positions}
    if len(positions) == 1 and counts != {1}:
        raise VolumeError(
            f"all {len(slices)} images lie at the same position, so they are a series in time and not a volume."
        )
    if len(counts) > 1:
        usual = min(counts)
        extra = next(group for group in positions if len(group) != usual)
        raise VolumeError(
            f"position {depths[extra[0]]:.2f} mm has {len(extra)} images (such as {slices[extra[0]].name} and"
            f" {slices[extra[1]].name}) where others have {usual}; remove the images that do not belong."
        )
    count = counts.pop()
    if count > 1:
        _check_distinguishable(slices, positions)
    if time is None and count > 1:
        raise SeveralVolumesError(
            f"each of its {len(positions)} positions has {count} images (points in time, echoes or the like);"
            f" choose one with time (0 to {count - 1}).",
            "time",
            count,
            "image",
            plural="images of each slice",
            names=_names([slices[index] for index in _in_order(slices, positions[0])]),
        )
    if time is not None and not 0 <= time < count:
        raise VolumeError(f"it has no time point {time}; time can be 0 to {count - 1}.")
    chosen = [_in_order(slices, group)[time or 0] for group in positions]
    if count > 1:
        _check_one_kind(slices, positions, chosen)
    return chosen


def _check_one_kind(slices: Sequence[Slice], positions: list[list[int]], chosen: list[int]) -> None:
    """Refuses a choice that takes images of different kinds, where positions have one image of each kind."""
    if not any(len({slices[index].kind for index in group}) > 1 for group in positions):
        return
    first = slices[chosen[0]]
    for other in (slices[index] for index in chosen):
        if other.kind != first.kind:
            differ = next(pair for pair in zip(first.kind, other.kind, strict=True) if pair[0] != pair[1])
            raise VolumeError(
                f"the images at each position are not in the same order: {first.name} ({differ[0] or 'nothing said'})"
                f" and {other.name} ({differ[1] or 'nothing said'}) would be mixed; put each kind into a folder of its"
                " own."
            )


def _check_distinguishable(slices: Sequence[Slice], positions: list[list[int]]) -> None:
    """Refuses images at one position that nothing puts in order, so that it is unknown which belong together."""
    for group in positions:
        images = [slices[index] for index in _in_order(slices, group)]
        if problem := next((one.unordered for one in images if one.unordered), None):
            raise VolumeError(problem)
        for one, other in itertools.pairwise(images):
            if one.order == other.order:
                raise VolumeError(
                    f"{one.name} and {other.name} lie at the same position and nothing in their headers tells them"
                    " apart; put the images that belong together into a folder of their own."
                )


def _in_order(slices: Sequence[Slice], group: list[int]) -> list[int]:
    return sorted(group, key=lambda index: slices[index].order)


def _names(images: Sequence[Slice]) -> list[str]:
    """What tells images at one position apart, in words; nothing where the files do not say."""
    differing = [
        column for column in zip(*(one.details for one in images), strict=False) if len(set(column)) > 1
    ]
    names = [", ".join(filter(None, words)) for words in zip(*differing, strict=True)]
    return names if all(names) else []


def _slice_spacing(
    ordered: Sequence[Slice], depths: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]
) -> float:
    if len(ordered) == 1:
        return ordered[0].thickness or 1.0
    gaps = np.diff(depths)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    problems = []
    tolerance = max(_GAP_TOLERANCE * usual, min(_GAP_ROUNDING, _GAP_MOST * usual))
    uneven = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    if uneven.size:
        at = int(uneven[0])
        times = gaps[at] / usual
        why = "the slice spacing is uneven"
        if times > 1.5 and abs(times - round(times)) < 0.05:
            missing = round(times) - 1
            why = f"{missing} slice{'s are' if missing > 1 else ' is'} missing"
        more = f" (and {uneven.size - 1} more gaps are uneven)" if uneven.size > 1 else ""
        problems.append(
            f"{why}: the gap between {ordered[at].name} at {depths[at]:.2f} mm and {ordered[at + 1].name} at"
            f" {depths[at + 1]:.2f} mm is {gaps[at]:.2f} mm where others are {usual:.2f} mm{more}"
        )
    length = float(depths[-1] - depths[0])
    travel = np.array([one.position for one in ordered]) - np.array(ordered[0].position)
    sideways = np.linalg.norm(travel - np.outer(depths - depths[0], normal), axis=1)
    rounding = min(_DRIFT_ROUNDING, _GAP_MOST * min(ordered[0].spacing))
    if sideways.max() > rounding + _DRIFT_TOLERANCE * length:
        worst = int(np.argmax(sideways))
        angle = math.degrees(math.atan2(sideways[worst], depths[worst] - depths[0]))
        problems.append(
            f"each slice is shifted sideways against the one before (gantry tilt of {angle:.1f} degrees), so the"
            " voxels form no rectangular grid"
        )
    if problems:
        raise VolumeError(
            "; and ".join(problems) + ". Resample the series to an even, rectangular grid first."
        )
    return round(length / (len(ordered) - 1), 9)
