"""Options that a newcomer may ignore, folded away."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, LineEdit
from magicgui.widgets.bases import ValueWidget
from qtpy.QtCore import QRegularExpression, Signal
from qtpy.QtGui import QRegularExpressionValidator
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_transunet.errors import InputError
from napari_transunet.inference.options import PredictorOptions, option_text
from napari_transunet.viewer.widgets.collapsible import CollapsibleSection

_SIZES = (128, 160, 192, 224, 256, 288, 320, 384, 448, 512)


class AdvancedOptions(QWidget):
    """A fold with a form made from `PredictorOptions`, the image size and the slices. Emits `changed`."""

    changed = Signal()

    def __init__(self, preferred: PredictorOptions, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        # The device has a chooser of its own, which tells what was found on this machine.
        self._options = {
            option.name: _widget(option.name, getattr(preferred, option.name))
            for option in fields(PredictorOptions)
            if option.name != "device"
        }
        self._size = ComboBox(
            name="image_size",
            label="Image size",
            choices=[("From checkpoint", 0)],
            tooltip="Pixels of the network's input. Other sizes than the checkpoint's own resample its positions.",
        )
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
        self._container = Container(widgets=[*self._options.values(), self._size, self._slices], labels=True)
        self._container.margins = (12, 0, 0, 0)
        self._size.label = "Image size"  # said again, this makes the labels equally wide
        self._container.changed.connect(self._on_changed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(CollapsibleSection("Advanced", self._container.native, "advanced", self))

    @property
    def options(self) -> PredictorOptions:
        """What is chosen; the device is the default.

        Raises
        ------
        InputError
            Choices that cannot be together, of which `problem` tells too.
        """
        return PredictorOptions(**{name: widget.value for name, widget in self._options.items()})

    @property
    def img_size(self) -> int | None:
        """Side of the network's input in pixels; None for the checkpoint's own."""
        return int(self._size.value) or None

    @property
    def between(self) -> tuple[int, int] | None:
        """First and last slice of the range to segment, by the slider's numbers; None for all."""
        numbers = [int(part) for part in re.findall(r"\d+", str(self._slices.value))]
        return (min(numbers), max(numbers)) if numbers else None

    @property
    def problem(self) -> str | None:
        """Why no run can start with these options, such as a range that is only half written; None where one can."""
        try:
            _ = self.options
        except InputError as error:
            return str(error)
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


def _widget(name: str, value: Any) -> ValueWidget[Any]:
    """The form's widget for one of the `PredictorOptions`, with this value."""
    text = option_text(name)
    tooltip = text.detail or text.usage
    widget: ValueWidget[Any]
    if not text.choices:
        widget = CheckBox(name=name, text=text.label, tooltip=tooltip, value=value)
    else:
        offered = [choice for _, choice in text.choices]
        more = [] if value in offered else [(str(value), value)]
        widget = ComboBox(name=name, label=text.label, tooltip=tooltip, choices=[*text.choices, *more])
        widget.value = value
    widget.native.setObjectName(name)
    return widget


def pixels(size: tuple[int, int]) -> str:
    """A size in pixels (height, width): "224 px" where it is square, "224 × 320 px" where it is not."""
    height, width = size
    return f"{height} px" if height == width else f"{height} × {width} px"
