"""Learning from the reviewed slices of a labels layer: what of it happens off the GUI thread, without a widget.

The layer numbers its labels as a person likes, the network its classes from 1 on. `AdaptationInput` is what is taken
out of the layer at one moment; its names decide which label is which class, its new ones become the next classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_transunet.errors import ExistsError, FileProblem
from napari_transunet.files import known_sha256
from napari_transunet.metrics.difference_map import match_labels
from napari_transunet.viewer.widgets.priority import be_nice, no_garbage_collection

if TYPE_CHECKING:
    from napari_transunet.checkpoints.info import CheckpointInfo
    from napari_transunet.checkpoints.lineage import Adaptation
    from napari_transunet.checkpoints.loading import Checkpoint
    from napari_transunet.cluster.address import ClusterAddress
    from napari_transunet.training.corrections import Correction
    from napari_transunet.training.fine_tuning import AdaptationProgress
    from napari_transunet.volumes.volume import Volume

_LONGEST = 80  # characters of a file's name
_LEARNT = re.compile(r"-learnt(-\d+)?$")
_TITLE = re.compile(r", learnt( \d+)?$")


@dataclass(frozen=True)
class ClassMapping:
    """Which labels of a layer are which classes of the network that learns from them.

    Attributes
    ----------
    known : label value → class that the checkpoint has
    added : label value → class that the checkpoint will have then, in ascending order of both
    names : label value → name, of both
    """

    known: Mapping[int, int]
    added: Mapping[int, int]
    names: Mapping[int, str]

    @classmethod
    def of(cls, candidate: CheckpointInfo, names: Mapping[int, str], drawn: Iterable[int]) -> ClassMapping:
        """By name; a name that the checkpoint does not know is a new organ where one of the slices shows it."""
        matched = match_labels(candidate.label_set.names, names, ()) if names else None
        found = matched.organs if matched is not None else {}
        known: dict[int, int] = {}
        for value, number in found.items():
            if number is not None and number not in known.values():
                known[value] = number
        classes = candidate.num_classes or 1
        new = sorted({*drawn} & {value for value, number in found.items() if number is None})
        added = {value: classes + at for at, value in enumerate(new)}
        return cls(known, added, {value: names[value] for value in (*known, *added)})

    def __len__(self) -> int:
        return len(self.known) + len(self.added)

    @property
    def new_names(self) -> dict[int, str]:
        """Class → name of the new ones."""
        return {number: self.names[value] for value, number in self.added.items()}

    def classes_of(self, labels: NDArray[Any], named: Iterable[int]) -> NDArray[np.uint16]:
        """Labels as classes: other named organs are background to the network, and what has no name is unknown."""
        from napari_transunet.training.losses import UNKNOWN

        table = np.full(int(labels.max(initial=0)) + 1, UNKNOWN, np.uint16)
        for value, number in {0: 0, **dict.fromkeys(named, 0), **self.known, **self.added}.items():
            if value < len(table):
                table[value] = number
        classes: NDArray[np.uint16] = table[labels]
        return classes

    def values(self, num_classes: int) -> tuple[int, ...] | None:
        """The label value of each class, 0 of those that the layer does not name; None where each is its own."""
        values = [0] * num_classes
        for value, number in {**self.known, **self.added}.items():
            values[number] = value
        return None if values == list(range(num_classes)) else tuple(values)


@dataclass(frozen=True)
class AdaptationPlan:
    """What would learn from what, before any label is copied.

    Attributes
    ----------
    cluster : the scheduler at whose worker it is learnt; None for this computer
    reviewed : the slices to learn from
    named : the values that have a name in the layer
    """

    candidate: CheckpointInfo
    device: str
    cluster: ClusterAddress | None
    reviewed: tuple[int, ...]
    organs: ClassMapping
    named: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AdaptationInput:
    """What is learnt from, and what learns; taken at one moment.

    Attributes
    ----------
    volume : gives the scan; a lazy one is computed then
    planes : slice → its labels as they were, along `axis`
    shape : of the labels
    """

    plan: AdaptationPlan
    volume: Callable[[], Volume]
    planes: Mapping[int, NDArray[Any]]
    axis: int
    shape: tuple[int, int, int]

    def correction(self, volume: Volume, checkpoint: Checkpoint) -> Correction:
        """The reviewed slices as the engine takes them; those along another axis than its own as single voxels."""
        from napari_transunet.training.corrections import Correction

        labels, slices = np.zeros(self.shape, np.uint16), sorted(self.planes)
        along = np.moveaxis(labels, self.axis, 0)
        for index, plane in self.planes.items():
            along[index] = self.plan.organs.classes_of(plane, self.plan.named)
        known = checkpoint.card.label_set().names
        organs = [known[number] for number in self.plan.organs.known.values()]
        organs += self.plan.organs.new_names.values()
        return Correction.along(self.axis, slices, volume, labels, organs, checkpoint.card)


@dataclass(frozen=True, eq=False)
class AdaptationResult:
    """What came of a lesson."""

    lesson: AdaptationInput
    checkpoint: Checkpoint
    correction: Correction

    @property
    def story(self) -> Adaptation:
        """What it learnt from, and Dice before and after."""
        return self.checkpoint.card.lineage[-1]

    @property
    def values(self) -> tuple[int, ...] | None:
        """The layer's label value of each class; None where each is its own."""
        return self.lesson.plan.organs.values(self.checkpoint.card.num_classes)


def import_ahead() -> None:
    """Import what `learn` needs, in a thread of its own: some thousand modules, between which the window is served."""
    be_nice()
    with no_garbage_collection():
        import torch

        import napari_transunet.checkpoints.loading
        import napari_transunet.training.adaptation  # noqa: F401

        # The first optimiser of a process imports PyTorch's compiler.
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])


def learn(
    lesson: AdaptationInput, told: Callable[[AdaptationProgress], None], cancelled: Callable[[], bool]
) -> AdaptationResult | None:
    """Learn, on a thread of its own, which gets a low priority; None where it was cancelled.

    Raises
    ------
    TransUNetError
        The checkpoint cannot be used, or there is nothing to learn from.
    """
    be_nice()
    from napari_transunet.checkpoints.loading import load_checkpoint
    from napari_transunet.training import adaptation
    from napari_transunet.training.fine_tuning import AdaptationCancelled

    try:
        candidate = lesson.plan.candidate
        parent = load_checkpoint(candidate.path)
        if candidate.preset is not None:
            parent = parent.with_labels(candidate.label_set.names)
        correction = lesson.correction(lesson.volume(), parent)
        wishes: dict[str, Any] = {
            "progress": told,
            "cancelled": cancelled,
            "new_organs": lesson.plan.organs.new_names,
        }
        if lesson.plan.cluster is None:
            better = adaptation.adapt(parent, [correction], device=lesson.plan.device, **wishes)
        else:
            better = _learnt_there(lesson.plan.cluster, parent, correction, wishes)
    except AdaptationCancelled:
        return None
    return AdaptationResult(lesson, better, correction)


def _learnt_there(
    cluster: ClusterAddress, parent: Checkpoint, correction: Correction, wishes: Mapping[str, Any]
) -> Checkpoint:
    from napari_transunet.cluster.connecting import client_at

    with client_at(cluster.address, cluster.tls) as client:
        from napari_transunet.cluster.adapting import adapt_on_cluster

        return adapt_on_cluster(client, parent, [correction], **wishes)


def save_adapted(learnt: AdaptationResult, folder: Path | None) -> CheckpointInfo:
    """Write the new checkpoint and what it has to replay into the user's folder, over nothing that is there.

    `folder` is None for the usual one. For any thread.

    Raises
    ------
    FileProblem
        The folder cannot be written to.
    """
    from napari_transunet.checkpoints.info import inspect_checkpoint
    from napari_transunet.checkpoints.registry import user_checkpoint_folder
    from napari_transunet.checkpoints.saving import save_checkpoint
    from napari_transunet.training.adaptation import pack_for_child
    from napari_transunet.training.replay import replay_path

    folder = folder or user_checkpoint_folder()
    card, parent = learnt.checkpoint.card, learnt.lesson.plan.candidate
    pack = pack_for_child(parent.path, card, [learnt.correction], card)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileProblem(f"{folder} cannot be made: {error.strerror or error}.") from error
    for number in range(1, 10_000):
        path = folder / f"{safe_stem(parent.path.stem)}{'' if number == 1 else f'-{number}'}.safetensors"
        if path.exists() or replay_path(path).exists():
            continue
        title = f"{_TITLE.sub('', card.title or parent.title)}, learnt{'' if number == 1 else f' {number}'}"
        try:
            save_checkpoint(path, learnt.checkpoint, card.updated(name=path.stem, title=title[:500]))
        except ExistsError:  # another window was faster
            continue
        try:
            pack.write(replay_path(path))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return inspect_checkpoint(path)
    raise FileProblem(f"{folder} holds too many learnt checkpoints; delete some of them.")


def safe_stem(parent: str) -> str:
    """The name of a checkpoint that learnt, after its parent's: plain letters, and no longer with every generation."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", _LEARNT.sub("", parent)).strip("-._")[:_LONGEST]
    return f"{plain or 'checkpoint'}-learnt"


# -- lineage --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RelatedCheckpoint:
    """A checkpoint that another one came from, or that came from it.

    Attributes
    ----------
    name : what it is called
    sha256 : hash of its file; None where `path` is known
    path : its file, where that is known
    """

    name: str
    sha256: str | None = None
    path: Path | None = None

    @property
    def is_ancestor(self) -> bool:
        """Whether the other one came from it."""
        return self.sha256 is not None


def relatives(chosen: CheckpointInfo, others: Sequence[CheckpointInfo]) -> list[RelatedCheckpoint]:
    """Parent, grandparent and so on, then those of the others that came from it, as far as the cards tell."""
    lineage = chosen.card.lineage if chosen.card is not None else ()
    found = [
        RelatedCheckpoint(story.parent_name or "unnamed", story.parent)
        for story in reversed(lineage)
        if story.parent
    ]
    parents = {
        other.path: {story.parent for story in other.card.lineage}
        for other in others
        if other.card is not None and other.card.lineage and other.path != chosen.path
    }
    own = _hash_of(chosen.path) if parents else None
    return found + [
        RelatedCheckpoint(other.title, path=other.path)
        for other in others
        if own is not None and own in parents.get(other.path, ())
    ]


def find_file(wanted: RelatedCheckpoint, listed: Sequence[CheckpointInfo]) -> Path | None:
    """The file of a relative among those that are listed, by its hash; None where it is not there."""
    if wanted.path is not None:
        return wanted.path if wanted.path.is_file() else None
    first = sorted(listed, key=lambda one: one.path.stem != wanted.name)
    return next((one.path for one in first if _hash_of(one.path) == wanted.sha256), None)


def _hash_of(path: Path) -> str | None:
    """Hexadecimal SHA-256; None where the file cannot be read."""
    try:
        return known_sha256(path)
    except OSError:
        return None
