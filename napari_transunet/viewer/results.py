"""The Labels layer that belongs to an image, and the session that goes with it.

The tie is kept in the labels layer's metadata, not in its name: people rename layers. It survives closing and
reopening the dock, and it does not keep a removed image in memory.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.annotation.exporting import SourceState, source_state
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import FileProblem
from napari_transunet.viewer.layers import (
    METADATA_KEY,
    label_colormap,
    label_features,
    label_set_of,
    labels_to_layer,
    source_of,
)
from napari_transunet.viewer.undo import SessionUndo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from napari.layers import Image, Labels

    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.volume import Volume

SUFFIX = " labels"
_SESSION = "session"
_UNDO = "undo"
_IMAGE = "image"
_CHECKPOINTS = "checkpoints"
SOURCE_STATE = "source_state"
"""What `attached` knows of the scan's file when the result was made."""


@dataclass(frozen=True)
class Result:
    """A Labels layer, what is known about its labels, and what keeps that in step with the layer's undo."""

    layer: Labels
    session: AnnotationSession
    undo: SessionUndo


def find_result(layers: Iterable[Any], image: Image, label_set: LabelSet | None = None) -> Result | None:
    """The newest result that belongs to an image; with `label_set`, only one that means the same organs."""
    for layer in reversed(list(layers)):
        session = session_of(layer)
        if session is None or tuple(layer.data.shape) != session.shape:
            continue
        data = layer.metadata[METADATA_KEY][_IMAGE]()
        if data is None or data is not image.data:
            continue
        if label_set is not None and label_set_of(layer).names != label_set.names:
            continue
        return result_of(layer)
    return None


def new_result(image: Image, volume: Volume | Geometry, label_set: LabelSet) -> Result:
    """An empty Labels layer on an image's grid, not yet in any viewer, with a session of its own."""
    from napari.layers import Labels

    shape: tuple[int, int, int] = tuple(image.data.shape)
    highest = max(label_set.names, default=1)
    dtype = np.uint8 if highest < 256 else np.uint16
    data, meta, _ = labels_to_layer(np.zeros(shape, dtype), volume, label_set, f"{image.name}{SUFFIX}")
    layer = Labels(data, **meta)
    if label_set.names:
        layer.selected_label = min(label_set.names)
    return tie(layer, image, AnnotationSession(shape, label_set.names, dtype=dtype))


def tie(layer: Labels, image: Image, session: AnnotationSession) -> Result:
    """Make a Labels layer the result that belongs to an image, with this session."""
    record = layer.metadata.get(METADATA_KEY)
    undo = SessionUndo(layer)
    layer.metadata[METADATA_KEY] = {
        **(record if isinstance(record, dict) else {}),
        _SESSION: session,
        _UNDO: undo,
        _IMAGE: weakref.ref(image.data),
        SOURCE_STATE: _state_of(image),
    }
    return Result(layer, session, undo)


def rename_result(result: Result, label_set: LabelSet) -> None:
    """Give the same labels other names and colours: in the layer, its features, and what an export writes."""
    layer = result.layer
    record = layer.metadata[METADATA_KEY]
    layer.metadata[METADATA_KEY] = {**record, "labels": label_set}
    layer.features = label_features(label_set)
    layer.colormap = label_colormap(label_set)
    result.session.names = label_set.names


def note_checkpoint(result: Result, checkpoint: Path) -> None:
    """Remember that this checkpoint file is about to write into a result."""
    record = result.layer.metadata[METADATA_KEY]
    record[_CHECKPOINTS] = record.get(_CHECKPOINTS, frozenset()) | {checkpoint}


def checkpoints_of(result: Result) -> frozenset[Path]:
    """The checkpoint files that have written into a result in this sitting."""
    return result.layer.metadata[METADATA_KEY].get(_CHECKPOINTS) or frozenset()


def source_state_of(layer: Any) -> SourceState | None:
    """What the scan's file was like when a labels layer was begun; None for other layers and scans without a file."""
    record = layer.metadata.get(METADATA_KEY)
    state = record.get(SOURCE_STATE) if isinstance(record, dict) else None
    return state if isinstance(state, SourceState) else None


def _state_of(image: Image) -> SourceState | None:
    try:
        return source_state(source_of(image))
    except FileProblem:  # what is not there any more cannot change
        return None


def results_of(layers: Iterable[Any], checkpoint: Path) -> list[Result]:
    """The results into which no other file than this checkpoint has written."""
    found = []
    for layer in layers:
        result = result_of(layer)
        if result is not None and layer.metadata[METADATA_KEY].get(_CHECKPOINTS) == {checkpoint}:
            found.append(result)
    return found


def result_of(layer: Any) -> Result | None:
    """The result that a layer shows; None for a layer without a session."""
    session = session_of(layer)
    return Result(layer, session, layer.metadata[METADATA_KEY][_UNDO]) if session is not None else None


def attach(result: Result, name: str, value: Any) -> None:
    """Keep something with a result for as long as its layer lives."""
    result.layer.metadata[METADATA_KEY] = {**result.layer.metadata[METADATA_KEY], name: value}


def attached(result: Result, name: str) -> Any:
    """What was kept with a result under this name; None where nothing was."""
    return result.layer.metadata[METADATA_KEY].get(name)


def image_of(result: Result, layers: Iterable[Any]) -> Image | None:
    """The image among `layers` on which a result was made; None where it is gone or its voxels were replaced."""
    data = result.layer.metadata[METADATA_KEY][_IMAGE]()
    images = (layer for layer in layers if layer._type_string == "image")
    return next((image for image in images if data is not None and image.data is data), None)


def session_of(layer: Any) -> AnnotationSession | None:
    """The session of a labels layer that this package filled; None for any other."""
    record = layer.metadata.get(METADATA_KEY)
    session = record.get(_SESSION) if isinstance(record, dict) else None
    # napari's copy of a layer shares its metadata; the session stays with the layer that it was made for.
    own = session is not None and record[_UNDO].follows(layer)
    return session if own and isinstance(session, AnnotationSession) else None
