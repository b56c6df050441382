"""The machine and what runs on it: facts, and how fast it multiplies matrices."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import Tensor

from napari_transunet import __version__
from napari_transunet.benchmarking.timing import synchronise
from napari_transunet.segmentation.devices import available_devices

_PACKAGES = ("torch", "openvino", "numpy", "scipy", "napari")
_FIRST_SIZE = 512
_LARGEST_SIZE = {"cpu": 4096}
_LARGEST_ON_GPU = 16384
_REPETITIONS = 10
_LONG_ENOUGH = 0.1
"""Of the time given: a larger product than one that takes this share is not tried."""


@dataclass(frozen=True)
class Machine:
    """Where something was measured.

    Attributes
    ----------
    instructions : the widest that PyTorch uses on the processor, such as "AVX512"
    threads : that PyTorch computes with
    load : mean number of busy processes in the minute before; None where the system does not tell
    versions : of Python, this package and those that compute
    """

    processor: str
    instructions: str
    devices: Sequence[str]
    threads: int
    memory_gb: float
    load: float | None
    system: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class MatrixRate:
    """The best rate of square matrix products in one precision: 10¹² operations a second, and the side it was at."""

    precision: str
    tera_per_s: float
    size: int


def describe_machine() -> Machine:
    """What this machine is, and how busy it is now."""
    devices = available_devices()
    versions = {"napari-transunet": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return Machine(
        processor=devices[-1].label.removeprefix("CPU – "),
        instructions=torch.backends.cpu.get_cpu_capability(),
        devices=[device.label for device in devices],
        threads=torch.get_num_threads(),
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.release()}",
        versions=versions,
    )


def matrix_rates(device: torch.device, seconds: float = 1.0) -> list[MatrixRate]:
    """How fast PyTorch multiplies matrices there: float32, bfloat16 and int8, as far as it can.

    A product of two n×n matrices counts as 2 n³ operations. Sizes double while there is time; the best counts.
    What is slower than float32 has no instructions of its own here, or none that PyTorch uses, and is left out.

    Parameters
    ----------
    device : where to multiply
    seconds : for each precision, about
    """
    found = (
        _best_rate(precision, make, multiply, device, seconds)
        for precision, make, multiply in (
            ("float32", partial(_reals, torch.float32), torch.mm),
            ("bfloat16", partial(_reals, torch.bfloat16), torch.mm),
            # Private to PyTorch; where it is gone, or the device lacks it, there is no rate in 8 bits.
            ("int8", _integers, getattr(torch, "_int_mm", None)),
        )
        if multiply is not None
    )
    rates = [rate for rate in found if rate is not None]
    return [rate for rate in rates if rate.tera_per_s >= rates[0].tera_per_s]


def _reals(dtype: torch.dtype, size: int, device: torch.device) -> Tensor:
    return torch.randn(size, size, device=device).to(dtype)


def _integers(size: int, device: torch.device) -> Tensor:
    return torch.randint(-127, 128, (size, size), device=device).to(torch.int8)


def _best_rate(
    precision: str,
    make: Callable[[int, torch.device], Tensor],
    multiply: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
    seconds: float,
) -> MatrixRate | None:
    best: MatrixRate | None = None
    end = time.perf_counter() + seconds
    size = _FIRST_SIZE
    while size <= _LARGEST_SIZE.get(device.type, _LARGEST_ON_GPU):
        try:
            first, second = make(size, device), make(size, device).t()
            least = _least_seconds(partial(multiply, first, second), device, end)
        except (RuntimeError, MemoryError):  # not offered in this precision, or too large
            break
        rate = MatrixRate(precision, 2 * size**3 / least / 1e12, size)
        best = rate if best is None or rate.tera_per_s > best.tera_per_s else best
        if least > _LONG_ENOUGH * seconds or time.perf_counter() > end:
            break
        size *= 2
    return best


def _least_seconds(product: Callable[[], Tensor], device: torch.device, end: float) -> float:
    """Of one product: the least mean of a few, given at once, so that a GPU does not wait for the next."""
    at_once = 1 if device.type == "cpu" else 10
    product()
    least = float("inf")
    for _ in range(_REPETITIONS):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(at_once):
            product()
        synchronise(device)
        least = min(least, (time.perf_counter() - started) / at_once)
        if time.perf_counter() > end:
            break
    return least
