"""What the command `benchmark` is made of: each part against numbers known beforehand."""

import json
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch

from napari_transunet import benchmark
from napari_transunet.benchmark import (
    CONFIGS,
    REFERENCE,
    BenchmarkConfig,
    ModelUnderTest,
    ReferenceImplementation,
    Spread,
    describe_machine,
    interleaved,
    middle_slices,
    ready_configs,
    run_benchmark,
    speedup,
    timed,
)
from napari_transunet.inference import backends
from napari_transunet.inference.calibration import observe_ranges
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from napari_transunet.volumes.phantom import synthetic_ct
from tests.networks import slim_parts

CPU = torch.device("cpu")
SMALL = Variant("small-16", patch=16, hidden=32, mlp=64, heads=2, blocks=1)


@pytest.fixture(scope="module")
def volume():
    return synthetic_ct((9, 40, 48))[0]


@pytest.fixture(scope="module")
def model(volume):
    torch.manual_seed(0)
    with slim_parts():
        net = TransUNet(SMALL, 9, 32).eval()
    with torch.no_grad():  # so that no class wins everywhere
        net.segmentation_head[0].bias.sub_(net(torch.rand(1, 1, 32, 32)).mean(dim=(0, 2, 3)))
    return ModelUnderTest("small", net, observe_ranges(net, [volume], slices=2))


def test_the_paper_pipeline_gives_the_reference_implementations_labels(model, volume):
    reference = ReferenceImplementation(model.net, CPU).predict(volume)
    assert len(np.unique(reference)) > 1
    paper = Predictor(model.model, device="cpu", backend="torch", pipeline="paper").predict(volume)
    assert (reference == paper).mean() > 0.999


def test_speedups_are_of_the_same_round(monkeypatch):
    # Two rounds on a machine that gets ten times slower: ratios of medians would differ, paired ones do not.
    durations = {"slow": [2.0, 20.0, 4.0], "fast": [1.0, 10.0, 1.0]}
    order = []

    def timed(task, device):
        order.append(task())
        return durations[order[-1]][order.count(order[-1]) - 1], order[-1]

    monkeypatch.setattr(benchmark, "timed", timed)
    seconds, results = interleaved({"slow": lambda: "slow", "fast": lambda: "fast"}, 3, CPU)
    assert order == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert speedup(seconds["fast"], seconds["slow"]) == Spread(2.0, 2.0, 4.0)
    assert Spread.of(seconds["slow"]) == Spread(4.0, 2.0, 20.0)
    assert results == {"slow": "slow", "fast": "fast"}


def test_seconds_are_seconds():
    seconds, result = timed(lambda: time.sleep(0.02) or 7, CPU)
    assert result == 7
    assert 0.02 <= seconds < 20


def test_the_versions_are_those_of_this_machine():
    assert describe_machine()["versions"]["torch"] == torch.__version__


def test_each_configuration_comes_after_the_one_it_is_compared_with():
    names = [REFERENCE]
    for config in CONFIGS:
        assert config.compared_with is None or config.compared_with in names
        assert config.name not in names
        names.append(config.name)


def test_middle_slices_stay_where_they_are_in_space(volume):
    part = middle_slices(volume, 3)
    assert np.array_equal(part.data, volume.data[3:6])
    assert part.geometry.affine_lps @ (1, 2, 0, 1) == pytest.approx(volume.geometry.affine_lps @ (1, 2, 3, 1))
    assert middle_slices(volume, 100).data.shape == volume.data.shape


def test_what_is_not_possible_is_skipped_with_the_reason(model, volume, monkeypatch):
    monkeypatch.setattr(backends, "has_openvino", lambda: False)
    monkeypatch.setattr(benchmark, "has_fast_bfloat16", lambda device: False)
    ready, skipped = ready_configs(model, volume, CPU)
    assert list(ready) == ["paper, PyTorch, float32", "card, PyTorch, float32"]
    assert ready.keys() | skipped.keys() == {config.name for config in CONFIGS}
    assert "OpenVINO" in skipped["card, OpenVINO, int8"]
    assert "bfloat16" in skipped["card, PyTorch, bfloat16"]


@pytest.mark.parametrize("error", [ImportError("libopenvino.so is missing"), RuntimeError("no\nat line 299")])
def test_a_broken_backend_is_skipped_too(model, volume, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(benchmark, "Predictor", broken)
    config = BenchmarkConfig("card", "openvino", "float32")
    ready, skipped = ready_configs(model, volume, CPU, [config])
    assert not ready
    assert str(error).splitlines()[0] in skipped[config.name]
    assert "line 299" not in skipped[config.name]


def test_a_report_holds_every_configuration_or_its_reason(model, volume):
    said = []
    report = run_benchmark([model], volume, CPU, rounds=2, report=said.append)
    assert any("2 rounds" in line for line in said)
    found = json.loads(json.dumps(asdict(report), allow_nan=False))
    assert found["shape"] == [9, 40, 48]
    (network,) = found["models"]
    first, *others = network["configs"]
    assert first["config"] == REFERENCE
    assert first["speedup"] == {"median": 1.0, "least": 1.0, "most": 1.0}
    named = {result["config"] for result in others} | network["skipped"].keys()
    assert named == {config.name for config in CONFIGS}
    results = {result["config"]: result for result in others}
    assert results["paper, PyTorch, float32"]["equal_labels"] > 0.999
    for result in others:
        assert result["slice_s"]["least"] <= result["slice_s"]["median"] <= result["slice_s"]["most"]
        assert result["slices_per_s"] == pytest.approx(1 / result["slice_s"]["median"])
        assert result["first_slice_s"] > 0
    if "card, OpenVINO, float32" in results:
        assert results["card, OpenVINO, float32"]["equal_labels"] > 0.999
