"""The synthetic CT."""

import numpy as np
import pytest

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.phantom import synthetic_ct


def test_is_the_same_every_time_and_differs_by_seed() -> None:
    first, labels, _ = synthetic_ct((16, 48, 48), seed=3)
    again, _, _ = synthetic_ct((16, 48, 48), seed=3)
    other, _, _ = synthetic_ct((16, 48, 48), seed=4)
    np.testing.assert_array_equal(first.data, again.data)
    assert (first.data != other.data).any()
    assert labels.shape == first.data.shape == (16, 48, 48)


def test_looks_like_a_ct_of_the_abdomen() -> None:
    volume, labels, names = synthetic_ct()
    assert volume.data.dtype == np.int16
    assert volume.modality == "CT"
    assert volume.geometry.axis_codes == "LPS"
    by_name = {name: value for value, name in names.names.items()}
    assert set(np.unique(labels)) == {0, *names.names}
    assert -1024 <= volume.data.min() <= -900
    assert volume.data.max() > 300
    liver = volume.data[labels == by_name["liver"]]
    assert 90 < liver.mean() < 140
    assert 3 < liver.std() < 25
    middle_x = {name: np.nonzero(labels == value)[2].mean() for name, value in by_name.items()}
    centre = labels.shape[2] / 2
    assert middle_x["liver"] < centre < middle_x["spleen"]  # x grows to the patient's left
    assert middle_x["kidney right"] < centre < middle_x["kidney left"]
    assert middle_x["inferior vena cava"] < middle_x["aorta"]


def test_refuses_tiny_shapes() -> None:
    with pytest.raises(VolumeError, match="at least 8"):
        synthetic_ct((4, 64, 64))
