"""Where a training starts: a network's first weights from whatever file, checkpoint or repository is named."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from napari_transunet.checkpoints.info import CheckpointInfo
from napari_transunet.checkpoints.layout import CNN, HEAD, recognise
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.pretrained.encoders import (
    PATCH_EMBEDDINGS,
    TRANSFORMER,
    LoadReport,
    Pretrained,
    set_transformer,
)
from napari_transunet.checkpoints.pretrained.hub import HUB_PREFIX, fetch
from napari_transunet.checkpoints.pretrained.imagenet import load_imagenet
from napari_transunet.checkpoints.pretrained.timm import has_resnet, is_timm, timm_weights
from napari_transunet.checkpoints.reading import StoredTensors, open_checkpoint
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.errors import CheckpointError, InputError
from napari_transunet.model.transunet import TransUNet
from napari_transunet.model.variants import Variant
from napari_transunet.volumes.labels import organ_key

Grid = tuple[int, int]

IMAGENET = "imagenet"
"""The source that stands for the repository in `IMAGENET_REPOSITORIES`."""

RESNET_REPOSITORY = "timm/vit_base_r50_s16_224.orig_in21k"
"""The one model with a ResNet; the hybrids of other sizes take it from there."""

IMAGENET_REPOSITORIES: Mapping[str, str] = MappingProxyType(
    {
        "ViT-B_16": "timm/vit_base_patch16_224.augreg_in21k",
        "ViT-B_32": "timm/vit_base_patch32_224.orig_in21k",
        "ViT-L_16": "timm/vit_large_patch16_224.orig_in21k",
        "R50-ViT-B_16": RESNET_REPOSITORY,
        "R50-ViT-L_16": "timm/vit_large_patch16_224.orig_in21k",
        "R50-ViT-Ti_16": "timm/vit_tiny_patch16_224.augreg_in21k",
        "R50-ViT-S_16": "timm/vit_small_patch16_224.augreg_in21k",
    }
)
"""Variant → the repository on the Hugging Face hub with ImageNet-21k weights for its encoder."""

_PARTS = ("ResNet", "encoder", "patch embedding", "decoder", "head")


@dataclass(frozen=True)
class InitReport:
    """Where the first weights of a network came from.

    Attributes
    ----------
    origins : state-dict key → name of the file or repository that it was set from, wholly or in part
    kept : keys that keep their own initial values
    unused : names in the files that the network has no place for
    resized : grids (from, to) of the position embeddings where they were resampled
    head_classes : how many of the head's classes were set, and how many it has
    """

    origins: Mapping[str, str]
    kept: tuple[str, ...]
    unused: tuple[str, ...] = ()
    resized: tuple[Grid, Grid] | None = None
    head_classes: tuple[int, int] = (0, 0)

    @property
    def sentence(self) -> str:
        """All of it for the model card: "ResNet and encoder from …; decoder and head from scratch."."""
        parts = [f"{_listed(names)} from {source}" for source, names in self._set_parts().items()]
        kept = dict.fromkeys(self._kept_name(key) for key in self.kept)
        if 0 < self.head_classes[0] < self.head_classes[1]:
            kept["the head's other classes"] = None
        if kept:
            parts.append(f"{_listed(list(kept))} from scratch")
        if self.resized is not None:
            before, after = (f"{grid[0]}×{grid[1]}" for grid in self.resized)
            parts.append(f"position embeddings resampled from {before} to {after}")
        text = "; ".join(parts)
        return f"{text[:1].upper()}{text[1:]}."

    def _set_parts(self) -> dict[str, list[str]]:
        """Source → names of what came from it."""
        sources: dict[str, list[str]] = {}
        taken, classes = self.head_classes
        for part in _PARTS:
            for source in dict.fromkeys(name for key, name in self.origins.items() if _part(key) == part):
                partial = part == "head" and taken < classes
                name = f"{taken} of the head's {classes} classes" if partial else part
                if part != "patch embedding":  # It is mentioned only where it is from scratch.
                    sources.setdefault(source, []).append(name)
        return sources

    def _kept_name(self, key: str) -> str:
        """The part, or the layer where other layers of that part were set."""
        part = _part(key)
        return _unit(key) if any(_part(other) == part for other in self.origins) else part


def initialise(
    net: TransUNet,
    source: str | os.PathLike[str],
    *,
    cnn: str | os.PathLike[str] | None = None,
    class_sources: Mapping[int, int] | None = None,
) -> InitReport:
    """Set a network's first weights; what the source does not have keeps its own initial values.

    Parameters
    ----------
    source
        "imagenet"; `hub:OWNER/NAME`, a repository on the Hugging Face hub; the path of an `.npz` file with Flax
        names; the path of a file of timm's; or path or registered name of a TransUNet checkpoint of the same
        variant. Image size, classes and skips of a checkpoint may differ: position embeddings are resampled,
        layers that have another shape are left as they are, and so is the head where the classes are not as many.
    cnn
        where the ResNet of a hybrid comes from if `source` has none: as `source`, but no checkpoint; for an `.npz`
        file another one. For a repository the right one is found without it.
    class_sources
        class of `net` → class of the checkpoint whose rows of the head it starts from; the background (0) starts
        from the background. Other classes keep their initial values.

    Raises
    ------
    FileProblem
        There is no such file, it cannot be read, or the hub cannot be reached.
    CheckpointError
        A file is damaged, unsafe, not finite or of another variant. The network is then unchanged.
    InputError
        There is no checkpoint of that name, no repository known for the variant, or a class that does not exist.
    """
    if not isinstance(net, TransUNet):
        raise InputError(f"Weights go into a TransUNet, not a {type(net).__name__}.")
    if source == IMAGENET:
        source = f"{HUB_PREFIX}{_imagenet_repository(net.variant)}"
    if cnn == IMAGENET:
        cnn = f"{HUB_PREFIX}{RESNET_REPOSITORY}"
    if _is_npz(source):
        main, resnet = Path(source).name, None if cnn is None else Path(cnn).name
        _refuse_classes(main, class_sources)
        return _transformer_report(net, load_imagenet(net, source, cnn=cnn), main, resnet)
    file = _open(source)
    if not is_timm(file.stored.tensors):
        if cnn is not None:
            raise InputError(f"{file.label} is no encoder alone, so no cnn goes with it; leave it out.")
        return _from_checkpoint(net, file, class_sources)
    _refuse_classes(file.label, class_sources)
    if cnn is None and _is_hub(source) and net.variant.hybrid and not has_resnet(file.stored.tensors):
        cnn = f"{HUB_PREFIX}{RESNET_REPOSITORY}"
    other = None if cnn is None else _open(cnn)
    report = set_transformer(net, file.weights(), None if other is None else other.weights())
    return _transformer_report(net, report, file.label, None if other is None else other.label)


def shared_classes(ours: Mapping[int, str], theirs: Mapping[int, str]) -> dict[int, int]:
    """Class → the other checkpoint's class of the same name, for `class_sources`. Spelling does not matter.

    Both are value → name, as in `ModelCard.label_names`. A name that is there twice is left out.
    """
    values: dict[str, list[int]] = {}
    for value, name in theirs.items():
        values.setdefault(organ_key(name), []).append(value)
    found = {value: values.get(organ_key(name), []) for value, name in ours.items()}
    return {value: same[0] for value, same in found.items() if len(same) == 1}


# --- Sources -----------------------------------------------------------------------------------------------------


def _is_hub(source: str | os.PathLike[str]) -> bool:
    return isinstance(source, str) and source.startswith(HUB_PREFIX)


def _is_npz(source: str | os.PathLike[str]) -> bool:
    return not _is_hub(source) and Path(source).suffix.lower() == ".npz"


@dataclass(frozen=True)
class _File:
    """An opened file, and what cards and errors call it: a repository or a file's name, never a path of its author."""

    label: str
    stored: StoredTensors

    def weights(self) -> Pretrained:
        return timm_weights(self.stored, name=self.label)


def _open(source: str | os.PathLike[str]) -> _File:
    if not _is_hub(source):
        stored = open_checkpoint(resolve_checkpoint(source))
        return _File(stored.path.name, stored)
    repository = os.fspath(source).removeprefix(HUB_PREFIX)
    path = fetch(repository)
    try:
        return _File(repository, open_checkpoint(path))
    except CheckpointError as error:
        # All files on the hub have the same name, so the repository is named too.
        raise CheckpointError(f"{repository}: {error}") from error


def _imagenet_repository(variant: Variant) -> str:
    if variant.name not in IMAGENET_REPOSITORIES:
        raise InputError(
            f"No ImageNet weights are listed for {variant.name}, only for {', '.join(IMAGENET_REPOSITORIES)}; "
            f"give a file, or a repository as {HUB_PREFIX}OWNER/NAME."
        )
    return IMAGENET_REPOSITORIES[variant.name]


def _refuse_classes(label: str, class_sources: Mapping[int, int] | None) -> None:
    if class_sources is not None:
        raise InputError(f"{label} has no head for classes, so none can be taken from it.")


# --- Pretrained encoders -----------------------------------------------------------------------------------------


def _transformer_report(net: TransUNet, report: LoadReport, main: str, cnn: str | None) -> InitReport:
    from_cnn = set(report.from_cnn)
    origins = {key: cnn if cnn is not None and key in from_cnn else main for key in report.loaded}
    kept = tuple(key for key in net.state_dict() if key not in origins)
    return InitReport(origins, kept, report.unused, report.resized, (0, net.num_classes))


# --- Checkpoints of ours -----------------------------------------------------------------------------------------


def _from_checkpoint(net: TransUNet, file: _File, class_sources: Mapping[int, int] | None) -> InitReport:
    stored, label = file.stored, file.label
    _refuse_another_variant(net.variant, stored, label)
    found = CheckpointInfo.from_file(stored.path, variant=net.variant, target_size=net.img_size)
    source = load_checkpoint(stored.path, variant=net.variant, img_size=net.img_size).model
    ours, theirs = net.state_dict(), source.state_dict()
    # A layer's convolution and norm belong together: the statistics of one mean nothing for another.
    unfit = {_unit(key) for key, value in ours.items() if theirs[key].shape != value.shape}
    state = {key: theirs[key] for key in ours if _unit(key) not in unfit}
    taken = net.num_classes if source.num_classes == net.num_classes else 0
    if class_sources is not None:
        rows = _rows(class_sources, net.num_classes, source.num_classes, label)
        state |= {key: _with_rows(ours[key], theirs[key], rows) for key in (f"{HEAD}.weight", f"{HEAD}.bias")}
        taken = len(rows)
    with torch.no_grad():
        for key, value in state.items():
            ours[key].copy_(value)
    learned = found.img_size
    patch = net.variant.patch
    resized = None
    if learned is not None and learned != net.img_size:
        resized = (learned[0] // patch, learned[1] // patch), net.grid
    return InitReport(
        origins={key: label for key in ours if key in state},
        kept=tuple(key for key in ours if key not in state),
        resized=resized,
        head_classes=(taken, net.num_classes),
    )


def _refuse_another_variant(variant: Variant, stored: StoredTensors, label: str) -> None:
    """Before its sizes are compared in detail: most tensors would be named, and that would tell less."""
    if recognise(stored.shapes, variant=variant).fits:
        return
    true = recognise(stored.shapes)
    if true.fits and replace(true.variant, name=variant.name) != variant:
        raise CheckpointError(
            f"{label} is {true.variant.name} and cannot start {variant.name}; take a checkpoint of the same variant, "
            f"or train {true.variant.name}."
        )


def _rows(class_sources: Mapping[int, int], ours: int, theirs: int, label: str) -> dict[int, int]:
    rows = {0: 0, **class_sources}
    for here, there in rows.items():
        if not 0 <= here < ours:
            raise InputError(f"There is no class {here} to start; the network's end at {ours - 1}.")
        if not 0 <= there < theirs:
            raise InputError(f"There is no class {there} in {label}; its classes end at {theirs - 1}.")
    return rows


def _with_rows(ours: Tensor, theirs: Tensor, rows: Mapping[int, int]) -> Tensor:
    """`ours` (classes, …) with rows of `theirs` in it."""
    mixed = ours.detach().clone()
    mixed[list(rows)] = theirs[list(rows.values())].to(mixed)
    return mixed


# --- Sentences ---------------------------------------------------------------------------------------------------


def _part(key: str) -> str:
    if key.startswith(CNN):
        return "ResNet"
    if key.startswith(PATCH_EMBEDDINGS):
        return "patch embedding"
    if key.startswith(TRANSFORMER):
        return "encoder"
    return "decoder" if key.startswith("decoder.") else "head"


def _unit(key: str) -> str:
    """The layer that an entry of decoder or head belongs to: `decoder.blocks.1.conv2.1.bias` -> `….conv2`."""
    return key if key.startswith(TRANSFORMER) else key.rsplit(".", 2)[0]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
