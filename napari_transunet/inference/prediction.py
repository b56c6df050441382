"""What a predictor says of one slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import TransUNetError

if TYPE_CHECKING:
    from napari_transunet.inference.uncertainty import SliceUncertainty

Labels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


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
