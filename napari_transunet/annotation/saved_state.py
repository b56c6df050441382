"""What is saved of labels and their session, and how both come back: one layout for the window and for scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.annotation.provenance import RunRecord
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.annotation.session_folder import SavedSession
from napari_transunet.errors import InputError

ARRAYS = ("prediction", "machine", "flags", "found", "entropy")
"""What is saved of a session beside the labels, as `AnnotationSession.arrays` names it."""


def saved_state(
    session: AnnotationSession,
    labels: NDArray[Any],
    front: Mapping[str, Any],
    *,
    runs: Sequence[RunRecord] | None = None,
) -> dict[str, Any]:
    """All but the arrays, as JSON has it; may be called on any thread.

    Parameters
    ----------
    front : how the labels are shown: "name", "opacity", "label_set"
    runs : in place of the session's, where one is going on
    """
    made = session.runs if runs is None else runs
    fits = tuple(labels.shape) == session.shape
    return {
        "session": session.state() | {"runs": [asdict(one) for one in made]},
        "layer": dict(front),
        "summary": {
            "edited_voxels": session.edited_voxels(labels) if fits else 0,
            "reviewed": len(session.reviewed),
            "slices": session.shape[session.axis],
            "runs": len(made),
            "segmented": [made[-1].slices, made[-1].total] if made else None,
        },
    }


def restored_labels(saved: SavedSession) -> tuple[NDArray[Any], AnnotationSession, dict[str, Any]]:
    """Labels (z, y, x), their session, and how they were shown."""
    try:
        session = AnnotationSession.restored(saved.arrays, saved.state["session"])
        front = dict(saved.state["layer"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("The saved session cannot be understood; it was not restored.") from error
    labels = saved.arrays.get("labels")
    if labels is None or labels.shape != session.shape:
        raise InputError("The saved session holds no labels; it was not restored.")
    return np.asarray(labels), session, front
