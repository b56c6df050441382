import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.quantization import ActivationRanges, Agreement
from napari_transunet.errors import InputError
from napari_transunet.inference import calibration
from napari_transunet.inference.backends import has_openvino
from napari_transunet.inference.calibration import calibrate, measure_agreement, observe_ranges
from tests.inference.test_backends import HYBRID, network

needs_openvino = pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-125, 275, (9, 64, 64)).astype(np.int16)


def test_ranges_hold_what_every_layer_was_given() -> None:
    net = network(HYBRID, 64)
    few, more = observe_ranges(net, [noise()], slices=3), observe_ranges(net, [noise(), noise(1)])
    assert (few.slices, more.slices) == (3, 18)
    assert few.img_size == (64, 64)
    assert few.sha256 is None
    # Input of the first layer: a scaled image. After ReLU: nothing below 0. After a layer norm: both signs.
    assert few.layers["transformer.embeddings.hybrid_model.root.conv"][0] == 0
    assert 0.8 < few.layers["transformer.embeddings.hybrid_model.root.conv"][1] <= 1
    assert few.layers["segmentation_head.0"][0] == 0
    assert few.layers["transformer.encoder.layer.0.attn.qkv"][0] < 0
    for name, (low, high) in few.layers.items():
        assert more.layers[name][0] <= low <= 0 <= high <= more.layers[name][1]


def test_ranges_need_a_volume() -> None:
    with pytest.raises(InputError, match="at least one volume"):
        observe_ranges(network(HYBRID, 64), [])


@needs_openvino
def test_agreement_counts_labels() -> None:
    net = network(HYBRID, 64)
    with torch.no_grad():  # so that several classes win somewhere
        bias = net.segmentation_head[0].bias
        bias -= net(torch.rand(2, 1, 64, 64)).mean(dim=(0, 2, 3))
    ranges = observe_ranges(net, [noise()[:3]])
    agreement = measure_agreement(net, ranges, [noise()[:3]])
    assert len(agreement.dice) > 1
    assert 0.7 < agreement.labels < 1
    assert 0.5 < agreement.least <= min(agreement.dice.values())
    nothing = ranges.without(("transformer", "decoder", "segmentation_head"))
    assert not nothing.layers
    # Without a layer in 8 bits the rest is at most bfloat16's rounding away.
    assert measure_agreement(net, nothing, [noise()[:3]]).labels > agreement.labels


@needs_openvino
def test_layers_next_to_image_and_output_are_left_out_until_labels_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([0.99, 0.996, 0.998])
    monkeypatch.setattr(
        calibration, "measure_agreement", lambda *_, **__: Agreement(labels=next(answers), dice={1: 1})
    )
    told: list[str] = []
    ranges = calibrate(network(HYBRID, 64), [noise()], slices=2, progress=told.append)
    assert ranges.agreement == Agreement(labels=0.998, dice={1: 1})
    stem = "transformer.embeddings.hybrid_model"
    left_out = (
        f"{stem}.root",
        f"{stem}.body.block1",
        "segmentation_head",
        "decoder.blocks.3",
        "decoder.blocks.2",
    )
    every = observe_ranges(network(HYBRID, 64), [noise()], slices=1).layers
    assert set(every) - set(ranges.layers) == {name for name in every if name.startswith(left_out)}
    assert len(told) == 4
    assert isinstance(ranges, ActivationRanges)
