"""Slices along all three axes, their probabilities averaged."""

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.errors import InputError
from napari_transunet.inference.prediction import PredictionCancelled
from napari_transunet.inference.predictor import Predictor
from napari_transunet.inference.resize import make_resize
from napari_transunet.model.transunet import TransUNet
from napari_transunet.volumes.geometry import Geometry
from tests.inference.test_predictor import Array, ct, on_cpu, volume

SHAPE = (18, 30, 24)
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))


def in_three_planes(net: TransUNet, **fields: object) -> Predictor:
    return on_cpu(net, card=default_card(net, planes=3, **fields))


@torch.inference_mode()
def summed_probabilities(net: TransUNet, data: Array) -> Array:
    """(classes, z, y, x), by moving axes and running the network on each slice alone."""
    scaled = (torch.from_numpy(data).float().clamp(-125, 275) + 125) / 400
    total = np.zeros((net.num_classes, *data.shape))
    for axis in range(3):
        slices = scaled.movedim(axis, 0)
        resize = make_resize("squash", (1, 1), (slices.shape[1], slices.shape[2]), net.img_size)
        logits = net(resize.forward(slices)[:, None])
        shares = resize.inverse(logits).softmax(1).numpy()
        total += np.moveaxis(shares.swapaxes(0, 1), 1, axis + 1)
    return total


def test_probabilities_of_all_planes_decide(small: TransUNet) -> None:
    data = ct(SHAPE)
    labels = in_three_planes(small).predict(volume(data))
    expected = summed_probabilities(small, data)
    assert len(np.unique(labels)) > 2
    best, second = np.sort(expected, axis=0)[[-1, -2]]
    differs = labels != expected.argmax(0)
    assert differs.mean() < 0.01
    assert (best - second)[differs].max() < 5e-3  # sums of three are kept in half precision
    assert (labels != on_cpu(small).predict(volume(data))).mean() > 0.01


def test_the_answer_turns_with_the_volume(small: TransUNet) -> None:
    data = ct(SHAPE)
    straight = Geometry(SHAPE, (2.0, 1.0, 1.0))
    turned = Geometry(SHAPE, (2.0, 1.0, 1.0), direction=FLIPPED)
    predictor = in_three_planes(small, orientation="LPS", context=3)
    there = predictor.predict(volume(data, straight))
    back = predictor.predict(volume(data[::-1, :, ::-1], turned))[::-1, :, ::-1]
    assert (there == back).mean() > 0.999


def test_other_planes_keep_the_spacing_that_is_asked_for(small: TransUNet) -> None:
    data = ct(SHAPE)
    fields = {"orientation": "LPS", "resize": "pad", "spacing": (1.0, 1.0, 1.0)}
    coarse = np.repeat(data[::3], 3, axis=0)
    fine = volume(coarse, Geometry(SHAPE, (1.0, 1.0, 1.0)))
    labels = in_three_planes(small, **fields).predict(fine)
    assert labels.shape == SHAPE


def test_slices_agree_with_the_whole(small: TransUNet) -> None:
    data = ct(SHAPE)
    predictor = in_three_planes(small)
    whole = predictor.predict(volume(data))
    order = []
    for index, plane in predictor.iter_slices(volume(data), first=4, slices=[2, 4, 9]):
        order.append(index)
        assert np.array_equal(plane, whole[index])
    assert order == [4, 2, 9]


def test_cancelling_acts_in_the_other_planes_too(small: TransUNet) -> None:
    asked = 0

    def after_two() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    with pytest.raises(PredictionCancelled, match="after 0 of 18"):
        on_cpu(small, card=default_card(small, planes=3), batch_size=2).predict(
            volume(ct(SHAPE)), cancelled=after_two
        )
    assert asked <= 6


def test_a_volume_whose_probabilities_do_not_fit_is_refused(
    small: TransUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_transunet.inference.batching.available_memory", lambda: 1000)
    with pytest.raises(InputError, match="three planes"):
        in_three_planes(small).predict(volume(ct(SHAPE)))


def test_the_papers_pipeline_has_one_plane(small: TransUNet) -> None:
    data = ct(SHAPE)
    card = default_card(small, planes=3)
    one, three = (on_cpu(small, card=c, pipeline="paper") for c in (default_card(small), card))
    assert np.array_equal(one.predict(volume(data)), three.predict(volume(data)))
