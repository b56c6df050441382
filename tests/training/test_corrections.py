"""Labels of a file as what somebody vouches for; `adapt` on the command line tests more of it."""

from dataclasses import replace

import numpy as np
import pytest

from napari_transunet.checkpoints.card import default_card
from napari_transunet.errors import InputError
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.corrections import Correction
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct


def test_labels_of_a_file_are_taken_by_their_names_and_turned_onto_the_scan():
    volume = synthetic_ct((8, 10, 12))[0]
    card = default_card(TransUNet("testing", num_classes=3, img_size=32), labels={1: "spleen", 2: "liver"})
    drawn = np.zeros(volume.data.shape, np.uint8)
    drawn[1, 2:5, 3:9], drawn[2, 2:5, :4] = 4, 9
    file = replace(
        volume,
        data=drawn[:, :, ::-1],
        geometry=volume.geometry.reoriented((0, 1, 2), (False, False, True)),
        labels=LabelSet.from_names({4: "Liver", 9: "cyst"}),
    )
    told: list[str] = []
    one = Correction.of_file(volume, file, [1, 2], None, card, {3: "Cyst"}, noted=told.append)
    np.testing.assert_array_equal(one.labels, np.array([0, 0, 0, 0, 2, 0, 0, 0, 0, 3])[drawn])
    assert "4 as liver" in told[0]
    with pytest.raises(InputError, match="'cyst'"):
        Correction.of_file(volume, file, [1, 2], None, card)
    with pytest.raises(InputError, match="same grid"):
        Correction.of_file(synthetic_ct((8, 10, 14))[0], file, [1, 2], None, card)
