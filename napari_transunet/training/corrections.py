"""What somebody vouches for in a scan, as the slices that a network learns from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.checkpoints.lineage import LearntScan
from napari_transunet.errors import InputError
from napari_transunet.inference.slices import PLANES, Plane, orientation_for
from napari_transunet.metrics.label_pairs import pair_labels
from napari_transunet.training.class_changes import ClassChanges, listed
from napari_transunet.training.datasets import whole_labels
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.training.partial_slices import PartialSlices, partial_slices
from napari_transunet.volumes.fingerprint import scan_fingerprint
from napari_transunet.volumes.grid_part import labels_on_grid
from napari_transunet.volumes.label_values import values_in, whole_number
from napari_transunet.volumes.labels import given_names, organ_key

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.volumes.volume import Volume

_FOLDS = 4
_UNVOUCHED, _FEWEST_UNVOUCHED = 24, 4
"""Of the scans that slices nobody vouches for are taken from, so many in all, but so many of each at least."""


@dataclass(frozen=True, eq=False)
class Correction:
    """What somebody vouches for in one scan.

    Attributes
    ----------
    volume : the scan
    labels : (z, y, x) label values on the volume's grid; 255 is unknown, unless an organ has that value
    slices : vouched for as a whole; indices along the axis that the network takes slices along (`Predictor.slice_axis`)
    organs : names or label values of the organs that are vouched for there; None: all of the card and all new ones
    voxels : (z, y, x) of which single voxels are vouched for too, wherever they are; None for none
    """

    volume: Volume
    labels: npt.NDArray[Any]
    slices: Sequence[int]
    organs: Sequence[str | int] | None = None
    voxels: npt.NDArray[np.bool_] | None = None

    @classmethod
    def along(
        cls,
        axis: int,
        slices: Sequence[int],
        volume: Volume,
        labels: npt.NDArray[Any],
        organs: Sequence[str | int] | None,
        card: ModelCard,
    ) -> Correction:
        """Slices along any array axis; to a network that takes slices along another, they are single voxels."""
        if orientation_for(volume, card).slice_axis == axis:
            return cls(volume, labels, slices, organs)
        voxels = np.zeros(labels.shape, np.bool_)
        np.moveaxis(voxels, axis, 0)[list(slices)] = True
        return cls(volume, labels, (), organs, voxels)

    @classmethod
    def of_file(
        cls,
        volume: Volume,
        drawn: Volume,
        slices: Sequence[int] | None,
        organs: Sequence[str | int] | None,
        card: ModelCard,
        new_organs: Mapping[int, str] | None = None,
        *,
        noted: Callable[[str], None] = lambda _: None,
    ) -> Correction:
        """The labels that were read from a file, by the names that it gives them and turned onto the volume's grid.

        Where they cover a part of it, the rest is background if their format leaves out what is empty, else unknown.

        Parameters
        ----------
        slices : None for all, but for those of which nothing is known
        new_organs : those that the card lacks, by value
        noted : gets a sentence where names give other values, and where the labels cover a part of the scan

        Raises
        ------
        InputError
            They lie on another grid or outside of the scan, do not reach one of the slices, or a name is none of the
            card's and of the new organs.
        """
        new = new_organs or {}
        path = drawn.source.path or drawn.source.name
        placed = labels_on_grid(replace(drawn, data=_by_name(drawn, card, new, noted)), volume)
        if placed is None:
            one = volume.source.path or volume.source.name
            raise InputError(f"{one} and {path} do not lie on the same grid; resample the labels first.")
        labels, outside = placed.data, placed.unknown
        if not placed.part.is_whole:
            rest = "counts as background" if outside is None else "is unknown"
            noted(f"{path} covers a part of the scan ({placed.part.coverage}); the rest {rest}.")
        axis = orientation_for(volume, card).slice_axis
        reached: npt.NDArray[np.bool_] = np.ones(volume.data.shape[axis], np.bool_)
        if outside is not None:
            if UNKNOWN in {**card.label_names, **new}:
                raise InputError(
                    f"{path} covers a part of the scan, and {UNKNOWN}, which would stand for the rest, is an organ's"
                    " number here; put the labels on the scan's whole grid."
                )
            labels = np.where(outside, np.uint16(UNKNOWN), whole_labels(labels, str(path)))
            reached = np.asarray(np.moveaxis(~outside, axis, 0).any(axis=(1, 2)))
        if slices is None:
            slices = np.flatnonzero(reached).tolist()
        elif beyond := [index for index in slices if 0 <= index < len(reached) and not reached[index]]:
            raise InputError(
                f"{path} does not reach the slice {beyond[0]} of the scan, so that it cannot be right there; leave it"
                " out of the slices."
            )
        return cls(volume, labels, slices, organs)


def _by_name(
    drawn: Volume, card: ModelCard, new: Mapping[int, str], noted: Callable[[str], None]
) -> npt.NDArray[Any]:
    """Labels (z, y, x) with the card's values, where the file says what its own stand for."""
    names = {} if drawn.labels is None else given_names(drawn.labels.names)
    if not names:
        return drawn.data
    path = drawn.source.path or drawn.source.name
    data = whole_labels(drawn.data, str(path))
    known = {**card.label_names, **new}
    values = [value for value in values_in(data) if value != UNKNOWN or value in names]
    keys = {organ_key(name) for name in known.values()}
    # What somebody calls a value that is new it is, unless the file has another organ of the card there.
    said: dict[int | str, int | str] = {
        value: value for value in new if value in values and organ_key(names.get(value, "")) not in keys
    }
    pairs = pair_labels(values, {*range(1, card.num_classes), *new}, names, known, said).pairs
    table = np.arange(1 << 16, dtype=np.uint16)
    for pair in pairs:
        for value in pair.prediction if pair.occurs else ():
            if pair.reference is not None:
                table[value] = pair.reference
            elif value in names:
                has = f", whose {value} is {known[value]}" if value in known else ""
                raise InputError(
                    f"{path} calls {value} {names[value]!r}, an organ that the checkpoint lacks{has}; name it as a "
                    "new organ (--new-organ, new_organs), correct its name, or take the label away."
                )
    moved = [pair for pair in pairs if pair.reference is not None and set(pair.prediction) - {pair.reference}]
    if moved and (table[values] != values).any():
        told = ", ".join(f"{'+'.join(map(str, one.prediction))} as {one.reference_name}" for one in moved)
        noted(f"{path}: its labels are taken by their names: {told}.")
    return table[data]


def is_whole(one: Correction, card: ModelCard) -> bool:
    """Whether every slice is vouched for."""
    axis = orientation_for(one.volume, card).slice_axis
    return len(set(one.slices)) == one.volume.data.shape[axis]


def prepared(one: Correction, card: ModelCard, classes: ClassChanges, plane: Plane = "z") -> PartialSlices:
    """A correction at the network's size. Along another plane than z there are all slices, or single voxels alone.

    Raises `InputError` where it cannot be used.
    """
    name, shape = one.volume.source.name, one.volume.data.shape
    labels = whole_labels(np.asarray(one.labels), name)
    for what, array in (("labels", labels), ("mask of voxels", one.voxels)):
        if array is not None and array.shape != shape:
            raise InputError(
                f"{name}: the {what} have the shape {array.shape}, but the volume {shape}; they must lie on one grid."
            )
    axis = orientation_for(one.volume, card).slice_axis
    slices = sorted({whole_number(index, f"{name}: the index of a slice") for index in one.slices})
    if slices and not 0 <= slices[0] <= slices[-1] < shape[axis]:
        wrong = next(index for index in slices if not 0 <= index < shape[axis])
        raise InputError(
            f"{name}: there is no slice {wrong}; they are 0 to {shape[axis] - 1} along axis {axis}."
        )
    voxels = None if one.voxels is None else np.asarray(one.voxels, bool)
    along = np.moveaxis(labels, axis, 0)[slices]
    values = {*values_in(along), *(() if voxels is None else np.unique(labels[voxels]).tolist())}
    if strangers := sorted(value for value in values if value not in classes.of_value):
        raise InputError(
            f"{name}: its labels hold {listed(map(str, strangers))}, which the checkpoint has no organ for; "
            "give the new organ a name, or take the label away."
        )
    return partial_slices(
        one.volume,
        labels,
        card,
        slices=None if plane != "z" and slices else slices,
        voxels=voxels,
        classes=classes.of_value,
        annotated=classes.vouched(one.organs),
        plane=plane,
    )


def unvouched(one: Correction, scans: int, card: ModelCard, classes: ClassChanges) -> PartialSlices:
    """Some of the slices of one of so many scans that nobody vouches for; nothing is known of them."""
    axis = orientation_for(one.volume, card).slice_axis
    others = np.setdiff1d(np.arange(one.volume.data.shape[axis]), np.array(one.slices, int))
    count = min(len(others), max(_FEWEST_UNVOUCHED, _UNVOUCHED // scans))
    some = others[np.linspace(0, len(others) - 1, count).round().astype(int)]
    nothing = np.zeros(one.volume.data.shape, np.uint8)
    return prepared(Correction(one.volume, nothing, some.tolist(), []), card, classes)


def across(
    one: Correction, held: Collection[int], card: ModelCard, classes: ClassChanges
) -> list[PartialSlices]:
    """What slices along the two other axes show of a correction: lines, but for those in its held-out slices."""
    known = np.zeros(one.volume.data.shape, np.bool_) if one.voxels is None else one.voxels.copy()
    along = np.moveaxis(known, orientation_for(one.volume, card).slice_axis, 0)
    along[list(one.slices)] = True
    along[list(held)] = False
    lines = replace(one, slices=[], voxels=known)
    return [prepared(lines, card, classes, plane) for plane in PLANES[1:]]


def learnt_before(
    corrections: Sequence[Correction], parts: Sequence[PartialSlices], card: ModelCard
) -> set[int]:
    """Which of the slices of all corrections the checkpoint learnt from already, as its lineage tells."""
    first, seen = 0, set()
    for one, part in zip(corrections, parts, strict=True):
        fingerprint = scan_fingerprint(one.volume) if card.lineage else ""
        known = {
            index
            for story in card.lineage
            for scan in story.scans
            if story.steps and scan.fingerprint == fingerprint
            for index in scan.slices
        }
        seen |= {first + at for at, number in enumerate(part.numbers.tolist()) if number in known}
        first += len(part)
    return seen


def numbers_held(parts: Sequence[PartialSlices], held: Sequence[int]) -> list[list[int]]:
    """Of each correction, which slices of its volume are held out."""
    first, numbers = 0, []
    for part in parts:
        own = [number - first for number in held if first <= number < first + len(part)]
        numbers.append(sorted(part.numbers[own].tolist()))
        first += len(part)
    return numbers


def learnt_scans(
    corrections: Sequence[Correction],
    parts: Sequence[PartialSlices],
    held: Sequence[Sequence[int]],
    classes: ClassChanges,
) -> tuple[LearntScan, ...]:
    """What was learnt from, for the card."""
    scans = []
    for one, part, own in zip(corrections, parts, held, strict=True):
        scans.append(
            LearntScan(
                fingerprint=scan_fingerprint(one.volume),
                slices=sorted(part.numbers[part.whole].tolist()),
                held_out=own,
                voxels=0 if one.voxels is None else int(np.count_nonzero(one.voxels)),
                organs=[classes.names[value] for value in classes.vouched(one.organs)],
            )
        )
    return tuple(scans)


def held_out(samples: PartialSlices, seen: Collection[int] = ()) -> list[int]:
    """Which slices are scored and not learnt from: a quarter of those that are vouched for as a whole, every fourth.

    Of the four such choices it is the one that leaves out fewest organs of what is learnt from, and then shows most.
    Those that were `seen` before are none of them. Fewer than two slices, or all seen, or no organ both within and
    without, which alone can be judged: none.
    """
    whole = torch.nonzero(samples.whole)[:, 0].tolist()
    if len(whole) < 2:
        return []
    whole = [number for number in whole if number not in set(seen)]
    folds = min(_FOLDS, len(whole))
    choices = [whole[fold::folds] for fold in range(folds)]

    def worth(chosen: Sequence[int]) -> tuple[bool, int, int]:
        inside, outside = organs_shown(samples, chosen), organs_shown(samples, chosen, within=False)
        return bool(inside & outside), -len(inside - outside), len(inside & outside)

    middle_first = sorted(range(folds), key=lambda fold: abs(2 * fold - folds))
    best = max((choices[fold] for fold in middle_first), key=worth, default=[])
    return best if best and worth(best)[0] else []


def organs_shown(samples: PartialSlices, chosen: Collection[int], *, within: bool = True) -> set[int]:
    """The organs that slices with these numbers show, or that the others do."""
    among = torch.full((len(samples),), not within)
    among[list(chosen)] = within
    return set(samples.labels[among].unique().tolist()) - {0, UNKNOWN}
