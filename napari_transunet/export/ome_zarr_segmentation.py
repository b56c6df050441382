"""An OME-Zarr segmented into one, a few slices in memory at a time, so that its size does not matter."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_transunet.annotation.provenance import RunRecord, now
from napari_transunet.annotation.review_order import review_order
from napari_transunet.errors import InputError
from napari_transunet.export.segmentation import WORTH_KEEPING, organ_ml, told_of
from napari_transunet.inference.prediction import PredictionCancelled
from napari_transunet.inference.predictor import Predictor
from napari_transunet.io.ome_zarr.labels import LabelsPlace, LabelWriter
from napari_transunet.io.ome_zarr.reading import OmeZarrImage
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.volume import Volume

_SAMPLED = (
    "Percentiles were found from a sample: a coarser resolution, or some slices spread over the volume."
)


@dataclass(frozen=True)
class StreamedLabels:
    """A label image that was written.

    Attributes
    ----------
    folder : its group
    slices, resumed_at : how many slices it has, and how many of them an earlier run had written
    seconds : of this run
    organ_ml : (name, mL) of each label that was found
    """

    folder: Path
    slices: int
    resumed_at: int
    seconds: float
    organ_ml: tuple[tuple[str, float], ...]


def segment_ome_zarr(
    image: OmeZarrImage,
    volume: Volume,
    predictor: Predictor,
    place: LabelsPlace,
    *,
    names: LabelSet | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    began: Callable[[LabelWriter], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> StreamedLabels:
    """Labels of an image, written into an OME-Zarr slab by slab.

    Where a run was stopped or killed, the same call goes on after the last slab that it wrote.

    Parameters
    ----------
    image, volume : the image that was opened, and the same as a volume that is read lazily
    place : where the labels go, with their name
    names : of the labels; those of the model card without it
    options : what was asked for; another run goes on only where it is the same
    overwrite : begin anew where such labels exist
    began : called with the writer before the first slice; it knows how many slices are there already
    progress, cancelled : as `Predictor.predict`

    Raises
    ------
    InputError, PredictionCancelled
        As `Predictor.predict`; also where slices along all three axes are asked for, which need the whole volume.
    ExistsError, FileProblem
        As `LabelWriter`.
    """
    if predictor.orthogonal_planes:
        raise InputError(
            "Slices along all three axes need the probabilities of the whole volume in memory; use one plane for an"
            " OME-Zarr."
        )
    axis = predictor.slice_axis(volume)
    slices = volume.data.shape[axis]
    writer = LabelWriter(
        place,
        image,
        dtype=predictor.labels_dtype,
        axis=axis,
        identity=_identity(image, predictor, options or {}),
        overwrite=overwrite,
    )
    done_before = writer.done
    if began is not None:
        began(writer)
    errors = np.full(slices, np.nan, np.float32)
    started, date = time.perf_counter(), now()
    for batch in predictor.iter_batches(
        volume, slices=range(done_before, slices), cancelled=cancelled, uncertainty=True
    ):
        for item in batch:
            writer.put(item.index, item.plane)
            if item.uncertainty is not None:
                errors[item.index] = item.uncertainty.expected_error
        if progress is not None:
            progress(batch[-1].index + 1, slices)
    if writer.done < slices:
        raise PredictionCancelled(
            f"Cancelled; {writer.done} of {slices} slices are written, and the same run goes on after them."
        )
    seconds = time.perf_counter() - started
    record = RunRecord.from_predictor(
        predictor,
        date=date,
        seconds=seconds,
        slices=slices - done_before,
        total=slices - done_before,
        axis=axis,
    )
    sampled = [_SAMPLED] if predictor.card.normalisation != "window" else []
    provenance = told_of(record, volume, predictor, sampled) | {
        "source": {
            "name": image.name,
            "level": image.level,
            "time": image.time,
            "channel": image.channel,
        },
        "options": dict(options or {}),
    }
    if done_before:
        provenance["resumed_at"] = done_before
    else:
        provenance["review_order"] = review_order(errors)[:WORTH_KEEPING]
    names = predictor.card.label_set() if names is None else names
    folder = writer.finish(names, provenance)
    found = organ_ml(writer.voxels, names, volume.geometry.spacing)
    return StreamedLabels(folder, slices, done_before, seconds, found)


def _identity(image: OmeZarrImage, predictor: Predictor, options: Mapping[str, Any]) -> dict[str, Any]:
    """What makes labels the same: the image as it describes itself and by some of its voxels, the checkpoint and the
    options.
    """
    described = json.dumps([asdict(image.multiscale), list(image.info.shape), str(image.info.dtype)])
    sample = np.ascontiguousarray(image.data.sample())
    checkpoint = predictor.checkpoint
    return {
        "image": hashlib.sha256(described.encode()).hexdigest(),
        "voxels": hashlib.sha256(sample.view(np.uint8).data).hexdigest(),
        "level": image.level,
        "time": image.time,
        "channel": image.channel,
        "checkpoint": checkpoint.sha256 if checkpoint is not None else predictor.card.variant,
        # Which of several volumes it is, is said above, also where the file holds but one and nobody chose.
        "options": {key: value for key, value in options.items() if key not in ("channel", "time_point")},
    }
