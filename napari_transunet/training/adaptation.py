"""Learning from corrections: a checkpoint and the slices that somebody put right make a better checkpoint.

A part of the corrections is held out at first. Half-way the network is scored on them, and their Dice before and then
is what the result's lineage tells. Where they gained it learns on, from all; where not, it is scored again later.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.checkpoints.lineage import MAX_GENERATIONS, Adaptation, DiceChange
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.checkpoints.saving import SUFFIX
from napari_transunet.errors import InputError
from napari_transunet.inference.devices import free_cached_memory, resolve_device, resolve_precision
from napari_transunet.inference.slices import PLANES
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.class_changes import ClassChanges, card_with
from napari_transunet.training.corrections import (
    Correction,
    across,
    held_out,
    is_whole,
    learnt_before,
    learnt_scans,
    numbers_held,
    organs_shown,
    prepared,
    unvouched,
)
from napari_transunet.training.fine_tuning import (
    SECONDS,
    AdaptationProgress,
    FineTuning,
    Replayed,
    Stop,
    dice_on,
    network_logits,
)
from napari_transunet.training.finer_spacing import finer_spacing
from napari_transunet.training.first_network import first_network, is_unlearnt
from napari_transunet.training.heads import with_classes
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.training.partial_slices import PartialSlices
from napari_transunet.training.replay import ReplayPack, replay_beside, set_aside

_FEWEST_HELD_FROM = 8
"""A network from scratch learns from all of fewer slices: what it finds after half of these says nothing."""

_COMPARED = 24
"""On so many slices at most a network is scored at two spacings, to take the better."""

_KEPT_OF_SCANS = 32  # slices that it is told to replay the next time


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
    steps : optimiser steps in all; None: as many as `seconds` allow, from 30 up to 160 (120 where an organ is new)
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
    stop = Stop(cancelled)
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
    begins = not parent.sha256 or is_unlearnt(parent.model)
    classes = ClassChanges.of(parent.card, added, drop)
    card = card_with(parent.card, classes)
    parts = [prepared(one, card, classes) for one in stop.before_each(corrections)]
    if not sum(map(len, parts)):
        raise InputError("Nothing is vouched for, so nothing can be learnt; name the slices that are right.")
    samples = PartialSlices.joined(parts)
    few = begins and int(samples.whole.sum()) < _FEWEST_HELD_FROM
    held = [] if few else held_out(samples, learnt_before(corrections, parts, parent.card))
    numbers = numbers_held(parts, held)
    with _private_random_state(where):
        net = with_classes(parent.model, classes.origins)
    net.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    coarser = None
    finer = finer_spacing(card, [one.volume for one in (*corrections, *earlier)])
    if finer != card.spacing and not begins and not classes.added:
        fine = card.updated(spacing=finer)
        closer = PartialSlices.joined([prepared(one, fine, classes) for one in stop.before_each(corrections)])
        some = [at for at in torch.nonzero(samples.whole)[:, 0].tolist() if at not in held][:_COMPARED]
        how = (some, card.context, where, dtype, stop)
        if some and _mean_dice(net, closer, *how) > _mean_dice(net, samples, *how):
            card, samples, coarser = fine, closer, samples

    if replay is None:
        replay = replay_beside(parent.path)
    known = [[prepared(one, card, classes) for one in stop.before_each(earlier)]]
    shown, aside = [], None
    if replay is not None:
        rest, aside = set_aside(replay.for_card(card), samples)
        shown = [rest]
    known.append(shown)
    replays = sum(len(part) for kind in known for part in kind)
    if not begins:
        beside = [one for one in corrections if set(classes.vouched(one.organs)) <= classes.added.keys()]
        known += [
            [unvouched(one, len(kind), card, classes) for one in stop.before_each(kind)]
            for kind in (beside, earlier)
        ]
    if card.planes > 1:
        pairs = zip(stop.before_each(corrections), numbers, strict=True)
        lines = [part for one, own in pairs for part in across(one, own, card, classes)]
        samples = PartialSlices.joined([samples, *lines])

    with _private_random_state(where):
        learnt = FineTuning(
            net=net,
            card=card,
            samples=samples,
            replayed=Replayed.of(known),
            held=held,
            aside=aside,
            coarser=coarser,
            device=where,
            dtype=dtype,
            seed=seed,
            progress=progress,
            stop=stop,
            start=start,
            from_scratch=begins,
        ).run(steps, seconds)
    if not learnt.steps:
        net, card = with_classes(parent.model, classes.origins), card_with(parent.card, classes)
    net.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    free_cached_memory(where)
    story = Adaptation(
        parent=parent.sha256 or None,
        parent_name=parent.name[:200] or None if parent.sha256 else None,
        scans=learnt_scans(corrections, parts, numbers, classes),
        added=tuple(classes.added.values()),
        dropped=classes.dropped,
        dice=_changes(learnt.dice, classes.names),
        steps=learnt.steps,
        further_steps=learnt.further_steps,
        replayed=replays,
        retained=_changes(learnt.retained, classes.names),
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


def _mean_dice(
    net: TransUNet,
    slices: PartialSlices,
    chosen: Sequence[int],
    context: int,
    device: torch.device,
    dtype: torch.dtype,
    stop: Stop,
) -> float:
    """Of the organs that the slices with these numbers show."""
    found = dice_on(
        slices, chosen, lambda part: network_logits(net.eval(), slices, part, context, device, dtype), stop
    )
    shown = organs_shown(slices, chosen)
    return sum(found[value] for value in shown) / max(1, len(shown))


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
    classes = ClassChanges.of(card, new_organs or {}, drop)
    card = card_with(card, classes)
    parts = []
    for one in scans:
        planes = PLANES[: card.planes] if is_whole(one, card) else PLANES[:1]
        for plane in planes:
            part = prepared(one, card, classes, plane)
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


def pack_for_child(
    parent: Path,
    card: ModelCard,
    scans: Sequence[Correction],
    child: ModelCard,
    *,
    new_organs: Mapping[int, str] | None = None,
    drop: Collection[str] = (),
) -> ReplayPack:
    """What has to be replayed when `adapt`'s result learns again: the pack beside its parent's file, and some slices.

    `card` is the one by which the scans are labelled, with what is to change of it, as for `replay_pack`; `child` is
    the result's.
    """
    own = replay_pack(
        card.updated(spacing=child.spacing),
        scans,
        slices=_KEPT_OF_SCANS,
        source="corrections",
        new_organs=new_organs,
        drop=drop,
    )
    before = replay_beside(parent)
    return ReplayPack.joined([own] if before is None else [before, own], child)


def weights_sha256(net: nn.Module) -> str:
    """Hexadecimal SHA-256 of a network's weights, with their names: what tells networks without a file apart."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@contextmanager
def _private_random_state(device: torch.device) -> Iterator[None]:
    """Draws within change nothing for those who draw afterwards."""
    with torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []):
        yield


def _changes(dice: Mapping[int, tuple[float, float]], names: Mapping[int, str]) -> dict[str, DiceChange]:
    """Dice by class, before and after, by name."""
    return {
        names[value]: DiceChange(before=round(before, 4), after=round(after, 4))
        for value, (before, after) in dice.items()
    }
