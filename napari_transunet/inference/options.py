"""How to predict, as one value: what `Predictor` takes, and what the command line and the dock offer."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from napari_transunet.errors import InputError

MOST_SLICES = 4096
"""Of a batch. Memory that runs out makes batches smaller, but memory is taken for a whole one first."""

Pipeline = Literal["card", "paper"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
BackendChoice = Literal["auto", "torch", "openvino"]


@dataclass(frozen=True, slots=True)
class OptionText:
    """How an option is offered to people.

    Attributes
    ----------
    label
        A few words, as in a form.
    usage
        A sentence, as in the usage of a command.
    choices
        The text of each value that a form offers; empty for a switch, and for an option that has a widget of its own.
    detail
        What more there is to know before changing it.
    """

    label: str
    usage: str
    choices: tuple[tuple[str, Any], ...] = ()
    detail: str = ""


def _text(
    label: str, usage: str, choices: tuple[tuple[str, Any], ...] = (), detail: str = ""
) -> dict[str, Any]:
    return {"text": OptionText(label, usage, choices, detail)}


@dataclass(frozen=True, slots=True)
class PredictorOptions:
    """How `Predictor` predicts. Making one imports no torch.

    Attributes
    ----------
    device
        "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:N" or "mps".
    precision
        "auto" (8 bits where the checkpoint's activation ranges say that this gives float32's labels, else bfloat16
        where it is fast, else float32; always float32 with the paper's pipeline), "float32", "bfloat16", "float16"
        on a GPU, or "int8" with OpenVINO.
    batch_size
        Slices a batch; None for what suits the device. It is halved as often as memory runs out.
    pipeline
        "card" prepares slices as the model card says. "paper" is the published test procedure (Chen et al.,
        arXiv 2102.04306): CT window −125..275 HU, cubic-spline zoom, argmax, nearest zoom back, slices as stored.
    backend
        What runs the network: "torch", "openvino" (the CPU alone), or "auto": OpenVINO on the CPU where it is
        installed, but for float32.
    orthogonal_planes
        True: slices along all three axes, whose probabilities are averaged. False: slices along z alone. None: as
        the card says.
    mirror_tta
        Test-time augmentation: the probabilities of each slice are averaged with those of its three mirror images.

    Raises
    ------
    InputError
        A pipeline that does not exist, a batch size below 1, or augmentation that the paper's pipeline does not have.
    """

    device: str = field(default="auto", metadata=_text("Device", "Where the network runs."))
    precision: str = field(
        default="auto",
        metadata=_text(
            "Precision",
            "Arithmetic of the network.",
            (("Automatic", "auto"), *((name, name) for name in get_args(Precision)[1:])),
            "Automatic uses 8 bits (int8) on the CPU if the checkpoint is prepared for it and OpenVINO is\n"
            "installed, bfloat16 if the device is fast with it, and float32 otherwise.",
        ),
    )
    batch_size: int | None = field(
        default=None,
        metadata=_text(
            "Batch",
            "Slices at a time.",
            (("Automatic", None), ("1 slice", 1), *((f"{n} slices", n) for n in (2, 4, 8, 16, 32))),
            "Slices computed at once. Fewer need less memory and can be cancelled sooner.",
        ),
    )
    pipeline: Pipeline = field(
        default="card",
        metadata=_text(
            "Pipeline",
            "As the model card says, or as in the TransUNet paper.",
            (("As trained (card)", "card"), ("Published procedure (paper)", "paper")),
            "As trained: each slice is preprocessed as the checkpoint's card specifies.\n"
            "Published procedure: spline zoom to the network's size and nearest back, as in the paper.",
        ),
    )
    backend: BackendChoice = field(
        default="auto",
        metadata=_text(
            "Backend",
            "What runs the network; OpenVINO on the CPU, where installed.",
            (("Automatic", "auto"), ("PyTorch", "torch"), ("OpenVINO", "openvino")),
            "What runs the network. Automatic uses OpenVINO on the CPU if it is installed and the precision is\n"
            "not float32, and PyTorch otherwise.",
        ),
    )
    orthogonal_planes: bool | None = field(
        default=None,
        metadata=_text(
            "Planes",
            "Average slices along all three axes (3 times the time), or use one axis; by default as the card says.",
            (("From checkpoint", None), ("One", False), ("Three, averaged", True)),
            "Three: slices along all three axes, their probabilities averaged. Takes three times as long, and the\n"
            "first slice waits for the other planes. It helps if the checkpoint was trained on all three planes.",
        ),
    )
    mirror_tta: bool = field(
        default=False,
        metadata=_text(
            "Average mirrored slices",
            "Average each slice with its mirror images (4 times the time); only for checkpoints trained on such.",
            detail="Averages each slice with its three mirror images. Takes four times as long, and only suits\n"
            "checkpoints trained on mirrored slices; with others it spoils the labels. The shipped checkpoints\n"
            "were not.",
        ),
    )

    def __post_init__(self) -> None:
        # A torch.device and a torch.dtype are as good as their names.
        object.__setattr__(self, "device", str(self.device))
        object.__setattr__(self, "precision", str(self.precision).removeprefix("torch."))
        if self.pipeline not in get_args(Pipeline):
            raise InputError(
                f"Unknown pipeline {self.pipeline!r}; choose one of {', '.join(get_args(Pipeline))}."
            )
        if self.batch_size is not None and not 1 <= self.batch_size <= MOST_SLICES:
            raise InputError(f"The batch size must be from 1 to {MOST_SLICES}, not {self.batch_size}.")
        if self.pipeline == "paper" and self.orthogonal_planes:
            raise InputError(
                "The published procedure uses slices along one axis only; choose the pipeline 'card' for three."
            )
        if self.pipeline == "paper" and self.mirror_tta:
            raise InputError(
                "The published procedure does not mirror slices; choose the pipeline 'card' to average mirrored ones."
            )

    def changed(self, **changes: Any) -> PredictorOptions:
        """The same but for these fields; `planes` (1 or 3) and `flips`, as two were called before, still work.

        Raises
        ------
        InputError
            As the class; also for another number of planes.
        TypeError
            There is no option of that name.
        """
        return replace(self, **_renamed(changes))


def option_text(name: str) -> OptionText:
    """How the option of this name is offered to people."""
    texts = {option.name: option.metadata["text"] for option in fields(PredictorOptions)}
    found: OptionText = texts[name]
    return found


def three_planes(planes: int | None) -> bool | None:
    """The number of planes of old, 1 or 3, as `orthogonal_planes`.

    Raises
    ------
    InputError
        It is another number.
    """
    if planes not in (None, 1, 3):
        raise InputError(f"Slices are taken along 1 or 3 axes, not {planes!r}.")
    return None if planes is None else planes == 3


def _renamed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the names that they have now."""
    found = dict(changes)
    for old, new in (("planes", "orthogonal_planes"), ("flips", "mirror_tta")):
        if old in found:
            warnings.warn(
                f"The argument {old} of Predictor is called {new} now.", DeprecationWarning, stacklevel=4
            )
            value = found.pop(old)
            found[new] = three_planes(value) if old == "planes" else bool(value)
    return found
