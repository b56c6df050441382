"""Checkpoints as networks: strict, checked, and in float32 whatever they were stored in."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_transunet.checkpoints.archive import megabytes
from napari_transunet.checkpoints.card import ModelCard, default_card
from napari_transunet.checkpoints.info import CheckpointInfo, about_card, about_weights
from napari_transunet.checkpoints.layout import COUNTER, POSITIONS
from napari_transunet.errors import CheckpointError, some
from napari_transunet.files import available_memory
from napari_transunet.model.checks import is_finite
from napari_transunet.model.meta import on_meta_device
from napari_transunet.model.positions import resize_position_embeddings
from napari_transunet.model.transunet import TransUNet, as_size, checked_size
from napari_transunet.model.variants import Variant, get_variant

if TYPE_CHECKING:
    from napari_transunet.checkpoints.reading import StoredTensors


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes
    ----------
    model : the network, on the CPU, in float32, in evaluation mode
    card : what it is for; the default card where it came without one
    path, sha256, format : the file it was read from, the hash of its bytes, "safetensors" or "pytorch…"
    weights : the name in the file under which the weights lie, where it holds several sets
    notes : sentences about what was chosen between in reading
    """

    model: TransUNet
    card: ModelCard
    path: Path
    sha256: str
    format: str
    weights: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the checkpoint is called: its file name without the suffix."""
        return self.path.stem

    def with_labels(self, names: Mapping[int, str]) -> Checkpoint:
        """The same checkpoint with these label names, e.g. a preset that the user picked."""
        return dataclasses.replace(self, card=self.card.with_labels(names))


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    card: ModelCard | str | os.PathLike[str] | None = None,
    variant: str | Variant | None = None,
    img_size: int | Sequence[int] | None = None,
    n_skip: int | None = None,
    weights: str | None = None,
) -> Checkpoint:
    """A network from a `.safetensors`, `.pth` or `.pt` file. Nothing in the file is run.

    Variant, classes, patch size, skips and image size come from the tensors. Where the number of position
    embeddings is no square, the image size comes from the card or from `img_size`.

    Parameters
    ----------
    card : used instead of the card in or beside the file; a `ModelCard` or the path of a JSON file
    variant, n_skip : must agree with the tensors; a `Variant` of one's own is needed for sizes never published
    weights : which of several sets in the file: the name under which they lie, or "ema" for averaged ones. Without it
        those of the last step (`model`, `state_dict`) are taken, and `notes` says so where there are others
    img_size : height and width in pixels to use the network at; position embeddings are resampled to it

    Raises
    ------
    FileProblem
        There is no such file, or it cannot be read.
    CheckpointError
        It is no checkpoint, damaged, unsafe, of another network, or contradicts its card; the sentence names
        the first few mismatches.
    InputError
        Unknown variant, or an image size that the patch does not divide.
    """
    wanted = get_variant(variant) if isinstance(variant, str) else variant
    target = None
    if img_size is not None and wanted is not None:
        target = checked_size(img_size, wanted.patch)
    elif img_size is not None:
        target = as_size(img_size)
    found = CheckpointInfo.from_file(
        path, card=card, variant=wanted, n_skip=n_skip, target_size=target, weights=weights
    )
    if found.problems:
        raise CheckpointError(found.problems[0])
    stored, layout, learned = found.stored, found.layout, found.img_size
    assert stored is not None
    assert layout is not None
    assert learned is not None
    size = learned if img_size is None else checked_size(img_size, layout.variant.patch)

    state, digest = _read_state(stored)
    if size != learned:
        patch = layout.variant.patch
        state[POSITIONS] = resize_position_embeddings(
            state[POSITIONS],
            (size[0] // patch, size[1] // patch),
            source_grid=(learned[0] // patch, learned[1] // patch),
        ).contiguous()
    with on_meta_device():
        net = TransUNet(layout.variant, layout.num_classes, size, layout.n_skip)
    try:
        net.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{stored.path.name} does not fit {layout.variant.name}: {error}") from error
    net.eval()
    return Checkpoint(
        model=net,
        card=_complete_card(found, net),
        path=stored.path,
        sha256=digest,
        format=stored.format,
        weights=stored.unwrapped[-1] if stored.others and stored.unwrapped else None,
        notes=tuple(
            said
            for said in (about_weights(stored), about_card(stored, found.card, found.card_origin))
            if said
        ),
    )


def _complete_card(found: CheckpointInfo, net: TransUNet) -> ModelCard:
    if found.card is None:
        return default_card(net)
    if found.card.n_skip == net.n_skip and found.card.img_size == net.img_size:
        return found.card
    return found.card.updated(n_skip=net.n_skip, img_size=net.img_size)


def _read_state(stored: StoredTensors) -> tuple[dict[str, Tensor], str]:
    """All tensors in memory and types of the network's own, every number finite; and the file's SHA-256."""
    needed = 4 * sum(math.prod(info.shape) for info in stored.tensors.values())
    if needed > available_memory():
        raise CheckpointError(
            f"{stored.path.name} needs {megabytes(needed)} of memory, more than is free; close something else first."
        )
    state: dict[str, Tensor] = {}
    bad: list[str] = []
    tensors, digest = stored.read_hashed()
    for key in list(tensors):
        dtype = torch.int64 if key.endswith(COUNTER) else torch.float32
        # Copied where mapped, so that the network does not change or crash when the file does. Each is let go of
        # once it is converted, so that a half-precision file is not held beside its float32 network.
        own = tensors.pop(key).detach().to(dtype, copy=stored.mapped).contiguous()
        if not is_finite(own):
            bad.append(key)
        state[key] = own
    if bad:
        raise CheckpointError(
            f"{stored.path.name} holds numbers that are not finite (NaN or infinite) in {some(bad)}; "
            "its training probably diverged."
        )
    return state, digest
