"""Where the voxels of a volume lie in the patient: shape, spacing, origin and direction."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]

IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

# Directions measured by scanners and rounded into headers are orthonormal to about 1e-4; anything beyond this
# is a shear, which no image with a spacing and a rotation can hold.
ORTHONORMAL_TOLERANCE = 1e-3

# Grids are one where no corner of one lies further from the other's than this part of the smallest voxel. Below a half,
# every voxel still has the voxel of the same index as its nearest; a quarter leaves room for interpolation. Headers of
# one scan in two formats differ by rounding alone, which is far less.
GRID_TOLERANCE = 0.25

# How far rounded axes may move a corner to count as those of a rectangular grid, as part of the smallest voxel.
RECTANGLE_TOLERANCE = 0.5

_TOWARDS = ("LR", "PA", "SI")  # per patient axis: the letter for its positive and for its negative sense


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume in patient space, in mm.

    Attributes
    ----------
    shape : voxels along (z, y, x), the axes of the array.
    spacing : mm along (z, y, x).
    origin : LPS (x, y, z) position in mm of the centre of voxel [0, 0, 0].
    direction : 3x3; rows are the patient axes L, P, S, columns the index axes x, y, z (as in ITK and DICOM).
        May be left-handed, never sheared.

    Raises
    ------
    VolumeError
        A size or spacing that is not positive, a number that is not finite, or a direction whose columns are
        not perpendicular unit vectors to within 1e-3.
    """

    shape: tuple[int, int, int]
    spacing: Vector
    origin: Vector = (0.0, 0.0, 0.0)
    direction: Matrix = IDENTITY

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise VolumeError(
                f"A volume needs three axes with at least one voxel each, not the shape {shape}."
            )
        spacing, origin = _vector(self.spacing, "spacing"), _vector(self.origin, "origin")
        if min(spacing) <= 0:
            raise VolumeError(f"The voxel spacing must be positive along every axis, not {spacing} mm.")
        rows = tuple(_vector(row, "direction") for row in self.direction)
        if len(rows) != 3:
            raise VolumeError("The direction of a volume must be a 3x3 matrix.")
        matrix = np.array(rows)
        if np.abs(matrix.T @ matrix - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
            raise VolumeError(
                "The axes of this volume are not perpendicular unit vectors (it is sheared or badly scaled);"
                " resample it to a rectangular grid first."
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "spacing", spacing)
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "direction", rows)

    @classmethod
    def default(cls, shape: tuple[int, int, int]) -> Geometry:
        """A grid of 1 mm voxels along the patient axes, for arrays that say nothing about theirs."""
        return cls(shape=shape, spacing=(1.0, 1.0, 1.0))

    @classmethod
    def from_affine_lps(cls, affine: npt.ArrayLike, shape: tuple[int, int, int]) -> Geometry:
        """The grid of a 4x4 matrix from (x, y, z) index to LPS mm; `shape` is (z, y, x).

        Raises
        ------
        VolumeError
            The matrix is sheared, singular or not finite.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise VolumeError("The matrix from voxels to the patient must hold 4x4 finite numbers.")
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if (lengths <= 0).any():
            raise VolumeError("The matrix from voxels to the patient has an axis of length zero.")
        return cls(
            shape=shape,
            spacing=_vector(lengths[::-1], "spacing"),
            origin=_vector(matrix[:3, 3], "origin"),
            direction=_matrix(matrix[:3, :3] / lengths),
        )

    @property
    def spacing_xyz(self) -> Vector:
        """mm along the index axes (x, y, z)."""
        return (self.spacing[2], self.spacing[1], self.spacing[0])

    @property
    def affine_lps(self) -> npt.NDArray[np.float64]:
        """4x4 matrix from (x, y, z) index to LPS position in mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.array(self.direction) * np.array(self.spacing_xyz)
        affine[:3, 3] = self.origin
        return affine

    @property
    def affine_ras(self) -> npt.NDArray[np.float64]:
        """4x4 matrix from (x, y, z) index to RAS position in mm, as NIfTI means it."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine_lps

    @property
    def patient_axes(self) -> tuple[int, int, int]:
        """Per index axis x, y, z: the patient axis (0 left-right, 1 front-back, 2 feet-head) nearest to it.

        Always a permutation, also at 45 degrees: of the six, the one with the largest sum of cosines.
        """
        cosines = np.abs(np.array(self.direction))
        best = max(
            itertools.permutations(range(3)),
            key=lambda order: round(sum(cosines[row, column] for column, row in enumerate(order)), 9),
        )
        return (best[0], best[1], best[2])

    @property
    def axis_codes(self) -> str:
        """Three letters: the side of the patient that each index axis x, y, z points to, e.g. ``"LPS"``."""
        return "".join(
            _TOWARDS[row][0 if self.direction[row][column] >= 0 else 1]
            for column, row in enumerate(self.patient_axes)
        )

    @property
    def extent(self) -> Vector:
        """Size in mm along (z, y, x), voxel edges included."""
        return (
            self.shape[0] * self.spacing[0],
            self.shape[1] * self.spacing[1],
            self.shape[2] * self.spacing[2],
        )

    def as_json(self) -> dict[str, Any]:
        """The grid as reports and files beside labels tell it."""
        return {
            "shape_zyx": list(self.shape),
            "spacing_zyx_mm": list(self.spacing),
            "origin_lps_mm": list(self.origin),
            "direction_lps": [list(row) for row in self.direction],
            "axis_codes_xyz": self.axis_codes,
        }

    def displacement(self, other: Geometry) -> float:
        """How far apart, in mm, the corners of two grids lie at most; infinite where their shapes differ."""
        if self.shape != other.shape:
            return math.inf
        return corner_displacement(self.affine_lps, other.affine_lps, self.shape)

    def matches(self, other: Geometry, tolerance: float = GRID_TOLERANCE) -> bool:
        """Whether both are one grid: equal shapes, and no corner displaced by more than a fraction of a voxel.

        `tolerance` is that fraction, of the smallest spacing of both. Cosines and spacings are not compared: what
        they come to depends on the number of voxels, and what matters is where voxels lie.
        """
        return self.displacement(other) <= tolerance * min(*self.spacing, *other.spacing)

    def reoriented(self, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Geometry:
        """The grid after the array's axes were put in the order `axes` and then flipped where `flips` says.

        `axes[i]` is the old array axis that becomes new array axis `i` (as in `numpy.transpose`).
        """
        if sorted(axes) != [0, 1, 2] or len(flips) != 3:
            raise VolumeError(
                f"Axes must be an order of 0, 1 and 2 with three flips, not {axes} and {flips}."
            )
        affine = self.affine_lps
        direction = np.empty((3, 3))
        corner = np.array([0.0, 0.0, 0.0, 1.0])
        for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
            column = np.array(self.direction)[:, 2 - old]
            direction[:, 2 - new] = -column if flip else column
            if flip:
                corner[2 - old] = self.shape[old] - 1
        return Geometry(
            shape=(self.shape[axes[0]], self.shape[axes[1]], self.shape[axes[2]]),
            spacing=(self.spacing[axes[0]], self.spacing[axes[1]], self.spacing[axes[2]]),
            origin=_vector((affine @ corner)[:3], "origin"),
            direction=_matrix(direction),
        )


def voxel_ml(spacing: Sequence[float]) -> float:
    """The volume of a voxel in mL, of its size in mm along each axis."""
    return math.prod(spacing) / 1000


def corner_displacement(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> float:
    """How far, in mm, two 4x4 matrices from (x, y, z) index to mm put a corner of a volume apart, at most.

    `shape` is (z, y, x); the corners are those of the outermost voxels, half a voxel beyond their centres.
    """
    ends = [(-0.5, count - 0.5) for count in reversed(shape)]
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*ends)]).T
    return float(np.linalg.norm(((first - second) @ corners)[:3], axis=0).max())


def nearest_grid(affine: npt.ArrayLike, shape: tuple[int, int, int]) -> tuple[Geometry, str | None]:
    """The grid of a 4x4 matrix from (x, y, z) index to LPS mm whose numbers may have been rounded.

    Where its axes are not perpendicular to within 1e-3, the nearest rectangular grid about the same centre is taken,
    if that displaces no corner by more than half of the smallest voxel; the second value says so.

    Raises
    ------
    VolumeError
        The matrix is singular or not finite, or sheared by more than that.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    try:
        return Geometry.from_affine_lps(matrix, shape), None
    except VolumeError:
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if (lengths <= 0).any():
            raise
    direction, spacing = _nearest_axes(matrix[:3, :3], shape)
    if (spacing > 0).all():
        middle = np.array([(count - 1) / 2 for count in reversed(shape)])
        rectangular = np.eye(4)
        rectangular[:3, :3] = direction * spacing
        rectangular[:3, 3] = (matrix @ [*middle, 1.0])[:3] - rectangular[:3, :3] @ middle
        apart = corner_displacement(matrix, rectangular, shape)
        if apart <= RECTANGLE_TOLERANCE * spacing.min():
            return Geometry.from_affine_lps(rectangular, shape), (
                "The axes in the header are not quite perpendicular (rounded numbers, it seems); the nearest"
                f" rectangular grid was taken, which moves corners of the volume by up to {apart:.2g} mm."
            )
    cosines = matrix[:3, :3] / lengths
    worst = np.abs(cosines.T @ cosines - np.eye(3)).max()
    raise VolumeError(
        "The axes of this volume are not perpendicular (it is sheared, as by a gantry tilt, by up to"
        f" {math.degrees(math.asin(min(1.0, float(worst)))):.2g}°); resample it to a rectangular grid first."
    )


def _nearest_axes(
    steps: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Perpendicular directions (columns) and spacings that come nearest to steps (columns) over their whole extents.

    By turns the rotation for given spacings (the orthogonal Procrustes problem), and the spacings for it.
    """
    weights = np.square(np.array(shape[::-1], dtype=np.float64))
    spacing = np.linalg.norm(steps, axis=0)
    for _ in range(8):
        left, _, right = np.linalg.svd(steps * (weights * spacing))
        direction = left @ right
        spacing = np.einsum("ij,ij->j", direction, steps)
    return direction, spacing


def _vector(values: npt.ArrayLike, what: str) -> Vector:
    try:
        numbers = [float(v) for v in np.asarray(values, dtype=np.float64).ravel()]
    except (TypeError, ValueError, OverflowError) as error:
        raise VolumeError(f"The {what} of a volume must be three numbers, not {values!r}.") from error
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise VolumeError(f"The {what} of a volume must be three finite numbers, not {numbers}.")
    return (numbers[0], numbers[1], numbers[2])


def _matrix(values: npt.ArrayLike) -> Matrix:
    rows = np.asarray(values, dtype=np.float64)
    return (_vector(rows[0], "direction"), _vector(rows[1], "direction"), _vector(rows[2], "direction"))
