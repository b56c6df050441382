"""Does a checkpoint's confidence mean what it says? Reliability diagram, calibration error, and the best temperature.

    python benchmarks/reliability.py DATA [--ct-checkpoint FILE] -o benchmarks/results/reliability.json [--plot PNG]

DATA holds `hippocampus_mr` and, with a CT checkpoint that did not learn from them, `ct_abdomen_more` with all eight
organs annotated. A temperature divides the logits. It is chosen on validation patients (the lowest negative
log-likelihood), and the calibration error before and after is told of other patients: for the hippocampus of the 30
test patients, for the CTs, of which there are two, of each with the temperature of the other.

The expected calibration error (Guo et al., arXiv 1706.04599) is over 15 equal bins of the confidence in the voxel's
label, over voxels where somebody or the network sees an organ, or within `RIM` voxels of it: elsewhere all is
background and certain, which would flatter any network.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.labelled_scans import Scan, scans_in
from napari_transunet import Predictor, load_checkpoint, read_volume
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.training.splits import Split

if TYPE_CHECKING:
    from napari_transunet.inference.slices import SliceSource

BINS, RIM = 15, 5
TEMPERATURES = np.round(np.geomspace(0.5, 4.0, 25), 3)


@dataclass
class Reliability:
    """Voxels by confidence: how many, how many are right, and the confidences' sum; and the log-likelihood."""

    count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    right: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    loss: float = 0.0

    def add(self, probabilities: torch.Tensor, reference: torch.Tensor) -> None:
        """Of probabilities (classes, n) and classes (n,)."""
        confidence, label = probabilities.max(0)
        bins = (confidence * BINS).long().clamp(0, BINS - 1)
        self.count += torch.bincount(bins, minlength=BINS).numpy()
        self.right += torch.bincount(bins[label == reference], minlength=BINS).numpy()
        self.confidence += torch.bincount(bins, weights=confidence.double(), minlength=BINS).numpy()
        own = probabilities.gather(0, reference[None])[0]
        self.loss -= float(own.clamp_min(1e-6).log().sum())

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float(np.abs(self.right - self.confidence).sum() / self.count.sum())

    @property
    def mean_loss(self) -> float:
        return self.loss / int(self.count.sum())

    def curve(self) -> list[tuple[float, float, int]]:
        """(mean confidence, share that is right, voxels) of each bin that holds any."""
        return [
            (round(float(c / n), 4), round(float(r / n), 4), int(n))
            for n, r, c in zip(self.count, self.right, self.confidence, strict=True)
            if n
        ]


def measure(scans: list[Scan], temperatures: NDArray[np.float64]) -> list[dict[float, Reliability]]:
    """Of each scan, at each temperature."""
    predictors: dict[str, Predictor] = {}
    found = []
    for scan in scans:
        if scan.checkpoint not in predictors:
            checkpoint = load_checkpoint(resolve_checkpoint(scan.checkpoint))
            predictors[scan.checkpoint] = Predictor(checkpoint, backend="torch")
        predictor = predictors[scan.checkpoint]
        volume, labels = read_volume(scan.image), read_volume(scan.labels)
        reference = torch.from_numpy(np.ascontiguousarray(labels.data)).long()
        logits = [logits_of(predictor, source) for source in predictor._sources(volume)]
        seen = reference > 0
        seen |= torch.stack([part.softmax(0) for part in logits]).mean(0).argmax(0) > 0
        near = torch.from_numpy(ndimage.binary_dilation(seen.numpy(), iterations=RIM))
        logits, reference = [part[:, near] for part in logits], reference[near]
        of: dict[float, Reliability] = {}
        for temperature in temperatures:
            of[float(temperature)] = one = Reliability()
            one.add(torch.stack([(part / temperature).softmax(0) for part in logits]).mean(0), reference)
        found.append(of)
        sys.stderr.write(f"{scan.name}: calibration error {of[1.0].error:.4f}\n")
    return found


def logits_of(predictor: Predictor, source: SliceSource) -> torch.Tensor:
    """Logits (classes, *the volume's shape) of one plane's network."""
    planes = []
    for begin in range(0, len(source), predictor.batch_size):
        indices = range(begin, min(begin + predictor.batch_size, len(source)))
        logits = predictor._logits(source.stack(indices), source, lambda: False)
        planes += list(source.resize.inverse(logits).float())
    classes = [
        source.orientation.invert(np.stack([plane[c].numpy() for plane in planes]))
        for c in range(planes[0].shape[0])
    ]
    return torch.from_numpy(np.stack(classes))


def together(found: list[dict[float, Reliability]], temperature: float) -> Reliability:
    whole = Reliability()
    for of in found:
        one = of[temperature]
        whole.count += one.count
        whole.right += one.right
        whole.confidence += one.confidence
        whole.loss += one.loss
    return whole


def best_temperature(found: list[dict[float, Reliability]]) -> float:
    return min(found[0], key=lambda temperature: together(found, temperature).mean_loss)


def told(
    chosen_on: list[dict[float, Reliability]], judged_on: list[dict[float, Reliability]]
) -> dict[str, Any]:
    temperature = best_temperature(chosen_on)
    before, after = together(judged_on, 1.0), together(judged_on, temperature)
    return {
        "temperature": temperature,
        "scans to choose by": len(chosen_on),
        "scans judged": len(judged_on),
        "calibration error": round(before.error, 4),
        "calibration error, with temperature": round(after.error, 4),
        "log-likelihood loss": round(before.mean_loss, 4),
        "log-likelihood loss, with temperature": round(after.mean_loss, 4),
        "diagram": before.curve(),
        "diagram, with temperature": after.curve(),
    }


def validation_scans(data: Path) -> list[Scan]:
    """The patients by whom the hippocampus's weights were chosen."""
    small = data / "hippocampus_mr"
    names = sorted(path.name.removesuffix(".nii.gz") for path in (small / "labels").glob("*.nii.gz"))
    split = Split.by_seed(names, validation=0.1, test=0.15, seed=0)  # as weights/README.md says
    return [
        Scan(name, small / "images" / f"{name}.nii.gz", small / "labels" / f"{name}.nii.gz", "hippocampus-mr")
        for name in split.validation
    ]


def draw(result: dict[str, dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(result), figsize=(4 * len(result), 4), squeeze=False)
    for axis, (name, of) in zip(axes[0], result.items(), strict=True):
        axis.plot([0, 1], [0, 1], "--", color="grey", label="what it says is so")
        for key, label in (
            ("diagram", "as it is"),
            ("diagram, with temperature", f"temperature {of['temperature']}"),
        ):
            confidence, right, _ = zip(*of[key], strict=True)
            axis.plot(confidence, right, "o-", label=label)
        axis.set(title=name, xlabel="confidence", ylabel="share that is right", xlim=(0.3, 1), ylim=(0, 1))
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--ct-checkpoint")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    temperatures = np.unique(np.append(TEMPERATURES, 1.0))
    scans = scans_in(given.data, given.ct_checkpoint)
    small = [scan for scan in scans if scan.checkpoint == "hippocampus-mr"]
    result = {
        "hippocampus-mr": told(
            measure(validation_scans(given.data), temperatures), measure(small, temperatures)
        )
    }
    if given.ct_checkpoint:
        whole = [scan for scan in scans if scan.checkpoint == given.ct_checkpoint and scan.organ is None]
        for one, found in zip(whole, every := measure(whole, temperatures), strict=True):
            others = [other for other in every if other is not found]
            result[f"CT, {one.name}"] = told(others, [found])
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    if given.plot:
        draw(result, given.plot)
    for name, of in result.items():
        sys.stdout.write(f"{name}: {dict(list(of.items())[:-2])}\n")


if __name__ == "__main__":
    main()
