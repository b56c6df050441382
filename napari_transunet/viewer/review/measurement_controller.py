"""Measuring the labels that are followed, and comparing them with others, off the GUI thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_transunet.errors import InputError
from napari_transunet.metrics.difference_map import (
    Disagreement,
    Matching,
    disagree,
    match_labels,
    renumber,
    without_unknown,
)
from napari_transunet.metrics.laterality import side_warnings
from napari_transunet.metrics.region_properties import OrganMeasure, measure
from napari_transunet.viewer.layers.grids import part_between
from napari_transunet.viewer.layers.layer_record import record_of
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, label_set_of, voxels_of
from napari_transunet.viewer.sessions.registry import is_reviewable
from napari_transunet.viewer.widgets.tasks import BackgroundTasks
from napari_transunet.volumes.label_values import values_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari.layers import Labels

    from napari_transunet.viewer.review.compare_panel import ComparePanel
    from napari_transunet.viewer.review.measure_panel import MeasurePanel
    from napari_transunet.viewer.review.overlay_layers import OverlayLayers
    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.sessions.results import Result


@dataclass(frozen=True, eq=False)
class Reference:
    """Labels to compare with: the layer, names of its values, and which organs they stand for as far as is known."""

    layer: Labels
    names: Mapping[int, str]
    matching: Matching


class MeasurementController(QObject):
    """Measures and compares, and shows both in its panels; an answer about labels that are not followed is dropped.

    Attributes
    ----------
    disagreement : what the last comparison found; None before the first.

    Signals
    -------
    message(str): why something failed, or what is doubtful about sides.
    working(object): this panel is about to show something.
    """

    message = Signal(str)
    working = Signal(object)

    def __init__(
        self,
        model: ReviewModel,
        measures: MeasurePanel,
        comparison: ComparePanel,
        overlays: OverlayLayers,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._model = model
        self._measures = measures
        self._comparison = comparison
        self._overlays = overlays
        self._tasks = BackgroundTasks(self)
        self.disagreement: Disagreement | None = None
        measures.wanted.connect(self.measure)
        measures.jump.connect(model.go_to_voxel)
        comparison.chosen.connect(self.describe)
        comparison.wanted.connect(self.compare)
        comparison.jump_slice.connect(model.go_to)
        comparison.map_wanted.connect(
            lambda on: overlays.show_disagreement(self.disagreement if on else None)
        )

    def clear(self) -> None:
        """Forget what was found: it says nothing about other labels."""
        self.disagreement = None
        self._measures.set_busy(False)
        self._measures.show_measures((), ())
        self._comparison.clear()

    def detach(self) -> None:
        """Forget what is under way."""
        self._tasks.drop()

    def check_sides(self) -> None:
        """See whether paired organs lie on the sides that their names say; `message` tells where they do not."""
        result = self._model.result
        if result is None or not result.layer.editable:
            return
        labels, geometry, names = result.layer.data, geometry_of(result.layer), self._model.names
        self._run(
            result,
            lambda: side_warnings(labels, geometry, names),
            lambda warnings: self.message.emit(" ".join(warnings)) if warnings else None,
        )

    def measure(self) -> None:
        """Measure all organs."""
        result, image = self._model.result, self._model.image
        if result is None:
            return
        self.working.emit(self._measures)
        self._measures.set_busy(True)
        session, labels, geometry = result.session, result.layer.data, geometry_of(result.layer)
        voxels = None if image is None or is_lazy(image) else voxels_of(image)
        names = self._model.names

        def work() -> tuple[list[OrganMeasure], list[str]]:
            taken = labels.copy()
            hand = session.manual_edit_mask(taken)
            return (
                measure(taken, geometry, names, image=voxels, by_hand=hand),
                side_warnings(taken, geometry, names),
            )

        self._run(result, work, self._on_measured, "The measuring")

    def offer_references(self) -> None:
        """Offer the labels layers on the grid of the followed one, or on a part of it, to compare with."""
        layer = self._model.layer
        found: tuple[list[Labels], list[Labels]] = ([], [])
        if layer is not None:
            for other in self._model.viewer.layers:
                if is_reviewable(other) and other is not layer:
                    found[part_between(other, layer) is None].append(other)
        self._comparison.show_choices(*found)

    def describe(self, other: Labels) -> None:
        """Find out which organs another layer's values stand for."""
        result = self._model.result
        if result is None:
            return
        data, names, other_names = other.data, self._model.names, label_set_of(other).names
        self._run(
            result,
            lambda: Reference(other, other_names, match_labels(names, other_names, values_in(data))),
            lambda found: self._comparison.show_reference(found, self._model.names),
            "The comparison",
        )

    def compare(self, other: Labels, matching: Matching | None = None) -> None:
        """Compare with another labels layer. Without a matching, names or else numbers decide."""
        result = self._model.result
        if result is None:
            return
        part = part_between(other, result.layer) if other in self._model.viewer.layers else None
        if part is None:
            self._fail(f"“{other.name}” does not lie on the grid of these labels; choose another reference.")
            return
        self.working.emit(self._comparison)
        self._comparison.set_busy(True)
        labels, reference = result.layer.data, other.data
        names, other_names = self._model.names, label_set_of(other).names
        spacing, axis = geometry_of(result.layer).spacing, result.session.axis

        file = record_of(other).file
        rest_is_background = part.is_whole or (file is not None and file.omits_background)

        def work() -> tuple[Disagreement, Matching, bool, str]:
            here, there = labels.copy(), part.place(np.array(reference))
            chosen = matching or match_labels(names, other_names, values_in(there))
            if not chosen.known:
                raise InputError(
                    "None of the reference's labels stands for an organ of these labels; choose them in the table."
                )
            unknown = without_unknown(here, there, other_names, chosen)
            if not rest_is_background:
                here[part.outside] = 0
            found = disagree(here, renumber(there, chosen), spacing, organs=chosen.known, axis=axis)
            rest = "is background" if rest_is_background else "counts for nothing"
            told = f"The reference covers {part.share}; the rest {rest}." if part.share else ""
            return found, chosen, unknown, told

        self._run(result, work, self._on_compared, "The comparison")

    def _on_measured(self, found: tuple[list[OrganMeasure], list[str]]) -> None:
        self._measures.set_busy(False)
        self._measures.show_measures(*found)

    def _on_compared(self, answer: tuple[Disagreement, Matching, bool, str]) -> None:
        found, matching, unknown, coverage = answer
        self.disagreement = found
        self._comparison.set_busy(False)
        self._comparison.show_result(
            found,
            matching,
            self._model.names,
            self._model.numbers.number,
            unknown=unknown,
            coverage=coverage,
        )
        if self._comparison.map_shown:
            self._overlays.show_disagreement(found)

    def _fail(self, sentence: str) -> None:
        self._measures.set_busy(False)
        self._comparison.set_busy(False)
        self.message.emit(sentence)

    def _run(
        self,
        result: Result,
        work: Callable[[], Any],
        on_result: Callable[[Any], None],
        what: str = "The check of sides",
    ) -> None:
        def unless_late(answer: Callable[[Any], None]) -> Callable[[Any], None]:
            return lambda found: answer(found) if self._model.result is result else None

        self._tasks.run(work, unless_late(on_result), unless_late(self._fail), what=what)
