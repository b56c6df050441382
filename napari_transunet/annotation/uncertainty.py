"""How unsure the runs of a session were, slice by slice: what the review is led by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from napari_transunet.inference.uncertainty import SliceUncertainty


class SliceUncertainties:
    """The uncertainty of each slice along one axis, from 0 to 1, as the last run that wrote it saw it.

    Parameters
    ----------
    axis
        The array axis along which the slices lie.
    count
        Their number.

    Attributes
    ----------
    means : float16 (count,), over all organs; NaN where no run has been.
    expected_errors : float32 (count,), by which the review is led; NaN where no run has been.
    pipeline, img_size, sha256 : how the last run made its slices; by these and the card of that checkpoint the kept
        maps can be brought onto the volume's grid.
    """

    def __init__(self, axis: int, count: int) -> None:
        self.axis = axis
        self.means: NDArray[np.float16] = np.full(count, np.nan, np.float16)
        self.expected_errors: NDArray[np.float32] = np.full(count, np.nan, np.float32)
        self.pipeline = "card"
        self.img_size: tuple[int, int] | None = None
        self.sha256: str | None = None
        self._per_class: NDArray[np.float16] = np.full((count, 1), np.nan, np.float16)
        self._errors_per_class: NDArray[np.float32] = np.full((count, 1), np.nan, np.float32)
        self._maps: NDArray[np.float16] | None = None

    def begin(self, sha256: str | None, pipeline: str, img_size: Sequence[int]) -> None:
        """A run begins. Maps of other runs are dropped where these lie on another grid."""
        size = (int(img_size[0]), int(img_size[1]))
        if (sha256, pipeline, size) != (self.sha256, self.pipeline, self.img_size):
            self._maps = None
        self.sha256, self.pipeline, self.img_size = sha256, pipeline, size

    def put(self, index: int, found: SliceUncertainty) -> None:
        """What a run says of one slice."""
        self.means[index] = found.mean
        self.expected_errors[index] = found.expected_error
        self._per_class = _with_row(self._per_class, index, found.per_class)
        self._errors_per_class = _with_row(self._errors_per_class, index, found.expected_error_per_class)
        if self._maps is None:
            self._maps = np.full((len(self.means), *found.entropy.shape), np.nan, np.float16)
        self._maps[index] = found.entropy

    def of(self, label: int | None = None) -> NDArray[np.float64]:
        """(count,), of all organs or of one label; NaN where a slice is unknown or does not show it."""
        if label is None:
            return self.means.astype(np.float64)
        if not 0 < label < self._per_class.shape[1]:
            return np.full(len(self.means), np.nan)
        return self._per_class[:, label].astype(np.float64)

    def expected_error(self, label: int | None = None) -> NDArray[np.float64]:
        """(count,), of all organs or of one label; NaN where a slice is unknown, 0 where it shows nothing of it."""
        if label is None:
            return self.expected_errors.astype(np.float64)
        if not 0 < label < self._errors_per_class.shape[1]:
            return np.full(len(self.means), np.nan)
        return self._errors_per_class[:, label].astype(np.float64)

    def maps(self) -> dict[int, NDArray[np.float16]]:
        """Slice -> entropy on the network's grid, of the slices whose map is kept."""
        if self._maps is None:
            return {}
        return {index: plane for index, plane in enumerate(self._maps) if not np.isnan(plane).all()}

    def array(self) -> NDArray[np.float16] | None:
        """All maps, (count, H, W), NaN where there is none; None where there are none at all. For saving."""
        return self._maps

    def state(self) -> dict[str, Any]:
        """The rest, as JSON has it."""
        return {
            "axis": self.axis,
            "means": _listed(self.means),
            "per_class": [_listed(row) for row in self._per_class],
            "expected_errors": _listed(self.expected_errors),
            "expected_errors_per_class": [_listed(row) for row in self._errors_per_class],
            "pipeline": self.pipeline,
            "img_size": self.img_size,
            "sha256": self.sha256,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], maps: NDArray[np.float16] | None) -> SliceUncertainties:
        """What `state` and `array` gave."""
        try:
            found = cls(int(state["axis"]), len(state["means"]))
            found.means = _array(state["means"])
            found._per_class = np.stack([_array(row) for row in state["per_class"]])
            # Sessions that an earlier version saved know the means alone; they are led by these, as they were then.
            errors, per_class = (state.get(f"expected_errors{which}") for which in ("", "_per_class"))
            found.expected_errors = (found.means if errors is None else _array(errors)).astype(np.float32)
            found._errors_per_class = (
                found._per_class if per_class is None else np.stack([_array(row) for row in per_class])
            ).astype(np.float32)
            found.pipeline = "paper" if state["pipeline"] == "paper" else "card"
            size = state["img_size"]
            found.img_size = None if size is None else (int(size[0]), int(size[1]))
            found.sha256 = None if state["sha256"] is None else str(state["sha256"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"The saved uncertainties cannot be understood ({error}).") from error
        lengths = {len(found._per_class), len(found.expected_errors), len(found._errors_per_class)}
        lengths |= set() if maps is None else {len(maps)}
        if lengths != {len(found.means)}:
            raise InputError("The saved uncertainties do not fit together.")
        found._maps = maps
        return found


_Row = TypeVar("_Row", bound=np.floating)


def _with_row(table: NDArray[_Row], index: int, row: NDArray[_Row]) -> NDArray[_Row]:
    """The table with this row at `index`, wider where the row is longer; NaN where nothing is known."""
    missing = max(0, len(row) - table.shape[1])
    table = np.pad(table, ((0, 0), (0, missing)), constant_values=np.nan)
    table[index] = np.nan
    table[index, : len(row)] = row
    return table


def _listed(values: NDArray[np.floating]) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]


def _array(values: Sequence[float | None]) -> NDArray[np.float16]:
    return np.array([np.nan if value is None else float(value) for value in values], np.float16)
