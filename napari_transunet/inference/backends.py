"""What runs the network: PyTorch anywhere, or OpenVINO on the processor, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch

from napari_transunet.errors import InputError
from napari_transunet.inference.devices import resolve_precision
from napari_transunet.inference.options import BackendChoice
from napari_transunet.model.inference import InferenceTransUNet

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.checkpoints.quantization import ActivationRanges
    from napari_transunet.model.transunet import TransUNet

Backend = Literal["torch", "openvino"]

_INSTALL = 'pip install "napari-transunet[openvino]"'


_log = logging.getLogger(__name__)


class Network(Protocol):
    """The network made ready for prediction."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """(B, 1 or 3, H, W) float32 on the device -> float32 logits (B, classes, H, W) there."""


def resolve_backend(name: str, device: torch.device) -> Backend:
    """The backend of that name; "auto" is OpenVINO on the processor where it is installed, else PyTorch.

    Raises
    ------
    InputError
        There is none of that name, or OpenVINO is not here or is asked to run on another device.
    """
    if name not in get_args(BackendChoice):
        raise InputError(f"Unknown backend {name!r}; choose one of {', '.join(get_args(BackendChoice))}.")
    if name == "openvino" and device.type != "cpu":
        raise InputError(
            f"OpenVINO runs on the CPU here, not on {device}; choose device 'cpu', or backend 'torch'."
        )
    if name == "openvino" and not has_openvino():
        raise InputError(f"OpenVINO is not installed; {_INSTALL}, or choose backend 'torch'.")
    if name == "auto":
        return "openvino" if device.type == "cpu" and has_openvino() and _imports() else "torch"
    return "torch" if name == "torch" else "openvino"


def has_openvino() -> bool:
    """Whether OpenVINO is installed. It is not imported."""
    return importlib.util.find_spec("openvino") is not None


def _imports() -> bool:
    """Whether OpenVINO can be imported; where it is broken, PyTorch takes its place."""
    try:
        importlib.import_module("openvino")
    except (ImportError, OSError) as error:
        _log.warning("OpenVINO is not used, since it cannot be imported: %s", error)
        return False
    return True


def resolve_dtype(
    precision: str | torch.dtype,
    device: torch.device,
    backend: Backend,
    ranges: ActivationRanges | None,
    img_size: tuple[int, int],
) -> torch.dtype:
    """The dtype that the network computes in; torch.int8 only where OpenVINO runs it and has its ranges.

    "auto" is 8 bits where they are known to give float32's labels on images of `img_size` (height, width), else as
    `resolve_precision`.

    Raises
    ------
    InputError
        As `resolve_precision`, or 8 bits that are not possible here.
    """
    name = str(precision).removeprefix("torch.")
    if name == "int8":
        if backend != "openvino":
            raise InputError(
                f"Precision 'int8' needs OpenVINO on the CPU ({_INSTALL}); or choose 'auto', 'float32' or 'bfloat16'."
            )
        if ranges is None:
            raise InputError(
                "Precision 'int8' needs this checkpoint's activation ranges; make them with "
                "`napari-transunet calibrate CHECKPOINT VOLUME`, or choose 'auto'."
            )
        return torch.int8
    if name == "auto" and backend == "openvino" and ranges is not None and ranges.good_at(img_size):
        from napari_transunet.inference.openvino_network import runs_in_8_bits

        if runs_in_8_bits():
            return torch.int8
    return resolve_precision(precision, device)


def make_network(
    net: TransUNet,
    backend: Backend,
    *,
    device: torch.device,
    precision: torch.dtype,
    batch: int,
    ranges: ActivationRanges | None = None,
) -> Network:
    """The network made ready; it shares no memory with `net`."""
    if backend == "openvino":
        from napari_transunet.inference.openvino_network import OpenVINONetwork

        return OpenVINONetwork(net, precision, batch, ranges.layers if ranges is not None else None)
    return InferenceTransUNet(net, device=device, dtype=precision)
