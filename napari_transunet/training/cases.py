"""Labelled volumes as slices of the network's size, prepared by the very steps that inference takes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.errors import DatasetError, InputError, SizeError, TransUNetError, VolumeError, some
from napari_transunet.files import available_memory
from napari_transunet.inference.compatibility import other_modality
from napari_transunet.inference.preprocessing import IntensityScaling
from napari_transunet.inference.resize import Resize
from napari_transunet.inference.slices import PLANE_AXES, PLANES, Plane, SliceSource
from napari_transunet.training.datasets import LabelledVolume, all_reasons, whole_labels
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.grid_part import LabelsOnGrid, labels_on_grid, labels_part
from napari_transunet.volumes.label_values import values_in
from napari_transunet.volumes.labels import given_names, organ_key
from napari_transunet.volumes.orientation import Reorientation
from napari_transunet.volumes.volume import Volume

_SCALED = IntensityScaling(0.0, 1.0)
_SCALED_TOLERANCE = 1e-3
_PIXELS_AT_ONCE = 1 << 22
_BACKGROUND = "the rest counts as background, as their format leaves out what is empty."
_UNKNOWN_REST = "the rest is unknown, and counts for nothing."
_USABLE_MEMORY = 0.8  # the network and its gradients need some as well


class PreparationCancelled(TransUNetError):
    """Preparing cases was cancelled before all of them were ready."""


@dataclass(frozen=True, eq=False)
class Case:
    """One labelled volume at the network's size.

    Attributes
    ----------
    name : of the volume
    patient : volumes of one patient bear the same; a split never separates them
    planes : (Z, H, W) float16, scaled to 0..1
    labels : (Z, H, W) uint8 classes, or `UNKNOWN` where nobody says what is there
    annotated : (Z, classes) bool, which classes were annotated in each slice; the others are unknown, not absent. None
        where all were annotated in all
    step, pixel : mm from slice to slice, and from pixel to pixel at the network's size (the mean of rows and columns);
        None where nobody says
    """

    name: str
    patient: str
    planes: Tensor
    labels: Tensor
    annotated: Tensor | None = None
    step: float | None = None
    pixel: float | None = None

    def __len__(self) -> int:
        return self.planes.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self.planes.nbytes + self.labels.nbytes


def class_labels(labels: npt.NDArray[Any], classes: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """Label values (0 to 65535) of a source as this model's classes; those not in `classes` become background."""
    return _class_table(classes)[labels]


def prepare_case(
    image: Volume,
    labels: Volume,
    classes: Mapping[int, int],
    card: ModelCard,
    *,
    name: str,
    patient: str,
    others_are_background: bool = False,
    scaled: bool = False,
    annotated: Collection[int] | None = None,
    plane: Plane = "z",
) -> Case:
    """An image and its labels, turned to the card's orientation, scaled and resized as the card says.

    Labels are resampled class by class and the largest share wins, so that small organs keep smooth outlines.

    Parameters
    ----------
    image, labels : stored in any orientations, on one grid (as `Geometry.matches` has it) or the labels on a part of
        the image's. Where they do not reach it is background if their format leaves out what is empty
        (`Source.omits_background`), else unknown
    classes : label value → class of the network, or `UNKNOWN`
    name, patient : of the case
    others_are_background : whether label values that `classes` lacks become background; else they are an error
    scaled : whether the image holds values from 0 to 1 that stay as they are, whatever the card says
    annotated : the classes that were annotated; None for all of the model. The others are unknown here, not absent
    plane : the axis, in the card's orientation, along which slices are taken

    Raises
    ------
    DatasetError
        Image and labels lie on different grids, or labels outside of the image; the image holds NaN or infinity; the
        labels are no whole numbers, or hold values that `classes` lacks, or that are not `annotated`; no class is in
        them; or values are outside 0..1 though `scaled`.
    InputError
        `classes` names a class that the card does not have.
    """
    there = [*range(min(card.num_classes, UNKNOWN)), UNKNOWN]
    if wrong := [target for target in classes.values() if target not in there]:
        raise InputError(
            f"There is no class {wrong[0]} among the {card.num_classes} of the model (at most {UNKNOWN})."
        )
    bad: list[str] = []
    try:
        placed = labels_on_image(image, labels, name)
        turn = Reorientation.between(image.geometry, card.orientation or image.geometry.axis_codes)
        wanted = turn.apply(whole_labels(placed.data, name)).transpose(PLANE_AXES[plane])
        _check_values(wanted, classes, others_are_background, annotated, name)
    except DatasetError as error:
        bad.append(str(error))
    try:
        _check_image(image.data, scaled, name)
    except DatasetError as error:
        bad.append(str(error))
    if bad:  # all that is wrong in one go, also of one case
        raise DatasetError(" And ".join([bad[0], *(one.removeprefix(f"{name}: ") for one in bad[1:])]))
    source = SliceSource.from_card(image, card, card.img_size, plane)
    scaling = _SCALED if scaled else source.scaling
    size = (len(source), *source.resize.size)
    planes, targets = torch.empty(size, dtype=torch.float16), torch.empty(size, dtype=torch.uint8)
    table = _class_table(classes)
    outside = placed.unknown
    hidden = None if outside is None else turn.apply(outside).transpose(PLANE_AXES[plane])
    for part in _parts(source.data.shape):
        values = torch.from_numpy(np.ascontiguousarray(source.data[part], np.float32))
        planes[part] = source.resize.forward(scaling.apply(values)).half()
        found = table[np.ascontiguousarray(wanted[part])]
        if hidden is not None:
            found[hidden[part]] = UNKNOWN
        targets[part] = resized_classes(found, source.resize)
    known = None
    if annotated is not None:
        classes_known = [value == 0 or value in annotated for value in range(card.num_classes)]
        known = torch.tensor(classes_known).repeat(len(targets), 1)
    (rows, columns), (step, height, width) = source.resize.steps, source.spacing
    pixel = (rows * height + columns * width) / 2
    return Case(name, patient, planes, targets, known, step=step, pixel=pixel)


def prepare_cases(
    cases: Sequence[LabelledVolume],
    classes: Mapping[int, int],
    card: ModelCard,
    *,
    others_are_background: bool = False,
    scaled: bool = False,
    annotated: Mapping[str, Collection[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    noted: Callable[[str], None] | None = None,
    loaded: Callable[[LabelledVolume, Volume, Volume], None] | None = None,
) -> list[Case]:
    """All cases, read and prepared as by `prepare_case`, in their order; one for each plane that the card looks at.

    `annotated` has the classes that were annotated in cases where not all were, by their names. `progress` is told the
    cases that are done and how many there are; `cancelled` is asked before each; `noted` gets, when all are read, each
    sentence about what their readers had to assume, or about a modality that is not the card's, with the cases it is
    about. `loaded` gets each case with its image and labels as they were read.

    Raises
    ------
    DatasetError
        Cases cannot be read or used, or number organs otherwise than the names in their files say: one error for all,
        with the reasons of the first few. Or the memory would not hold them, by the size of the first.
    PreparationCancelled
        `cancelled` said so.
    """
    prepared: list[Case] = []
    bad: list[str] = []
    notes: dict[str, list[str]] = {}
    partial: dict[str, str] = {}
    own = card.label_names
    organs = {value: own[number] for value, number in classes.items() if number in own}
    said: dict[int, tuple[str, str]] = {}
    for done, case in enumerate(cases, 1):
        if cancelled is not None and cancelled():
            raise PreparationCancelled("Preparing the cases was cancelled.")
        try:
            image, labels = case.read()
            if loaded is not None:
                loaded(case, image, labels)
            if not scaled and (found := other_modality(image, card)) is not None:
                note = f"its image {found}, but the network is trained for {card.modality} and scales it so."
                notes.setdefault(note, []).append(case.name)
            for note in dict.fromkeys((*image.source.notes, *labels.source.notes)):
                notes.setdefault(note, []).append(case.name)
            ready = [
                prepare_case(
                    image,
                    labels,
                    classes,
                    card,
                    name=case.name,
                    patient=case.patient,
                    others_are_background=others_are_background,
                    scaled=scaled,
                    annotated=None if annotated is None else annotated.get(case.name),
                    plane=plane,
                )
                for plane in PLANES[: card.planes]
            ]
            for note in _name_notes(labels, classes, organs, said, case.name):
                notes.setdefault(note, []).append(case.name)
            part = labels_part(labels, image)
            if part is not None and not part.is_whole:
                rest = _BACKGROUND if labels.source.omits_background else _UNKNOWN_REST
                # One sentence for all, with the first case's slices: every case has others.
                note = partial.setdefault(
                    rest, f"its labels cover a part of its image ({part.coverage}); {rest}"
                )
                notes.setdefault(note, []).append(case.name)
        except DatasetError as error:
            bad.append(str(error))
        except (TransUNetError, MemoryError) as error:
            bad.append(f"{case.name}: {str(error) or 'it does not fit into memory.'}")
        else:
            if not prepared:
                _check_memory(ready, len(cases), len(cases) - done)
            prepared.extend(ready)
        if progress is not None:
            progress(done, len(cases))
    if noted is not None:
        for note, names in notes.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            noted(f"Note on {names[0]}{more}: {note}")
    if bad:
        raise DatasetError(all_reasons(bad, len(cases)))
    return prepared


def resized_classes(classes: npt.NDArray[np.uint8], resize: Resize) -> Tensor:
    """Class maps (N, h, w) at the network's size (N, H, W), uint8: at each pixel the class with the largest share.

    It is the argmax of the resized one-hot planes, of which only those that hold something are looked at, and of
    these only the rectangle around it.
    """
    labels = torch.zeros((len(classes), *resize.size), dtype=torch.uint8)
    held = values_in(classes)
    if not held:
        return labels
    best = resize.forward(torch.from_numpy(classes == 0).float())
    for value in held:
        mask = classes == value
        planes, rows, columns = (_span(mask.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        part = torch.from_numpy(mask[planes, rows, columns]).float()
        share = resize.rows[:, rows] @ part @ resize.columns[:, columns].mT
        labels[planes].masked_fill_(share > best[planes], value)
        torch.maximum(best[planes], share, out=best[planes])
    return labels


def _span(held: npt.NDArray[np.bool_]) -> slice:
    """From the first to the last that is true."""
    where = np.flatnonzero(held)
    return slice(int(where[0]), int(where[-1]) + 1)


def _parts(shape: tuple[int, ...]) -> list[slice]:
    """Slices of a (z, y, x) array a few at a time, so that memory does not grow with their number."""
    step = max(1, _PIXELS_AT_ONCE // (shape[1] * shape[2]))
    return [slice(start, start + step) for start in range(0, shape[0], step)]


def _class_table(classes: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    """The class of every label value there can be."""
    table = np.zeros(1 << 16, np.uint8)
    for value, target in classes.items():
        table[value] = target
    return table


def labels_on_image(image: Volume, labels: Volume, name: str) -> LabelsOnGrid:
    """The labels of a case on its image's grid, also where they cover a part of it.

    Raises
    ------
    DatasetError
        They lie on another grid, or hold something outside of the image's; the sentence names the case.
    """
    why: object = "resample the labels to the image's."
    try:
        placed = labels_on_grid(labels, image)
    except SizeError as error:
        raise DatasetError(f"{name}: {error}") from error
    except VolumeError as error:
        placed, why = None, error
    if placed is None:
        differences = _differences(image.geometry, labels.geometry)
        raise DatasetError(f"{name}: image and labels lie on different grids ({differences}); {why}")
    return placed


def _differences(image: Geometry, labels: Geometry) -> str:
    """What differs between two grids, as "image's and labels'", once their axes run alike."""
    turn = Reorientation.between(labels, image.axis_codes)
    labels = labels.reoriented(turn.axes, turn.flips)
    found = []
    if image.shape != labels.shape:
        found.append(f"{_by(image.shape)} and {_by(labels.shape)} voxels along z, y, x")
    found += [
        f"{what} {_by(own)} and {_by(other)} mm"
        for what, own, other in (
            ("spacing", image.spacing, labels.spacing),
            ("origin", image.origin, labels.origin),
        )
        if np.abs(np.subtract(own, other)).max() > 1e-4 * min(1.0, *image.spacing)
    ]
    if np.abs(np.subtract(image.direction, labels.direction)).max() > 1e-4:
        found.append("turned against each other")
    if image.shape == labels.shape:
        found.append(f"voxels up to {image.displacement(labels):.3g} mm apart")
    return "; ".join(found)


def _by(numbers: Sequence[float]) -> str:
    return " × ".join(f"{number:.6g}" for number in numbers)


def _check_values(
    labels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    classes: Mapping[int, int],
    others_are_background: bool,
    annotated: Collection[int] | None,
    name: str,
) -> None:
    values = values_in(labels)
    if annotated is not None:
        unlisted = [value for value in values if classes.get(value, 0) not in (0, UNKNOWN, *annotated)]
        if unlisted:
            raise DatasetError(
                f"{name}: its labels hold {some(unlisted, 10)}, which its list of annotated organs leaves out; add them"
                " to the list, or take them out of the labels."
            )
    elif not values:
        raise DatasetError(f"{name}: its labels are empty; label it, or take the case out.")
    strangers = [value for value in values if value not in classes]
    if strangers and not others_are_background:
        raise DatasetError(
            f"{name}: its labels hold {some(strangers, 10)}, which no class is for; name these values, or let other"
            " labels be background."
        )
    if annotated is None and not any(classes.get(value, 0) not in (0, UNKNOWN) for value in values):
        wanted = sorted(value for value, target in classes.items() if target not in (0, UNKNOWN))
        raise DatasetError(
            f"{name}: its labels hold none of {some(wanted, 10)} but {some(values, 10)}; correct the label values, or"
            " take the case out."
        )


def _name_notes(
    labels: Volume,
    classes: Mapping[int, int],
    names: Mapping[int, str],
    said: dict[int, tuple[str, str]],
    case: str,
) -> list[str]:
    """What a label file calls otherwise than the dataset's `names`, a sentence each.

    `said` gets, by value, the name that a file gives what the dataset does not name, and the case.

    Raises
    ------
    DatasetError
        It numbers organs otherwise than the dataset, or than another file.
    """
    found = given_names(labels.labels.names) if labels.labels is not None else {}
    keys, notes = {organ_key(name) for name in names.values()}, []
    for value in values_in(whole_labels(labels.data, case)) if found else ():
        if value not in found:
            continue
        name = found[value]
        learnt, key = classes.get(value, 0) not in (0, UNKNOWN), organ_key(name)
        known, where = (names[value], "the dataset") if value in names else ("", "")
        if learnt and not known:
            known, other = said.setdefault(value, (name, case))
            where = f"those of {other}"
        if key == organ_key(known):
            continue
        if key in keys or (known and value not in names):
            other = (
                f"{where} {known!r}" if known else "which is background, though the dataset has that organ"
            )
            raise DatasetError(
                f"{case}: its labels call {value} {name!r}, {other}; give all label files one numbering."
            )
        if learnt:
            notes.append(f"its labels call {value} {name!r}, which is learnt as {known!r}.")
    return notes


def _check_image(data: npt.NDArray[Any], scaled: bool, name: str) -> None:
    if data.dtype.kind == "f":
        finite = np.isfinite(data)
        if not finite.all():
            raise DatasetError(
                f"{name}: {int((~finite).sum()):,} voxels of its image are NaN or infinite; replace them, with the"
                " value of air where nothing was measured."
            )
    low, high = float(data.min()), float(data.max())
    if scaled and max(-low, high - 1) > _SCALED_TOLERANCE:
        raise DatasetError(
            f"{name}: its image reaches from {low:g} to {high:g}, where the layout of this dataset has values"
            " scaled to 0..1; scale them, or put whole volumes into images and labels."
        )


def _check_memory(first: Sequence[Case], count: int, left: int) -> None:
    """Raises `DatasetError` unless as many cases again as are left, each like the first, fit into memory."""
    needed, usable = sum(case.nbytes for case in first) * left, int(available_memory() * _USABLE_MEMORY)
    if needed > usable:
        height, width = first[0].planes.shape[1:]
        raise DatasetError(
            f"{count} cases of about {sum(map(len, first))} slices of {height} × {width} need {needed / 1e9:.1f} GB of"
            f" memory, but {usable / 1e9:.1f} GB may be used; train on fewer cases or smaller images, or use a"
            " machine with more memory."
        )
