"""Mirror images, and slices along other axes than the card's, asked for at the predictor."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_transunet.checkpoints.card import default_card
from napari_transunet.errors import InputError
from napari_transunet.inference.prediction import PredictionCancelled
from napari_transunet.inference.tta import MIRRORS, mean_over_mirrors
from napari_transunet.model.inference import InferenceTransUNet
from napari_transunet.model.transunet import TransUNet
from napari_transunet.volumes.geometry import Geometry
from tests.inference.test_planes import SHAPE, summed_probabilities
from tests.inference.test_predictor import Calls, ct, on_cpu, volume

PADDED = {"orientation": "LPS", "resize": "pad"}


@pytest.fixture(scope="module")
def sharp(small: TransUNet) -> TransUNet:
    """A network that is surer of its answers, so that the mean of its looks is none of them."""
    net = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in net.segmentation_head.parameters():
            parameter.mul_(50)
    return net


def blurred(images: torch.Tensor) -> torch.Tensor:
    """A network that mirrors with its input: three classes by brightness around a pixel."""
    near = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 3, 1, 1)
    return torch.cat([near, 1 - near, 4 * (near - 0.5).abs()], dim=1)


@given(st.integers(0, 99), st.sampled_from([1, 3]), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=25)
def test_a_network_that_mirrors_with_its_input_says_the_same(
    seed: int, channels: int, height: int, width: int
) -> None:
    images = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(seed))
    mean = mean_over_mirrors(blurred, images)
    assert mean is not None
    torch.testing.assert_close(mean, blurred(images).log_softmax(1), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_it_is_the_logarithm_of_the_mean_probability(sharp: TransUNet) -> None:
    images = torch.rand(2, 1, *sharp.img_size, generator=torch.Generator().manual_seed(1))
    looks = [images, images.flip(3), images.flip(2), images.flip(2, 3)]
    back = [(), (3,), (2,), (2, 3)]
    shares = [sharp(look).softmax(1).flip(axes) for look, axes in zip(looks, back, strict=True)]
    expected = torch.stack(shares).mean(0)
    found = mean_over_mirrors(sharp, images)
    assert found is not None
    torch.testing.assert_close(found.exp(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.exp().sum(1), torch.ones_like(found[:, 0]), atol=1e-5, rtol=0)
    assert (shares[0] - expected).abs().max() > 0.05  # or the test could not fail


def test_hopeless_classes_stay_finite() -> None:
    def certain(images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[:, 0] * 0 + 500, images[:, 0] * 0 - 500], dim=1)

    mean = mean_over_mirrors(certain, torch.zeros(1, 1, 2, 2))
    assert mean is not None
    assert torch.isfinite(mean).all()


# Slices along y and x would have their neighbours in the other order, which no look within a slice undoes.
@pytest.mark.parametrize(("planes", "context"), [(1, 1), (1, 3), (3, 1)])
def test_labels_mirror_with_the_volume(sharp: TransUNet, planes: int, context: int) -> None:
    data = ct(SHAPE)
    predictor = on_cpu(
        sharp, card=default_card(sharp, context=context), orthogonal_planes=planes == 3, mirror_tta=True
    )
    there = predictor.predict(volume(data))
    back = predictor.predict(volume(data[:, ::-1, ::-1]))[:, ::-1, ::-1]
    assert len(np.unique(there)) > 2
    assert (there == back).mean() > 0.998
    once = on_cpu(sharp, card=default_card(sharp, context=context), orthogonal_planes=planes == 3)
    unmirrored = once.predict(volume(data[:, ::-1, ::-1]))[:, ::-1, ::-1]
    assert (once.predict(volume(data)) == unmirrored).mean() < 0.99


def test_labels_without_options_are_those_of_one_look(small: TransUNet) -> None:
    data = volume(ct(SHAPE))
    plain = on_cpu(small).predict(data)
    assert np.array_equal(on_cpu(small, orthogonal_planes=False, mirror_tta=False).predict(data), plain)
    card = default_card(small, planes=3)
    assert np.array_equal(on_cpu(small, card=card, orthogonal_planes=False).predict(data), plain)
    three = on_cpu(small, card=card).predict(data)
    assert np.array_equal(on_cpu(small, orthogonal_planes=True).predict(data), three)
    assert not np.array_equal(plain, three)


def test_three_planes_that_are_asked_for_are_summed_up(small: TransUNet) -> None:
    data = ct(SHAPE)
    expected = summed_probabilities(small, data)
    predictor = on_cpu(small, orthogonal_planes=True)
    assert predictor.orthogonal_planes
    assert predictor.card.planes == 1  # what the checkpoint learnt from stays told
    assert (predictor.predict(volume(data)) == expected.argmax(0)).mean() > 0.99


@pytest.mark.parametrize("planes", [1, 3])
def test_uncertainty_is_that_of_the_mean(sharp: TransUNet, planes: int) -> None:
    predictor = on_cpu(sharp, orthogonal_planes=planes == 3, mirror_tta=True)
    single = on_cpu(sharp, orthogonal_planes=planes == 3)

    def unsure(data: np.ndarray[Any, Any], of: Any = predictor) -> np.ndarray[Any, Any]:
        (item,) = next(of.iter_batches(volume(data), slices=[4], uncertainty=True))
        assert item.uncertainty is not None
        return np.asarray(item.uncertainty.entropy, np.float32)

    data = ct(SHAPE)
    assert np.allclose(unsure(data), unsure(data[:, :, ::-1])[:, ::-1], atol=0.02)
    assert not np.allclose(unsure(data), unsure(data, single), atol=0.02)
    # The entropy of a mean is at least the mean of the entropies (it is concave), here of two looks that both occur.
    assert unsure(data).mean() >= unsure(data, single).mean() * 0.9


def test_slices_agree_with_the_whole(small: TransUNet) -> None:
    predictor = on_cpu(small, mirror_tta=True, batch_size=4)
    whole = predictor.predict(volume(ct(SHAPE)))
    for index, plane in predictor.iter_slices(volume(ct(SHAPE)), first=4, slices=[2, 4, 9]):
        assert np.array_equal(plane, whole[index])


def test_progress_counts_slices_not_looks(small: TransUNet) -> None:
    seen: list[tuple[int, int]] = []
    on_cpu(small, mirror_tta=True, batch_size=8).predict(
        volume(ct(SHAPE)), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(8, 18), (16, 18), (18, 18)]


@pytest.mark.parametrize("planes", [1, 3])
def test_cancelling_acts_between_two_looks(
    small: TransUNet, monkeypatch: pytest.MonkeyPatch, planes: int
) -> None:
    predictor = on_cpu(small, orthogonal_planes=planes == 3, mirror_tta=True, batch_size=8)
    calls = Calls(monkeypatch)
    with pytest.raises(PredictionCancelled, match="after 0 of 18"):
        predictor.predict(volume(ct(SHAPE)), cancelled=lambda: len(calls.batches) >= 2)
    assert len(calls.batches) == 2 < len(MIRRORS)


def test_a_batch_is_no_larger_than_without(small: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = on_cpu(small, mirror_tta=True, batch_size=9)
    calls = Calls(monkeypatch)
    predictor.predict(volume(ct(SHAPE)))
    assert calls.batches == [9] * 8


def test_an_overflow_is_said_of_the_mean_too(small: TransUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = on_cpu(small, mirror_tta=True)
    forward = InferenceTransUNet.forward
    monkeypatch.setattr(InferenceTransUNet, "forward", lambda self, x: forward(self, x) * float("inf"))
    with pytest.raises(InputError, match="overflows"):
        predictor.predict(volume(ct(SHAPE)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"planes": 2}, "1 or 3 axes, not 2"),  # the old name
        ({"orthogonal_planes": True, "pipeline": "paper"}, "one axis only; choose the pipeline 'card'"),
        ({"mirror_tta": True, "pipeline": "paper"}, "does not mirror slices; choose the pipeline 'card'"),
    ],
)
def test_looks_that_cannot_be(small: TransUNet, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        on_cpu(small, **options)


def test_three_planes_need_a_spacing_along_each_axis(small: TransUNet) -> None:
    card = default_card(small, name="organs", spacing=(None, 2.0, 2.0), **PADDED)
    with pytest.raises(InputError, match=r"organs cannot look along three axes: .* no spacing along z,"):
        on_cpu(small, card=card, orthogonal_planes=True)
    assert not on_cpu(small, card=card).orthogonal_planes
    learnt = card.model_copy(update={"planes": 3})
    assert on_cpu(small, card=learnt, orthogonal_planes=True).orthogonal_planes


@pytest.mark.parametrize(
    "fields", [{"spacing": (2.0, 2.0, 2.0), **PADDED}, PADDED, {"spacing": (None, 2.0, 2.0)}]
)
def test_three_planes_where_each_axis_can_be_scaled(small: TransUNet, fields: dict[str, Any]) -> None:
    data = volume(ct(SHAPE), Geometry(SHAPE, (3.0, 1.0, 1.0)))
    labels = on_cpu(
        small, card=default_card(small, **fields), orthogonal_planes=True, mirror_tta=True
    ).predict(data)
    assert labels.shape == SHAPE
