"""A whole run of the network, or all that one tool changes, as one undo step of a Labels layer.

napari has no public way to do this: writing into `layer.data` leaves no history, `block_history` held over
a run would mix in the person's strokes, and making a layer non-editable forgets the history that it had. So this
module, and only this one, uses private parts of `Labels`: its two history queues and the form of an entry, a list
of (index, values before, values after). Since napari 0.8 strokes are kept as boxes with masks; before, as such triples
with an array of indices an axis. Both are read here. It is written for napari>=0.6.6,<0.11; its tests press real undo,
and `make test-napari` runs them with each of these versions.

What holds here: a step that a run or a tool left is a `WrittenStep` and never taken for a stroke (`is_stroke`); and no
step is written while strokes wait to be looked at (`SessionUndo.check_pending_strokes`).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_transunet.volumes.boxes import Box, bounding_box

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_transunet.annotation.session import Write

Atom: TypeAlias = tuple[Box, NDArray[Any], NDArray[Any]]


class WrittenStep(list[Any]):
    """A step of the layer's history that a run or a tool left there: no stroke of the person's."""


class TrimmedStroke(WrittenStep):
    """What a stroke that overstepped was let do."""


class UndoStep:
    """Collects the writes of one run into a Labels layer and leaves them as one undo step.

    From construction until `close` the layer cannot be edited, so the person's strokes and the run's
    writes never interleave. Steps that were there before stay undoable below the new one.

    Parameters
    ----------
    layer : a three-dimensional Labels layer backed by a numpy array.
    """

    def __init__(self, layer: Labels) -> None:
        self._layer = layer
        self._data: NDArray[Any] = layer.data
        self._atoms: list[Atom] = []
        self._closed = False
        self._earlier = list(layer._undo_history)
        self._mode = layer.mode
        layer.editable = False  # resets history and mode, hence the copies above

    @property
    def intact(self) -> bool:
        """Whether the layer still holds the array that the writes go to."""
        return self._layer.data is self._data

    def write(self, axis: int, index: int, plane: NDArray[Any]) -> Box | None:
        """Put a slice's labels into the layer's array and keep what they replaced.

        Parameters
        ----------
        axis, index : the slice: position `index` along array axis `axis`.
        plane : its labels, the two axes in the order of the volume's other two.

        Returns
        -------
        The box of voxels that changed, or None where nothing did.
        """
        box = changed_box(self._data, axis, index, plane)
        if box is None:
            return None
        rows, columns = (part for at, part in enumerate(box) if at != axis)
        new = np.expand_dims(plane[rows, columns], axis).astype(self._data.dtype)
        before = self._data[box]
        # Most runs fill an empty layer: one zero then stands for the whole box.
        old = before.copy() if before.any() else np.zeros((1, 1, 1), self._data.dtype)
        self._data[box] = new
        self._atoms.append((box, old, new))
        return box

    def take_back(self, axis: int, index: int) -> None:
        """Put what a slice held before this step back into it, where nobody else has written since."""
        for number, (box, old, new) in enumerate(self._atoms):
            if box[axis] == slice(index, index + 1):
                part = self._data[box]
                np.copyto(part, old, where=part == new)
                del self._atoms[number]
                return

    def close(self) -> Atom | None:
        """Make the layer editable again, with the run as the newest undo step. Closing twice does nothing.

        Returns the first of its writes, by which `SessionUndo` knows the step; None where there is no step.
        """
        if self._closed:
            return None
        self._closed = True
        self._layer.editable = True
        if self._layer.mode == "pan_zoom":
            self._layer.mode = self._mode  # the brush is again in hand, if it was
        if not self.intact:
            # Somebody replaced the array; replaying old boxes into another one would damage it.
            return None
        self._layer._undo_history.extend(self._earlier)
        return _append(self._layer, self._atoms)


class AlongStep(Protocol):
    """What goes with a step of labels. To undo or redo it does nothing where that is so already.

    Both may give the slices that were reviewed and have to be looked at again.
    """

    def undo(self) -> Collection[int] | None:
        """Take it back."""

    def redo(self) -> Collection[int] | None:
        """Do it, again."""


class SessionUndo:
    """Undoing labels in napari takes back what came with them in the session; redoing does it again.

    napari tells nobody that it undid something, but the layer is drawn anew each time. So whenever it is, the steps
    are looked for in the layer's two queues.
    """

    def __init__(self, layer: Labels) -> None:
        self._layer = weakref.ref(layer)
        self._steps: list[tuple[Any, AlongStep]] = []
        self._first: list[Callable[[], None]] = []
        self.reopened: Callable[[Sequence[int]], None] = lambda _slices: None
        """Called with the slices that an undo or a redo took the mark as reviewed from."""

        layer.events.set_data.connect(self.follow)

    def add(self, mark: Any, step: AlongStep) -> None:
        """Follow the newest undo step of the layer, known by its mark, the first or last of its writes."""
        if mark is not None:
            self._steps.append((mark, step))

    def call_before_write(self, look: Callable[[], None], on: bool = True) -> None:
        """Call `look` before anything but a stroke writes, so that strokes that wait are held to the rules first."""
        self._first = [known for known in self._first if known != look] + ([look] if on else [])

    def check_pending_strokes(self) -> None:
        """Whoever is about to write calls this: strokes that wait to be looked at are looked at now."""
        for look in self._first:
            look()

    def withdraw(self, strokes: Sequence[list[Any]]) -> None:
        """These strokes, the newest steps, are taken out of the history: what came with them is undone for good."""
        gone = _ends(strokes)
        for mark, step in reversed(self._steps):
            if id(mark) in gone:
                step.undo()
        self._steps = [(mark, step) for mark, step in self._steps if id(mark) not in gone]

    def follow(self, _event: Any = None) -> None:
        """Bring the session in line with the layer; called by itself, and by those who cannot wait for that."""
        layer = self._layer()
        if layer is None or not self._steps or not layer.editable:  # while a run writes, the queues are empty
            return
        done, undone = _ends(layer._undo_history), _ends(layer._redo_history)
        reopened: set[int] = set()
        for mark, step in reversed(self._steps):
            if id(mark) in undone:
                reopened.update(step.undo() or ())
        for mark, step in self._steps:
            if id(mark) in done:
                reopened.update(step.redo() or ())
        if reopened:
            self.reopened(sorted(reopened))
        self._steps = [(mark, step) for mark, step in self._steps if id(mark) in done or id(mark) in undone]


def write_as_one_step(layer: Labels, writes: Iterable[Write]) -> Atom | None:
    """Put labels into a layer as one undo step, and show them; returns the step's mark, None where nothing changed.

    Raises
    ------
    RuntimeError
        A run is writing into the layer.
    """
    if not layer.editable:
        raise RuntimeError("The layer is being written to.")
    atoms: list[Atom] = []
    for write in writes:
        box = bounding_box(
            layer.data[write.index] != write.after, origin=[part.start or 0 for part in write.index]
        )
        if box is None:
            continue
        inside = tuple(
            slice(part.start - (at.start or 0), part.stop - (at.start or 0))
            for part, at in zip(box, write.index, strict=True)
        )
        new = write.after[inside].astype(layer.data.dtype)
        atoms.append((box, layer.data[box].copy(), new))
        layer.data[box] = new
    mark = _append(layer, atoms)
    if mark is not None:
        layer.refresh(thumbnail=False, extent=False, highlight=False)
    return mark


def adopt_stroke(layer: Labels, step: list[Any]) -> None:
    """Make a stroke the newest undo step of a layer that was painted, by another layer, into the array they share."""
    layer._redo_history.clear()
    layer._append_to_undo_history(step)
    layer.refresh(thumbnail=False, extent=False, highlight=False)


def was_edited(layer: Labels) -> bool:
    """Whether there is anything that could be undone or done again."""
    return bool(layer._undo_history or layer._redo_history)


def history_of(layer: Labels) -> tuple[int, int, int, int]:
    """Something that is another after every stroke, undo and redo."""
    undo, redo = layer._undo_history, layer._redo_history
    return len(undo), id(undo[-1]) if undo else 0, len(redo), id(redo[-1]) if redo else 0


def is_stroke(step: list[Any]) -> bool:
    """Whether a step, as the layer's `paint` event carried it, was made by brush, eraser, bucket or polygon.

    Those are kept as masks; what a run or a tool of ours writes, or a script by `data_setitem`, is not. Before napari
    0.8 what a script writes is kept as strokes are, and counts as one.
    """
    return not isinstance(step, WrittenStep) and (
        not strokes_are_masks() or all(hasattr(atom, "mask") for atom in step)
    )


def strokes_are_masks() -> bool:
    """Whether this napari keeps strokes as masks (0.8 and later), so that they differ from what scripts write."""
    from napari.layers.labels import labels

    return hasattr(labels, "_MaskedPaintAtom")


def are_newest(layer: Labels, steps: list[list[Any]]) -> bool:
    """Whether steps, as the layer's `paint` events carried them, are those that undo would take back next."""
    newest = list(layer._undo_history)[-len(steps) :]
    return len(newest) == len(steps) and all(a is b for a, b in zip(newest, steps, strict=True))


def is_mid_stroke(layer: Labels) -> bool:
    """Whether a stroke has begun to change labels and is not in the layer's history yet."""
    return bool(layer._staged_history)


def replace_newest(layer: Labels, steps: Sequence[TrimmedStroke]) -> None:
    """Put these, oldest first, in the place of as many newest steps of the layer; an empty one leaves no step.

    Tells nobody; the layer's array is left alone.
    """
    for _ in steps:
        layer._undo_history.pop()
    layer._undo_history.extend(step for step in steps if step)


class ChangedVoxels:
    """The voxels that one atom of a stroke changed, n of them.

    Attributes
    ----------
    before : (n,), the labels that they had.
    after : (n,), the labels that were painted; not to be written to.
    labels : the labels that were painted.
    """

    def __init__(self, atom: Any) -> None:
        self._atom = atom
        self._masked = hasattr(atom, "mask")
        if self._masked:
            self.before: NDArray[Any] = np.ravel(atom.old_values)
        else:
            self.before = np.broadcast_to(np.ravel(atom[1]), np.broadcast(*atom[0]).size)
        after = np.ravel(atom.new_value if self._masked else atom[2]).astype(self.before.dtype)
        self.after: NDArray[Any] = np.broadcast_to(after, self.before.shape)
        self.labels = frozenset(np.unique(after).tolist())

    def values(self, array: NDArray[Any]) -> NDArray[Any]:
        """What an array of the layer's shape holds there, (n,); a copy."""
        if not self._masked:
            found: NDArray[Any] = array[self._where]
            return found
        part: NDArray[Any] = array[self._atom.slice_key]
        return part.flatten() if self._atom.mask is None else part[self._atom.mask]

    def put(self, data: NDArray[Any], labels: NDArray[Any], chosen: NDArray[np.bool_] | None = None) -> None:
        """Give them, or those `chosen`, (n,), the labels, (n,), in the layer's array."""
        chosen = np.ones(self.before.shape, np.bool_) if chosen is None else chosen
        if self._masked:  # a mask in its box takes a tenth of the time that lists of places do
            data[self._atom.slice_key][self._mask_of(chosen)] = labels[chosen]
        else:
            data[tuple(at[chosen] for at in self._where)] = labels[chosen]

    def part(self, chosen: NDArray[np.bool_], before: NDArray[Any]) -> Any:
        """An atom, always a new one, of those `chosen`, (n,), alone, which had the labels `before`, (n,)."""
        if not self._masked:
            where = tuple(at[chosen] for at in self._where)
            return where, before[chosen], self.after[chosen]
        return type(self._atom)(
            self._atom.slice_key, self._mask_of(chosen), before[chosen], self._atom.new_value
        )

    @cached_property
    def _where(self) -> tuple[NDArray[np.intp], ...]:
        """Where those of an atom without a box lie in the layer's array: three arrays (n,)."""
        return tuple(np.ravel(part) for part in np.broadcast_arrays(*self._atom[0]))

    def _mask_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those `chosen`, (n,), in the atom's box."""
        box, mask = self._atom.slice_key, self._atom.mask
        if mask is None:
            return chosen.reshape([part.stop - part.start for part in box])
        kept: NDArray[np.bool_] = np.zeros_like(mask)
        kept[mask] = chosen
        return kept


def forget_undone(layer: Labels, steps: list[list[Any]]) -> list[list[Any]]:
    """Let redo not bring back those of these steps that are undone; returns the others."""
    marks = _ends(steps)
    undone = [step for step in layer._redo_history if _ends([step]) & marks]
    kept = [step for step in layer._redo_history if not _ends([step]) & marks]
    if undone:
        layer._redo_history.clear()
        layer._redo_history.extend(kept)
    gone = _ends(undone)
    return [step for step in steps if not _ends([step]) & gone]


def still_done(layer: Labels, steps: list[list[Any]]) -> list[list[Any]]:
    """Those of these steps, as the layer's `paint` events carried them, that are not undone at present."""
    done = _ends(layer._undo_history)
    return [step for step in steps if _ends([step]) & done]


def labels_before(strokes: Iterable[list[Any]], box: Box, labels: NDArray[Any]) -> NDArray[Any]:
    """What the labels of a box were before these strokes (the newest, oldest first), which lie inside of it."""
    earlier = labels.copy()
    for stroke in reversed(list(strokes)):
        for atom in reversed(stroke):
            masked = hasattr(atom, "mask")  # else it is (index, before, after)
            index, old = (atom.slice_key, atom.old_values) if masked else (atom[0], atom[1])
            inside = tuple(
                slice(part.start - at.start, part.stop - at.start)
                if isinstance(part, slice)
                else np.asarray(part) - at.start
                for part, at in zip(index, box, strict=True)
            )
            if not masked or atom.mask is None:
                earlier[inside] = old
            else:
                earlier[inside][atom.mask] = atom.old_values
    return earlier


def stroke_box(atoms: Iterable[Any]) -> Box | None:
    """The box of a three-dimensional array that undo steps change; None where it cannot be determined.

    `atoms` are those of the steps that the layer's `paint` events carried.
    """
    low, high = np.full(3, np.iinfo(np.int64).max), np.full(3, -1)
    for atom in atoms:
        index = atom.slice_key if hasattr(atom, "slice_key") else atom[0]
        if not isinstance(index, tuple) or len(index) != 3:
            return None
        for axis, part in enumerate(index):
            if isinstance(part, slice):
                if part.start is None or part.stop is None:
                    return None
                first, last = int(part.start), int(part.stop) - 1
            else:
                values = np.asarray(part)
                if not values.size:
                    continue
                first, last = int(values.min()), int(values.max())
            low[axis], high[axis] = min(low[axis], first), max(high[axis], last)
    if (high < low).any():
        return None
    z, y, x = (slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    return z, y, x


def slices_changed(atoms: Iterable[Any]) -> tuple[set[int], set[int], set[int]]:
    """Along each axis of a three-dimensional array, the slices that undo steps change; `atoms` as for `stroke_box`."""
    found: tuple[set[int], set[int], set[int]] = (set(), set(), set())
    for atom in atoms:
        masked = hasattr(atom, "mask")
        index, mask = (atom.slice_key, atom.mask) if masked else (atom[0], None)
        for axis, part in enumerate(index):
            if not isinstance(part, slice):
                found[axis].update(np.unique(part).tolist())
            elif mask is None:
                found[axis].update(range(part.start, part.stop))
            else:
                others = tuple(other for other in range(mask.ndim) if other != axis)
                found[axis].update((part.start + np.flatnonzero(mask.any(axis=others))).tolist())
    return found


def _append(layer: Labels, atoms: list[Atom]) -> Atom | None:
    if not atoms:
        return None
    layer._redo_history.clear()
    layer._append_to_undo_history(WrittenStep(atoms))
    return atoms[0]


def _ends(queue: Iterable[list[Any]]) -> set[int]:
    """The first and last writes of each step: napari turns a step round when it moves it to the other queue."""
    return {id(step[at]) for step in queue if step for at in (0, -1)}


def changed_box(data: NDArray[Any], axis: int, index: int, plane: NDArray[Any]) -> Box | None:
    """The smallest box around the voxels of one slice of `data` that differ from `plane`; None if none do."""
    origin = [0, 0, 0]
    origin[axis] = int(index)
    differs = data[(slice(None),) * axis + (index,)] != plane
    return bounding_box(np.expand_dims(differs, axis), origin=origin)
