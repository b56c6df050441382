"""The training as Lightning runs it: one step, one validation, and what is averaged.

Every random draw of a step follows from the recipe's seed and the step's number. So nothing about random states has to
be stored, and a training that is resumed repeats what an uninterrupted one would have done.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytorch_lightning as lightning
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from napari_transunet.errors import InputError
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.losses import UNKNOWN, PartialDiceCELoss
from napari_transunet.training.optimiser import parameter_groups
from napari_transunet.training.slices import SliceStore, mixed_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
    from torch import Tensor

    from napari_transunet.training.cases import Case
    from napari_transunet.training.recipes import Plan, Recipe

VALIDATION_DICE = "val_dice"

_Tensors = tuple["Tensor", ...] | list["Tensor"]


class SegmentationModule(lightning.LightningModule):
    """A network that learns by a recipe.

    Parameters
    ----------
    net : (B, 1 or 3, H, W) float -> logits (B, classes, H, W); any such module
    cases, validation : to learn from, and to be scored on after each validation interval
    recipe, plan : how, and for how long
    compiled : whether the training step runs through `torch.compile`
    """

    def __init__(
        self,
        net: nn.Module,
        cases: Sequence[Case],
        validation: Sequence[Case],
        recipe: Recipe,
        plan: Plan,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        # Lightning leaves a network that was loaded to predict as it is, without dropout and with fixed batch norms.
        self.net = net.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = None
        if recipe.ema is not None:
            self.averaged = AveragedModel(net, multi_avg_fn=self._average, use_buffers=True)
            self.averaged.requires_grad_(False)
        self.recipe, self.plan = recipe, plan
        self.loss_of = PartialDiceCELoss(background=recipe.background_in_dice)
        self._slices = SliceStore(cases)
        self._validation = validation
        self._scores: list[Tensor] = []
        self.examples: list[tuple[Tensor, Tensor, Tensor]] = []
        """A few slices of the last validation: (H, W) in 0..1, and the (H, W) labels of reference and network."""
        self.stopped = False
        """Whether the training was asked to stop. The validation interval that it is in then counts for nothing."""
        self._compiled = compiled
        if compiled:
            self.net.compile()

    @property
    def result(self) -> nn.Module:
        """The network that the training is about: the averaged one, where there is one."""
        return self.net if self.averaged is None else self.averaged.module

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's name
        """Let the slices go where the network is."""
        self._slices.to(self.device)

    def on_train_start(self) -> None:
        """Record a step's passes through the network, for a GPU to run them without waiting for the host.

        They are some thousand small kernels, which take several times as long to launch as to run.
        """
        alone = self.device.type == "cuda" and self.trainer.world_size == 1
        if not alone or self._compiled or not isinstance(self.net, TransUNet):
            return
        buffers = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        images, _, _ = self._slices.batch(
            self._slices.drawn(0, self.recipe), self.recipe.context, self.device
        )
        with self.trainer.precision_plugin.forward_context():
            torch.cuda.make_graphed_callables(
                self.net, (images.contiguous(memory_format=torch.channels_last),)
            )
        for name, buffer in self.net.named_buffers():
            buffer.copy_(buffers[name])  # batch norms averaged what was recorded

    def train_dataloader(self) -> DataLoader[int]:
        """The steps of a validation interval; their slices are drawn by the step's number."""
        return DataLoader(range(self.plan.interval_steps), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[int]:
        """The numbers of this process's share of the validation cases.

        All processes have as many, since they ask each other after each; numbers beyond the last case stand for none.
        """
        world = self.trainer.world_size
        share = range(self.global_rank, world * math.ceil(len(self._validation) / world), world)
        return DataLoader(share, batch_size=None)  # type: ignore[arg-type]

    def training_step(self, *_: object) -> Tensor:
        """The loss of this process's share of a step's slices.

        Raises
        ------
        InputError
            The loss is no longer finite.
        """
        step, world = self.trainer.global_step, self.trainer.world_size
        cuts = self._slices.drawn(step, self.recipe).share(slice(self.global_rank, None, world))
        torch.manual_seed(mixed_seed(self.recipe.seed, step, self.global_rank))
        images, labels, annotated = self._slices.batch(cuts, self.recipe.context, self.device)
        with torch.autocast(self.device.type, enabled=False):
            images, labels = self.recipe.augmentation(images, labels)
        logits: Tensor = self.net(images.contiguous(memory_format=torch.channels_last))
        loss: Tensor = self.loss_of(logits.float(), labels, annotated)
        # All processes stop, or none: one that went on alone would wait for the others for ever.
        if not self.trainer.strategy.reduce_boolean_decision(bool(torch.isfinite(loss))):
            raise InputError(
                f"The loss is not finite at step {step + 1}, so the training was stopped; try a lower learning rate "
                f"than {self.recipe.learning_rate:g}, precision float32, or look for damaged values in the images."
            )
        self.log("loss", loss.detach(), on_step=True, on_epoch=False)
        return loss

    def on_before_optimizer_step(self, *_: object) -> None:
        """Cut the gradients; by hand, since Lightning cuts none of a fused optimiser."""
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)

    def on_train_batch_end(self, *_: object) -> None:
        """The average follows the weights."""
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)

    def _average(self, averaged: _Tensors, current: _Tensors, _: object) -> None:
        """Move the averages towards the weights; faster at the start, when there is little to average."""
        assert self.recipe.ema is not None
        decay = min(self.recipe.ema, (1 + self.global_step) / (10 + self.global_step))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # how many batches a norm has seen
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    def validation_step(self, number: int, _: int) -> None:
        """Dice of each class of one case, at the network's size."""
        if self.stopped or number >= len(self._validation):
            return
        case = self._validation[int(number)]
        counts = torch.zeros(3, 1, dtype=torch.long, device=self.device)
        middle = int(((case.labels > 0) & (case.labels != UNKNOWN)).flatten(1).sum(1).argmax())
        for begin in range(0, len(case), max(1, self.recipe.batch)):
            images, labels = case_batch(case, begin, self.recipe.batch, self.recipe.context)
            logits = self.result(images.to(self.device, memory_format=torch.channels_last))
            predicted = logits.argmax(1)
            counts = counts + overlap(predicted, labels.to(self.device), logits.shape[1])
            if begin <= middle < begin + len(images) and len(self.examples) < 4:
                at = middle - begin
                self.examples.append((images[at, images.shape[1] // 2], labels[at], predicted[at].cpu()))
        dice = dice_of(counts)
        if case.annotated is not None:  # an organ that was not annotated throughout has no score
            dice = dice.masked_fill(~case.annotated.all(0)[1:], math.nan)
        self._scores.append(dice)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._scores.clear()
        self.examples.clear()

    def on_validation_epoch_end(self) -> None:
        """The mean Dice over cases and classes; classes that a case neither has nor is given do not count."""
        if self.stopped:
            return
        scores = torch.cat(self._scores) if self._scores else torch.zeros(0)
        known = scores[~scores.isnan()]
        sums = torch.tensor([known.sum().item(), float(len(known))], device=self.device)
        gathered = self.all_gather(sums)
        assert isinstance(gathered, torch.Tensor)
        total, count = gathered.reshape(-1, 2).sum(0).tolist()
        # The key is always logged, so that early stopping and loggers find it.
        self.log(VALIDATION_DICE, total / count if count else 0.0, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The recipe's optimiser and schedule."""
        recipe, steps = self.recipe, self.plan.steps
        optimiser: torch.optim.Optimizer
        if recipe.optimiser == "sgd":
            optimiser = torch.optim.SGD(
                self.net.parameters(),
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
            )
        else:
            # A fused optimiser would unscale float16's gradients itself, after they were cut.
            fused = not str(self.trainer.precision).startswith("16")
            groups = parameter_groups(self.net, recipe.weight_decay)
            optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: recipe.learning_rate_at(step, steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def case_batch(case: Case, begin: int, size: int, context: int) -> tuple[Tensor, Tensor]:
    """Consecutive slices of a case: (B, context, H, W) float32 and (B, H, W) uint8."""
    numbers = torch.arange(begin, min(begin + size, len(case)))
    if context == 1:
        return case.planes[numbers, None].float(), case.labels[numbers]
    around = (numbers[:, None] + torch.tensor([-1, 0, 1])).clamp(0, len(case) - 1)
    return case.planes[around].float(), case.labels[numbers]


def overlap(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(3, classes − 1): voxels of both, of the first and of the second, for each class but the background.

    Voxels whose label is `UNKNOWN` are left out.
    """
    known = labels != UNKNOWN
    first, second = predicted[known].long(), labels[known].long()
    both = torch.bincount(first[first == second], minlength=classes)
    counts = torch.stack(
        (both, torch.bincount(first, minlength=classes), torch.bincount(second, minlength=classes))
    )
    return counts[:, 1:]


def dice_of(counts: Tensor) -> Tensor:
    """(classes − 1,) of what `overlap` counted; NaN where a class is in neither."""
    both, first, second = counts.cpu()
    return torch.where(first + second > 0, 2 * both / (first + second), math.nan)
