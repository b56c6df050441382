"""Slices that a checkpoint learnt from, kept beside it to be learnt from again, so that less is forgotten.

`weights.safetensors` has its replay pack in `weights.replay.npz`. It comes from outside, so no pickle is run and every
size is checked before memory is taken.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from napari_transunet.errors import CheckpointError, FileProblem, InputError
from napari_transunet.files import ZIP_DAMAGE, atomic_path
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.training.partial_slices import REACH, PartialSlices
from napari_transunet.volumes.labels import organ_key

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard

REPLAY_SUFFIX = ".replay.npz"
MAX_BYTES = 1 << 28
_MAX_ABOUT = 1 << 16
MOST_ASIDE = 12
_FEWEST_TO_SHARE = 24
_SAME = 0.01  # two images that differ by less in every pixel are one slice, stored in 8 bits and not
_FORMAT = "napari-transunet replay pack 1"
_AXES = {"planes": 3, "around": 2, "labels": 3, "annotated": 2}


@dataclass(frozen=True, eq=False)
class ReplayPack:
    """Labelled slices at a network's size.

    Attributes
    ----------
    slices : their classes are those of `names`
    names : class → name of the organ
    source : where they come from and what licence they have, in words
    """

    slices: PartialSlices
    names: Mapping[int, str]
    source: str = ""

    def __len__(self) -> int:
        return len(self.slices)

    def for_card(self, card: ModelCard) -> PartialSlices:
        """The slices with the classes of a card, matched by name: organs that it lacks are background, those that the
        pack lacks are not annotated.

        Raises
        ------
        CheckpointError
            They are of another size than the network's images.
        """
        size = tuple(self.slices.planes.shape[1:])
        if size != tuple(card.img_size):
            raise CheckpointError(
                f"The replay pack holds slices of {size[0]}×{size[1]} pixels, but this network takes "
                f"{card.img_size[0]}×{card.img_size[1]}; make it again."
            )
        theirs = {organ_key(name): value for value, name in self.names.items()}
        table = torch.zeros(256, dtype=torch.uint8)
        table[UNKNOWN] = UNKNOWN
        annotated = torch.zeros(len(self.slices), card.num_classes, dtype=torch.bool)
        annotated[:, 0] = True
        for value, name in card.label_set().names.items():
            if (there := theirs.get(organ_key(name))) is not None:
                table[there] = value
                annotated[:, value] = self.slices.annotated[:, there]
        own = self.slices
        return PartialSlices(
            own.planes, own.around, table[own.labels.int()], annotated, own.whole, own.numbers
        )

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Into an `.npz` file, whole or not at all.

        Raises
        ------
        ExistsError, FileProblem
            There is such a file and `overwrite` is off, or it cannot be written.
        """
        about = {
            "format": _FORMAT,
            "names": {str(value): name for value, name in self.names.items()},
            "source": self.source,
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
            "planes": (self.slices.planes.float() * 255).round().clamp(0, 255).byte().numpy(),
            "around": self.slices.around.to(torch.int32).numpy(),
            "labels": self.slices.labels.numpy(),
            "annotated": self.slices.annotated.byte().numpy(),
        }
        with atomic_path(path, overwrite=overwrite) as partial:
            try:
                with partial.open("wb") as file:
                    np.savez_compressed(file, allow_pickle=False, **arrays)
            except OSError as error:
                raise FileProblem(f"{path} cannot be written: {error.strerror or error}.") from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ReplayPack:
        """The pack in a file.

        Raises
        ------
        FileProblem
            There is no such file.
        CheckpointError
            It is no replay pack, damaged, or larger than 256 MiB.
        """
        origin = f"The replay pack {path}"
        try:
            with zipfile.ZipFile(path) as archive:
                about = json.loads(_array(archive, "about", 1, _MAX_ABOUT).tobytes())
                arrays = {name: _array(archive, name, axes, MAX_BYTES) for name, axes in _AXES.items()}
        except OSError as error:
            raise FileProblem(f"{origin} cannot be read: {error.strerror or error}.") from error
        except (*ZIP_DAMAGE, KeyError) as error:
            raise CheckpointError(f"{origin} is not usable: {error}.") from error
        try:
            return cls(_slices(arrays), _names(about), str(about.get("source", ""))[:2000])
        except ValueError as error:
            raise CheckpointError(f"{origin} is not usable: {error}.") from error

    @classmethod
    def joined(cls, packs: Sequence[ReplayPack], card: ModelCard) -> ReplayPack:
        """All slices of all packs, with the classes of a card."""
        if not packs:
            raise InputError("There are no slices to make a replay pack of.")
        sources = dict.fromkeys(pack.source for pack in packs if pack.source)
        return cls(
            PartialSlices.joined([pack.for_card(card) for pack in packs]),
            card.label_set().names,
            "; ".join(sources),
        )


def set_aside(slices: PartialSlices, taught: PartialSlices) -> tuple[PartialSlices, PartialSlices]:
    """Those of a pack that are replayed, and those that are scored instead.

    The latter are a quarter, at most `MOST_ASIDE`, evenly spaced, and none that is taught as well. Nothing is scored of
    a pack so small that every slice is needed.
    """
    images, others = (part.planes[part.around[:, REACH]].float() for part in (slices, taught))
    known = torch.tensor([bool(((others - one).abs().amax((1, 2)) < _SAME).any()) for one in images])
    among = torch.nonzero(~known)[:, 0]
    count = min(len(among) // 4, MOST_ASIDE) if len(slices) >= _FEWEST_TO_SHARE else 0
    scored = torch.zeros(len(slices), dtype=torch.bool)
    scored[among[torch.linspace(0, len(among) - 1, count).round().long()]] = True
    numbers = torch.arange(len(slices))
    return slices.pick(numbers[~scored]), slices.pick(numbers[scored])


def replay_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Where the replay pack of a checkpoint lies: `weights.pth` → `weights.replay.npz`."""
    return Path(checkpoint).with_suffix(REPLAY_SUFFIX)


def replay_beside(checkpoint: str | os.PathLike[str]) -> ReplayPack | None:
    """The pack beside a checkpoint; None where there is none. Raises as `ReplayPack.read`."""
    path = replay_path(checkpoint)
    return ReplayPack.read(path) if path.is_file() else None


def _array(archive: zipfile.ZipFile, name: str, axes: int, most: int) -> npt.NDArray[Any]:
    """One array, once its header says that it is of a type that no code is needed for, and not too large."""
    with archive.open(f"{name}.npy") as member:
        shape, fortran, dtype = _header(member)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "iu" or fortran or len(shape) != axes:
            raise ValueError(f"{name} is not as it should be")
        if size > most:
            raise ValueError(f"{name} has {size} bytes, more than {most}")
        data = member.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{name} is cut off or too long")
    return np.frombuffer(data, dtype).reshape(shape)


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("an array is stored in an unknown version")
    return np.lib.format.read_array_header_1_0(member)


def _slices(arrays: Mapping[str, npt.NDArray[Any]]) -> PartialSlices:
    """Checked arrays as tensors."""
    planes, around, labels, annotated = (arrays[name] for name in _AXES)
    count = len(labels)
    if not count or around.shape != (count, 2 * REACH + 1) or len(annotated) != count:
        raise ValueError("its arrays have different lengths")
    if planes.dtype != np.uint8 or labels.dtype != np.uint8 or planes.shape[1:] != labels.shape[1:]:
        raise ValueError("its planes and labels do not match")
    if around.min() < 0 or around.max() >= len(planes):
        raise ValueError("it names planes that it does not have")
    known = labels[labels != UNKNOWN]
    if known.size and known.max() >= annotated.shape[1]:
        raise ValueError("its labels have more classes than it says")
    return PartialSlices(
        torch.from_numpy(planes.astype(np.float16) / np.float16(255)),
        torch.from_numpy(around.astype(np.int64)),
        torch.from_numpy(labels.copy()),
        torch.from_numpy(annotated != 0),
        torch.ones(count, dtype=torch.bool),
        torch.zeros(count, dtype=torch.int64),
    )


def _names(about: object) -> dict[int, str]:
    names = about.get("names") if isinstance(about, Mapping) else None
    if not isinstance(names, Mapping) or not isinstance(about, Mapping) or about.get("format") != _FORMAT:
        raise ValueError("it does not say what it is")
    found = {int(value): str(name)[:200] for value, name in names.items() if str(value).isdecimal()}
    if any(not 0 < value < UNKNOWN for value in found):
        raise ValueError("it names classes that cannot be")
    return found
