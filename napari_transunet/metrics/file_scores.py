"""Scores of one file of labels against another."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import InputError, VolumeError
from napari_transunet.io.reading import read_volume, series_folder
from napari_transunet.metrics.label_pairs import LabelPair, pair_labels, unknown_voxels
from napari_transunet.metrics.segmentation_metrics import evaluate
from napari_transunet.metrics.summary import LabelScores
from napari_transunet.volumes.grid_part import LabelsOnGrid, on_common_grid
from napari_transunet.volumes.label_values import whole_numbers
from napari_transunet.volumes.volume import Volume


@dataclass(frozen=True)
class ScoringOptions:
    """How a pair is scored.

    Attributes
    ----------
    tolerance : surface distance in mm that counts as right in NSD
    labels : label values to score; None for all
    published : as the published TransUNet code does
    unknown : the label value of voxels in the reference of which nobody says what they are; None for none
    unknown_named : whether somebody said so, rather than that it is usual
    annotated : the label values annotated in this case; None where all are
    names : what the dataset calls the reference's values, where its file does not
    match : which organ of the prediction is which of the reference, as `parse_match` gives it
    """

    tolerance: float
    labels: tuple[int, ...] | None = None
    published: bool = False
    unknown: int | None = None
    unknown_named: bool = False
    annotated: frozenset[int] | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    match: Mapping[int | str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileScores:
    """One pair's scores; `pairs` are the labels that were compared, `notes` what to tell about them."""

    scores: LabelScores
    pairs: Mapping[int, LabelPair]
    spacing: Sequence[float]
    notes: Sequence[str]

    @property
    def names(self) -> dict[int, str]:
        """What the files call the organs, the reference first."""
        known = {label: pair.reference_name or pair.name for label, pair in self.pairs.items()}
        return {label: name for label, name in known.items() if name}


def score_files(
    prediction: Path, reference: Path, options: ScoringOptions, scan: Path | None = None
) -> FileScores:
    """The scores of two label files.

    The series of a structure set is looked for in `scan`, else with the DICOM file it is compared with; then beside it.

    Raises
    ------
    VolumeError, FileProblem
        One of them cannot be read; the sentence names its path.
    InputError
        They lie neither on one grid nor on parts of one, or hold no labels.
    """
    first = read_labels(prediction, scan or reference)
    return score_volumes(first, read_labels(reference, scan or prediction), prediction, reference, options)


def read_labels(path: Path, scan: Path | None = None) -> Volume:
    """The labels in a file, `scan` as in `series_folder`. Raises as `read_volume`, with the whole path."""
    try:
        return read_volume(path, scan=series_folder(scan))
    except VolumeError as error:
        # It begins with the file's name, which a prediction shares with its reference as a rule; the path tells more.
        error.args = (f"{path}: {str(error).removeprefix(f'{path.name}: ')}",)
        raise


def score_volumes(
    first: Volume, second: Volume, prediction: Path, reference: Path, options: ScoringOptions
) -> FileScores:
    """The scores of a prediction that was read against the reference; the paths are for what is said."""
    found = on_common_grid(first, second)
    if found is None:
        raise InputError(
            f"{prediction} and {reference} do not lie on the same grid (shape {first.geometry.shape} and "
            f"{second.geometry.shape}, spacing {_millimetres(first)} and "
            f"{_millimetres(second)} mm{_apart(first, second)}); resample one of them first."
        )
    ours, theirs, grid = found
    first = replace(first, data=np.ascontiguousarray(ours.data), geometry=grid)
    second = replace(second, data=np.ascontiguousarray(theirs.data), geometry=grid)
    own, true, unknown = _known(first, second, options, theirs)
    own, true = _whole(own, prediction), _whole(true, reference)
    paired = pair_labels(
        np.unique(own).tolist(),
        np.unique(true).tolist(),
        first.labels.names if first.labels else None,
        second.labels.names if second.labels else options.names,
        options.match,
    )
    annotated = options.annotated
    scored = options.labels
    if annotated is not None:
        scored = tuple(value for value in scored or sorted(annotated) if value in annotated)
    scores = evaluate(
        own,
        true,
        spacing=first.geometry.spacing,
        labels_to_score=scored,
        tolerance_mm=options.tolerance,
        published_scoring=options.published,
        match=paired.pairs,
    )
    notes = [*_reading_notes(first, second), *paired.notes, *unknown]
    notes += _coverage_notes(ours, theirs)
    if not ours.part.turn.is_identity:
        notes.append(
            "Note: the prediction's axes run in another order or sense; it was turned onto the reference's."
        )
    if annotated is not None:
        notes.append("Note: only the organs that dataset.json lists as annotated in a case are scored there.")
    return FileScores(scores, {pair.label: pair for pair in paired.pairs}, first.geometry.spacing, notes)


def _whole(labels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    try:
        whole = whole_numbers(labels)
    except VolumeError as error:
        raise InputError(f"{path} cannot be scored: {error}") from error
    if whole.dtype.kind == "i" and whole.min() < 0:
        raise InputError(
            f"{path} cannot be scored: labels are 0 or more, and it holds {int(whole.min())}; see that it holds labels."
        )
    return whole


def _known(
    prediction: Volume, reference: Volume, options: ScoringOptions, covered: LabelsOnGrid
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], list[str]]:
    """Both labels without the voxels that the reference calls unknown or does not reach; what to tell of the former."""
    own, true = prediction.data, reference.data
    if (outside := covered.unknown) is not None:
        own = np.where(outside, 0, own)
    names = {} if reference.labels is None else reference.labels.names
    hidden = unknown_voxels(true, names, options.unknown, said=options.unknown_named)
    if hidden is None:
        return own, true, []
    note = f"Note: voxels that the reference labels {options.unknown} are unknown, and count for nothing."
    return np.where(hidden, 0, own), np.where(hidden, 0, true), [note]


def _coverage_notes(prediction: LabelsOnGrid, reference: LabelsOnGrid) -> Iterator[str]:
    for which, one in (("prediction", prediction), ("reference", reference)):
        if not one.part.is_whole:
            ignored = which == "reference" and not one.rest_is_background
            rest = "is unknown, and counts for nothing" if ignored else "counts as background"
            yield f"Note: the {which} covers a part of the scan ({one.part.coverage}); the rest {rest}."


def _reading_notes(prediction: Volume, reference: Volume) -> Iterator[str]:
    """What the readers had to assume; in the same words for every case, so that it is reported once."""
    for which, volume in (("prediction", prediction), ("reference", reference)):
        for note in volume.source.notes:
            yield f"Note on the {which}: {note}"


def _apart(first: Volume, second: Volume) -> str:
    apart = first.geometry.displacement(second.geometry)
    return f"; corners up to {apart:.3g} mm apart" if math.isfinite(apart) else ""


def _millimetres(volume: Volume) -> str:
    return " × ".join(f"{size:g}" for size in volume.geometry.spacing)
