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
    elsewhere = replace(file, geometry=replace(file.geometry, spacing=(2.0, 2.0, 2.0)))
    with pytest.raises(InputError, match="same grid"):
        Correction.of_file(volume, elsewhere, [1, 2], None, card, {3: "Cyst"})


def cut_from(volume, data, box, *, omits=False):
    """Labels on a part of a volume's grid."""
    start = [one.start for one in box]
    origin = (volume.geometry.affine_lps @ [*start[::-1], 1.0])[:3].tolist()
    geometry = replace(volume.geometry, shape=data[box].shape, origin=tuple(origin))
    source = replace(volume.source, omits_background=omits)
    return replace(volume, data=data[box], geometry=geometry, labels=None, source=source)


def test_of_labels_on_a_part_of_the_scan_the_rest_is_background_or_unknown_as_their_format_has_it():
    volume = synthetic_ct((8, 10, 12))[0]
    volume = replace(volume, geometry=replace(volume.geometry, origin=(40.0, 50.0, 60.0)))
    card = default_card(TransUNet("testing", num_classes=3, img_size=32), labels={1: "spleen", 2: "liver"})
    drawn = np.zeros(volume.data.shape, np.uint8)
    drawn[3:5, 2:5, 3:9] = 2
    box = np.s_[2:6, 0:10, 1:12]
    told: list[str] = []
    one = Correction.of_file(
        volume, cut_from(volume, drawn, box, omits=True), None, None, card, noted=told.append
    )
    np.testing.assert_array_equal(one.labels, drawn)
    assert list(one.slices) == list(range(8))
    assert "slices 2 to 5 of 0 to 7 along z" in told[0]
    assert "background" in told[0]
    part = cut_from(volume, drawn, box)
    one = Correction.of_file(volume, part, None, None, card, noted=told.append)
    outside = np.ones(drawn.shape, bool)
    outside[box] = False
    np.testing.assert_array_equal(one.labels, np.where(outside, 255, drawn))
    assert list(one.slices) == [2, 3, 4, 5]
    assert "unknown" in told[1]
    with pytest.raises(InputError, match="does not reach the slice 7"):
        Correction.of_file(volume, part, [3, 7], None, card)
    with pytest.raises(InputError, match="255"):
        Correction.of_file(volume, part, [3], None, card, {255: "cyst"})
    drawn[7, 0, 0] = 1
    lower = cut_from(
        volume, drawn, np.s_[3:8, 0:10, 0:12]
    ).geometry.origin  # slice 7 lies beyond the scan then
    beyond = replace(part, data=drawn, geometry=replace(volume.geometry, origin=lower))
    with pytest.raises(InputError, match="1 labelled voxels lie outside"):
        Correction.of_file(volume, beyond, [3], None, card)
