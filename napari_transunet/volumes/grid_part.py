"""Labels that cover a part of a scan's grid: without the slices, rows and columns that some programs leave out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.files import available_memory
from napari_transunet.volumes.orientation import Reorientation, reorientation_onto, turn_towards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_transunet.volumes.boxes import Box
    from napari_transunet.volumes.geometry import Geometry, Vector
    from napari_transunet.volumes.volume import Source, Volume

PART_TOLERANCE = 0.05
"""How far a part's corners may lie from the grid's voxels, as a share of the smallest voxel.

Programs that crop keep positions to some micrometres. A quarter, as grids of equal shape may be apart
(`geometry.GRID_TOLERANCE`), would make one in fifteen scans with voxels of one size a part of another one by chance.
"""

_USABLE_MEMORY = 0.8
_ABOUT = 1.01  # voxels; some count from one
_FURTHEST = 1 << 24  # voxels from the grid's first one: what lies further is on no part of it


@dataclass(frozen=True)
class GridPart:
    """Where an array lies on a grid whose voxels it shares.

    Attributes
    ----------
    turn : the order of axes and the flips by which it runs as the grid does
    start : the grid's voxel (z, y, x) on which its first one then lies; negative where it sticks out
    shape : its own, once turned
    grid : the shape of the grid
    """

    turn: Reorientation
    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    grid: tuple[int, int, int]

    @property
    def is_whole(self) -> bool:
        """Whether it covers every voxel of the grid."""
        return all(
            start <= 0 and start + size >= whole
            for start, size, whole in zip(self.start, self.shape, self.grid, strict=True)
        )

    @property
    def is_same(self) -> bool:
        """Whether both are one grid: it covers every voxel, and sticks out nowhere."""
        return self.start == (0, 0, 0) and self.shape == self.grid

    @property
    def box(self) -> Box:
        """The voxels of the grid that it covers."""
        first, second, third = (
            slice(max(0, start), min(whole, start + size))
            for start, size, whole in zip(self.start, self.shape, self.grid, strict=True)
        )
        return first, second, third

    @property
    def own_box(self) -> Box:
        """The same voxels in the array itself, once turned."""
        first, second, third = (
            slice(here.start - start, here.stop - start)
            for here, start in zip(self.box, self.start, strict=True)
        )
        return first, second, third

    @property
    def outside(self) -> npt.NDArray[np.bool_]:
        """The voxels (z, y, x) of the grid that it does not cover."""
        outside = np.ones(self.grid, np.bool_)
        outside[self.box] = False
        return outside

    @property
    def coverage(self) -> str:
        """What of the grid it covers, for a sentence: "slices 3 to 17 of 0 to 24 along z"; empty where all of it."""
        return ", ".join(
            f"slices {here.start} to {here.stop - 1} of 0 to {whole - 1} along {axis}"
            for axis, here, whole in self._cut()
        )

    @property
    def share(self) -> str:
        """How much of the grid it covers, for a sentence: "13 of 20 slices along z"; empty where all of it."""
        return ", ".join(
            f"{here.stop - here.start} of {whole} slices along {axis}" for axis, here, whole in self._cut()
        )

    def place(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Labels (z, y, x), as stored, on the whole grid: turned, and 0 where they do not reach.

        A view where they have the grid's own voxels, no more and no less.

        Raises
        ------
        VolumeError
            Labels lie outside of the grid.
        SizeError
            Memory cannot hold the whole grid.
        """
        turned = self.turn.apply(labels)
        if self.is_same:
            return turned
        turned = np.asarray(turned)
        inside = turned[self.own_box]
        sticks_out = inside.shape != turned.shape
        if sticks_out and (outside := _labelled(turned) - _labelled(inside)):
            raise VolumeError(
                f"{outside:,} labelled voxels lie outside of the scan's grid, of which the labels cover a part;"
                " crop them to the scan, or give the scan that they were made on."
            )
        if inside.shape == self.grid:
            return inside
        needed, free = math.prod(self.grid) * turned.dtype.itemsize, int(available_memory() * _USABLE_MEMORY)
        if needed > free:
            raise SizeError(
                f"Labels on the whole grid of the scan take {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB"
                " may be used; close other programs, or crop the scan."
            )
        whole = np.zeros(self.grid, turned.dtype)
        whole[self.box] = inside
        return whole

    def _cut(self) -> Iterator[tuple[str, slice, int]]:
        """The axes along which it does not cover all: their names, what it covers, and how many there are."""
        for axis, here, whole in zip("zyx", self.box, self.grid, strict=True):
            if here.stop - here.start < whole:
                yield axis, here, whole


@dataclass(frozen=True, eq=False)
class LabelsOnGrid:
    """Labels brought onto the grid of their scan.

    Attributes
    ----------
    data : (z, y, x) on the scan's grid, 0 where the labels do not reach
    part : what of the grid they cover
    rest_is_background : whether it is known that nothing lies where they do not reach, as it is of formats that leave
        out what is empty. Else nobody said what is there
    """

    data: npt.NDArray[Any]
    part: GridPart
    rest_is_background: bool

    @property
    def unknown(self) -> npt.NDArray[np.bool_] | None:
        """The voxels (z, y, x) of the scan's grid of which nobody said what is there; None where there are none."""
        return None if self.part.is_whole or self.rest_is_background else self.part.outside


def grid_part(geometry: Geometry, onto: Geometry) -> GridPart | None:
    """Where an array on one grid lies on another one; None where their voxels are not the same, or none is shared.

    Grids of one shape are compared as everywhere (`Geometry.matches`). For a part, spacing and direction must be alike
    and the shift whole voxels, all by where corners lie. Axes may run in another order or sense.
    """
    turn = reorientation_onto(geometry, onto)
    if turn is not None:
        return GridPart(turn, (0, 0, 0), onto.shape, onto.shape)
    turn = turn_towards(geometry, onto)
    if turn is None:
        return None
    turned = geometry.reoriented(turn.axes, turn.flips)
    shift = np.linalg.solve(onto.affine_lps, [*turned.origin, 1.0])[:3][::-1]
    if np.abs(shift).max() > _FURTHEST:
        return None
    first, second, third = (round(float(voxels)) for voxels in shift)
    start = (first, second, third)
    there = replace(onto, shape=turned.shape, origin=_centre(onto, start))
    shared = all(
        begin < whole and begin + size > 0
        for begin, size, whole in zip(start, turned.shape, onto.shape, strict=True)
    )
    return (
        GridPart(turn, start, turned.shape, onto.shape)
        if shared and turned.matches(there, PART_TOLERANCE)
        else None
    )


def labels_on_grid(labels: Volume, scan: Volume) -> LabelsOnGrid | None:
    """Labels on the grid of their scan, also where they cover a part of it; None where they lie elsewhere.

    Files that do not say where their voxels lie share a grid where their shapes are equal, but are no part of another
    one: that all begin at one corner is assumed. So are files whose grid begins, ends or is centred at zero, as those
    of many public datasets do, unless their format leaves out what is empty: it keeps the scan's positions.

    Raises
    ------
    VolumeError
        Labels lie outside of the scan's grid.
    SizeError
        Memory cannot hold them on the whole grid.
    """
    part = labels_part(labels, scan)
    return (
        None if part is None else LabelsOnGrid(part.place(labels.data), part, labels.source.omits_background)
    )


def labels_part(labels: Volume, scan: Volume) -> GridPart | None:
    """What of a scan's grid labels cover, without looking at them; None as for `labels_on_grid`."""
    return stated_part(labels.geometry, labels.source, scan.geometry, scan.source)


def stated_part(geometry: Geometry, source: Source, onto: Geometry, scan: Source) -> GridPart | None:
    """`grid_part`, but a part only where both files state where their voxels lie: those of labels, and of the scan."""
    part = grid_part(as_thick(geometry, source, onto), onto)
    if part is None or part.is_same:
        return part
    positioned = source.omits_background or _says_position(geometry)
    return part if positioned and source.has_orientation and scan.has_orientation else None


def as_thick(geometry: Geometry, source: Source | None, onto: Geometry) -> Geometry:
    """The grid of labels, on a slice as thick as those of another grid where its own thickness is assumed."""
    if source is None or not source.assumes_distance or geometry.shape[0] != 1:
        return geometry
    turn = turn_towards(geometry, onto)
    if turn is None:
        return geometry
    return replace(geometry, spacing=(onto.spacing[turn.axes.index(0)], *geometry.spacing[1:]))


def on_common_grid(first: Volume, second: Volume) -> tuple[LabelsOnGrid, LabelsOnGrid, Geometry] | None:
    """Two volumes of labels of one scan on the smallest grid that holds both, in the order of the second's axes.

    Both may leave out what is empty, and each something else. None where they share no voxel, and as `labels_on_grid`.

    Raises
    ------
    SizeError
        Memory cannot hold them on that grid.
    """
    onto = as_thick(second.geometry, second.source, first.geometry)
    found = stated_part(first.geometry, first.source, onto, second.source)
    if found is None:
        return None
    grid = _spanning(found, onto)
    own, other = (grid_part(as_thick(one.geometry, one.source, grid), grid) for one in (first, second))
    if own is None or other is None:  # by rounding
        return None
    return (
        LabelsOnGrid(own.place(first.data), own, first.source.omits_background),
        LabelsOnGrid(other.place(second.data), other, second.source.omits_background),
        grid,
    )


def _spanning(part: GridPart, grid: Geometry) -> Geometry:
    """The grid, enlarged by what sticks out of it."""
    begin = [min(0, start) for start in part.start]
    end = [
        max(whole, start + size) for start, size, whole in zip(part.start, part.shape, part.grid, strict=True)
    ]
    depth, height, width = (stop - start for start, stop in zip(begin, end, strict=True))
    return replace(grid, shape=(depth, height, width), origin=_centre(grid, begin))


def _centre(grid: Geometry, voxel: Sequence[int]) -> Vector:
    """Where the centre of a voxel (z, y, x) lies, LPS (x, y, z) in mm; it may be none of the grid's own."""
    x, y, z, _ = (float(mm) for mm in grid.affine_lps @ [*voxel[::-1], 1.0])
    return x, y, z


def _says_position(geometry: Geometry) -> bool:
    """Whether a grid lies somewhere: zero mm is not about its first, last or middle voxel along every axis.

    There it is put by who knows no position.
    """
    zero = np.linalg.solve(geometry.affine_lps, [0.0, 0.0, 0.0, 1.0])[:3][::-1]
    return not all(
        min(abs(at), abs(at - (size - 1)), 2 * abs(at - (size - 1) / 2)) <= _ABOUT
        for at, size in zip(zero, geometry.shape, strict=True)
    )


def _labelled(array: npt.NDArray[Any]) -> int:
    """How many voxels hold anything; a plane at a time, as a mask of all takes as much memory as the labels."""
    return sum(int(np.count_nonzero(plane)) for plane in array)
