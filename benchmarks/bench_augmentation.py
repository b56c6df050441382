"""What more looks at a scan cost, and what they gain: three planes, mirrored slices, neighbouring slices.

Every case is segmented in each way in turn, in one process, and scored on its own grid; ratios of time are of one case
against itself. It goes on where FILE ends, and stops after so many seconds, so that a long measurement can be done in
pieces. Prints Markdown tables.

    python benchmarks/bench_augmentation.py FILE --hippocampus FOLDER [--seconds 100]
    python benchmarks/bench_augmentation.py FILE --liver CT_FOLDER SEGMENTATION [--seconds 100]
    python benchmarks/bench_augmentation.py FILE                           # the tables alone
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.files import atomic_path
from napari_transunet.inference.devices import available_devices
from napari_transunet.inference.predictor import Predictor
from napari_transunet.io.reading import read_volume
from napari_transunet.metrics.segmentation_metrics import evaluate
from napari_transunet.metrics.summary import summary_of
from napari_transunet.training.datasets import open_dataset
from napari_transunet.training.scoring import image_and_reference
from napari_transunet.training.splits import Split
from napari_transunet.volumes.orientation import Reorientation

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_transunet.checkpoints.loading import Checkpoint
    from napari_transunet.volumes.volume import Volume

WEIGHTS = Path(__file__).parents[1] / "weights"
LIVER = 5


@dataclass(frozen=True)
class Way:
    """One way of looking. `context` 1 shows the network the slice itself in place of its neighbours."""

    planes: int
    mirrored: bool = False
    context: int = 3

    @property
    def name(self) -> str:
        parts = [
            "three planes" if self.planes == 3 else "one plane",
            "mirrored" if self.mirrored else "",
            "the slice alone" if self.context == 1 else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Case:
    """A scan, and what its labels should be."""

    name: str
    image: Volume
    reference: npt.NDArray[np.uint8]


HIPPOCAMPUS_WAYS = (
    Way(1),
    Way(1, mirrored=True),
    Way(3),
    Way(3, mirrored=True),
    Way(1, context=1),
    Way(3, context=1),
)
LIVER_WAYS = (Way(1), Way(1, mirrored=True), Way(1, context=1), Way(3))


def hippocampi(folder: Path, done: set[str]) -> Iterator[Case]:
    """The card's 30 test patients, but for those that are done."""
    dataset = open_dataset(folder)
    split = Split.by_seed(dataset.patients, validation=0.1, test=0.15, seed=0)
    for case in split.part(dataset.cases, "test"):
        if case.name not in done:
            yield Case(case.name, *image_and_reference(case, {value: value for value in range(3)}))


def livers(ct: Path, segmentation: Path, done: set[str]) -> Iterator[Case]:
    """The one CT whose liver was outlined by others, on the CT's grid."""
    if ct.name in done:
        return
    image, labels = read_volume(ct), read_volume(segmentation)
    turned = Reorientation.between(labels.geometry, image.geometry.axis_codes).apply(labels.data)
    yield Case(ct.name, image, (turned > 0).astype(np.uint8) * LIVER)


def predictor_for(checkpoint: Checkpoint, way: Way) -> Predictor:
    """Also where the card would not let it be, by taking the spacing between slices to be that within them."""
    card = checkpoint.card.model_copy(update={"context": way.context})
    if way.planes == 3 and card.spacing is not None:
        card = card.model_copy(update={"spacing": tuple(step or card.spacing[2] for step in card.spacing)})
    return Predictor(
        checkpoint, device="cpu", card=card, orthogonal_planes=way.planes == 3, mirror_tta=way.mirrored
    )


def measured(case: Case, predictors: dict[Way, Predictor], labels: dict[int, str]) -> dict[str, Any]:
    """By way: seconds, and Dice by label."""
    found = {}
    for way, predictor in predictors.items():
        begin = time.perf_counter()
        predicted = predictor.predict(case.image)
        seconds = time.perf_counter() - begin
        scores = evaluate(
            predicted, case.reference, spacing=case.image.geometry.spacing, labels_to_score=sorted(labels)
        )
        found[way.name] = {
            "seconds": seconds,
            "dice": {name: scores[value]["dice"] for value, name in labels.items()},
        }
    return found


def table(part: dict[str, Any]) -> str:
    """One row a way: Dice by label, mean ± SD, how many cases got better, and the time against the first way's."""
    cases = list(part["cases"].values())
    ways = list(cases[0])
    labels = list(cases[0][ways[0]]["dice"])
    head = ["looks", *(f"Dice, {label}" for label in labels), "mean gain", "cases better", "time"]
    lines = [head, ["---"] * len(head)]
    for way in ways:
        dice = {label: [case[way]["dice"][label] for case in cases] for label in labels}
        gains = [
            statistics.fmean(case[way]["dice"].values()) - statistics.fmean(case[ways[0]]["dice"].values())
            for case in cases
        ]
        ratios = [case[way]["seconds"] / case[ways[0]]["seconds"] for case in cases]
        lines.append(
            [
                way,
                *(_spread(values) for values in dice.values()),
                "" if way == ways[0] else _spread(gains, sign="+"),
                "" if way == ways[0] else f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
                "1" if way == ways[0] else _range(ratios),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(values: list[float], sign: str = "") -> str:
    summary = summary_of("dice", {str(at): value for at, value in enumerate(values)})
    spread = f" ± {summary.sd:.3f}" if len(values) > 1 else ""
    return f"{summary.mean:{sign}.3f}{spread}"


def _range(ratios: list[float]) -> str:
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def added(
    results: dict[str, Any],
    name: str,
    ways: tuple[Way, ...],
    labels: dict[int, str],
    cases: Callable[[set[str]], Iterator[Case]],
) -> Iterator[None]:
    """Measure the cases that are missing, into `results`; one step a case."""
    checkpoint = load_checkpoint(WEIGHTS / f"{name}.safetensors")
    predictors = {way: predictor_for(checkpoint, way) for way in ways}
    part = results.setdefault(
        name,
        {
            "machine": available_devices()[0].label,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "precision": predictors[ways[0]].precision_name,
            "sha256": checkpoint.sha256,
            "cases": {},
        },
    )
    for at, case in enumerate(cases(set(part["cases"]))):
        if at == 0:  # the first call of each network is slower
            for predictor in predictors.values():
                if not predictor.orthogonal_planes:
                    predictor.predict(case.image)
        part["cases"][case.name] = measured(case, predictors, labels)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="JSON with what is measured already; it is added to")
    parser.add_argument("--hippocampus", type=Path, metavar="FOLDER")
    parser.add_argument("--liver", type=Path, nargs=2, metavar=("CT", "SEGMENTATION"))
    parser.add_argument(
        "--seconds", type=float, default=100, help="end after the case in which so many are over"
    )
    options = parser.parse_args()
    results = json.loads(options.file.read_text("utf-8")) if options.file.exists() else {}
    begin = time.monotonic()
    steps: Iterator[None] = iter(())
    if options.hippocampus:
        cases = partial(hippocampi, options.hippocampus)
        labels = {1: "anterior", 2: "posterior"}
        steps = chain(steps, added(results, "hippocampus-mr", HIPPOCAMPUS_WAYS, labels, cases))
    if options.liver:
        cases = partial(livers, *options.liver)
        steps = chain(steps, added(results, "abdominal-organs-ct", LIVER_WAYS, {LIVER: "liver"}, cases))
    for _ in steps:
        with atomic_path(options.file, overwrite=True) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if time.monotonic() - begin > options.seconds:
            break
    console = Console(soft_wrap=True, highlight=False)
    for name, part in results.items():
        console.print(
            f"\n{name}: {len(part['cases'])} cases, {part['machine']}, {part['precision']}\n", markup=False
        )
        console.print(table(part), markup=False)


if __name__ == "__main__":
    main()
