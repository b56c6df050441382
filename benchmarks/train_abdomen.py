"""Train one network on abdominal CT and MR that are annotated only in part, and cross-validate it by patient.

    python benchmarks/train_abdomen.py prepare DATA CASES        # DATA: images, labels and index.json of CT and MR
    python benchmarks/train_abdomen.py train CASES OUT [--fold N...] [--only CT] [--seconds S] [--device cuda]
    python benchmarks/train_abdomen.py score DATA OUT... --json RESULT

`prepare` brings every scan to the network's size once. `train` learns from both modalities together, then a while from
each alone (or the one named with `--only`), for a given time; fold N leaves one CT and, up to the fifth, a fifth
of the MRs out (of that modality), and keeps what it finds in them and how sure it was. `score` brings that back to the
scans' own grids and compares it with the labels.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from benchmarks.reliability import RIM, TEMPERATURES, Reliability
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
from napari_transunet import TransUNet, read_volume, save_checkpoint
from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.cases import Case, prepare_case
from napari_transunet.training.recipes import DEFAULT
from napari_transunet.training.segmentation_module import case_batch

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
    name="joint",
    batch=32,
    ema=0.999,
    foreground=0.8,
    organs_alike=True,
    slant=15.0,
    learning_rate=1e-3,
    augmentation=STRONG,
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
SHARE_TOGETHER = 0.6  # of the time


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
        "smallest_part": 0.2,
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
        save_case(out / f"{name}.npz", case, modality=about["modality"], fold=about["fold"])
        sys.stderr.write(f"{name}: {len(case)} slices, {about['modality']}, fold {about['fold']}\n")


def left_to_mr(net: TransUNet) -> None:
    """Let the head name none but the organs that MR scans are annotated with; the others stay, infinitely unlikely."""
    others = [value for value, organ in enumerate(ORGANS, 1) if organ not in MR_ORGANS]
    with torch.no_grad():
        head = net.segmentation_head[0]
        assert isinstance(head, nn.Conv2d)
        assert head.bias is not None
        head.bias[others] = -1e4


def for_mr(net: TransUNet) -> TransUNet:
    """The network with the classes of the MR card."""
    rows = [0, *(ORGANS.index(organ) + 1 for organ in MR_ORGANS)]
    one = TransUNet("R50-ViT-Ti_16", num_classes=len(rows), img_size=SIZE, n_skip=3)
    state = {k: v[rows] if k.startswith("segmentation_head") else v for k, v in net.state_dict().items()}
    one.load_state_dict(state)
    return one.eval()


def with_mr_classes(case: Case) -> Case:
    kept = [0, *(ORGANS.index(organ) + 1 for organ in MR_ORGANS)]
    table = torch.zeros(256, dtype=torch.uint8)
    table[kept] = torch.arange(len(kept), dtype=torch.uint8)
    return replace(case, labels=table[case.labels.long()], annotated=None)


def new_network() -> TransUNet:
    return TransUNet("R50-ViT-Ti_16", num_classes=len(ORGANS) + 1, img_size=SIZE, n_skip=3)


@torch.inference_mode()
def how_sure(net: TransUNet, case: Case, device: str) -> dict[str, Any]:
    """What a reliability diagram needs, at every temperature; at the network's size, in and around organs."""
    net = net.to(device)
    parts = []
    for begin in range(0, len(case), 32):
        images, _ = case_batch(case, begin, 32, 3)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            parts.append(net(images.to(device)).float().movedim(1, 0))
    net.cpu()
    logits, reference = torch.cat(parts, 1), case.labels.long()
    seen = (reference > 0) | (logits.argmax(0) > 0).cpu()
    near = torch.from_numpy(ndimage.binary_dilation(seen.numpy(), iterations=RIM))
    logits, reference = logits[:, near.to(logits.device)], reference[near]
    of: dict[str, Any] = {}
    for temperature in np.unique(np.append(TEMPERATURES, 1.0)):
        one = Reliability()
        one.add((logits / float(temperature)).softmax(0).cpu(), reference)
        of[str(temperature)] = {
            "count": one.count.tolist(),
            "right": one.right.tolist(),
            "confidence": [round(float(part), 2) for part in one.confidence],
            "loss": round(one.loss, 2),
        }
    return of


def train(given: argparse.Namespace) -> None:
    folder, out, folds, only = given.source, given.out, given.fold, given.only
    device, seed = given.device, given.seed
    out.mkdir(parents=True, exist_ok=True)
    kept: list[tuple[Case, str]] = []
    held: list[tuple[Case, str]] = []
    for path in sorted(folder.glob("*.npz")):
        case, of = load_case(path)
        kind = of["modality"]
        (held if of["fold"] in folds and kind in only else kept).append((case, kind))
    torch.manual_seed(seed)
    net = new_network()
    fold = "+".join(map(str, folds)) or "final"
    what = f"fold {fold}" if folds else fold
    facts: dict[str, object] = {"fold": fold, "seed": seed, "cases": [case.name for case, _ in kept]}
    seconds = seconds_left(given.seconds)
    recipe = TOGETHER.with_changes(seed=seed)
    every = [case for case, _ in kept]
    facts["joint"] = learn(net, every, recipe, seconds * SHARE_TOGETHER, device, f"{what}, joint")
    joint = {key: value.clone() for key, value in net.state_dict().items()}
    wanted = sorted({kind for _, kind in (held or kept)} & set(only))
    for position, modality in enumerate(wanted):
        own = [case for case, kind in kept if kind == modality]
        one = new_network()
        one.load_state_dict(joint)
        if modality == "MR":
            left_to_mr(one)
        left = seconds_left(given.seconds)
        facts[modality] = learn(
            one,
            own,
            ALONE[modality].with_changes(seed=seed),
            left / (len(wanted) - position),
            device,
            f"{what}, {modality}",
        )
        if modality == "MR":
            one = for_mr(one)
        path = out / f"{what.replace(' ', '')}-{modality.lower()}.safetensors"
        save_checkpoint(path, one, card_of(modality), dtype="float16", overwrite=True)
        write_json(out / f"facts-{fold}.json", facts)
        for whole in (case for case, kind in held if kind == modality):
            case = with_mr_classes(whole) if modality == "MR" else whole
            found = labels_found(one, case, device)
            np.savez_compressed(out / f"found-{fold}-{case.name}.npz", labels=found, modality=modality)
            if case.annotated is None or case.annotated.all():
                write_json(out / f"sure-{fold}-{case.name}.json", how_sure(one, case, device))


def score(data: Path, outs: list[Path], result: Path) -> None:
    """Every held-out scan on its own grid."""
    index = json.loads((data / "index.json").read_text())
    scores: dict[str, dict[str, dict[str, float | None]]] = {}
    for path in sorted(path for out in outs for path in out.glob("found-*.npz")):
        name = path.stem.split("-", 2)[2]
        about = index[name]
        with np.load(path, allow_pickle=False) as held:
            found, modality = held["labels"], str(held["modality"])
        organs = ORGANS if modality == "CT" else MR_ORGANS
        of = scores_on_own_grid(
            found,
            read_volume(data / about["image"]),
            read_volume(data / "labels" / f"{name}.nii.gz"),
            {int(v): organs.index(organ) + 1 for v, organ in about["labels"].items() if organ in organs},
            card_of(modality),
        )
        scores[name] = {organs[value - 1]: measures for value, measures in of.items()}
        told = {organ: values["dice"] for organ, values in scores[name].items()}
        sys.stderr.write(f"{name}: {told}\n")
    write_json(result, {"scores": scores, "calibration": calibration(outs, index)})


def calibration(outs: list[Path], index: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each modality: calibration errors as found, and at the temperature that other folds' patients chose."""
    parts: dict[str, list[tuple[str, dict[float, Reliability]]]] = {"CT": [], "MR": []}
    for path in sorted(path for out in outs for path in out.glob("sure-*.json")):
        _, fold, name = path.stem.split("-", 2)
        of = {
            float(temperature): Reliability(
                count=np.array(held["count"]),
                right=np.array(held["right"]),
                confidence=np.array(held["confidence"]),
                loss=held["loss"],
            )
            for temperature, held in json.loads(path.read_text()).items()
        }
        parts[index[name]["modality"]].append((fold, of))
    told = {}
    for modality, scans in ((of, scans) for of, scans in parts.items() if scans):
        temperatures, before, after = [], [], []
        for fold, of in scans:
            others = [other for number, other in scans if number != fold]
            best = min(of, key=lambda t: sum(other[t].mean_loss for other in others))
            temperatures.append(best)
            before.append(of[1.0].error)
            after.append(of[best].error)
        told[modality] = {
            "scans": len(scans),
            "least temperature": min(temperatures),
            "greatest temperature": max(temperatures),
            "error": round(float(np.mean(before)), 4),
            "error, with temperature": round(float(np.mean(after)), 4),
            "worst error": round(max(before), 4),
            "worst error, with temperature": round(max(after), 4),
        }
    return told


def main() -> None:
    parser, training, scoring = parsers(__doc__)
    training.add_argument("--fold", type=int, nargs="*", default=[])
    training.add_argument("--only", nargs="+", choices=("CT", "MR"), default=("CT", "MR"))
    scoring.add_argument("outs", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.source, given.out)
    elif given.command == "train":
        train(given)
    else:
        score(given.source, given.outs, given.json)


if __name__ == "__main__":
    main()
