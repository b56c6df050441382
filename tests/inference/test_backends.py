"""One network, whatever runs it: OpenVINO says what PyTorch says, in every arithmetic."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.quantization import ActivationRanges, Agreement, ranges_path
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import InputError
from napari_transunet.inference import backends
from napari_transunet.inference.backends import has_openvino, resolve_backend, resolve_dtype
from napari_transunet.inference.calibration import observe_ranges
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.inference import InferenceTransUNet
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from tests.networks import slim_parts
from tests.references import relative_error

CPU = torch.device("cpu")
SIZE = (64, 64)
needs_openvino = pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")

HYBRID = Variant("small hybrid", 16, 24, 48, 2, 2, hybrid=True)
PLAIN = Variant("small plain", 16, 24, 48, 2, 2)
COARSE = Variant("coarse plain", 32, 24, 48, 2, 1)
ODD = Variant("patches of 14", 14, 20, 40, 2, 1)


def network(variant: Variant, size: int | tuple[int, int], classes: int = 4, **options: Any) -> TransUNet:
    torch.manual_seed(3)
    with slim_parts():
        net = TransUNet(variant, classes, size, **options).eval()
    for module in net.modules():  # as after a training: nothing is 0 or 1 any more
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    torch.nn.init.normal_(net.transformer.embeddings.position_embeddings, std=0.1)
    return net


@needs_openvino
@pytest.mark.parametrize(
    ("variant", "size", "options"),
    [
        (HYBRID, (48, 80), {}),
        (HYBRID, 64, {"n_skip": 1}),
        (HYBRID, 64, {"n_skip": 0}),
        (PLAIN, (32, 64), {}),
        (COARSE, 64, {}),
        (ODD, (56, 84), {}),
    ],
)
@torch.inference_mode()
def test_openvino_gives_the_logits_of_pytorch(variant: Variant, size: Any, options: dict[str, Any]) -> None:
    from napari_transunet.inference.openvino_network import OpenVINONetwork

    net = network(variant, size, **options)
    images = torch.rand(3, 1, *net.img_size)
    expected = net(images)
    # Two at a time, so that one batch is filled up.
    assert relative_error(OpenVINONetwork(net, torch.float32, 2)(images), expected) < 1e-4
    if not options:  # the graph is the same in bfloat16
        assert relative_error(OpenVINONetwork(net, torch.bfloat16, 2)(images), expected) < 0.05


@needs_openvino
@torch.inference_mode()
def test_8_bits_are_near_and_weights_are_left_alone() -> None:
    from napari_transunet.inference.openvino_network import OpenVINONetwork

    net = network(HYBRID, 64)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    volume = np.random.default_rng(0).integers(-125, 275, (4, 64, 64)).astype(np.int16)
    ranges = observe_ranges(net, [volume])
    source = Predictor(net, device="cpu", backend="torch", precision="float32").slice_source(volume)
    images = source.images(range(4))
    expected = InferenceTransUNet(net)(images)
    rounded = OpenVINONetwork(net, torch.int8, 2, ranges.layers)(images)
    assert 1e-4 < relative_error(rounded, expected) < 0.15
    # Ranges that cut everything off must be seen in the result: they are really used.
    narrow = dict.fromkeys(ranges.layers, (0.0, 1e-3))
    assert relative_error(OpenVINONetwork(net, torch.int8, 2, narrow)(images), expected) > 0.3
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@needs_openvino
def test_two_products_in_8_bits_cannot_overflow_16_bits() -> None:
    """What processors without 8-bit dot products add them in; others would not show it."""
    from napari_transunet.inference.openvino_graph import openvino_graph

    net = network(HYBRID, 64)
    ranges = observe_ranges(net, [np.zeros((1, 64, 64), np.int16)])
    merged = InferenceTransUNet(net, channels_last=False).net
    weights = [
        operation.get_data()
        for operation in openvino_graph(merged, 1, ranges.layers).get_ops()
        if operation.get_type_name() == "Constant" and operation.get_data().dtype == np.int8
    ]
    assert len(weights) == len(ranges.layers)
    assert {int(np.abs(weight.astype(int)).max()) for weight in weights} == {64}
    assert 2 * 255 * 64 < 2**15


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_slice_is_the_same_in_any_batch(precision: str) -> None:
    net = network(PLAIN, 64)
    volume = np.random.default_rng(1).integers(-125, 275, (7, 64, 64)).astype(np.int16)
    ranges = observe_ranges(net, [volume])
    predictor = Predictor(
        net, device="cpu", precision=precision, backend="openvino", ranges=ranges, batch_size=3
    )
    whole = predictor.predict(volume)
    assert len(np.unique(whole)) > 1
    for index, plane in predictor.iter_slices(volume, slices=[5, 2, 0, 6]):
        np.testing.assert_array_equal(plane, whole[index])
    again = Predictor(net, device="cpu", precision=precision, backend="openvino", ranges=ranges, batch_size=3)
    np.testing.assert_array_equal(again.predict(volume), whole)


@needs_openvino
def test_labels_of_both_backends_agree() -> None:
    net = network(PLAIN, 64)
    volume = np.random.default_rng(2).integers(-125, 275, (5, 100, 90)).astype(np.int16)
    first, second = (
        Predictor(net, device="cpu", precision="float32", backend=backend)
        for backend in ("torch", "openvino")
    )
    assert (first.backend, second.backend) == ("torch", "openvino")
    assert (first.predict(volume) == second.predict(volume)).mean() > 0.999


@needs_openvino
def test_attention_does_not_depend_on_the_backend() -> None:
    net = network(PLAIN, 64)
    volume = np.random.default_rng(2).integers(-125, 275, (2, 64, 64)).astype(np.int16)
    maps = [
        Predictor(net, device="cpu", precision="float32", backend=backend).attention(volume, 1)
        for backend in ("torch", "openvino")
    ]
    for one, other in zip(*maps, strict=True):
        torch.testing.assert_close(one, other)


@needs_openvino
@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
@pytest.mark.long
def test_ctrl_c_is_survived_after_a_network_went_on_another_thread() -> None:
    script = """
import os, signal, sys, threading, torch
from napari_transunet.inference.openvino_network import OpenVINONetwork
from tests.inference.test_backends import PLAIN, network
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
kept = [OpenVINONetwork(network(PLAIN, 32), torch.float32, 1)]
kept[0](torch.rand(1, 1, 32, 32))
other = threading.Thread(target=kept.clear)
other.start(); other.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("heard")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "heard"), done.stderr


@needs_openvino
def test_float32_is_left_to_pytorch_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(PLAIN, 64)
    assert Predictor(net, device="cpu", precision="float32").backend == "torch"
    assert Predictor(net, device="cpu", precision="bfloat16").backend == "openvino"
    assert Predictor(net, device="cpu", precision="float32", backend="openvino").backend == "openvino"

    def broken(name: str) -> None:
        raise ImportError(f"{name}: libtbb.so.12 is missing")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert Predictor(net, device="cpu", precision="bfloat16").backend == "torch"


def ranges_with(labels: float | None) -> ActivationRanges:
    agreement = None if labels is None else Agreement(labels=labels, dice={1: labels})
    return ActivationRanges(layers={"a": (0, 1)}, img_size=SIZE, slices=1, agreement=agreement)


@needs_openvino
def test_8_bits_are_used_unasked_only_where_labels_are_known_to_agree() -> None:
    assert resolve_dtype("auto", CPU, "openvino", ranges_with(0.999), SIZE) == torch.int8
    for ranges in (None, ranges_with(None), ranges_with(0.99)):
        assert resolve_dtype("auto", CPU, "openvino", ranges, SIZE) != torch.int8
    assert resolve_dtype("auto", CPU, "openvino", ranges_with(0.999), (64, 96)) != torch.int8
    assert resolve_dtype("auto", CPU, "torch", ranges_with(0.999), SIZE) != torch.int8
    assert resolve_dtype("float32", CPU, "openvino", ranges_with(0.999), SIZE) == torch.float32
    assert resolve_dtype("int8", CPU, "openvino", ranges_with(0.9), SIZE) == torch.int8


@needs_openvino
def test_8_bits_are_used_unasked_at_the_size_that_labels_were_compared_at(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, TransUNet("testing", 2, 64))
    own = load_checkpoint(path)
    ranges = observe_ranges(own, [np.zeros((1, 64, 64), np.int16)], slices=1)
    ranges.model_copy(update={"agreement": Agreement(labels=1)}).write(ranges_path(path))
    assert Predictor(own, device="cpu").precision == torch.int8
    larger = load_checkpoint(path, img_size=96)
    assert Predictor(larger, device="cpu").precision != torch.int8
    assert Predictor(larger, device="cpu", precision="int8").precision == torch.int8


def test_what_is_not_possible_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Unknown backend 'tpu'"):
        resolve_backend("tpu", CPU)
    with pytest.raises(InputError, match="OpenVINO runs on the CPU here, not on cuda:0"):
        resolve_backend("openvino", torch.device("cuda", 0))
    with pytest.raises(InputError, match="needs OpenVINO"):
        resolve_dtype("int8", CPU, "torch", ranges_with(1), SIZE)
    with pytest.raises(InputError, match="activation ranges; make them with"):
        resolve_dtype("int8", CPU, "openvino", None, SIZE)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not backends.has_openvino()
    assert resolve_backend("auto", CPU) == "torch"
    with pytest.raises(InputError, match="OpenVINO is not installed; pip install"):
        resolve_backend("openvino", CPU)
    assert resolve_backend("auto", torch.device("cuda", 0)) == "torch"
