"""One rule for what counts as a label value: in writing, training and scoring."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.io.reading import read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.metrics.segmentation_metrics import evaluate
from napari_transunet.training.datasets import whole_labels
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.label_values import as_labels, values_in, whole_number, whole_numbers

SHAPE = (2, 3, 4)


USES: list[Callable[[np.ndarray], Any]] = [
    as_labels,
    whole_numbers,
    lambda labels: whole_labels(labels, "case"),
    lambda labels: evaluate(labels, labels),
]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("value", [0.9999999, 1.0000001, 1.0009, 0.9991])
def test_what_resampling_makes_of_a_label_is_that_label(use: Callable[..., Any], value: float) -> None:
    found = use(np.full(SHAPE, value, np.float64))
    if isinstance(found, dict):
        assert list(found) == [1]
    else:
        assert found.dtype.kind in "iu"
        assert (found == 1).all()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("value", [0.5, 1.002, np.nan, np.inf, 1e20])
def test_other_fractions_are_refused_everywhere(use: Callable[..., Any], value: float) -> None:
    labels = np.zeros(SHAPE)
    labels[1, 2, 3] = value
    with pytest.raises(TransUNetError, match="whole numbers"):
        use(labels)


def test_the_smaller_type_that_holds_them() -> None:
    assert as_labels(np.full(SHAPE, True)).dtype == np.uint8
    assert as_labels(np.full(SHAPE, -1e-7)).dtype == np.uint8
    assert as_labels(np.full(SHAPE, 299.9999)).dtype == np.uint16
    for wrong in (np.full(SHAPE, -1), np.full(SHAPE, 65536.0)):
        with pytest.raises(TransUNetError, match="65535"):
            as_labels(wrong)


def test_float_labels_are_written_as_whole_ones(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.float32)
    labels[0] = 0.9999999
    path = write_labels(tmp_path / "a.nii.gz", labels, Geometry.default(SHAPE))
    assert read_volume(path).data[0].tolist() == np.ones(SHAPE[1:]).tolist()


def test_arrays_of_any_number_of_axes() -> None:
    assert whole_numbers(np.array([0.0, 2.9999])).tolist() == [0, 3]
    assert as_labels(np.full((2, 2, 2, 2), 7.0)).dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_values_are_found_once_each_and_without_background(dtype):
    labels = np.zeros((3, 4, 5), dtype)
    labels[0, 1, 2], labels[2, :2] = 200, 7
    assert values_in(labels) == [7, 200]
    assert values_in(np.zeros((2, 2, 2), dtype)) == []


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_negative_values_are_found_as_they_are(dtype):
    labels = np.zeros((3, 4, 5), dtype)
    labels[0, 1, 2], labels[2, :2] = -3, 7
    assert values_in(labels) == [-3, 7]


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.uint64(3), np.float32(3), np.array(3)])
def test_a_number_of_any_type_is_taken_as_it_is(value: Any) -> None:
    found = whole_number(value, "It")
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    "value", [3.5, "3", b"3", True, np.True_, np.array(True), None, [3], math.nan, math.inf, 3j]
)
def test_what_is_no_number_is_not_made_one(value: Any) -> None:
    with pytest.raises(InputError, match="It must be a whole number"):
        whole_number(value, "It")
