"""The loop in which a network learns from corrections: steps, replay, held-out slices, and what came of it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_transunet.errors import InputError, TransUNetError
from napari_transunet.training.augmentation import Augmentation
from napari_transunet.training.corrections import organs_shown
from napari_transunet.training.crops import random_crops
from napari_transunet.training.heads import fit_new_classes, unlearnt_classes
from napari_transunet.training.losses import UNKNOWN, PartialDiceCELoss, change_of_known_classes
from napari_transunet.training.optimiser import parameter_groups
from napari_transunet.training.partial_slices import PartialSlices
from napari_transunet.training.slices import mixed_seed, neighbour_distances

if TYPE_CHECKING:
    from torch import Tensor

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.model.transunet import TransUNet

_T = TypeVar("_T")

_STEPS, _STEPS_IN_CROPS = 120, 160
SECONDS = 105.0
"""For how long to learn where nobody says: so many steps, or so many seconds where that is less."""

_FEWEST_STEPS = 30  # however slow the machine is
_BATCH = 6
_REPLAYED, _REPLAYED_OF_EARLIER = 2, 3  # of a batch; where there are earlier scans
_REPLAYED_BESIDE_NEW, _RATE_BESIDE_NEW = 4, 0.5
"""Where an organ is new and others are not: so many of a batch, as replay tells of these, and this part of the rate."""

_LEARNING_RATE, _WEIGHT_DECAY, _CLIP = 1e-3, 0.05, 1.0
_WARM_UP, _WARM_UP_OF_NEW = 0.3, 0.1  # where all organs are known, and where one is new
_AVERAGING = 0.9
"""The result is a moving average of the weights, so that it can be scored well before the learning rate is low."""

_SCORED_AT = (0.5, 0.75, 1.0)
"""After which shares of the steps or seconds the held-out slices are scored. Once they gained, they are learnt from."""

_ABSENT = 0.3
"""How much a new organ counts as absent from replayed background, of which nobody says whether it is there."""

_KEPT, _KEPT_BESIDE_NEW = 3.0, 10.0
"""Weight of what is no longer as the parent has it: in replayed slices where there are earlier scans (where there are
none, it kept the network from learning the scan at hand); and in all where an organ is new beside others."""

_FIRST_VIEWS, _FIRST_REPLAYED = 3, 24
"""What a new organ's weights are fitted to first: views of each corrected slice, and replayed slices."""

_SINGLE_VOXELS = 0.25
"""How often a slice is drawn in which single voxels are vouched for, where one as a whole is drawn once."""


class AdaptationCancelled(TransUNetError):
    """`adapt` was asked to stop. Nothing has changed."""


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


@dataclass(frozen=True)
class Stop:
    """Ends the work where somebody asked for it."""

    cancelled: Callable[[], bool] | None

    def check(self) -> None:
        """Raise `AdaptationCancelled` where it shall end."""
        if self.cancelled is not None and self.cancelled():
            raise AdaptationCancelled("Learning was cancelled; nothing has changed.")

    def before_each(self, things: Iterable[_T]) -> Iterator[_T]:
        """The same things; before each it is checked."""
        for one in things:
            self.check()
            yield one


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

    def remaining(self, step: int, each: float) -> float:
        """Seconds that are left after so many steps, where each takes so many."""
        by_steps = (self.steps - step) * each
        if self.seconds is None:
            return by_steps
        by_time = self.start + self.seconds - time.monotonic()
        return min(by_steps, max(by_time, (self.fewest - step) * each, 0.0))


@dataclass(frozen=True)
class Replayed:
    """What is learnt from again.

    Attributes
    ----------
    share : (N,) how often each slice is drawn
    earlier : whether earlier scans are among them
    """

    slices: PartialSlices
    share: Tensor
    earlier: bool

    @classmethod
    def of(cls, kinds: Sequence[Sequence[PartialSlices]]) -> Replayed | None:
        """Each kind that there is (earlier scans, the pack, what the network labels) as often as the others."""
        there = [PartialSlices.joined(kind) for kind in kinds if sum(map(len, kind))]
        if not there:
            return None
        share = torch.cat([torch.full((len(kind),), 1 / len(kind)) for kind in there])
        return cls(PartialSlices.joined(there), share, earlier=any(map(len, kinds[0])))


@dataclass(eq=False)
class FineTuning:
    """One adaptation at work. Afterwards `net` has learnt; where that made it no better, `steps` is 0.

    Attributes
    ----------
    held : which of the samples are scored before all are learnt from
    aside : slices that the parent learnt from and that are not replayed: by these it is told what was forgotten
    coarser : the first of these slices as the parent sees them, where it does so less finely. It is scored on them, and
        they are learnt from, too, since the next scan may be too wide for the finer pixels
    from_scratch : whether the batch norms have no statistics yet, and so have to learn them
    steps, further_steps, dice, retained : what came of it, as in `Adaptation`; Dice by class, before and after
    """

    net: TransUNet
    card: ModelCard
    samples: PartialSlices
    replayed: Replayed | None
    held: Sequence[int]
    aside: PartialSlices | None
    coarser: PartialSlices | None
    device: torch.device
    dtype: torch.dtype
    seed: int
    progress: Callable[[AdaptationProgress], None] | None
    stop: Stop
    start: float
    from_scratch: bool
    steps: int = 0
    further_steps: int = 0
    dice: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    retained: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._views = Augmentation(beyond="reflection" if self.card.resize == "squash" else "zeros")
        self._new = [] if self.from_scratch else unlearnt_classes(self.net)
        beside_others = bool(self._new) and len(self._new) < self.card.num_classes - 1
        earlier = self.replayed is not None and self.replayed.earlier
        self._beside_others = beside_others
        self._loss_of = PartialDiceCELoss(absent=_ABSENT if self._new else 0.0)
        if self.replayed is None:
            self._again = 0  # slices of a batch that are replayed
        else:
            self._again = (
                _REPLAYED_BESIDE_NEW if beside_others else _REPLAYED_OF_EARLIER if earlier else _REPLAYED
            )
        # Whole slices say better where a new organ is not.
        self._in_crops = not self._new and not self.from_scratch
        self._warm_up = _WARM_UP if self._in_crops else _WARM_UP_OF_NEW
        self._rate = _LEARNING_RATE * (_RATE_BESIDE_NEW if beside_others else 1)
        # What the encoder sees suffices to find a new organ; changing it would cost the others.
        self.net.transformer.requires_grad_(not beside_others)
        kept = beside_others or (earlier and not self.from_scratch)
        self._parent = copy.deepcopy(self.net).eval() if kept else None
        self._optimiser = torch.optim.AdamW(
            parameter_groups(self.net, _WEIGHT_DECAY), lr=self._rate, fused=self.device.type != "mps"
        )
        self._averaged = AveragedModel(
            self.net, multi_avg_fn=get_ema_multi_avg_fn(_AVERAGING), use_buffers=True
        )
        self._taken = 0
        self._stepping = 0.0  # seconds that the steps took
        self._mean: float | None = None

    def run(self, steps: int | None, seconds: float) -> FineTuning:
        """Learn; itself."""
        known_before = self._score_aside(self.net)
        most = _STEPS_IN_CROPS if self._in_crops else _STEPS
        clock = _Clock(steps or most, None if steps else seconds, _FEWEST_STEPS)
        held, everything = set(self.held), range(len(self.samples))
        self._judged = organs_shown(self.samples, held) & organs_shown(self.samples, held, within=False)
        before = self._score(self.net, self.coarser or self.samples) if held else {}
        if self.from_scratch:
            before = dict.fromkeys(before, 0.0)  # what it finds by chance
        coarser = [] if self.coarser is None else [self.coarser]
        self._taught = self._with_own_labels(PartialSlices.joined([self.samples, *coarser]))
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
                after = self._score(self._averaged.module, self.samples)
                self.dice = {value: (before[value], after[value]) for value in before}
                self._mean = _mean(after)
                if self.from_scratch or self._mean > _mean(before):
                    break
            else:
                return self
            self.steps = self._taken
            self._learn(everything, clock, 1.0)
            self.further_steps = self._taken - self.steps
        known_after = self._score_aside(self._averaged.module)
        self.retained = {value: (dice, known_after[value]) for value, dice in known_before.items()}
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
        for part in self.stop.before_each(asked.split(_BATCH)):
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
        context = self.card.context

        def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            torch.manual_seed(mixed_seed(self.seed, 0, 3))
            for view in range(_FIRST_VIEWS):
                for part in torch.tensor(chosen).split(_BATCH):
                    images, labels, annotated = self._taught.batch(part, 1, context, self.device)
                    if view:
                        images, labels = self._views(images, labels)
                    yield images.contiguous(memory_format=torch.channels_last), labels, annotated
            if self.replayed is not None:
                slices = self.replayed.slices
                order = torch.randperm(len(slices), generator=generator)
                for part in order[:_FIRST_REPLAYED].split(_BATCH):
                    images, labels, annotated = slices.batch(part, 1, context, self.device)
                    yield images.contiguous(memory_format=torch.channels_last), labels, annotated

        fit_new_classes(self.net, self._new, self.stop.before_each(batches()), generator, self.dtype)

    def _learn(self, chosen: Sequence[int], clock: _Clock, until: float) -> None:
        """Steps on these samples until the clock says that this share is over."""
        if self.coarser is not None:
            chosen = [*chosen, *(len(self.samples) + at for at in chosen if at < len(self.coarser))]
        pool = torch.tensor(chosen)
        weight = torch.where(self._taught.whole[pool], 1.0, _SINGLE_VOXELS).double()
        while (done := clock.done(self._taken)) < until:
            began = time.monotonic()
            self.stop.check()
            warm = min(1.0, max((self._taken + 1) / clock.steps, done) / self._warm_up)
            for group in self._optimiser.param_groups:
                group["lr"] = self._rate * warm * 0.5 * (1 + math.cos(math.pi * done))
            loss = self._step(pool, weight)
            self._averaged.update_parameters(self.net)
            self._taken += 1
            self._stepping += time.monotonic() - began
            self._tell(clock, loss)

    def _step(self, pool: Tensor, weight: Tensor) -> float:
        """One step of the optimiser; its loss."""
        images, labels, annotated, partly = self._drawn(pool, weight)
        self._train_mode()
        torch.manual_seed(mixed_seed(self.seed, self._taken, 1))
        # Beyond the image lies air where a slice is known as a whole, and else the unknown.
        shift = partly.to(labels.dtype)[:, None, None]
        images, labels = self._views(images, labels + shift)
        labels = labels - shift
        corners = None
        if self._in_crops:
            images, labels, corners = random_crops(images, labels, self.net.patch_size)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            encoded = self.net.encode(images, corners)
            logits = self.net.decode(*encoded, size=labels.shape[1:])
            with torch.no_grad():
                before = self._as_before(images, corners, encoded)
        loss: Tensor = self._loss_of(logits.float(), labels, annotated)
        if before is not None:
            same = slice(len(logits) - len(before), None)
            changed = change_of_known_classes(logits[same].float(), before.float(), labels[same], self._new)
            loss = loss + (_KEPT_BESIDE_NEW if self._beside_others else _KEPT) * changed
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

    def _as_before(
        self, images: Tensor, corners: Tensor | None, encoded: tuple[Tensor, list[Tensor]]
    ) -> Tensor | None:
        """The parent's logits of the slices in which they are to be kept: the last of these, or all.

        Where an organ is new beside others it is all, and the parent's encoder is that which is there already.
        """
        if self._parent is None:
            return None
        if not self._beside_others:
            corners = None if corners is None else corners[-self._again :]
            encoded = self._parent.encode(images[-self._again :], corners)
        return self._parent.decode(*encoded, size=images.shape[2:])

    def _drawn(self, pool: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The slices of the next step, by the seed and its number: images, labels, annotated, whether partly known."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self._taken))
        drawn = [(self._taught, pool[_multinomial(weight, _BATCH - self._again, generator)])]
        if self.replayed is not None:
            again = _multinomial(self.replayed.share, self._again, generator)
            drawn.append((self.replayed.slices, again))
        parts = []
        for source, chosen in drawn:
            distance = neighbour_distances(len(chosen), generator)
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

    def _score(self, net: nn.Module, samples: PartialSlices) -> dict[int, float]:
        """Dice on the held-out slices of each class that these show, and slices that are learnt from, too."""
        found = dice_on(samples, self.held, lambda part: self._logits(net.eval(), samples, part), self.stop)
        return {value: found.get(value, 0.0) for value in sorted(self._judged)}

    def _score_aside(self, net: nn.Module) -> dict[int, float]:
        """Dice of each class that slices set aside of what was learnt before show."""
        if not self.aside or self.from_scratch:
            return {}
        slices, every = self.aside, range(len(self.aside))
        found = dice_on(slices, every, lambda part: self._logits(net.eval(), slices, part), self.stop)
        return {value: found[value] for value in sorted(organs_shown(slices, every))}

    def _logits(self, net: nn.Module, slices: PartialSlices, chosen: Tensor) -> Tensor:
        return network_logits(net, slices, chosen, self.card.context, self.device, self.dtype)

    def _tell(self, clock: _Clock, loss: float) -> None:
        if self.progress is None:
            return
        self.progress(
            AdaptationProgress(
                done=clock.done(self._taken),
                step=self._taken,
                seconds=time.monotonic() - self.start,
                remaining=clock.remaining(self._taken, self._stepping / self._taken),
                loss=loss,
                dice=self._mean,
            )
        )


def dice_on(
    slices: PartialSlices, chosen: Sequence[int], logits_of: Callable[[Tensor], Tensor], stop: Stop
) -> dict[int, float]:
    """Dice of each class that is there or found, by what `logits_of` says of slices with these numbers."""
    counts = torch.zeros(2, slices.annotated.shape[1], dtype=torch.long)
    with torch.inference_mode():
        for part in stop.before_each(torch.tensor(chosen).split(_BATCH)):
            found = logits_of(part).argmax(1).cpu()
            counts += _overlap(found, slices.labels[part], slices.annotated[part])
    both, sizes = counts
    return {value: float(2 * both[value] / sizes[value]) for value in range(1, len(sizes)) if sizes[value]}


def network_logits(
    net: nn.Module,
    slices: PartialSlices,
    chosen: Tensor,
    context: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """(B, classes, H, W) float32 of slices with these numbers, with the nearest neighbours as the other channels."""
    images, _, _ = slices.batch(chosen, 1, context, device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits: Tensor = net(images.contiguous(memory_format=torch.channels_last))
    return logits.float()


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
