"""The network for prediction, run by OpenVINO on the processor."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino as ov
import torch

from napari_transunet.model.inference import InferenceTransUNet
from napari_transunet.segmentation.openvino_graph import openvino_graph

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.model.transunet import TransUNet

_PROCESSOR = "CPU"
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
        core = ov.Core()
        # What does not run in 8 bits runs in bfloat16 where that is fast.
        in_bfloat16 = precision == torch.int8 and "BF16" in _abilities(core)
        hint = _HINTS.get(torch.bfloat16 if in_bfloat16 else precision, "f32")
        merged = InferenceTransUNet(net, device="cpu", channels_last=False).net
        graph = openvino_graph(cast("TransUNet", merged), batch, ranges if precision == torch.int8 else None)
        compiled = core.compile_model(
            graph,
            _PROCESSOR,
            {
                "INFERENCE_PRECISION_HINT": hint,
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                # Pinned threads would keep to their cores while others, the window's among them, need these.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._batch = batch
        self._request = compiled.create_infer_request()
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
    return "INT8" in _abilities(ov.Core())


def _abilities(core: ov.Core) -> list[str]:
    return list(core.get_property(_PROCESSOR, "OPTIMIZATION_CAPABILITIES"))
