"""TransUNet on the cardiac MRs of ACDC, by the split and measures of the paper (Chen et al., arXiv 2102.04306).

    python benchmarks/cardiac.py prepare DATA CASES
    python benchmarks/cardiac.py train CASES OUT [--recipe paper|default] [--seconds S] [--device cuda]
    python benchmarks/cardiac.py score DATA OUT --json RESULT

DATA holds `images`, `labels` and a `split.json` with cases in "train", "validation" and "test" (70, 10 and 20
patients, two phases each). `train` learns from the 70 for a given time, with nothing chosen on the way, and keeps what
it finds in the 20; no weights are kept, since the data's licence forbids to ship any. `score` compares once, on the
scans' own grids. Voxel sizes are lost, so distances are in voxels. Prints a Markdown table.

The published network started from ImageNet and took 150 passes; here it starts from scratch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timed_training import (
    labels_found,
    learn,
    load_case,
    parsers,
    save_case,
    scores_on_own_grid,
    seconds_left,
    write_json,
)
from napari_transunet import TransUNet, read_volume
from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.metrics.summary import mean_of_labels, summarise
from napari_transunet.training.cases import prepare_case
from napari_transunet.training.recipes import DEFAULT, PAPER

NAMES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
PUBLISHED = {"right ventricle": 88.86, "myocardium": 84.53, "left ventricle": 95.73, "mean": 89.71}
"""Dice in per cent of TransUNet with R50-ViT-B_16 from ImageNet, table 2 of the paper."""
VARIANT, SIZE, BATCH = "R50-ViT-B_16", 224, 24
RECIPES = {"paper": PAPER, "default": DEFAULT}


def card_of(context: int) -> ModelCard:
    return ModelCard.from_mapping(
        {
            "variant": VARIANT,
            "num_classes": len(NAMES) + 1,
            "img_size": SIZE,
            "labels": [{"value": value, "name": name} for value, name in NAMES.items()],
            "modality": "MR",
            "orientation": "LPS",
            "normalisation": "percentiles",
            "percentiles": (0.5, 99.5),
            "context": context,
        },
        origin="This model's card",
    )


def patient_of(name: str) -> str:
    return name.rsplit("_", 1)[0]


def prepare(data: Path, out: Path) -> None:
    """The patients to learn from with their labels, those of the test without."""
    split = json.loads((data / "split.json").read_text("utf-8"))
    for part in ("train", "test"):
        (out / part).mkdir(parents=True, exist_ok=True)
        for name in split[part]:
            case = prepare_case(
                read_volume(data / "images" / f"{name}.nii.gz"),
                read_volume(data / "labels" / f"{name}.nii.gz"),
                {value: value for value in (0, *NAMES)},
                card_of(3),
                name=name,
                patient=patient_of(name),
            )
            if part == "test":
                case.labels.zero_()
            save_case(out / part / f"{name}.npz", case)


def train(given: argparse.Namespace) -> None:
    recipe = RECIPES[given.recipe].with_changes(batch=BATCH, seed=given.seed)
    out = given.out / given.recipe
    out.mkdir(parents=True, exist_ok=True)
    cases = [
        load_case(path, patient_of(path.stem))[0] for path in sorted((given.source / "train").glob("*.npz"))
    ]
    torch.manual_seed(given.seed)
    net = TransUNet(VARIANT, num_classes=len(NAMES) + 1, img_size=SIZE, n_skip=3)
    seconds = seconds_left(given.seconds)
    facts: dict[str, Any] = learn(net, cases, recipe, seconds, given.device, f"cardiac, {given.recipe}")
    facts["passes"] = round(facts["steps"] * BATCH / sum(len(case) for case in cases), 1)
    facts["recipe"] = recipe.sentence()
    for path in sorted((given.source / "test").glob("*.npz")):
        case, _ = load_case(path)
        found = labels_found(net, case, given.device, recipe.context)
        np.savez_compressed(out / f"found-{case.name}.npz", labels=found)
    write_json(out / "facts.json", facts)


def score(data: Path, out: Path, result: Path) -> None:
    """The test patients of every recipe that was trained."""
    results: dict[str, Any] = {}
    for facts in sorted(out.glob("*/facts.json")):
        name, about = facts.parent.name, json.loads(facts.read_text("utf-8"))
        scores = {}
        for path in sorted(facts.parent.glob("found-*.npz")):
            case = path.stem.removeprefix("found-")
            with np.load(path, allow_pickle=False) as held:
                found = held["labels"]
            scores[case] = scores_on_own_grid(
                found,
                read_volume(data / "images" / f"{case}.nii.gz"),
                read_volume(data / "labels" / f"{case}.nii.gz"),
                {value: value for value in NAMES},
                card_of(RECIPES[name].context),
                in_voxels=True,
            )
        of = summarise(
            {
                case: {
                    value: {name: math.nan if score is None else score for name, score in measures.items()}
                    for value, measures in organs.items()
                }
                for case, organs in scores.items()
            }
        )
        results[name] = about | {
            "test cases": len(scores),
            "dice": {NAMES[value]: round(100 * one["dice"].mean, 2) for value, one in of.items()}
            | {"mean": round(100 * mean_of_labels(of)["dice"], 2)},
            "hd95, voxels": {NAMES[value]: round(one["hd95"].mean, 2) for value, one in of.items()},
            "cases": scores,
        }
    write_json(result, results)
    sys.stdout.write(table(results) + "\n")


def table(results: dict[str, dict[str, Any]]) -> str:
    """Dice in per cent: a row a training, and the paper's."""
    heads = ["", *NAMES.values(), "mean", "start", "passes"]
    rows = [[name, *of["dice"].values(), "from scratch", of["passes"]] for name, of in results.items()]
    rows.append(["published", *PUBLISHED.values(), "ImageNet", 150])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [heads, ["---"] * len(heads), *rows])


def main() -> None:
    parser, training, scoring = parsers(__doc__)
    training.add_argument("--recipe", choices=sorted(RECIPES), default="default")
    scoring.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.source, given.out)
    elif given.command == "train":
        train(given)
    else:
        score(given.source, given.out, given.json)


if __name__ == "__main__":
    main()
