"""A whole run of the network as one undo step of a Labels layer.

napari (0.9) has no public way to do this: writing into `layer.data` leaves no history, `block_history` held over
a run would mix in the person's strokes, and making a layer non-editable forgets the history that it had. So this
module, and only this one, uses private parts of `Labels`: its two history queues and the form of an entry, a list
of (index, values before, values after). It is written for napari>=0.9,<0.10 and its tests press real undo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers import Labels

Box: TypeAlias = tuple[slice, slice, slice]
Atom: TypeAlias = tuple[Box, NDArray[Any], NDArray[Any]]


class UndoStep:
    """Collects the writes of one run into a Labels layer and leaves them as one undo step.

    From construction until `close` the layer cannot be edited, so the person's strokes and the run's
    writes never interleave. Steps that were there before stay undoable below the new one.

    Parameters
    ----------
    layer
        A three-dimensional Labels layer backed by a numpy array.
    """

    def __init__(self, layer: Labels) -> None:
        self._layer = layer
        self._data: NDArray[Any] = layer.data
        self._atoms: list[Atom] = []
        self._closed = False
        self._earlier = list(layer._undo_history)
        layer.editable = False  # resets the history, hence the copy above

    @property
    def intact(self) -> bool:
        """Whether the layer still holds the array that the writes go to."""
        return self._layer.data is self._data

    def write(self, axis: int, index: int, plane: NDArray[Any]) -> Box | None:
        """Put a slice's labels into the layer's array and keep what they replaced.

        Parameters
        ----------
        axis, index
            The slice: position `index` along array axis `axis`.
        plane
            Its labels, the two axes in the order of the volume's other two.

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

    def close(self) -> None:
        """Make the layer editable again, with the run as the newest undo step. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._layer.editable = True
        if not self.intact:
            # Somebody replaced the array; replaying old boxes into another one would damage it.
            return
        self._layer._undo_history.extend(self._earlier)
        if self._atoms:
            self._layer._redo_history.clear()
            self._layer._append_to_undo_history(self._atoms)


def changed_box(data: NDArray[Any], axis: int, index: int, plane: NDArray[Any]) -> Box | None:
    """The smallest box around the voxels of one slice of `data` that differ from `plane`; None if none do."""
    differs = data[(slice(None),) * axis + (index,)] != plane
    rows = np.flatnonzero(differs.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(differs.any(axis=0))
    box = [slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)]
    box.insert(axis, slice(int(index), int(index) + 1))
    return (box[0], box[1], box[2])
