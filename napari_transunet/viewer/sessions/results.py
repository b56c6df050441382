"""A labels layer with all that belongs to it and to no copy of it: its session, its undo, and the image it was made on.

There is one `Result` a layer; `viewer.sessions` makes them and knows them.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_transunet.errors import FileProblem, VolumeError
from napari_transunet.export.source import SourceState, source_state
from napari_transunet.viewer.layers.grids import put_on_grid
from napari_transunet.viewer.layers.layer_record import change_record
from napari_transunet.viewer.layers.layers import (
    PLACEMENT,
    label_colormap,
    label_features,
    label_set_of,
    source_of,
    voxels_of,
)
from napari_transunet.viewer.layers.undo import SessionUndo
from napari_transunet.viewer.sessions.kept_labels import KeptLabels
from napari_transunet.volumes.orientation import IDENTITY

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Image, Labels

    from napari_transunet.annotation.session import AnnotationSession
    from napari_transunet.viewer.sessions.autosave_controller import AutosaveController
    from napari_transunet.viewer.sessions.paint_constraint import PaintConstraint
    from napari_transunet.viewer.sessions.stroke_marks import StrokeMarks
    from napari_transunet.volumes.labels import LabelSet

SUFFIX = " labels"


class Result(KeptLabels):
    """Labels on an image, and what keeps their session in step with the layer's undo.

    Attributes
    ----------
    undo : brings the session in line with napari's undo.
    constraint : holds strokes away from locked organs.
    marks : takes marks as reviewed away where a stroke changes a slice out of sight.
    created_by_run : the layer was made for a run, not opened or drawn.
    checkpoints : the checkpoint files that have written into the layer in this window.
    hidden : label values that are not shown.
    autosave : saves the labels while a person works; None until there is something to save.
    """

    def __init__(
        self, layer: Labels, image: Image, session: AnnotationSession, *, created_by_run: bool = False
    ) -> None:
        super().__init__(layer, session)
        self.undo = SessionUndo(layer)
        self.constraint: PaintConstraint | None = None
        self.marks: StrokeMarks | None = None
        self.created_by_run = created_by_run
        self.checkpoints: frozenset[Path] = frozenset()
        self.hidden: frozenset[int] = frozenset()
        self.autosave: AutosaveController | None = None
        self.lie_on(image)

    @property
    def label_set(self) -> LabelSet:
        """Names and colours of the labels."""
        return label_set_of(self.layer)

    def lie_on(self, image: Image) -> None:
        """From now on these are labels of this image, and stay on it where it is moved or rescaled."""
        self._image, self._voxels = weakref.ref(image), _reference(voxels_of(image))
        change_record(self.layer, scan=source_of(image), scan_state=_state_of(image))
        for moved in PLACEMENT:
            getattr(image.events, moved).connect(self._follow)  # napari holds it weakly

    def _follow(self, _event: Any = None) -> None:
        image, layer = self._image(), self._layer()
        if image is not None and layer is not None and self.lies_on(image):
            with contextlib.suppress(VolumeError):  # a sheared image has no grid
                put_on_grid(layer, image, IDENTITY)

    def lies_on(self, image: Any) -> bool:
        """Whether they are labels of this image, whose voxels are those that it had when they were begun."""
        return self._image() is image and self._voxels() is voxels_of(image)

    def rename(self, label_set: LabelSet) -> None:
        """Give the same labels other names and colours: in the layer, its features, and what an export writes."""
        layer = self.layer
        change_record(layer, labels=label_set)
        layer.features = label_features(label_set)
        layer.colormap = label_colormap(label_set)


def _reference(array: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(array)
    except TypeError:  # not every lazy array can be referred to weakly; it holds no voxels
        return lambda: array


def _state_of(image: Image) -> SourceState | None:
    try:
        return source_state(source_of(image))
    except FileProblem:  # what is not there any more cannot change
        return None
