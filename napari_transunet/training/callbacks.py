"""What accompanies a training: its progress, its best weights, its state for going on, its pictures."""

import io
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from napari_transunet.checkpoints.saving import save_tensors
from napari_transunet.errors import FileProblem, TransUNetError
from napari_transunet.files import atomic_path
from napari_transunet.training.pictures import overlaid
from napari_transunet.training.segmentation_module import VALIDATION_DICE, SegmentationModule

LAST = "last.ckpt"
BEST = "best.safetensors"

_REPORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Attributes
    ----------
    step, steps : done, and in all
    loss : mean since the last report
    dice : of the last validation; None before the first
    best : the best so far
    seconds, remaining : since the start, and at the pace so far
    """

    step: int
    steps: int
    loss: float
    dice: float | None
    best: float | None
    seconds: float
    remaining: float


class BestWeights(lightning.Callback):
    """Keeps the weights that scored best, or the last ones of a training that is not validated.

    In memory, and where there is a folder also there, for a training that is resumed.
    """

    def __init__(
        self,
        folder: Path | None,
        report: Callable[[nn.Module, float | None], None] | None,
        *,
        validated: bool,
    ) -> None:
        self.dice: float | None = None
        self.weights: dict[str, Tensor] | None = None
        self._folder, self._report, self._validated = folder, report, validated

    @property
    def state_key(self) -> str:
        """What the state is called in files; older than the class's name."""
        return "Best"

    def state_dict(self) -> dict[str, Any]:
        """What the state of the training remembers."""
        return {"dice": self.dice}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, with the weights beside it."""
        self.dice = state_dict["dice"]
        if self.dice is not None and self._folder is not None and (self._folder / BEST).is_file():
            try:
                self.weights = load_file(self._folder / BEST)
            except (OSError, SafetensorError) as error:
                raise FileProblem(
                    f"{self._folder / BEST} is damaged; start the training anew with --overwrite."
                ) from error

    def on_train_epoch_end(self, trainer: lightning.Trainer, learner: lightning.LightningModule) -> None:
        """Lightning has validated by now."""
        assert isinstance(learner, SegmentationModule)
        if learner.stopped:
            return
        dice = float(trainer.callback_metrics[VALIDATION_DICE]) if self._validated else None
        if dice is not None and self.dice is not None and dice <= self.dice:
            return
        self.dice = dice
        if not self._validated and self._folder is None and self._report is None:
            return  # the network itself holds the last weights, and nobody asks for them meanwhile
        self.weights = {
            key: value.detach().to("cpu", copy=True) for key, value in learner.result.state_dict().items()
        }
        problem = None
        if trainer.is_global_zero:
            try:
                self._write(learner.result, dice)
            except (TransUNetError, OSError) as error:
                problem = error
        # All processes stop, or none: one that went on alone would wait for the others for ever.
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise problem

    def _write(self, net: nn.Module, dice: float | None) -> None:
        assert self.weights is not None
        if self._folder is not None:
            with atomic_path(self._folder / BEST, overwrite=True) as temporary:
                save_tensors(temporary, {key: value.contiguous() for key, value in self.weights.items()})
        if self._report is not None:
            self._report(net, dice)


class ResumeState(lightning.Callback):
    """Keeps the state after every validation interval, so that a training can be resumed after a kill at any moment.

    An interval that was cut off is done again, so that the result is that of a training that was not.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """The first interval can be cut off too."""
        if trainer.global_step == 0:
            trainer.save_checkpoint(self._folder / LAST)

    def on_train_epoch_end(self, trainer: lightning.Trainer, learner: lightning.LightningModule) -> None:
        """Lightning has validated by now."""
        assert isinstance(learner, SegmentationModule)
        if not learner.stopped:
            trainer.save_checkpoint(self._folder / LAST)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a state in the place of the last one; Lightning's own way is through the folder for temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Lightning calls this in the first process alone."""
        assert storage_options is None
        # Where the disk is full, torch would raise a `RuntimeError` about its own file format.
        written = io.BytesIO()
        torch.save(checkpoint, written)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, overwrite=True) as temporary:
            temporary.write_bytes(written.getbuffer())


class CallersTermination(lightning.Callback):
    """Leaves SIGTERM to the caller; Lightning would end the process with status 0, as if all had been learnt."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, *_: object) -> None:
        """Lightning has put its own handler there by now."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


class ProgressReporter(lightning.Callback):
    """Reports the progress, and stops the training when asked to."""

    def __init__(
        self,
        best: BestWeights,
        report: Callable[[Progress], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self._best, self._report, self._cancelled = best, report, cancelled
        self._losses: list[Tensor] = []
        self._start = self._last = time.monotonic()
        self._first_step = 0

    def on_train_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """Time runs from here."""
        self._start = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, learner: lightning.LightningModule, outputs: Any, *_: object
    ) -> None:
        """After every step."""
        assert isinstance(learner, SegmentationModule)
        self._ask(trainer, learner)
        if self._report is None or not trainer.is_global_zero:
            return
        self._losses.append(outputs["loss"].detach())
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS or trainer.global_step == learner.plan.steps:
            self._last = now
            self._report(self._progress(trainer, learner.plan.steps, now - self._start))
            self._losses.clear()

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, learner: lightning.LightningModule, *_: object
    ) -> None:
        """After every case."""
        assert isinstance(learner, SegmentationModule)
        self._ask(trainer, learner)

    def _ask(self, trainer: lightning.Trainer, learner: SegmentationModule) -> None:
        if self._cancelled is None or learner.stopped:
            return
        # All processes stop, or none: one that went on alone would wait for the others for ever.
        learner.stopped = trainer.strategy.reduce_boolean_decision(self._cancelled(), all=False)
        trainer.should_stop = trainer.should_stop or learner.stopped

    def _progress(self, trainer: lightning.Trainer, steps: int, seconds: float) -> Progress:
        step = trainer.global_step
        dice = trainer.callback_metrics.get(VALIDATION_DICE)
        return Progress(
            step=step,
            steps=steps,
            loss=float(torch.stack(self._losses).mean()),
            dice=None if dice is None else float(dice),
            best=self._best.dice,
            seconds=seconds,
            remaining=seconds / (step - self._first_step) * (steps - step),
        )


class ImageLogger(lightning.Callback):
    """Shows a few validation slices in TensorBoard, with the labels of the reference and of the network."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, learner: lightning.LightningModule) -> None:
        """Lightning has validated by now."""
        assert isinstance(learner, SegmentationModule)
        if not learner.examples or not trainer.is_global_zero:
            return
        rows = [
            torch.cat([overlaid(plane, labels), overlaid(plane, predicted)], dim=2)
            for plane, labels, predicted in learner.examples
        ]
        for logger in trainer.loggers:
            if isinstance(logger, lightning.loggers.TensorBoardLogger):
                logger.experiment.add_image("reference, network", torch.cat(rows, dim=1), trainer.global_step)
