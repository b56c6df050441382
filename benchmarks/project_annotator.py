"""Does a project learn? A simulated annotator works through ten hippocampi, one case after the other.

    python benchmarks/project_annotator.py DATA FOLDER -o benchmarks/results/project_annotator.json --plot p.png

Of every case the slices that the review proposes are made what the reference says, and marked as reviewed, until the
mean Dice of both parts over the scan is 0.90, corrected slices among them; then the case is approved. Counted are
slices corrected and voxels changed. All of it goes through the functions of `project`. Three ways of working:

- learning: after every second case the project learns (`adapt_project`) from all reviewed slices, and the next cases
  are segmented by what came of it;
- not learning: the same first network segments all cases;
- shipped: `hippocampus-mr`, which learnt from 150 other patients, segments all cases and learns nothing.

The shipped checkpoint is too good on these scans for learning to show, so the first two start without one: the first
case is drawn by hand as a whole, and a network with the weights of `abdominal-organs-mr`, which saw no hippocampus,
learns from it alone. The scans are those that no shipped checkpoint learnt from, in the order of their names, which
says nothing of them. What FOLDER and the file given with -o hold already is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.labelled_scans import Scan, scans_in
from napari_transunet import (
    Correction,
    Project,
    TransUNet,
    adapt,
    load_checkpoint,
    read_volume,
    save_checkpoint,
)
from napari_transunet.annotation.review_order import next_to_check
from napari_transunet.annotation.session import AnnotationSession
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.project.adapting import adapt_project
from napari_transunet.project.case_labels import CaseLabels, load_labels, save_labels
from napari_transunet.project.opening import approval
from napari_transunet.project.segmenting import segment_project
from napari_transunet.training.first_network import first_network
from napari_transunet.training.heads import with_classes
from napari_transunet.volumes.labels import LabelSet

if TYPE_CHECKING:
    from napari_transunet.project.case import Case
    from napari_transunet.project.project import HeldCase
    from napari_transunet.volumes.volume import Volume

GOAL = 0.90  # mean Dice
CASES = 10
ORGANS = {1: "anterior hippocampus", 2: "posterior hippocampus"}
ANNOTATOR = "simulated"
SHIPPED = "hippocampus-mr"
ORIGIN = "abdominal-organs-mr"
OPTIONS = PredictorOptions(device="cpu", backend="torch", precision="float32")


@dataclass(frozen=True)
class Work:
    """What one case took: mean Dice before and after, slices in all, corrected ones, and voxels changed by hand."""

    case: str
    before: float
    after: float
    slices: int
    corrected: int
    by_hand: int


def mean_dice(labels: NDArray[Any], reference: NDArray[Any]) -> float:
    """Of the organs that the reference shows."""
    found = []
    for organ in ORGANS:
        own, true = labels == organ, reference == organ
        if true.any():
            found.append(2 * float((own & true).sum()) / float(own.sum() + true.sum()))
    return float(np.mean(found))


def correct(
    held: HeldCase, found: CaseLabels, reference: NDArray[Any], goal: float = GOAL, **facts: Any
) -> Work:
    """Correct slices as the review proposes them until the goal is reached, and approve the case.

    Where no network has been, from the first slice to the last.
    """
    session = found.session
    labels, true = (np.moveaxis(array, session.axis, 0) for array in (found.labels, reference))
    unsure = session.uncertainty
    expected = np.full(len(labels), np.nan) if unsure is None else unsure.expected_error()
    before, by_hand, last = mean_dice(labels, true), 0, None
    while mean_dice(labels, true) < goal:
        last = next_to_check(expected, session.reviewed, last)
        if last is None:
            break
        by_hand += int((labels[last] != true[last]).sum())
        labels[last] = true[last]
        session.mark_reviewed(last)
    save_labels(held, found, annotator=ANNOTATOR, **facts, **approval(ANNOTATOR))
    after = mean_dice(labels, true)
    return Work(held.case.name, before, after, len(labels), len(session.reviewed), by_hand)


def draw_by_hand(project: Project, case: Case, scan: Scan) -> Work:
    """Draw a whole case where nothing is labelled."""
    volume = read_volume(scan.image)
    session = AnnotationSession(volume.data.shape, ORGANS)  # along axis 0, as a first network takes slices
    found = CaseLabels(np.zeros(volume.data.shape, np.uint8), session, LabelSet.from_names(ORGANS))
    with project.hold(case.id, ANNOTATOR, takeover=True) as held:
        return correct(
            held,
            found,
            read_volume(scan.labels).data,
            goal=1.0,
            shape=volume.data.shape,
            spacing=tuple(volume.geometry.spacing),
        )


def unlearnt(volume: Volume) -> Checkpoint:
    """A network for the hippocampus with the weights of `abdominal-organs-mr`, but for its head.

    Its images are as small as a hippocampus is; the embeddings of positions are resized.
    """
    from torch.nn import functional

    origin = load_checkpoint(resolve_checkpoint(ORIGIN))
    # No shipped checkpoint has this variant, so the card is that of a network that starts from nothing.
    card = first_network(volume, ORGANS, variant="R50-ViT-S_16", modality="MR").card
    net = TransUNet(origin.card.variant, card.num_classes, card.img_size).eval()
    known = with_classes(origin.model, [0, *(None for _ in ORGANS)]).state_dict()
    height, width = (side // 16 for side in net.img_size)
    for key, value in net.state_dict().items():
        if known[key].shape != value.shape:
            side = round(known[key].shape[1] ** 0.5)
            grid = known[key].transpose(1, 2).reshape(1, -1, side, side)
            grid = functional.interpolate(grid, (height, width), mode="bilinear")
            known[key] = grid.flatten(2).transpose(1, 2)
    net.load_state_dict(known)
    return Checkpoint(
        net,
        card.updated(variant=origin.card.variant, n_skip=net.n_skip),
        Path("unlearnt.safetensors"),
        "",
        "memory",
    )


def learn_first(scan: Scan, steps: int, path: Path) -> None:
    """A network that knows no hippocampus learns from one case, and is written."""
    volume, labels = read_volume(scan.image), read_volume(scan.labels).data
    drawn = Correction(volume, labels, range(len(labels)))
    learnt = adapt(unlearnt(volume), [drawn], steps=steps)
    save_checkpoint(path, learnt, learnt.card.updated(name=path.stem))


def work_on(project: Project, case: Case, scan: Scan) -> Work:
    """Segment a case with what the project has, and correct it."""
    for outcome in segment_project(project, options=OPTIONS, only=[case.id]):
        if outcome.state != "segmented":
            raise RuntimeError(outcome.sentence)
    with project.hold(case.id, ANNOTATOR, takeover=True) as held:
        found = load_labels(project, held.case)
        if found is None:
            raise RuntimeError(f"{case.name} has no labels.")
        return correct(held, found, read_volume(scan.labels).data)


class Results:
    """What is known by now, in a file at once; what it holds is not done again."""

    def __init__(self, path: Path, **asked: int) -> None:
        self.path = path
        self.all: dict[str, Any] = {"goal": GOAL, **asked, "ways": []}
        if path.exists():
            self.all = json.loads(path.read_text("utf-8"))

    def way(self, name: str, seed: int | None) -> dict[str, Any]:
        found = next((one for one in self.all["ways"] if (one["way"], one["seed"]) == (name, seed)), None)
        if found is None:
            found = {"way": name, "seed": seed, "cases": [], "learnt": []}
            self.all["ways"].append(found)
        return found

    def write(self) -> None:
        self.path.write_text(json.dumps(self.all) + "\n", "utf-8")


def run(
    scans: Sequence[Scan], results: Results, name: str, folder: Path, checkpoint: str, seed: int | None
) -> None:
    """One way of working through all scans, in a project in `folder`."""
    if folder.exists():
        project = Project.open(folder)
    else:
        project = Project.create(folder, checkpoint=checkpoint)
        project.add([scan.image for scan in scans])
    way = results.way(name, seed)
    for at, (case, scan) in enumerate(zip(project.cases(), scans, strict=True)):
        if at == len(way["cases"]):
            by_hand = at == 0 and name != "shipped"
            work = draw_by_hand(project, case, scan) if by_hand else work_on(project, case, scan)
            way["cases"].append(asdict(work))
            print(f"{name}: {work}", file=sys.stderr)
            results.write()
        due = at + 1 == results.all["every"] * (len(way["learnt"]) + 1)
        if seed is not None and due and 0 < at < len(scans) - 1:
            learnt = adapt_project(
                project, device="cpu", options=OPTIONS, steps=results.all["steps"], seed=seed
            )
            way["learnt"].append({"child": learnt.child, "slices": learnt.slices, "dice": learnt.dice})
            print(learnt.sentence, file=sys.stderr)
            results.write()


def columns(found: dict[str, Any], key: str) -> dict[str, NDArray[np.float64]]:
    """Way -> a value of every case, the mean over seeds."""
    count = len(found["ways"][0]["cases"])
    done = [way for way in found["ways"] if len(way["cases"]) == count]
    return {
        name: np.mean([[case[key] for case in way["cases"]] for way in done if way["way"] == name], axis=0)
        for name in dict.fromkeys(way["way"] for way in done)
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: slices to correct in every case, and the Dice before that, by way of working."""
    corrected, before = columns(found, "corrected"), columns(found, "before")
    lines = [f"| case | slices | {' | '.join(corrected)} |", "|---" * (len(corrected) + 2) + "|"]
    for at, case in enumerate(found["ways"][0]["cases"]):
        cells = [f"{corrected[name][at]:.1f} ({before[name][at]:.2f})" for name in corrected]
        lines.append(f"| {at + 1} | {case['slices']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Slices to correct, and Dice before that, by case; a line a way, thin ones for seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    looks = {"learning": ("C0", "-"), "not learning": ("C1", "--"), "shipped": ("0.5", ":")}
    titles = {"corrected": f"slices corrected until mean Dice {GOAL:.2f}", "before": "mean Dice before that"}
    for panel, (key, title) in enumerate(titles.items(), start=1):
        axes = figure.add_subplot(1, 2, panel)
        for name, values in columns(found, key).items():
            color, style = looks[name]
            axes.plot(range(1, len(values) + 1), values, color=color, linestyle=style, label=name)
        for way in found["ways"]:
            if way["way"] == "learning":
                own = [case[key] for case in way["cases"]]
                axes.plot(range(1, len(own) + 1), own, color="C0", linewidth=0.6, alpha=0.6)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("case", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """Let the annotator work, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path, help="for the projects; what is there already goes on")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, help="a picture, .png")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of learning")
    parser.add_argument("--steps", type=int, default=120, help="of learning each time")
    parser.add_argument("--every", type=int, default=2, help="so many cases it learns")
    parser.add_argument("--first-steps", type=int, default=240, help="of learning from the first case")
    asked = parser.parse_args(arguments)
    scans = [scan for scan in scans_in(asked.data) if scan.checkpoint == SHIPPED][: asked.cases]
    results = Results(asked.out, steps=asked.steps, first_steps=asked.first_steps, every=asked.every)
    asked.folder.mkdir(parents=True, exist_ok=True)
    first = asked.folder / "first.safetensors"
    if not first.exists():
        learn_first(scans[0], results.all["first_steps"], first)
    run(scans, results, "not learning", asked.folder / "not-learning", str(first), None)
    for seed in asked.seeds:
        run(scans, results, "learning", asked.folder / f"learning-{seed}", str(first), seed)
    run(scans, results, "shipped", asked.folder / "shipped", SHIPPED, None)
    print(table(results.all))
    if asked.plot is not None:
        draw(results.all, asked.plot)


if __name__ == "__main__":
    main()
