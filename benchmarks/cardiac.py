"""TransUNet on the cardiac MRs of ACDC, by the split and measures of the paper (Chen et al., arXiv 2102.04306).

    python benchmarks/cardiac.py DATA OUT [--recipe paper|default] [--init SOURCE] [--device cuda] [--resume]

DATA holds `images`, `labels` and a `split.json` with cases in "train", "validation" and "test" (70, 10 and 20
patients, two phases each). OUT gets one checkpoint a recipe, which the data's licence forbids to ship, and
`cardiac.json`. The test patients are scored once, at the end. Voxel sizes are lost, so distances are in voxels. Prints
a Markdown table.

The published network started from ImageNet: `--init imagenet` where weights can be had. From scratch it needs a GPU:
150 passes of 70 patients with R50-ViT-B_16 are some 12,000 steps of 24 slices.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from napari_transunet.metrics.summary import mean_of_labels, summarise
from napari_transunet.training.datasets import open_dataset
from napari_transunet.training.experiment import (
    Experiment,
    HardwareConfig,
    PreprocessingConfig,
    ProgressCallbacks,
    train_checkpoint,
)
from napari_transunet.training.recipes import DEFAULT, PAPER
from napari_transunet.training.splits import Split

PATIENT = r"(acdc_patient\d+)"
NAMES = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
PUBLISHED = {"right ventricle": 88.86, "myocardium": 84.53, "left ventricle": 95.73, "mean": 89.71}
"""Dice in per cent of TransUNet with R50-ViT-B_16 from ImageNet, table 2 of the paper."""


def paper_split(data: Path) -> Split:
    """The patients of the cases in each list."""
    listed = json.loads((data / "split.json").read_text("utf-8"))
    parts = {
        part: tuple(sorted({case.rsplit("_", 1)[0] for case in listed[key]}))
        for part, key in (("training", "train"), ("validation", "validation"), ("test", "test"))
    }
    return Split(**parts, how="The split that papers use: 70, 10 and 20 patients.")


def trained(data: Path, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One recipe from begin to end: its facts and scores."""
    dataset = open_dataset(data, patient_pattern=PATIENT, names=NAMES)
    recipe = {"paper": PAPER, "default": DEFAULT}[options.recipe]
    course = Experiment(
        dataset,
        paper_split(data),
        recipe=recipe.with_changes(steps=options.steps, epochs=options.epochs, batch=24, seed=options.seed),
        preparation=PreprocessingConfig(
            variant=options.variant, img_size=(options.img_size,) * 2, modality="MR", percentiles=(0.5, 99.5)
        ),
        init=options.init,
    )
    said = ProgressCallbacks(
        stage=lambda sentence: print(sentence, file=sys.stderr),
        progress=lambda now: print(
            f"\rstep {now.step} of {now.steps}, {now.remaining:.0f} s left ", end="", file=sys.stderr
        ),
    )
    found = train_checkpoint(
        course,
        out / f"cardiac-{options.recipe}.safetensors",
        machine=HardwareConfig(device=options.device),
        resume=options.resume,
        overwrite=not options.resume,
        callbacks=said,
    )
    if found is None or found.part != "test":
        sys.exit("The training was interrupted before its test; go on with --resume.")
    of = summarise(found.scores)
    return {
        "recipe": recipe.sentence(),
        "variant": options.variant,
        "start": options.init or "from scratch",
        "steps": found.outcome.steps,
        "minutes": round(found.outcome.seconds / 60, 1),
        "test cases": len(found.scores),
        "dice": {NAMES[value]: round(100 * one["dice"].mean, 2) for value, one in of.items()}
        | {"mean": round(100 * mean_of_labels(of)["dice"], 2)},
        "hd95, voxels": {NAMES[value]: round(one["hd95"].mean, 2) for value, one in of.items()},
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Dice in per cent: a row a training, and the paper's."""
    heads = ["", *NAMES.values(), "mean", "start", "steps"]
    rows = [[name, *of["dice"].values(), of["start"], of["steps"]] for name, of in results.items()]
    rows.append(["published", *PUBLISHED.values(), "ImageNet", ""])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [heads, ["---"] * len(heads), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", choices=["paper", "default"], default="default")
    parser.add_argument("--variant", default="R50-ViT-B_16")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--init")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "cardiac.json"
    results = json.loads(path.read_text("utf-8")) if path.exists() else {}
    name = f"{options.variant}, {options.recipe}"
    results[name] = trained(options.data, options.out, options)
    path.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
