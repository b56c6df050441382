"""Make the replay packs of the shipped checkpoints: some slices of what they learnt from, beside their files.

    python scripts/replay_packs.py ABDOMEN HIPPOCAMPUS

ABDOMEN is what `abdominal_dataset.py` laid out, HIPPOCAMPUS the Decathlon's Task04 as `images` and `labels`. Only
patients that a checkpoint learnt from are taken.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_transunet import Correction, load_checkpoint, read_volume
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.inference.slices import orientation_for
from napari_transunet.training.adaptation import replay_pack
from napari_transunet.training.replay import replay_path
from napari_transunet.training.splits import Split
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard

PATIENTS = 12  # of the hippocampus


def correction(card: ModelCard, image: Path, labels: Path, values: dict[int, int]) -> Correction:
    """All slices of a scan, as the card takes them; `values` leads from annotated label values to the card's."""
    volume, found = read_volume(image), read_volume(labels)
    stored = Reorientation.between(found.geometry, volume.geometry.axis_codes).apply(found.data)
    turned = np.zeros(stored.shape, np.uint8)
    for value, own in values.items():
        turned[stored == value] = own
    axis = orientation_for(volume, card).slice_axis
    return Correction(volume, turned, range(turned.shape[axis]), sorted(values.values()))


def main(abdomen: Path, hippocampus: Path) -> None:
    index = json.loads((abdomen / "index.json").read_text("utf-8"))
    for modality in ("CT", "MR"):
        path = resolve_checkpoint(f"abdominal-organs-{modality.lower()}")
        card = load_checkpoint(path).card
        own = {name: value for value, name in card.label_set().names.items()}
        scans = [
            correction(
                card,
                abdomen / about["image"],
                abdomen / "labels" / f"{name}.nii.gz",
                {int(value): own[organ] for value, organ in about["labels"].items() if organ in own},
            )
            for name, about in index.items()
            if about["modality"] == modality
        ]
        replay_pack(card, scans).write(replay_path(path), overwrite=True)
    path = resolve_checkpoint("hippocampus-mr")
    card = load_checkpoint(path).card
    names = sorted(one.name.removesuffix(".nii.gz") for one in (hippocampus / "labels").glob("*.nii.gz"))
    learnt = Split.by_seed(names, validation=0.1, test=0.15, seed=0).training
    images, labels = hippocampus / "images", hippocampus / "labels"
    scans = [
        correction(card, images / f"{name}.nii.gz", labels / f"{name}.nii.gz", {1: 1, 2: 2})
        for name in learnt[:: len(learnt) // PATIENTS]
    ]
    replay_pack(card, scans, slices=72).write(replay_path(path), overwrite=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
