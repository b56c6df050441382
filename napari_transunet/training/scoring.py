"""A checkpoint scored on labelled volumes, on the scans' own grids, by the very predictor that users run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from napari_transunet.metrics.segmentation_metrics import evaluate
from napari_transunet.metrics.summary import LabelScores, Summary, completed, mean_of_labels, summarise
from napari_transunet.training.cases import class_labels, labels_on_image
from napari_transunet.training.datasets import whole_labels
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.training.pictures import overlaid
from napari_transunet.volumes.label_values import values_in
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.training.datasets import LabelledVolume
    from napari_transunet.volumes.volume import Volume

_PICTURE_SIZE = 256  # pixels that the shorter side of a picture has at least


def score_volumes(
    predictor: Predictor,
    cases: Sequence[LabelledVolume],
    classes: Mapping[int, int],
    *,
    annotated: Mapping[str, Collection[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, LabelScores]:
    """What `evaluate` says of each case, by name: every class but the background, distances in mm.

    `classes` maps the reference's label values to the network's classes; voxels whose class is `UNKNOWN` count for
    nothing. `annotated` has the classes that were annotated in cases where not all were, by name: the others are not
    scored there. Ends early once `cancelled` says so.
    """
    scores: dict[str, LabelScores] = {}
    for done, case in enumerate(cases):
        if cancelled is not None and cancelled():
            break
        image, reference = image_and_reference(case, classes)
        known = reference != UNKNOWN
        labels = range(1, predictor.card.num_classes)
        scores[case.name] = evaluate(
            predictor.predict(image) * known,
            reference * known,
            spacing=image.geometry.spacing,
            labels_to_score=(annotated or {}).get(case.name, labels),
        )
        if progress is not None:
            progress(done + 1, len(cases))
    return completed(scores)


def card_scores(scores: Mapping[str, LabelScores], names: Mapping[int, str]) -> dict[str, Any]:
    """The scores as a model card tells them: by label its Dice, HD95 (mm) and NSD (2 mm) over the cases, and means.

    Numbers that do not exist are None.
    """
    summaries = summarise(scores)
    means = mean_of_labels(summaries)
    return {
        "cases": len(scores),
        "labels": {
            names.get(value, f"class {value}"): {
                "dice": _plain(metrics["dice"]),
                "hd95_mm": _plain(metrics["hd95"]),
                "nsd_2mm": _plain(metrics["nsd"]),
            }
            for value, metrics in summaries.items()
        },
        "mean": {"dice": _rounded(means["dice"]), "hd95_mm": _rounded(means["hd95"])},
    }


def mean_dice(scores: LabelScores) -> float:
    """Over the labels that the case has or was given; NaN where it has none."""
    known = [score["dice"] for score in scores.values() if not math.isnan(score["dice"])]
    return float(np.mean(known)) if known else math.nan


def worst_and_median(scores: Mapping[str, LabelScores]) -> tuple[str, str]:
    """The cases with the lowest and the middle mean Dice."""
    dice = {name: mean_dice(of) for name, of in scores.items()}
    order = sorted((name for name in dice if not math.isnan(dice[name])), key=dice.__getitem__) or sorted(
        dice
    )
    return order[0], order[len(order) // 2]


def picture_of(predictor: Predictor, case: LabelledVolume, classes: Mapping[int, int]) -> Tensor:
    """The slice of a case with the most labels, beside its reference and the network's labels: uint8 (3, H, W).

    Slices lie as the card's orientation says, with square pixels.
    """
    image, reference = image_and_reference(case, classes)
    predicted = predictor.predict(image)
    turn = Reorientation.between(image.geometry, predictor.card.orientation or image.geometry.axis_codes)
    data, reference, predicted = (turn.apply(array) for array in (image.data, reference, predicted))
    spacing = image.geometry.reoriented(turn.axes, turn.flips).spacing[1:]
    z = int(np.count_nonzero(reference % UNKNOWN, axis=(1, 2)).argmax())
    low, high = (
        predictor.card.window
        if predictor.card.window is not None
        else np.percentile(data, predictor.card.percentiles)
    )
    plane = (data[z].astype(np.float32) - low) / max(high - low, 1e-6)
    colors = {label.value: label.color for label in predictor.card.label_set()}
    bare, true, found = (
        overlaid(*_enlarged(plane, labels, spacing), colors)
        for labels in (np.zeros_like(reference[z]), reference[z], predicted[z])
    )
    return torch.cat([bare, true, found], dim=2)


def image_and_reference(
    case: LabelledVolume, classes: Mapping[int, int]
) -> tuple[Volume, npt.NDArray[np.uint8]]:
    """The image, and the reference as classes (or `UNKNOWN`, where nobody says) on the image's grid."""
    image, labels = case.read()
    placed = labels_on_image(image, labels, case.name)
    values = whole_labels(placed.data, case.name)
    known = {value: classes.get(value, 0) for value in values_in(values)}
    reference = class_labels(values, known)
    if (outside := placed.unknown) is not None:
        reference[outside] = UNKNOWN
    return image, reference


def _enlarged(
    plane: npt.NDArray[Any], labels: npt.NDArray[Any], spacing: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Both with square pixels, and large enough to be looked at."""
    finest = min(spacing)
    sides = [side * size / finest for side, size in zip(plane.shape, spacing, strict=True)]
    factor = max(1.0, _PICTURE_SIZE / min(sides))
    size = [round(side * factor) for side in sides]
    shown = torch.from_numpy(np.ascontiguousarray(plane, np.float32))[None, None]
    over = torch.from_numpy(np.ascontiguousarray(labels, np.float32))[None, None]
    return (
        functional.interpolate(shown, size=size, mode="bilinear")[0, 0],
        functional.interpolate(over, size=size, mode="nearest-exact")[0, 0].long(),
    )


def _plain(summary: Summary) -> dict[str, Any]:
    return {
        "mean": _rounded(summary.mean),
        "sd": _rounded(summary.sd),
        "median": _rounded(summary.median),
        "worst": _rounded(summary.worst),
        "cases": summary.count,
        **({"infinite": summary.infinite} if summary.infinite else {}),
    }


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
