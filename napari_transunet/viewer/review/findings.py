"""Measuring the labels that are followed, and comparing them with others, off the window's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_transunet.annotation.disagreement import Disagreement, disagree, match_by_name
from napari_transunet.annotation.measuring import OrganMeasure, measure
from napari_transunet.annotation.sides import side_warnings
from napari_transunet.errors import TransUNetError
from napari_transunet.viewer.background import Chores
from napari_transunet.viewer.layers import geometry_of, is_lazy, label_set_of
from napari_transunet.viewer.review.bench import is_reviewable
from napari_transunet.viewer.wording import error_sentence

if TYPE_CHECKING:
    from napari_transunet.viewer.review.bench import AnnotationBench


class Findings(QObject):
    """Emits `measured` with measures and warnings about sides, `compared` with a `Disagreement`, or `failed`."""

    measured = Signal(object, object)
    compared = Signal(object)
    failed = Signal(str)
    doubted = Signal(object)
    """Warnings about sides, which may be none."""

    def __init__(self, bench: AnnotationBench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bench = bench
        self._chores = Chores(self)

    def detach(self) -> None:
        """Forget what is under way."""
        self._chores.drop()

    def check_sides(self) -> None:
        """See whether paired organs lie on the sides that their names say; `doubted` tells."""
        result = self._bench.result
        if result is None or not result.layer.editable:
            return
        labels, geometry, names = result.layer.data, geometry_of(result.layer), self._bench.names
        self._chores.run(lambda: side_warnings(labels, geometry, names), self.doubted.emit)

    def measure(self) -> None:
        """Measure all organs; `measured` tells."""
        if self._bench.result is None:
            return
        session, labels, geometry = (
            self._bench.result.session,
            self._bench.result.layer.data,
            geometry_of(self._bench.result.layer),
        )
        image = None if self._bench.image is None or is_lazy(self._bench.image) else self._bench.image.data
        names = self._bench.names

        def work() -> tuple[list[OrganMeasure], list[str]]:
            taken = labels.copy()
            hand = session.hand_mask(taken)
            return (
                measure(taken, geometry, names, image=image, by_hand=hand),
                side_warnings(taken, geometry, names),
            )

        self._chores.run(work, lambda found: self.measured.emit(*found), self._fail)

    def others(self) -> list[str]:
        """Names of labels layers that the followed one can be compared with."""
        layer = self._bench.layer
        return [
            other.name
            for other in self._bench.viewer.layers
            if is_reviewable(other)
            and other is not layer
            and layer is not None
            and tuple(other.data.shape) == tuple(layer.data.shape)
        ]

    def compare(self, name: str) -> None:
        """Compare with another labels layer; `compared` tells."""
        if self._bench.result is None or name not in self._bench.viewer.layers:
            return
        other = self._bench.viewer.layers[name]
        labels, reference = self._bench.result.layer.data, other.data
        names, other_names = self._bench.names, label_set_of(other).names
        spacing = geometry_of(self._bench.result.layer).spacing

        def work() -> Disagreement:
            return disagree(labels.copy(), match_by_name(names, np.array(reference), other_names), spacing)

        self._chores.run(work, self.compared.emit, self._fail)

    def _fail(self, error: Exception) -> None:
        self.failed.emit(str(error) if isinstance(error, TransUNetError) else error_sentence(error))
