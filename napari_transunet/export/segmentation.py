"""A scan segmented into a file of labels: what the command `segment` does with one input, wherever that runs."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_transunet.annotation.provenance import RunRecord, now, provenance_of
from napari_transunet.annotation.review_order import review_order
from napari_transunet.annotation.uncertainty import SliceUncertainties
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.checkpoints.presets import preset_names
from napari_transunet.errors import InputError
from napari_transunet.files import is_taken, real_path, sha256
from napari_transunet.inference.compatibility import doubt_about, doubt_about_augmentation
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.prediction import Labels
from napari_transunet.inference.predictor import Predictor
from napari_transunet.io.sidecar import (
    READING_NOTES,
    check_sidecar_free,
    describes,
    is_ours,
    plain,
    read_sidecar,
    sidecar_path,
)
from napari_transunet.io.writing import write_labels
from napari_transunet.volumes.geometry import Geometry, voxel_ml
from napari_transunet.volumes.label_values import voxels_by_label
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Volume

WORTH_KEEPING = 50  # slices of the order in which they are worth looking at


@dataclass(frozen=True)
class ReadingOptions:
    """Which of several volumes in a source: a series' UID or its number from 1; a channel, a time point from 0."""

    series: str | int | None = None
    channel: int | None = None
    time_point: int | None = None


@dataclass(frozen=True)
class LoadingOptions:
    """How a checkpoint is loaded: the network's input (H, W) in pixels, which weights, a preset of label names."""

    img_size: tuple[int, int] | None = None
    weights: str | None = None
    preset: str | None = None


@dataclass(frozen=True, eq=False)
class SegmentedVolume:
    """The labels of a whole volume, and what made them.

    Attributes
    ----------
    labels : of the shape of the volume's array
    names : of the label values
    provenance : what the JSON file beside the labels says
    axis : the array axis along which slices were taken
    seconds : from the first slice to the last
    order : the slices in the order in which they are worth checking
    organ_ml : (name, mL) of each label that was found
    doubts : what speaks against this checkpoint for this volume, a sentence each
    """

    labels: Labels
    names: LabelSet
    provenance: Mapping[str, Any]
    axis: int
    seconds: float
    order: tuple[int, ...] = ()
    organ_ml: tuple[tuple[str, float], ...] = ()
    doubts: tuple[str, ...] = field(default=())

    @property
    def slices(self) -> int:
        """How many slices were segmented."""
        return int(self.labels.shape[self.axis])


def load_for(path: Path, loading: LoadingOptions) -> Checkpoint:
    """The checkpoint in this file, loaded so.

    Raises
    ------
    FileProblem, CheckpointError, InputError
        As `load_checkpoint`; also for a preset that does not exist.
    """
    checkpoint = load_checkpoint(path, img_size=loading.img_size, weights=loading.weights)
    if loading.preset is None:
        return checkpoint
    return checkpoint.with_labels(preset_names(loading.preset))


def doubts_about(volume: Volume, predictor: Predictor) -> tuple[str, ...]:
    """What speaks against segmenting this volume so, a sentence each."""
    found = (
        doubt_about(volume, predictor.card),
        doubt_about_augmentation(predictor.card, predictor.options),
    )
    return tuple(doubt for doubt in found if doubt is not None)


def told_of(
    record: RunRecord, volume: Volume, predictor: Predictor, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """What a file of labels says of the run that made them, with notes beside those of the volume's reader."""
    told = provenance_of([record])
    if predictor.checkpoint is not None and predictor.checkpoint.weights is not None:
        told["checkpoint_weights"] = predictor.checkpoint.weights
    sentences = {
        READING_NOTES: [*volume.source.notes, *notes],
        "compatibility_notes": list(doubts_about(volume, predictor)),
    }
    return told | {key: said for key, said in sentences.items() if said}


def organ_ml(
    counts: Mapping[int, int], names: LabelSet, spacing: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    """(name, mL) of labels by their voxels; the spacing in mm."""
    one = voxel_ml(spacing)
    return tuple((names.names.get(value, f"label {value}"), count * one) for value, count in counts.items())


def segment_volume(
    volume: Volume,
    predictor: Predictor,
    *,
    source_sha256: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> SegmentedVolume:
    """The volume's labels.

    Parameters
    ----------
    source_sha256, options : what `made_alike` compares later; see `source_hash` and `compared_options`
    progress, cancelled : as `Predictor.predict`

    Raises
    ------
    InputError, PredictionCancelled
        As `Predictor.predict`.
    """
    axis = predictor.slice_axis(volume)
    slices = volume.data.shape[axis]
    unsure = SliceUncertainties(axis, slices)
    started, date = time.perf_counter(), now()
    labels = predictor.predict(volume, progress=progress, cancelled=cancelled, unsure=unsure.put)
    seconds = time.perf_counter() - started
    record = RunRecord.from_predictor(
        predictor, date=date, seconds=seconds, slices=slices, total=slices, axis=axis
    )
    order = review_order(unsure.expected_error())
    provenance = told_of(record, volume, predictor) | {"review_order": order[:WORTH_KEEPING]}
    if source_sha256 is not None:
        provenance["source_sha256"] = source_sha256
    if options is not None:
        provenance["options"] = dict(options)
    names = predictor.card.label_set()
    return SegmentedVolume(
        labels,
        names,
        provenance,
        axis,
        seconds,
        tuple(order),
        organ_ml(voxels_by_label(labels), names, volume.geometry.spacing),
        tuple(provenance.get("compatibility_notes", ())),
    )


def write_segmentation(
    target: Path, segmented: SegmentedVolume, grid: Geometry, *, overwrite: bool = False
) -> Path:
    """Write the labels on their volume's grid, and what made them beside them.

    Raises
    ------
    VolumeError, ExistsError, FileProblem
        As `write_labels`.
    """
    return write_labels(
        target,
        segmented.labels,
        grid,
        segmented.names,
        provenance=segmented.provenance,
        overwrite=overwrite or unfinished(target),
    )


def check_no_overlap(source: Path, target: Path) -> None:
    """Refuse a target that would take the place of the scan, of its JSON file, or of somebody else's.

    Raises
    ------
    InputError, ExistsError
        It would.
    """
    beside = sidecar_path(target)
    if real_path(target) == real_path(source):
        raise InputError(f"The labels would replace the input; choose another name than {target}.")
    of_source = beside.exists() and real_path(beside) == real_path(sidecar_path(source))
    if of_source and not describes(target):  # else of an earlier run
        raise InputError(
            f"{beside} belongs to the input, and labels have such a file too; choose another name."
        )
    check_sidecar_free(target, (target.name,))


def unfinished(target: Path) -> bool:
    """Whether a run was killed between writing the JSON file of these labels and the labels, which come last."""
    return not is_taken(target) and describes(target)


def compared_options(
    options: PredictorOptions, loading: LoadingOptions, reading: ReadingOptions
) -> dict[str, Any]:
    """What was asked for, as far as it makes other labels. Device and batch size do not.

    In the types of JSON, so that it can be compared with what a file says.
    """
    asked = asdict(options)
    for name in ("device", "batch_size"):
        del asked[name]
    found: dict[str, Any] = plain(asked | asdict(loading) | asdict(reading))
    return found


def made_alike(
    target: Path, *, source_sha256: str, checkpoints: Collection[str], options: Mapping[str, Any]
) -> bool:
    """Whether these labels are there already: of this source, by one of these checkpoints, with these options.

    Labels that were changed since they were written, or whose JSON file belongs to others, are not.
    """
    content, _ = read_sidecar(target)
    provenance = content.get("provenance")
    if not is_ours(target) or not isinstance(provenance, dict) or not target.is_file():
        return False
    return (
        provenance.get("source_sha256") == source_sha256
        and provenance.get("sha256") in checkpoints
        and provenance.get("options") == dict(options)
        and content.get("sha256") == sha256(target)
    )
