"""The study in benchmarks/inference: each part against numbers known beforehand."""

import time
import xml.etree.ElementTree as ET
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.inference import batch_size, study
from benchmarks.inference.agreement import agreement
from benchmarks.inference.batch_size import batch_sizes, rates_by_batch
from benchmarks.inference.memory import PeakMemory, peak_memory
from benchmarks.inference.plots import BATCH_PLOT, TIME_PLOT, write_plots
from benchmarks.inference.roofline import flops_per_slice, matmul_throughput
from benchmarks.inference.scaling import central_part, last_over_first, line_through, repeated_slices
from benchmarks.inference.study import random_model, study_model
from napari_transunet import benchmark
from napari_transunet.benchmark import (
    CONFIGS,
    REFERENCE,
    BenchmarkConfig,
    ready_configs,
    run_benchmark,
)
from napari_transunet.model.meta import on_meta_device
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
    with slim_parts():
        return random_model(SMALL, 32, volume)


def test_operations_of_the_published_network():
    with on_meta_device():
        published = TransUNet("R50-ViT-B_16", 9, 224)
    assert flops_per_slice(published) / 1e9 == pytest.approx(58.45, abs=0.01)


def test_matmul_throughput_is_of_this_machine():
    rates = matmul_throughput(CPU, 0.02)
    assert rates["float32"] > 1e-5
    assert all(rates["float32"] <= rate < 1e4 for rate in rates.values())


def test_memory_that_was_given_back_is_seen():
    with peak_memory(CPU) as peak:
        block = np.ones(40_000_000, np.uint8)
        time.sleep(0.1)
        del block
    assert 35 < peak() < 200


def test_the_peak_of_each_work_is_its_own():
    peaks = PeakMemory(CPU)
    with peaks.watch("take"):
        block = np.ones(40_000_000, np.uint8)
        time.sleep(0.05)
        del block
    with peaks.watch("rest"):
        pass
    assert peaks["take"] > 35
    assert peaks["rest"] < 20


def test_agreement_counts_voxels_and_finds_the_worst_organ():
    reference = np.array([[[0, 1, 1, 2, 2, 2]]], np.uint8)
    labels = np.array([[[0, 1, 1, 2, 2, 3]]], np.uint8)
    found = agreement(labels, reference, "exact", {2: "liver", 3: "spleen"})
    assert found.equal == pytest.approx(5 / 6)
    assert (found.worst_dice, found.worst_organ, found.worst_voxels) == (0.0, "spleen", 0)
    found = agreement(np.where(labels == 3, 0, labels), reference, "exact", {2: "liver"})
    assert found.worst_dice == pytest.approx(0.8)
    assert (found.worst_organ, found.worst_voxels) == ("liver", 3)
    assert agreement(labels * 0, labels * 0, "exact", {}).worst_dice is None


def test_the_end_is_held_against_the_start():
    assert last_over_first([7.0] + [0.2] * 50) == 1  # the first still prepares
    assert last_over_first([9.0] + [0.1] * 10 + [0.5] * 30 + [0.2] * 10) == 2
    assert last_over_first([0.3]) == 1


@given(
    start=st.floats(0, 5),
    slope=st.floats(1e-3, 1),
    lengths=st.lists(st.integers(1, 2000), min_size=2, max_size=6, unique=True),
)
@settings(max_examples=40)
def test_a_line_is_found_again(start, slope, lengths):
    lengths.sort()
    found = line_through(lengths, [start + slope * n for n in lengths])
    assert found[0] == pytest.approx(start, abs=1e-6)
    assert found[1] == pytest.approx(slope, rel=1e-5)
    assert found[2] < 1e-6


def test_what_is_not_linear_is_told():
    assert line_through([10, 100, 1000], [1.0, 10.0, 150.0])[2] > 0.1


def test_the_central_part_is_a_square_in_the_middle(volume):
    assert np.array_equal(central_part(volume, 20).data, volume.data[:, 10:30, 14:34])


def test_a_volume_is_made_longer_by_its_own_slices(volume):
    longer = repeated_slices(volume, 20)
    assert longer.geometry.shape == longer.data.shape == (20, 40, 48)
    assert (longer.data[9:18] == volume.data).all()


def test_batches_grow_until_memory_runs_out(model, monkeypatch):
    made = []

    def make_network(net, backend, *, device, precision, batch, ranges):
        made.append(batch)
        if batch > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return lambda images: images

    monkeypatch.setattr(batch_size, "make_network", make_network)
    rates = rates_by_batch(model, [BenchmarkConfig("card", "torch", "float32")], CPU, 2)
    assert made == [1, 2, 4, 8]
    assert [rate.batch_size for rate in rates] == [1, 2, 4]
    assert all(rate.slices_per_s == pytest.approx(rate.batch_size / rate.batch_s.median) for rate in rates)
    assert batch_sizes(CPU) == [1, 2, 4, 8, 16]
    assert max(batch_sizes(torch.device("cuda", 0))) == 512


@pytest.mark.slow  # its parts have tests of their own
def test_a_whole_study_and_its_plots(model, volume, tmp_path, monkeypatch):
    # PyTorch's two and 8 bits are enough: the others differ from them in nothing that is studied here.
    few = partial(ready_configs, configs=[*CONFIGS[:2], CONFIGS[-1]])
    monkeypatch.setattr(study, "ready_configs", few)
    monkeypatch.setattr(benchmark, "ready_configs", few)
    (timed,) = run_benchmark([model], volume, CPU, rounds=1, report=print).models
    found = study_model(model, volume, CPU, timed, {"float32": 0.5}, rounds=1, full=True, quick=True)
    assert found.roofline_s == pytest.approx(
        dict.fromkeys([REFERENCE, *(config.name for config in CONFIGS[:2])], found.gflop_per_slice / 500)
    )
    assert REFERENCE in found.peak_mb
    assert found.agreements["paper, PyTorch, float32"].equal > 0.999
    assert [one.slices for one in found.scaling.times] == [4, 8, 16]
    assert 0.05 < found.scaling.late_over_early < 20
    assert {rate.batch_size for rate in found.batches} == {1, 2}
    assert {rate.config for rate in found.batches} == {
        result.config for result in timed.configs if result.config.startswith("card")
    }
    assert len(found.profile.steps) == 4
    assert found.profile.operators_of.startswith("card, PyTorch")
    times = [step.slice_s for step in found.profile.operators]
    assert times == sorted(times, reverse=True)
    assert times[0] > 0
    written = write_plots([found], tmp_path)
    assert [path.name for path in written] == [TIME_PLOT, BATCH_PLOT]
    for path in written:
        ET.fromstring(path.read_text())
    assert write_plots([], tmp_path) == []
