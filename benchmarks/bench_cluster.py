"""Scans shared out to workers: against the plain loop, what the scheduler costs a scan, and many tiny ones.

    python -m benchmarks.bench_cluster throughput SCAN [--checkpoint NAME] [--scans 8] [--rounds 2] [--side 512]
    python -m benchmarks.bench_cluster overhead [--units 2000]
    python -m benchmarks.bench_cluster sent SCAN [--scans 8] [--rounds 2]
    python -m benchmarks.bench_cluster many [--count 10000] [--idle]
    python -m benchmarks.bench_cluster first-slice SCAN [--checkpoint NAME] [--rounds 5]

All of it on this machine, over the loopback interface; results go to benchmarks/results/cluster.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

RESULTS = Path(__file__).parent / "results" / "cluster.json"


@contextmanager
def cluster(workers: int = 1, threads: int | None = None) -> Iterator[tuple[str, psutil.Process]]:
    """A scheduler and workers, each a process of its own; the address and the scheduler's process."""
    command = [sys.executable, "-m", "napari_transunet"]
    scheduler = subprocess.Popen([*command, "scheduler", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert scheduler.stdout is not None
        address = scheduler.stdout.readline().split()[-1]
        more = ["--threads", str(threads)] if threads else []
        worker = subprocess.Popen(
            [*command, "worker", address, "--workers", str(workers), *more], stdout=subprocess.PIPE, text=True
        )
        try:
            assert worker.stdout is not None
            worker.stdout.readline()
            yield address, psutil.Process(scheduler.pid)
        finally:
            worker.terminate()
            worker.wait(30)
    finally:
        scheduler.terminate()
        scheduler.wait(30)


def throughput(scan: Path, checkpoint: str, count: int, rounds: int, side: int | None) -> dict[str, Any]:
    """Seconds for `count` scans: the plain loop and `--scheduler local`, in turn; as commands, start to end."""
    from napari_transunet.io.reading import read_volume
    from napari_transunet.io.writing import write_volume
    from napari_transunet.volumes.geometry import Geometry
    from napari_transunet.volumes.volume import Volume

    volume = read_volume(scan)
    if side is not None:
        from scipy.ndimage import zoom

        size = volume.data.shape
        data = zoom(volume.data, (1, side / size[1], side / size[2]), order=1)
        spacing = volume.geometry.spacing
        geometry = Geometry.default(data.shape)
        geometry = type(geometry)(
            data.shape,
            (spacing[0], spacing[1] * size[1] / side, spacing[2] * size[2] / side),
            volume.geometry.origin,
            volume.geometry.direction,
        )
        volume = Volume(data, geometry, volume.modality, volume.source)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        first = write_volume(folder / "scan000.nii.gz", volume)
        paths = [first, *(folder / f"scan{number:03}.nii.gz" for number in range(1, count))]
        for path in paths[1:]:
            os.link(first, path)
        ways = {"plain": [], "local": ["--scheduler", "local"]}
        for turn in range(rounds):
            for name, more in ways.items():
                out = folder / "out"
                shutil.rmtree(out, ignore_errors=True)
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "napari_transunet", "segment", *map(str, paths), "-o", str(out),
                     "-c", checkpoint, *more],
                    check=True, capture_output=True,
                )  # fmt: skip
                found.setdefault(name, []).append(round(time.perf_counter() - began, 2))
                print(turn, name, found[name][-1], flush=True)
    shape = list(volume.data.shape)
    return {"scans": count, "shape_zyx": shape, "checkpoint": checkpoint, "seconds": found}


def _nothing(number: int) -> Any:
    from napari_transunet.cluster.answers import Done

    return Done(number)


def overhead(units: int) -> dict[str, Any]:
    """Milliseconds a unit that does nothing takes, with as many of them at the scheduler as usual."""
    from napari_transunet.cluster.batch import Batch, Unit
    from napari_transunet.cluster.connecting import client_at

    found = []
    with cluster(threads=3) as (address, scheduler), client_at(address) as client:
        for turn in range(4):  # the first one warms up
            busy, began = sum(scheduler.cpu_times()[:2]), time.perf_counter()
            work = (Unit(str(n), f"nothing-{turn}-{n}", _nothing, (n,)) for n in range(units))
            assert sum(1 for _ in Batch(client).run(work)) == units
            found.append(
                {
                    "ms_a_unit": round(1000 * (time.perf_counter() - began) / units, 3),
                    "scheduler_cpu_ms_a_unit": round(
                        1000 * (sum(scheduler.cpu_times()[:2]) - busy) / units, 3
                    ),
                }
            )
            print(found[-1], flush=True)
    return {"units": units, "rounds": found[1:]}


def _no_labels(given: Any = None) -> Any:
    """Labels of zeros for a scan that came over; what they cost is the client's work."""
    from napari_transunet.cluster.answers import Done, Lacks, PackedLabels

    if given is None:
        return Lacks("files", "scan", "here")
    return Done((PackedLabels.of(np.zeros(given.data.shape, np.uint8)), given.geometry))


def sent(scan: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds for `count` scans that the client reads and sends, and whose labels it writes; no network runs."""
    from napari_transunet.cluster import batch
    from napari_transunet.cluster.connecting import client_at
    from napari_transunet.io.reading import read_volume
    from napari_transunet.io.writing import write_labels
    from napari_transunet.volumes.labels import LabelSet

    found: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as place,
        cluster(threads=3) as (address, _),
        client_at(address) as client,
    ):

        def written(number: int, result: Any) -> None:
            labels, geometry = result
            write_labels(
                Path(place) / f"{number}.nii.gz", labels.unpacked(), geometry, LabelSet(), overwrite=True
            )

        for turn in range(rounds):
            for hands in (1, 4):
                batch._HANDS = hands
                units = (
                    batch.Unit(
                        str(number),
                        f"sent-{turn}-{hands}-{number}",
                        _no_labels,
                        files=lambda: read_volume(scan),
                        finish=partial(written, number),
                    )
                    for number in range(count)
                )
                began = time.perf_counter()
                assert all(one.state is batch.State.DONE for one in batch.Batch(client).run(units))
                seconds = round(time.perf_counter() - began, 2)
                found.setdefault(f"threads of the client: {hands}", []).append(seconds)
                print(turn, hands, seconds, flush=True)
    return {"scans": count, "shape_zyx": list(read_volume(scan).data.shape), "seconds": found}


def _told_alone(_plan: Any, unit: Any) -> Any:
    from napari_transunet.cluster.answers import Done
    from napari_transunet.cluster.segmenting import SegmentedScan

    return Done(SegmentedScan(unit.target))


def many(count: int, step: int, *, idle: bool) -> dict[str, Any]:
    """Tiny scans: time and memory after every `step` of them.

    `idle`: the workers get and answer what they would, and do nothing, so that only handing out is measured.
    """
    from dataclasses import replace

    import torch

    from napari_transunet.checkpoints.card import default_card
    from napari_transunet.checkpoints.saving import save_checkpoint
    from napari_transunet.cluster.batch import Batch, State
    from napari_transunet.cluster.checkpoints import reference_to
    from napari_transunet.cluster.connecting import client_at
    from napari_transunet.cluster.segmenting import SegmentationPlan, marker_in, segmentation_units
    from napari_transunet.export.segmentation import LoadingOptions, ReadingOptions
    from napari_transunet.inference.options import PredictorOptions
    from napari_transunet.io.writing import write_volume
    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.volumes.volume import Volume

    rows = []
    with tempfile.TemporaryDirectory() as place, cluster(threads=3) as (address, scheduler):
        folder, out = Path(place), Path(place) / "out"
        out.mkdir()
        torch.manual_seed(0)
        net = TransUNet("testing", num_classes=3, img_size=32)
        checkpoint = save_checkpoint(folder / "tiny.safetensors", net, default_card(net, modality="CT"))
        first = write_volume(folder / "0.nii", Volume.from_array(np.zeros((1, 8, 8), np.int16)))
        paths = [folder / f"{number:05}.nii" for number in range(count)]
        for path in paths:
            os.link(first, path)
        reference, _ = reference_to(str(checkpoint), LoadingOptions())
        own = psutil.Process()
        with client_at(address) as client, marker_in(out) as marker:
            plan = SegmentationPlan(
                (reference,),
                PredictorOptions(device="cpu", backend="torch"),
                LoadingOptions(),
                ReadingOptions(),
                False,
                marker,
            )
            units = segmentation_units(paths, [out / f"{path.stem}.nii" for path in paths], plan)
            if idle:
                units = (replace(unit, function=_told_alone) for unit in units)
            began = time.perf_counter()
            for number, one in enumerate(Batch(client).run(units), 1):
                assert one.state is State.DONE, one
                if number % step == 0 or number == 1:
                    rows.append(
                        {
                            "scans": number,
                            "seconds": round(time.perf_counter() - began, 2),
                            "client_mb": round(own.memory_info().rss / 1e6, 1),
                            "scheduler_mb": round(scheduler.memory_info().rss / 1e6, 1),
                            "client_cpu_s": round(sum(own.cpu_times()[:2]), 2),
                            "scheduler_cpu_s": round(sum(scheduler.cpu_times()[:2]), 2),
                        }
                    )
                    print(rows[-1], flush=True)
        assert idle or len(list(out.glob("*.nii"))) == count
    return {"rows": rows}


def first_slice(scan: Path, checkpoint: str, rounds: int) -> dict[str, Any]:
    """Seconds from asking for a slice to its labels: here and on a worker, the first time and later, in turn."""
    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.checkpoints.registry import resolve_checkpoint
    from napari_transunet.cluster.address import ClusterAddress
    from napari_transunet.cluster.live import RemotePredictor
    from napari_transunet.inference.options import PredictorOptions
    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.io.reading import read_volume

    volume = read_volume(scan)
    middle = volume.data.shape[0] // 2
    loaded = load_checkpoint(resolve_checkpoint(checkpoint))
    options = PredictorOptions(device="cpu")
    found: dict[str, list[float]] = {}

    def asked(name: str, predictor: Any) -> None:
        began = time.perf_counter()
        batches = predictor.iter_batches(volume, first=middle, uncertainty=True)
        assert next(batches)[0].index == middle
        found.setdefault(name, []).append(round(time.perf_counter() - began, 3))
        batches.close()
        time.sleep(1)  # what was asked ahead ends

    with cluster() as (address, _):
        began = time.perf_counter()
        here = Predictor(loaded, options)
        prepared = time.perf_counter() - began
        remote = RemotePredictor(loaded, options, ClusterAddress(address))
        asked("remote, first: connecting, the checkpoint, the scan", remote)
        for _ in range(rounds):
            asked("here", here)
            asked("remote, later", remote)
        remote.close(wait=True)
    print(found, flush=True)
    shape = list(volume.data.shape)
    medians = {name: statistics.median(times) for name, times in found.items()}
    return {"shape_zyx": shape, "preparing_here": round(prepared, 3), "seconds": found, "median": medians}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["throughput", "overhead", "sent", "many", "first-slice"])
    parser.add_argument("scan", nargs="?", type=Path)
    parser.add_argument("--checkpoint", default="abdominal-organs-ct")
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", type=int)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--idle", action="store_true")
    given = parser.parse_args()
    if given.what == "throughput":
        found = throughput(given.scan, given.checkpoint, given.scans, given.rounds, given.side)
    elif given.what == "overhead":
        found = overhead(given.units)
    elif given.what == "sent":
        found = sent(given.scan, given.scans, given.rounds)
    elif given.what == "many":
        found = many(given.count, max(1, given.count // 10), idle=given.idle)
    else:
        found = first_slice(given.scan, given.checkpoint, given.rounds)
    print(json.dumps(found, indent=1))
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    name = given.what if given.side is None else f"{given.what} {given.side}"
    name += " idle" if given.idle else ""
    RESULTS.write_text(json.dumps(known | {name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
