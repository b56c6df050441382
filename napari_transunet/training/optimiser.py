"""Which weights an optimiser lets decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay; norms, biases and position embeddings do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        (plain if parameter.ndim < 2 or "position_embeddings" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
