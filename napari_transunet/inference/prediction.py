"""What a predictor says of one slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import TransUNetError

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.checkpoints.loading import Checkpoint
    from napari_transunet.inference.options import Pipeline
    from napari_transunet.inference.uncertainty import SliceUncertainty
    from napari_transunet.volumes.volume import Volume

Labels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


class SlicePredictor(Protocol):
    """What predicts slices: a `Predictor` here, or one on another machine. The attributes are those of `Predictor`."""

    checkpoint: Checkpoint | None
    card: ModelCard
    pipeline: Pipeline
    device: Any
    precision_name: str
    backend: Any
    orthogonal_planes: bool
    mirror_tta: bool

    def slice_axis(self, volume: Volume | npt.NDArray[Any]) -> int:
        """The axis along which slices are taken."""

    def iter_batches(
        self,
        volume: Volume | npt.NDArray[Any],
        *,
        first: int | None = None,
        slices: Sequence[int] | None = None,
        cancelled: Callable[[], bool] | None = None,
        uncertainty: bool = False,
        known: Mapping[int, Labels] | None = None,
    ) -> Iterator[list[SlicePrediction]]:
        """The slices of each batch as it is done; some may come again with the last one."""


class PredictionCancelled(TransUNetError):
    """`Predictor.predict` was asked to stop."""


@dataclass(frozen=True, slots=True, eq=False)
class SlicePrediction:
    """Labels of one slice: its index along the volume's `slice_axis`, and the plane of labels across that axis.

    `uncertainty` is there where it was asked for.
    """

    index: int
    plane: Labels
    uncertainty: SliceUncertainty | None = None


def renumbered(batch: Sequence[SlicePrediction], values: Sequence[int] | None) -> Sequence[SlicePrediction]:
    """The same slices with a label value in place of each of the network's classes; None: as they are."""
    if values is None:
        return batch
    table = np.asarray(values)
    table = table.astype(np.uint8 if table.max() < 256 else np.uint16)
    return [replace(one, plane=table[one.plane], uncertainty=_moved(one.uncertainty, table)) for one in batch]


def _moved(found: SliceUncertainty | None, table: npt.NDArray[Any]) -> SliceUncertainty | None:
    if found is None:
        return None
    rows = []
    for row in (found.per_class, found.expected_error_per_class):
        moved = np.full(int(table.max()) + 1, np.nan, row.dtype)
        moved[table] = row[: len(table)]
        moved[0] = np.nan
        rows.append(moved)
    return replace(found, per_class=rows[0], expected_error_per_class=rows[1])
