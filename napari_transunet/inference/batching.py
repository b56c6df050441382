"""Slices a batch at a time: in which order, how many, and fewer where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from napari_transunet.errors import InputError
from napari_transunet.files import available_memory
from napari_transunet.inference.devices import free_cached_memory, is_out_of_memory
from napari_transunet.inference.prediction import PredictionCancelled

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from napari_transunet.inference.backends import Backend

_log = logging.getLogger(__name__)

_BATCH_PIXELS: Mapping[str, int] = MappingProxyType(
    {"cpu": 4 * 224 * 224, "mps": 8 * 224 * 224, "cuda": 64 * 224 * 224}
)
"""Pixels of a batch by default. On the CPU more gains nothing and would only be longer to cancel. On an H200,
64 slices of 224 × 224 were faster than 32 by a fifth; 128 helped one network and not the other."""

_OPENVINO_BATCH_PIXELS = 2 * 224 * 224
"""The same for OpenVINO, which gains little beyond and fills a first slice up to a whole batch."""

_MEMORY_SHARE = 0.8
"""Of the free memory, that the probabilities of several planes, or attention maps, may take."""

_Result = TypeVar("_Result")


class OutOfMemoryError(InputError):
    """The memory cannot hold even a single slice, or what its tokens attend to."""


def default_batch_size(device: torch.device, backend: Backend, size: tuple[int, int]) -> int:
    """Slices a batch that suit the device, for a network of that input size (H, W)."""
    pixels = _OPENVINO_BATCH_PIXELS if backend == "openvino" else _BATCH_PIXELS[device.type]
    return max(1, pixels // (size[0] * size[1]))


def fits_in_memory(size: int) -> bool:
    """Whether so many bytes can be taken of the main memory without crowding out the rest."""
    return size <= _MEMORY_SHARE * available_memory()


def if_it_fits(
    compute: Callable[[Sequence[int]], _Result], indices: Sequence[int], device: torch.device
) -> _Result | None:
    """What `compute` makes of these slices; None where the device's memory ran out."""
    try:
        return compute(indices)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # The traceback held the tensors until here.
    free_cached_memory(device)
    return None


@dataclass(frozen=True)
class BatchRunner:
    """Computes slices a batch at a time, halving the batch as often as memory runs out.

    Attributes
    ----------
    device
        Where the network runs.
    batch_size
        Slices of a batch to begin with.
    size
        The network's input (H, W) in pixels.
    cancelled
        Asked before every batch.
    """

    device: torch.device
    batch_size: int
    size: tuple[int, int]
    cancelled: Callable[[], bool]

    def run(
        self,
        order: Sequence[int],
        compute: Callable[[Sequence[int]], list[_Result]],
        *,
        first_alone: bool = False,
    ) -> Iterator[tuple[Sequence[int], list[_Result]]]:
        """The slices of each batch and what `compute` makes of them; ends early once `cancelled` says so.

        With `first_alone`, the first slice is a batch of its own.

        Raises
        ------
        OutOfMemoryError
            The device cannot hold even a single slice.
        """
        limit, done = self.batch_size, 0
        while done < len(order) and not self.cancelled():
            indices = order[done : done + (1 if first_alone and done == 0 else limit)]
            try:
                results = if_it_fits(compute, indices, self.device)
            except PredictionCancelled:
                return
            if results is None:
                limit = self._halved(len(indices))
                continue
            yield indices, results
            done += len(indices)

    def _halved(self, batch: int) -> int:
        if batch == 1:
            raise OutOfMemoryError(
                f"The memory of {self.device} does not hold a single slice at {self.size[0]}×{self.size[1]}; "
                "choose another device, a smaller variant, or a smaller image size."
            )
        _log.warning(
            "Out of memory on %s with %d slices a batch; going on with %d.", self.device, batch, batch // 2
        )
        return batch // 2


def outward(n: int, first: int) -> list[int]:
    """The numbers 0..n−1 by their distance from `first`, the higher one first: 3 of 5 gives 3, 4, 2, 1, 0."""
    if not 0 <= first < n:
        raise InputError(f"There is no slice {first}; this volume's slices are 0 to {n - 1}.")
    return nearest_first(range(n), first)


def nearest_first(slices: Iterable[int], first: int) -> list[int]:
    """`slices`, each once, by their distance from `first`, the higher one first."""
    return sorted(set(slices), key=lambda index: (abs(index - first), -index))
