"""Which image labels lie on, which session is theirs, and which labels of an image are meant: one answer for a window.

Labels belong to an image because a run made them on it, because they lie on its grid and on no other image's (by the
position of corners in mm), or because a person says so. Names, order, equal shapes and copies decide nothing.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.errors import SizeError, VolumeError
from napari_transunet.files import available_memory
from napari_transunet.viewer.layers.graphics import free_graphics_in_their_context
from napari_transunet.viewer.layers.grids import (
    extend_to_grid,
    part_between,
    put_on_grid,
    reorientation_between,
    was_made_on,
)
from napari_transunet.viewer.layers.layer_record import change_record, is_overlay, is_scan, record_of
from napari_transunet.viewer.layers.layers import new_labels_layer, problem_with, voxels_of
from napari_transunet.viewer.layers.undo import labels_before, stroke_box
from napari_transunet.viewer.sessions.kept_labels import LoneLabels, new_session_of
from napari_transunet.viewer.sessions.paint_constraint import PaintConstraint
from napari_transunet.viewer.sessions.results import SUFFIX, Result
from napari_transunet.viewer.sessions.stroke_marks import StrokeMarks
from napari_transunet.viewer.widgets.qt_helpers import window_object
from napari_transunet.volumes.orientation import IDENTITY

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.annotation.session_folder import SessionFolder
    from napari_transunet.viewer.sessions.autosave_controller import AutosaveController
    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.volume import Volume

LARGER, ELSEWHERE = "is larger", "lies elsewhere"
"""Why a person alone can put labels on an image; see `Sessions.assignable_images`."""

_NAME = "transunet_sessions"
_ARRAYS = 6
"""Of the volume's size: labels, prediction, what undo needs, and, once tools or other runs came, three more."""


class Sessions(QObject):
    """The results of one window's labels layers.

    Signals
    -------
    changed(): labels were tied to an image, or other labels of an image are meant.
    selected(object): a person selected this labels layer; that napari selects a copy because it is new does not count,
        and is taken back where the original has a session.
    save_failed(str): a sentence that says why labels are not saved while a person works; once a kind.
    saving_changed(str): `unsaved` is another.
    reopened(object, object): a `Result`, and its slices that have to be reviewed again, ascending, since a stroke, an
        undo or a redo changed them.
    """

    changed = Signal()
    selected = Signal(object)
    save_failed = Signal(str)
    saving_changed = Signal(str)
    reopened = Signal(object, object)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._results: weakref.WeakKeyDictionary[Any, Result] = weakref.WeakKeyDictionary()
        self._used: list[weakref.ref[Any]] = []
        self._new_copy: Any = None
        # What saves labels that lie on no open image.
        self._lone: weakref.WeakKeyDictionary[Any, AutosaveController] = weakref.WeakKeyDictionary()
        # Of all labels that have a session, on an image or alone.
        self._constraints: weakref.WeakKeyDictionary[Any, PaintConstraint] = weakref.WeakKeyDictionary()
        self._not_saved: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._unsaved_told = ""
        # Layers that have a session and are not in the viewer yet: nobody else holds them.
        self._coming: list[Any] = []
        # By the `id` of its array, which is not held: the session of labels that were removed, and their image.
        self._left: dict[int, tuple[weakref.ref[Any], AnnotationSession, weakref.ref[Any]]] = {}
        for layer in viewer.layers:
            if layer._type_string == "labels":
                layer.events.paint.connect(self._on_painted)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.selection.events.active.connect(self._on_active)

    # -- what is known --------------------------------------------------------------------------------------

    def result_of(self, layer: Any) -> Result | None:
        """The result that a labels layer shows; None where it has no session."""
        return self._results.get(layer) if layer is not None else None

    def image_of(self, result: Result) -> Image | None:
        """The image on which labels lie; None where it is gone or its voxels were replaced."""
        images = (layer for layer in self._viewer.layers if layer._type_string == "image")
        return next((image for image in images if result.lies_on(image)), None)

    def results_on(self, image: Image) -> list[Result]:
        """The results whose labels lie on an image, the one that was used last first."""
        return [
            result
            for result in map(self._results.__getitem__, self.recently_used())
            if result.lies_on(image) and tuple(result.layer.data.shape) == result.session.shape
        ]

    def recently_used(self) -> list[Labels]:
        """The labels layers in the viewer that have a session, the one that was used last first."""
        return [
            layer
            for ref in reversed(self._used)
            if (layer := ref()) is not None and layer in self._viewer.layers
        ]

    def result_on(self, image: Image, label_set: LabelSet | None = None) -> Result | None:
        """The labels of an image that were used last; with `label_set`, of those for the same organs."""
        return next(
            (
                result
                for result in self.results_on(image)
                if label_set is None or result.session.names == label_set.names
            ),
            None,
        )

    def images_on_grid_of(self, layer: Image | Labels) -> list[Image]:
        """The images on whose grid a layer lies, also in another order of axes."""
        return [image for image in self._images() if reorientation_between(layer, image) is not None]

    def images_covered_by(self, layer: Labels) -> list[Image]:
        """The images of whose grid labels cover a part."""
        return [image for image, why in self.assignable_images(layer).items() if why == LARGER]

    def assignable_images(self, layer: Labels) -> dict[Image, str]:
        """The images that labels can be put on, with why a person alone can do it; "" where they share the grid.

        Those of whose grid the labels cover a part are `LARGER`; those of the same shape lie `ELSEWHERE`.
        """
        parts = [(image, part_between(layer, image)) for image in self._images()]
        shape = tuple(layer.data.shape)
        return {
            **{image: "" for image, part in parts if part is not None and part.is_same},
            **{image: LARGER for image, part in parts if part is not None and not part.is_same},
            **{image: ELSEWHERE for image, part in parts if part is None and voxels_of(image).shape == shape},
        }

    def unassigned_labels_on(self, image: Image) -> list[Labels]:
        """Labels layers without a session that lie on an image's grid, or on a part of it."""
        return [
            layer
            for layer in self._viewer.layers
            if is_reviewable(layer) and layer not in self._results and part_between(layer, image) is not None
        ]

    @property
    def unsaved(self) -> str:
        """Why labels in the window are not being saved now; empty where all are."""
        controllers = [result.autosave for result in self._results.values()]
        for autosave in (*controllers, *self._lone.values()):
            if autosave is not None and not autosave.closed and autosave.failing:
                return autosave.failing
        return next((why for layer, why in self._not_saved.items() if layer in self._viewer.layers), "")

    # -- what is decided ------------------------------------------------------------------------------------

    def new_result(self, image: Image, volume: Volume | Geometry, label_set: LabelSet) -> Result:
        """An empty Labels layer on an image's grid, not yet in the viewer, with a session of its own.

        Raises
        ------
        SizeError
            A run's labels and what is known about them would not fit into memory.
        """
        shape: tuple[int, int, int] = tuple(voxels_of(image).shape)
        dtype = _dtype_of(label_set)
        needed, free = memory_for_labels(image, label_set), available_memory()
        if needed > free:  # empty arrays take none yet: the system would end the program in mid-run
            raise SizeError(
                f"Labels of “{image.name}” and the record of edits take up to {needed / 1e9:.1f} GB of memory, and "
                f"{free / 1e9:.1f} GB are free. Crop or downsample the volume, or open it as an OME-Zarr in a folder, "
                "into which labels can be written as they are made. For one in the web the command “napari-transunet "
                "segment” makes such a folder."
            )
        empty, name = np.zeros(shape, dtype), f"{image.name}{SUFFIX}"
        layer = new_labels_layer(empty, volume, label_set, name, image=image)
        session = AnnotationSession(shape, label_set.names, dtype=dtype)
        return self.bind_result(layer, image, session, created_by_run=True)

    def bind_result(
        self, layer: Labels, image: Image, session: AnnotationSession, *, created_by_run: bool = False
    ) -> Result:
        """Give a labels layer its session, and the image that it lies on.

        Raises
        ------
        ValueError
            It has one already: there is one session a layer.
        """
        if layer in self._results:
            raise ValueError(f"“{layer.name}” has a session already.")
        if not layer.data.flags.writeable:  # of a file that is mapped into memory, for example
            layer.data = layer.data.copy()
        result = Result(layer, image, session, created_by_run=created_by_run)
        result.constraint = self._constrain(layer)
        result.constraint.undo = result.undo
        result.undo.call_before_write(result.constraint.check)
        result.marks = StrokeMarks(self._viewer, result)
        held = weakref.ref(result)  # or the layer would hold itself
        result.undo.reopened = lambda slices: self.reopened.emit(held(), slices)
        self._results[layer] = result
        if layer not in self._viewer.layers:
            self._coming.append(layer)
        self.set_current(result)
        return result

    def result_for(self, layer: Labels) -> Result | None:
        """The result of a labels layer; a new one where it is certain on which image it lies, else None."""
        known = self.result_of(layer)
        if known is not None:
            return known
        images = self.images_on_grid_of(layer) if is_reviewable(layer) else []
        if images or not is_reviewable(layer):
            return self.assign_image(layer, images[0]) if len(images) == 1 else None
        # By its position alone, a part may be one of another patient's scan of the same size: its file must name it.
        named = [image for image in self.images_covered_by(layer) if was_made_on(layer, image)]
        with contextlib.suppress(VolumeError):  # labels outside of it; who chooses the image is told
            return self.assign_image(layer, named[0]) if len(named) == 1 else None
        return None

    def assign_image(self, layer: Labels, image: Image, session: AnnotationSession | None = None) -> Result:
        """These are labels of this image, as a person says or as their grid tells.

        Labels that lie elsewhere are moved onto the image's grid, voxel by voxel; those that cover a part of it are put
        onto the whole. Without a `session` of theirs, they get one in which they count as unedited.

        Raises
        ------
        VolumeError
            They have another shape than the image and are no part of it, or lie outside of it.
        """
        known = self.result_of(layer)
        if known is not None and known.lies_on(image):
            return known
        turn = reorientation_between(layer, image)
        part = part_between(layer, image) if turn is None else None
        if part is not None and known is None:
            told = extend_to_grid(layer, image, part)
            session = new_session_of(layer)
            session.coverage = told
            return self.bind_result(layer, image, session)
        if turn is None:
            if tuple(layer.data.shape) != tuple(voxels_of(image).shape):
                raise VolumeError(f"“{layer.name}” and “{image.name}” have different sizes.")
            turn = IDENTITY
        if known is not None and not turn.is_identity:
            raise VolumeError(f"“{layer.name}” was corrected on another image; duplicate it first.")
        put_on_grid(layer, image, turn)
        if known is None:
            if session is None and layer in self._lone and turn.is_identity:
                session = self._lone[layer].result.session  # what was painted so far are edits
            if session is None or session.shape != layer.data.shape:
                session = new_session_of(layer)
            return self.bind_result(layer, image, session)
        if known.autosave is not None:
            known.autosave.close(wait=False)
            known.autosave = None
        known.lie_on(image)
        self.set_current(known)
        return known

    def set_current(self, result: Result) -> None:
        """These labels of their image are meant from now on."""
        layer = result.layer
        self._used = [ref for ref in self._used if ref() is not None and ref() is not layer]
        self._used.append(weakref.ref(layer))
        if layer in self._lone and self.image_of(result) is not None:
            self._lone.pop(layer).close(wait=False)
        self.changed.emit()

    def keep_lone(
        self, layer: Labels, session: AnnotationSession | None = None, folder: SessionFolder | None = None
    ) -> None:
        """Save labels that lie on no open image, from now on while a person works."""
        from napari_transunet.viewer.sessions.autosave_controller import AutosaveController

        try:
            self._lone[layer] = autosave = AutosaveController(
                self._viewer, LoneLabels(layer, session), layer, folder
            )
        except VolumeError as error:
            self._lone.pop(layer, None)
            why = f"“{layer.name}” is not being saved while you work; export it often. ({error})"
            self._not_saved[layer] = why
            self.save_failed.emit(why)
            self._on_saving()
            return
        self._constrain(layer)
        self.watch(autosave)
        autosave.touch()

    def watch(self, autosave: AutosaveController) -> None:
        """Tell whether this saves."""
        autosave.problem.connect(self.save_failed)
        autosave.problem.connect(self._on_saving)
        autosave.saved.connect(self._on_saving)

    # -- inside ---------------------------------------------------------------------------------------------

    def _images(self) -> list[Image]:
        return [layer for layer in self._viewer.layers if is_scan(layer) and problem_with(layer) is None]

    def _session_of(self, layer: Any) -> AnnotationSession | None:
        """What is known about labels, whether or not their image is open."""
        if (result := self.result_of(layer)) is not None:
            return result.session
        autosave = self._lone.get(layer) if layer is not None else None
        return autosave.result.session if autosave is not None else None

    def _constrain(self, layer: Labels) -> PaintConstraint:
        """What holds strokes in a layer away from what is locked in its session."""
        if layer not in self._constraints:
            self._constraints[layer] = PaintConstraint(layer, self._locked_in)
        return self._constraints[layer]

    def _locked_in(self, layer: Labels) -> frozenset[int]:
        session = self._session_of(layer)
        return session.locked if session is not None else frozenset()

    def _on_painted(self, event: Any) -> None:
        """Labels on which a person works are saved, whether or not a dock shows them."""
        from napari_transunet.viewer.sessions.autosave_controller import autosave_of, save_soon

        layer = event.source
        result = self.result_of(layer)
        if layer not in self._viewer.layers or (result is not None and autosave_of(result) is not None):
            return
        if result is not None and self.image_of(result) is not None:
            save_soon(self._viewer, result)
            return
        if layer in self._lone and not self._lone[layer].closed:
            return
        if result is not None:
            self.keep_lone(layer, result.session)
        elif is_reviewable(layer):
            # The stroke, of which this is the first news, is an edit already.
            session = new_session_of(layer)
            if (box := stroke_box(event.value)) is not None:
                session.prediction[box] = labels_before([event.value], box, session.prediction[box])
            images = self.images_on_grid_of(layer)
            taken = layer is self._viewer.layers.selection.active and layer is not self._new_copy
            # To turn the array would take the stroke out of napari's undo.
            if taken and len(images) == 1 and reorientation_between(layer, images[0]) == IDENTITY:
                save_soon(self._viewer, self.assign_image(layer, images[0], session))
            else:
                self.keep_lone(layer, session)

    def _on_saving(self, _told: object = None) -> None:
        if (why := self.unsaved) != self._unsaved_told:
            self._unsaved_told = why
            self.saving_changed.emit(why)

    def _on_removed(self, event: Any) -> None:
        result = self._results.get(event.value)
        image = None if result is None else self.image_of(result)
        if result is not None and image is not None:
            data = event.value.data
            forget = partial(self._left.pop, id(data), None)
            known = weakref.ref(data, lambda _gone: forget()), result.session, weakref.ref(image)
            self._left[id(data)] = known
        if self._unsaved_told:  # once whoever else hears of it has done what there is to do
            QTimer.singleShot(0, self._on_saving)

    def _on_inserted(self, event: Any) -> None:
        layer = event.value
        if layer._type_string == "labels":
            layer.events.paint.connect(self._on_painted)
        self._coming = [other for other in self._coming if other is not layer]
        # napari selects what is new, right after this event.
        if layer._type_string == "labels" and layer.source.parent is not None:
            self._new_copy = layer
            QTimer.singleShot(0, self._forget_copy)
            original = self._session_of(layer.source.parent())
            if original is not None and is_reviewable(layer) and original.shape == layer.data.shape:
                # A copy gets a session of its own, which knows nothing of those runs.
                change_record(layer, opened=original.provenance(layer.data))
        elif layer._type_string == "labels" and self._take_up(layer):
            return
        elif layer._type_string == "labels" and record_of(layer).file is not None:
            # A file of labels, however it was opened, is tied before anybody paints in it.
            self.result_for(layer)

    def _take_up(self, layer: Labels) -> bool:
        """Labels that were an image for a while are another layer of the same array: their session goes on."""
        array, session, seen = self._left.get(id(layer.data), (None, None, None))
        image = None if seen is None else seen()
        if (
            array is None
            or session is None
            or array() is not layer.data
            or layer in self._results
            or image not in self._viewer.layers
            or not is_reviewable(layer)
        ):
            return False
        from napari_transunet.viewer.sessions.autosave_controller import save_soon

        result = self.bind_result(layer, image, session, created_by_run=bool(session.runs))
        save_soon(self._viewer, result)
        return True

    def _forget_copy(self) -> None:
        """A copy is made to keep something safe: the brush stays with the labels that both docks mean."""
        copy, self._new_copy = self._new_copy, None
        original = copy.source.parent() if copy is not None else None
        layers = self._viewer.layers
        if original in layers and self.result_of(original) is not None and layers.selection.active is copy:
            layers.selection.active = original

    def _on_active(self, _event: Any = None) -> None:
        layer = self._viewer.layers.selection.active
        if layer is None or layer is self._new_copy or not is_reviewable(layer):
            return
        result = self.result_of(layer)
        if result is not None:
            self.set_current(result)
        self.selected.emit(layer)


def memory_for_labels(image: Image, label_set: LabelSet) -> int:
    """Bytes that a run's labels of an image, and what is known about them, take at most."""
    voxels: int = math.prod(voxels_of(image).shape)
    return _ARRAYS * np.dtype(_dtype_of(label_set)).itemsize * voxels


def _dtype_of(label_set: LabelSet) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if max(label_set.names, default=1) < 256 else np.uint16


def is_reviewable(layer: Any) -> bool:
    """Whether a layer holds labels of a volume in memory, and does not only show something about labels."""
    data = layer.data if layer._type_string == "labels" and not is_overlay(layer) else None
    return isinstance(data, np.ndarray) and data.ndim == 3


def sessions_of(viewer: Viewer) -> Sessions:
    """The sessions of a viewer's window; they live as long as it."""
    return window_object(viewer, Sessions, _NAME, _in_window)


def _in_window(viewer: Viewer, window: QObject) -> Sessions:
    free_graphics_in_their_context(viewer.window._qt_viewer)
    return Sessions(viewer, window)
