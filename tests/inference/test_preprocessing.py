"""Windows, percentiles, and what becomes of numbers that are none."""

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.errors import InputError
from napari_transunet.inference.preprocessing import PAPER_SCALING, percentile_scaling, scaling_for

NETWORK = {"variant": "R50-ViT-Ti_16", "num_classes": 3, "img_size": 64}
RANDOM = np.random.default_rng(3)


def test_ct_is_clipped_to_the_published_window() -> None:
    scaling = scaling_for(ModelCard(**NETWORK), np.zeros((2, 2, 2)))
    assert scaling == PAPER_SCALING
    values = torch.tensor([-1000, -125, 75, 275, 3000], dtype=torch.int16)
    torch.testing.assert_close(scaling.apply(values), torch.tensor([0, 0, 0.5, 1, 1]))


def test_the_card_may_give_another_window() -> None:
    scaling = scaling_for(ModelCard(**NETWORK, window=(-1000, 400)), np.zeros((2, 2, 2)))
    assert (scaling.low, scaling.high) == (-1000, 400)


def test_other_modalities_go_by_percentiles() -> None:
    data = RANDOM.gamma(2, 300, (20, 50, 60))
    scaling = scaling_for(ModelCard(**NETWORK, modality="MR", percentiles=(1, 99)), data)
    np.testing.assert_allclose((scaling.low, scaling.high), np.percentile(data, (1, 99)), rtol=1e-5)


def test_percentiles_of_a_large_volume_are_sampled() -> None:
    data = RANDOM.gamma(2, 300, (160, 160, 160)).astype(np.float32)
    scaling = percentile_scaling(data, 0.5, 99.5)
    np.testing.assert_allclose((scaling.low, scaling.high), np.percentile(data, (0.5, 99.5)), rtol=0.02)
    assert scaling == percentile_scaling(data, 0.5, 99.5)


def test_numbers_that_are_none_count_as_background() -> None:
    data = RANDOM.random((4, 5, 6)).astype(np.float32)
    clean = percentile_scaling(data, 0, 100)
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    scaling = percentile_scaling(data, 0, 100)
    assert np.isfinite((scaling.low, scaling.high)).all()
    torch.testing.assert_close(
        clean.apply(torch.tensor([np.nan, np.inf, -np.inf])), torch.tensor([0.0, 1.0, 0.0])
    )


@pytest.mark.filterwarnings("error")
def test_numbers_that_float32_cannot_hold_are_none() -> None:
    data = RANDOM.random((4, 5, 6))
    clean = percentile_scaling(data, 0, 100)
    data[0, 0, :2] = 1e300, -3.5e38
    scaling = percentile_scaling(data, 0, 100)
    assert abs(scaling.low - clean.low) < 0.1
    assert abs(scaling.high - clean.high) < 0.1


def test_a_volume_of_one_value_becomes_zero() -> None:
    scaling = percentile_scaling(np.full((3, 4, 5), 7), 0.5, 99.5)
    assert not scaling.apply(torch.full((4, 5), 7)).any()


def test_a_volume_without_a_number_is_refused() -> None:
    with pytest.raises(InputError, match="no finite number"):
        percentile_scaling(np.full((3, 4, 5), np.nan), 0.5, 99.5)
