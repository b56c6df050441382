"""Options that a newcomer may ignore, folded away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from magicgui.widgets import CheckBox, ComboBox, Container, LineEdit
from qtpy.QtCore import QRegularExpression, Signal
from qtpy.QtGui import QRegularExpressionValidator
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_transunet.viewer.widgets.fold import Fold
from napari_transunet.viewer.widgets.messages import count

if TYPE_CHECKING:
    from napari_transunet.inference.predictor import Pipeline

_BATCHES = (1, 2, 4, 8, 16, 32)
_SIZES = (128, 160, 192, 224, 256, 288, 320, 384, 448, 512)


class AdvancedOptions(QWidget):
    """A fold with a magicgui container: precision, batch, pipeline, image size, looks, slices. Emits `changed`."""

    changed = Signal()

    def __init__(
        self, *, precision: str = "auto", batch_size: int | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._precision = ComboBox(
            name="precision",
            label="Precision",
            choices=[
                ("Automatic", "auto"),
                *((name, name) for name in ("float32", "bfloat16", "float16", "int8")),
            ],
            value=precision,
            tooltip=(
                "Automatic takes 8 bits (int8) on the processor where the checkpoint is prepared for it and\n"
                "OpenVINO is installed, bfloat16 where the device is fast with it, and float32 elsewhere."
            ),
        )
        sizes = sorted({*_BATCHES, *([batch_size] if batch_size else [])})
        self._batch = ComboBox(
            name="batch",
            label="Batch",
            choices=[("Automatic", 0), *((count(size, "slice"), size) for size in sizes)],
            value=batch_size or 0,
            tooltip="Slices computed at once. Fewer need less memory and can be cancelled sooner.",
        )
        self._pipeline = ComboBox(
            name="pipeline",
            label="Pipeline",
            choices=[("As trained (card)", "card"), ("Published procedure (paper)", "paper")],
            value="card",
            tooltip=(
                "As trained: each slice is prepared as the checkpoint's card says.\n"
                "Published procedure: spline zoom to the network's size and nearest back, as in the paper."
            ),
        )
        self._size = ComboBox(
            name="image_size",
            label="Image size",
            choices=[("From checkpoint", 0)],
            tooltip="Pixels of the network's input. Other sizes than the checkpoint's own resample its positions.",
        )
        self._planes = ComboBox(
            name="planes",
            label="Planes",
            choices=[("From checkpoint", 0), ("One", 1), ("Three, averaged", 3)],
            value=0,
            tooltip=(
                "Three: slices along all three axes, their probabilities averaged. Takes three times as long, and the\n"
                "first slice waits for the other planes. It gains where the checkpoint learnt from all three planes."
            ),
        )
        self._planes.native.setObjectName("planes")
        self._flips = CheckBox(
            name="flips",
            text="Average mirrored slices",
            tooltip=(
                "Averages each slice with its three mirror images. Takes four times as long, and only suits\n"
                "checkpoints that learnt from mirrored slices: it spoils the labels of the others. The shipped\n"
                "ones did not."
            ),
        )
        self._flips.native.setObjectName("flips")
        self._slices = LineEdit(
            name="slices",
            label="Slices",
            tooltip=(
                "The slices that Segment volume computes, by the slider's numbers: 40-80, or 40; empty for all.\n"
                "Labels outside of it stay as they are."
            ),
        )
        self._slices.native.setPlaceholderText("all")
        pattern = QRegularExpression(r"\s*(\d{1,6}\s*([-–]\s*\d{1,6})?)?\s*")
        self._slices.native.setValidator(QRegularExpressionValidator(pattern, self._slices.native))
        self._container = Container(
            widgets=[
                self._precision,
                self._batch,
                self._pipeline,
                self._size,
                self._planes,
                self._flips,
                self._slices,
            ],
            labels=True,
        )
        self._container.margins = (12, 0, 0, 0)
        self._precision.label = "Precision"  # said again, this makes the labels equally wide
        self._container.changed.connect(self._on_changed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(Fold("Advanced", self._container.native, "advanced", self))

    @property
    def precision(self) -> str:
        """Name of a torch type, or "auto"."""
        return str(self._precision.value)

    @property
    def batch_size(self) -> int | None:
        """Slices per batch; None leaves it to the predictor."""
        return int(self._batch.value) or None

    @property
    def pipeline(self) -> Pipeline:
        """One of "card" and "paper"."""
        return "paper" if self._pipeline.value == "paper" else "card"

    @property
    def img_size(self) -> int | None:
        """Side of the network's input in pixels; None for the checkpoint's own."""
        return int(self._size.value) or None

    @property
    def planes(self) -> int | None:
        """Axes along which slices are taken, 1 or 3; None for what the checkpoint says."""
        return int(self._planes.value) or None

    @property
    def flips(self) -> bool:
        """Whether each slice is averaged with its mirror images."""
        return bool(self._flips.value)

    @property
    def between(self) -> tuple[int, int] | None:
        """First and last slice of the range to segment, by the slider's numbers; None for all."""
        numbers = [int(part) for part in re.findall(r"\d+", str(self._slices.value))]
        return (min(numbers), max(numbers)) if numbers else None

    @property
    def problem(self) -> str | None:
        """Why no run can start with these options: a range that is only half written; None where one can."""
        text = str(self._slices.value).strip()
        if not text or re.fullmatch(r"\d+(\s*[-–]\s*\d+)?", text):
            return None
        return f"“{text}” under Advanced ▸ Slices is no range of slices; write one such as 40-80, or nothing for all."

    def offer_sizes(self, own: tuple[int, int] | None, patch: int) -> None:
        """Offer the sizes that a checkpoint's patch divides; its own size first."""
        text = "From checkpoint" if own is None else f"From checkpoint ({pixels(own)})"
        sizes: Sequence[int] = [size for size in _SIZES if size % patch == 0 and (size, size) != own]
        kept = self._size.value
        self._size.choices = [(text, 0), *((f"{size} px", size) for size in sizes)]
        self._size.value = kept if kept in sizes else 0

    def _on_changed(self) -> None:
        self.changed.emit()


def pixels(size: tuple[int, int]) -> str:
    """A size in pixels (height, width): "224 px" where it is square, "224 × 320 px" where it is not."""
    height, width = size
    return f"{height} px" if height == width else f"{height} × {width} px"
