"""How many slices must be corrected until a scan is right? A simulated annotator, in several ways of working.

    python benchmarks/simulated_annotator.py DATA -o benchmarks/results/simulated_annotator.json --plot corrections.png

DATA is as for `review_order.py`. The annotator makes the slice that is proposed exactly what the reference says, until
the mean Dice of the organs that the reference knows is 0.95 over the scan, corrected slices among them. Counted are
slices corrected and voxels changed by hand. Every arm starts from the shipped checkpoint's labels:

- in order: from the first slice to the last;
- every k-th: every 16th slice, then those midway between, and so on;
- every k-th + interpolation: the same, and slices between two corrected ones that are near each other are filled by the
  tool *Interpolate*;
- ranked: as *Next slice to check* proposes them;
- ranked + interpolation: the worst slice that is not near a corrected one comes next, and slices are filled likewise;
- to interpolate from: as *Next slice* beside *Interpolate* proposes them, and all that lies between is filled;
- ranked, proposed or every k-th + learning: after every four slices the checkpoint learns from all that were corrected,
  and what it became labels the others anew. Proposed: as *Next slice to learn from* proposes them;
- a lesson, then interpolation: the checkpoint learns from the first eight slices, proposed for that, and labels the
  others anew; then as in "to interpolate from";
- best possible: by the true error, which no annotator knows.

Learning is repeated with the seeds that are asked for. Since no slice may be both learnt from and counted as the
network's, the Dice of the slices that nobody corrected is kept as well. What the file given with -o holds already is
not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.labelled_scans import Scan, scans_in
from napari_transunet import Predictor, load_checkpoint, read_volume
from napari_transunet.annotation.corrections import Scope
from napari_transunet.annotation.interpolation import interpolate
from napari_transunet.annotation.review_order import (
    next_to_check,
    next_to_interpolate_from,
    next_to_learn_from,
)
from napari_transunet.annotation.slice_registration import SliceRegistration
from napari_transunet.annotation.uncertainty import SliceUncertainties
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.training.replay import replay_beside

if TYPE_CHECKING:
    from napari_transunet.checkpoints.loading import Checkpoint
    from napari_transunet.volumes.volume import Volume

GOAL = 0.95  # mean Dice
LEARN_EVERY = 4  # corrected slices
FIRST = 8  # slices of the annotator who lets the checkpoint learn once, and interpolates then
NEAR = 10.0  # mm between two corrected slices across which an annotator lets the tool interpolate, by the older orders


@dataclass(frozen=True)
class Start:
    """What all arms of one scan start from; slices along axis 0, organs unknown to the reference left out.

    Attributes
    ----------
    labels, reference : (n, h, w)
    expected_error : (n,)
    organs : label values that the reference knows and shows
    spacing : mm along the array's axes
    registration : of the image's slices
    """

    scan: Scan
    volume: Volume
    checkpoint: Checkpoint
    labels: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    expected_error: NDArray[np.float64]
    organs: tuple[int, ...]
    spacing: tuple[float, float, float]
    registration: SliceRegistration


@dataclass
class Experiment:
    """How an arm went: after each corrected slice, which it was, voxels changed by hand, and mean Dice."""

    arm: str
    seed: int | None
    before: float
    slices: list[int] = field(default_factory=list)
    by_hand: list[int] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    dice_of_the_rest: list[float] = field(default_factory=list)

    @property
    def needed(self) -> int | None:
        """Slices corrected until the goal; None where it was not reached."""
        if self.before >= GOAL:
            return 0
        return next((at + 1 for at, dice in enumerate(self.dice) if dice >= GOAL), None)


class Desk:
    """The labels as they are while an arm goes on."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.found = start.labels
        self.labels = start.labels.copy()
        self.expected_error = start.expected_error
        self.corrected: list[int] = []
        self._counts = np.zeros((len(self.labels), len(start.organs), 2), np.int64)
        for index in range(len(self.labels)):
            self._count(index)

    def correct(self, index: int) -> int:
        """Make a slice what the reference says; the voxels that this changed."""
        changed = int((self.labels[index] != self.start.reference[index]).sum())
        self.put(index, self.start.reference[index])
        self.corrected.append(index)
        return changed

    def put(self, index: int, plane: NDArray[np.uint8]) -> None:
        """Other labels for a slice."""
        self.labels[index] = plane
        self._count(index)

    def wrong(self) -> NDArray[np.int64]:
        """Of each slice, the voxels that are wrong."""
        wrong: NDArray[np.int64] = np.count_nonzero(self.labels != self.start.reference, axis=(1, 2))
        return wrong

    def dice(self, *, of_the_rest: bool = False) -> float:
        """Mean Dice of the organs that are there, over all slices or those that nobody corrected."""
        counts = np.delete(self._counts, self.corrected, axis=0) if of_the_rest else self._counts
        both, sizes = counts.sum(axis=0).T
        return float(np.mean(2 * both[sizes > 0] / sizes[sizes > 0])) if sizes.any() else 1.0

    def _count(self, index: int) -> None:
        own, true = self.labels[index], self.start.reference[index]
        for at, organ in enumerate(self.start.organs):
            mine, right = own == organ, true == organ
            self._counts[index, at] = (mine & right).sum(), mine.sum() + right.sum()


Propose = Callable[[Desk], int | None]
Follow = Callable[[Desk], None]


def in_order(desk: Desk) -> int | None:
    return next((index for index in range(len(desk.labels)) if index not in desk.corrected), None)


def every_kth(desk: Desk) -> int | None:
    """Every 16th slice, then every 8th, and so on."""
    n = len(desk.labels)
    order = dict.fromkeys(index for step in (16, 8, 4, 2, 1) for index in range(step // 2, n, step))
    return next((index for index in (*order, *range(n)) if index not in desk.corrected), None)


def ranked(desk: Desk) -> int | None:
    last = desk.corrected[-1] if desk.corrected else None
    return next_to_check(desk.expected_error, desk.corrected, last)


def ranked_apart(desk: Desk) -> int | None:
    """The worst slice, those near a corrected one the less the nearer they are."""
    every = np.arange(len(desk.labels))
    distance = np.abs(every[:, None] - np.array(desk.corrected or [10 * len(every)])).min(axis=1)
    near = max(1.0, NEAR / desk.start.spacing[0])
    return next_to_check(desk.expected_error * np.minimum(1, distance / near), desk.corrected, None)


def proposed(desk: Desk) -> int | None:
    """What a network would learn most from; once everything is shown nearby, the worst slice."""
    found = next_to_learn_from(areas(desk), desk.corrected, desk.start.spacing[0])
    return ranked(desk) if found is None else found


def to_interpolate_from(desk: Desk) -> int | None:
    """From which interpolation gains most; once nothing changes any more in between, the worst slice."""
    known = {index: desk.labels[index] for index in desk.corrected}
    found = next_to_interpolate_from(areas(desk), desk.start.organs, known, desk.start.spacing[0])
    return ranked(desk) if found is None else found


def first_to_learn_from(desk: Desk) -> int | None:
    return proposed(desk) if len(desk.corrected) < FIRST else to_interpolate_from(desk)


def areas(desk: Desk) -> NDArray[np.int64]:
    """(n, organs) voxels of each organ in each slice."""
    return np.stack([(desk.labels == organ).sum(axis=(1, 2)) for organ in desk.start.organs], 1)


def best_possible(desk: Desk) -> int | None:
    wrong = desk.wrong()
    wrong[desk.corrected] = -1
    return int(wrong.argmax()) if (wrong >= 0).any() else None


def nothing(_desk: Desk) -> None:
    pass


def interpolate_near(desk: Desk) -> None:
    """Fill what lies between the slice just corrected and its corrected neighbours, where they are near."""
    last, step = desk.corrected[-1], desk.start.spacing[0]
    others = sorted(desk.corrected)
    at = others.index(last)
    for first, end in zip(others[max(0, at - 1) : at + 1], others[max(1, at) : at + 2], strict=False):
        if (end - first) * step <= NEAR:
            _fill(desk, first, end)


def interpolate_all(desk: Desk) -> None:
    """Fill what lies between all corrected slices."""
    if len(desk.corrected) < 2:
        return
    scope = Scope(desk.start.organs)
    made = interpolate(
        desk.labels,
        desk.start.spacing,
        scope,
        axis=0,
        slices=desk.corrected,
        found=desk.found,
        registration=desk.start.registration,
    )
    labels = desk.labels.copy()
    for write in made.writes:
        labels[write.index] = write.after
    for index in np.flatnonzero((labels != desk.labels).any(axis=(1, 2))):
        desk.put(int(index), labels[index])


def _fill(desk: Desk, first: int, end: int) -> None:
    """Interpolate between two corrected slices by shape."""
    part = desk.labels[first : end + 1]
    found = interpolate(part, desk.start.spacing, Scope(desk.start.organs), axis=0, slices=[0, end - first])
    for write in found.writes:
        part[write.index] = write.after
    for index in range(first + 1, end):
        desk.put(index, part[index - first])


def learning(seed: int, steps: int | None, every: int = LEARN_EVERY) -> Follow:
    """After every four slices, or so many: learn from all that were corrected, and label the others anew."""
    checkpoint: Checkpoint | None = None

    def follow(desk: Desk) -> None:
        from napari_transunet import Correction, adapt  # only this arm needs them

        nonlocal checkpoint
        if len(desk.corrected) % every or desk.dice() >= GOAL:
            return
        start = desk.start
        names = start.checkpoint.card.label_set().names
        axis = Predictor(start.checkpoint).slice_axis(start.volume)
        vouched = Correction(
            start.volume,
            np.moveaxis(desk.labels, 0, axis),
            slices=sorted(desk.corrected),
            organs=[names[organ] for organ in start.organs],
        )
        pack = replay_beside(start.checkpoint.path)
        checkpoint = adapt(checkpoint or start.checkpoint, [vouched], seed=seed, steps=steps, replay=pack)
        labels, unsure = predicted(checkpoint, start.volume)
        desk.found = only(labels, start.organs)
        for index, plane in enumerate(desk.found):
            if index not in desk.corrected:
                desk.put(index, plane)
        desk.expected_error = expected_error(unsure, start.scan)

    return follow


def a_lesson(seed: int, steps: int | None) -> Follow:
    """Learn from the first eight slices, and fill what lies between from then on."""
    learn = learning(seed, steps, FIRST)

    def follow(desk: Desk) -> None:
        if len(desk.corrected) == FIRST:
            learn(desk)
        if len(desk.corrected) >= FIRST:
            interpolate_all(desk)

    return follow


PLAIN: dict[str, tuple[Propose, Follow]] = {
    "in order": (in_order, nothing),
    "every k-th": (every_kth, nothing),
    "every k-th + interpolation": (every_kth, interpolate_near),
    "ranked": (ranked, nothing),
    "ranked + interpolation": (ranked_apart, interpolate_near),
    "to interpolate from": (to_interpolate_from, interpolate_all),
    "best possible": (best_possible, nothing),
}
LEARNING: dict[str, tuple[Propose, Callable[[int, int | None], Follow]]] = {
    "every k-th + learning": (every_kth, learning),
    "ranked + learning": (ranked, learning),
    "proposed + learning": (proposed, learning),
    "a lesson, then interpolation": (first_to_learn_from, a_lesson),
}
ARMS = (*PLAIN, *LEARNING)


def arms(
    wanted: Sequence[str], seeds: Sequence[int], steps: int | None
) -> Iterator[tuple[str, int | None, Propose, Follow]]:
    """(name, seed, what proposes a slice, what follows a correction) of the arms that are wanted."""
    for name in wanted:
        if name in PLAIN:
            yield name, None, *PLAIN[name]
        else:
            propose, lessons = LEARNING[name]
            for seed in seeds:
                yield name, seed, propose, lessons(seed, steps)


def only(labels: NDArray[Any], organs: Sequence[int]) -> NDArray[np.uint8]:
    """The labels of these organs; background elsewhere."""
    return np.where(np.isin(labels, organs), labels, 0).astype(np.uint8)


def expected_error(unsure: SliceUncertainties, scan: Scan) -> NDArray[np.float64]:
    """By what the dock would lead: all organs, or the one that is known."""
    return unsure.expected_error(scan.organ)


def predicted(checkpoint: Checkpoint, volume: Volume) -> tuple[NDArray[Any], SliceUncertainties]:
    """The checkpoint's labels, slices along axis 0, and how unsure it was of each."""
    predictor = Predictor(checkpoint)
    axis = predictor.slice_axis(volume)
    unsure = SliceUncertainties(axis, volume.data.shape[axis])
    return np.moveaxis(predictor.predict(volume, unsure=unsure.put), axis, 0), unsure


def started(scan: Scan) -> Start:
    """Read and segment a scan."""
    volume, checkpoint = read_volume(scan.image), load_checkpoint(resolve_checkpoint(scan.checkpoint))
    labels, unsure = predicted(checkpoint, volume)
    reference = np.moveaxis(read_volume(scan.labels).data, unsure.axis, 0)
    known = [scan.organ] if scan.organ is not None else sorted(checkpoint.card.label_set().names)
    organs = tuple(organ for organ in known if (reference == organ).any())
    steps = list(volume.geometry.spacing)
    steps.insert(0, steps.pop(unsure.axis))
    return Start(
        scan,
        volume,
        checkpoint,
        only(labels, known),
        only(reference, known),
        expected_error(unsure, scan),
        organs,
        (steps[0], steps[1], steps[2]),
        SliceRegistration(volume, unsure.axis),
    )


def gone(start: Start, name: str, seed: int | None, propose: Propose, follow: Follow) -> Experiment:
    """Correct slices until the goal, or until none is left."""
    desk = Desk(start)
    course = Experiment(name, seed, desk.dice())
    while desk.dice() < GOAL and (index := propose(desk)) is not None:
        course.slices.append(index)
        course.by_hand.append(desk.correct(index))
        follow(desk)
        course.dice.append(desk.dice())
        course.dice_of_the_rest.append(desk.dice(of_the_rest=True))
    return course


def as_row(start: Start) -> dict[str, Any]:
    """A scan as JSON has it, before any arm."""
    return {
        "scan": start.scan.name,
        "checkpoint": Path(start.scan.checkpoint).stem,
        "organs": list(start.organs),
        "slices": len(start.labels),
        "arms": [],
    }


def has(row: dict[str, Any], name: str, seed: int | None) -> bool:
    """Whether that arm is in it."""
    return any((arm["arm"], arm["seed"]) == (name, seed) for arm in row["arms"])


def table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Markdown: slices to correct until the goal, by arm; the mean over seeds."""
    lines = [f"| scan | slices | Dice before | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        cells = []
        for name in names:
            needed = [arm["needed"] for arm in row["arms"] if arm["arm"] == name]
            known = [count for count in needed if count is not None]
            spread = f" ({min(known)} to {max(known)})" if len(set(known)) > 1 else ""
            cells.append("–" if not known else f"{np.mean(known):.0f}{spread}")
        before = row["arms"][0]["before"]
        lines.append(f"| {row['scan']} | {row['slices']} | {before:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Mean Dice against corrected slices: a panel a scan, a line an arm (seeds: thin lines of one colour)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, row in enumerate(rows, start=1):
        axes = figure.add_subplot(lines, columns, panel)
        for arm in row["arms"]:
            if arm["arm"] not in names:
                continue
            dice = [arm["before"], *arm["dice"]]
            color = f"C{names.index(arm['arm'])}"
            first = arm["arm"] not in axes.get_legend_handles_labels()[1]
            label, width = (arm["arm"], 1.5) if first else (None, 0.7)
            axes.plot(range(len(dice)), dice, color=color, label=label, linewidth=width)
        axes.axhline(GOAL, color="0.7", linewidth=0.8, zorder=0)
        axes.set_title(f"{row['scan']}, {row['slices']} slices", fontsize=9)
        axes.set_xlabel("corrected slices", fontsize=8)
        axes.set_ylabel("mean Dice", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=6, frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """Let the annotator work on every scan, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--ct-checkpoint", help="one that did not learn from the four CTs; without it they are left out"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, help="a picture of the courses, .png")
    parser.add_argument("--scans", nargs="+", metavar="NAME", help="only these; all otherwise")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of learning")
    parser.add_argument("--steps", type=int, help="of learning each time; by default what two minutes allow")
    asked = parser.parse_args(arguments)
    scans = {scan.name: scan for scan in scans_in(asked.data, asked.ct_checkpoint)}
    if unknown := set(asked.scans or ()) - scans.keys():
        parser.error(f"there is no scan {', '.join(sorted(unknown))}; there are {', '.join(scans)}")
    result: dict[str, Any] = {"goal": GOAL, "near_mm": NEAR, "learn_every": LEARN_EVERY, "scans": []}
    if asked.out.exists():
        result["scans"] = json.loads(asked.out.read_text("utf-8"))["scans"]
    for scan in [scans[name] for name in asked.scans or scans]:
        row = next((one for one in result["scans"] if one["scan"] == scan.name), None)
        left = [
            one
            for one in arms(asked.arms, asked.seeds, asked.steps)
            if row is None or not has(row, one[0], one[1])
        ]
        if not left:
            continue
        start = started(scan)
        if row is None:
            row = as_row(start)
            result["scans"].append(row)
        for name, seed, propose, follow in left:
            course = gone(start, name, seed, propose, follow)
            told = {"needed": course.needed, "voxels_by_hand": sum(course.by_hand), "steps": asked.steps}
            row["arms"].append(asdict(course) | told)
            asked.out.write_text(json.dumps(result) + "\n", "utf-8")  # at once: learning takes hours in all
            print(f"{scan.name}, {name}: {course.needed} of {len(start.labels)}", file=sys.stderr)
    print(table(result["scans"], asked.arms))
    if asked.plot is not None:
        draw(result["scans"], [name for name in ARMS if name in asked.arms], asked.plot)


if __name__ == "__main__":
    main()
