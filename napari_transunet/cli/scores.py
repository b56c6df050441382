"""Scores as tables, CSV and JSON."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from napari_transunet.cli.printing import number
from napari_transunet.cli.reporting import one_line
from napari_transunet.metrics.label_pairs import LabelPair
from napari_transunet.metrics.segmentation_metrics import METRICS, mean_scores
from napari_transunet.metrics.summary import (
    LabelScores,
    Summary,
    infinite_of_labels,
    mean_of_labels,
)

ScoredCase = tuple[str | None, LabelScores, Mapping[int, LabelPair]]
"""Its name, its scores, and which labels were compared."""

_WITHOUT_MEAN = ("volume_ml", "reference_ml")
"""Not in the table over cases, where the differences say it; JSON has them."""

_COMPARED = ("prediction_labels", "reference_label", "matched_by")
_TOLD = 3
"""Different pairs of one label that a table over cases tells."""


def named(
    scores: LabelScores, names: Mapping[int, str], pairs: Mapping[int, LabelPair]
) -> dict[str, dict[str, Any]]:
    """One case's scores for JSON, and which labels of the two files they are of."""
    return {
        str(label): {"name": names.get(label), **of, **_compared(label, pairs)}
        for label, of in scores.items()
    }


def _compared(label: int, pairs: Mapping[int, LabelPair]) -> dict[str, Any]:
    pair = pairs.get(label)
    return {
        "prediction_labels": list(pair.prediction) if pair else [],
        "reference_label": pair.reference if pair else None,
        "matched_by": pair.by if pair else None,
    }


def case_table(
    scores: LabelScores, names: Mapping[int, str], shown: Mapping[str, str], pairs: Mapping[int, LabelPair]
) -> Table:
    """One case: a row per label, and their means; where two labels differ in number or name, also which they are."""
    told = {label: _told([pairs[label]]) for label in scores if label in pairs}
    table = Table("Label", "Name", *(["Compared"] if any(told.values()) else []))
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for label, of in scores.items():
        compared = [Text(told.get(label, ""))] if any(told.values()) else []
        table.add_row(str(label), _name(label, names), *compared, *(number(of[metric]) for metric in shown))
    means = mean_scores(scores)
    table.add_section()
    blank = [""] if any(told.values()) else []
    table.add_row("", "mean", *blank, *(number(means[metric]) for metric in shown if metric in means))
    return table


def cohort_table(
    summaries: Mapping[int, Mapping[str, Summary]],
    names: Mapping[int, str],
    shown: Mapping[str, str],
    pairs: Mapping[int, Sequence[LabelPair]],
) -> Table:
    """Many cases: for each label a row per metric, and the means over labels.

    `pairs` are those of each label in the cases; where two labels differ in number or name, it is said below the name.
    """
    table = Table("Label", "Name", "Score")
    for heading in ("Cases", "Mean ± SD", "Median", "Worst"):
        table.add_column(heading, justify="right")
    table.add_column("Worst case", overflow="fold")
    for label, of in summaries.items():
        table.add_section()
        rows = [metric for metric in shown if metric not in _WITHOUT_MEAN]
        for metric in rows:
            summary = of[metric]
            told = _told(pairs.get(label, []))
            beside = {rows[0]: (str(label), _name(label, names)), rows[1]: ("", Text(told))}
            table.add_row(
                *beside.get(metric, ("", "")),
                shown[metric],
                str(summary.count),
                _mean(summary),
                number(summary.median),
                number(summary.worst),
                Text(one_line(summary.worst_case or "–")),
            )
    table.add_section()
    means, infinite = mean_of_labels(summaries), infinite_of_labels(summaries)
    for metric in shown:
        if metric in means:
            first = ("", "mean") if metric == "dice" else ("", "")
            table.add_row(*first, shown[metric], "", _with_infinite(number(means[metric]), infinite[metric]))
    return table


def summaries_as_json(
    summaries: Mapping[int, Mapping[str, Summary]], names: Mapping[int, str]
) -> dict[str, Any]:
    """`summary` by label, `mean` over labels, and how many values were infinite and so are not in it."""
    return {
        "summary": {
            str(label): {"name": names.get(label), **{metric: asdict(one) for metric, one in of.items()}}
            for label, of in summaries.items()
        },
        "mean": mean_of_labels(summaries),
        "infinite": infinite_of_labels(summaries),
    }


def write_csv(
    path: Path,
    cases: Iterable[ScoredCase],
    names: Mapping[int, str],
    *,
    published_scoring: bool,
    overwrite: bool,
) -> None:
    """A row per case and label; no column for the case where it has no name. The last columns say what was compared.

    A distance in voxels is called `hd95_voxels`, so that nothing takes it for mm.
    """
    from napari_transunet.files import atomic_path, csv_cell

    cases = list(cases)
    with_case = any(case is not None for case, *_ in cases)
    columns = [f"{metric}_voxels" if published_scoring and metric == "hd95" else metric for metric in METRICS]
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([*(["case"] if with_case else []), "label", "name", *columns, *_COMPARED])
        for case, scores, pairs in cases:
            for label, of in scores.items():
                compared = _compared(label, pairs)
                compared["prediction_labels"] = "+".join(map(str, compared["prediction_labels"]))
                writer.writerow(
                    [
                        *([csv_cell(case)] if with_case else []),
                        label,
                        csv_cell(names.get(label, "")),
                        *(of[metric] for metric in METRICS),
                        *(compared[column] for column in _COMPARED),
                    ]
                )


def _told(pairs: Sequence[LabelPair]) -> str:
    """Which labels were compared, where that is not what their number and name say already; else nothing."""
    told = dict.fromkeys(
        str(pair) if pair.by is None else f"{pair}, by {pair.by}"
        for pair in pairs
        if pair.prediction != (pair.reference,)
        or pair.by == "map"
        or (pair.name is None) != (pair.reference_name is None)
    )
    more = f" and {len(told) - _TOLD} other pairs" if len(told) > _TOLD else ""
    return one_line("; ".join([*told][:_TOLD]) + more)


def _name(label: int, names: Mapping[int, str]) -> Text:
    return Text(one_line(names.get(label, "")))


def _mean(summary: Summary) -> str:
    if math.isnan(summary.mean):
        return _with_infinite("–", summary.infinite)
    spread = "" if math.isnan(summary.sd) else f" ± {summary.sd:.3f}"
    return _with_infinite(f"{summary.mean:.3f}{spread}", summary.infinite)


def _with_infinite(text: str, infinite: int) -> str:
    return f"{text}, ∞ ×{infinite}" if infinite else text
