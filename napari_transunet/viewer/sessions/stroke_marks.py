"""A slice's mark as reviewed is approval of what was seen there: it goes where a stroke changes the slice out of sight.

What a person paints in the slice in view is seen, and the slice stays approved. What a brush or a bucket in three
dimensions changes in other slices is not, nor a stroke that is undone or done again where it is not in view, nor an
array that a script puts in place of the layer's.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.viewer.layers.slice_numbers import index_in_view
from napari_transunet.viewer.layers.undo import TrimmedStroke, WrittenStep, slices_changed

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari.viewer import Viewer

    from napari_transunet.viewer.sessions.results import Result


class StrokeMarks:
    """Holds the marks of one result's slices to that, for strokes and for what scripts write with a history.

    Runs and tools see to theirs themselves.
    """

    def __init__(self, viewer: Viewer, result: Result) -> None:
        self._viewer, self._result = weakref.ref(viewer), weakref.ref(result)
        self._data = result.layer.data
        result.layer.events.paint.connect(self._on_paint)  # napari holds it weakly
        result.layer.events.data.connect(self._on_data)

    def _on_paint(self, event: Any) -> None:
        result, viewer = self._result(), self._viewer()
        ours = isinstance(event.value, WrittenStep) and not isinstance(event.value, TrimmedStroke)
        if result is None or viewer is None or ours or not event.value:
            return
        step = _StrokeStep(viewer, result, slices_changed(event.value))
        result.undo.add(event.value[0], step)
        if reopened := step.paint():
            result.undo.reopened(reopened)

    def _on_data(self, _event: Any = None) -> None:
        """Another array was put into the layer, by a script or another plugin."""
        result = self._result()
        if result is None:
            return
        data, before, session = result.layer.data, self._data, result.session
        if data is before or data.shape != session.shape:
            return
        self._data = data
        others = tuple(axis for axis in range(3) if axis != session.axis)
        changed = np.flatnonzero((data != before).any(axis=others)).tolist() if session.reviewed else []
        if reopened := session.unmark(changed):
            result.undo.reopened(sorted(reopened))


class _StrokeStep:
    """One stroke, which changed these slices along each axis."""

    def __init__(self, viewer: Viewer, result: Result, changed: tuple[set[int], set[int], set[int]]) -> None:
        self._viewer, self._result = weakref.ref(viewer), weakref.ref(result)
        self._changed = changed
        self._undone = False
        self._before: dict[int, str] = {}  # marks that it left alone: they hold on both of its sides
        self._other: dict[int, str] = {}  # marks that hold on the other side, and along which axis they count
        self._axis = result.session.axis

    def paint(self) -> list[int]:
        """It was painted; the slices that have to be looked at again."""
        result = self._result()
        assert result is not None
        session = result.session
        # Whoever paints in two dimensions sees all of it, in whichever plane: it may be another than the window's.
        flat = any(len(slices) <= 1 for slices in self._changed)
        self._other = session.unmark([] if flat else self._unseen())
        self._before = dict(session.reviewed)
        return sorted(self._other)

    def undo(self) -> Collection[int]:
        """It was undone."""
        return () if self._undone else self._cross()

    def redo(self) -> Collection[int]:
        """It was done again."""
        return self._cross() if self._undone else ()

    def _cross(self) -> Collection[int]:
        self._undone = not self._undone
        result = self._result()
        if result is None:
            return ()
        session = result.session
        same = self._axis == session.axis
        # By identity: who takes a mark back and sets it anew may do so within the second that dates tell.
        meanwhile = {
            index
            for index in self._unseen()
            if not (same and self._before.get(index) is session.reviewed.get(index))
        }
        taken = session.unmark(meanwhile)
        if same:
            session.mark_again(self._other)
        self._other, self._axis = taken, session.axis
        return sorted(taken.keys() - session.reviewed.keys())

    def _unseen(self) -> set[int]:
        """The slices along the axis that is reviewed in which it changed what is not in view."""
        viewer, result = self._viewer(), self._result()
        if viewer is None or result is None:
            return set()
        axis = result.session.axis
        for across, changed in enumerate(self._changed):
            if (index := index_in_view(viewer, result.layer, across)) is not None:
                if across == axis:
                    return changed - {index}
                return set() if changed <= {index} else set(self._changed[axis])
        return set(self._changed[axis])
