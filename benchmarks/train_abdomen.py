"""Train one network on abdominal CT and MR that are annotated only in part, and cross-validate it by patient.

    python benchmarks/train_abdomen.py prepare DATA CASES        # DATA: images, labels and index.json of CT and MR
    python benchmarks/train_abdomen.py train CASES OUT [--fold N] [--seconds S] [--device cuda]
    python benchmarks/train_abdomen.py score DATA OUT... --json RESULT

`prepare` brings every scan to the network's size once. `train` learns from both modalities together, then a while from
each alone, for a given time; fold N leaves a fifth of the patients of either modality out, and keeps what it finds in
them. `score` brings that back to the scans' own grids and compares it with the labels.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_transunet import TransUNet, evaluate, read_volume, save_checkpoint
from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.inference.slices import SliceSource
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.cases import Case, prepare_case
from napari_transunet.training.fitting import fit
from napari_transunet.training.recipes import DEFAULT, Recipe
from napari_transunet.training.segmentation_module import case_batch
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    from napari_transunet.training.callbacks import Progress

ORGANS = ("spleen", "right kidney", "left kidney", "gallbladder", "liver", "stomach", "pancreas", "aorta")
SNOMED = ("78961009", "9846003", "18639004", "28231008", "10200004", "69695003", "15776009", "15825003")
MR_ORGANS = ("spleen", "right kidney", "left kidney", "liver")
SIZE, SPACING = 192, {"CT": 2.0, "MR": 1.7}
WINDOW, PERCENTILES = (-160.0, 240.0), (0.5, 99.5)

STRONG = Augmentation(
    rotation=20,
    scale=1.4,
    stretch=1.15,
    shift=0.12,
    bend=0.03,
    contrast=0.3,
    brightness=0.15,
    gamma=1.6,
    phase_chance=0.3,
    invert_chance=0.2,
    bias=0.3,
    crop_chance=0.25,
    noise=0.06,
    blur_chance=0.3,
    coarsest=0.35,
)
TOGETHER = DEFAULT.with_changes(
    name="joint", batch=32, ema=0.999, foreground=0.7, learning_rate=1e-3, augmentation=STRONG
)
ALONE = {
    "CT": TOGETHER.with_changes(
        name="CT alone", learning_rate=4e-4, augmentation=replace(STRONG, invert_chance=0.0, bias=0.05)
    ),
    "MR": TOGETHER.with_changes(
        name="MR alone",
        learning_rate=4e-4,
        augmentation=replace(STRONG, invert_chance=0.0, phase_chance=0.15),
    ),
}
SHARE_TOGETHER = 0.7  # of the time


def card_of(modality: str) -> ModelCard:
    organs = ORGANS if modality == "CT" else MR_ORGANS
    fields = {
        "variant": "R50-ViT-Ti_16",
        "num_classes": len(organs) + 1,
        "img_size": SIZE,
        "labels": [
            {"value": value, "name": organ, "snomed": SNOMED[ORGANS.index(organ)]}
            for value, organ in enumerate(organs, 1)
        ],
        "modality": modality,
        "orientation": "LPS",
        "resize": "pad",
        "spacing": [None, SPACING[modality], SPACING[modality]],
        "context": 3,
    }
    fields |= (
        {"window": WINDOW}
        if modality == "CT"
        else {"normalisation": "percentiles", "percentiles": PERCENTILES}
    )
    return ModelCard.from_mapping(fields, origin="This model's card")


def joint_card(modality: str) -> ModelCard:
    """How scans of that modality are prepared, with the organs of both."""
    labels = card_of("CT")
    return card_of(modality).updated(num_classes=labels.num_classes, labels=labels.labels)


def prepare(data: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    index = json.loads((data / "index.json").read_text())
    for name, about in index.items():
        values = {int(value): ORGANS.index(organ) + 1 for value, organ in about["labels"].items()}
        case = prepare_case(
            read_volume(data / about["image"]),
            read_volume(data / "labels" / f"{name}.nii.gz"),
            {0: 0, **values},
            joint_card(about["modality"]),
            name=name,
            patient=name,
            annotated=sorted(values.values()),
            others_are_background=True,
        )
        assert case.annotated is not None
        np.savez_compressed(
            out / f"{name}.npz",
            planes=(case.planes.float() * 255).round().to(torch.uint8).numpy(),
            labels=case.labels.numpy(),
            annotated=case.annotated[0].numpy(),
            modality=about["modality"],
            fold=about["fold"],
        )
        sys.stderr.write(f"{name}: {len(case)} slices, {about['modality']}, fold {about['fold']}\n")


def load(folder: Path) -> list[tuple[Case, str, int]]:
    cases = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as held:
            planes = torch.from_numpy(held["planes"]).half() / 255
            annotated = torch.from_numpy(held["annotated"]).repeat(len(planes), 1)
            labels = torch.from_numpy(held["labels"])
            cases.append(
                (
                    Case(path.stem, path.stem, planes, labels, annotated),
                    str(held["modality"]),
                    int(held["fold"]),
                )
            )
    return cases


def for_mr(case: Case) -> Case:
    """The case with the classes of the MR network."""
    kept = [0, *(ORGANS.index(organ) + 1 for organ in MR_ORGANS)]
    table = torch.zeros(256, dtype=torch.uint8)
    table[kept] = torch.arange(len(kept), dtype=torch.uint8)
    return Case(case.name, case.patient, case.planes, table[case.labels.long()])


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
        return min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.done())))


def learn(
    net: TransUNet, cases: list[Case], recipe: Recipe, seconds: float, device: str, what: str
) -> dict[str, float]:
    """Train for that long."""
    timed = TimedRecipe.of(recipe.with_changes(steps=1_000_000), seconds)
    told = [0.0]

    def tell(progress: Progress) -> None:
        if progress.seconds - told[0] > 20:
            told[0] = progress.seconds
            sys.stderr.write(f"{what}: step {progress.step}, loss {progress.loss:.3f}\n")

    outcome = fit(net, cases, timed, device=device, on_progress=tell, cancelled=lambda: timed.done() >= 1)
    sys.stderr.write(f"{what}: {outcome.steps} steps in {outcome.seconds:.0f} s\n")
    return {"steps": outcome.steps, "seconds": round(outcome.seconds, 1)}


@torch.inference_mode()
def labels_found(net: TransUNet, case: Case, device: str) -> np.ndarray:
    net = net.to(device)
    found = []
    for begin in range(0, len(case), 32):
        images, _ = case_batch(case, begin, 32, 3)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            found.append(net(images.to(device)).argmax(1).to(torch.uint8).cpu())
    net.cpu()
    return torch.cat(found).numpy()


def network_dice(found: np.ndarray, labels: np.ndarray, classes: list[int]) -> dict[int, float]:
    dice = {}
    for value in classes:
        one, other = found == value, labels == value
        if one.any() or other.any():
            dice[value] = round(float(2 * (one & other).sum() / (one.sum() + other.sum())), 4)
    return dice


def train(folder: Path, out: Path, fold: int | None, seconds: float, device: str, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    cases = load(folder)
    kept = [(case, modality) for case, modality, number in cases if fold is None or number != fold]
    held = [(case, modality) for case, modality, number in cases if fold is not None and number == fold]
    torch.manual_seed(seed)
    net = TransUNet("R50-ViT-Ti_16", num_classes=len(ORGANS) + 1, img_size=SIZE, n_skip=3)
    what = "final" if fold is None else f"fold {fold}"
    facts: dict[str, object] = {"fold": fold, "seed": seed, "cases": [case.name for case, _ in kept]}
    together = TOGETHER.with_changes(
        seed=seed, batch=TOGETHER.batch if fold is not None else 2 * TOGETHER.batch
    )
    facts["joint"] = learn(
        net, [case for case, _ in kept], together, seconds * SHARE_TOGETHER, device, f"{what}, joint"
    )
    joint = {key: value.clone() for key, value in net.state_dict().items()}
    for modality in ("CT", "MR"):
        own = [case for case, kind in kept if kind == modality]
        if not own or (fold is not None and not any(kind == modality for _, kind in held)):
            continue
        if modality == "MR":
            own = [for_mr(case) for case in own]
            one = TransUNet("R50-ViT-Ti_16", num_classes=len(MR_ORGANS) + 1, img_size=SIZE, n_skip=3)
            rows = [0, *(ORGANS.index(organ) + 1 for organ in MR_ORGANS)]
            one.load_state_dict(
                {k: v[rows] if k.startswith("segmentation_head") else v for k, v in joint.items()}
            )
        else:
            one = TransUNet("R50-ViT-Ti_16", num_classes=len(ORGANS) + 1, img_size=SIZE, n_skip=3)
            one.load_state_dict(joint)
        facts[modality] = learn(
            one,
            own,
            ALONE[modality].with_changes(seed=seed),
            seconds * (1 - SHARE_TOGETHER) / 2,
            device,
            f"{what}, {modality}",
        )
        if fold is None:
            save_checkpoint(
                out / f"abdomen-{modality.lower()}.safetensors",
                one,
                card_of(modality),
                dtype="float16",
                overwrite=True,
            )
        for case in [for_mr(case) if kind == "MR" else case for case, kind in held if kind == modality]:
            found = labels_found(one, case, device)
            np.savez_compressed(out / f"found-{fold}-{case.name}.npz", labels=found, modality=modality)
            annotated = (
                list(range(1, len(MR_ORGANS) + 1))
                if case.annotated is None
                else case.annotated[0].nonzero()[:, 0].tolist()
            )
            facts[case.name] = network_dice(
                found, case.labels.numpy(), [value for value in annotated if value]
            )
            sys.stderr.write(f"{what}, {case.name}: {facts[case.name]}\n")
    (out / f"facts-{'final' if fold is None else fold}.json").write_text(json.dumps(facts, indent=2))


def score(data: Path, outs: list[Path], result: Path) -> None:
    """Every held-out scan on its own grid."""
    index = json.loads((data / "index.json").read_text())
    scores: dict[str, object] = {}
    for path in sorted(path for out in outs for path in out.glob("found-*.npz")):
        name = path.stem.split("-", 2)[2]
        about = index[name]
        with np.load(path, allow_pickle=False) as held:
            found, modality = torch.from_numpy(held["labels"]), str(held["modality"])
        organs = ORGANS if modality == "CT" else MR_ORGANS
        image = read_volume(data / about["image"])
        labels = read_volume(data / "labels" / f"{name}.nii.gz")
        source = SliceSource.from_card(image, card_of(modality), (SIZE, SIZE))
        one_hot = torch.nn.functional.one_hot(found.long(), len(organs) + 1).permute(0, 3, 1, 2).float()
        predicted = torch.cat([source.resize.labels(part) for part in one_hot.split(8)]).numpy()
        turn = Reorientation.between(labels.geometry, "LPS")
        turned = turn.apply(labels.data)
        reference = np.zeros_like(turned, np.uint8)
        annotated = []
        for value, organ in about["labels"].items():
            if organ in organs:
                reference[turned == int(value)] = organs.index(organ) + 1
                annotated.append(organs.index(organ) + 1)
        spacing = labels.geometry.reoriented(turn.axes, turn.flips).spacing
        of = evaluate(predicted, reference, spacing=spacing, labels_to_score=annotated)
        scores[name] = {
            organs[value - 1]: {k: round(float(v), 4) for k, v in of[value].items()} for value in of
        }
        told = {organ: values["dice"] for organ, values in scores[name].items()}  # type: ignore[attr-defined]
        sys.stderr.write(f"{name}: {told}\n")
    result.write_text(json.dumps(scores, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "train"):
        one = commands.add_parser(name)
        one.add_argument("source", type=Path)
        one.add_argument("out", type=Path)
    one.add_argument("--fold", type=int)
    one.add_argument("--seconds", type=float, default=600)
    one.add_argument("--device", default="auto")
    one.add_argument("--seed", type=int, default=0)
    one = commands.add_parser("score")
    one.add_argument("source", type=Path)
    one.add_argument("outs", type=Path, nargs="+")
    one.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.source, given.out)
    elif given.command == "train":
        train(given.source, given.out, given.fold, given.seconds, given.device, given.seed)
    else:
        score(given.source, given.outs, given.json)


if __name__ == "__main__":
    main()
