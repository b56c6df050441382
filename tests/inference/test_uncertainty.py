"""Entropies against numpy, where they lie, and that asking for them changes no label."""

import math

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.errors import InputError
from napari_transunet.inference.predictor import Predictor
from napari_transunet.inference.resize import make_resize
from napari_transunet.inference.uncertainty import inside_of, uncertainty_of, uncertainty_volume
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume

EVERYWHERE = torch.ones(8, 8, dtype=torch.bool)
SHAPE = (6, 40, 30)
TURNED = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))


def _volume(direction=None, shape=SHAPE) -> Volume:
    rng = np.random.default_rng(3)
    data = rng.normal(60, 90, shape).astype(np.float32)
    data[2] = -1000  # air: one value
    geometry = Geometry(shape, (2.5, 0.9, 0.8), **({} if direction is None else {"direction": direction}))
    return Volume(data, geometry, "CT", Source(None, "array", "ct"))


def test_entropy_is_what_numpy_says():
    logits = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
    found = uncertainty_of(logits, EVERYWHERE)
    shares = np.exp(logits.numpy().astype(float))
    shares /= shares.sum(axis=1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(axis=1) / math.log(4)
    for slice_, expected in zip(found, entropy, strict=True):
        assert slice_.entropy.dtype == np.float16
        assert np.allclose(slice_.entropy, expected, atol=1e-3)


def test_certain_is_0_and_undecided_is_1():
    certain = torch.zeros(1, 3, 8, 8)
    certain[:, 1] = 100
    assert uncertainty_of(certain, EVERYWHERE)[0].mean == 0
    undecided = uncertainty_of(torch.zeros(1, 3, 8, 8), EVERYWHERE)[0]
    assert undecided.mean == pytest.approx(1)
    assert np.allclose(undecided.per_class[1:], 1)


def test_only_the_foreground_and_its_rim_count():
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = 9  # background, nearly certain
    logits[0, :, 3, 3] = torch.tensor([0.0, 0.1, 0.0])  # one pixel of class 1, undecided
    found = uncertainty_of(logits, EVERYWHERE)[0]
    entropy = found.entropy.astype(float)
    assert found.mean == pytest.approx(entropy[2:5, 2:5].mean(), abs=2e-3)
    assert found.per_class[1] == pytest.approx(entropy[2:5, 2:5].mean(), abs=2e-3)
    nothing = torch.zeros(1, 3, 8, 8)
    nothing[:, 0] = 20
    found = uncertainty_of(nothing, EVERYWHERE)[0]
    assert found.mean == 0
    assert np.isnan(found.per_class).all()


def test_more_is_expected_to_be_wrong_in_a_large_organ_than_in_its_tip():
    def slice_with(side: int, doubt: float) -> torch.Tensor:
        logits = torch.zeros(1, 3, 32, 32)
        logits[:, 0] = 12
        logits[0, :, 8 : 8 + side, 8 : 8 + side] = torch.tensor([0.0, doubt, 0.0])[:, None, None]
        return logits

    inside = torch.ones(32, 32, dtype=torch.bool)
    tip, organ = (uncertainty_of(slice_with(*of), inside)[0] for of in ((3, 0.1), (16, 3.0)))
    assert tip.mean > organ.mean
    assert tip.expected_error < organ.expected_error
    assert tip.expected_error_per_class[1] < organ.expected_error_per_class[1]
    assert organ.expected_error == pytest.approx(organ.mean * math.sqrt(18 * 18 / 32**2), abs=1e-3)
    assert organ.expected_error_per_class[2] == 0
    assert np.isnan(organ.expected_error_per_class[0])


def test_what_the_network_nearly_found_does_not_look_certain():
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0] = 9
    logits[0, 0, 3:5, 3:5] = 0.5  # an organ at 38 %: background in the labels
    assert uncertainty_of(logits, EVERYWHERE)[0].mean > 0.2


def test_padding_does_not_count():
    resize = make_resize("pad", (1.0, 1.0), (4, 8), (8, 8))
    inside = inside_of(resize)
    assert inside.sum() == 32
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 1] = 30
    logits[:, :, ~inside] = 0  # undecided, but nothing is there
    found = uncertainty_of(logits, inside)[0]
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert not found.entropy[~inside.numpy()].any()
    assert found.expected_error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("pipeline", ["card", "paper"])
def test_asking_changes_no_label_and_every_slice_has_an_answer(plain, pipeline, batch):
    predictor = Predictor(plain, device="cpu", precision="float32", batch_size=batch, pipeline=pipeline)
    volume = _volume()
    labels = predictor.predict(volume)
    asked = {s.index: s for b in predictor.iter_batches(volume, first=3, uncertainty=True) for s in b}
    assert sorted(asked) == list(range(6))
    for index, item in asked.items():
        assert np.array_equal(item.plane, labels[index])
        assert item.uncertainty is not None
        assert item.uncertainty.entropy.shape == (64, 64)
        assert 0 <= item.uncertainty.mean <= 1
    alone = next(iter(predictor.iter_batches(volume, slices=[4], uncertainty=True)))[0]
    assert alone.uncertainty.mean == pytest.approx(asked[4].uncertainty.mean, abs=2e-3)
    assert all(s.uncertainty is None for b in predictor.iter_batches(volume) for s in b)


@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("direction", [None, TURNED])
def test_kept_maps_come_back_where_the_labels_lie(plain, direction, planes):
    """The network is replaced by one that sees one bright spot, so that both can be found again."""
    shape = (30, 34, 38)
    volume = _volume(direction, shape)
    volume.data[...] = -1000
    volume.data[8:20, 6:18, 20:32] = 1000
    card = default_card(plain, orientation="LPS", spacing=(2.5, 0.9, 0.8), resize="pad", planes=planes)
    predictor = Predictor(plain, device="cpu", precision="float32", card=card)

    def bright(images):
        logits = torch.zeros(len(images), 5, *images.shape[-2:])
        logits[:, 0] = 20
        spot = images[:, images.shape[1] // 2] > 0.5
        logits[:, 1][spot], logits[:, 0][spot] = 2.0, 0.0  # found, and unsure
        return logits

    predictor._network = bright
    labels = predictor.predict(volume)
    maps = {
        s.index: s.uncertainty.entropy for b in predictor.iter_batches(volume, uncertainty=True) for s in b
    }
    entropy = uncertainty_volume(maps, predictor.slice_source(volume))
    assert entropy.shape == labels.shape
    # The border is blurred by the resize; the middle of the spot and what is far from it are not.
    core = np.zeros(shape, bool)
    core[10:18, 8:16, 22:30] = True
    far = np.ones(shape, bool)
    far[5:23, 3:21, 17:35] = False
    assert (labels[core] == 1).all()
    assert (entropy[core] > 0.3).all()
    assert not labels[far].any()
    assert (entropy[far] < 0.05).all()


@pytest.mark.parametrize("kept", [{6: (64, 64)}, {-1: (64, 64)}, {0: (32, 32)}, {0: (64,)}])
def test_maps_of_another_volume_or_card_are_refused(plain, kept):
    source = Predictor(plain, device="cpu").slice_source(_volume())
    with pytest.raises(InputError, match="does not fit"):
        uncertainty_volume({index: np.zeros(shape, np.float16) for index, shape in kept.items()}, source)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_source_of_a_predictor_on_a_gpu_will_do(plain):
    predictor = Predictor(plain, device="cuda", precision="float32")
    volume = _volume()
    maps = {
        s.index: s.uncertainty.entropy for b in predictor.iter_batches(volume, uncertainty=True) for s in b
    }
    own = uncertainty_volume(maps, predictor.slice_source(volume))
    elsewhere = uncertainty_volume(maps, Predictor(plain, device="cpu").slice_source(volume))
    assert np.array_equal(own, elsewhere)
