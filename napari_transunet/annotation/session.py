"""What is known about one volume's labels: what the network wrote, by which runs, and what a person changed.

Edits are found by comparison with the prediction, not by listening to a viewer, so that they are found
however they were made: brush, fill, undo, another plugin, or a script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_transunet.errors import InputError


@dataclass(frozen=True)
class RunRecord:
    """One run of a network over a volume, as it goes into the provenance of an export.

    Attributes
    ----------
    checkpoint, sha256
        Name of the checkpoint and the hash of its file (None where the weights came from memory).
    variant, pipeline, device, precision
        What ran, as the predictor reports it, e.g. "R50-ViT-Ti_16", "card", "cpu", "float32".
    date
        Start of the run, ISO 8601 with the time zone.
    seconds
        Wall time from the start to the last slice.
    slices, total
        Slices written and slices asked for; fewer written than asked for means the run was stopped.
    """

    checkpoint: str
    sha256: str | None
    variant: str
    pipeline: str
    device: str
    precision: str
    date: str
    seconds: float
    slices: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether every slice asked for was written."""
        return self.slices == self.total


def now() -> str:
    """The current time as ISO 8601 to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class AnnotationSession:
    """The prediction as last written for one volume, the runs that wrote it, and the edits made since.

    Parameters
    ----------
    shape
        Voxels along (z, y, x) of the volume.
    names
        Label value -> organ name of what the network can find.
    dtype
        Unsigned integer type of the labels.
    """

    def __init__(
        self, shape: Sequence[int], names: Mapping[int, str], *, dtype: DTypeLike = np.uint8
    ) -> None:
        if len(shape) != 3:
            raise InputError(f"A session needs the shape of a volume (z, y, x), not {tuple(shape)}.")
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.names: dict[int, str] = dict(names)
        self.prediction: NDArray[np.unsignedinteger[Any]] = np.zeros(self.shape, dtype=dtype)
        self._runs: list[RunRecord] = []

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """All runs so far, oldest first."""
        return tuple(self._runs)

    def write_slice(self, axis: int, index: int, plane: NDArray[Any]) -> None:
        """Remember what the network wrote into one slice.

        Parameters
        ----------
        axis, index
            The slice: position `index` along array axis `axis`.
        plane
            Labels of the slice, its two axes in the order of the volume's other two.
        """
        self.prediction[slice_index(axis, index)] = plane

    def add_run(self, record: RunRecord) -> None:
        """Add a run that wrote at least one slice."""
        self._runs.append(record)

    def edited_mask(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """True where `labels` (z, y, x) differ from the prediction."""
        self._check(labels)
        return np.asarray(labels != self.prediction, dtype=np.bool_)

    def edited_voxels(
        self, labels: NDArray[Any], *, axis: int = 0, slices: Iterable[int] | None = None
    ) -> int:
        """How many voxels differ from the prediction, in the whole volume or in some slices along `axis`."""
        self._check(labels)
        chosen = range(self.shape[axis]) if slices is None else slices
        return sum(
            int(np.count_nonzero(labels[plane] != self.prediction[plane]))
            for plane in (slice_index(axis, index) for index in chosen)
        )

    def would_lose_edits(
        self, labels: NDArray[Any], *, axis: int = 0, slices: Iterable[int] | None = None
    ) -> bool:
        """Whether replacing these slices would lose a person's work.

        A slice without any label has nothing to lose: that is what undoing a run leaves behind.
        """
        self._check(labels)
        chosen = range(self.shape[axis]) if slices is None else slices
        for index in chosen:
            plane = slice_index(axis, index)
            if not np.array_equal(labels[plane], self.prediction[plane]) and np.any(labels[plane]):
                return True
        return False

    def provenance(self, labels: NDArray[Any] | None = None) -> dict[str, Any]:
        """What an export says about where its labels come from: the runs, and the edits if `labels` are given."""
        found: dict[str, Any] = {"runs": [asdict(run) for run in self._runs]}
        if self._runs:
            last = self._runs[-1]
            found |= {
                "checkpoint": last.checkpoint,
                "sha256": last.sha256,
                "variant": last.variant,
                "date": last.date,
            }
        if labels is not None:
            found["edited_voxels"] = self.edited_voxels(labels)
        return found

    def _check(self, labels: NDArray[Any]) -> None:
        if tuple(labels.shape) != self.shape:
            raise InputError(
                f"The labels have shape {tuple(labels.shape)}, but the volume they belong to has {self.shape}."
            )


def slice_index(axis: int, index: int) -> tuple[slice | int, ...]:
    """Index of one slice of a volume: `index` along `axis`, everything along the other two axes."""
    whole: list[slice | int] = [slice(None)] * 3
    whole[axis] = int(index)
    return tuple(whole)
