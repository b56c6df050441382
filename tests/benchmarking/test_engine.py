"""What a benchmark is made of: each part against numbers known beforehand."""

from __future__ import annotations

import itertools
import json
import math
import time
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_transunet.benchmarking import timing
from napari_transunet.benchmarking.agreement import agreement
from napari_transunet.benchmarking.machine import describe_machine, matrix_rates
from napari_transunet.benchmarking.memory import PeakMemory, peak_memory
from napari_transunet.benchmarking.networks import batch_sizes, best_batch, rates_by_batch
from napari_transunet.benchmarking.plain import PlainProcedure
from napari_transunet.benchmarking.plots import BATCH_PLOT, TIME_PLOT, Plot, plots_of, ticks, write_plots
from napari_transunet.benchmarking.report import BatchRate
from napari_transunet.benchmarking.running import run_benchmark
from napari_transunet.benchmarking.scaling import last_over_first, line_through
from napari_transunet.benchmarking.subjects import (
    Subject,
    central_part,
    middle_slices,
    operations_per_slice,
    repeated_slices,
    slices_of_one_value,
)
from napari_transunet.benchmarking.timing import Spread, interleaved
from napari_transunet.benchmarking.ways import PLAIN, WAYS, Way, ready_ways
from napari_transunet.errors import ExistsError, InputError
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from napari_transunet.segmentation import backends, devices
from napari_transunet.segmentation.predictor import Predictor
from napari_transunet.volumes.phantom import synthetic_ct

CPU = torch.device("cpu")
SMALL = Variant("small-16", patch=16, hidden=32, mlp=64, heads=2, blocks=1)


@pytest.fixture(scope="module")
def subject():
    return Subject.random(SMALL, 32)


@pytest.fixture(scope="module")
def volume():
    return synthetic_ct((9, 40, 48))[0]


def test_paper_pipeline_gives_the_plain_procedures_labels(subject, volume):
    plain = PlainProcedure(subject.net, CPU).predict(volume)
    assert len(np.unique(plain)) > 1
    paper = Predictor(subject.model, device="cpu", backend="torch", pipeline="paper").predict(volume)
    assert (plain == paper).mean() > 0.999


def test_spread_and_ratios_are_of_the_same_round(monkeypatch):
    # Two rounds on a machine that gets ten times slower: ratios of medians would differ, paired ones do not.
    durations = {"slow": [2.0, 20.0, 4.0], "fast": [1.0, 10.0, 1.0]}
    order = []

    def timed(work, device):
        order.append(work())
        return durations[order[-1]][order.count(order[-1]) - 1], order[-1]

    monkeypatch.setattr(timing, "timed", timed)
    timings = interleaved({"slow": lambda: "slow", "fast": lambda: "fast"}, 3, CPU)
    assert order == ["slow", "fast", "fast", "slow", "slow", "fast"]
    assert timings.ratios("fast", "slow") == Spread(2.0, 2.0, 4.0)
    assert timings.spread("slow") == Spread(4.0, 2.0, 20.0)
    assert timings.answers == {"slow": "slow", "fast": "fast"}


def test_seconds_are_seconds():
    seconds, answer = timing.timed(lambda: time.sleep(0.05) or 7, CPU)
    assert answer == 7
    assert 0.05 <= seconds < 1


def test_memory_that_was_given_back_is_seen():
    with peak_memory(CPU) as peak:
        block = np.ones(40_000_000, np.uint8)
        time.sleep(0.1)
        del block
    assert 35 < peak() < 200


def test_watching_memory_takes_no_time_from_what_is_measured():
    peaks = PeakMemory(CPU)

    @contextmanager
    def slow(name):
        with peaks.watch(name):
            time.sleep(0.3)
            yield

    def take():
        block = np.ones(40_000_000, np.uint8)
        time.sleep(0.05)
        return int(block[0])

    timings = interleaved({"take": take, "rest": lambda: 0}, 2, CPU, watching=slow)
    assert timings.spread("take").most < 0.3
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


def test_operations_of_a_matrix_product_and_of_the_published_network():
    assert operations_per_slice(TransUNet("R50-ViT-B_16", 9, 224)) / 1e9 == pytest.approx(58.45, abs=0.01)


def test_matrix_rates_are_of_this_machine():
    rates = {rate.precision: rate for rate in matrix_rates(CPU, 0.05)}
    assert rates["float32"].tera_per_s > 1e-4
    # A rate below float32's would say nothing about the machine.
    assert all(rates["float32"].tera_per_s <= rate.tera_per_s < 1e4 for rate in rates.values())
    machine = describe_machine()
    assert machine.threads == torch.get_num_threads()
    assert machine.versions["torch"] == torch.__version__


def test_the_end_is_held_against_the_start():
    assert last_over_first([7.0] + [0.2] * 50) == 1  # the first still prepares
    assert last_over_first([9.0] + [0.1] * 10 + [0.5] * 30 + [0.2] * 10) == 2
    assert last_over_first([0.3]) == 1


@given(
    start=st.floats(0, 5),
    slope=st.floats(1e-3, 1),
    lengths=st.lists(st.integers(1, 2000), min_size=2, max_size=6, unique=True),
)
@settings(max_examples=40, deadline=None)
def test_a_line_is_found_again(start, slope, lengths):
    lengths.sort()
    found = line_through(lengths, [start + slope * n for n in lengths])
    assert found[0] == pytest.approx(start, abs=1e-6)
    assert found[1] == pytest.approx(slope, rel=1e-5)
    assert found[2] < 1e-6


def test_what_is_not_linear_is_told():
    assert line_through([10, 100, 1000], [1.0, 10.0, 150.0])[2] > 0.1


@given(count=st.integers(1, 12), side=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_parts_of_a_volume_stay_where_they_were(count, side):
    volume = synthetic_ct((9, 12, 10))[0]
    part = central_part(middle_slices(volume, count), side)
    assert part.data.shape == (min(count, 9), min(side, 12), min(side, 10))
    # The first voxel's place in the patient, read in the whole volume's grid, holds the same value.
    place = np.linalg.inv(volume.geometry.affine_lps) @ [*part.geometry.origin, 1]
    x, y, z = np.rint(place[:3]).astype(int)
    assert np.allclose(place[:3], [x, y, z], atol=1e-6)
    assert (
        volume.data[z:, y:, x:][: len(part.data), : part.data.shape[1], : part.data.shape[2]] == part.data
    ).all()


def test_a_volume_is_made_longer_by_its_own_slices(volume):
    longer = repeated_slices(volume, 20)
    assert longer.geometry.shape == longer.data.shape == (20, 40, 48)
    assert (longer.data[9:18] == volume.data).all()
    assert slices_of_one_value(longer) == 0
    assert slices_of_one_value(middle_slices(volume, 1)) == 0
    with pytest.raises(InputError, match="At least one slice"):
        middle_slices(volume, 0)


def test_each_way_comes_after_its_reference():
    names = [PLAIN]
    for way in WAYS:
        assert way.reference is None or way.reference in names
        assert way.name not in names
        names.append(way.name)


def test_ways_that_are_not_possible_are_left_out_with_the_reason(subject, volume, monkeypatch):
    monkeypatch.setattr(backends, "has_openvino", lambda: False)
    monkeypatch.setattr(devices, "has_fast_bfloat16", lambda device: False)
    monkeypatch.setattr("napari_transunet.benchmarking.ways.has_fast_bfloat16", lambda device: False)
    ways = ready_ways(subject, volume, CPU)
    assert list(ways.ready) == ["paper, PyTorch, float32", "card, PyTorch, float32"]
    reasons = {left_out.way: left_out.reason for left_out in ways.left_out}
    assert len(reasons) == len(WAYS) - 2
    assert "OpenVINO is not installed" in reasons["card, OpenVINO, int8"]
    assert "bfloat16" in reasons["card, PyTorch, bfloat16"]


def test_a_broken_openvino_is_left_out_too(subject, volume, monkeypatch):
    def broken(*args, **kwargs):
        raise ImportError("libopenvino.so is missing")

    monkeypatch.setattr("napari_transunet.benchmarking.ways.Predictor", broken)
    ways = ready_ways(subject, volume, CPU, ways=[Way("card", "openvino", "float32", None)])
    assert not ways.ready
    assert "libopenvino.so is missing" in ways.left_out[0].reason


def test_a_way_that_fails_is_left_out_too(subject, volume, monkeypatch):
    def failing(*args, **kwargs):
        raise RuntimeError("this release cannot do it\nat line 299")

    monkeypatch.setattr("napari_transunet.benchmarking.ways.Predictor", failing)
    (left_out,) = ready_ways(subject, volume, CPU, ways=[WAYS[0]]).left_out
    assert left_out.reason == "it fails here: this release cannot do it"


def test_the_best_batch_is_the_smallest_that_none_clearly_beats():
    def rate(size, speed):
        return BatchRate("way", size, Spread(1, 1, 1), speed, None)

    assert best_batch([rate(1, 10), rate(2, 18), rate(4, 20), rate(8, 20.1)]) == 4
    assert best_batch([rate(1, 10), rate(2, 9)]) == 1
    assert best_batch([]) is None
    assert batch_sizes(CPU) == [1, 2, 4, 8, 16]
    assert max(batch_sizes(torch.device("cuda", 0))) == 512


def test_batches_grow_until_memory_runs_out(subject, monkeypatch):
    made = []

    def make_network(net, backend, *, device, precision, batch, ranges):
        made.append(batch)
        if batch > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return lambda images: images

    monkeypatch.setattr("napari_transunet.benchmarking.networks.make_network", make_network)
    way = Way("card", "torch", "float32", None)
    rates = rates_by_batch(subject, [way], CPU, 2, {"float32": 1e-9})
    assert made == [1, 2, 4, 8]
    assert [rate.batch_size for rate in rates] == [1, 2, 4]
    assert all(rate.slices_per_s == pytest.approx(rate.batch_size / rate.batch_s.median) for rate in rates)
    assert all(rate.share_of_rate == pytest.approx(1e-9 * rate.slices_per_s) for rate in rates)


@pytest.fixture(scope="module")
def report(subject, volume):
    told = []
    found = run_benchmark(
        [subject], volume, device="cpu", rounds=2, quick=True, full=True, progress=told.append
    )
    assert any("round 2 of 2" in line for line in told)
    return found


def test_a_report_holds_every_way_or_its_reason(report, volume):
    (network,) = report.networks
    assert network.ways[0].way == PLAIN
    assert network.ways[0].ratio == Spread(1.0, 1.0, 1.0)
    told = [result.way for result in network.ways[1:]] + [left_out.way for left_out in network.left_out]
    assert sorted(told) == sorted(way.name for way in WAYS)
    results = {result.way: result for result in network.ways}
    paper = results["paper, PyTorch, float32"]
    assert paper.agreement.reference == PLAIN
    assert paper.agreement.equal > 0.999
    for result in network.ways:
        assert result.volume_s.least <= result.volume_s.median <= result.volume_s.most
        assert result.slice_s.median == pytest.approx(result.volume_s.median / len(volume.data))
        assert result.ratio.median > 0
        if result.floor_slice_s is not None:
            assert result.share_of_rate == pytest.approx(result.floor_slice_s / result.slice_s.median)
    if "card, OpenVINO, float32" in results:
        assert results["card, OpenVINO, float32"].agreement.equal > 0.999


def test_all_that_takes_long_is_there_when_asked_for(report):
    (network,) = report.networks
    assert [found.slices for found in network.scaling.times] == [4, 8, 16]
    assert 0.05 < network.scaling.late_over_early < 20
    assert {rate.batch_size for rate in network.batches} == {1, 2}
    assert {rate.way for rate in network.batches} == {
        result.way for result in network.ways if result.way.startswith("card")
    }
    assert len(network.profile.steps) == 4
    assert network.profile.operators_of.startswith("card, PyTorch")
    times = [step.slice_s for step in network.profile.operators]
    assert times == sorted(times, reverse=True)
    assert times[0] > 0


def test_a_report_is_json(report):
    text = json.dumps(report.to_dict(), allow_nan=False)
    found = json.loads(text)
    assert found["format"] == "napari-transunet benchmark"
    assert found["conditions"]["shape"] == [9, 40, 48]
    assert found["networks"][0]["ways"][0]["ratio"]["median"] == 1.0


def test_plots_are_svg_with_all_points(report, tmp_path):
    written = write_plots(report, tmp_path)
    assert [path.name for path in written] == [TIME_PLOT, BATCH_PLOT]
    (network,) = report.networks
    points = [len(network.scaling.times), len(network.batches)]
    for path, count in zip(written, points, strict=True):
        drawing = ET.fromstring(path.read_text())
        circles = drawing.findall("{http://www.w3.org/2000/svg}circle")
        assert len(circles) == count
        width, height = (float(drawing.get(side)) for side in ("width", "height"))
        assert all(
            0 < float(circle.get("cx")) < width and 0 < float(circle.get("cy")) < height for circle in circles
        )
    with pytest.raises(ExistsError):
        write_plots(report, tmp_path)
    write_plots(report, tmp_path, overwrite=True)


def test_names_cannot_break_a_drawing():
    drawing = Plot("<t>", "a & b", '"', {"<script>: x": [(1.0, 2.0)], "none: y": []}, doubling=True).svg()
    assert "<script>" not in drawing
    ET.fromstring(drawing)
    ET.fromstring(Plot("empty", "x", "y", {}).svg())


def test_nothing_long_nothing_to_plot(report):
    short = replace(report.networks[0], batches=(), scaling=None)
    assert plots_of(replace(report, networks=[short])) == {}


@given(st.floats(1e-6, 1e7))
@settings(max_examples=40, deadline=None)
def test_ticks_are_few_and_reach_the_top(highest):
    found = ticks(highest)
    assert found[0] == 0
    assert found[-1] >= highest * (1 - 1e-6)
    assert found[-2] < highest
    assert 3 <= len(found) <= 7
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)


def test_bad_requests_are_sentences(subject, volume):
    with pytest.raises(InputError, match="no network to measure"):
        run_benchmark([], volume)
    with pytest.raises(InputError, match="at least once"):
        run_benchmark([subject], volume, rounds=0)
    with pytest.raises(InputError, match="Unknown device"):
        run_benchmark([subject], volume, device="abacus")
