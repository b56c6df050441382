"""Values judged from a sample: what is shown black and white."""

import numpy as np
import pytest

from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.intensity import as_float32, display_window, sampled
from napari_transunet.volumes.volume import Source, Volume


def _volume(modality: str | None, low: int, high: int) -> Volume:
    data = np.random.default_rng(0).integers(low, high, (5, 8, 10)).astype(np.int16)
    return Volume(data, Geometry(data.shape, (2.5, 0.7, 0.75)), modality, Source(None, "NIfTI", "scan"))


@pytest.mark.parametrize("modality", ["CT", None])
def test_ct_gets_the_abdominal_window(modality):
    assert display_window(_volume(modality, -1000, 1000)) == (-160.0, 240.0)


def test_mr_gets_percentiles_and_a_flat_volume_still_gets_limits():
    low, high = display_window(_volume("MR", 0, 1001))
    assert 0 <= low < 30
    assert 970 < high <= 1000
    assert display_window(_volume("MR", 7, 8)) == (7.0, 8.0)


@pytest.mark.filterwarnings("error")
def test_numbers_that_float32_cannot_hold_are_infinite():
    data = np.array([[[1e300, -1e300, 3.5e38, 5.0, np.nan]]])
    np.testing.assert_array_equal(as_float32(data), [[[np.inf, -np.inf, np.inf, 5.0, np.nan]]])
    assert sampled(data).tolist() == [5.0]


def test_not_finite_voxels_do_not_spoil_the_limits():
    volume = _volume("MR", 0, 1001)
    data = volume.data.astype(np.float32)
    data[0], data[1, 0, 0] = np.nan, np.inf
    low, high = display_window(Volume(data, volume.geometry, "MR", volume.source))
    assert np.isfinite([low, high]).all()
    assert high <= 1000
