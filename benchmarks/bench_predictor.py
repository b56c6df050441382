"""The predictor against the plain procedure: speed, first slice, memory, and whether both say the same.

The plain procedure is what the published test script does: for every slice a cubic-spline zoom with scipy, the
network as it was trained (nothing folded, batch 1, float32), argmax, and a nearest zoom back. Both run in turn in
the same process on the same slices.

    python benchmarks/bench_predictor.py [--quick] [--volume PATH] [--variant NAME ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from napari_transunet.files import atomic_path
from napari_transunet.model.transunet import TransUNet
from napari_transunet.segmentation.devices import available_devices
from napari_transunet.segmentation.predictor import Predictor
from napari_transunet.volumes.phantom import synthetic_ct
from napari_transunet.volumes.reading import read_volume

if TYPE_CHECKING:
    from napari_transunet.volumes.volume import Volume

Labels = npt.NDArray[Any]

NUM_CLASSES = 9
CT_LOW, CT_HIGH = -125, 275


@dataclass(frozen=True)
class Result:
    """One way of segmenting the slices, with one variant.

    `first_slice_s` is None for the plain procedure, where it is one slice's time; `prepare_s` is what the
    predictor takes to be made. `peak_mb` is what resident memory rose by, or what PyTorch took of the GPU.
    `equal_to_plain` is the share of equal labels, where the procedure is the same.
    """

    variant: str
    way: str
    device: str
    precision: str
    slices_per_s: float
    speedup: float
    first_slice_s: float | None
    prepare_s: float | None
    peak_mb: float
    equal_to_plain: float | None


def plain_procedure(net: TransUNet, data: npt.NDArray[Any], device: torch.device) -> Labels:
    """The published test procedure, slice by slice: (z, y, x) in HU -> labels."""
    height, width = net.img_size
    scaled = (np.clip(data, CT_LOW, CT_HIGH) - CT_LOW) / np.float32(CT_HIGH - CT_LOW)
    labels = np.zeros(data.shape, np.uint8)
    for z, plane in enumerate(scaled):
        h, w = plane.shape
        zoomed = ndimage.zoom(plane.astype(np.float32), (height / h, width / w), order=3)
        with torch.inference_mode():
            logits = net(torch.from_numpy(zoomed)[None, None].to(device))
        small = logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        labels[z] = ndimage.zoom(small, (h / height, w / width), order=0)
    return labels


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """A function that says by how many MB memory rose at most within the block."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 1e6
        return
    process = psutil.Process()
    before = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.005):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: (max(highest, process.memory_info().rss) - before) / 1e6
    finally:
        done.set()
        watcher.join()


def timed(work: Callable[[], Labels]) -> tuple[float, Labels]:
    start = time.perf_counter()
    labels = work()
    return time.perf_counter() - start, labels


def first_slice(predictor: Predictor, volume: Volume) -> float:
    """Seconds until the middle slice is there, of a predictor that is made already."""
    start = time.perf_counter()
    next(predictor.iter_slices(volume, first=len(volume.data) // 2))
    return time.perf_counter() - start


def network(variant: str, img_size: int) -> TransUNet:
    """With weights as at the start of a training; speed does not depend on them."""
    torch.manual_seed(0)
    net = TransUNet(variant, NUM_CLASSES, img_size).eval()
    head = net.segmentation_head[0]
    assert isinstance(head, torch.nn.Conv2d)
    assert head.bias is not None
    with torch.no_grad():  # so that both ways have several classes to agree on
        head.bias.sub_(net(torch.rand(1, 1, img_size, img_size)).mean(dim=(0, 2, 3)))
    return net


def measure(variant: str, volume: Volume, *, img_size: int, device: str, rounds: int) -> list[Result]:
    net = network(variant, img_size)
    ways: dict[str, dict[str, Any]] = {
        "predictor, paper": {"pipeline": "paper", "precision": "float32"},
        "predictor, card, float32": {"pipeline": "card", "precision": "float32"},
    }
    if Predictor(net, device=device).precision != torch.float32:
        ways["predictor, card"] = {"pipeline": "card", "precision": "auto"}

    predictors, prepare = {}, {}
    for way, options in ways.items():
        start = time.perf_counter()
        predictors[way] = Predictor(net, device=device, **options)
        prepare[way] = time.perf_counter() - start
    where = next(iter(predictors.values())).device
    net = net.to(where)

    works: dict[str, Callable[[], Labels]] = {"plain": partial(plain_procedure, net, volume.data, where)}
    for way, predictor in predictors.items():
        works[way] = partial(predictor.predict, volume)
    few = replace(
        volume, data=volume.data[:2], geometry=replace(volume.geometry, shape=(2, *volume.data.shape[1:]))
    )
    plain_procedure(net, few.data, where)
    for predictor in predictors.values():
        predictor.predict(few)

    seconds: dict[str, list[float]] = {way: [] for way in works}
    answers: dict[str, Labels] = {}
    peaks: dict[str, float] = {}
    for _ in range(rounds):
        for way, work in works.items():
            with peak_memory(where) as peak:
                took, answers[way] = timed(work)
                peaks[way] = max(peaks.get(way, 0), peak())
            seconds[way].append(took)

    rate = {way: len(volume.data) / statistics.median(took) for way, took in seconds.items()}
    return [
        Result(
            variant=variant,
            way=way,
            device=str(where),
            precision=str(predictors[way].precision if way in predictors else torch.float32).removeprefix(
                "torch."
            ),
            slices_per_s=rate[way],
            speedup=rate[way] / rate["plain"],
            first_slice_s=(
                statistics.median(first_slice(predictors[way], volume) for _ in range(3))
                if way in predictors
                else None
            ),
            prepare_s=prepare.get(way),
            peak_mb=peaks[way],
            equal_to_plain=(float((answers[way] == answers["plain"]).mean()) if "card" not in way else None),
        )
        for way in works
    ]


def machine() -> dict[str, Any]:
    return {
        "processor": available_devices()[-1].label,
        "devices": [device.label for device in available_devices()],
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def table(results: list[Result], title: str) -> Table:
    shown = Table(title=title)
    for heading in ("variant", "way", "precision"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("slices/s", "×", "first slice", "prepare", "peak MB", "= plain"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        shown.add_row(
            result.variant,
            result.way,
            result.precision,
            f"{result.slices_per_s:.2f}",
            f"{result.speedup:.2f}",
            "–" if result.first_slice_s is None else f"{result.first_slice_s:.2f} s",
            "–" if result.prepare_s is None else f"{result.prepare_s:.2f} s",
            f"{result.peak_mb:.0f}",
            "–" if result.equal_to_plain is None else f"{result.equal_to_plain:.3%}",
        )
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small volume and the smallest variant, once")
    parser.add_argument(
        "--volume", type=Path, help="a CT to measure with; by default a phantom of 512×512×48"
    )
    parser.add_argument("--variant", action="append", help="may be given more than once")
    parser.add_argument("--img-size", type=int, help="of the network, in pixels; 224, or 64 with --quick")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, help="how often everything is run; the median counts")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/predictor.json"))
    given = parser.parse_args()

    variants = given.variant or (["R50-ViT-Ti_16"] if given.quick else ["R50-ViT-Ti_16", "R50-ViT-B_16"])
    img_size = given.img_size or (64 if given.quick else 224)
    rounds = given.rounds or (1 if given.quick else 3)
    if given.volume is not None:
        volume = read_volume(given.volume)
    else:
        volume, _, _ = synthetic_ct((8, 128, 128) if given.quick else (48, 512, 512))

    conditions = machine() | {
        "volume": volume.source.name,
        "shape": volume.data.shape,
        "slices_of_one_value": sum(int(np.ptp(plane.clip(CT_LOW, CT_HIGH)) == 0) for plane in volume.data),
        "img_size": img_size,
        "rounds": rounds,
    }
    results = [
        result
        for variant in variants
        for result in measure(variant, volume, img_size=img_size, device=given.device, rounds=rounds)
    ]
    z, y, x = volume.data.shape
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table(results, f"{volume.source.name}, {x}×{y}×{z}, network at {img_size}×{img_size}"))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(given.out, overwrite=True) as path:
        path.write_text(
            json.dumps({"conditions": conditions, "results": [asdict(r) for r in results]}, indent=2)
        )
    console.print(
        f"Load before: {conditions['load_before']}; {conditions['slices_of_one_value']} slices of one value; "
        f"written to {given.out}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
