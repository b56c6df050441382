"""Scores of many scans summed up: label by label over the cases, then over the labels.

Distances can be infinite: a label that one of the two volumes lacks has no surface to measure to. One such case would
make every mean infinite and hide the others, and to leave it out unsaid would flatter the result. So the mean and the
standard deviation are those of the finite values, and the number of infinite ones always stands beside them. The
median and the worst case need only an order, and take all values.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from napari_transunet.metrics.segmentation_metrics import AGREEMENT, METRICS, absent_scores

LabelScores = Mapping[int, Mapping[str, float]]
"""What `evaluate` returns: label to metric to value."""

# How bad a value is; metrics that are not here know no better and worse.
_BADNESS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "dice": lambda value: -value,
        "nsd": lambda value: -value,
        "hd95": lambda value: value,
        "asd": lambda value: value,
        "volume_difference_ml": abs,
    }
)


@dataclass(frozen=True)
class Summary:
    """One metric of one label over the cases, in the unit of the metric.

    Attributes
    ----------
    count : cases that have a value (no NaN), those with an infinite one included.
    infinite : how many of these are infinite.
    mean : of the finite values; NaN where there is none.
    sd : their sample standard deviation (divided by n - 1); NaN for fewer than two.
    median : of all values, infinite ones included; NaN where there is none.
    worst : the worst value of all; NaN where there is none, and for volumes, which are neither good nor bad.
    worst_case : the case that has it, the first of several.
    """

    count: int
    infinite: int
    mean: float
    sd: float
    median: float
    worst: float
    worst_case: str | None


def completed(cases: Mapping[str, LabelScores], *, published_scoring: bool = False) -> dict[str, LabelScores]:
    """The cases with the same labels in each, ascending: those of all cases together.

    A label that was not scored in a case was in neither of its volumes, and gets what `evaluate` says of such labels.
    """
    labels = sorted({label for scores in cases.values() for label in scores})
    absent = absent_scores(published_scoring=published_scoring)
    return {case: {label: scores.get(label, absent) for label in labels} for case, scores in cases.items()}


def summarise(cases: Mapping[str, LabelScores]) -> dict[int, dict[str, Summary]]:
    """Each label's metrics over the cases: label to metric (all of `METRICS`) to its summary.

    `cases` maps a case's name to what `evaluate` returned for it. NaN is left out. Volumes are left out where neither
    volume of a case holds the label: a scan that does not show an organ says nothing about its size.
    """
    labels = sorted({label for scores in cases.values() for label in scores})
    return {
        label: {
            metric: summary_of(
                metric,
                {
                    case: scores[label][metric]
                    for case, scores in cases.items()
                    if label in scores and (metric in AGREEMENT or _occurs(scores[label]))
                },
            )
            for metric in METRICS
        }
        for label in labels
    }


def summary_of(metric: str, values: Mapping[str, float]) -> Summary:
    """The summary of one metric's values by case; NaN is left out."""
    known = {case: value for case, value in values.items() if not math.isnan(value)}
    finite = [value for value in known.values() if math.isfinite(value)]
    badness = _BADNESS.get(metric)
    worst = max(known, key=lambda case: badness(known[case])) if known and badness else None
    return Summary(
        count=len(known),
        infinite=len(known) - len(finite),
        mean=statistics.fmean(finite) if finite else math.nan,
        sd=statistics.stdev(finite) if len(finite) > 1 else math.nan,
        median=statistics.median(known.values()) if known else math.nan,
        worst=known[worst] if worst is not None else math.nan,
        worst_case=worst,
    )


def mean_of_labels(summaries: Mapping[int, Mapping[str, Summary]]) -> dict[str, float]:
    """The mean over labels of the labels' means, for `dice`, `hd95`, `asd` and `nsd`.

    Every label weighs the same, however many cases hold it. Labels whose mean is NaN are left out; a metric that no
    label has is NaN.
    """
    means = {}
    for metric in AGREEMENT:
        of_labels = [of[metric].mean for of in summaries.values() if not math.isnan(of[metric].mean)]
        means[metric] = statistics.fmean(of_labels) if of_labels else math.nan
    return means


def infinite_of_labels(summaries: Mapping[int, Mapping[str, Summary]]) -> dict[str, int]:
    """How many values, over labels and cases, are infinite and so outside of `mean_of_labels`."""
    return {metric: sum(of[metric].infinite for of in summaries.values()) for metric in AGREEMENT}


def _occurs(scores: Mapping[str, float]) -> bool:
    return scores["volume_ml"] > 0 or scores["reference_ml"] > 0
