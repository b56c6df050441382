"""Masks as closed contours in their plane, and back: the geometry of structure sets, in pixels."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""(n, 2): row and column of each point, 0 at the centre of the first pixel. The last is joined to the first."""

FURTHEST = 1e6
"""Pixels from the first one beyond which no contour is filled: far beyond any image."""

_ON = 1e-3  # pixels: what lies so near to a contour lies on it; coordinates are written with some 4 decimals
_AT_ONCE = 1 << 22  # crossings of rows that are found at a time


def contours_of(mask: npt.NDArray[np.bool_]) -> list[Points]:
    """The outlines of a mask (rows, columns): one for each part, its holes joined to it by keyholes.

    They run halfway between the centres of pixels inside and outside (marching squares), so that pixels whose centres
    lie within make the same mask again. A keyhole is a cut of no width from the outline to a hole and back, by which
    DICOM's CLOSED_PLANAR has holes (PS3.3, C.8.8.6.3): it fills alike by the even-odd rule, by winding, and where
    contours are united. Pixels that touch at corners alone are parts of their own.
    """
    from scipy import ndimage  # here and below: reading is not to wait for half a second of imports
    from skimage.measure import find_contours

    parts, count = ndimage.label(mask)
    outlines = []
    for number, box in enumerate(ndimage.find_objects(parts, count), 1):
        alone = np.pad(parts[box] == number, 1).astype(np.float64)
        # Closed, since nothing touches the border: the first point comes again at the end.
        rings = [_without_needless(ring[:-1]) for ring in find_contours(alone, 0.5)]
        rings.sort(key=_area, reverse=True)
        corner = (box[0].start - 1, box[1].start - 1)
        outlines.append(_with_keyholes(rings[0], rings[1:]) + corner)
    return outlines


def filled(contours: Sequence[Points], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels (rows, columns) whose centres lie within an odd number of contours, or on one.

    The even-odd rule gives holes by keyholes and by contours within contours alike, as other readers of structure sets
    have it. That the contour itself counts as inside matters for those that run through the centres of pixels.
    """
    toggles = np.zeros((shape[0], shape[1] + 1), np.uint8)
    on = np.zeros(shape, np.bool_)
    for contour in contours:
        for rows, columns in _crossings(contour, shape[0]):
            after = np.clip(np.ceil(columns), 0, shape[1]).astype(np.int64)
            np.bitwise_xor.at(toggles, (rows, after), 1)
            _mark(on, rows, columns)
        nearest = np.rint(contour[:, 0])
        level = np.abs(contour[:, 0] - nearest) <= _ON
        _mark(on, nearest[level], contour[level, 1])
        _mark_level_edges(on, contour, level)
    inside: npt.NDArray[np.bool_] = np.bitwise_xor.accumulate(toggles, axis=1)[:, :-1].astype(np.bool_) | on
    return inside


def _crossings(
    contour: Points, height: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Where the edges cross the rows of pixel centres: rows, and columns as fractions; some at a time."""
    ends = np.roll(contour, -1, axis=0)
    # From the upper end, so that the two edges of a keyhole cross at the very same place.
    down = (contour[:, 0] < ends[:, 0]) | ((contour[:, 0] == ends[:, 0]) & (contour[:, 1] <= ends[:, 1]))
    upper, lower = np.where(down[:, None], contour, ends), np.where(down[:, None], ends, contour)
    first, last = (np.clip(np.ceil(end[:, 0]), 0, height).astype(np.int64) for end in (upper, lower))
    counts = last - first
    edges = np.flatnonzero(counts)
    group = np.cumsum(counts[edges]) // _AT_ONCE
    for one in np.unique(group):
        some = edges[group == one]
        edge = np.repeat(some, counts[some])
        begin = np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
        rows = first[edge] + np.arange(edge.size) - begin
        (y, x), (to_y, to_x) = upper[edge].T, lower[edge].T
        yield rows, x + (rows - y) * ((to_x - x) / (to_y - y))


def _mark(on: npt.NDArray[np.bool_], rows: npt.NDArray[np.number], columns: npt.NDArray[np.float64]) -> None:
    """Marks the pixels whose centres are these places."""
    nearest = np.rint(columns)
    here = (np.abs(columns - nearest) <= _ON) & (nearest >= 0) & (nearest < on.shape[1])
    here &= (rows >= 0) & (rows < on.shape[0])
    on[rows[here].astype(np.int64), nearest[here].astype(np.int64)] = True


def _mark_level_edges(on: npt.NDArray[np.bool_], contour: Points, level: npt.NDArray[np.bool_]) -> None:
    """Marks the pixels on edges that run along a row of centres."""
    ends = np.roll(contour, -1, axis=0)
    rows, end_rows = np.rint(contour[:, 0]), np.rint(ends[:, 0])
    along = level & np.roll(level, -1) & (rows == end_rows) & (rows >= 0) & (rows < on.shape[0])
    for row, start, end in zip(rows[along], contour[along, 1], ends[along, 1], strict=True):
        left, right = sorted((start, end))
        on[int(row), max(0, int(np.ceil(left - _ON))) : max(0, int(np.floor(right + _ON)) + 1)] = True


def _without_needless(ring: Points) -> Points:
    """Without the points between two others on a straight line. Coordinates are halves, so that this is exact."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    kept: Points = ring[turns]
    return kept


def _with_keyholes(outline: Points, holes: Sequence[Points]) -> Points:
    """One ring: to each hole and back over the shortest way, the nearest hole first."""
    from scipy.spatial import KDTree

    tree = KDTree(outline)
    for hole in sorted(holes, key=lambda ring: float(np.min(tree.query(ring)[0]))):
        distances, nearest = KDTree(outline).query(hole)
        there = int(np.argmin(distances))
        here = int(np.asarray(nearest)[there])
        around = np.concatenate([hole[there:], hole[: there + 1]])
        outline = np.concatenate([outline[: here + 1], around, outline[here:]])
    return outline


def _area(ring: Points) -> float:
    """In pixels (the shoelace formula)."""
    (y, x), (to_y, to_x) = ring.T, np.roll(ring, -1, axis=0).T
    return abs(float(np.sum(x * to_y - to_x * y))) / 2
