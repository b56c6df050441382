"""Training a TransUNet on cases that lie in memory."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from monai.losses import DiceCELoss
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_transunet.errors import InputError
from napari_transunet.training.augmentation import Augmentation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.training.cases import Case

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    steps, batch : optimiser steps, and slices in each
    learning_rate, warmup, weight_decay : AdamW; linear warm-up over `warmup` steps, then a cosine to zero
    ema : decay of the averaged weights that are the result
    foreground : share of slices drawn from those that hold an organ
    context : 1, or 3 for the slices below and above as further channels
    seed : of every random draw
    """

    steps: int = 1300
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    ema: float = 0.995
    foreground: float = 0.8
    context: int = 3
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is: steps done, mean loss since the last report, seconds since the start."""

    step: int
    steps: int
    loss: float
    seconds: float

    @property
    def remaining(self) -> float:
        """Seconds left at the pace so far."""
        return self.seconds / self.step * (self.steps - self.step)


def train(
    net: TransUNet,
    cases: Sequence[Case],
    recipe: Recipe,
    *,
    device: str | torch.device = "cpu",
    report_every: int = 25,
    on_progress: Callable[[Progress, nn.Module], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TransUNet:
    """Train `net` in place and leave it with the averaged weights, in eval mode.

    `on_progress` is called every `report_every` steps with the averaged network, which it must not change;
    `cancelled` is asked before each step, and what was learnt until then is kept.

    Raises
    ------
    InputError
        No cases, or a loss that is no longer finite (the learning rate is too high, or the data is damaged).
    """
    if not cases:
        raise InputError("There are no cases to train on.")
    torch.manual_seed(recipe.seed)
    net.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    optimiser = torch.optim.AdamW(
        _parameter_groups(net, recipe.weight_decay), lr=recipe.learning_rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _learning_rate_factor(step, recipe))
    loss_of = DiceCELoss(
        to_onehot_y=True, softmax=True, include_background=False, batch=True, lambda_dice=0.5, lambda_ce=0.5
    )
    draw = _Sampler(cases, recipe)
    losses: list[float] = []
    start = time.monotonic()
    for step in range(1, recipe.steps + 1):
        if cancelled is not None and cancelled():
            break
        images, labels = (part.to(device) for part in draw())
        images, labels = recipe.augmentation(images, labels)
        loss = loss_of(net(images.contiguous(memory_format=torch.channels_last)), labels[:, None].long())
        if not torch.isfinite(loss):
            raise InputError(f"The loss is {loss.item()} at step {step}; try a lower learning rate.")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(net)
        losses.append(loss.item())
        if step % report_every == 0 or step == recipe.steps:
            progress = Progress(step, recipe.steps, sum(losses) / len(losses), time.monotonic() - start)
            losses.clear()
            _LOG.info(
                "step %d of %d, loss %.3f, %.0f s left", step, recipe.steps, progress.loss, progress.remaining
            )
            if on_progress is not None:
                on_progress(progress, averaged.module)
    net.load_state_dict(averaged.module.state_dict())
    return net.eval()


class _Sampler:
    """Draws batches: (B, context, H, W) float32 and (B, H, W) uint8.

    Every case gets a share that grows with the square root of its slices, so that short ones count.
    """

    def __init__(self, cases: Sequence[Case], recipe: Recipe) -> None:
        self._cases = cases
        self._recipe = recipe
        self._shares = torch.tensor([math.sqrt(len(case)) for case in cases])
        self._foreground = [case.labels.flatten(1).any(1).nonzero()[:, 0] for case in cases]

    def __call__(self) -> tuple[Tensor, Tensor]:
        drawn = torch.multinomial(self._shares, self._recipe.batch, replacement=True).tolist()
        slices = [self._slice(self._cases[index], self._foreground[index]) for index in drawn]
        images, labels = zip(*slices, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _slice(self, case: Case, foreground: Tensor) -> tuple[Tensor, Tensor]:
        if len(foreground) and torch.rand(()) < self._recipe.foreground:
            z = int(foreground[torch.randint(len(foreground), ())])
        else:
            z = int(torch.randint(len(case), ()))
        if self._recipe.context == 1:
            return case.planes[z : z + 1], case.labels[z]
        # Neighbours at other distances stand for scans with thinner and thicker slices.
        distance = int(torch.multinomial(torch.tensor([0.15, 0.65, 0.2]), 1))
        neighbours = torch.tensor([z - distance, z, z + distance]).clamp(0, len(case) - 1)
        return case.planes[neighbours], case.labels[z]


def _learning_rate_factor(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay; norms, biases and position embeddings do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        (plain if parameter.ndim < 2 or "position_embeddings" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
