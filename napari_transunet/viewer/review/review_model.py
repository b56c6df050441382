"""The labels that the dock works on, and walking through their slices. It owns no widget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation.review_order import (
    next_to_check,
    next_to_interpolate_from,
    next_to_learn_from,
    seconds_left,
)
from napari_transunet.errors import some
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.layers.layer_record import is_overlay
from napari_transunet.viewer.layers.layers import geometry_of, label_set_of
from napari_transunet.viewer.layers.napari_versions import camera_of
from napari_transunet.viewer.layers.slice_numbers import (
    SliceNumbers,
    index_in_view,
    position_in_view,
    slice_numbers,
)
from napari_transunet.viewer.layers.undo import was_edited, write_as_one_step
from napari_transunet.viewer.layers.visibility import colors_of
from napari_transunet.viewer.review.label_editing import all_labels
from napari_transunet.viewer.review.slice_strip import StripData
from napari_transunet.viewer.sessions.autosave_controller import autosave_of, save_soon
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.viewer.widgets.messages import reopened_sentence
from napari_transunet.viewer.widgets.qt_helpers import single_shot
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.label_values import HIGHEST_LABEL, values_in
from napari_transunet.volumes.labels import LabelSet

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.annotation.session import AnnotationSession
    from napari_transunet.viewer.sessions.results import Result

_Order = Literal["check", "learn", "interpolate"]

_FEW = 20  # labels
_QUIET = 400  # ms without a change before the slices are looked at again


@dataclass(frozen=True, eq=False)
class Overview:
    """What is known of all slices: for the strip, where the last run disagrees, and how much of each label each shows.

    `areas` are (n,) voxels of each label; `unnamed` are the values that occur without a name, `unusable` those that no
    label can have.
    """

    strip: StripData
    conflicts: Mapping[int, int]
    areas: Mapping[int, NDArray[np.int64]]
    unnamed: tuple[int, ...] = ()
    unusable: tuple[int, ...] = ()


class ReviewModel(QObject):
    """Follows one labels layer of a viewer at a time.

    Signals
    -------
    overview_changed(): `overview` is new.
    slice_changed(): another slice is in view, or something about it changed.
    followed(): it follows another layer, or none.
    message(str): a sentence about what was asked for.
    """

    overview_changed = Signal()
    slice_changed = Signal()
    followed = Signal()
    message = Signal(str)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.sessions = sessions_of(viewer)
        self.result: Result | None = None
        self.undecided: Labels | None = None
        """Labels that were asked for, but of which it is not certain on which image they lie."""
        self.organ_filter: int | None = None
        self.overview: Overview | None = None
        # By the number of runs, what for, and the filter.
        self._proposed: dict[tuple[int, _Order, int | None], set[int]] = {}
        self._order: _Order = "check"  # in which somebody last went to the next slice
        self._tasks = BackgroundTasks(self)
        self._pause = single_shot(self, _QUIET, self.update_overview)
        self._links = EventLinks()  # to the followed layer, and to the view of it
        self.sessions.reopened.connect(self._on_reopened)

    # -- which labels ---------------------------------------------------------------------------------------

    def follow(self, layer: Labels | None) -> None:
        """Work on this labels layer from now on; one that no run of ours made gets a session of its own.

        Where it is not certain on which image it lies, it is `undecided` until a person says so.
        """
        if layer is self.layer and self.undecided is None:
            return
        self._let_go()
        result = self.sessions.result_for(layer) if layer is not None else None
        if layer is None or result is None:
            self._pause.stop()
            self.undecided = layer
            self.followed.emit()
            self.overview_changed.emit()
            return
        self.result = result
        self.sessions.set_current(result)
        events, view = layer.events, self.viewer.dims.events
        self._links.connect(self._on_changed, events.set_data, events.paint, events.data)
        self._links.connect(lambda _event: self._pause.start(), events.colormap)
        steps = view.current_step, view.ndisplay, view.order
        self._links.connect(lambda _event: self.slice_changed.emit(), *steps)
        self.followed.emit()
        self.update_overview()
        self.slice_changed.emit()

    def detach(self) -> None:
        """Follow nothing any more, and forget what is under way."""
        self._pause.stop()
        self._tasks.drop()
        self._let_go()
        self.followed.emit()

    @property
    def layer(self) -> Labels | None:
        """The layer that is followed."""
        return self.result.layer if self.result is not None else None

    @property
    def image(self) -> Image | None:
        """The image on which the followed labels lie; None where it is gone."""
        return self.sessions.image_of(self.result) if self.result is not None else None

    @property
    def names(self) -> dict[int, str]:
        """Names of the labels of the followed layer, "label 3" for one that occurs without a name."""
        return self.labels.names

    @property
    def labels(self) -> LabelSet:
        """The labels of the followed layer, also those that occur in it without a name."""
        if self.result is None:
            return LabelSet()
        unnamed = self.overview.unnamed if self.overview is not None else ()
        return all_labels(self.result.layer, self.result.label_set, unnamed, self.result.session.names)

    @property
    def slice_in_view(self) -> int:
        """Index of the slice in view along the axis that is reviewed; 0 where nothing is followed."""
        if self.result is None:
            return 0
        return position_in_view(self.viewer, self.result.layer)[self.result.session.axis]

    @property
    def disabled_reason(self) -> str | None:
        """Why nothing can be done now; None where it can."""
        if self.undecided is not None:
            name, images = self.undecided.name, self.sessions.assignable_images(self.undecided)
            return (
                f"Choose the image on which “{name}” lies."
                if images
                else f"No image here has the size of “{name}”; open the scan of these labels."
            )
        if self.result is None:
            layers = self.viewer.layers
            others = [layer for layer in layers if layer._type_string == "labels" and not is_overlay(layer)]
            if others:
                return (
                    f"“{others[-1].name}” cannot be corrected here: labels must have three dimensions and be in memory "
                    "(not in a file, as layers of dask and Zarr are, nor in several resolutions)."
                )
            return "Segment a volume first, or open its labels."
        if not self.result.layer.editable:
            return "Wait until the segmentation is done, or cancel it."
        if self.result.misfit:
            return self.result.misfit
        if self.overview is not None and self.overview.unusable:
            values = some([f"{value:,}" for value in self.overview.unusable])
            return (
                f"“{self.result.layer.name}” holds the label {values}; labels from 1 to {HIGHEST_LABEL:,} can be "
                "corrected and exported. Renumber it first."
            )
        return None

    @property
    def no_slice_reason(self) -> str | None:
        """Why nothing can be done to the slice in view: as `disabled_reason`, or because none of them is in view."""
        if (why := self.disabled_reason) is not None or self.result is None:
            return why
        layer, axis = self.result.layer, self.result.session.axis
        if index_in_view(self.viewer, layer, axis) is not None:
            return None
        numbers = self.numbers
        if self.viewer.dims.ndisplay == 3 or (axis + self.viewer.dims.ndim - 3) in self.viewer.dims.displayed:
            return "This view is not along the slices that are reviewed; “Next slice to check” turns it back."
        return (
            "The slider is outside of these labels, whose slices are "
            f"{numbers.lowest} to {numbers.highest}; go to one of them first."
        )

    @property
    def numbers(self) -> SliceNumbers:
        """The slider's numbers of the slices along the axis that is reviewed."""
        if self.result is None:
            return SliceNumbers(1)
        return slice_numbers(self.viewer, self.result.layer, self.result.session.axis, self.image)

    # -- review ---------------------------------------------------------------------------------------------

    def go_to(self, index: int) -> None:
        """Bring a slice into view."""
        if self.result is None:
            return
        layer, session = self.result.layer, self.result.session
        voxel = list(position_in_view(self.viewer, layer))
        voxel[session.axis] = int(index)
        self._turn(session.axis)
        self._bring(tuple(voxel))

    def go_to_voxel(self, z: int, y: int, x: int) -> None:
        """Bring a voxel into view, in the middle of the canvas."""
        if self.result is None:
            return
        self._bring((z, y, x))
        world = self.result.layer.data_to_world((z, y, x))
        camera_of(self.viewer).center = tuple(world[-3:])

    def next_slice(self) -> None:
        """Go to the slice that most is expected to be wrong in, of those that are neither reviewed nor were proposed.

        With a filter, among the slices that show that organ or nearly do. Once all were proposed it begins anew.
        """
        if self.result is None or self.overview is None or self._refused(self.disabled_reason):
            return
        self._order = "check"
        session, organ, here = self.result.session, self.organ_filter, self.slice_in_view
        expected, _ = self._uncertainty(session)
        present = None
        if organ is not None:
            present = (expected > 0) | (self.overview.areas.get(organ, np.zeros(len(expected), np.int64)) > 0)
        proposed = self._proposed.setdefault((len(session.runs), "check", organ), set())
        found = next_to_check(expected, session.reviewed.keys() | proposed, here, present)
        if found is None:
            proposed.clear()
            found = next_to_check(expected, session.reviewed, here, present)
        self._propose(found, proposed, "All other slices are reviewed.")

    def next_slice_to_learn_from(self) -> None:
        """Go to the slice that shows most of what no reviewed slice, nor one that was proposed, shows nearby."""
        if self.result is None or self.overview is None or self._refused(self.disabled_reason):
            return
        self._order = "learn"
        session, areas = self.result.session, self.overview.areas
        proposed = self._proposed.setdefault((len(session.runs), "learn", None), set())
        spacing = geometry_of(self.result.layer).spacing[session.axis]
        shown = _columns(areas.values())
        found = next_to_learn_from(shown, session.reviewed.keys() | proposed, spacing)
        otherwise = "The reviewed slices, and those just proposed, show all organs that are labelled."
        self._propose(found, proposed, otherwise)

    def next_slice_to_interpolate_from(self) -> None:
        """Go to the slice that says most of what lies between slices that are reviewed, or were proposed.

        With a filter, of that organ.
        """
        if self.result is None or self.overview is None or self._refused(self.disabled_reason):
            return
        self._order = "interpolate"
        layer, session, organ = self.result.layer, self.result.session, self.organ_filter
        areas = self.overview.areas
        organs = [value for value in areas if organ in (None, value)]
        proposed = self._proposed.setdefault((len(session.runs), "interpolate", organ), set())
        planes = np.moveaxis(layer.data, session.axis, 0)
        found = next_to_interpolate_from(
            _columns([areas[value] for value in organs]),
            organs,
            {index: planes[index] for index in session.reviewed.keys() | proposed},
            geometry_of(layer).spacing[session.axis],
        )
        otherwise = "No other slice would add to the reviewed ones and those just proposed."
        self._propose(found, proposed, otherwise)

    def mark_reviewed(self, on: bool, *, go_on: bool = False) -> None:
        """Mark the slice in view as reviewed or take the mark back; and go on, as somebody last did, where asked."""
        if self.result is None or self._refused(self.no_slice_reason):
            return
        self.result.session.mark_reviewed(self.slice_in_view, on)
        self.save_soon()
        self.update_overview()
        self.slice_changed.emit()
        if on and go_on:
            following: Mapping[_Order, Callable[[], None]] = {
                "check": self.next_slice,
                "learn": self.next_slice_to_learn_from,
                "interpolate": self.next_slice_to_interpolate_from,
            }
            following[self._order]()

    def toggle_reviewed(self) -> None:
        """Mark the slice in view as reviewed or take the mark back, and stay there."""
        if self.result is not None:
            self.mark_reviewed(self.slice_in_view not in self.result.session.reviewed)

    def note(self, index: int, text: str) -> None:
        """Keep a note on a slice."""
        if self.result is not None and self.result.session.notes.get(index, "") != text.strip():
            self.result.session.note(index, text)
            self.save_soon()

    def progress(self) -> tuple[int, int, float | None]:
        """Slices reviewed, slices in all, and the estimated seconds that are left."""
        if self.result is None:
            return 0, 0, None
        session = self.result.session
        total = session.shape[session.axis]
        return len(session.reviewed), total, seconds_left(session.reviewed, total)

    def next_conflict(self) -> None:
        """Go to the next slice in which the last run disagrees with edits, round to the first after the last."""
        slices = sorted(self.overview.conflicts) if self.overview is not None else []
        if slices:
            here = self.slice_in_view
            self.go_to(next((index for index in slices if index > here), slices[0]))

    def accept_prediction(self, *, everywhere: bool) -> None:
        """Give up edits that the last run disagrees with: one undo step."""
        if self.result is None or self._refused(self.disabled_reason if everywhere else self.no_slice_reason):
            return
        self.result.undo.check_pending_strokes()
        layer, session = self.result.layer, self.result.session
        known = sorted(self.overview.conflicts) if self.overview is not None else []
        slices = known if everywhere else [self.slice_in_view]
        writes, step = session.accept_prediction(layer.data, axis=session.axis, slices=slices)
        mark = write_as_one_step(layer, writes)
        left = session.conflicts(layer.data, session.axis) if session.locked else {}
        if not left.keys().isdisjoint(slices):
            self.message.emit(
                "Locked organs stay as they are; unlock them to use the network's labels there, too."
            )
        elif mark is None:
            self.message.emit("The last run agrees with your edits here.")
        if mark is None:
            return
        self.result.undo.add(mark, step)
        self.save_soon()
        self.update_overview()

    # -- inside ---------------------------------------------------------------------------------------------

    def _propose(self, found: int | None, proposed: set[int], otherwise: str) -> None:
        """Go to a slice, which is not proposed again; where there is none, say so and begin anew."""
        if found is None:
            proposed.clear()
            self.message.emit(otherwise)
        else:
            proposed.add(found)
            self.go_to(found)

    def _refused(self, why: str | None) -> bool:
        if why is not None:
            self.message.emit(why)
        return why is not None

    def _let_go(self) -> None:
        self._links.clear()
        self.result = self.undecided = self.overview = None
        self.organ_filter = None
        self._proposed = {}
        self._order = "check"

    def _turn(self, axis: int) -> None:
        """Turn a view in which the slices along `axis` are not seen one by one."""
        dims = self.viewer.dims
        at = axis + dims.ndim - 3
        if dims.ndisplay == 3:
            dims.ndisplay = 2
        if at in dims.displayed:
            others = [other for other in range(dims.ndim - 3, dims.ndim) if other != at]
            dims.order = (*range(dims.ndim - 3), at, *others)

    def _bring(self, voxel: tuple[int, ...]) -> None:
        assert self.result is not None
        world = self.result.layer.data_to_world(voxel)
        dims = self.viewer.dims
        for axis, value in enumerate(world, start=dims.ndim - len(world)):
            if axis not in dims.displayed:
                dims.set_point(axis, value)

    def _uncertainty(self, session: AnnotationSession) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each slice, how much is expected to be wrong, and how unsure the network was; NaN where it was not."""
        unsure = session.uncertainty
        if unsure is None or unsure.axis != session.axis:
            unknown = np.full(session.shape[session.axis], np.nan)
            return unknown, unknown
        return unsure.expected_error(self.organ_filter), unsure.of(self.organ_filter)

    def update_overview(self) -> None:
        """Look at all slices anew, off the GUI thread."""
        result = self.result
        if result is None or not result.layer.editable:
            return
        session, layer = result.session, result.layer
        labels = layer.data
        if tuple(labels.shape) != session.shape:
            return
        label_set = label_set_of(layer)
        expected, unsure = self._uncertainty(session)

        def work() -> Overview:
            axis = session.axis
            others = [value for value in values_in(labels) if value not in label_set.names]
            unnamed = [value for value in others if 0 < value <= HIGHEST_LABEL]
            unusable = tuple(value for value in others if value not in unnamed)
            areas = _areas(labels, axis, [*label_set.names, *unnamed])
            conflicts = session.conflicts(labels, axis)
            n = session.shape[axis]
            reviewed = np.zeros(n, np.bool_)
            reviewed[[index for index in list(session.reviewed) if index < n]] = True
            disagreeing = np.zeros(n, np.int64)
            disagreeing[list(conflicts)] = list(conflicts.values())
            shown = [label for label in label_set if areas[label.value].any()]
            listed = [(label.value, label.name) for label in shown]
            listed += [(value, f"label {value}") for value in unnamed]
            colors = colors_of(layer, [value for value, _ in listed])
            extents = [(name, colors[value], areas[value] > 0) for value, name in listed]
            edited = session.edited_per_slice(labels, axis)
            strip = StripData(expected, unsure, reviewed, edited, disagreeing, extents)
            return Overview(strip, conflicts, areas, tuple(unnamed), unusable)

        def show(found: Overview) -> None:
            if self.result is result:
                self.overview = found
                self.overview_changed.emit()

        self._tasks.run(work, show, latest="overview")

    def save_soon(self) -> None:
        """Save what was changed soon."""
        if self.result is not None:
            save_soon(self.viewer, self.result)

    def _on_reopened(self, result: Result | None, slices: list[int]) -> None:
        if result is not None and result is self.result:
            self.message.emit(reopened_sentence(slices, self.numbers.number))
            self.slice_changed.emit()

    def _on_changed(self, _event: Any = None) -> None:
        if self.result is not None and self.result.layer.editable:
            # Labels that are only looked at need not be saved.
            if autosave_of(self.result) is None and was_edited(self.result.layer):
                self.save_soon()
            self._pause.start()


def _columns(areas: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(n, organs) of the areas of each organ, (n,)."""
    rows = [*areas]
    return np.array(rows, np.int64).reshape(len(rows), -1).T


def _areas(labels: NDArray[Any], axis: int, values: list[int]) -> dict[int, NDArray[np.int64]]:
    """Of each label, the voxels in each slice along an axis."""
    found = {value: np.zeros(labels.shape[axis], np.int64) for value in values}
    for index, plane in enumerate(np.moveaxis(labels, axis, 0)):
        if not plane.any():
            continue
        if len(values) > _FEW:
            there, voxels = np.unique(plane, return_counts=True)
            for value, count in zip(there.tolist(), voxels.tolist(), strict=True):
                if value in found:
                    found[value][index] = count
        else:  # comparing lets the GUI thread go on, which sorting does not
            for value in values:
                found[value][index] = np.count_nonzero(plane == value)
    return found
