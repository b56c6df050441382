"""Learning from corrections: a checkpoint and the slices that somebody put right make a better checkpoint.

A part of the corrections is held out at first. Half-way the network is scored on them, and their Dice before and then
is what the result's lineage tells. Where they gained it learns on, from all; where not, it is scored again later.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_transunet.checkpoints.lineage import MAX_GENERATIONS, Adaptation, DiceChange, LearntScan
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.checkpoints.saving import SUFFIX
from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.inference.devices import free_cached_memory, resolve_device, resolve_precision
from napari_transunet.inference.slices import PLANES, Plane, orientation_for
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.datasets import values_in, whole_labels
from napari_transunet.training.first_network import first_network
from napari_transunet.training.heads import fit_new_classes, unlearnt_classes, with_classes
from napari_transunet.training.losses import UNKNOWN, PartialDiceCELoss, change_of_known_classes
from napari_transunet.training.optimiser import parameter_groups
from napari_transunet.training.partial_slices import PartialSlices, partial_slices
from napari_transunet.training.replay import ReplayPack, replay_beside
from napari_transunet.training.slices import mixed_seed
from napari_transunet.volumes.fingerprint import scan_fingerprint
from napari_transunet.volumes.labels import organ_key

if TYPE_CHECKING:
    import os

    from torch import Tensor

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.model.transunet import TransUNet
    from napari_transunet.volumes.volume import Volume

STEPS = 120
SECONDS = 105.0
"""For how long to learn where nobody says: so many steps, or so many seconds where that is less."""

_FEWEST_STEPS = 30  # however slow the machine is
_BATCH = 6
_REPLAYED, _REPLAYED_OF_EARLIER = 2, 3  # of a batch; where there are earlier scans
_REPLAYED_BESIDE_NEW, _RATE_BESIDE_NEW = 4, 0.5
"""Where an organ is new and others are not: so many of a batch, as replay tells of these, and this part of the rate."""

_LEARNING_RATE, _WEIGHT_DECAY, _CLIP = 1e-3, 0.05, 1.0
_WARM_UP = 0.1
_AVERAGING = 0.9
"""The result is a moving average of the weights, so that it can be scored well before the learning rate is low."""

_SCORED_AT = (0.5, 0.75, 1.0)
"""After which shares of the steps or seconds the held-out slices are scored. Once they gained, they are learnt from."""

_FOLDS = 4
_UNVOUCHED, _FEWEST_UNVOUCHED = 24, 4
"""Of earlier scans, and of those in which new organs alone are vouched for, so many other slices in all are replayed as
the network labels them, but so many of each at least."""

_ABSENT = 0.3
"""How much a new organ counts as absent from replayed background, of which nobody says whether it is there."""

_KEPT = 10.0
"""Weight of what is no longer as the parent has it, where an organ is new and others are not."""

_FIRST_VIEWS, _FIRST_REPLAYED = 3, 24
"""What a new organ's weights are fitted to first: views of each corrected slice, and replayed slices."""

_SINGLE_VOXELS = 0.25
"""How often a slice is drawn in which single voxels are vouched for, where one as a whole is drawn once."""

_DISTANCES, _DISTANCE_SHARES = (0, 1, 2), (0.15, 0.65, 0.2)


class AdaptationCancelled(TransUNetError):
    """`adapt` was asked to stop. Nothing has changed."""


@dataclass(frozen=True, eq=False)
class Correction:
    """What somebody vouches for in one scan.

    Attributes
    ----------
    volume : the scan
    labels : (z, y, x) label values on the volume's grid; 255 is unknown, unless an organ has that value
    slices : vouched for as a whole; indices along the axis that the network takes slices along (`Predictor.slice_axis`)
    organs : names or label values of the organs that are vouched for there; None: all of the card and all new ones
    voxels : (z, y, x) of which single voxels are vouched for too, wherever they are; None for none
    """

    volume: Volume
    labels: npt.NDArray[Any]
    slices: Sequence[int]
    organs: Sequence[str | int] | None = None
    voxels: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class AdaptationProgress:
    """How far it is.

    Attributes
    ----------
    done : share of the whole, 0..1
    step : optimiser steps so far
    seconds, remaining : since the start, and that are likely left
    loss : of the last step
    dice : mean Dice on the held-out slices when they were last scored; None before, and where nothing is held out
    """

    done: float
    step: int
    seconds: float
    remaining: float
    loss: float
    dice: float | None


def adapt(
    checkpoint: Checkpoint | str | os.PathLike[str] | None,
    corrections: Sequence[Correction],
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: Callable[[AdaptationProgress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    new_organs: Mapping[int, str] | None = None,
    drop: Collection[str] = (),
    earlier: Sequence[Correction] = (),
    replay: ReplayPack | None = None,
    steps: int | None = None,
    seconds: float = SECONDS,
    seed: int = 0,
) -> Checkpoint:
    """A checkpoint that learnt from corrections; the given one stays as it is, and nothing is written.

    The last entry of the result's `card.lineage` tells what it learnt from, and the Dice of each organ on slices that
    were held out, before and after. Is it not better there, the weights are those of the given checkpoint.

    Parameters
    ----------
    checkpoint : as loaded, or its name or path; None: a first network for the `new_organs`, as `first_network` makes it
        of the first scan
    corrections : scans with the slices, organs and voxels that are vouched for; nothing else is learnt from
    device, precision : as for `Predictor`; weights stay float32
    progress : told after every step
    cancelled : asked before every step
    new_organs : label value → name of organs that the card lacks. They become the next classes, in this order
    drop : names of organs of the card to forget; the classes after them move up
    earlier : corrections of other scans that it learnt from before; they are replayed
    replay : slices that it learnt from before; None: those beside the checkpoint's file, where there are any
    steps : optimiser steps in all; None: as many as `seconds` allow, at most 120 and at least 30
    seconds : for how long to learn, where `steps` is None
    seed : of all random draws; with `steps` the result is the same on the same machine

    Raises
    ------
    InputError
        Nothing is vouched for; slices, organs or label values that do not exist; labels of another shape than their
        volume; or a device or precision that is not here.
    CheckpointError
        The checkpoint or its replay pack cannot be used.
    AdaptationCancelled
        `cancelled` said so.
    """
    start = time.monotonic()
    where = resolve_device(device)
    dtype = resolve_precision(precision, where)
    if steps is not None and steps < 1:
        raise InputError(f"At least 1 step is needed, not {steps}.")
    if not corrections:
        raise InputError("There are no corrections, so nothing can be learnt.")
    added = new_organs or {}
    if checkpoint is None:
        parent, added = first_network(corrections[0].volume, added), {}
    elif isinstance(checkpoint, Checkpoint):
        parent = checkpoint
    else:
        parent = load_checkpoint(resolve_checkpoint(checkpoint))
    classes = _Classes.of(parent.card, added, drop)
    card = _card_with(parent.card, classes)
    stop = _Stop(cancelled)
    parts = [_prepared(one, card, classes, stop) for one in corrections]
    if not sum(map(len, parts)):
        raise InputError("Nothing is vouched for, so nothing can be learnt; name the slices that are right.")
    if replay is None:
        replay = replay_beside(parent.path)
    samples = PartialSlices.joined(parts)
    known = [[_prepared(one, card, classes, stop) for one in earlier]]
    known.append([] if replay is None else [replay.for_card(card)])
    replays = sum(len(part) for kind in known for part in kind)
    if parent.sha256:
        beside = [one for one in corrections if set(classes.vouched(one.organs)) <= classes.added.keys()]
        known += [[_unvouched(one, len(of), card, classes, stop) for one in of] for of in (beside, earlier)]
    replayed = _Replayed.of(known)
    held = held_out(samples, _learnt_before(corrections, parts, parent.card))
    if card.planes > 1:
        numbers = _numbers_held(parts, held)
        across = [
            part
            for one, own in zip(corrections, numbers, strict=True)
            for part in _across(one, own, card, classes, stop)
        ]
        samples = PartialSlices.joined([samples, *across])

    with _private_random_state(where):
        net = with_classes(parent.model, classes.origins)
        learnt = _Learning(
            net=net.to(where, memory_format=torch.channels_last),  # type: ignore[call-overload]
            card=card,
            samples=samples,
            replayed=replayed,
            held=held,
            device=where,
            dtype=dtype,
            seed=seed,
            progress=progress,
            stop=stop,
            start=start,
            from_scratch=not parent.sha256,
        ).run(steps, seconds)
    if not learnt.steps:
        net = with_classes(parent.model, classes.origins)
    net.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    free_cached_memory(where)
    story = Adaptation(
        parent=parent.sha256 or None,
        parent_name=parent.name[:200] or None if parent.sha256 else None,
        scans=_scans(corrections, parts, _numbers_held(parts, held), classes),
        added=tuple(classes.added.values()),
        dropped=classes.dropped,
        dice={
            classes.names[value]: DiceChange(before=_plain(before), after=_plain(after))
            for value, (before, after) in learnt.dice.items()
        },
        steps=learnt.steps,
        further_steps=learnt.further_steps,
        replayed=replays,
        seconds=round(time.monotonic() - start, 1),
        seed=seed,
        device=f"{where} ({str(dtype).removeprefix('torch.')})",
    )
    lineage = (*parent.card.lineage, story)[-MAX_GENERATIONS:]
    return Checkpoint(
        model=net,
        card=card.model_copy(update={"lineage": lineage}),
        path=parent.path.with_name(f"{parent.path.stem}-adapted{SUFFIX}"),
        sha256=weights_sha256(net),
        format="memory",
    )


def replay_pack(
    card: ModelCard,
    scans: Sequence[Correction],
    *,
    slices: int = 48,
    source: str | None = None,
    new_organs: Mapping[int, str] | None = None,
    drop: Collection[str] = (),
) -> ReplayPack:
    """What a checkpoint with that card learnt from, for it to be replayed: so many slices, evenly spaced, in all.

    With `new_organs` and `drop` the pack is for what `adapt` made of the checkpoint with the same wishes.

    Slices with organs are taken before those without. Of a network that looks along three axes the slices are along
    all three where a whole scan is vouched for. `source` says where they come from and their licence; by default what
    the card says.

    Raises
    ------
    InputError
        As `adapt`.
    """
    classes = _Classes.of(card, new_organs or {}, drop)
    card = _card_with(card, classes)
    parts = []
    for one in scans:
        planes = PLANES[: card.planes] if _is_whole(one, card) else PLANES[:1]
        for plane in planes:
            part = _prepared(one, card, classes, _Stop(None), plane)
            holds = ((part.labels > 0) & (part.labels != UNKNOWN)).flatten(1).any(1)
            order = torch.cat((torch.nonzero(holds)[:, 0], torch.nonzero(~holds)[:, 0]))
            share = max(1, slices // (len(scans) * len(planes)))
            among = order[: max(share, int(holds.sum()))]
            parts.append(part.pick(among[torch.linspace(0, len(among) - 1, min(share, len(among))).long()]))
    if not sum(map(len, parts)):
        raise InputError("Nothing is vouched for, so there is nothing to replay.")
    if source is None:
        source = "; ".join(str(said) for said in (card.source, card.licence) if said)
    return ReplayPack(PartialSlices.joined(parts), card.label_set().names, source)


def held_out(samples: PartialSlices, seen: Collection[int] = ()) -> list[int]:
    """Which slices are scored and not learnt from: a quarter of those that are vouched for as a whole, every fourth.

    Of the four such choices it is the one with most organs both within and without. Those that were `seen` before are
    none of them. Fewer than two slices, or all seen: none.
    """
    whole = torch.nonzero(samples.whole)[:, 0].tolist()
    if len(whole) < 2:
        return []
    whole = [number for number in whole if number not in set(seen)]
    if not whole:
        return []
    there = [set(samples.labels[number].unique().tolist()) - {0, UNKNOWN} for number in whole]
    folds = min(_FOLDS, len(whole))

    def organs_on_both_sides(fold: int) -> int:
        inside = set().union(*there[fold::folds])
        outside = set().union(*(one for at, one in enumerate(there) if at % folds != fold))
        return len(inside & outside)

    middle_first = sorted(range(folds), key=lambda fold: abs(2 * fold - folds))
    return whole[max(middle_first, key=organs_on_both_sides) :: folds]


def weights_sha256(net: nn.Module) -> str:
    """Hexadecimal SHA-256 of a network's weights, with their names: what tells networks without a file apart."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Classes:
    """Which classes the result has, and what label values mean.

    Attributes
    ----------
    of_value : label value → class of the result; dropped organs are background
    origins : of each class of the result that of the parent, None where it is new
    names : class of the result → name
    added : the new ones among them
    dropped : names
    """

    of_value: Mapping[int, int]
    origins: tuple[int | None, ...]
    names: Mapping[int, str]
    added: Mapping[int, str]
    dropped: tuple[str, ...]

    @classmethod
    def of(cls, card: ModelCard, new: Mapping[int, str], drop: Collection[str]) -> _Classes:
        """Of a card, with organs added and dropped. Raises `InputError` where that cannot be."""
        names = card.label_set().names
        by_name = {organ_key(name): value for value, name in names.items()}
        gone = set()
        for name in drop:
            if organ_key(name) not in by_name:
                raise InputError(
                    f"There is no {name!r} to drop; the checkpoint has {_listed(names.values())}."
                )
            gone.add(by_name[organ_key(name)])
        kept = [value for value in range(card.num_classes) if value not in gone]
        for value, name in new.items():
            if value in range(card.num_classes):
                raise InputError(
                    f"Label {value} is {names.get(value, 'the background')!r} already; give the new organ {name!r} "
                    f"a value from {card.num_classes} on."
                )
            if not 0 < value < 1 << 16:
                raise InputError(f"A label value is from 1 to 65535, not {value}.")
            if by_name.get(organ_key(name), 0) in kept[1:]:
                raise InputError(
                    f"The checkpoint has {name!r} already; its label value is {by_name[organ_key(name)]}."
                )
            if not name.strip():
                raise InputError(f"The new organ with the label value {value} needs a name.")
        if len({organ_key(name) for name in new.values()}) < len(new):
            raise InputError("Two new organs have the same name.")
        count = len(kept) + len(new)
        if count > UNKNOWN:
            raise InputError(
                f"A network that learns from corrections has at most {UNKNOWN} classes, not {count}."
            )
        if count < 2:
            raise InputError("No organ would be left; keep one, or add one.")
        added = {len(kept) + at: name.strip() for at, name in enumerate(new.values())}
        of_value = {value: at for at, value in enumerate(kept)} | dict.fromkeys(gone, 0)
        of_value |= dict(zip(new, added, strict=True))
        return cls(
            {UNKNOWN: UNKNOWN} | of_value,
            (*kept, *(None for _ in new)),
            {at: names[value] for at, value in enumerate(kept) if value} | added,
            added,
            tuple(names[value] for value in sorted(gone)),
        )

    def vouched(self, organs: Sequence[str | int] | None) -> list[int]:
        """Classes of the organs that somebody vouches for; None: all."""
        if organs is None:
            return sorted(self.names)
        by_name = {organ_key(name): value for value, name in self.names.items()}
        found = set()
        for organ in organs:
            value = self.of_value.get(organ) if isinstance(organ, int) else by_name.get(organ_key(organ))
            if value in (None, UNKNOWN):
                raise InputError(
                    f"There is no organ {organ!r} to vouch for; there are {_listed(self.names.values())}."
                )
            assert value is not None
            found.add(value)
        return sorted(found - {0})


def _card_with(card: ModelCard, classes: _Classes) -> ModelCard:
    """The result's card: its classes, and no scores, which were those of its parent."""
    given = {label.value: label for label in card.labels}
    labels = [
        {**given[origin].model_dump(exclude_none=True), "value": value}
        for value, origin in enumerate(classes.origins)
        if origin is not None and origin in given
    ]
    labels += [{"value": value, "name": name} for value, name in classes.added.items()]
    return card.updated(num_classes=len(classes.origins), labels=labels, scores=None)


def _is_whole(one: Correction, card: ModelCard) -> bool:
    axis = orientation_for(one.volume, card).slice_axis
    return len(set(one.slices)) == one.volume.data.shape[axis]


def _prepared(
    one: Correction, card: ModelCard, classes: _Classes, stop: _Stop, plane: Plane = "z"
) -> PartialSlices:
    """A correction at the network's size. Along another plane than z there are all slices, or single voxels alone.

    Raises `InputError` where it cannot be used.
    """
    stop.check()
    name, shape = one.volume.source.name, one.volume.data.shape
    labels = whole_labels(np.asarray(one.labels), name)
    for what, array in (("labels", labels), ("mask of voxels", one.voxels)):
        if array is not None and array.shape != shape:
            raise InputError(
                f"{name}: the {what} have the shape {array.shape}, but the volume {shape}; they must lie on one grid."
            )
    axis = orientation_for(one.volume, card).slice_axis
    slices = sorted({int(index) for index in one.slices})
    if slices and not 0 <= slices[0] <= slices[-1] < shape[axis]:
        wrong = next(index for index in slices if not 0 <= index < shape[axis])
        raise InputError(
            f"{name}: there is no slice {wrong}; they are 0 to {shape[axis] - 1} along axis {axis}."
        )
    voxels = None if one.voxels is None else np.asarray(one.voxels, bool)
    along = np.moveaxis(labels, axis, 0)[slices]
    values = {*values_in(along), *(() if voxels is None else np.unique(labels[voxels]).tolist())}
    if strangers := sorted(value for value in values if value not in classes.of_value):
        raise InputError(
            f"{name}: its labels hold {_listed(map(str, strangers))}, which the checkpoint has no organ for; "
            "give the new organ a name, or take the label away."
        )
    return partial_slices(
        one.volume,
        labels,
        card,
        slices=None if plane != "z" and slices else slices,
        voxels=voxels,
        classes=classes.of_value,
        annotated=classes.vouched(one.organs),
        plane=plane,
    )


def _unvouched(one: Correction, scans: int, card: ModelCard, classes: _Classes, stop: _Stop) -> PartialSlices:
    """Some of the slices of one of so many scans that nobody vouches for; nothing is known of them."""
    axis = orientation_for(one.volume, card).slice_axis
    others = np.setdiff1d(np.arange(one.volume.data.shape[axis]), np.array(one.slices, int))
    count = min(len(others), max(_FEWEST_UNVOUCHED, _UNVOUCHED // scans))
    some = others[np.linspace(0, len(others) - 1, count).round().astype(int)]
    nothing = np.zeros(one.volume.data.shape, np.uint8)
    return _prepared(Correction(one.volume, nothing, some.tolist(), []), card, classes, stop)


def _across(
    one: Correction, held: Collection[int], card: ModelCard, classes: _Classes, stop: _Stop
) -> list[PartialSlices]:
    """What slices along the two other axes show of a correction: lines, but for those in its held-out slices."""
    known = np.zeros(one.volume.data.shape, np.bool_) if one.voxels is None else one.voxels.copy()
    along = np.moveaxis(known, orientation_for(one.volume, card).slice_axis, 0)
    along[list(one.slices)] = True
    along[list(held)] = False
    lines = replace(one, slices=[], voxels=known)
    return [_prepared(lines, card, classes, stop, plane) for plane in PLANES[1:]]


def _learnt_before(
    corrections: Sequence[Correction], parts: Sequence[PartialSlices], card: ModelCard
) -> set[int]:
    """Which of the slices of all corrections the checkpoint learnt from already, as its lineage tells."""
    first, seen = 0, set()
    for one, part in zip(corrections, parts, strict=True):
        fingerprint = scan_fingerprint(one.volume) if card.lineage else ""
        known = {
            index
            for story in card.lineage
            for scan in story.scans
            if story.steps and scan.fingerprint == fingerprint
            for index in scan.slices
        }
        seen |= {first + at for at, number in enumerate(part.numbers.tolist()) if number in known}
        first += len(part)
    return seen


def _numbers_held(parts: Sequence[PartialSlices], held: Sequence[int]) -> list[list[int]]:
    """Of each correction, which slices of its volume are held out."""
    first, numbers = 0, []
    for part in parts:
        own = [number - first for number in held if first <= number < first + len(part)]
        numbers.append(sorted(part.numbers[own].tolist()))
        first += len(part)
    return numbers


def _scans(
    corrections: Sequence[Correction],
    parts: Sequence[PartialSlices],
    held: Sequence[Sequence[int]],
    classes: _Classes,
) -> tuple[LearntScan, ...]:
    """What was learnt from, for the card."""
    scans = []
    for one, part, own in zip(corrections, parts, held, strict=True):
        scans.append(
            LearntScan(
                fingerprint=scan_fingerprint(one.volume),
                slices=sorted(part.numbers[part.whole].tolist()),
                held_out=own,
                voxels=0 if one.voxels is None else int(np.count_nonzero(one.voxels)),
                organs=[classes.names[value] for value in classes.vouched(one.organs)],
            )
        )
    return tuple(scans)


@dataclass(frozen=True)
class _Stop:
    """Ends the work where somebody asked for it."""

    cancelled: Callable[[], bool] | None

    def check(self) -> None:
        """Raise `AdaptationCancelled` where it shall end."""
        if self.cancelled is not None and self.cancelled():
            raise AdaptationCancelled("Learning was cancelled; nothing has changed.")


@dataclass(frozen=True)
class _Clock:
    """How much of a phase is over: by steps, or by time where that is faster."""

    steps: int
    seconds: float | None
    fewest: int
    start: float = field(default_factory=time.monotonic)

    def done(self, step: int) -> float:
        """The share after so many steps, 0..1."""
        share = step / self.steps
        if self.seconds is not None:
            by_time = (time.monotonic() - self.start) / self.seconds
            share = max(share, min(by_time, step / self.fewest))
        return min(1.0, share)


@dataclass(frozen=True)
class _Replayed:
    """What is learnt from again.

    Attributes
    ----------
    share : (N,) how often each slice is drawn
    count : slices of a batch
    """

    slices: PartialSlices
    share: Tensor
    count: int = _REPLAYED

    @classmethod
    def of(cls, kinds: Sequence[Sequence[PartialSlices]]) -> _Replayed | None:
        """Each kind that there is (earlier scans, the pack, what the network labels) as often as the others."""
        there = [PartialSlices.joined(kind) for kind in kinds if sum(map(len, kind))]
        if not there:
            return None
        share = torch.cat([torch.full((len(kind),), 1 / len(kind)) for kind in there])
        earlier = sum(map(len, kinds[0]))
        return cls(PartialSlices.joined(there), share, _REPLAYED_OF_EARLIER if earlier else _REPLAYED)


@dataclass(eq=False)
class _Learning:
    """One adaptation at work. Afterwards `net` has learnt; where that made it no better, `steps` is 0.

    Attributes
    ----------
    held : which of the samples are scored before all are learnt from
    from_scratch : whether the batch norms have no statistics yet, and so have to learn them
    steps, further_steps, dice : what came of it, as in `Adaptation`; Dice by class, before and after
    """

    net: TransUNet
    card: ModelCard
    samples: PartialSlices
    replayed: _Replayed | None
    held: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    seed: int
    progress: Callable[[AdaptationProgress], None] | None
    stop: _Stop
    start: float
    from_scratch: bool
    steps: int = 0
    further_steps: int = 0
    dice: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._views = Augmentation(beyond="reflection" if self.card.resize == "squash" else "zeros")
        self._new = [] if self.from_scratch else unlearnt_classes(self.net)
        beside_others = bool(self._new) and len(self._new) < self.card.num_classes - 1
        self._loss_of = PartialDiceCELoss(absent=_ABSENT if self._new else 0.0)
        if self.replayed is not None and beside_others:
            self.replayed = replace(self.replayed, count=_REPLAYED_BESIDE_NEW)
        self._rate = _LEARNING_RATE * (_RATE_BESIDE_NEW if beside_others else 1)
        # What the encoder sees suffices to find a new organ; changing it would cost the others.
        self.net.transformer.requires_grad_(not beside_others)
        self._parent = copy.deepcopy(self.net).eval() if beside_others else None
        self._optimiser = torch.optim.AdamW(
            parameter_groups(self.net, _WEIGHT_DECAY), lr=self._rate, fused=self.device.type != "mps"
        )
        self._averaged = AveragedModel(
            self.net, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGING), use_buffers=True
        )
        self._taken = 0
        self._began = time.monotonic()
        self._mean: float | None = None

    def run(self, steps: int | None, seconds: float) -> _Learning:
        """Learn; itself."""
        clock = _Clock(steps or STEPS, None if steps else seconds, _FEWEST_STEPS)
        held, everything = set(self.held), range(len(self.samples))
        before = self._score(self.net) if held else {}
        self._taught = self._with_own_labels(self.samples)
        if self.replayed is not None:
            slices = self._with_own_labels(self.replayed.slices)
            self.replayed = replace(self.replayed, slices=slices)
        self._fit_new([number for number in everything if number not in held])
        if not held:
            self._learn(everything, clock, 1.0)
            self.steps = self._taken
        else:
            self._mean = _mean(before)
            others = [number for number in everything if number not in held]
            for share in _SCORED_AT:
                self._learn(others, clock, share)
                after = self._score(self._averaged.module)
                self.dice = {value: (before[value], after[value]) for value in before}
                self._mean = _mean(after)
                if self._mean > _mean(before):
                    break
            else:
                return self
            self.steps = self._taken
            self._learn(everything, clock, 1.0)
            self.further_steps = self._taken - self.steps
        self.net.load_state_dict(self._averaged.module.state_dict())
        return self

    def _with_own_labels(self, slices: PartialSlices) -> PartialSlices:
        """Slices in which the network's own labels stand for the organs that it knows and nobody vouches for there.

        So they are neither learnt nor forgotten.
        """
        if self.from_scratch:
            return slices
        labels, annotated = slices.labels.clone(), slices.annotated.clone()
        known = torch.ones(self.card.num_classes, dtype=torch.bool)
        known[self._new] = False
        asked = torch.nonzero(slices.whole & (~annotated & known).any(1))[:, 0]
        for part in asked.split(_BATCH):
            self.stop.check()
            with torch.no_grad():
                logits = self._logits(self.net.eval(), slices, part)
            logits[:, self._new] = -torch.inf
            found = logits.argmax(1).cpu()
            own = ~annotated[part].gather(1, found.flatten(1)).reshape(found.shape)
            labels[part] = torch.where((labels[part] == 0) & own, found.to(labels), labels[part])
        annotated[asked] |= known
        return replace(slices, labels=labels, annotated=annotated)

    def _fit_new(self, chosen: Sequence[int]) -> None:
        """Give new organs the weights that find them best, before all of the network learns."""
        if not self._new:
            return
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 0, 2))

        def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            torch.manual_seed(mixed_seed(self.seed, 0, 3))
            for view in range(_FIRST_VIEWS):
                for part in torch.tensor(chosen).split(_BATCH):
                    images, labels, annotated = self._as_they_are(self._taught, part)
                    if view:
                        images, labels = self._views(images, labels)
                    yield images.contiguous(memory_format=torch.channels_last), labels, annotated
            if self.replayed is not None:
                slices = self.replayed.slices
                order = torch.randperm(len(slices), generator=generator)
                for part in order[:_FIRST_REPLAYED].split(_BATCH):
                    images, labels, annotated = self._as_they_are(slices, part)
                    yield images.contiguous(memory_format=torch.channels_last), labels, annotated

        def cancellable() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for batch in batches():
                self.stop.check()
                yield batch

        fit_new_classes(self.net, self._new, cancellable(), generator, self.dtype)

    def _learn(self, chosen: Sequence[int], clock: _Clock, until: float) -> None:
        """Steps on these samples until the clock says that this share is over."""
        pool = torch.tensor(chosen)
        weight = torch.where(self._taught.whole[pool], 1.0, _SINGLE_VOXELS).double()
        while (done := clock.done(self._taken)) < until:
            self.stop.check()
            warm = min(1.0, (self._taken + 1) / (_WARM_UP * clock.steps))
            for group in self._optimiser.param_groups:
                group["lr"] = self._rate * warm * 0.5 * (1 + math.cos(math.pi * done))
            loss = self._step(pool, weight)
            self._averaged.update_parameters(self.net)
            self._taken += 1
            self._tell(clock.done(self._taken), loss)

    def _step(self, pool: Tensor, weight: Tensor) -> float:
        """One step of the optimiser; its loss."""
        images, labels, annotated, partly = self._drawn(pool, weight)
        self._train_mode()
        torch.manual_seed(mixed_seed(self.seed, self._taken, 1))
        # Beyond the image lies air where a slice is known as a whole, and else the unknown.
        shift = partly.to(labels.dtype)[:, None, None]
        images, labels = self._views(images, labels + shift)
        labels = labels - shift
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            encoded = self.net.encode(images.contiguous(memory_format=torch.channels_last))
            logits = self.net.decode(*encoded)
            with torch.no_grad():
                before = None if self._parent is None else self._parent.decode(*encoded)
        loss: Tensor = self._loss_of(logits.float(), labels, annotated)
        if before is not None:
            loss = loss + _KEPT * change_of_known_classes(logits.float(), before.float(), labels, self._new)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                "Learning diverged; look for damaged values in the scan, or use precision float32."
            )
        self.stop.check()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP)
        self._optimiser.step()
        return value

    def _drawn(self, pool: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The slices of the next step, by the seed and its number: images, labels, annotated, whether partly known."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self._taken))
        new = _BATCH if self.replayed is None else _BATCH - self.replayed.count
        drawn = [(self._taught, pool[_multinomial(weight, new, generator)])]
        if self.replayed is not None:
            again = _multinomial(self.replayed.share, self.replayed.count, generator)
            drawn.append((self.replayed.slices, again))
        parts = []
        for source, chosen in drawn:
            which = torch.multinomial(
                torch.tensor(_DISTANCE_SHARES), len(chosen), replacement=True, generator=generator
            )
            distance = torch.tensor(_DISTANCES)[which]
            partly = ~source.whole[chosen].to(self.device)
            parts.append((*source.batch(chosen, distance, self.card.context, self.device), partly))
        images, labels, annotated, partly = (torch.cat(side) for side in zip(*parts, strict=True))
        return images, labels, annotated, partly

    def _train_mode(self) -> None:
        """Train all weights, but keep what batch norms know of many scans: a few slices of one would spoil it.

        Nor is anything dropped out: that costs a tenth of the time of a step, of which there are few.
        """
        self.net.train()
        if self.from_scratch:
            return
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Dropout):
                module.eval()

    def _score(self, net: nn.Module) -> dict[int, float]:
        """Dice on the held-out slices of each class that is vouched for and there."""
        net.eval()
        counts = torch.zeros(2, self.card.num_classes, dtype=torch.long)
        with torch.inference_mode():
            for part in torch.tensor(self.held).split(_BATCH):
                self.stop.check()
                found = self._logits(net, self.samples, part).argmax(1)
                labels = self.samples.labels[part].to(self.device)
                counts += _overlap(found, labels, self.samples.annotated[part].to(self.device)).cpu()
        both, sizes = counts
        return {
            value: float(2 * both[value] / sizes[value])
            for value in range(1, self.card.num_classes)
            if any((self.samples.labels[number] == value).any() for number in self.held)
        }

    def _as_they_are(self, slices: PartialSlices, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels, annotated, with the nearest neighbours as the other channels."""
        near = torch.ones(len(chosen), dtype=torch.long)
        return slices.batch(chosen, near, self.card.context, self.device)

    def _logits(self, net: nn.Module, slices: PartialSlices, chosen: Tensor) -> Tensor:
        """(B, classes, H, W) float32."""
        images, _, _ = self._as_they_are(slices, chosen)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = net(images.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def _tell(self, done: float, loss: float) -> None:
        if self.progress is None:
            return
        spent = time.monotonic() - self._began
        self.progress(
            AdaptationProgress(
                done=done,
                step=self._taken,
                seconds=time.monotonic() - self.start,
                remaining=spent * (1 - done) / max(done, 1e-6),
                loss=loss,
                dice=self._mean,
            )
        )


def _overlap(predicted: Tensor, labels: Tensor, annotated: Tensor) -> Tensor:
    """(2, classes): voxels of both, and of each summed, in the slices where a class is annotated."""
    counts = []
    for value in range(annotated.shape[1]):
        known = (labels != UNKNOWN) & annotated[:, value, None, None]
        own, true = (predicted == value) & known, (labels == value) & known
        counts.append(torch.stack(((own & true).sum(), own.sum() + true.sum())))
    return torch.stack(counts, 1)


def _multinomial(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many numbers of slices; each but once where there are enough."""
    return torch.multinomial(weight, count, replacement=len(weight) < count, generator=generator)


def _mean(dice: Mapping[int, float]) -> float:
    return sum(dice.values()) / len(dice)


@contextmanager
def _private_random_state(device: torch.device) -> Iterator[None]:
    """Draws within change nothing for those who draw afterwards."""
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        yield


def _plain(dice: float) -> float:
    return round(dice, 4)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
