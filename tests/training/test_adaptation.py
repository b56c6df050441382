import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.lineage import Adaptation, LearntScan
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import InputError
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training import adaptation, fine_tuning
from napari_transunet.training.adaptation import adapt, weights_sha256
from napari_transunet.training.corrections import Correction, held_out
from napari_transunet.training.fine_tuning import AdaptationCancelled, AdaptationProgress
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.training.partial_slices import PartialSlices, partial_slices
from napari_transunet.training.replay import ReplayPack, replay_path, set_aside
from napari_transunet.volumes.fingerprint import scan_fingerprint
from napari_transunet.volumes.volume import Volume
from tests.networks import as_if_learnt, slim_parts
from tests.training.samples import PLAIN, case, network, same_weights

QUICK: dict[str, Any] = {"device": "cpu", "precision": "float32", "steps": 3}
NAMES = {1: "body", 2: "head"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return begun(tmp_path, network(PLAIN))


@pytest.fixture
def wide(tmp_path: Path) -> Checkpoint:
    """One that says something from the start, and learns in a few steps."""
    return begun(tmp_path, network(PLAIN, narrow=False))


def begun(tmp_path: Path, net: TransUNet) -> Checkpoint:
    card = default_card(as_if_learnt(net), labels=NAMES, window=(0, 1), context=3, smallest_part=0.1)
    # The sizes were never published, so the file alone would not tell the variant.
    path = tmp_path / "start.safetensors"
    path.touch()
    return Checkpoint(net.eval(), card, path, "ab" * 32, "safetensors")


def scan(number: int = 0, slices: int = 8) -> tuple[Volume, np.ndarray]:
    made = case(number, slices)
    return Volume.from_array(made.planes.float().numpy(), name=made.name), made.labels.numpy().copy()


def correction(number: int = 0, **changes: Any) -> Correction:
    volume, labels = scan(number)
    return Correction(**{"volume": volume, "labels": labels, "slices": [1, 3, 5, 6], **changes})


def unscored(number: int = 0, **changes: Any) -> Correction:
    """One slice: too few to hold any out, so whatever is learnt stays."""
    return correction(number, **{"slices": [3], **changes})


def test_it_learns_and_tells_what_from(wide: Checkpoint) -> None:
    checkpoint = wide
    told: list[AdaptationProgress] = []
    before = weights_sha256(checkpoint.model)
    one = correction(organs=["body"])

    better = adapt(checkpoint, [one], progress=told.append, **QUICK | {"steps": 60})

    assert weights_sha256(checkpoint.model) == before
    (story,) = better.card.lineage
    assert story.parent == checkpoint.sha256
    assert story.scans[0].fingerprint == scan_fingerprint(one.volume)
    assert story.scans[0].slices == (1, 3, 5, 6)
    assert len(story.scans[0].held_out) == 1
    assert set(story.scans[0].held_out) < {1, 3, 5, 6}
    assert story.scans[0].organs == ("body",)
    assert set(story.dice) == {"body"}
    assert story.better
    assert story.steps > 0
    assert story.further_steps > 0
    assert not same_weights(better.model, checkpoint.model)
    assert [one.step for one in told] == list(range(1, len(told) + 1))
    assert told[-1].done == 1
    assert told[0].remaining > 0
    assert not better.model.training


def test_what_nobody_vouches_for_changes_nothing(checkpoint: Checkpoint) -> None:
    volume, labels = scan()
    voxels = np.zeros(labels.shape, bool)
    voxels[7, 8:24, 8:24] = True
    other = labels.copy()
    vouched = voxels.copy()
    vouched[3] = True
    other[~vouched] = 2 - other[~vouched]
    other[labels == 2] = np.where(vouched[labels == 2], 0, other[labels == 2])  # the head is not vouched for

    results = [
        adapt(checkpoint, [Correction(volume, one, [3], ["body"], voxels)], **QUICK)
        for one in (labels, other)
    ]

    assert not np.array_equal(labels, other)
    assert same_weights(results[0].model, results[1].model)
    labels[3, 16] = 1 - labels[3, 16].clip(max=1)
    vouched_for = adapt(checkpoint, [Correction(volume, labels, [3], ["body"], voxels)], **QUICK)
    assert not same_weights(results[0].model, vouched_for.model)


def test_single_voxels_are_learnt_from(checkpoint: Checkpoint) -> None:
    volume, labels = scan()
    voxels = np.zeros(labels.shape, bool)
    voxels[2, 10:20] = True

    better = adapt(checkpoint, [Correction(volume, labels, [], voxels=voxels)], **QUICK)

    assert not same_weights(better.model, checkpoint.model)
    (story,) = better.card.lineage
    assert story.scans[0].voxels == 10 * 32
    assert story.better is None
    part = partial_slices(
        volume,
        labels,
        checkpoint.card,
        slices=[],
        voxels=voxels,
        classes={0: 0, 1: 1, 2: 2},
        annotated=[1, 2],
    )
    assert (part.labels[0] != UNKNOWN).numpy().tolist() == voxels[2].tolist()


def test_the_same_seed_gives_the_same_weights(checkpoint: Checkpoint) -> None:
    state = torch.random.get_rng_state()

    first, second, third = (adapt(checkpoint, [unscored()], seed=seed, **QUICK) for seed in (1, 1, 2))

    assert same_weights(first.model, second.model)
    assert not same_weights(first.model, third.model)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_slice_is_scored_once_it_was_learnt_from(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, set[int]]] = []
    batch = PartialSlices.batch

    def spied(self: PartialSlices, chosen: torch.Tensor, *rest: Any) -> Any:
        kind = "learnt" if torch.is_grad_enabled() else "scored"
        events.append((kind, set(self.numbers[chosen].tolist())))
        return batch(self, chosen, *rest)

    monkeypatch.setattr(PartialSlices, "batch", spied)

    better = adapt(checkpoint, [correction(slices=range(8))], **QUICK | {"steps": 12})

    last = max(at for at, (kind, _) in enumerate(events) if kind == "scored")
    learnt = set().union(*(numbers for kind, numbers in events[:last] if kind == "learnt"))
    scored = set().union(*(numbers for kind, numbers in events if kind == "scored"))
    assert learnt
    assert scored == set(better.card.lineage[0].scans[0].held_out)
    assert not learnt & scored


def test_what_was_learnt_from_is_never_held_out_again(checkpoint: Checkpoint) -> None:
    known = LearntScan(fingerprint=scan_fingerprint(scan()[0]), slices=(0, 2, 4, 6))
    story = Adaptation(scans=(known,), steps=3)
    once = replace(checkpoint, card=checkpoint.card.model_copy(update={"lineage": (story,)}))

    def held(one: Correction) -> tuple[int, ...]:
        return adapt(once, [one], **QUICK | {"steps": 1}).card.lineage[1].scans[0].held_out

    assert set(held(correction(slices=range(8)))) < {1, 3, 5, 7}
    assert held(correction(slices=[2, 4])) == ()
    assert len(held(correction(1, slices=[2, 4]))) == 1


def test_a_network_for_three_axes_learns_along_all(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, labels = scan(slices=32)
    three = replace(checkpoint, card=checkpoint.card.updated(planes=3))
    drawn: list[PartialSlices] = []
    batch = PartialSlices.batch

    def spied(self: PartialSlices, *rest: Any) -> Any:
        drawn.append(self)
        return batch(self, *rest)

    monkeypatch.setattr(PartialSlices, "batch", spied)

    better = adapt(three, [Correction(volume, labels, [4, 12, 20, 28])], **QUICK)

    (held,) = better.card.lineage[0].scans[0].held_out
    slices = drawn[-1]
    lines = slices.labels[~slices.whole]
    assert lines.shape == (64, 32, 32)
    known = (lines != UNKNOWN).all(-1)
    assert {tuple(row.nonzero()[:, 0].tolist()) for row in known} == {tuple(sorted({4, 12, 20, 28} - {held}))}
    assert torch.equal(lines[:32, 4], torch.from_numpy(labels[4]))


@pytest.mark.parametrize(
    ("seconds", "step", "each", "left"),
    [
        (None, 20, 2.0, 200.0),  # by steps alone
        (100.0, 20, 2.0, 40.0),  # 60 s are over, of which preparing took 20
        (100.0, 20, 0.1, 10.0),  # all steps come before the time is over
        (100.0, 2, 10.0, 280.0),  # slow: the fewest steps are done in any case
        (50.0, 40, 2.0, 0.0),
    ],
)
def test_the_time_left_is_by_the_steps_and_by_the_clock(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, step: int, each: float, left: float
) -> None:
    monkeypatch.setattr(fine_tuning.time, "monotonic", lambda: 1060.0)
    clock = fine_tuning._Clock(120, seconds, 30, start=1000.0)

    assert clock.remaining(step, each) == pytest.approx(left)


@pytest.mark.long
def test_where_time_ends_it_early_it_warms_up_for_the_same_share(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spied(self: torch.optim.AdamW) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", spied)

    adapt(checkpoint, [unscored()], **QUICK | {"steps": None}, seconds=1e-3)

    assert len(rates) == 30
    assert np.argmax(rates) == 9


def test_batch_norms_keep_their_statistics(checkpoint: Checkpoint) -> None:
    better = adapt(checkpoint, [unscored()], **QUICK)

    before, after = checkpoint.model.state_dict(), better.model.state_dict()
    statistics = [key for key in before if "running_" in key]
    assert statistics
    assert all(torch.equal(before[key], after[key]) for key in statistics)


def test_cancelling_leaves_everything(checkpoint: Checkpoint) -> None:
    before, threads = weights_sha256(checkpoint.model), threading.active_count()
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 4

    with pytest.raises(AdaptationCancelled):
        adapt(checkpoint, [correction()], cancelled=cancelled, **QUICK)

    assert weights_sha256(checkpoint.model) == before
    assert threading.active_count() == threads


def test_where_it_does_not_help_the_weights_stay(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "_LEARNING_RATE", 0.0)

    same = adapt(checkpoint, [correction()], **QUICK)

    assert same_weights(same.model, checkpoint.model)
    assert same.card.lineage[0].steps == same.card.lineage[0].further_steps == 0
    assert same.card.lineage[0].better is False


def test_a_network_that_learnt_nothing_counts_as_new(checkpoint: Checkpoint) -> None:
    fresh = replace(checkpoint, model=network(PLAIN))

    better = adapt(fresh, [correction()], **QUICK)

    statistics = [value for key, value in better.model.state_dict().items() if "running_mean" in key]
    assert all(value.any() for value in statistics)  # frozen, they would never tell anything
    assert better.card.lineage[0].dice == {}  # too few slices to hold one back


@pytest.mark.long
def test_a_narrow_scan_is_learnt_from_more_finely(wide: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, fine = (None, 2.0, 2.0), (None, 1.6, 1.6)
    checkpoint = replace(wide, card=wide.card.updated(resize="pad", spacing=coarse))
    score = [1.0]  # per share of the image that is filled

    def scored(_net: Any, slices: PartialSlices, *_how: Any) -> float:
        return score[0] * float((slices.planes > 0).float().mean())

    monkeypatch.setattr(adaptation, "_mean_dice", scored)

    better = adapt(checkpoint, [unscored()], **QUICK)
    wider = adapt(checkpoint, [unscored()], new_organs={7: "cyst"}, **QUICK)

    assert better.card.spacing == fine
    assert adapt(better, [unscored()], **QUICK).card.spacing == fine
    assert wider.card.spacing == coarse
    score[0] = -1.0
    assert adapt(checkpoint, [unscored()], **QUICK).card.spacing == coarse  # it sees them better so
    score[0] = 1.0

    monkeypatch.setattr(fine_tuning, "_LEARNING_RATE", 0.0)
    finely = adapt(checkpoint, [correction()], **QUICK).card.lineage[0]
    monkeypatch.setattr(fine_tuning, "_SCORED_AT", ())  # never better
    assert adapt(checkpoint, [correction()], **QUICK).card.spacing == coarse
    monkeypatch.undo()
    monkeypatch.setattr(fine_tuning, "_LEARNING_RATE", 0.0)
    monkeypatch.setattr(adaptation, "finer_spacing", lambda card, _volumes: card.spacing)
    coarsely = adapt(checkpoint, [correction()], **QUICK).card.lineage[0]
    before = [[dice.before for dice in story.dice.values()] for story in (finely, coarsely)]
    assert any(before[0])
    assert before[0] == before[1]  # as it was, not as it would be at a spacing that it does not know


def test_a_new_organ_widens_the_head(checkpoint: Checkpoint) -> None:
    volume, labels = scan()
    labels[2:7, 0:6, 22:30] = 7

    wider = adapt(
        checkpoint,
        [Correction(volume, labels, [1, 3, 5, 6])],
        new_organs={7: "cyst"},
        **QUICK | {"steps": 30},
    )

    assert wider.card.label_names == {**NAMES, 3: "cyst"}
    assert wider.model.num_classes == 4
    assert wider.card.lineage[0].added == ("cyst",)
    assert wider.card.lineage[0].dice["cyst"].before == 0


@pytest.mark.long
def test_beside_a_new_organ_the_others_are_kept_as_the_checkpoint_had_them(
    wide: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own labels stand for them in the corrected slice and in others of the scan; the encoder stays."""
    checkpoint = wide
    volume, labels = scan(slices=12)
    cyst = np.where(labels == 2, 7, 0).astype(np.uint8)
    taught: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    batch = PartialSlices.batch

    def spied(self: PartialSlices, chosen: torch.Tensor, *rest: Any) -> Any:
        if torch.is_grad_enabled():
            for number in chosen.tolist():
                taught[int(self.numbers[number])] = (self.labels[number], self.annotated[number])
        return batch(self, chosen, *rest)

    monkeypatch.setattr(PartialSlices, "batch", spied)
    before = Predictor(checkpoint, **QUICK_PREDICTION).predict(volume)
    assert before.any()

    wider = adapt(
        checkpoint,
        [Correction(volume, cyst, [3], ["cyst"])],
        new_organs={7: "cyst"},
        **QUICK | {"steps": 8},
    )

    for number, (known, annotated) in taught.items():
        drawn = number == 3
        expected = np.where(cyst[number] == 7, 3, before[number]) if drawn else before[number]
        assert (known.numpy() == expected).mean() > 0.99
        assert annotated.tolist() == [True, True, True, drawn]
    assert {3} < taught.keys()
    assert same_weights(wider.model.transformer, checkpoint.model.transformer)
    assert not same_weights(wider.model.decoder, checkpoint.model.decoder)
    assert wider.card.lineage[0].replayed == 0


def test_a_dropped_organ_is_background(checkpoint: Checkpoint) -> None:
    smaller = adapt(checkpoint, [correction()], drop=["Body"], **QUICK)

    assert smaller.card.label_names == {1: "head"}
    assert (smaller.card.context, smaller.card.smallest_part) == (3, 0.1)
    assert smaller.card.lineage[0].dropped == ("body",)
    assert Predictor(smaller, **QUICK_PREDICTION).predict(scan()[0]).max() <= 1


QUICK_PREDICTION: dict[str, Any] = {"device": "cpu", "precision": "float32", "backend": "torch"}


def test_a_result_can_be_saved_and_learn_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    once = adapt(checkpoint, [correction()], **QUICK)
    path = save_checkpoint(tmp_path / "once.safetensors", once)
    with slim_parts():
        read = load_checkpoint(path, variant=PLAIN)

    twice = adapt(read, [correction(1)], earlier=[correction()], **QUICK)

    assert [story.parent for story in twice.card.lineage] == [checkpoint.sha256, read.sha256]
    assert twice.card.lineage[1].replayed == 4
    assert read.card.lineage == once.card.lineage


def test_what_was_known_is_replayed(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, labels = scan(3)
    slices = partial_slices(
        volume,
        labels,
        checkpoint.card,
        slices=range(8),
        voxels=None,
        classes={0: 0, 1: 1, 2: 2},
        annotated=[1, 2],
    )
    ReplayPack(slices, NAMES).write(replay_path(checkpoint.path))
    drawn: list[int] = []
    batch = PartialSlices.batch

    def spied(self: PartialSlices, chosen: torch.Tensor, *rest: Any) -> Any:
        if torch.is_grad_enabled():
            drawn.append(len(chosen))
        return batch(self, chosen, *rest)

    monkeypatch.setattr(PartialSlices, "batch", spied)

    better = adapt(checkpoint, [correction()], **QUICK)

    assert set(zip(drawn[::2], drawn[1::2], strict=True)) == {(4, 2)}
    assert better.card.lineage[0].replayed == 8


def test_earlier_scans_are_replayed_as_often_as_the_pack(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, labels = scan(3, slices=40)
    everything = partial_slices(
        volume,
        labels,
        checkpoint.card,
        slices=None,
        voxels=None,
        classes={0: 0, 1: 1, 2: 2},
        annotated=[1, 2],
    )
    again: list[int] = []
    batch = PartialSlices.batch

    def spied(self: PartialSlices, chosen: torch.Tensor, *rest: Any) -> Any:
        if len(self) == 4 + 30 + 4 and torch.is_grad_enabled():
            again.extend(chosen.tolist())
        return batch(self, chosen, *rest)

    monkeypatch.setattr(PartialSlices, "batch", spied)

    adapt(
        checkpoint,
        [unscored()],
        earlier=[correction(1)],
        replay=ReplayPack(everything, NAMES),
        **QUICK | {"steps": 20},
    )

    assert len(again) == 3 * 20
    pack = range(4, 34)  # ten of the forty are set aside
    assert 12 <= sum(number < 4 for number in again) <= 28
    assert 12 <= sum(number in pack for number in again) <= 28
    assert 12 <= sum(number >= 34 for number in again) <= 28


def test_what_was_forgotten_is_told_by_slices_that_are_not_replayed(wide: Checkpoint) -> None:
    checkpoint = wide
    volume, labels = scan(1, slices=24)
    pack = adaptation.replay_pack(checkpoint.card, [Correction(volume, labels, range(24))], slices=24)
    one = unscored()

    better = adapt(checkpoint, [one], replay=pack, **QUICK)

    (story,) = better.card.lineage
    assert story.replayed == 18
    slices = pack.for_card(checkpoint.card)
    _, aside = set_aside(slices, slices.pick([]))
    images, labels, _ = aside.batch(torch.arange(6), 1, checkpoint.card.context, torch.device("cpu"))
    for net, side in ((checkpoint.model, "before"), (better.model, "after")):
        with torch.inference_mode():
            found = net(images).argmax(1)
        for value, name in NAMES.items():
            own, true = found == value, labels == value
            dice = 2 * (own & true).sum() / (own.sum() + true.sum())
            assert getattr(story.retained[name], side) == pytest.approx(float(dice), abs=0.01)
    assert story.retained["body"].before > 0
    assert "Dice on slices known before: " in story.sentence()


def test_replayed_slices_are_held_as_the_checkpoint_had_them(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    plain = fine_tuning.change_of_known_classes

    def spied(logits: torch.Tensor, before: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append((logits.detach(), before))
        loss = plain(logits, before, *rest)
        assert loss.requires_grad
        return loss

    monkeypatch.setattr(fine_tuning, "change_of_known_classes", spied)
    adapt(checkpoint, [unscored()], earlier=[correction(1)], **QUICK | {"steps": 3})

    assert [len(logits) for logits, _ in calls] == [3, 3, 3]  # what is replayed of six, and no other
    assert not any(before.requires_grad for _, before in calls)
    (first, same), *_, (last, other) = calls
    torch.testing.assert_close(first, same)  # nothing was learnt yet
    assert not torch.equal(last, other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slices": []}, "vouched"),
        ({"slices": [8]}, "8"),
        ({"slices": [3.5]}, "3.5"),
        ({"slices": np.arange(8) == 5}, "whole number"),
        ({"organs": ["liver"]}, "liver"),
        ({"labels": np.zeros((8, 32, 30), np.uint8)}, "32, 30"),
        ({"labels": np.full((8, 32, 32), 9)}, "9"),
    ],
)
def test_what_cannot_be_learnt_from_is_said(
    checkpoint: Checkpoint, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        adapt(checkpoint, [correction(**changes)], **QUICK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"new_organs": {2: "cyst"}}, "head"),
        ({"new_organs": {7: "Head"}}, "Head"),
        ({"drop": ["liver"]}, "liver"),
        ({"drop": ["body", "head"]}, "organ"),
        ({"steps": 0}, "step"),
    ],
)
def test_impossible_wishes_are_refused(checkpoint: Checkpoint, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        adapt(checkpoint, [correction()], **QUICK | options)


def test_held_out_slices_show_the_organs() -> None:
    labels = torch.zeros(8, 4, 4, dtype=torch.uint8)
    labels[[2, 6], 0] = 1
    labels[[0, 4], 1] = 1
    labels[[2, 0], 2] = 2
    slices = PartialSlices(
        torch.zeros(8, 4, 4),
        torch.arange(8)[:, None].expand(8, 5),
        labels,
        torch.ones(8, 3, dtype=torch.bool),
        torch.ones(8, dtype=torch.bool),
        torch.arange(8),
    )

    assert held_out(slices) in ([2, 6], [0, 4])
    assert held_out(slices.pick([0])) == []
    assert held_out(slices, seen=[0, 2, 4, 6]) == []  # what is left shows no organ, so has no score
    assert held_out(slices, seen=[0, 2, 4]) == [6]
    labels[[2, 0], 2] = 0
    labels[2, 2] = 2
    assert held_out(slices) == [0, 4]  # the one slice with organ 2 is learnt from
    assert held_out(slices.pick([2, 3])) == []  # nor could be said whether it is found better
