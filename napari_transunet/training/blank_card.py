"""What is known of a network before it learns: its classes, and its card, from the dataset and what the user chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.errors import DatasetError, InputError
from napari_transunet.training.datasets import label_values
from napari_transunet.training.first_network import fitting_size
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from napari_transunet.training.datasets import Dataset
    from napari_transunet.training.experiment import Experiment


def classes_of(course: Experiment) -> tuple[dict[int, int], dict[int, str]]:
    """Label value → class (`UNKNOWN` for the value that says so), and class → name.

    The classes are the dataset's named label values in ascending order; where nothing names them, all that occur.

    Raises
    ------
    DatasetError
        There are no labels, or more than fit.
    """
    names = course.dataset.names
    values = sorted(value for value in (names or label_values(course.dataset)) if value)
    if not values:
        raise DatasetError(f"{course.dataset.path} has no labels but the background; nothing can be learnt.")
    classes = {value: number for number, value in enumerate(values, start=1)}
    unknown = course.dataset.about.unknown
    ignored = {} if unknown is None or unknown in classes else {unknown: UNKNOWN}
    return {0: 0, **classes, **ignored}, {classes[value]: names[value] for value in values if value in names}


def annotated_classes(dataset: Dataset, classes: Mapping[int, int]) -> dict[str, frozenset[int]]:
    """Case → classes that were annotated in it, for the cases in which not all were."""
    return {
        case: frozenset(classes[value] for value in values if value in classes)
        for case, values in dataset.about.annotated.items()
    }


def blank_card(course: Experiment, names: Mapping[int, str]) -> ModelCard:
    """The card before training: what the network is and how images are prepared for it.

    What the user left open follows from the first case: the image size is its slices' (a multiple of the patch, from
    64 to 224 pixels), the orientation its own, where its format has one.

    Raises
    ------
    InputError
        The modality is unknown and no intensity scaling was asked for.
    CheckpointError
        Settings that no card can have.
    """
    wanted, dataset = course.preparation, course.dataset
    first = dataset.cases[0].read()[0]
    modality = wanted.modality or dataset.modality or first.modality
    if modality is None and not dataset.scaled and wanted.window is None and wanted.percentiles is None:
        raise InputError(
            f"Nothing tells the modality of {dataset.path}; say --modality CT, MR or another, as in DICOM."
        )
    knows_orientation = first.source.format not in ("npy", "npz", "HDF5", "TIFF", "Synapse slices")
    classes, _ = classes_of(course)
    codes = {classes[value]: code for value, code in dataset.about.codes.items() if value in classes}
    fields = {field.name: getattr(wanted, field.name) for field in dataclasses.fields(wanted)} | {
        "crops": None,  # which the card says as `extent`
        "num_classes": 1 + len({target for target in classes.values() if target not in (0, UNKNOWN)}),
        "img_size": wanted.img_size or fitting_size(first),
        "labels": [
            {
                "value": label.value,
                "name": label.name,
                "color": label.color,
                "snomed": codes.get(label.value),
            }
            for label in LabelSet.from_names(names)
        ],
        "modality": modality,
        "normalisation": None if wanted.percentiles is None else "percentiles",
        "orientation": wanted.orientation or (first.geometry.axis_codes if knows_orientation else None),
        "spacing": None if wanted.spacing is None else (None, *wanted.spacing),
        "context": course.recipe.context,
        "title": wanted.title or dataset.about.title,
        "licence": wanted.licence or dataset.about.licence,
        "source": wanted.source or dataset.about.source,
    }
    card = ModelCard.from_mapping(
        {key: value for key, value in fields.items() if value is not None}, origin="This model's card"
    )
    return card.updated(extent=_largest_extent(course, card)) if wanted.crops else card


def _largest_extent(course: Experiment, card: ModelCard) -> tuple[float, float, float]:
    """mm along (z, y, x) in the card's orientation, of the largest training volume along each."""
    lengths = []
    for case in course.split.part(course.dataset.cases, "training"):
        geometry = case.read()[0].geometry
        turn = Reorientation.between(geometry, card.orientation or geometry.axis_codes)
        geometry = geometry.reoriented(turn.axes, turn.flips)
        lengths.append([count * step for count, step in zip(geometry.shape, geometry.spacing, strict=True)])
    z, y, x = (round(max(along), 1) for along in zip(*lengths, strict=True))
    return z, y, x
