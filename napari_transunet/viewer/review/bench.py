"""What the dock does to the labels that it follows: review, tools, measures, maps, export. It owns no widget."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_transunet.annotation import corrections
from napari_transunet.annotation.corrections import Correction, Scope
from napari_transunet.annotation.disagreement import KINDS, Disagreement, disagree, match_by_name
from napari_transunet.annotation.measuring import OrganMeasure, measure
from napari_transunet.annotation.reviewing import next_to_check, seconds_left
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.sides import side_warnings
from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.viewer.background import Chores
from napari_transunet.viewer.keeping import keep, keeper_of
from napari_transunet.viewer.layers import (
    geometry_of,
    is_lazy,
    label_colormap,
    label_set_of,
    placement,
    volume_of,
)
from napari_transunet.viewer.painting import position_in_view
from napari_transunet.viewer.results import Result, image_of, result_of, tie
from napari_transunet.viewer.review.slice_strip import StripData
from napari_transunet.viewer.review.stroke_guard import StrokeGuard
from napari_transunet.viewer.undo import write_as_one_step
from napari_transunet.viewer.wording import count, error_sentence, organ

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.viewer.review.correction_panel import CorrectionRequest

logger = logging.getLogger(__name__)

MAP = "napari_transunet_map"
"""In the metadata of a layer that shows something about labels, and holds none itself."""

_QUIET = 400  # ms without a change before the slices are looked at again


@dataclass(frozen=True, eq=False)
class Overview:
    """What is known of all slices: for the strip, where the last run disagrees, and which organs each slice shows."""

    strip: StripData
    conflicts: Mapping[int, int]
    present: Mapping[int, NDArray[np.bool_]]


class AnnotationBench(QObject):
    """Follows one labels layer of a viewer at a time.

    Signals
    -------
    overview_changed(): `overview` is new.
    slice_changed(): another slice is in view, or something about it changed.
    said(str): a sentence about a tool.
    measured(object, object): measures, and warnings about sides.
    compared(object): a `Disagreement`.
    failed(str): a sentence about measuring, comparing or a map.
    """

    overview_changed = Signal()
    slice_changed = Signal()
    said = Signal(str)
    measured = Signal(object, object)
    compared = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self.result: Result | None = None
        self.image: Image | None = None
        self.organ_filter: int | None = None
        self.overview: Overview | None = None
        self.guard = StrokeGuard(self)
        self.guard.held.connect(self._on_held)
        self._chores = Chores(self)
        self._busy = False
        self._maps: dict[str, weakref.ref[Any]] = {}
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(_QUIET)
        self._pause.timeout.connect(self.look)

    # -- which labels ---------------------------------------------------------------------------------------

    def follow(self, layer: Labels | None) -> None:
        """Work on this labels layer from now on; one that no run of ours made gets a session of its own."""
        if layer is (self.result.layer if self.result is not None else None):
            return
        self._let_go()
        if layer is None:
            self._pause.stop()
            self.overview_changed.emit()
            return
        image = self._image_for(layer)
        result = result_of(layer)
        if result is None and image is not None and layer.data.ndim == 3:
            names = label_set_of(layer).names
            result = tie(layer, image, AnnotationSession.of_labels(layer.data, names))
        if result is None:
            self.overview_changed.emit()
            return
        self.result, self.image = result, image
        events = layer.events
        for emitter in (events.set_data, events.paint, events.data):
            emitter.connect(self._on_changed)
        self._viewer.dims.events.current_step.connect(self._on_step)
        self.guard.locked = result.session.locked
        self.guard.follow(layer, None if image is None or is_lazy(image) else image.data)
        self.look()
        self.slice_changed.emit()

    def detach(self) -> None:
        """Follow nothing any more, and forget what is under way."""
        self._pause.stop()
        self._chores.drop()
        self._let_go()

    @property
    def layer(self) -> Labels | None:
        """The layer that is followed."""
        return self.result.layer if self.result is not None else None

    @property
    def names(self) -> dict[int, str]:
        """Names of the organs of the followed layer."""
        return label_set_of(self.result.layer).names if self.result is not None else {}

    @property
    def slice_in_view(self) -> int:
        """Index of the slice in view along the axis that is reviewed; 0 where nothing is followed."""
        if self.result is None:
            return 0
        return position_in_view(self._viewer, self.result.layer)[self.result.session.axis]

    @property
    def locked_because(self) -> str | None:
        """Why nothing can be done now; None where it can."""
        if self.result is None:
            return "Segment a volume first, or open its labels."
        if not self.result.layer.editable:
            return "Wait until the segmentation is done, or cancel it."
        return None

    # -- review ---------------------------------------------------------------------------------------------

    def go_to(self, index: int) -> None:
        """Bring a slice into view."""
        if self.result is None:
            return
        layer, session = self.result.layer, self.result.session
        voxel = list(position_in_view(self._viewer, layer))
        voxel[session.axis] = int(index)
        self._bring(tuple(voxel))

    def go_to_voxel(self, z: int, y: int, x: int) -> None:
        """Bring a voxel into view, in the middle of the canvas."""
        if self.result is None:
            return
        self._bring((z, y, x))
        world = self.result.layer.data_to_world((z, y, x))
        self._viewer.camera.center = tuple(world[-3:])

    def next_slice(self) -> None:
        """Go to the most uncertain slice that is not reviewed; with a filter, among those that show that organ."""
        if self.result is None or self.overview is None:
            return
        session = self.result.session
        unsure = self._uncertainty(session)
        present = self.overview.present.get(self.organ_filter) if self.organ_filter is not None else None
        found = next_to_check(unsure, session.reviewed, self.slice_in_view, present)
        if found is None:
            self.said.emit("All other slices are reviewed.")
        else:
            self.go_to(found)

    def mark_reviewed(self, on: bool, *, go_on: bool = False) -> None:
        """Mark the slice in view as reviewed or take the mark back, and go on to the next where asked."""
        if self.result is None:
            return
        self.result.session.mark_reviewed(self.slice_in_view, on)
        self._kept()
        self.look()
        self.slice_changed.emit()
        if on and go_on:
            self.next_slice()

    def note(self, index: int, text: str) -> None:
        """Keep a note on a slice."""
        if self.result is not None and self.result.session.notes.get(index, "") != text.strip():
            self.result.session.note(index, text)
            self._kept()

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

    def take_prediction(self, *, everywhere: bool) -> None:
        """Give up edits that the last run disagrees with: one undo step."""
        if self.result is None or self.locked_because is not None:
            return
        layer, session = self.result.layer, self.result.session
        slices = None if everywhere else [self.slice_in_view]
        writes, step = session.take_prediction(layer.data, axis=session.axis, slices=slices)
        mark = write_as_one_step(layer, writes)
        if mark is None:
            self.said.emit("The last run agrees with your edits here.")
            return
        self.result.undo.add(mark, step)
        self._kept()
        self.look()

    # -- tools ----------------------------------------------------------------------------------------------

    def correct(self, request: CorrectionRequest, voxel: tuple[int, int, int] | None = None) -> None:
        """Use a tool: one undo step. `voxel` is the one that was clicked, for the tool that needs it."""
        if (why := self.locked_because) is not None or self.result is None:
            self.said.emit(why or "")
            return
        if self._busy:
            self.said.emit("The last tool is still working.")
            return
        result = self.result
        layer, session = result.layer, result.session
        chosen = int(layer.selected_label)
        organs = tuple(sorted(self.names or set(np.unique(layer.data).tolist()) - {0}))
        if not request.all_organs:
            if chosen == 0:
                self.said.emit("The brush paints background; pick an organ first.")
                return
            organs = (chosen,)
        data, index = layer.data, self.slice_in_view
        copy = data.copy()
        try:
            job = _job(request, session.axis, index, voxel)
            spacing = geometry_of(layer).spacing
        except InputError as error:
            self.said.emit(str(error))
            return
        plane = (
            None
            if request.whole_volume or request.tool in ("interpolate", "above", "below")
            else (session.axis, index)
        )

        def work() -> Correction:
            protected = None if request.by_hand_too else session.hand_mask(copy)
            scope = Scope(organs, plane, session.locked, protected)
            if request.tool != "interpolate":
                return job(copy, spacing, scope)
            others = tuple(axis for axis in range(3) if axis != session.axis)
            by_hand = session.hand_mask(copy) & np.isin(copy, organs)
            return job(copy, spacing, scope, slices=np.flatnonzero(by_hand.any(axis=others)).tolist())

        def done(found: Correction) -> None:
            self._busy = False
            self._apply(result, found)

        def failed(error: Exception) -> None:
            self._busy = False
            self.said.emit(str(error) if isinstance(error, TransUNetError) else error_sentence(error))

        self._busy = True
        self.said.emit("Working …")
        self._chores.run(work, done, failed)

    def lock(self, value: int, on: bool) -> None:
        """Lock an organ against change, or let it change again."""
        if self.result is None:
            return
        session = self.result.session
        session.locked = session.locked | {value} if on else session.locked - {value}
        self.guard.locked = session.locked
        self._kept()

    def suggest_range(self) -> tuple[float, float] | None:
        """Mean ± 2 SD of the image in the organ that the brush paints; None where there is no such organ yet."""
        if self.result is None or self.image is None or is_lazy(self.image):
            return None
        layer = self.result.layer
        at: list[Any] = [slice(None)] * 3
        at[self.result.session.axis] = self.slice_in_view
        for place in (tuple(at), (slice(None, None, 4),) * 3):
            values = self.image.data[place][layer.data[place] == layer.selected_label]
            if values.size > 20:
                mean, sd = float(values.mean()), float(values.std())
                return mean - 2 * sd, mean + 2 * sd
        self.said.emit("That organ has no voxels yet; paint a little of it first.")
        return None

    # -- measures, maps -------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Measure all organs; `measured` tells."""
        if self.result is None:
            return
        session, labels, geometry = (
            self.result.session,
            self.result.layer.data.copy(),
            geometry_of(self.result.layer),
        )
        image = None if self.image is None or is_lazy(self.image) else self.image.data
        names = self.names

        def work() -> tuple[list[OrganMeasure], list[str]]:
            hand = session.hand_mask(labels)
            return (
                measure(labels, geometry, names, image=image, by_hand=hand),
                side_warnings(labels, geometry, names),
            )

        self._chores.run(work, lambda found: self.measured.emit(*found), self._fail)

    def others(self) -> list[str]:
        """Names of labels layers that the followed one can be compared with."""
        layer = self.layer
        return [
            other.name
            for other in self._viewer.layers
            if is_reviewable(other)
            and other is not layer
            and layer is not None
            and tuple(other.data.shape) == tuple(layer.data.shape)
        ]

    def compare(self, name: str) -> None:
        """Compare with another labels layer; `compared` tells."""
        if self.result is None or name not in self._viewer.layers:
            return
        other = self._viewer.layers[name]
        labels, reference = self.result.layer.data.copy(), np.array(other.data)
        names, other_names = self.names, label_set_of(other).names
        spacing = geometry_of(self.result.layer).spacing

        def work() -> Disagreement:
            return disagree(labels, match_by_name(names, reference, other_names), spacing)

        self._chores.run(work, self.compared.emit, self._fail)

    def show_disagreement(self, found: Disagreement | None) -> None:
        """Show where two labels differ as a layer; take it away for None."""
        from napari_transunet.volumes.labels import Label, LabelSet

        self._drop_map("disagreement")
        if found is None or self.result is None:
            return
        colors = ((0.9, 0.1, 0.5), (0.1, 0.6, 0.95), (0.95, 0.75, 0.1))
        kinds = LabelSet(tuple(Label(v, name, c) for (v, name), c in zip(KINDS.items(), colors, strict=True)))
        layer = self._viewer.add_labels(
            found.map,
            name=f"{self.result.layer.name}: disagreement",
            colormap=label_colormap(kinds),
            features={"index": [0, *KINDS], "name": ["agree", *KINDS.values()]},
            metadata={MAP: True},
            **placement(geometry_of(self.result.layer)),
        )
        layer.editable = False
        self._put_map("disagreement", layer)

    def show_uncertainty(self, on: bool) -> None:
        """Show how unsure the runs were of every voxel as a layer, or take it away."""
        self._drop_map("uncertainty")
        if not on or self.result is None or self.image is None:
            return
        result, geometry = self.result, geometry_of(self.result.layer)
        unsure, cards = result.session.uncertainty, result.session.cards
        volume = volume_of(self.image)
        if unsure is None or not unsure.maps() or unsure.img_size is None:
            self.failed.emit(
                "There is no uncertainty to show: these labels are not from a run in this session."
            )
            return
        kept, size, card = unsure.maps(), unsure.img_size, cards.get(unsure.sha256 or "")
        paper = unsure.pipeline == "paper"
        if card is None and not paper:
            self.failed.emit(
                "The checkpoint of that run is not known any more; segment again to see its uncertainty."
            )
            return

        def work() -> NDArray[np.float16]:
            from napari_transunet.checkpoints.card import ModelCard
            from napari_transunet.segmentation.slices import SliceSource
            from napari_transunet.segmentation.uncertainty import uncertainty_volume

            if paper:
                source = SliceSource.by_paper(volume, size)
            else:
                read: ModelCard = ModelCard.model_validate(card)
                source = SliceSource.by_card(volume, read, size)
            return uncertainty_volume(kept, source)

        def show(values: NDArray[np.float16]) -> None:
            layer = self._viewer.add_image(
                values.astype(np.float32),
                name=f"{result.layer.name}: uncertainty",
                colormap="inferno",
                contrast_limits=(0, 1),
                blending="additive",
                opacity=0.7,
                metadata={MAP: True},
                **placement(geometry),
            )
            self._put_map("uncertainty", layer)
            self._viewer.layers.selection.active = result.layer

        self._chores.run(work, show, self._fail)

    def show_plane(self, plane: NDArray[np.float32], index: int, name: str) -> None:
        """Show one slice of values from 0 to 1 as a layer, in place of the last one of that name."""
        if self.result is None:
            return
        axis, geometry = self.result.session.axis, geometry_of(self.result.layer)
        where = placement(geometry)
        translate = list(where["translate"])
        translate[axis] += index * where["scale"][axis]
        held = self._maps.get(name, lambda: None)()
        data = np.expand_dims(plane, axis)
        if held is not None and held in self._viewer.layers:
            held.data, held.translate = data, translate
            return
        active = self._viewer.layers.selection.active
        layer = self._viewer.add_image(
            data,
            name=f"{self.result.layer.name}: {name}",
            colormap="viridis",
            contrast_limits=(0, 1),
            blending="additive",
            opacity=0.6,
            metadata={MAP: True},
            **{**where, "translate": translate},
        )
        self._put_map(name, layer)
        self._viewer.layers.selection.active = active

    def drop_plane(self, name: str) -> None:
        """Take that layer away."""
        self._drop_map(name)

    def shows(self, name: str) -> bool:
        """Whether the map of that name is shown: "uncertainty", "disagreement" or "attention"."""
        layer = self._maps.get(name, lambda: None)()
        return layer is not None and layer in self._viewer.layers

    # -- inside ---------------------------------------------------------------------------------------------

    def _image_for(self, layer: Labels) -> Image | None:
        result = result_of(layer)
        if result is not None:
            return image_of(result, self._viewer.layers)
        for other in reversed(self._viewer.layers):
            fits = other._type_string == "image" and not other.metadata.get(MAP)
            if fits and not other.rgb and tuple(other.data.shape) == tuple(layer.data.shape):
                image: Image = other
                return image
        return None

    def _let_go(self) -> None:
        if self.result is not None:
            events = self.result.layer.events
            for emitter in (events.set_data, events.paint, events.data):
                emitter.disconnect(self._on_changed)
            self._viewer.dims.events.current_step.disconnect(self._on_step)
        self.guard.follow(None, None)
        self.result = self.image = self.overview = None
        self.organ_filter = None

    def _bring(self, voxel: tuple[int, ...]) -> None:
        assert self.result is not None
        world = self.result.layer.data_to_world(voxel)
        dims = self._viewer.dims
        for axis, value in enumerate(world, start=dims.ndim - len(world)):
            if axis not in dims.displayed:
                dims.set_point(axis, value)

    def _uncertainty(self, session: AnnotationSession) -> NDArray[np.float64]:
        n = session.shape[session.axis]
        unsure = session.uncertainty
        if unsure is None or unsure.axis != session.axis:
            return np.full(n, np.nan)
        return unsure.of(self.organ_filter)

    def look(self) -> None:
        """Look at all slices anew, off the window's thread."""
        result = self.result
        if result is None or not result.layer.editable:
            return
        session, labels = result.session, result.layer.data
        if tuple(labels.shape) != session.shape:
            return
        label_set = label_set_of(result.layer)
        unsure = self._uncertainty(session)

        def work() -> Overview:
            axis = session.axis
            present = _presence(labels, axis, [label.value for label in label_set])
            conflicts = session.conflicts(labels, axis)
            n = session.shape[axis]
            reviewed = np.zeros(n, np.bool_)
            reviewed[[index for index in list(session.reviewed) if index < n]] = True
            disagreeing = np.zeros(n, np.int64)
            disagreeing[list(conflicts)] = list(conflicts.values())
            shown = [label for label in label_set if present[label.value].any()]
            extents = [(label.name, label.color, present[label.value]) for label in shown]
            strip = StripData(unsure, reviewed, session.edited_per_slice(labels, axis), disagreeing, extents)
            return Overview(strip, conflicts, present)

        def show(found: Overview) -> None:
            if self.result is result:
                self.overview = found
                self.overview_changed.emit()

        self._chores.run(work, show)

    def _apply(self, result: Result, found: Correction) -> None:
        layer = result.layer
        if self.result is not result or not layer.editable:
            return
        if any(not np.array_equal(layer.data[write.index], write.before) for write in found.writes):
            self.said.emit("The labels were changed meanwhile; use the tool again.")
            return
        if found.changed:
            step = result.session.note_correction(found.writes)
            result.undo.add(write_as_one_step(layer, found.writes), step)
            self._kept()
            self.look()
        self.said.emit(correction_sentence(found, self.names))

    def _kept(self) -> None:
        """Save what was changed soon."""
        if self.result is not None:
            keeper = keep(self._viewer, self.result)
            if keeper is not None:
                keeper.touch()

    def _on_changed(self, _event: Any = None) -> None:
        if self.result is not None and self.result.layer.editable:
            if keeper_of(self.result) is None:
                self._kept()
            self._pause.start()

    def _on_step(self, _event: Any = None) -> None:
        self.slice_changed.emit()

    def _on_held(self, voxels: int) -> None:
        self.said.emit(f"{count(voxels, 'voxel')} of the stroke stayed as they were (range or lock).")

    def _fail(self, error: Exception) -> None:
        self.failed.emit(str(error) if isinstance(error, TransUNetError) else error_sentence(error))

    def _put_map(self, name: str, layer: Any) -> None:
        self._maps[name] = weakref.ref(layer)

    def _drop_map(self, name: str) -> None:
        layer = self._maps.pop(name, lambda: None)()
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)


def is_reviewable(layer: Any) -> bool:
    """Whether a layer holds labels of a volume, and is none of the maps that are shown beside them."""
    return layer._type_string == "labels" and layer.data.ndim == 3 and not layer.metadata.get(MAP)


def correction_sentence(found: Correction, names: Mapping[int, str]) -> str:
    """What a tool did."""
    left = []
    if found.left_by_hand:
        left.append(f"{count(found.left_by_hand, 'voxel')} edited by hand")
    if found.left_locked:
        left.append(f"{count(found.left_locked, 'voxel')} of locked organs")
    stayed = f" Left alone: {' and '.join(left)}." if left else ""
    if not found.changed:
        return f"Nothing to change.{stayed}"
    parts = [
        f"{organ(names.get(value, f'label {value}'))} {number:+,}"
        for value, number in found.per_organ.items()
    ]
    shown = ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    return f"{count(found.changed, 'voxel')} in {count(found.slices, 'slice')} changed: {shown}.{stayed}"


def _job(
    request: CorrectionRequest, axis: int, index: int, voxel: tuple[int, int, int] | None
) -> Callable[..., Correction]:
    """The tool with all that it needs but labels, spacing and scope."""
    sizes = dict(request.sizes)
    if request.tool == "clicked":
        if voxel is None:
            raise InputError("Click in the image on the part to keep.")
        return partial(corrections.keep_component_at, voxel=voxel)
    if request.tool == "holes":
        along = axis if sizes.get("each_slice") and request.whole_volume else None
        return partial(corrections.fill_holes, along=along)
    if request.tool == "interpolate":
        return partial(corrections.interpolate, axis=axis)
    if request.tool in ("above", "below"):
        source = index + (1 if request.tool == "above" else -1)
        return partial(corrections.copy_slice, axis=axis, source=source, target=index)
    tools: Mapping[str, Callable[..., Correction]] = {
        "largest": corrections.keep_largest,
        "islands": corrections.remove_islands,
        "smooth": corrections.smooth,
        "grow": corrections.grow,
        "shrink": corrections.shrink,
        "replace": corrections.replace_label,
    }
    return partial(tools[request.tool], **sizes)


def _presence(labels: NDArray[Any], axis: int, values: list[int]) -> dict[int, NDArray[np.bool_]]:
    """Of each label, which slices along an axis show it."""
    size = max(values, default=0) + 1
    found = np.zeros((labels.shape[axis], size), np.bool_)
    for index, plane in enumerate(np.moveaxis(labels, axis, 0)):
        if plane.any():
            counts = np.bincount(plane.ravel(), minlength=size)[:size]
            found[index] = counts > 0
    return {value: found[:, value] for value in values}
