"""Scores against brute force: surfaces and distances found voxel by voxel, without any library."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_transunet.errors import InputError
from napari_transunet.metrics.segmentation_metrics import METRICS, absent_scores, evaluate, mean_scores


def surface_points(mask, spacing):
    """Centres in mm of the voxels of `mask` that have a face neighbour outside of it or of the array.

    In an image of one slice, these are the pixels of the outline.
    """
    points = []
    single = [axis for axis in range(3) if mask.shape[axis] == 1]
    axes = [axis for axis in range(3) if single != [axis]]
    for index in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(axes, (-1, 1)):
            neighbour = list(index)
            neighbour[axis] += step
            inside = 0 <= neighbour[axis] < mask.shape[axis]
            if not inside or not mask[tuple(neighbour)]:
                points.append([i * size for i, size in zip(index, spacing, strict=True)])
                break
    return np.array(points)


def brute_force(mask, reference, spacing, tolerance):
    a, b = surface_points(mask, spacing), surface_points(reference, spacing)
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    forth, back = distances.min(axis=1), distances.min(axis=0)
    both = np.concatenate([forth, back])
    return {
        "dice": 2 * (mask & reference).sum() / (mask.sum() + reference.sum()),
        "hd95": max(np.percentile(forth, 95), np.percentile(back, 95)),
        "asd": both.mean(),
        "nsd": (both <= tolerance + 1e-5).mean(),
    }


def ball(shape, centre, radii):
    grid = np.indices(shape)
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5.0, 0.7, 0.7), (0.8, 2.5, 1.3)])
def test_shifted_balls_match_brute_force_on_anisotropic_voxels(spacing):
    first, second = ball((14, 16, 18), (6, 8, 9), (4, 5, 6)), ball((14, 16, 18), (8, 7, 10), (3, 6, 5))

    scores = evaluate(first.astype(np.uint8), second.astype(np.uint8), spacing=spacing, tolerance_mm=1.5)

    expected = brute_force(first, second, spacing, 1.5)
    for metric, value in expected.items():
        assert scores[1][metric] == pytest.approx(value, rel=1e-5, abs=1e-6), metric


@settings(max_examples=60)
@given(
    masks=st.sampled_from([(4, 5, 3), (1, 6, 7), (6, 1, 5), (6, 7, 1), (1, 1, 8)]).flatmap(
        lambda shape: arrays(np.bool_, (2, *shape))
    ),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 5.0])] * 3),
    tolerance=st.sampled_from([0.0, 0.75, 1.1, 2.6]),
)
def test_any_small_masks_match_brute_force(masks, spacing, tolerance):
    first, second = masks
    scores = evaluate(first, second, spacing=spacing, labels_to_score=[1], tolerance_mm=tolerance)[1]
    if first.any() and second.any():
        for metric, value in brute_force(first, second, spacing, tolerance).items():
            assert scores[metric] == pytest.approx(value, rel=1e-5, abs=1e-6), metric
    else:
        assert math.isnan(scores["dice"]) == (not first.any() and not second.any())


def published_brute_force(mask, reference):
    """`calculate_metric_percase` of the published code, with medpy's two functions found by brute force."""
    if mask.any() and reference.any():
        a, b = surface_points(mask, (1, 1, 1)), surface_points(reference, (1, 1, 1))
        distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
        both = np.hstack([distances.min(axis=1), distances.min(axis=0)])
        return 2 * (mask & reference).sum() / (mask.sum() + reference.sum()), np.percentile(both, 95)
    return (1, 0) if mask.any() else (0, 0)


@settings(max_examples=60)
@given(masks=st.tuples(*[st.one_of(arrays(np.bool_, (4, 5, 3)), st.just(np.zeros((4, 5, 3), np.bool_)))] * 2))
def test_published_scoring_matches_brute_force_in_voxels(masks):
    first, second = masks
    scores = evaluate(first, second, spacing=(5.0, 0.7, 0.7), labels_to_score=[1], published_scoring=True)[1]
    dice, hd95 = published_brute_force(first, second)
    assert scores["dice"] == pytest.approx(dice)
    assert scores["hd95"] == pytest.approx(hd95, rel=1e-5, abs=1e-6)
    assert math.isnan(scores["asd"])
    assert math.isnan(scores["nsd"])
    assert scores["reference_ml"] == pytest.approx(second.sum() * 5.0 * 0.7 * 0.7 / 1000)


def test_published_hd95_takes_both_directions_together():
    # One voxel against a row of 20: distances forth 0, back 0 to 19. The greater 95th percentile is 18.05; taken
    # together, the 95th percentile of 0, 0, 1, ... 19 lies at rank 19 of 0 to 20.
    labels, reference = np.zeros((1, 1, 24), np.uint8), np.zeros((1, 1, 24), np.uint8)
    labels[0, 0, 0] = 1
    reference[0, 0, :20] = 1
    assert evaluate(labels, reference)[1]["hd95"] == pytest.approx(18.05)
    assert evaluate(labels, reference, published_scoring=True)[1]["hd95"] == pytest.approx(18.0)


@pytest.mark.parametrize(
    ("predicted", "expected", "dice"), [(True, False, 1.0), (False, True, 0.0), (False, False, 0.0)]
)
def test_published_scoring_of_an_absent_label(predicted, expected, dice):
    labels, reference = np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0], reference[2, 2, 2] = predicted, expected
    scores = evaluate(labels, reference, labels_to_score=[1], published_scoring=True)[1]
    assert (scores["dice"], scores["hd95"]) == (dice, 0.0)


@pytest.mark.parametrize("published", [False, True])
def test_absent_scores_are_those_of_a_label_in_neither_volume(published):
    nothing = np.zeros((3, 3, 3), np.uint8)
    scores = evaluate(nothing, nothing, spacing=(2, 1, 1), labels_to_score=[4], published_scoring=published)[
        4
    ]
    np.testing.assert_equal(absent_scores(published_scoring=published), scores)


@pytest.mark.slow  # takes seconds to import
@pytest.mark.filterwarnings("ignore:monai:FutureWarning")
def test_monai_s_own_metrics_agree_where_the_surface_is_one_definition():
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    first, second = ball((20, 20, 20), (9, 9, 9), (6, 7, 5)), ball((20, 20, 20), (10, 11, 9), (6, 5, 6))
    spacing = (3.0, 0.9, 1.1)
    one, two = (torch.from_numpy(mask[None, None]) for mask in (first, second))

    ours = evaluate(first, second, spacing=spacing, tolerance_mm=2.0)[1]

    assert ours["dice"] == pytest.approx(compute_dice(one, two).item())
    assert ours["hd95"] == pytest.approx(
        compute_hausdorff_distance(one, two, include_background=True, percentile=95, spacing=spacing).item(),
        rel=1e-5,
    )
    assert ours["asd"] == pytest.approx(
        compute_average_surface_distance(
            one, two, include_background=True, symmetric=True, spacing=spacing
        ).item(),
        rel=1e-5,
    )
    assert ours["nsd"] == pytest.approx(
        compute_surface_dice(one, two, [2.0], include_background=True, spacing=spacing).item(), rel=1e-5
    )


def test_a_shift_along_z_is_told_in_mm_of_that_axis():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[4, 4, 4] = 1
    reference = np.roll(labels, 1, axis=0)

    scores = evaluate(labels, reference, spacing=(5.0, 0.7, 0.6))[1]

    assert scores["hd95"] == pytest.approx(5.0)
    assert scores["asd"] == pytest.approx(5.0)
    assert scores["dice"] == 0.0
    assert scores["volume_ml"] == pytest.approx(5.0 * 0.7 * 0.6 / 1000)


def test_a_label_equal_in_both_is_perfect_even_at_the_border():
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[:, :3] = 2

    scores = evaluate(labels, labels.copy(), spacing=(2, 1, 1), tolerance_mm=0)[2]

    assert (scores["dice"], scores["hd95"], scores["asd"], scores["nsd"]) == (1.0, 0.0, 0.0, 1.0)
    assert scores["volume_difference_ml"] == 0.0


def test_distance_of_exactly_the_tolerance_is_within_it():
    labels = np.zeros((1, 1, 8), np.uint8)
    labels[0, 0, 2] = 1
    scores = evaluate(labels, np.roll(labels, 3, axis=2), spacing=(1, 1, 0.7), tolerance_mm=2.1)
    assert scores[1]["nsd"] == 1.0


def test_the_inside_of_an_image_of_one_slice_is_no_surface():
    """A square of 21 pixels against one that is 3 pixels larger on each side: only outlines are 3 mm apart."""
    labels, reference = np.zeros((1, 40, 40), np.uint8), np.zeros((1, 40, 40), np.uint8)
    labels[0, 10:31, 10:31] = reference[0, 7:34, 7:34] = 1
    for axis in range(3):
        scores = evaluate(np.moveaxis(labels, 0, axis), np.moveaxis(reference, 0, axis))[1]
        assert scores["hd95"] == pytest.approx(math.hypot(3, 2))  # near the corners
        assert scores["nsd"] == 0.0


def test_absent_from_both_is_nan_and_absent_from_one_is_zero_and_infinite():
    labels = np.zeros((4, 4, 4), np.uint8)
    reference = labels.copy()
    labels[1, 1, 1] = 1
    reference[2, 2, 2] = 2

    scores = evaluate(labels, reference, labels_to_score=[3, 1, 2])

    assert list(scores) == [1, 2, 3]
    for label in (1, 2):
        assert (scores[label]["dice"], scores[label]["nsd"]) == (0.0, 0.0)
        assert scores[label]["hd95"] == scores[label]["asd"] == math.inf
    assert all(math.isnan(scores[3][metric]) for metric in ("dice", "hd95", "asd", "nsd"))
    assert (scores[3]["volume_ml"], scores[3]["reference_ml"]) == (0.0, 0.0)
    assert scores[1]["volume_difference_ml"] == -scores[2]["volume_difference_ml"] == pytest.approx(0.001)
    assert all(tuple(score) == METRICS for score in scores.values())


def test_labels_are_found_in_both_volumes_and_background_is_no_label():
    labels = np.array([[[0, 1, 0]]], np.int16)
    reference = np.array([[[0, 0, 700]]], np.uint16)
    assert list(evaluate(labels, reference)) == [1, 700]
    assert evaluate(np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int)) == {}


def test_mean_leaves_absent_labels_out_and_keeps_infinity():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0] = 1
    reference = labels.copy()
    scores = evaluate(labels, reference, labels_to_score=[1, 5])
    assert mean_scores(scores) == {"dice": 1.0, "hd95": 0.0, "asd": 0.0, "nsd": 1.0}

    labels[3] = 2
    means = mean_scores(evaluate(labels, reference))
    assert means["dice"] == 0.5
    assert means["hd95"] == math.inf
    assert all(math.isnan(value) for value in mean_scores({}).values())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": np.zeros((2, 3, 4), int)}, r"shape \(2, 3, 4\) and the reference \(3, 3, 3\)"),
        ({"labels": np.zeros((3, 3), int)}, r"\(z, y, x\) volume"),
        ({"labels": np.full((3, 3, 3), 0.5)}, "whole numbers"),
        ({"labels": np.full((3, 3, 3), np.nan)}, "whole numbers"),
        ({"labels": np.full((3, 3, 3), "liver")}, "whole numbers"),
        ({"spacing": (1, 1)}, "three positive numbers"),
        ({"spacing": (1, 0, 1)}, "three positive numbers"),
        ({"spacing": (1, math.inf, 1)}, "three positive numbers"),
        ({"tolerance_mm": -1}, "tolerance"),
        ({"labels_to_score": [1.5]}, "whole number"),
        ({"labels_to_score": np.array([False, True])}, "whole number"),
        ({"match": {1.5: 1}}, "whole number"),
        ({"tolerance_mm": math.nan}, "tolerance"),
    ],
)
def test_bad_input_is_told_in_a_sentence(changes, sentence):
    arguments = {"labels": np.zeros((3, 3, 3), int), "reference": np.zeros((3, 3, 3), int)} | changes
    with pytest.raises(InputError, match=sentence):
        evaluate(**arguments)
