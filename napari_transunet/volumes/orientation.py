"""Turning volumes to a wanted orientation and back: permutations and flips only, never resampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import VolumeError

if TYPE_CHECKING:
    from napari_transunet.volumes.geometry import Geometry

_AXIS_OF = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}


def check_codes(codes: str) -> str:
    """`codes` in upper case, if it names each of left-right, front-back and feet-head once."""
    upper = str(codes).upper()
    if len(upper) != 3 or {_AXIS_OF.get(letter) for letter in upper} != {0, 1, 2}:
        raise VolumeError(
            f"An orientation is three letters, one each of L/R, P/A and S/I, such as LPS; {codes!r} is not."
        )
    return upper


@dataclass(frozen=True)
class Reorientation:
    """A permutation of the array's axes, then flips.

    Attributes
    ----------
    axes : `axes[i]` is the axis of the original array that becomes axis `i`.
    flips : whether axis `i` of the permuted array is then reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def between(cls, geometry: Geometry, codes: str) -> Reorientation:
        """What takes an array on `geometry` to axis codes `codes` (of the index axes x, y, z, e.g. LPS).

        An oblique volume is taken to the nearest such orientation; its slices are kept as they are.
        """
        wanted = check_codes(codes)
        have = geometry.axis_codes
        axes, flips = [], []
        for letter in reversed(wanted):  # array axes run z, y, x
            column = next(i for i, own in enumerate(have) if _AXIS_OF[own] == _AXIS_OF[letter])
            axes.append(2 - column)
            flips.append(have[column] != letter)
        return cls((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))

    @property
    def slice_axis(self) -> int:
        """The axis of the original array that slices of the reoriented one are counted along."""
        return self.axes[0]

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return self.axes == (0, 1, 2) and not any(self.flips)

    def then(self, axes: tuple[int, int, int]) -> Reorientation:
        """The same, followed by a permutation: its axis `axes[i]` becomes axis `i`."""
        first, second, third = axes
        return Reorientation(
            (self.axes[first], self.axes[second], self.axes[third]),
            (self.flips[first], self.flips[second], self.flips[third]),
        )

    def apply(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of a (z, y, x) array in the new orientation."""
        return np.flip(np.transpose(array, self.axes), self._flipped)

    def invert(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of a reoriented array in the original orientation; undoes `apply` exactly."""
        return np.transpose(np.flip(array, self._flipped), np.argsort(self.axes))

    def original_index(self, index: int, shape: tuple[int, ...]) -> int:
        """Slice `index` of the reoriented array as an index along `slice_axis` of the original `shape`.

        The same formula leads back, so it serves both ways.
        """
        return shape[self.slice_axis] - 1 - index if self.flips[0] else index

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)


IDENTITY = Reorientation((0, 1, 2), (False, False, False))


def reorientation_onto(geometry: Geometry, onto: Geometry) -> Reorientation | None:
    """The order of axes and the flips by which an array on one grid comes to lie on another; None where none does.

    Which axis goes where is found by the angles between the grids' axes, so that it holds at 45 degrees to the patient
    too; that voxels then lie in the same places, by the corners (`Geometry.matches`).
    """
    if sorted(geometry.shape) != sorted(onto.shape):
        return None
    if geometry.matches(onto):
        return IDENTITY
    turn = turn_towards(geometry, onto)
    if turn is None:
        return None
    return turn if geometry.reoriented(turn.axes, turn.flips).matches(onto) else None


def turn_towards(geometry: Geometry, onto: Geometry) -> Reorientation | None:
    """The order of axes and the flips by which an array's axes run most nearly as those of another grid.

    None where two of its axes lie nearest to one of the other's.
    """
    cosines = (np.array(onto.direction).T @ np.array(geometry.direction))[::-1, ::-1]  # array axes, z first
    first, second, third = (int(axis) for axis in np.abs(cosines).argmax(axis=1))
    if {first, second, third} != {0, 1, 2}:
        return None
    flips = (bool(cosines[0, first] < 0), bool(cosines[1, second] < 0), bool(cosines[2, third] < 0))
    return Reorientation((first, second, third), flips)
