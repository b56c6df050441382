"""Writing checkpoints: safetensors, with the model card in the header."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_transunet import __version__
from napari_transunet.checkpoints.card import CARD_KEY, MAX_CARD_BYTES, ModelCard, default_card
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.errors import CheckpointError, InputError
from napari_transunet.files import atomic_path, file_problems
from napari_transunet.model.checks import is_finite
from napari_transunet.model.transunet import TransUNet

SUFFIX = ".safetensors"


def save_checkpoint(
    path: str | os.PathLike[str],
    model: TransUNet | nn.Module | Checkpoint,
    card: ModelCard | None = None,
    *,
    dtype: Literal["float32", "float16"] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network and its card; loading it again gives the same bits (unless `dtype` is "float16").

    `model` may be wrapped by DataParallel or `torch.compile`, and may be a `Checkpoint`, whose card is then the
    default. Without a card the default one is written. The file appears complete or not at all.

    Raises
    ------
    InputError
        `model` is no TransUNet, or the name does not end in `.safetensors`.
    CheckpointError
        The card contradicts the network, a weight is not finite, or one does not fit float16.
    ExistsError, FileProblem
        The file exists and `overwrite` is false, or cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(
            f"Checkpoints are written as {SUFFIX}, so {path.name} must be called {path.stem}{SUFFIX}."
        )
    if isinstance(model, Checkpoint):
        card = card or model.card
        model = model.model
    net = _bare(model)
    card = _matching_card(card, net)
    text = card.to_json()
    if len(text.encode()) > MAX_CARD_BYTES:
        raise CheckpointError(f"The model card is longer than {MAX_CARD_BYTES // 1024} KiB; shorten it.")
    tensors = {key: _storable(key, value, dtype) for key, value in net.state_dict().items()}
    metadata = {"format": "pt", "written_by": f"napari-transunet {__version__}", CARD_KEY: text}
    with atomic_path(path, overwrite=overwrite) as temporary, file_problems(f"{path} cannot be written"):
        save_tensors(temporary, tensors, metadata)
    return path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors; what the system says against that is an `OSError`, as with other writers."""
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        found = re.search(r"I/O error: (.*) \(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[2]), found[1], None, int(found[2])) from error


def _bare(model: nn.Module) -> TransUNet:
    while not isinstance(model, TransUNet):
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            raise InputError(f"Only a TransUNet can be saved, not a {type(model).__name__}.")
        model = inner
    return model


def _matching_card(card: ModelCard | None, net: TransUNet) -> ModelCard:
    if card is None:
        return default_card(net)
    wrong = card.contradictions(net.variant.name, net.num_classes, net.n_skip, net.img_size)
    if wrong:
        raise CheckpointError(f"The model card contradicts the network: {'; '.join(wrong)}.")
    return card if card.n_skip is not None else card.updated(n_skip=net.n_skip)


def _storable(key: str, value: Tensor, dtype: str | None) -> Tensor:
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    if not is_finite(value):
        raise CheckpointError(f"{key} holds numbers that are not finite; such a network is not saved.")
    if dtype is None:
        return value
    stored = value.to(torch.float16 if dtype == "float16" else torch.float32)
    if not is_finite(stored):
        raise CheckpointError(f"{key} holds numbers too large for {dtype}; save the network as float32.")
    return stored
