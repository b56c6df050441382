"""Holds strokes away from locked organs, in all labels that have a session, and to the dock's range of image values.

napari tells of a stroke when it is done. What one may not change is put back then, and the stroke's step in napari's
history is replaced by one without it: still one step for the person's undo, and redo does not bring the rest back.

What holds here: locks count as long as the window lives, whichever dock is open; only strokes are held to the rules,
never what a run, a tool or a script writes; whatever fails, a stroke is either as it was drawn or as it may be; and the
image is never computed here, so that a lazy one has no range.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_transunet.annotation.corrections import allowed_stroke
from napari_transunet.viewer.layers.layers import label_set_of
from napari_transunet.viewer.layers.undo import (
    ChangedVoxels,
    SessionUndo,
    TrimmedStroke,
    are_newest,
    forget_undone,
    is_mid_stroke,
    is_stroke,
    replace_newest,
)
from napari_transunet.viewer.widgets.messages import count, organ, value_text
from napari_transunet.viewer.widgets.qt_helpers import single_shot

if TYPE_CHECKING:
    from napari.layers import Labels
    from numpy.typing import NDArray

_LATER = 50  # ms after which it is looked again whether a stroke has ended


@dataclass(frozen=True)
class BlockedVoxels:
    """What a stroke was not let change: voxels in all, those outside of the range, and the locked organs it met."""

    voxels: int
    outside: int
    locked: frozenset[int]


class PaintConstraint:
    """Holds the strokes in one labels layer to the rules.

    Parameters
    ----------
    layer : the labels layer; not kept alive.
    locked_in : gives the labels of a layer that no stroke may give a voxel or take one from.

    Attributes
    ----------
    between : lowest and highest image value that may be painted on; None for all.
    image : the image's voxels, for the range; None where they are not in memory.
    say : tells where a person sees it what was not changed; whether it did. Else napari's notification tells it.
    undo : what brings the session in line with the layer's undo; None where nothing does.
    """

    def __init__(self, layer: Labels, locked_in: Callable[[Labels], frozenset[int]]) -> None:
        self.between: tuple[float, float] | None = None
        self.image: NDArray[Any] | None = None
        self.say: Callable[[BlockedVoxels], bool] = _say_nothing
        self.undo: SessionUndo | None = None
        self._layer = weakref.ref(layer)
        self._locked_in = locked_in
        self._working = False
        self._strokes: list[list[Any]] = []
        # napari tells of a fill before it writes it, so strokes are looked at when the event is over.
        self._soon = single_shot(None, 0, self._when_free)
        layer.events.paint.connect(self._on_paint)

    @property
    def locked(self) -> frozenset[int]:
        """Labels that no stroke may give a voxel or take one from."""
        layer = self._layer()
        return self._locked_in(layer) if layer is not None else frozenset()

    def let_go(self) -> None:
        """The dock shows these labels no more: its range holds no longer, and it says nothing."""
        self.check()
        self.between = self.image = None
        self.say = _say_nothing

    def check(self) -> None:
        """Hold the strokes that were made since to the rules; called by itself when the event loop is free."""
        layer = self._layer()
        strokes, self._strokes = self._strokes, []
        if layer is None or not strokes or not layer.editable:
            return
        strokes = forget_undone(layer, strokes)
        if not strokes or not are_newest(layer, strokes):
            return
        between = self.between
        self._working = True
        try:
            blocked = self._hold(layer, strokes)
        finally:
            self._working = False
        if blocked is None or self.say(blocked):
            return
        from napari.utils.notifications import show_info

        unlock = " Organs are unlocked in “Review and correct”." if blocked.locked else ""
        show_info(blocked_sentence(blocked, label_set_of(layer).names, between) + unlock)

    # -- inside ---------------------------------------------------------------------------------------------

    def _hold(self, layer: Labels, strokes: list[list[Any]]) -> BlockedVoxels | None:
        data, locked, between = layer.data, self.locked, self.between
        image = self.image if between is not None else None
        if image is None or tuple(image.shape) != tuple(data.shape):
            image = between = None
        changes = [[ChangedVoxels(atom) for atom in stroke] for stroke in strokes]
        # Where all paint the same label, none changes a voxel twice. Else they are done again one by one.
        painted = {label for stroke in changes for change in stroke for label in change.labels}
        again = len(painted) > 1
        # What may fail comes first: until here nothing is changed.
        groups = [
            _Group(number, atoms, image)
            for number, stroke in enumerate(changes)
            for atoms in ([[change] for change in stroke] if again else [stroke])
        ]
        refusals = [group.refused(group.before, between, locked) for group in groups]
        if not any(refused.any() for refused in refusals):
            return None
        if again:
            for group in reversed(groups):
                group.atoms[0].put(data, group.before)
        steps = [TrimmedStroke() for _ in strokes]
        voxels, outside, met, first = 0, 0, set[int](), len(strokes)
        for group, seen in zip(groups, refusals, strict=True):
            before, refused = group.before, seen
            if again:
                before = group.atoms[0].values(data)
                group.atoms[0].put(data, group.after)
                refused = group.refused(before, between, locked)
            for atom, blocked, earlier in group.split(refused, before):
                if blocked.any():
                    atom.put(data, earlier, blocked)
                    first = min(first, group.stroke)
                if (kept := ~blocked & (earlier != atom.after)).any():
                    steps[group.stroke].append(atom.part(kept, earlier))
            voxels += int(np.count_nonzero(refused))
            if between is not None:
                outside += int(np.count_nonzero(group.outside(between) & (before != group.after)))
            sides = before[refused], group.after[refused]
            met |= {value for value in locked if any((side == value).any() for side in sides)}
        if not voxels:
            return None
        if self.undo is not None:
            self.undo.withdraw(strokes[first:])
        replace_newest(layer, steps[first:])
        for step in steps[first:]:
            if step:
                layer.events.paint(value=step)
        layer.refresh(thumbnail=False, extent=False, highlight=False)
        return BlockedVoxels(voxels, outside, frozenset(met))

    def _on_paint(self, event: Any) -> None:
        if self._working or not is_stroke(event.value):
            return
        if self.between is not None or self.locked:
            self._strokes.append(event.value)
            self._soon.start(0)

    def _when_free(self) -> None:
        layer = self._layer()
        if layer is not None and is_mid_stroke(layer):
            self._soon.start(_LATER)  # it may be going over voxels that are to be put back
        else:
            self.check()


class _Group:
    """Atoms of one stroke, of which none changed a voxel that another of them did."""

    def __init__(self, stroke: int, atoms: list[ChangedVoxels], image: NDArray[Any] | None) -> None:
        self.stroke, self.atoms = stroke, atoms
        self.before = np.concatenate([atom.before for atom in atoms])
        self.after = np.concatenate([atom.after for atom in atoms])
        self._values = None if image is None else np.concatenate([atom.values(image) for atom in atoms])

    def refused(
        self, before: NDArray[Any], between: tuple[float, float] | None, locked: frozenset[int]
    ) -> NDArray[np.bool_]:
        """Which voxels may not be changed from what they were, `before`."""
        allowed = allowed_stroke(before, self.after, image=self._values, between=between, locked=locked)
        refused: NDArray[np.bool_] = allowed != self.after
        return refused

    def outside(self, between: tuple[float, float]) -> NDArray[np.bool_]:
        """Which voxels lie outside of the range."""
        if self._values is None:
            return np.zeros(self.after.shape, np.bool_)
        outside: NDArray[np.bool_] = ~((self._values >= between[0]) & (self._values <= between[1]))
        return outside

    def split(self, *arrays: NDArray[Any]) -> list[tuple[Any, ...]]:
        """The atoms with their parts of arrays that hold a value for each of the voxels."""
        ends = np.cumsum([atom.before.size for atom in self.atoms])[:-1]
        return list(zip(self.atoms, *(np.split(array, ends) for array in arrays), strict=True))


def blocked_sentence(
    blocked: BlockedVoxels, names: Mapping[int, str], between: tuple[float, float] | None
) -> str:
    """What a stroke was not let change, and why."""
    why = []
    if blocked.outside and between is not None:
        why.append(
            f"{count(blocked.outside, 'voxel')} outside of {value_text(between[0])} to {value_text(between[1])}"
        )
    if blocked.locked:
        locked = " and ".join(organ(names.get(value, f"label {value}")) for value in sorted(blocked.locked))
        why.append(f"{locked} {'is' if len(blocked.locked) == 1 else 'are'} locked")
    return f"{count(blocked.voxels, 'voxel')} of the stroke stayed as they were: {'; '.join(why)}."


def _say_nothing(_blocked: BlockedVoxels) -> bool:
    return False
