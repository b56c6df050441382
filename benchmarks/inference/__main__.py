"""The command `benchmark` and more: networks with random weights, roofline, memory, worst organ, batches, a profile.

python -m benchmarks.inference [VOLUME] [--variant NAME] [--quick] [--full] [--plot FOLDER] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from benchmarks.inference.plots import write_plots
from benchmarks.inference.roofline import matmul_throughput
from benchmarks.inference.study import random_model, study_model
from napari_transunet.benchmark import ModelUnderTest, middle_slices, run_benchmark
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.registry import default_checkpoint, resolve_checkpoint
from napari_transunet.cli.benchmark import print_report
from napari_transunet.cli.printing import strict
from napari_transunet.inference.devices import resolve_device
from napari_transunet.io.reading import read_volume
from napari_transunet.volumes.phantom import synthetic_ct


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("volume", nargs="?", help="a CT; a synthetic one without it")
    parser.add_argument("--checkpoint", help="the shipped one for abdominal CT without it")
    parser.add_argument(
        "--variant", action="append", default=[], help="also this network, with random weights"
    )
    parser.add_argument("--img-size", type=int, default=None, help="of the networks with random weights; 224")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--slices", type=int, default=None)
    parser.add_argument("--quick", action="store_true", help="a small volume, once: whether it runs")
    parser.add_argument("--full", action="store_true", help="also batch sizes, up to 1,000 slices, a profile")
    parser.add_argument("--plot", type=Path, help="draw two plots into this folder; implies --full")
    parser.add_argument("--out", type=Path, help="write the numbers to this file as JSON")
    options = parser.parse_args()
    quick, device = options.quick, resolve_device(options.device)
    rounds = options.rounds or (1 if quick else 3)
    slices = options.slices or (7 if quick else 48)
    plane = (128, 128) if quick else (512, 512)
    scan = read_volume(options.volume) if options.volume else synthetic_ct((max(8, slices), *plane))[0]
    volume = middle_slices(scan, slices)
    path = resolve_checkpoint(options.checkpoint) if options.checkpoint else default_checkpoint()
    checkpoints = [load_checkpoint(path)] if path is not None else []
    size = options.img_size or (64 if quick else 224)
    models = [ModelUnderTest(one.name, one) for one in checkpoints]
    models += [random_model(variant, size, volume) for variant in options.variant]
    console, progress = Console(), Console(stderr=True)
    report = run_benchmark(models, volume, device, rounds=rounds, report=progress.print)
    print_report(report)
    full = options.full or options.plot is not None
    progress.print("matmul throughput")
    rates = matmul_throughput(device, 0.3 if quick else 1.0)
    studies = []
    for model, timed in zip(models, report.models, strict=True):
        progress.print(f"{model.name}: memory, agreement{', batches, length, profile' if full else ''}")
        studies.append(
            study_model(model, volume, device, timed, rates, rounds=rounds, full=full, quick=quick)
        )
    studied = {"matmul_tera_per_s": rates, "studies": [asdict(study) for study in studies]}
    found = strict({**asdict(report), **studied})
    console.print_json(data=strict(studied))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    if options.plot is not None:
        options.plot.mkdir(parents=True, exist_ok=True)
        for drawn in write_plots(studies, options.plot):
            progress.print(f"Drawn: {drawn}")


if __name__ == "__main__":
    main()
