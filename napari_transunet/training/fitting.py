"""Training a network on cases, for any caller: the command line, a script, or a window that fine-tunes.

Lightning runs it, silently; what happens is reported through callbacks.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_transunet.errors import InputError
from napari_transunet.inference.devices import resolve_device, resolve_precision

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger
    from torch import nn

    from napari_transunet.training.callbacks import Progress
    from napari_transunet.training.cases import Case
    from napari_transunet.training.recipes import Recipe

_PRECISIONS = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    Attributes
    ----------
    steps : optimiser steps done
    dice : mean validation Dice of the weights that were kept, at the network's size; None without validation cases
    cancelled : whether it was asked to stop
    seconds : that this run took
    main : whether this is the process that others look to; all but one of a distributed training have False
    """

    steps: int
    dice: float | None
    cancelled: bool
    seconds: float
    main: bool


def fit(
    net: nn.Module,
    cases: Sequence[Case],
    recipe: Recipe,
    *,
    validation: Sequence[Case] = (),
    device: str = "auto",
    precision: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    folder: Path | None = None,
    resume: bool = False,
    compiled: bool = False,
    loggers: Sequence[Logger] = (),
    on_progress: Callable[[Progress], None] | None = None,
    on_best: Callable[[nn.Module, float | None], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Outcome:
    """Train `net` in place, and leave it on the CPU, in eval mode, with the weights that scored best in validation.

    Without validation cases the last weights stay; cancelled before the first validation, what was learnt stays.

    Parameters
    ----------
    net : (B, 1 or 3, H, W) float -> logits (B, classes, H, W): a `TransUNet`, or any other module
    device, precision : as for `Predictor`; weights stay float32, activations are in `precision`
    devices, nodes : processes on each node, one a GPU (or so many on the CPU), and nodes
    folder : where to keep the state after every validation interval, for `resume`; without it none is kept
    resume : go on from the last whole interval in `folder`, with the same cases and recipe
    compiled : run the steps through `torch.compile`, which takes minutes first
    on_progress : called about twice a second
    on_best : called with the network and its Dice whenever there is a better one; it must not change it
    cancelled : asked after every step and every validation case

    Raises
    ------
    InputError
        No cases; a batch smaller than the processes; a device or precision that is not here; Lightning is not
        installed; a loss that is not finite; or nothing to resume.
    """
    if not cases:
        raise InputError("There are no cases to train on.")
    if recipe.batch < devices * nodes:
        raise InputError(
            f"A batch of {recipe.batch} slices cannot be shared among {devices * nodes} processes; make it larger."
        )
    lightning = lightning_or_sentence()
    from napari_transunet.training.callbacks import (
        LAST,
        AtomicCheckpointIO,
        BestWeights,
        CallersTermination,
        ImageLogger,
        ProgressReporter,
        ResumeState,
    )
    from napari_transunet.training.segmentation_module import VALIDATION_DICE, SegmentationModule

    where = resolve_device(device)
    last = None if folder is None else folder / LAST
    if resume and (last is None or not last.is_file()):
        raise InputError(f"There is no training to resume in {folder}; start it anew, without resuming.")
    plan = recipe.plan(sum(len(case) for case in cases))
    learner = SegmentationModule(net, cases, validation, recipe, plan, compiled=compiled)
    best = BestWeights(folder, on_best, validated=bool(validation))
    reporter = ProgressReporter(best, on_progress, cancelled)
    callbacks = [best, reporter, ImageLogger(), CallersTermination()]
    if recipe.patience is not None and validation:
        callbacks.append(
            lightning.callbacks.EarlyStopping(
                VALIDATION_DICE,
                mode="max",
                patience=recipe.patience,
                strict=False,  # cancelled before the first validation, there is no such number
            )
        )
    if folder is not None:
        callbacks.append(ResumeState(folder))
    several = devices * nodes > 1
    start = time.monotonic()
    with _silence():
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(where.type, where.type),
            devices=devices if several or where.type == "cpu" else [where.index or 0],
            num_nodes=nodes,
            strategy="ddp" if several else "auto",
            precision=_PRECISIONS[resolve_precision(precision, where)],
            max_epochs=plan.intervals,
            limit_val_batches=None if validation else 0,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=list(loggers) or False,
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            with _interrupts():
                trainer.fit(learner, ckpt_path=str(last) if resume else None, weights_only=True)
        finally:
            net._compiled_call_impl = None  # what was compiled is the training step,
            vars(net).pop("forward", None)  # and what a GPU recorded
    net.load_state_dict((best.weights if validation else None) or learner.result.state_dict())
    net.cpu().eval()
    return Outcome(
        steps=trainer.global_step,
        dice=best.dice,
        cancelled=learner.stopped,
        seconds=time.monotonic() - start,
        main=trainer.is_global_zero,
    )


def lightning_or_sentence() -> Any:
    """The trainer's package.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import pytorch_lightning
    except ImportError as error:
        raise InputError(
            "Training needs the extra `train`: pip install 'napari-transunet[train]'."
        ) from error
    return pytorch_lightning


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """Ctrl-C ends what the caller does, not the process as Lightning would have it, and goes on to be heard."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep Lightning's remarks about hardware, workers and intervals from the console; errors still come through."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "pytorch_lightning",
            "lightning_fabric",
            "lightning.pytorch",
            "lightning.fabric",
        )
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning.*")
            # Of passes that were recorded for a GPU.
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
