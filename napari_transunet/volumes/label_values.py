"""Whole numbers as label values: one rule for reading, training, scoring and writing."""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import InputError, VolumeError

LABEL_TOLERANCE = 1e-3
"""How far a float may lie from the whole number that it stands for: resampling in floats makes 0.9999999 of a label."""

HIGHEST_LABEL = 65535

UNKNOWN = 255
"""The label value, and class, of voxels of which nobody says what they are."""


def whole_numbers(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array (z, y, x) as integers: booleans as uint8, floats within `LABEL_TOLERANCE` of whole numbers as int32."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f":
        raise VolumeError(f"Labels must be whole numbers, not values of type {array.dtype}.")
    whole = np.empty(array.shape, np.int32)
    for index, plane in enumerate(array):  # a plane at a time: memory
        nearest = np.rint(plane)
        fits = (np.abs(plane - nearest) <= LABEL_TOLERANCE) & (np.abs(nearest) < 2**31)
        if not fits.all():
            example = np.atleast_1d(plane)[~np.atleast_1d(fits)][0]
            raise VolumeError(
                f"Labels must be whole numbers; these hold fractions or worse ({example:g}). Resample labels by nearest"
                " neighbour only, and see that image and labels were not swapped."
            )
        whole[index] = nearest
    return whole


def whole_number(value: Any, what: str) -> int:
    """A label value or the index of a slice, in any type of numbers, as an int; `what` begins the sentence of an error.

    Raises
    ------
    InputError
        It is a fraction, which would be cut off, or a truth value: a mask in the place of numbers would mean 0 and 1.
    """
    if not isinstance(value, bool | str | bytes) and "bool" not in str(getattr(value, "dtype", "")):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            whole = int(value)
            if whole == value:
                return whole
    raise InputError(f"{what} must be a whole number, not {value!r}.")


def as_labels(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Whole numbers from 0 to 65535, by `whole_numbers`, in the smaller of uint8 and uint16 that holds them.

    uint8 and uint16 are given back as they are.
    """
    if array.dtype == np.uint8 or array.dtype == np.uint16:
        return array
    whole = whole_numbers(array)
    low, high = (int(whole.min()), int(whole.max())) if whole.size else (0, 0)
    if low < 0 or high > HIGHEST_LABEL:
        raise VolumeError(
            f"Labels must be from 0 to {HIGHEST_LABEL}; these reach from {low} to {high}. Renumber them, and see that"
            " image and labels were not swapped."
        )
    return whole.astype(np.uint8) if high < 256 else whole.astype(np.uint16)


def values_in(labels: npt.NDArray[Any]) -> list[int]:
    """All values that occur in labels (z, y, x) of integers, ascending; background (0) is not among them."""
    if labels.dtype.kind != "u" or labels.dtype.itemsize > 2:
        return [int(value) for value in np.unique(labels) if value]
    seen = np.zeros(np.iinfo(labels.dtype).max + 1, np.bool_)
    for plane in labels:  # no sorting: another thread can go on meanwhile
        seen[plane] = True
    return [int(value) for value in np.flatnonzero(seen) if value]


def voxels_by_label(labels: npt.NDArray[Any]) -> dict[int, int]:
    """How many voxels each value has that occurs in labels from 0 to 65535, ascending, without background (0)."""
    counts = np.zeros(1 + int(labels.max(initial=0)), np.int64)
    for plane in labels:  # of all at once it makes 64-bit numbers, and no other thread runs meanwhile
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist() if value}
