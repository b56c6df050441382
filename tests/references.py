"""Reference networks: every weight is a fixed function of its key, so key lists stand for checkpoints."""

import json
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.transunet import TransUNet

OWN_REFERENCE = Path(__file__).parent / "model" / "reference"
"""The hybrid everybody uses, kept here so that the network is held to numbers wherever the tests run."""


def reference_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The entry of a reference state dict under that key."""
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    if last == "running_var":
        value = 1 + 0.5 * np.abs(noise)
    elif last == "running_mean":
        value = 0.1 * noise
    elif last == "position_embeddings":
        value = 0.5 * noise
    elif len(shape) >= 2:
        value = noise * np.float32(1.4 / np.sqrt(np.prod(shape[1:])))
    elif last == "weight":
        value = 1 + 0.1 * noise
    else:
        value = 0.05 * noise
    return torch.from_numpy(value.astype(np.float32, copy=False))


def reference_image(size: int) -> torch.Tensor:
    """(1, 1, size, size) float32 in [0, 1): the input of every reference run."""
    return torch.from_numpy(np.random.default_rng(20210208).random((1, 1, size, size), dtype=np.float32))


@lru_cache(maxsize=1)  # 400 MB, which tests in several modules need
def reference_network(name: str, keys: Path) -> TransUNet:
    """The network that a key list describes, e.g. 'R50-ViT-B_16_224_skip3_c9', with the reference weights.

    It may be the one that another test has, so it must stay as it is.
    """
    variant, size, skips, classes = name.rsplit("_", 3)
    with on_meta_device():
        net = TransUNet(variant, int(classes[1:]), int(size), int(skips[4:]))
    shapes = json.loads(keys.read_text())
    weights = {key: reference_weight(key, tuple(shape)) for key, shape in shapes.items()}
    net.load_state_dict(weights, strict=True, assign=True)
    return net.eval()


def relative_error(got: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
