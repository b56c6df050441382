"""The plain procedure, which every speed is compared with."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from napari_transunet.checkpoints.card import CT_WINDOW

if TYPE_CHECKING:
    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.segmentation.predictor import Labels
    from napari_transunet.volumes.volume import Volume


class PlainProcedure:
    """What the published test script does (Chen et al., arXiv 2102.04306), one slice after the other.

    A CT window, a cubic-spline zoom with scipy, the network as it was trained (nothing merged, batch 1, float32),
    argmax, and a nearest zoom back.

    Parameters
    ----------
    net : the trained network; where `device` is another than its own, a copy of it runs there
    device : where the network runs; the zooms are scipy's, on the CPU
    """

    def __init__(self, net: TransUNet, device: torch.device) -> None:
        here = next(net.parameters()).device
        self._net = (net if here == device else copy.deepcopy(net).to(device)).eval()
        self._device = device

    @torch.inference_mode()
    def predict(self, volume: Volume) -> Labels:
        """Labels (z, y, x) of a volume in HU, its slices taken as they are stored."""
        low, high = CT_WINDOW
        height, width = self._net.img_size
        labels = np.zeros(volume.data.shape, np.uint8 if self._net.num_classes <= 255 else np.uint16)
        for z, plane in enumerate(volume.data):
            h, w = plane.shape
            scaled = (np.clip(plane.astype(np.float32), low, high) - low) / np.float32(high - low)
            zoomed = ndimage.zoom(scaled, (height / h, width / w), order=3)
            logits = self._net(torch.from_numpy(zoomed)[None, None].to(self._device))
            small = logits.argmax(dim=1)[0].cpu().numpy().astype(labels.dtype)
            labels[z] = ndimage.zoom(small, (h / height, w / width), order=0)
        return labels
