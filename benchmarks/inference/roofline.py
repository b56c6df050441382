"""What a network's operations alone would take at the rate at which this machine multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_transunet.benchmark import timed
from napari_transunet.model.transunet import TransUNet


def flops_per_slice(net: TransUNet) -> int:
    """Floating-point operations of matrix products and convolutions; a multiply-add counts as two."""
    with torch.device("meta"):
        empty = TransUNet(net.variant, net.num_classes, net.img_size, net.n_skip).eval()
        image = torch.empty(1, 3, *net.img_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty(image)
    return int(counter.get_total_flops())


def matmul_throughput(device: torch.device, seconds: float = 1.0) -> dict[str, float]:
    """How fast PyTorch multiplies square matrices: the best rate by precision, in 10¹² operations a second.

    A product of two n×n matrices counts as 2 n³ operations. Sizes double until `seconds` a precision are over. A
    precision slower than float32 has no instructions of its own here, and is left out.
    """
    found: dict[str, float] = {}
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("int8", torch.int8)):
        # The product in 8 bits is private to PyTorch: where it is gone there is no rate.
        multiply = torch.mm if dtype.is_floating_point else getattr(torch, "_int_mm", None)
        end, rate = time.perf_counter() + seconds, 0.0
        for power in range(9, 15):
            if multiply is None or time.perf_counter() > end or (power > 12 and device.type == "cpu"):
                break
            try:
                values = torch.randint(-100, 100, (2, 2**power, 2**power), device=device).to(dtype)
                least = _least_seconds(partial(multiply, values[0], values[1].t()), device, end)
            except (RuntimeError, MemoryError):  # not offered in this precision, or too large
                break
            rate = max(rate, 2 ** (3 * power + 1) / least / 1e12)
        if rate and rate >= found.get("float32", 0.0):
            found[precision] = rate
    return found


def _least_seconds(product: Callable[[], object], device: torch.device, end: float) -> float:
    """The least mean of ten products on a GPU, given at once so that it does not wait; of one on a CPU."""
    count = 1 if device.type == "cpu" else 10
    product()
    least = float("inf")
    for _ in range(10):
        least = min(least, timed(lambda: [product() for _ in range(count)], device)[0] / count)
        if time.perf_counter() > end:
            break
    return least
