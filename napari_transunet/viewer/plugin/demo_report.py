"""What the demo's report says about the labels: volumes, agreement with a reference, provenance, versions."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_transunet.volumes.geometry import voxel_ml
from napari_transunet.volumes.label_values import voxels_by_label
from napari_transunet.volumes.labels import organ_key

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.labels import LabelSet
    from napari_transunet.volumes.volume import Volume

_SEEN_AREA = 150.0  # mm² of an organ in a slice before it counts as shown


def organ_volumes(labels: npt.NDArray[Any], geometry: Geometry, label_set: LabelSet) -> dict[str, float]:
    """Millilitres of every named organ, 0 for one that was not found."""
    voxels, one = voxels_by_label(labels), voxel_ml(geometry.spacing)
    return {label.name: round(voxels.get(label.value, 0) * one, 1) for label in label_set}


def best_slice(labels: npt.NDArray[Any], geometry: Geometry) -> int:
    """Index of the slice that shows the most organs, and among equals the most of them (square root of area)."""
    _, rows, columns = geometry.spacing
    best, best_score = len(labels) // 2, (0, 0.0)
    for index, plane in enumerate(labels):
        area = np.bincount(plane.ravel())[1:] * (rows * columns)
        score = (int((area >= _SEEN_AREA).sum()), float(np.sqrt(area).sum()))
        if score > best_score:
            best, best_score = index, score
    return best


def agreement(
    labels: npt.NDArray[Any], label_set: LabelSet, reference: npt.NDArray[Any], names: Mapping[int, str]
) -> dict[str, float | None]:
    """Dice of every organ that the reference also names; None where neither holds a voxel of it.

    Dice is 2|A∩B| / (|A| + |B|). Names are compared without regard to spelling: "left kidney" is "kidney_left".

    Parameters
    ----------
    labels, reference : (z, y, x) on the same grid.
    names : value -> name in the reference.
    """
    by_organ_key = {organ_key(name): value for value, name in names.items()}
    found: dict[str, float | None] = {}
    for label in label_set:
        value = by_organ_key.get(organ_key(label.name))
        if value is None:
            continue
        ours, theirs = labels == label.value, reference == value
        total = int(np.count_nonzero(ours)) + int(np.count_nonzero(theirs))
        found[label.name] = round(2.0 * int(np.count_nonzero(ours & theirs)) / total, 4) if total else None
    return found


def structure_names(path: Path) -> dict[int, str]:
    """Value -> name from the CSV beside the real CT's labels (columns `id` and `structure`)."""
    with path.open(encoding="utf-8", newline="") as file:
        return {int(row["id"]): row["structure"] for row in csv.DictReader(file)}


def trained_on(card: ModelCard | None, patient: str) -> bool | None:
    """Whether the card says that this patient was among the training data; None where it does not say."""
    training = card.training if card is not None else None
    if not training:
        return None
    return patient.lower() in json.dumps(training, default=str).lower()


def describe_volume(volume: Volume) -> dict[str, Any]:
    """The scan and its grid."""
    return {
        "name": volume.source.name,
        "file": volume.source.path.name if volume.source.path is not None else None,
        "format": volume.source.format,
        "modality": volume.modality,
        "dtype": str(volume.data.dtype),
    } | volume.geometry.as_json()


def describe_checkpoint(card: ModelCard | None) -> dict[str, Any]:
    """What the card says of the checkpoint."""
    if card is None:
        return {"card": None}
    return {
        "title": card.title or card.name,
        "variant": card.variant,
        "img_size": list(card.img_size),
        "context": card.context,
        "organs": list(card.label_names.values()),
        "training": card.training,
        "scores": card.scores,
        "limits": card.limits,
    }
