"""Whether a volume is what a checkpoint was trained on, judged by its modality and its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_transunet.viewer.layers import looks_like_ct
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.volume import Volume

_STEP = 7  # every so many voxels along each axis are looked at


def doubt_about(volume: Volume, card: ModelCard) -> str | None:
    """A sentence that says why the volume may not suit the checkpoint; None where nothing speaks against it."""
    if card.modality is None:
        return None
    if volume.modality is not None:
        if volume.modality == card.modality:
            return None
        return (
            f"This checkpoint expects {card.modality}; the volume is {volume.modality} ({_values(volume)})."
        )
    if card.modality == "CT" and not looks_like_ct(volume.data):
        sample = volume.data[::_STEP, ::_STEP, ::_STEP]
        like = "looks like MR" if sample.size and sample.min() >= 0 else "does not look like it"
        return f"This checkpoint expects CT; the volume {like} ({_values(volume)})."
    if card.modality != "CT" and looks_like_ct(volume.data):
        return f"This checkpoint expects {card.modality}; the volume looks like CT ({_values(volume)})."
    return None


def slice_axis_of(geometry: Geometry, card: ModelCard | None, pipeline: str) -> int:
    """The array axis along which the predictor will take slices, known before there is a predictor."""
    if pipeline == "paper" or card is None or card.orientation is None:
        return 0
    return Reorientation.between(geometry, card.orientation).slice_axis


def _values(volume: Volume) -> str:
    sample = np.asarray(volume.data[::_STEP, ::_STEP, ::_STEP])
    if not sample.size:
        return "no values"
    low, high = float(sample.min()), float(sample.max())
    places = 0 if high - low >= 20 else 2
    return f"values {low:,.{places}f} to {high:,.{places}f}"
