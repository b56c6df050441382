"""A labels layer and its session, as `AutosaveController` saves them; the layer is not kept alive.

Labels that lie on no open image are saved with their grid, by which they are found and put back without one.
"""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import InputError
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import geometry_of, label_set_of, sizes
from napari_transunet.volumes.geometry import Geometry

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_transunet.annotation.provenance import RunRecord
    from napari_transunet.annotation.session_store import SessionInfo


def new_session_of(layer: Labels) -> AnnotationSession:
    """A session for labels as they are now, with what their file told of them."""
    session = AnnotationSession.of_labels(layer.data, label_set_of(layer).names)
    session.opened = dict(record_of(layer).opened)
    return session


class KeptLabels:
    """What is saved of a labels layer while a person works.

    Attributes
    ----------
    session : what is known about the labels.
    run_under_way : a run may still write into the layer, also after that was removed.
    run : what is known of that run once it wrote, as far as it is; None where none does.
    writing : held by what writes labels and session so that a save between would find them at odds, and by the save
        while it copies them. The window's thread tries to take it and never waits for it.
    """

    def __init__(self, layer: Labels, session: AnnotationSession) -> None:
        self._layer = weakref.ref(layer)
        self.session = session
        self.run_under_way = False
        self.run: RunRecord | None = None
        self.writing = threading.Lock()

    @property
    def gone(self) -> bool:
        """Whether the labels layer is gone; what waited for an answer may be about one that is."""
        return self._layer() is None

    @property
    def layer(self) -> Labels:
        """The labels layer.

        Raises
        ------
        ReferenceError
            It is gone from the viewer, and from memory.
        """
        layer = self._layer()
        if layer is None:
            raise ReferenceError("The labels layer of this session is gone.")
        return layer

    @property
    def misfit(self) -> str:
        """Why nothing that is known of the labels' voxels holds for the layer's array any more; empty where it does."""
        layer = self._layer()
        if layer is None or tuple(layer.data.shape) == self.session.shape:
            return ""
        return (
            f"“{layer.name}” holds {sizes(layer.data.shape)} voxels now, but {sizes(self.session.shape)} belong to its "
            "image; give it an array of that size, or restore it by “Saved…” in “Review and correct”."
        )

    @property
    def quoted_name(self) -> str:
        """What a sentence calls the labels, also when their layer is gone."""
        layer = self._layer()
        return "labels that were removed" if layer is None else f"“{layer.name}”"


_MARK = "labels-"  # before the fingerprint of a session that belongs to no image


class LoneLabels(KeptLabels):
    """Labels without an image, and their grid.

    Raises
    ------
    VolumeError
        The layer has no grid in mm.
    """

    def __init__(self, layer: Labels, session: AnnotationSession | None = None) -> None:
        super().__init__(layer, session or new_session_of(layer))
        self.grid = asdict(geometry_of(layer))


def lone_fingerprint(layer: Labels) -> Callable[[], str]:
    """What such labels are found by: their grid, their file and their name."""
    file = record_of(layer).file
    path = str(file.path) if file is not None and file.path is not None else None
    told = json.dumps([asdict(geometry_of(layer)), path, str(layer.name)], sort_keys=True)
    return lambda: _MARK + hashlib.sha256(told.encode()).hexdigest()


def is_lone(info: SessionInfo) -> bool:
    """Whether a saved session is of labels without an image, which can be restored without one."""
    return info.about.fingerprint.startswith(_MARK)


def grid_of(state: Mapping[str, Any]) -> Geometry:
    """The grid of saved labels.

    Raises
    ------
    InputError
        None is saved, or it is none.
    """
    try:
        grid = state["grid"]
        rows: Any = tuple(tuple(row) for row in grid["direction"])
        return Geometry(tuple(grid["shape"]), tuple(grid["spacing"]), tuple(grid["origin"]), rows)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError("The grid of these labels is not saved; they were not restored.") from error
