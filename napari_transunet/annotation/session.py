"""What is known about one volume's labels: what the network wrote, what a person changed, and what was looked at.

Edits are found by comparison, not by listening to a viewer, so that they are found however they were made: brush,
fill, undo, another plugin, or a script. What is compared with is kept in three arrays:

- `prediction`, what the network last said of every voxel;
- `unedited_labels`, what the labels would be if nobody had touched them by hand: the prediction, and what the
  correction tools made of it. A voxel that differs from it was edited by hand;
- `flags`, set when a new run finds a voxel edited. From then on it stays an edit, also where the new prediction
  happens to agree with it, until a person takes the prediction over.

A run writes untouched voxels alone. A slice's mark as reviewed is approval of what was there: whatever but the brush
changes a voxel of it, a run along any axis, a tool, or an edit given up, takes the mark away; and so does undo or redo
of that, where the slice was approved in between. Everything that changes these arrays gives a `SessionStep`, by which
the viewer takes the change back when a person undoes the labels that came with it.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_transunet.annotation.provenance import RunRecord, now, provenance_of
from napari_transunet.annotation.uncertainty import SliceUncertainties
from napari_transunet.errors import InputError
from napari_transunet.io.sidecar import COVERAGE, OPENED

Index = tuple[slice | int, ...]
Array = NDArray[Any]
Mask = NDArray[np.bool_]

_Held = tuple[Array | None, Array | None, Array | None, Array | None]

BY_HAND = np.uint8(1)
BY_TOOL = np.uint8(2)

_EVERYWHERE: Index = (slice(None),) * 3


@dataclass(frozen=True)
class Write:
    """Labels to put into a layer: `after` at `index` of its array, where `before` was."""

    index: tuple[slice, slice, slice]
    before: Array
    after: Array


class SessionStep:
    """What one undoable step changed in the session. `undo` and `redo` do nothing where there is nothing to do."""

    def __init__(self, session: AnnotationSession) -> None:
        self._session = session
        self._changes: list[tuple[Index, *_Held]] = []
        self._reviews: dict[int, str] = {}
        self._marks = ChangedMarks(session)
        self._undone = False
        self.record: RunRecord | None = None
        self.conflicts: dict[int, int] = {}
        """Slice -> voxels in which a new prediction disagrees with edits, which stayed."""

    @property
    def reopened(self) -> tuple[int, ...]:
        """Slices that were reviewed before this step changed them, ascending."""
        return tuple(sorted(self._reviews))

    def undo(self) -> tuple[int, ...]:
        """Take the step back; the slices that were reviewed since, and have to be looked at again."""
        if self._undone:
            return ()
        self._undone = True
        self._swap(reversed(range(len(self._changes))))
        reopened = self._marks.swap()
        if self.record is not None:
            self._session._drop_run(self.record)
        return reopened

    def redo(self) -> tuple[int, ...]:
        """Do it again; the slices that have to be looked at again."""
        if not self._undone:
            return ()
        self._undone = False
        self._swap(range(len(self._changes)))
        reopened = self._marks.swap()
        if self.record is not None:
            self._session.add_run(self.record, self)
        return reopened

    def take_back(self, axis: int, index: int) -> None:
        """Forget what this step made of one slice, which can be merged anew then."""
        session, at = self._session, slice_index(axis, index)
        for number, (changed, *held) in enumerate(self._changes):
            if changed == at:
                session._about_to_change(at)
                session._put(at, *held)
                del self._changes[number]
                break
        self.conflicts.pop(index, None)
        if axis == session.axis:
            self._reviews.pop(index, None)
        self._marks.take_back(axis, index)

    def _reopen_where(self, changed: Mask, box: tuple[slice, slice, slice]) -> None:
        """Slices in which `changed`, which lies at `box`, is true are not what a person approved any more."""
        self._reviews |= self._marks.take(changed, box)

    def _remember(self, index: Index) -> None:
        self._changes.append((index, *self._session._about_to_change(index)))

    def _swap(self, order: Iterable[int]) -> None:
        for at in order:
            index, *held = self._changes[at]
            self._changes[at] = (index, *self._session._about_to_change(index))
            self._session._put(index, *held)


class ChangedMarks:
    """The slices that a change of labels changed, and their marks as reviewed that hold on the other side of it."""

    def __init__(self, session: AnnotationSession) -> None:
        self._session = session
        self._changed: tuple[set[int], ...] = (set(), set(), set())  # along each axis
        self._other: dict[int, str] = {}
        self._axis = session.axis  # along which these count

    def take(self, changed: Mask, box: tuple[slice, slice, slice]) -> dict[int, str]:
        """`changed`, which lies at `box`, is done: the marks that it takes away."""
        if not changed.any():
            return {}
        session, now_changed = self._session, set[int]()
        for axis, known in enumerate(self._changed):
            others = tuple(other for other in range(3) if other != axis)
            first = box[axis].start or 0
            found = {first + at for at in np.flatnonzero(changed.any(axis=others)).tolist()}
            known.update(found)
            if axis == session.axis:
                now_changed = found
        taken = session.unmark(now_changed)
        self._other |= taken
        return taken

    def swap(self) -> tuple[int, ...]:
        """It is undone, or done again: marks that were set meanwhile go, and those of the other side come back.

        Returns the slices that have none now.
        """
        session = self._session
        taken = session.unmark(self._changed[session.axis])
        if self._axis == session.axis:
            session.mark_again(self._other)
        self._other, self._axis = taken, session.axis
        return tuple(sorted(taken.keys() - session.reviewed.keys()))

    def take_back(self, axis: int, index: int) -> None:
        """One slice is as it was before."""
        self._changed[axis].discard(index)
        if axis == self._axis == self._session.axis and index in self._other:
            self._session.mark_again({index: self._other.pop(index)})


class AnnotationSession:
    """One volume's prediction, edits, reviewed slices, notes and runs.

    Parameters
    ----------
    shape
        Voxels along (z, y, x) of the volume.
    names
        Label value -> organ name of what the network can find.
    dtype
        Unsigned integer type of the labels.

    Attributes
    ----------
    prediction : (z, y, x), what the network last said.
    names : as given.
    axis : the array axis along which slices are reviewed and noted.
    reviewed : slice -> when it was marked as reviewed, ISO 8601.
    notes : slice -> what a person wrote about it.
    cards : hash of a checkpoint's file -> its model card, of the checkpoints that ran.
    uncertainty : how unsure the runs were of each slice; None before the first that reported it.
    locked : labels that neither a run nor a tool may give a voxel or take one from.
    opened : what a file told of what made the labels, where they came from one.
    coverage : of labels that came on a part of their image's grid: a sentence about that; else empty.
    """

    def __init__(
        self, shape: Sequence[int], names: Mapping[int, str], *, dtype: DTypeLike = np.uint8
    ) -> None:
        if len(shape) != 3:
            raise InputError(f"A session needs the shape of a volume (z, y, x), not {tuple(shape)}.")
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.names: dict[int, str] = dict(names)
        self.prediction: NDArray[np.unsignedinteger[Any]] = np.zeros(self.shape, dtype=dtype)
        self.axis = 0
        self.reviewed: dict[int, str] = {}
        self.notes: dict[int, str] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.locked: frozenset[int] = frozenset()
        self.uncertainty: SliceUncertainties | None = None
        self.opened: dict[str, Any] = {}
        self.coverage = ""
        # Made when they are first needed: most sessions never hold a tool's work or meet a second run.
        self._unedited: NDArray[np.unsignedinteger[Any]] | None = None
        self._found: NDArray[np.unsignedinteger[Any]] | None = None
        self._flags: NDArray[np.uint8] | None = None
        self._runs: list[RunRecord] = []
        self._moments: list[weakref.ref[SessionMoment]] = []

    @classmethod
    def of_labels(cls, labels: Array, names: Mapping[int, str]) -> AnnotationSession:
        """A session for labels (z, y, x) that no network of ours made: as they are now, they count as untouched."""
        session = cls(labels.shape, names, dtype=labels.dtype)
        session.prediction[...] = labels
        return session

    # -- runs -----------------------------------------------------------------------------------------------

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """All runs whose labels have not been undone, oldest first."""
        return tuple(self._runs)

    def add_run(self, record: RunRecord, step: SessionStep | None = None) -> None:
        """Add a run that wrote at least one slice; undoing its step takes it out again."""
        self._runs.append(record)
        if step is not None:
            step.record = record

    def begin(self) -> SessionStep:
        """A step that changes nothing yet, for `merge_slice`."""
        return SessionStep(self)

    def unsure_along(self, axis: int) -> SliceUncertainties:
        """Where a run along `axis` puts how unsure it is; what was known along another axis is given up."""
        if self.uncertainty is None or self.uncertainty.axis != axis:
            self.uncertainty = SliceUncertainties(axis, self.shape[axis])
        return self.uncertainty

    def write_slice(self, axis: int, index: int, plane: Array) -> None:
        """Remember what the network wrote into one slice in which nothing was edited.

        Parameters
        ----------
        axis, index
            The slice: position `index` along array axis `axis`.
        plane
            Labels of the slice, its two axes in the order of the volume's other two.
        """
        at = slice_index(axis, index)
        if self._moments:
            self._about_to_change(at)
        self.prediction[at] = plane
        for array in (self._unedited, self._found):
            if array is not None:
                array[at] = plane

    def merge_slice(
        self,
        step: SessionStep,
        axis: int,
        index: int,
        plane: Array,
        labels: Array,
        *,
        keep_reviewed: bool = False,
    ) -> Array:
        """Take a new prediction of one slice in, and return what the labels of that slice become.

        Voxels that were edited keep their labels, and so do those that a locked organ has or would get; the others
        take the prediction's.

        Parameters
        ----------
        step
            Remembers what this changes.
        axis, index, plane
            As for `write_slice`.
        labels
            The labels (z, y, x) as they are now; not changed here.
        keep_reviewed
            Whether slices that were reviewed stay as they are, with all that is known about them.
        """
        at = slice_index(axis, index)
        present, found = labels[at], plane
        kept = self._reviewed_in(axis, index) if keep_reviewed else None
        if kept is not None:
            plane = np.where(kept, self.prediction[at], plane)
        hand, edited = self._by_hand(present, at), self._edited(present, at)
        if self.locked:
            edited |= (present != plane) & self._locked_between(present, plane)
        if kept is not None:
            # What a person approved is no edit that the run met, and no conflict with it.
            hand, edited = hand & ~kept, edited & ~kept
        if self._found is not None:
            by_tool = (self._found[at] != self.prediction[at]) & (present == self._found[at])
            found = np.where(by_tool if kept is None else by_tool & ~kept, present, found)
        step._remember(at)
        if edited.any() or kept is not None:
            stay = edited if kept is None else edited | kept
            flags = self._flags_now()
            flags[at] |= np.where(hand, BY_HAND, np.where(edited, BY_TOOL, np.uint8(0)))
            tool = (flags[at] & BY_TOOL) != 0
            if kept is not None:
                tool |= kept
            if self._unedited is not None or tool.any():
                unedited = self._unedited_now()
                unedited[at] = np.where(tool & ~hand, unedited[at], plane)
            self.prediction[at] = plane
            if disagreeing := int(np.count_nonzero(edited & (present != plane))):
                step.conflicts[index] = disagreeing
            merged = np.where(stay, present, plane).astype(present.dtype, copy=False)
        else:
            self.write_slice(axis, index, plane)
            merged = np.asarray(plane).astype(present.dtype, copy=False)
        if kept is not None or self._found is not None:
            self._found_now()[at] = found
        step._reopen_where(np.expand_dims(merged != present, axis), _plane_box(self.shape, axis, index))
        return merged

    # -- edits ----------------------------------------------------------------------------------------------

    def edited_mask(self, labels: Array) -> Mask:
        """True where `labels` (z, y, x) are a person's, by hand or by a tool: what no run changes."""
        self._check(labels)
        return self._edited(labels, _EVERYWHERE)

    def manual_edit_mask(self, labels: Array, at: tuple[slice, slice, slice] | None = None) -> Mask:
        """True where `labels` (z, y, x), or a part at `at`, were edited by hand: what no tool changes unasked."""
        if at is None:
            self._check(labels)
        return self._by_hand(labels, _EVERYWHERE if at is None else at)

    def edited_voxels(self, labels: Array) -> int:
        """How many voxels are edited."""
        return sum(self._counted(labels, self._edited, 0).values())

    def edited_per_slice(self, labels: Array, axis: int = 0) -> NDArray[np.int64]:
        """How many voxels are edited in each slice along `axis`."""
        counts = self._counted(labels, self._edited, axis)
        return np.array([counts[index] for index in range(self.shape[axis])], np.int64)

    def hand_voxels(self, labels: Array) -> int:
        """How many voxels were edited by hand."""
        return sum(self._counted(labels, self._by_hand, 0).values())

    def conflicts(self, labels: Array, axis: int = 0) -> dict[int, int]:
        """Where the last run disagrees with an edit that it met: slice -> voxels, slices without any left out."""
        if self._flags is None:
            self._check(labels)
            return {}
        counts = self._counted(labels, self._conflicting, axis)
        return {index: count for index, count in counts.items() if count}

    def accept_prediction(
        self, labels: Array, *, axis: int = 0, slices: Iterable[int] | None = None
    ) -> tuple[list[Write], SessionStep]:
        """Give up edits that the last run disagrees with: what to write, and the step that goes with it.

        Acts on some slices along `axis`, or on all. Edits made since that run stay, and so does what a locked organ has
        or would get.
        """
        self._check(labels)
        step, writes = self.begin(), []
        for index in self.conflicts(labels, axis) if slices is None else slices:
            at = slice_index(axis, index)
            given_up = self._conflicting(labels[at], at)
            if self.locked:
                given_up &= ~self._locked_between(labels[at], self.prediction[at])
            if not given_up.any():
                continue
            step._remember(at)
            self._flags_now()[at][given_up] = 0
            for array in (self._unedited, self._found):
                if array is not None:
                    array[at][given_up] = self.prediction[at][given_up]
            plane = np.where(given_up, self.prediction[at], labels[at]).astype(labels.dtype, copy=False)
            write = _write(labels, axis, index, plane)
            step._reopen_where(write.before != write.after, write.index)
            writes.append(write)
        return writes, step

    def allocate_baseline(self) -> None:
        """Make the room that `record_correction` needs, which takes a while for a large volume; on any thread."""
        self._unedited_now()
        self._found_now()

    def record_correction(self, writes: Iterable[Write], *, interpolated: bool = False) -> SessionStep:
        """A tool changed labels: they are a person's to the next run, but not by hand to the next tool.

        To interpolation, what other tools made is as if it had been found so.
        """
        step = self.begin()
        found = None if interpolated else self._found_now()
        for write in writes:
            step._remember(write.index)
            changed = np.broadcast_to(write.before != write.after, write.after.shape)
            step._reopen_where(changed, write.index)
            self._unedited_now()[write.index][changed] = write.after[changed]
            if found is not None:
                found[write.index][changed] = write.after[changed]
            if self._flags is not None:
                flags = self._flags[write.index]
                flags[changed & ((flags & BY_HAND) != 0)] = BY_TOOL
        return step

    # -- review ---------------------------------------------------------------------------------------------

    def mark_reviewed(self, index: int, reviewed: bool = True) -> None:
        """Mark a slice along `axis` as looked at and approved, or take the mark back."""
        if not 0 <= index < self.shape[self.axis]:
            raise InputError(
                f"There is no slice {index}; this volume's slices are 0 to {self.shape[self.axis] - 1}."
            )
        if reviewed:
            self.reviewed[int(index)] = now()
        else:
            self.reviewed.pop(int(index), None)

    def unmark(self, slices: Collection[int]) -> dict[int, str]:
        """Take the marks of these slices away, where they have any, and return them."""
        taken = {index: date for index, date in self.reviewed.items() if index in slices}
        if taken:  # a whole new mapping: another thread may be reading the old one
            self.reviewed = {index: date for index, date in self.reviewed.items() if index not in taken}
        return taken

    def mark_again(self, marks: Mapping[int, str]) -> None:
        """Put marks back as `unmark` returned them."""
        if marks:
            self.reviewed = {**self.reviewed, **marks}

    def note(self, index: int, text: str) -> None:
        """Keep what a person says about a slice; an empty text takes the note away."""
        if text.strip():
            self.notes[int(index)] = text.strip()
        else:
            self.notes.pop(int(index), None)

    # -- what is kept and reported ------------------------------------------------------------------------------

    @property
    def unedited_labels(self) -> NDArray[np.unsignedinteger[Any]]:
        """What the labels would be without a person's hand: (z, y, x). Not to be written to."""
        return self.prediction if self._unedited is None else self._unedited

    @property
    def found(self) -> NDArray[np.unsignedinteger[Any]]:
        """What the network last found, (z, y, x), also where a slice kept what was approved, as tools left it.

        What interpolation made is not among it. Not to be written to.
        """
        return self.prediction if self._found is None else self._found

    def arrays(self) -> dict[str, Array]:
        """What has to be saved beside the labels, by its name in the file; what was never needed is left out."""
        kept: dict[str, Array | None] = {
            "prediction": self.prediction,
            "machine": self._unedited,
            "flags": self._flags,
            "found": self._found,
            "entropy": None if self.uncertainty is None else self.uncertainty.array(),
        }
        return {name: array for name, array in kept.items() if array is not None}

    def state(self) -> dict[str, Any]:
        """All else that has to be saved, as JSON has it. May be called from any thread."""
        return {
            "names": {str(value): name for value, name in self.names.copy().items()},
            "axis": self.axis,
            "reviewed": {str(index): date for index, date in self.reviewed.copy().items()},
            "notes": {str(index): text for index, text in self.notes.copy().items()},
            "locked": sorted(self.locked),
            "cards": self.cards.copy(),
            "runs": [asdict(run) for run in self.runs],
            OPENED: self.opened,
            COVERAGE: self.coverage,
            "uncertainty": None if self.uncertainty is None else self.uncertainty.state(),
        }

    @classmethod
    def restored(cls, arrays: Mapping[str, Array], state: Mapping[str, Any]) -> AnnotationSession:
        """The session of which `arrays` and `state` were saved.

        Raises
        ------
        InputError
            They do not belong together, or are no session's.
        """
        try:
            prediction = arrays["prediction"]
            session = cls(
                prediction.shape,
                {int(value): str(name) for value, name in state["names"].items()},
                dtype=prediction.dtype,
            )
            session.prediction = prediction
            session._unedited, session._flags = arrays.get("machine"), arrays.get("flags")
            session._found = arrays.get("found")
            session.axis = int(state["axis"])
            session.reviewed = {int(index): str(date) for index, date in state["reviewed"].items()}
            session.notes = {int(index): str(text) for index, text in state["notes"].items()}
            session.locked = frozenset(int(value) for value in state["locked"])
            session.cards = {str(sha256): dict(card) for sha256, card in state["cards"].items()}
            session._runs = [RunRecord(**run) for run in state["runs"]]
            # Earlier versions did not keep them.
            session.opened, session.coverage = dict(state.get(OPENED, {})), str(state.get(COVERAGE, ""))
            if state["uncertainty"] is not None:
                session.uncertainty = SliceUncertainties.restored(state["uncertainty"], arrays.get("entropy"))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(
                f"The saved session cannot be understood ({error}); it was not restored."
            ) from error
        parts = [arrays[name] for name in ("prediction", "machine", "flags", "found") if name in arrays]
        if any(part.shape != session.shape for part in parts) or session.axis not in range(3):
            raise InputError("The saved session's parts do not fit together; it was not restored.")
        return session

    def moment(self) -> SessionMoment:
        """What there is to tell of it as it is now, for another thread, whatever changes here meanwhile.

        Takes no time: arrays are not copied, but what is about to change in them is kept as long as the moment is.
        """
        made = SessionMoment(self)
        self._moments = [*(known for known in self._moments if known() is not None), weakref.ref(made)]
        return made

    def provenance(self, labels: Array | None = None) -> dict[str, Any]:
        """What an export says about where its labels come from, as `SessionMoment.provenance` of this moment."""
        return self.moment().provenance(labels)

    # -- inside ---------------------------------------------------------------------------------------------

    def _by_hand(self, labels: Array, at: Index) -> Mask:
        """Of a part of the labels, which lies at `at`."""
        return _by_hand(labels, *self._parts(at))

    def _edited(self, labels: Array, at: Index) -> Mask:
        return _edited(labels, *self._parts(at))

    def _parts(self, at: Index) -> tuple[Array, Array | None, Array | None]:
        """Of prediction, unedited labels and flags, what lies at `at`."""
        unedited, flags = self._unedited, self._flags
        return (
            self.prediction[at],
            None if unedited is None else unedited[at],
            None if flags is None else flags[at],
        )

    def _locked_between(self, labels: Array, others: Array) -> Mask:
        """Where one of two has a locked organ."""
        locked = list(self.locked)
        found: Mask = np.isin(labels, locked) | np.isin(others, locked)
        return found

    def _reviewed_in(self, axis: int, index: int) -> Mask | None:
        """Which voxels of one slice lie in slices that were reviewed, along whichever axis; None where none does."""
        if not self.reviewed or (axis == self.axis and index not in self.reviewed):
            return None
        mask = np.zeros([size for at, size in enumerate(self.shape) if at != axis], np.bool_)
        if axis == self.axis:
            mask[...] = True
        else:
            across = self.axis if self.axis < axis else self.axis - 1
            np.moveaxis(mask, across, 0)[sorted(self.reviewed)] = True
        return mask

    def _conflicting(self, labels: Array, at: Index) -> Mask:
        differs = np.asarray(labels != self.prediction[at], dtype=np.bool_)
        return differs & (self._flags[at] != 0) if self._flags is not None else np.zeros_like(differs)

    def _counted(self, labels: Array, which: Any, axis: int) -> dict[int, int]:
        self._check(labels)
        places = ((index, slice_index(axis, index)) for index in range(self.shape[axis]))
        return {index: int(np.count_nonzero(which(labels[at], at))) for index, at in places}

    def _unedited_now(self) -> NDArray[np.unsignedinteger[Any]]:
        if self._unedited is None:
            self._unedited = self.prediction.copy()
        return self._unedited

    def _found_now(self) -> NDArray[np.unsignedinteger[Any]]:
        if self._found is None:
            self._found = self.prediction.copy()
        return self._found

    def _flags_now(self) -> NDArray[np.uint8]:
        if self._flags is None:
            self._flags = np.zeros(self.shape, np.uint8)
        return self._flags

    def _about_to_change(self, index: Index) -> _Held:
        """What is there, before it is changed."""
        held = self._held(index)
        for known in self._moments:
            if (moment := known()) is not None:
                moment.keep(index, held)
        return held

    def _held(self, index: Index) -> _Held:
        """Copies of prediction, machine, flags and found there; None for zeros, and for what was never needed."""
        return (
            _copied(self.prediction[index]),
            None if self._unedited is None else self._unedited[index].copy(),
            None if self._flags is None else _copied(self._flags[index]),
            None if self._found is None else self._found[index].copy(),
        )

    def _put(
        self,
        index: Index,
        prediction: Array | None,
        unedited: Array | None,
        flags: Array | None,
        found: Array | None,
    ) -> None:
        self.prediction[index] = 0 if prediction is None else prediction
        for array, held in ((self._unedited, unedited), (self._found, found)):
            if array is not None:
                # Where it was not needed then, it was the prediction.
                array[index] = self.prediction[index] if held is None else held
        if self._flags is not None:
            self._flags[index] = 0 if flags is None else flags

    def _drop_run(self, record: RunRecord) -> None:
        self._runs = [run for run in self._runs if run is not record]

    def _check(self, labels: Array) -> None:
        _check_shape(labels, self.shape)


class SessionMoment:
    """What there is to tell of a session as it was at one moment, on any thread; the session may go on meanwhile.

    Before the session changes its arrays, it hands over what is there (`keep`). So a part is read first, and then what
    was handed over until then is put in its place.
    """

    def __init__(self, session: AnnotationSession) -> None:
        self._shape, self._axis = session.shape, session.axis
        self._arrays = session.prediction, session._unedited, session._flags
        self._kept: list[tuple[tuple[slice, slice, slice], _Held]] = []
        self._runs, self._cards = session.runs, session.cards.copy()
        self._reviewed, self._notes = sorted(session.reviewed), session.notes.copy()
        self._opened, self._coverage = session.opened, session.coverage

    def keep(self, index: Index, held: _Held) -> None:
        """What lies at `index` of the session's arrays, and is about to change."""
        self._kept.append((_box_of(index, self._shape), held))

    def provenance(self, labels: Array | None = None) -> dict[str, Any]:
        """What an export says about where its labels come from: runs, cards, what was edited and reviewed, their file,
        and what they covered of the grid.

        `edited_voxels` counts those by hand and by tools, `edited_by_hand` the former alone; the fractions are of the
        voxels that hold a label or did so in the prediction. They are given where `labels` (z, y, x), as they were at
        that moment, are given.

        Raises
        ------
        InputError
            The labels have another shape.
        """
        found: dict[str, Any] = {}
        if self._cards:
            ran = {run.sha256 for run in self._runs}
            found["cards"] = {sha256: card for sha256, card in self._cards.items() if sha256 in ran}
        if labels is not None:
            edited, by_hand, held = self._counts(labels)
            found |= {
                "edited_voxels": edited,
                "edited_by_hand": by_hand,
                "edited_fraction": round(edited / held, 6) if held else 0.0,
            }
        if self._reviewed:
            found["reviewed_slices"] = self._reviewed
            found["slices"] = self._shape[self._axis]
        if self._reviewed or self._notes:
            found["reviewed_axis"] = self._axis
        if self._notes:
            found["notes"] = {str(index): self._notes[index] for index in sorted(self._notes)}
        if self._opened:
            found[OPENED] = self._opened
        if self._coverage:
            found[COVERAGE] = self._coverage
        return provenance_of(self._runs, found)

    def _counts(self, labels: Array) -> tuple[int, int, int]:
        """Voxels that are edited, that are so by hand, and that hold a label or did so in the prediction."""
        _check_shape(labels, self._shape)
        edited = by_hand = held = 0
        for index, plane in enumerate(labels):
            prediction, unedited, flags = self._plane(index)
            edited += int(np.count_nonzero(_edited(plane, prediction, unedited, flags)))
            by_hand += int(np.count_nonzero(_by_hand(plane, prediction, unedited, flags)))
            held += int(np.count_nonzero((plane != 0) | (prediction != 0)))
        return edited, by_hand, held

    def _plane(self, index: int) -> tuple[Array, Array | None, Array | None]:
        """Of prediction, unedited labels and flags, what was one slice along the first axis."""
        prediction, unedited, flags = (
            None if array is None else array[index].copy() for array in self._arrays
        )
        assert prediction is not None
        # What was handed over first is oldest.
        for (along, rows, columns), (was_predicted, was_unedited, was_flagged, _) in reversed(self._kept[:]):
            if along.start <= index < along.stop:
                at, within = index - along.start, (rows, columns)
                shape = tuple(part.stop - part.start for part in (along, rows, columns))
                prediction[within] = 0 if was_predicted is None else was_predicted.reshape(shape)[at]
                if unedited is not None and was_unedited is not None:
                    unedited[within] = was_unedited.reshape(shape)[at]
                if flags is not None:
                    flags[within] = 0 if was_flagged is None else was_flagged.reshape(shape)[at]
        return prediction, unedited, flags


def slice_index(axis: int, index: int) -> Index:
    """Index of one slice of a volume: `index` along `axis`, everything along the other two axes."""
    whole: list[slice | int] = [slice(None)] * 3
    whole[axis] = int(index)
    return tuple(whole)


def _by_hand(labels: Array, prediction: Array, unedited: Array | None, flags: Array | None) -> Mask:
    """Where a part of the labels was edited by hand; the others are the same part of a session's arrays."""
    by_hand = np.asarray(labels != (prediction if unedited is None else unedited), dtype=np.bool_)
    if flags is not None:
        by_hand |= (flags & BY_HAND) != 0
    return by_hand


def _edited(labels: Array, prediction: Array, unedited: Array | None, flags: Array | None) -> Mask:
    """Where a part of the labels was edited, by hand or by a tool; the others as for `_by_hand`."""
    edited = np.asarray(labels != prediction, dtype=np.bool_)
    if unedited is not None:
        edited |= labels != unedited
    if flags is not None:
        edited |= flags != 0
    return edited


def _check_shape(labels: Array, shape: tuple[int, int, int]) -> None:
    if tuple(labels.shape) != shape:
        raise InputError(
            f"The labels have shape {tuple(labels.shape)}, but the volume they belong to has {shape}."
        )


def _box_of(index: Index, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """The same part of an array, with a slice of known ends along each axis."""
    z, y, x = (
        slice(*part.indices(size)[:2]) if isinstance(part, slice) else slice(part, part + 1)
        for part, size in zip(index, shape, strict=True)
    )
    return z, y, x


def _copied(values: Array) -> Array | None:
    return values.copy() if values.any() else None


def _plane_box(shape: tuple[int, int, int], axis: int, index: int) -> tuple[slice, slice, slice]:
    box = [slice(0, size) for size in shape]
    box[axis] = slice(index, index + 1)
    return box[0], box[1], box[2]


def _write(labels: Array, axis: int, index: int, plane: Array) -> Write:
    at = [slice(None)] * 3
    at[axis] = slice(index, index + 1)
    box = (at[0], at[1], at[2])
    return Write(box, labels[box].copy(), np.expand_dims(plane, axis))
