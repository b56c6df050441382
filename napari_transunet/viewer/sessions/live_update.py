"""Finished slices into a Labels layer, a few at a time, so that the window never waits for them.

napari's workers have no back-pressure: whatever they yield queues up on the GUI thread. Here the worker puts
slices into a queue instead, and a timer on the GUI thread takes out what fits into a few milliseconds.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.viewer.layers.slice_numbers import index_in_view

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_transunet.inference.prediction import SlicePrediction
    from napari_transunet.viewer.layers.undo import UndoStep
    from napari_transunet.viewer.sessions.results import Result

BUDGET = 0.006
"""Seconds of one timer tick that may go into writing slices."""

_ACROSS = 0.25  # s between refreshes where every slice shows only as a line of the view
_VOLUME = 2.0  # s between refreshes in 3D, where one repaint may take longer than a second
_SHARE = 8  # a 3D repaint may take up at most one part in this many of the time


class LivePainter:
    """Writes slices into the result's layer and repaints only what is in view. GUI thread only."""

    def __init__(
        self, viewer: ViewerModel, result: Result, step: UndoStep, axis: int, *, keep_reviewed: bool = False
    ) -> None:
        self._viewer = viewer
        self._result = result
        self._step = step
        self._axis = axis
        self._keep_reviewed = keep_reviewed
        self.session_step = result.session.begin()
        self._locked, self._reviewed = result.session.locked, dict(result.session.reviewed)
        self._stale = False
        self._last_refresh = 0.0
        self._repaint_cost = 0.0
        self._timing = False
        self.drawn: set[int] = set()
        """Indices of the slices that were written."""
        self.kept: dict[int, NDArray[np.int64]] = {}
        """Of slices in which edits and locks stayed, by label: how many more (or fewer) voxels than predicted."""

    def paint(self, finished: deque[SlicePrediction], *, budget: float | None = BUDGET) -> int:
        """Take slices and write them for about `budget` seconds (None: all there are); return how many were written."""
        started = time.perf_counter()
        if self._timing:
            # The time since the last refresh was asked for is what repainting took, at most.
            self._repaint_cost = started - self._last_refresh
            self._timing = False
        if not finished and not self._stale:
            return 0
        # Labels and session change together, never while a save copies them; at the end of a run, nobody waits.
        free = self._result.writing.acquire(blocking=False)
        if not free and budget is not None:
            return 0
        try:
            count, show_now = self._write(finished, started, budget)
        finally:
            if free:
                self._result.writing.release()
        if show_now or (self._stale and self._due()):
            self.refresh()
        return count

    def _write(
        self, finished: deque[SlicePrediction], started: float, budget: float | None
    ) -> tuple[int, bool]:
        """Write slices; how many, and whether the one in view changed."""
        shown = index_in_view(self._viewer, self._result.layer, self._axis)
        count, show_now = 0, False
        while finished:
            found = finished.popleft()
            index, plane = found.index, found.plane
            session, data = self._result.session, self._result.layer.data
            again = index in self.drawn
            if again and self._undecided:
                self._step.take_back(self._axis, index)
                self.session_step.take_back(self._axis, index)
            merged = session.merge_slice(
                self.session_step, self._axis, index, plane, data, keep_reviewed=self._keep_reviewed
            )
            self.kept.pop(index, None)
            if index in self.session_step.conflicts or self._keep_reviewed:
                self.kept[index] = _more(merged, plane)
            changed = self._step.write(self._axis, index, merged)
            if found.uncertainty is not None:
                session.unsure_along(self._axis).put(index, found.uncertainty)
            count += 1
            self.drawn.add(index)
            if changed is not None or again:
                show_now |= index == shown
                self._stale |= shown is None
            if budget is not None and time.perf_counter() - started > budget:
                break
        return count, show_now

    @property
    def _undecided(self) -> bool:
        """Whether nobody locked or approved anything since the run began; if so, only what that leaves is changed."""
        session = self._result.session
        return session.locked == self._locked and session.reviewed.items() <= self._reviewed.items()

    def refresh(self) -> None:
        """Show what was written."""
        self._stale = False
        self._last_refresh = time.perf_counter()
        self._timing = True
        self._result.layer.refresh(thumbnail=False, extent=False, highlight=False)

    def _due(self) -> bool:
        since = time.perf_counter() - self._last_refresh
        if self._viewer.dims.ndisplay == 3:
            return since > max(_VOLUME, _SHARE * self._repaint_cost)
        return since > _ACROSS


def _more(merged: NDArray[Any], predicted: NDArray[Any]) -> NDArray[np.int64]:
    """By label, how many voxels more `merged` holds."""
    differs, size = merged != predicted, int(max(merged.max(), predicted.max())) + 1
    return np.bincount(merged[differs], minlength=size) - np.bincount(predicted[differs], minlength=size)
