"""Networks without memory: their names and shapes alone, or to be filled from a file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_IN_PLACE = frozenset({Tensor.fill_, Tensor.normal_, Tensor.uniform_, Tensor.zero_})


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Modules made meanwhile by this thread lie on PyTorch's meta device, and no initial weights are worked out."""
    with torch.device("meta"), _WithoutInitialWeights():
        yield


class _WithoutInitialWeights(TorchFunctionMode):
    """On the meta device most of the time to make a network goes into initial weights that it cannot hold."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _IN_PLACE or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
