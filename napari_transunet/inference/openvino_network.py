"""The network for prediction, run by OpenVINO on the processor."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np
import openvino as ov
import torch
from torch import Tensor

from napari_transunet.inference.openvino_graph import openvino_graph
from napari_transunet.model.inference import InferenceTransUNet
from napari_transunet.model.transunet import TransUNet

_PROCESSOR = "CPU"
_Result = TypeVar("_Result")
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVINONetwork:
    """Logits of images, `batch` of them at a time; fewer are filled up, since a graph has one batch size.

    Parameters
    ----------
    net : the trained network, on the CPU, float32; it is left as it is
    precision : torch.float32, torch.bfloat16, or torch.int8, for which `ranges` are needed
    batch : images at a time
    ranges : of the inputs of the layers that run in 8 bits
    """

    def __init__(
        self,
        net: TransUNet,
        precision: torch.dtype,
        batch: int,
        ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        merged = cast("TransUNet", InferenceTransUNet(net, device="cpu", channels_last=False).net)
        self._request = _aside(
            lambda: _compiled(merged, precision, batch, ranges if precision == torch.int8 else None)
        )
        self._batch = batch
        self._turn = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) float32 on the CPU -> float32 logits (B, classes, H, W)."""
        given = images.expand(-1, 3, -1, -1).contiguous().numpy()
        return torch.from_numpy(
            np.concatenate(
                [self._logits(given[at : at + self._batch]) for at in range(0, len(given), self._batch)]
            )
        )

    def _logits(self, images: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        count = len(images)
        if count < self._batch:
            filled = np.zeros((self._batch, *images.shape[1:]), np.float32)
            filled[:count] = images
            images = filled
        with self._turn:
            # A copy: the request's own memory is written again by the next batch.
            return self._request.infer([images], share_inputs=True)[0][:count].copy()


def runs_in_8_bits() -> bool:
    """Whether OpenVINO computes in 8 bits on this processor."""
    return _aside(lambda: "INT8" in _abilities(ov.Core()))


def _compiled(
    net: TransUNet, precision: torch.dtype, batch: int, ranges: Mapping[str, tuple[float, float]] | None
) -> ov.InferRequest:
    core = ov.Core()
    # What does not run in 8 bits runs in bfloat16 where that is fast.
    in_bfloat16 = precision == torch.int8 and "BF16" in _abilities(core)
    compiled = core.compile_model(
        openvino_graph(net, batch, ranges),
        _PROCESSOR,
        {
            "INFERENCE_PRECISION_HINT": _HINTS.get(torch.bfloat16 if in_bfloat16 else precision, "f32"),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Pinned threads would keep to their cores while others, the window's among them, need these.
            "ENABLE_CPU_PINNING": False,
        },
    )
    return compiled.create_infer_request()


def _abilities(core: ov.Core) -> list[str]:
    return list(core.get_property(_PROCESSOR, "OPTIMIZATION_CAPABILITIES"))


def _aside(work: Callable[[], _Result]) -> _Result:
    """What `work` gives, done on a thread that ends then.

    OpenVINO's plug-in gives the thread that loads it a stack for signals, and takes that memory back when the plug-in
    goes, on whatever thread that is. The next Ctrl-C would then end a process whose main thread loaded it.
    """
    with ThreadPoolExecutor(1, "openvino") as thread:
        return thread.submit(work).result()
