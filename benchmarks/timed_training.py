"""Training by the clock on cases that were prepared beforehand, and scoring on the scans' own grids.

What benchmarks on a lent GPU share: little travels there (8-bit slices of the network's size), every training ends when
its time does, and only labels come back.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_transunet import evaluate
from napari_transunet.inference.slices import SliceSource
from napari_transunet.inference.small_parts import small_parts
from napari_transunet.training.cases import Case
from napari_transunet.training.fitting import fit
from napari_transunet.training.recipes import Recipe
from napari_transunet.training.segmentation_module import case_batch
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_transunet import ModelCard, TransUNet, Volume
    from napari_transunet.training.callbacks import Progress

BEGUN = time.monotonic()


def parsers(
    description: str | None,
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, argparse.ArgumentParser]:
    """The command line of such a benchmark, and its commands `train` and `score`, to add to; `prepare` is whole."""
    whole = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(dest="command", required=True)
    for name in ("prepare", "train"):
        train = commands.add_parser(name)
        train.add_argument("source", type=Path)
        train.add_argument("out", type=Path)
    train.add_argument("--seconds", type=float, default=600, help="from the program's start")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto")
    score = commands.add_parser("score")
    score.add_argument("source", type=Path)
    score.add_argument("--json", type=Path, required=True)
    return whole, train, score


def seconds_left(of: float) -> float:
    """Of a time that ran from the program's start."""
    return of - (time.monotonic() - BEGUN)


@dataclass(frozen=True, slots=True)
class TimedRecipe(Recipe):
    """A recipe whose schedule follows the clock, so that a training ends when its time does."""

    begun: float = 0.0
    seconds: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe, seconds: float) -> TimedRecipe:
        own = {one.name: getattr(recipe, one.name) for one in fields(recipe)}
        return cls(**own, begun=time.monotonic(), seconds=seconds)

    def done(self) -> float:
        return (time.monotonic() - self.begun) / self.seconds

    def learning_rate_at(self, step: int, steps: int) -> float:
        del steps
        left = max(0.0, 1 - self.done())
        falling = 0.5 * (1 - math.cos(math.pi * left)) if self.schedule == "cosine" else left**0.9
        return min(1.0, (step + 1) / 100) * falling if self.warmup else falling


def learn(
    net: TransUNet,
    cases: Sequence[Case],
    recipe: Recipe,
    seconds: float,
    device: str,
    what: str,
) -> dict[str, float]:
    """Train for that long; the steps and seconds that it took."""
    timed = TimedRecipe.of(recipe.with_changes(steps=1_000_000), seconds)
    told = [0.0]

    def tell(progress: Progress) -> None:
        if progress.seconds - told[0] > 20:
            told[0] = progress.seconds
            sys.stderr.write(f"{what}: step {progress.step}, loss {progress.loss:.3f}\n")

    outcome = fit(
        net,
        cases,
        timed,
        device=device,
        on_progress=tell,
        cancelled=lambda: timed.done() >= 1,
    )
    sys.stderr.write(f"{what}: {outcome.steps} steps in {outcome.seconds:.0f} s\n")
    return {"steps": outcome.steps, "batch": recipe.batch, "seconds": round(outcome.seconds, 1)}


def save_case(path: Path, case: Case, **facts: Any) -> None:
    """A case in 8 bits, with what else is to be known of it."""
    held = {
        "planes": (case.planes.float() * 255).round().to(torch.uint8).numpy(),
        "labels": case.labels.numpy(),
        "step": case.step,
        "pixel": case.pixel,
        **facts,
    }
    if case.annotated is not None:
        held["annotated"] = case.annotated[0].numpy()
    np.savez_compressed(path, **held)


def load_case(path: Path, patient: str | None = None) -> tuple[Case, dict[str, Any]]:
    """The case, and what else was saved with it."""
    with np.load(path, allow_pickle=False) as held:
        arrays = dict(held)
    planes = torch.from_numpy(arrays.pop("planes")).half() / 255
    annotated = arrays.pop("annotated", None)
    everywhere = None if annotated is None else torch.from_numpy(annotated).repeat(len(planes), 1)
    labels = torch.from_numpy(arrays.pop("labels"))
    step, pixel = (arrays.pop(name).item() for name in ("step", "pixel"))
    case = Case(path.stem, patient or path.stem, planes, labels, everywhere, step, pixel)
    return case, {key: value.item() for key, value in arrays.items()}


@torch.inference_mode()
def labels_found(net: TransUNet, case: Case, device: str, context: int = 3) -> np.ndarray:
    """What a network makes of a case: (Z, H, W) uint8, at its size."""
    net = net.to(device)
    found = []
    for begin in range(0, len(case), 32):
        images, _ = case_batch(case, begin, 32, context)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            found.append(net(images.to(device)).argmax(1).to(torch.uint8).cpu())
    net.cpu()
    return torch.cat(found).numpy()


def scores_on_own_grid(
    found: np.ndarray,
    image: Volume,
    labels: Volume,
    classes: dict[int, int],
    card: ModelCard,
    *,
    in_voxels: bool = False,
) -> dict[int, dict[str, float | None]]:
    """Labels at the network's size, brought back to the scan's grid and compared: each class's measures.

    None for what is not defined where a class is in neither.
    `classes` maps the values of `labels` to classes; those of other values count as background. Distances are in mm,
    or in voxels where sizes are not known.
    """
    source = SliceSource.from_card(image, card, card.img_size)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(found).long(), card.num_classes)
    shares = one_hot.permute(0, 3, 1, 2).float()
    predicted = torch.cat([source.resize.labels(part) for part in shares.split(8)]).numpy()
    if card.smallest_part is not None:
        for box, small in small_parts(predicted, card.smallest_part):
            predicted[box][small] = 0
    turn = Reorientation.between(labels.geometry, card.orientation)
    turned = turn.apply(labels.data)
    reference = np.zeros_like(turned, np.uint8)
    for value, one in classes.items():
        reference[turned == value] = one
    spacing = labels.geometry.reoriented(turn.axes, turn.flips).spacing
    of = evaluate(
        predicted,
        reference,
        spacing=(1.0, 1.0, 1.0) if in_voxels else spacing,
        labels_to_score=sorted(set(classes.values()) - {0}),
    )
    return {
        value: {
            name: round(float(measure), 4) if math.isfinite(measure) else None
            for name, measure in measures.items()
        }
        for value, measures in of.items()
    }


def write_json(path: Path, facts: object) -> None:
    path.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
