"""Recipes and networks on one dataset: the same patients, the same number of slices seen, the same machine.

    python benchmarks/compare_training.py DATASET --modality MR --steps 1000 -o benchmarks/results/training.json

Each row is trained in turn, keeps its last weights, and is scored on the test patients on the scans' own grids.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from monai.networks.nets.unet import UNet

from napari_transunet.inference.devices import available_devices, resolve_device, resolve_precision
from napari_transunet.inference.slices import PLANES, SliceSource
from napari_transunet.metrics.segmentation_metrics import evaluate
from napari_transunet.metrics.summary import mean_of_labels, summarise
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.blank_card import blank_card, classes_of
from napari_transunet.training.cases import prepare_cases
from napari_transunet.training.datasets import open_dataset
from napari_transunet.training.experiment import Experiment, PreprocessingConfig
from napari_transunet.training.fitting import fit
from napari_transunet.training.recipes import DEFAULT, PAPER, Recipe
from napari_transunet.training.scoring import image_and_reference
from napari_transunet.training.splits import Split

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.volumes.volume import Volume


@dataclass(frozen=True)
class Row:
    """What is trained: a network by its name, how it is made, the recipe, and the planes that it looks at."""

    name: str
    make: Callable[[ModelCard], nn.Module]
    recipe: Recipe
    planes: Literal[1, 3]


def transunet(card: ModelCard, dropout: float) -> nn.Module:
    return TransUNet(card.variant, card.num_classes, card.img_size, dropout=dropout)


def unet(card: ModelCard) -> nn.Module:
    """MONAI's residual U-Net, its channels chosen so that it has about as many parameters as R50-ViT-Ti_16."""
    return UNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=card.num_classes,
        channels=(64, 128, 256, 512, 832),
        strides=(2, 2, 2, 2),
        num_res_units=2,
        norm="instance",
    )


@torch.inference_mode()
def predicted(
    net: nn.Module, volume: Volume, card: ModelCard, device: torch.device, dtype: torch.dtype
) -> Any:
    """Labels on the volume's grid, by the mean of the planes' probabilities, as the predictor finds them."""
    total = np.zeros((card.num_classes, *volume.data.shape), np.float32)
    for plane in PLANES[: card.planes]:
        source = SliceSource.from_card(volume, card, card.img_size, plane).on(device)
        along = np.moveaxis(total, source.orientation.slice_axis + 1, 1)
        for begin in range(0, len(source), 32):
            indices = range(begin, min(begin + 32, len(source)))
            images = source.images(indices).expand(-1, 3, -1, -1)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                logits = net(images.contiguous(memory_format=torch.channels_last))
            shares = source.resize.inverse(logits.float()).softmax(1).cpu().numpy()
            for index, share in zip(indices, shares, strict=True):
                along[:, index] += np.stack([source.to_volume(part) for part in share])
    return total.argmax(0).astype(np.uint8)


def measured(row: Row, course: Experiment, options: argparse.Namespace) -> dict[str, Any]:
    course = replace(course, recipe=row.recipe, preparation=replace(course.preparation, planes=row.planes))
    classes, names = classes_of(course)
    card = blank_card(course, names)
    cases = prepare_cases(course.dataset.cases, classes, card)
    training = course.split.part(cases, "training")
    torch.manual_seed(row.recipe.seed)
    net = row.make(card)
    cpu = time.process_time()
    outcome = fit(
        net,
        training,
        row.recipe,
        device=options.device,
        compiled=options.compile,
        on_progress=lambda progress: print(
            f"\r{row.name}: {progress.step} of {progress.steps}, {progress.remaining:.0f} s left ",
            end="",
            file=sys.stderr,
        ),
    )
    cpu = time.process_time() - cpu
    device = resolve_device(options.device)
    dtype = resolve_precision("auto", device)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    scores, seconds, slices = {}, 0.0, 0
    for case in course.split.part(course.dataset.cases, "test"):
        image, reference = image_and_reference(case, classes)
        begin = time.perf_counter()
        labels = predicted(net, image, card, device, dtype)
        seconds += time.perf_counter() - begin
        slices += image.data.shape[0]
        scores[case.name] = evaluate(
            labels, reference, spacing=image.geometry.spacing, labels_to_score=range(1, card.num_classes)
        )
    summaries = summarise(scores)
    return {
        "name": row.name,
        "planes": row.planes,
        "context": row.recipe.context,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "steps": outcome.steps,
        "slices_seen": outcome.steps * row.recipe.batch,
        "minutes": outcome.seconds / 60,
        "processor_minutes": cpu / 60,
        "slices_per_second": slices / seconds,
        "labels": {
            names.get(value, str(value)): {
                "dice": of["dice"].mean,
                "dice_sd": of["dice"].sd,
                "hd95_mm": of["hd95"].mean,
            }
            for value, of in summaries.items()
        },
        "mean": {key: value for key, value in mean_of_labels(summaries).items() if key in ("dice", "hd95")},
    }


def table(rows: list[dict[str, Any]]) -> str:
    labels = list(rows[0]["labels"])
    head = [
        "network and recipe",
        *(f"Dice {label}" for label in labels),
        "Dice",
        "HD95, mm",
        "parameters",
        "training, min",
        "slices / s",
    ]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [
        " | ".join(
            [
                row["name"],
                *(
                    f"{row['labels'][label]['dice']:.3f} ± {row['labels'][label]['dice_sd']:.3f}"
                    for label in labels
                ),
                f"{row['mean']['dice']:.3f}",
                f"{row['mean']['hd95']:.2f}",
                f"{row['parameters'] / 1e6:.1f} M",
                f"{row['minutes']:.1f}",
                f"{row['slices_per_second']:.0f}",
            ]
        )
        for row in rows
    ]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--modality", required=True)
    parser.add_argument("--steps", type=int, default=1000, help="of 24 slices")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", help="rows whose name begins so")
    options = parser.parse_args()
    dataset = open_dataset(options.dataset)
    split = Split.by_seed(dataset.patients, validation=0.1, test=0.15, seed=options.seed)
    course = Experiment(dataset, split, preparation=PreprocessingConfig(modality=options.modality))
    same = {"batch": 24, "steps": options.steps, "seed": options.seed}
    ours = DEFAULT.with_changes(augmentation=Augmentation(beyond="reflection"), **same)
    paper = PAPER.with_changes(**same)
    rows = [
        Row("TransUNet, `paper`", partial(transunet, dropout=paper.dropout), paper, 1),
        Row("TransUNet, `default`, three planes", partial(transunet, dropout=ours.dropout), ours, 3),
        Row("MONAI U-Net, `default`, three planes", unet, ours, 3),
    ]
    results: dict[str, Any] = {
        "machine": available_devices()[0].label,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "compiled": options.compile,
        "precision": str(resolve_precision("auto", resolve_device(options.device))),
        "split": split.how,
        "rows": [],
    }
    for row in rows:
        if options.only and not row.name.startswith(options.only):
            continue
        results["rows"].append(measured(row, course, options))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=2))
        print(f"\n{table(results['rows'])}", flush=True)


if __name__ == "__main__":
    main()
