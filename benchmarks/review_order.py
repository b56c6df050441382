"""How much of what is wrong do the first slices hold that *Next slice to check* proposes?

    python benchmarks/review_order.py DATA -o benchmarks/results/review_order.json

DATA holds `ct_abdomen_more` (AMOS22 0001, TotalSegmentator s0009 and its aorta test file, Decathlon spleen 8, with an
`index.json` that says which organs are labelled) and `hippocampus_mr` (Decathlon Task04). The shipped CT
checkpoint learnt from the CTs, so `labelled_scans.py` says which one to give for them. A slice's true error are its
voxels that differ from the reference; where the reference knows one organ alone, that organ's, and the order is the one
that the dock gives with that organ chosen.

The measure was proposed after numbers on two other CTs. Nothing is fitted here, and other measures are shown beside it.
Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.labelled_scans import Scan, scans_in
from napari_transunet import Predictor, load_checkpoint, read_volume
from napari_transunet.annotation.review_order import review_order
from napari_transunet.annotation.uncertainty import SliceUncertainties
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.volumes.label_values import values_in

DRAWS = 5000
AREA_DRAWS = 500
SHIPPED = "review order"
"""The order that the product has: by the expected error, neighbours together. The other orders are plain rankings."""


@dataclass(frozen=True, eq=False)
class Slices:
    """Of each slice, the voxels that are wrong, and what each measure says of it.

    `counts` (n, labels, 3) are each label's voxels in both, in the prediction and in the reference.
    """

    wrong: NDArray[np.int64]
    measures: dict[str, NDArray[np.float64]]
    counts: NDArray[np.int64]

    def orders(self) -> dict[str, list[int]]:
        """Each measure's ranking, and the order that the product has."""
        found = {
            name: np.argsort(-np.nan_to_num(values), kind="stable").tolist()
            for name, values in self.measures.items()
        }
        shipped = review_order(self.measures["mean × √area"])
        rest = [index for index in range(len(self.wrong)) if index not in set(shipped)]
        return found | {SHIPPED: shipped + rest}

    def gained(self, orders: NDArray[np.int64]) -> NDArray[np.float64]:
        """Orders (m, n) of the slices -> (m,): the area under the curve of Dice gained against slices looked at.

        A slice that was looked at is as the reference has it. The curve begins at 0, before the first, and ends at 1,
        where the mean Dice of all labels is 1; so an order that gained everything at once would have the area 1.
        """
        both, found, true = np.moveaxis(self.counts, 2, 0)
        total = self.counts.sum(0)
        # What looking at a slice adds to the two terms of Dice.
        each = np.stack([true - both, true - found], 2)
        area = np.zeros(len(orders))
        start = float(np.mean(2 * total[:, 0] / (total[:, 1] + total[:, 2])))
        for at, order in enumerate(orders):
            added = np.cumsum(each[order], axis=0)
            dice = 2 * (total[:, 0] + added[:, :, 0]) / (total[:, 1] + total[:, 2] + added[:, :, 1])
            area[at] = ((dice.mean(axis=1) - start) / (1 - start)).mean()
        return area


def predicted(scan: Scan, predictor: Predictor) -> tuple[NDArray[Any], SliceUncertainties]:
    """Labels of the scan, and how unsure the network was of each slice."""
    volume = read_volume(scan.image)
    axis = predictor.slice_axis(volume)
    unsure = SliceUncertainties(axis, volume.data.shape[axis])
    return predictor.predict(volume, unsure=unsure.put), unsure


def measured(scan: Scan, labels: NDArray[Any], reference: NDArray[Any], unsure: SliceUncertainties) -> Slices:
    """The true errors, and what could be known without the reference."""
    if scan.organ is not None:
        labels, reference = labels == scan.organ, reference == scan.organ
    labels, reference = np.moveaxis(labels, unsure.axis, 0), np.moveaxis(reference, unsure.axis, 0)
    changes = (labels[1:] != labels[:-1]).sum(axis=(1, 2))
    mean, expected = np.nan_to_num(unsure.of(scan.organ)), unsure.expected_error(scan.organ)
    return Slices(
        (labels != reference).sum(axis=(1, 2)),
        {
            "mean": mean,
            "mean × √area": expected,
            "mean × area": np.divide(expected**2, mean, out=np.zeros_like(mean), where=mean > 0),
            "area": (labels != 0).sum(axis=(1, 2)).astype(np.float64),
            "change between slices": np.pad(changes, (0, 1)) + np.pad(changes, (1, 0)).astype(np.float64),
        },
        counts_of(labels, reference),
    )


def counts_of(labels: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.int64]:
    """`Slices.counts` of two label volumes, slices first: of every label but 0 that the reference has."""
    each = []
    for value in values_in(reference):
        found, true = labels == value, reference == value
        each.append([part.sum(axis=(1, 2)) for part in (found & true, found, true)])
    return np.array(each).transpose(2, 0, 1)


def kept(scan: Scan, cache: Path | None, predictors: dict[str, Predictor]) -> Slices:
    """What `measured` says, from the cache where it is there."""
    path = None if cache is None else cache / f"{scan.name}.json"
    if path is not None and path.exists():
        found = json.loads(path.read_text("utf-8"))
        measures = {name: np.array(values) for name, values in found["measures"].items()}
        return Slices(np.array(found["wrong"]), measures, np.array(found["counts"]))
    if scan.checkpoint not in predictors:
        checkpoint = load_checkpoint(resolve_checkpoint(scan.checkpoint))
        predictors[scan.checkpoint] = Predictor(checkpoint, precision="bfloat16")
    labels, unsure = predicted(scan, predictors[scan.checkpoint])
    slices = measured(scan, labels, read_volume(scan.labels).data, unsure)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(as_json(slices)), "utf-8")
    return slices


def as_json(slices: Slices) -> dict[str, Any]:
    """Numbers as JSON has them."""
    return {
        "wrong": slices.wrong.tolist(),
        "measures": {name: values.tolist() for name, values in slices.measures.items()},
        "counts": slices.counts.tolist(),
    }


def looked_at(n: int) -> tuple[int, int]:
    """The first 10 and 20 slices; of a short scan, one and two fifths."""
    return (10, 20) if n > 20 else (round(n / 5), round(2 * n / 5))


def judged(slices: Slices, rng: np.random.Generator) -> tuple[dict[str, dict[str, float]], float]:
    """How much of what is wrong the first slices hold, and how many random orders are worse than the product's.

    Order -> "first K" -> share of all wrong voxels, with the mean and the 95 % point of random draws; then the share of
    random orders that hold less on average over all K.
    """
    wrong, n = slices.wrong, len(slices.wrong)
    orders = {"best possible": np.argsort(-wrong).tolist(), "in order": list(range(n))} | slices.orders()
    found: dict[str, dict[str, float]] = {
        name: {} for name in (*orders, "every k-th", "random", "random, 95 %")
    }
    draws = np.cumsum(wrong[np.argsort(rng.random((DRAWS, n)), axis=1)], axis=1) / wrong.sum()
    for k in looked_at(n):
        first = f"first {k}"
        for name, order in orders.items():
            found[name][first] = float(wrong[order[:k]].sum() / wrong.sum())
        spread = ((np.arange(k) + 0.5) * n / k).astype(int)
        found["every k-th"][first] = float(wrong[spread].sum() / wrong.sum())
        found["random"][first] = float(draws[:, k - 1].mean())
        found["random, 95 %"][first] = float(np.quantile(draws[:, k - 1], 0.95))
    own = np.cumsum(wrong[orders[SHIPPED]]).mean() / wrong.sum()
    return found, float((draws.mean(axis=1) < own).mean())


def areas(slices: Slices, rng: np.random.Generator) -> dict[str, float]:
    """Of each order, and on average of random ones, the area under the curve of Dice gained."""
    n = len(slices.wrong)
    by_error = np.argsort(-slices.wrong).tolist()
    own = {"in order": list(range(n)), "by the true errors": by_error} | slices.orders()
    by_chance = np.argsort(rng.random((AREA_DRAWS, n)), axis=1)
    found = dict(zip(own, slices.gained(np.array(list(own.values()))).tolist(), strict=True))
    return found | {"random": float(slices.gained(by_chance).mean())}


def gains(of: dict[str, dict[str, float]], order: str) -> float:
    """What an order has over chance, of what the best possible has: 1 is the best, 0 is chance."""
    best, chance, own = (list(of[name].values()) for name in ("best possible", "random", order))
    return float(np.mean([(c - b) / (a - b) for a, b, c in zip(best, chance, own, strict=True)]))


def group_of(scan: Scan) -> str:
    """The row of the table that a scan counts in."""
    return "hippocampus" if scan.checkpoint == "hippocampus-mr" else scan.name


def table(groups: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: of each group of scans, the mean share that the first slices hold, by order."""
    columns = ("in order", "every k-th", "random", "random, 95 %", "mean", SHIPPED, "best possible")
    lines = [f"| scan | looked at | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name, scans in groups.items():
        for at in (0, 1):
            shares = {
                column: np.mean([list(scan["shares"][column].values())[at] for scan in scans])
                for column in columns
            }
            first = {list(scan["shares"]["random"])[at] for scan in scans}.pop()
            slices = sorted(scan["slices"] for scan in scans)
            of = f"{slices[0]}" if len(scans) == 1 else f"{slices[0]} to {slices[-1]}"
            cells = " | ".join(
                f"**{100 * share:.0f} %**" if column == SHIPPED else f"{100 * share:.0f} %"
                for column, share in shares.items()
            )
            lines.append(f"| {name if at == 0 else ''} | {first} of {of} | {cells} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Judge the order on all scans, and write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--ct-checkpoint", help="one that did not learn from the four CTs; without it they are left out"
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="a folder that keeps each scan's numbers per slice")
    asked = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    predictors: dict[str, Predictor] = {}
    rows: list[dict[str, Any]] = []
    for scan in scans_in(asked.data, asked.ct_checkpoint):
        slices = kept(scan, asked.cache, predictors)
        shares, worse = judged(slices, rng)
        rows.append(
            {
                "scan": scan.name,
                "group": group_of(scan),
                "checkpoint": scan.checkpoint,
                "organ": scan.organ,
                "slices": len(slices.wrong),
                "wrong_voxels": int(slices.wrong.sum()),
                "shares": shares,
                "random_orders_that_are_worse": worse,
                "gains": {name: gains(shares, name) for name in (*slices.orders(), "every k-th", "in order")},
                "areas": areas(slices, np.random.default_rng(0)),
            }
        )
        print(f"{scan.name}: {rows[-1]['gains'][SHIPPED]:.2f}", file=sys.stderr)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    print(table(groups), end="\n\n")
    names = list(rows[0]["gains"])
    mean_gains = {
        group: {name: float(np.mean([row["gains"][name] for row in of])) for name in names}
        for group, of in groups.items()
    }
    print(f"| gain over chance | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", sep="\n")
    for group, gains in mean_gains.items():
        print(f"| {group} | {' | '.join(f'{gains[name]:.2f}' for name in names)} |")
    columns = ("in order", "random", "mean", SHIPPED, "by the true errors")
    print(
        f"\n| area under the curve of Dice gained | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        sep="\n",
    )
    for group, of in groups.items():
        mean_areas = (np.mean([row["areas"][name] for row in of]) for name in columns)
        print(f"| {group} | {' | '.join(f'{area:.2f}' for area in mean_areas)} |")
    print()
    for group, of in groups.items():
        least = 100 * min(row["random_orders_that_are_worse"] for row in of)
        print(f"{group}: better than {least:.1f} % of random orders{' at least' * (len(of) > 1)}.")
    result = {"draws": DRAWS, "gains": mean_gains, "scans": rows}
    asked.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
