"""The memory that a piece of work takes at its highest."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable, Iterator

import psutil
import torch

_PERIOD = 0.02  # seconds between two samples: rare enough to take no time from what is measured


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """A function that says by how many MB memory rose at most within the block.

    On CUDA it is what PyTorch took of the GPU's memory; elsewhere this process's resident memory. What earlier work
    freed is given back to the system first, as far as the system lets it; where not, it is used again without a rise.
    """
    gc.collect()
    _give_back_freed_memory()
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


class PeakMemory:
    """The peaks of several works, by name; of one that ran more than once, the highest."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peaks: dict[str, float] = {}

    @contextlib.contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Look at memory within the block."""
        with peak_memory(self._device) as peak:
            yield
            self._peaks[name] = max(self._peaks.get(name, 0.0), peak())

    def __getitem__(self, name: str) -> float:
        """MB."""
        return self._peaks[name]


def _give_back_freed_memory() -> None:
    """The C library keeps freed memory for later; glibc gives it back when asked, others are not asked."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
