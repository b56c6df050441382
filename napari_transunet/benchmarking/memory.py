"""The memory that a piece of work takes at its highest."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator

import psutil
import torch

_PERIOD = 0.02  # seconds between two looks: rare enough to take no time from what is measured


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """A function that says by how many MB memory rose at most within the block.

    On CUDA it is what PyTorch took of the GPU's memory; elsewhere this process's resident memory. Memory that an
    earlier work gave back to the allocator, but not to the system, may be used again without a rise.
    """
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
        while not done.wait(_PERIOD):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: (max(highest, process.memory_info().rss) - before) / 1e6
    finally:
        done.set()
        watcher.join()
