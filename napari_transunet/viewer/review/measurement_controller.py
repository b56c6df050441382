"""Measuring the labels that are followed, and comparing them with others, off the GUI thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_transunet.errors import InputError
from napari_transunet.metrics.difference_map import Disagreement, Matching, disagree, match_labels, renumber
from napari_transunet.metrics.laterality import side_warnings
from napari_transunet.metrics.region_properties import OrganMeasure, measure
from napari_transunet.viewer.layers.grids import reorientation_between
from napari_transunet.viewer.layers.layers import geometry_of, is_lazy, label_set_of, voxels_of
from napari_transunet.viewer.sessions.registry import is_reviewable
from napari_transunet.viewer.widgets.messages import error_sentence
from napari_transunet.viewer.widgets.tasks import BackgroundTasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari.layers import Labels

    from napari_transunet.viewer.review.review_model import ReviewModel
    from napari_transunet.viewer.sessions.results import Result


@dataclass(frozen=True, eq=False)
class Reference:
    """Labels to compare with: the layer, names of its values, and which organs they stand for as far as is known."""

    layer: Labels
    names: Mapping[int, str]
    matching: Matching


class MeasurementController(QObject):
    """Measures and compares; an answer about labels that are not followed any more is dropped.

    Signals
    -------
    measured(object, object): measures, and warnings about sides.
    described(object): a `Reference`.
    compared(object, object): a `Disagreement`, and the `Matching` by which it was found.
    failed(str): a sentence.
    doubted(object): warnings about sides, which may be none.
    """

    measured = Signal(object, object)
    described = Signal(object)
    compared = Signal(object, object)
    failed = Signal(str)
    doubted = Signal(object)

    def __init__(self, model: ReviewModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._model = model
        self._tasks = BackgroundTasks(self)

    def detach(self) -> None:
        """Forget what is under way."""
        self._tasks.drop()

    def check_sides(self) -> None:
        """See whether paired organs lie on the sides that their names say; `doubted` tells."""
        result = self._model.result
        if result is None or not result.layer.editable:
            return
        labels, geometry, names = result.layer.data, geometry_of(result.layer), self._model.names
        self._run(result, lambda: side_warnings(labels, geometry, names), self.doubted.emit)

    def measure(self) -> None:
        """Measure all organs; `measured` tells."""
        result, image = self._model.result, self._model.image
        if result is None:
            return
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

        self._run(result, work, lambda found: self.measured.emit(*found), "The measuring")

    def others(self) -> tuple[list[Labels], list[Labels]]:
        """Labels layers that lie on the grid of the followed one, also in another axis order; and those that do not."""
        layer = self._model.layer
        found: tuple[list[Labels], list[Labels]] = ([], [])
        if layer is not None:
            for other in self._model.viewer.layers:
                if is_reviewable(other) and other is not layer:
                    found[reorientation_between(other, layer) is None].append(other)
        return found

    def describe(self, other: Labels) -> None:
        """Find out which organs another layer's values stand for; `described` tells."""
        result = self._model.result
        if result is None:
            return
        data, names, other_names = other.data, self._model.names, label_set_of(other).names
        self._run(
            result,
            lambda: Reference(other, other_names, match_labels(names, other_names, values_in(data))),
            self.described.emit,
            "The comparison",
        )

    def compare(self, other: Labels, matching: Matching | None = None) -> None:
        """Compare with another labels layer; `compared` tells. Without a matching, names or else numbers decide."""
        result = self._model.result
        if result is None:
            return
        turn = reorientation_between(other, result.layer) if other in self._model.viewer.layers else None
        if turn is None:
            self.failed.emit(
                f"“{other.name}” does not lie on the grid of these labels; choose another reference."
            )
            return
        labels, reference = result.layer.data, other.data
        names, other_names = self._model.names, label_set_of(other).names
        spacing = geometry_of(result.layer).spacing

        def work() -> tuple[Disagreement, Matching]:
            there = turn.apply(np.array(reference))
            chosen = matching or match_labels(names, other_names, values_in(there))
            if not chosen.known:
                raise InputError(
                    "None of the reference's labels stands for an organ of these labels; choose them in the table."
                )
            return (
                disagree(labels.copy(), renumber(there, chosen), spacing, organs=chosen.known),
                chosen,
            )

        self._run(result, work, lambda found: self.compared.emit(*found), "The comparison")

    def _run(
        self,
        result: Result,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        what: str = "The check of sides",
    ) -> None:
        def answer(found: Any) -> None:
            if self._model.result is result:
                then(found)

        def fail(error: Exception) -> None:
            if self._model.result is result:
                self.failed.emit(error_sentence(error, what))

        self._tasks.run(work, answer, fail)


def values_in(labels: Any) -> list[int]:
    """All values that occur in labels, ascending; background (0) is not among them."""
    found: set[int] = set()
    for plane in labels:
        found |= set(np.unique(plane).tolist())
    return sorted(found - {0})
