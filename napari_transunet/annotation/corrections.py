"""Tools that correct labels: components, holes, smoothing, growing. Arrays in, changes out.

Every tool takes labels (z, y, x), the spacing in mm along these axes (also where it needs none, so that all are called
alike), and its scope. All sizes are in mm, mm² or mL. A tool changes the organs in its scope and background, never
another organ, unless that is what it is for (`replace_label`); neither what was edited by hand nor a locked organ.
Neighbours are those that share a face, an edge or a corner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_transunet.annotation.session import Write
from napari_transunet.errors import InputError
from napari_transunet.volumes.boxes import Box, Mask, bounding_box
from napari_transunet.volumes.geometry import voxel_ml

Array = NDArray[Any]

_NEIGHBOURS = np.ones((3, 3, 3), np.bool_)
_TAIL = 4.0  # standard deviations beyond which a Gaussian is nothing


@dataclass(frozen=True, eq=False)
class Scope:
    """What a tool may change.

    Attributes
    ----------
    organs : label values that it acts on.
    plane : (axis, index) of the one slice that it acts in; the whole volume where it is None.
    locked : organs that may neither lose nor gain a voxel.
    protected : bool, of the labels' shape: voxels that stay as they are, because they were edited by hand.
    """

    organs: tuple[int, ...]
    plane: tuple[int, int] | None = None
    locked: frozenset[int] = frozenset()
    protected: Mask | None = None


@dataclass(frozen=True, eq=False)
class Correction:
    """What a tool changes.

    Attributes
    ----------
    writes : the changes, each a tight box in one slice along axis 0.
    changed : voxels in all.
    per_organ : label -> voxels gained, or lost where it is negative.
    left_by_hand, left_locked : voxels that would have changed, but were edited by hand, or belong to a locked organ.
    """

    writes: tuple[Write, ...]
    changed: int
    per_organ: dict[int, int]
    left_by_hand: int
    left_locked: int

    @property
    def slices(self) -> int:
        """How many slices along axis 0 change."""
        return len({write.index[0].start for write in self.writes})


def keep_largest(labels: Array, _spacing: Sequence[float], scope: Scope, *, count: int = 1) -> Correction:
    """Keep the `count` largest components of each organ."""
    if count < 1:
        raise InputError(f"At least one component has to be kept, not {count}.")

    def chosen(sizes: NDArray[np.int64]) -> Mask:
        keep = np.zeros(len(sizes), np.bool_)
        keep[np.argsort(-sizes, kind="stable")[:count]] = True
        return keep

    return _by_component(labels, scope, chosen)


def keep_component_at(
    labels: Array, _spacing: Sequence[float], scope: Scope, *, voxel: Sequence[int]
) -> Correction:
    """Keep the component that holds a voxel, and remove the others of its organ.

    Raises
    ------
    InputError
        The voxel (z, y, x) holds none of the organs in scope.
    """
    at = (int(voxel[0]), int(voxel[1]), int(voxel[2]))
    inside = all(0 <= position < size for position, size in zip(at, labels.shape, strict=True))
    value = int(labels[at]) if inside else 0
    if value not in scope.organs:
        raise InputError("There is no part of that organ where you clicked; click on the part to keep.")
    box = _region(labels, scope)
    found, _ = ndimage.label(labels[box] == value, _NEIGHBOURS)
    place = tuple(position - part.start for position, part in zip(at, box, strict=True))
    if any(not 0 <= position < size for position, size in zip(place, found.shape, strict=True)):
        raise InputError("You clicked outside of this slice; click in it, or choose the whole volume.")
    wanted = labels[box].copy()
    wanted[(wanted == value) & (found != found[place])] = 0
    return finished(labels, box, wanted, scope)


def remove_islands(
    labels: Array,
    spacing: Sequence[float],
    scope: Scope,
    *,
    below_ml: float = 0.0,
    below_mm2: float = 0.0,
) -> Correction:
    """Remove components smaller than a volume in mL; in a single slice, than an area in mm²."""
    if scope.plane is None:
        limit, unit = below_ml, voxel_ml(spacing)
    else:
        limit, unit = below_mm2, math.prod(spacing) / spacing[scope.plane[0]]
    if not limit > 0:
        raise InputError("The size below which islands are removed must be more than 0.")
    # A little less, so that an island of just that size is not lost to rounding.
    return _by_component(labels, scope, lambda sizes: sizes * unit >= limit * (1 - 1e-9))


def fill_holes(
    labels: Array, _spacing: Sequence[float], scope: Scope, *, along: int | None = None
) -> Correction:
    """Fill background that an organ encloses: in three dimensions, or in each slice along the axis `along`."""
    box = _region(labels, scope)
    region = labels[box]
    wanted = region.copy()
    flat = scope.plane[0] if scope.plane is not None else along
    structure = ndimage.generate_binary_structure(3, 1)
    if flat is not None:
        # Nothing passes from slice to slice, so that each is filled by itself.
        keep = np.zeros((3, 3, 3), np.bool_)
        at: list[slice | int] = [slice(None)] * 3
        at[flat] = 1
        keep[tuple(at)] = True
        structure &= keep
    for organ in scope.organs:
        inner = bounding_box(region == organ)
        if inner is None:
            continue
        part = region[inner]
        pad = [(0, 0) if axis == flat else (1, 1) for axis in range(3)]
        solid = _filled(np.pad(part == organ, pad), structure, flat)
        core = tuple(slice(a, size - b) for (a, b), size in zip(pad, solid.shape, strict=True))
        wanted[inner][solid[core] & (part == 0)] = organ
    return finished(labels, box, wanted, scope)


def smooth(labels: Array, spacing: Sequence[float], scope: Scope, *, radius_mm: float) -> Correction:
    """Smooth outlines with a Gaussian of that standard deviation in mm, keeping each organ's volume.

    Each organ's mask is blurred and cut at the value that leaves it as many voxels as it had; where organs in scope
    meet, the one that lies further above its value has the voxel.
    """
    _positive(radius_mm, "The radius")
    box = _region(labels, scope)
    region = labels[box]
    movable = _movable(region, scope)
    best = np.zeros(region.shape, np.float32)
    winner = np.zeros(region.shape, region.dtype)
    sigma = [radius_mm / step for step in spacing]
    if scope.plane is not None:
        sigma[scope.plane[0]] = 0.0
    for organ in scope.organs:
        around = bounding_box(region == organ, [math.ceil(_TAIL * width) + 1 for width in sigma])
        if around is None:
            continue
        mask = region[around] == organ
        blurred = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest", truncate=_TAIL)
        above = blurred - _cut(blurred, int(np.count_nonzero(mask)))
        ahead = above > best[around]
        best[around][ahead] = above[ahead]
        winner[around][ahead] = organ
    return finished(labels, box, np.where(movable, winner, region), scope)


def grow(labels: Array, spacing: Sequence[float], scope: Scope, *, by_mm: float) -> Correction:
    """Grow organs by a distance in mm, into background only; where several reach a voxel, the nearest has it."""
    _positive(by_mm, "The distance")
    box = _region(labels, scope)
    region = labels[box]
    nearest = np.full(region.shape, np.inf, np.float32)
    winner = np.zeros(region.shape, region.dtype)
    for organ in scope.organs:
        around = bounding_box(region == organ, [math.ceil(by_mm / step) + 1 for step in spacing])
        if around is None:
            continue
        distance = ndimage.distance_transform_edt(region[around] != organ, sampling=_steps(spacing, scope))
        closer = (distance <= by_mm * (1 + 1e-6)) & (distance < nearest[around])
        nearest[around][closer] = distance[closer]
        winner[around][closer] = organ
    return finished(labels, box, np.where(region == 0, winner, region), scope)


def shrink(labels: Array, spacing: Sequence[float], scope: Scope, *, by_mm: float) -> Correction:
    """Take a rim of that many mm off organs. The volume's border is no rim: an organ goes on beyond it."""
    _positive(by_mm, "The distance")
    box = _region(labels, scope)
    region = labels[box]
    wanted = region.copy()
    for organ in scope.organs:
        around = bounding_box(region == organ, [1, 1, 1])
        if around is None:
            continue
        part = region[around]
        if (part == organ).all():
            continue
        # A voxel's centre lies half a voxel within its border, which is where the rim begins.
        depth = ndimage.distance_transform_edt(part == organ, sampling=_steps(spacing, scope))
        wanted[around][(part == organ) & (depth <= by_mm * (1 + 1e-6))] = 0
    return finished(labels, box, wanted, scope)


def replace_label(labels: Array, _spacing: Sequence[float], scope: Scope, *, by: int) -> Correction:
    """Make the organs in scope another label, or background (0)."""
    if by < 0 or by > np.iinfo(labels.dtype).max:
        raise InputError(f"{by} is no label that these labels can hold.")
    box = _region(labels, scope)
    wanted = labels[box].copy()
    wanted[np.isin(wanted, scope.organs)] = by
    return finished(labels, box, wanted, scope)


def copy_slice(
    labels: Array, _spacing: Sequence[float], scope: Scope, *, axis: int, source: int, target: int
) -> Correction:
    """Make the organs of one slice what they are in another.

    Raises
    ------
    InputError
        One of the slices is not there.
    """
    if not 0 <= min(source, target) <= max(source, target) < labels.shape[axis]:
        raise InputError("There is no slice on that side.")
    box = _region(labels, Scope(scope.organs, (axis, target)))
    other = labels[_region(labels, Scope(scope.organs, (axis, source)))]
    region = labels[box]
    shown = np.where(np.isin(other, scope.organs), other, 0).astype(labels.dtype)
    wanted = np.where(_movable(region, scope), shown, region)
    return finished(labels, box, wanted, scope)


def allowed_stroke(
    before: Array,
    after: Array,
    *,
    image: Array | None,
    between: tuple[float, float] | None,
    locked: frozenset[int],
) -> Array:
    """What a stroke may leave of what it changed: only voxels in a range of image values, and no locked organ.

    All arrays lie on one part of the volume; `between` holds the lowest and the highest value that may be painted on.
    """
    refused = np.zeros(after.shape, np.bool_)
    if image is not None and between is not None:
        refused |= ~((image >= between[0]) & (image <= between[1]))  # nor where there is no number
    if locked:
        refused |= np.isin(before, list(locked)) | np.isin(after, list(locked))
    return np.where(refused, before, after)


# -- inside -------------------------------------------------------------------------------------------------


def _by_component(labels: Array, scope: Scope, chosen: Any) -> Correction:
    """Keep those components of each organ that `chosen` says of their sizes in voxels."""
    box = _region(labels, scope)
    region = labels[box]
    wanted = region.copy()
    for organ in scope.organs:
        inner = bounding_box(region == organ)
        if inner is None:
            continue
        found, count = ndimage.label(region[inner] == organ, _NEIGHBOURS)
        if count == 0:
            continue
        keep = np.concatenate([[True], chosen(np.bincount(found.ravel(), minlength=count + 1)[1:])])
        wanted[inner][~keep[found]] = 0
    return finished(labels, box, wanted, scope)


def finished(labels: Array, box: Box, wanted: Array, scope: Scope) -> Correction:
    """The change from the labels in `box` to `wanted`, as far as the scope allows it."""
    region = labels[box]
    differs = wanted != region
    by_hand = np.zeros((), np.bool_) if scope.protected is None else differs & scope.protected[box]
    differs &= ~by_hand
    locked = np.zeros((), np.bool_)
    if scope.locked:
        values = list(scope.locked)
        locked = differs & (np.isin(region, values) | np.isin(wanted, values))
        differs &= ~locked
    writes = []
    gained: dict[int, int] = {}
    for at in np.flatnonzero(differs.any(axis=(1, 2))):
        rows = np.flatnonzero(differs[at].any(axis=1))
        columns = np.flatnonzero(differs[at].any(axis=0))
        part = (slice(at, at + 1), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        before = region[part].copy()
        after = np.where(differs[part], wanted[part], before).astype(labels.dtype)
        writes.append(Write(_shifted(part, box), before, after))
        for sign, values in ((1, after[differs[part]]), (-1, before[differs[part]])):
            for value, count in zip(*np.unique(values, return_counts=True), strict=True):
                if value:
                    gained[int(value)] = gained.get(int(value), 0) + sign * int(count)
    return Correction(
        tuple(writes),
        int(np.count_nonzero(differs)),
        {value: count for value, count in sorted(gained.items()) if count},
        int(np.count_nonzero(by_hand)),
        int(np.count_nonzero(locked)),
    )


def _region(labels: Array, scope: Scope) -> Box:
    """The part of the volume that the scope allows; one voxel thick for a single slice."""
    box = list(_everything(labels))
    if scope.plane is not None:
        axis, index = scope.plane
        if not 0 <= index < labels.shape[axis]:
            raise InputError(f"There is no slice {index}; there are slices 0 to {labels.shape[axis] - 1}.")
        box[axis] = slice(index, index + 1)
    return (box[0], box[1], box[2])


def _everything(labels: Array) -> Box:
    z, y, x = labels.shape
    return slice(0, z), slice(0, y), slice(0, x)


def _shifted(part: tuple[slice, ...], box: Box) -> Box:
    z, y, x = (
        slice(int(inner.start + outer.start), int(inner.stop + outer.start))
        for inner, outer in zip(part, box, strict=True)
    )
    return z, y, x


def _movable(region: Array, scope: Scope) -> Mask:
    """Where the tool may write: background, and the organs in scope."""
    movable: Mask = (region == 0) | np.isin(region, scope.organs)
    return movable


def _filled(mask: Mask, structure: Mask, flat: int | None) -> Mask:
    """The mask with its holes: what cannot be reached from the border of the array (of each slice along `flat`)."""
    outside = np.zeros(mask.shape, np.bool_)
    for axis in range(3):
        if axis != flat:
            at: list[slice | int] = [slice(None)] * 3
            for end in (0, -1):
                at[axis] = end
                outside[tuple(at)] = True
    reached = ndimage.binary_propagation(outside & ~mask, structure, mask=~mask)
    return np.asarray(~reached, np.bool_)


def _cut(blurred: NDArray[np.float32], count: int) -> float:
    """The value above which `count` voxels lie."""
    if count >= blurred.size:
        return 0.0
    ordered = np.partition(blurred.ravel(), blurred.size - count - 1)
    return float(ordered[blurred.size - count - 1])


def _steps(spacing: Sequence[float], scope: Scope) -> list[float]:
    steps = [float(step) for step in spacing]
    if scope.plane is not None:
        steps[scope.plane[0]] = 1.0  # one voxel thick: no distance runs that way
    return steps


def _positive(value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{what} must be a number of mm above 0, not {value}.")
