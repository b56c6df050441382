"""Summaries over cases against numbers worked out by hand."""

import math

import numpy as np
import pytest

from napari_transunet.metrics.segmentation_metrics import METRICS, absent_scores, evaluate, mean_scores
from napari_transunet.metrics.summary import (
    completed,
    infinite_of_labels,
    mean_of_labels,
    summarise,
    summary_of,
)

NAN, INF = math.nan, math.inf


def scores(dice, hd95=0.0, volume=1.0, reference=1.0):
    return {
        "dice": dice,
        "hd95": hd95,
        "asd": hd95 / 2,
        "nsd": dice,
        "volume_ml": volume,
        "reference_ml": reference,
        "volume_difference_ml": volume - reference,
    }


CASES = {
    "a": {1: scores(0.9, 2.0), 2: scores(0.5, 4.0, volume=3.0)},
    "b": {1: scores(0.6, 6.0, volume=0.5), 2: scores(0.0, INF, volume=0.0, reference=4.0)},
    "c": {1: scores(0.75, 4.0), 2: absent_scores()},
}


def test_each_label_has_mean_sample_sd_median_and_worst_case():
    one = summarise(CASES)[1]
    assert list(one) == list(METRICS)
    dice = one["dice"]
    assert (dice.count, dice.infinite) == (3, 0)
    assert dice.mean == pytest.approx(0.75)
    assert dice.sd == pytest.approx(0.15)  # sqrt((0.15² + 0.15² + 0) / 2)
    assert (dice.median, dice.worst, dice.worst_case) == (0.75, 0.6, "b")
    hd95 = one["hd95"]
    assert (hd95.mean, hd95.sd, hd95.median, hd95.worst, hd95.worst_case) == (4.0, 2.0, 4.0, 6.0, "b")


def test_infinite_distances_are_counted_beside_the_mean_of_the_finite_ones():
    hd95 = summarise(CASES)[2]["hd95"]
    assert (hd95.count, hd95.infinite, hd95.mean) == (2, 1, 4.0)
    assert math.isnan(hd95.sd)
    assert (hd95.median, hd95.worst, hd95.worst_case) == (INF, INF, "b")

    only_infinite = summary_of("hd95", {"a": INF, "b": INF})
    assert (only_infinite.count, only_infinite.infinite, only_infinite.median) == (2, 2, INF)
    assert math.isnan(only_infinite.mean)


def test_a_case_in_which_neither_volume_has_the_label_counts_for_nothing():
    two = summarise(CASES)[2]
    assert {two[metric].count for metric in METRICS} == {2}
    assert two["dice"].mean == 0.25
    assert two["reference_ml"].mean == 2.5
    assert two["volume_difference_ml"].mean == -1.0
    assert (two["volume_difference_ml"].worst, two["volume_difference_ml"].worst_case) == (-4.0, "b")


def test_a_volume_is_neither_good_nor_bad():
    volume = summarise(CASES)[1]["volume_ml"]
    assert math.isnan(volume.worst)
    assert volume.worst_case is None


def test_the_first_of_several_worst_cases_is_named():
    assert summary_of("dice", {"b": 0.5, "a": 0.5, "c": 0.7}).worst_case == "b"
    assert summary_of("hd95", {"b": 1.0, "a": 3.0, "c": 3.0}).worst_case == "a"


def test_nothing_known_is_nan():
    summary = summary_of("dice", {"a": NAN})
    assert (summary.count, summary.infinite, summary.worst_case) == (0, 0, None)
    assert all(math.isnan(value) for value in (summary.mean, summary.sd, summary.median, summary.worst))


def test_every_label_weighs_the_same_in_the_mean():
    summaries = summarise(CASES)
    means = mean_of_labels(summaries)
    assert means["dice"] == pytest.approx((0.75 + 0.25) / 2)
    assert means["hd95"] == pytest.approx((4.0 + 4.0) / 2)
    assert infinite_of_labels(summaries) == {"dice": 0, "hd95": 1, "asd": 1, "nsd": 0}
    assert all(math.isnan(value) for value in mean_of_labels({}).values())

    nowhere = summarise({"a": {1: scores(0.5), 9: absent_scores()}})
    assert mean_of_labels(nowhere)["dice"] == 0.5


def test_completed_cases_have_every_label_of_the_cohort():
    cases = completed({"a": {3: scores(0.5)}, "b": {1: scores(0.25)}})
    assert [list(of) for of in cases.values()] == [[1, 3], [1, 3]]
    assert math.isnan(cases["a"][1]["dice"])
    assert summarise(cases)[3]["dice"].count == 1
    assert mean_scores(cases["a"])["dice"] == 0.5


def test_published_scoring_counts_a_label_that_a_case_lacks_as_zero():
    rng = np.random.default_rng(0)
    with_both, with_one = rng.integers(0, 3, (3, 4, 5)), rng.integers(0, 2, (3, 4, 5))
    cases = completed(
        {
            "a": evaluate(with_both, with_both, published_scoring=True),
            "b": evaluate(with_one, with_one, published_scoring=True),
        },
        published_scoring=True,
    )
    summaries = summarise(cases)
    assert summaries[2]["dice"].mean == 0.5  # 1 in a, 0 in b
    assert summaries[2]["volume_ml"].count == 1
    assert mean_of_labels(summaries)["dice"] == 0.75
    assert math.isnan(mean_of_labels(summaries)["nsd"])
