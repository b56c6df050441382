"""Learning from all that was reviewed in a project: scans that are held out decide whether the checkpoint is better."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from napari_transunet.annotation.provenance import now
from napari_transunet.checkpoints.loading import Checkpoint, load_checkpoint
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.checkpoints.saving import SUFFIX, save_checkpoint
from napari_transunet.errors import InputError
from napari_transunet.inference.predictor import Predictor
from napari_transunet.project.case_labels import load_labels
from napari_transunet.project.index import write_text
from napari_transunet.project.leases import annotator_name
from napari_transunet.project.project import PROJECT_LEASE, Project
from napari_transunet.project.scans import read_scan
from napari_transunet.project.segmenting import values_of_classes
from napari_transunet.training.adaptation import adapt, pack_for_child
from napari_transunet.training.corrections import Correction
from napari_transunet.training.replay import replay_path
from napari_transunet.volumes.label_values import UNKNOWN
from napari_transunet.volumes.labels import given_names, organ_key

if TYPE_CHECKING:
    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.inference.options import PredictorOptions
    from napari_transunet.project.case import Case
    from napari_transunet.training.fine_tuning import AdaptationProgress

logger = logging.getLogger(__name__)

_HELD_SHARE = 4  # one scan of so many is held out


@dataclass(frozen=True)
class ProjectAdaptation:
    """What came of it.

    Attributes
    ----------
    parent, child : name of the checkpoint it started from, and of the one that was kept; None where it was not better
    learnt, held_out : names of the cases
    slices : how many were learnt from
    dice : organ -> Dice on the held-out scans' reviewed slices, before and after; where no scan could be held out, on
        the held-out slices
    by : "scans" or "slices", which decided
    sentence : all of it for a person
    """

    parent: str
    child: str | None
    learnt: tuple[str, ...]
    held_out: tuple[str, ...]
    slices: int
    dice: dict[str, tuple[float, float]]
    by: str
    sentence: str


class StoredCorrections(Sequence[Correction]):
    """The reviewed slices of cases, read when they are asked for, so that but one scan is in memory."""

    def __init__(self, project: Project, cases: Sequence[Case], card: ModelCard) -> None:
        self._project, self._cases, self._card = project, list(cases), card

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> Correction: ...
    @overload
    def __getitem__(self, index: slice) -> StoredCorrections: ...
    def __getitem__(self, index: int | slice) -> Correction | StoredCorrections:
        """The correction of one case, or the corrections of some."""
        if isinstance(index, slice):
            return StoredCorrections(self._project, self._cases[index], self._card)
        return self._correction(self._cases[index])

    def __iter__(self) -> Iterator[Correction]:
        return (self._correction(case) for case in self._cases)

    def _correction(self, case: Case) -> Correction:
        found = load_labels(self._project, case)
        if found is None:
            raise InputError(
                f"The labels of {case.name} cannot be read any more; exclude it, or restore them."
            )
        volume = read_scan(case.scan, self._project.folder)
        values, organs = _to_classes(
            found.label_set.names, int(found.labels.max()), self._card, self._project.settings.organs
        )
        labels = values[found.labels]
        reviewed = sorted(found.session.reviewed)
        return Correction.along(found.session.axis, reviewed, volume, labels, organs, self._card)


def adapt_project(
    project: Project,
    *,
    device: str = "auto",
    options: PredictorOptions | None = None,
    steps: int | None = None,
    seed: int = 0,
    checkpoint: str | None = None,
    annotator: str | None = None,
    progress: Callable[[AdaptationProgress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ProjectAdaptation:
    """Let the project's checkpoint learn from all reviewed slices, and keep it where it gains on scans it did not see.

    One scan of four is held out, of those that the checkpoint has not learnt from; where there is none, or but one scan
    with reviewed slices, the held-out slices of `adapt` decide. A checkpoint that is kept lies in `checkpoints`, bears
    its lineage, and is the project's from then on.

    Parameters
    ----------
    device, steps, seed, progress, cancelled : as for `adapt`
    options : how to predict the held-out slices
    checkpoint : where each scan takes the checkpoint that fits it, which of them shall learn, from the cases that it
        labelled; needed where there are several

    Raises
    ------
    InputError
        Nothing was reviewed, or by several checkpoints' labels where none is named.
    AdaptationCancelled
        `cancelled` said so; nothing has changed.
    LeaseHeldError
        Somebody lets it learn now.
    ProjectWriteError
        The project cannot be written to.
    """
    who = annotator or annotator_name()
    lease = project.take(PROJECT_LEASE, who, "adapt", takeover=True)
    with lease:
        project.settings = Project.open(project.folder).settings  # as whoever let it learn last left them
        base = None if project.settings.checkpoint is not None else _base(project, checkpoint)
        cases = [case for case in reviewed_cases(project) if base in (None, _base_of(project, case))]
        if not cases:
            raise InputError(
                "No slice is marked as reviewed of the labels that it made, so there is nothing to learn from."
            )
        path = project.checkpoint_path() if base is None else project.adapted_paths().get(base)
        parent = load_checkpoint(path if path is not None else resolve_checkpoint(str(base)))
        held = held_out_cases(cases, _learnt_before(parent.card))
        learnt = [case for case in cases if case not in held]
        corrections = StoredCorrections(project, learnt, parent.card)
        child = adapt(
            parent,
            corrections,
            device=device,
            steps=steps,
            seed=seed,
            progress=progress,
            cancelled=cancelled,
        )
        story = child.card.lineage[-1]
        if held:
            dice = _scored(parent, child, StoredCorrections(project, held, parent.card), options, device)
            by = "scans"
        else:
            dice = {
                name: (one.before or 0.0, one.after or 0.0)
                for name, one in story.dice.items()
                if one.after is not None
            }
            by = "slices"
        before, after = (_mean([pair[at] for pair in dice.values()]) for at in (0, 1))
        better = (bool(dice) and after > before) or not dice
        slices = sum(len(scan.slices) for scan in story.scans)
        lease.check()
        name = None
        if better:
            name = _kept(project, parent, child, corrections, dice, by, [case.name for case in held])
            changed = (
                {"checkpoint": name}
                if base is None
                else {"adapted": {**project.settings.adapted, name: base}}
            )
            project.write_settings(project.settings.model_copy(update=changed))
        result = ProjectAdaptation(
            parent=parent.card.name or parent.name,
            child=name,
            learnt=tuple(case.name for case in learnt),
            held_out=tuple(case.name for case in held),
            slices=slices,
            dice=dice,
            by=by,
            sentence=_sentence(parent, name, learnt, held, slices, before, after, bool(dice)),
        )
        project.note("adapted", child=name, slices=slices, learnt=len(learnt), held_out=len(held), dice=dice)
        return result


def reviewed_cases(project: Project) -> list[Case]:
    """The cases with reviewed slices, one a scan: the case itself before its blind readings."""
    found: dict[str, Case] = {}
    for case in sorted(project.cases(), key=lambda case: case.is_reading):
        if case.reviewed and case.status != "excluded":
            found.setdefault(case.scan.sha256, case)
    return sorted(found.values(), key=lambda case: case.name)


def held_out_cases(
    cases: Sequence[Case], learnt_before: Callable[[Case], bool] = lambda _: False
) -> list[Case]:
    """One case of four, at least one of two or more, of those that the checkpoint has not learnt from; maybe none.

    They are chosen by the scans' hashes, so that more cases change few of them.
    """
    order = sorted(
        cases, key=lambda case: hashlib.sha256(f"held out {case.scan.sha256}".encode()).hexdigest()
    )
    unseen = (case for case in order if not learnt_before(case))
    return list(itertools.islice(unseen, max(1, len(cases) // _HELD_SHARE))) if len(cases) > 1 else []


def _learnt_before(card: ModelCard) -> Callable[[Case], bool]:
    """Whether a checkpoint has learnt from a case's scan, in this project or elsewhere, as its card tells.

    Of a scan without a fingerprint, which old versions left out for imported labels, it may have.
    """
    scans = {scan.fingerprint for adaptation in card.lineage for scan in adaptation.scans}
    return lambda case: bool(scans) and (case.fingerprint is None or case.fingerprint in scans)


def _base(project: Project, wanted: str | None) -> str:
    """The shipped checkpoint that shall learn, where each scan takes what fits it."""
    bases = {base for case in reviewed_cases(project) if (base := _base_of(project, case)) is not None}
    if wanted is not None:
        adapted = project.settings.adapted
        return adapted.get(Path(wanted).name) or adapted.get(f"{wanted}{SUFFIX}") or wanted
    if len(bases) > 1:
        raise InputError(
            f"The reviewed labels of this project were made with several checkpoints ({', '.join(sorted(bases))}); say "
            "with --checkpoint which shall learn."
        )
    if not bases:
        raise InputError(
            "No slice is reviewed of labels that a checkpoint made, so there is nothing to learn from; review some, or "
            "make the project with --checkpoint."
        )
    return bases.pop()


def _base_of(project: Project, case: Case) -> str | None:
    """The shipped checkpoint by which, or by what came from which, a case was labelled."""
    if case.run is None or case.run.source != "network":
        return None
    return project.settings.adapted.get(f"{case.run.name}{SUFFIX}", case.run.name)


def _to_classes(
    names: Mapping[int, str], highest: int, card: ModelCard, organs: Sequence[str]
) -> tuple[np.ndarray[Any, np.dtype[np.uint16]], list[str] | None]:
    """A table from label values to the network's classes, by name; and the organs that are vouched for.

    Other named organs are background to the network; what a value up to the highest without a name is, nobody says.
    """
    values, label_set = values_of_classes(card, None, organs)
    classes = {organ_key(name): value for value, name in label_set.names.items()}
    if values is not None:
        own = {organ_key(name): value for value, name in card.label_set().names.items()}
        classes = {key: own[key] for key in classes if key in own}
    table = np.full(max(highest, *names, 0) + 1, UNKNOWN, np.uint16)
    table[0] = 0
    known = set[int]()
    for value, name in given_names(names).items():
        table[value] = classes.get(organ_key(name), 0)
        known.add(int(table[value]))
    known.discard(0)
    if not known:
        raise InputError(
            "The reviewed labels hold none of the checkpoint's organs, so it cannot learn from them."
        )
    every = len(known) == card.num_classes - 1
    return table, None if every else [card.label_set().names[number] for number in sorted(known)]


def _scored(
    parent: Checkpoint,
    child: Checkpoint,
    held: StoredCorrections,
    options: PredictorOptions | None,
    device: str,
) -> dict[str, tuple[float, float]]:
    """Dice of each organ on the reviewed slices of scans that were not learnt from, before and after."""
    predictors = [
        Predictor(one, options, device=device, backend="torch", precision="float32")
        for one in (parent, child)
    ]
    names = parent.card.label_set().names
    both = np.zeros((2, parent.card.num_classes), np.int64)
    sizes = np.zeros((2, parent.card.num_classes), np.int64)
    for one in held:
        vouched = np.array(
            [one.organs is None or names.get(value) in one.organs for value in range(len(both[0]))]
        )
        axis = predictors[0].slice_axis(one.volume)
        slices = list(one.slices) or list(range(one.volume.data.shape[axis]))
        for at, predictor in enumerate(predictors):
            for index, plane in predictor.iter_slices(one.volume, slices=slices):
                true = np.take(one.labels, index, axis=axis)
                shown = (
                    np.ones(true.shape, np.bool_)
                    if one.voxels is None
                    else np.take(one.voxels, index, axis=axis)
                ) & (true != UNKNOWN)
                count = parent.card.num_classes
                both[at] += vouched * np.bincount(true[shown & (plane == true)], minlength=count)[:count]
                sizes[at] += vouched * np.bincount(true[shown], minlength=count)[:count]
                sizes[at] += vouched * np.bincount(plane[shown], minlength=count)[:count]
    return {
        names.get(value, f"label {value}"): (
            round(2 * float(both[0, value]) / max(1, int(sizes[0, value])), 4),
            round(2 * float(both[1, value]) / max(1, int(sizes[1, value])), 4),
        )
        for value in range(1, parent.card.num_classes)
        if sizes[0, value] or sizes[1, value]
    }


def _kept(
    project: Project,
    parent: Checkpoint,
    child: Checkpoint,
    corrections: StoredCorrections,
    dice: dict[str, tuple[float, float]],
    by: str,
    held: Sequence[str],
) -> str:
    """Write the checkpoint, its replay pack, and what decided; its name."""
    import json

    folder = project.folder / "checkpoints"
    number = 1 + len(list(folder.glob("adapted-*.safetensors")))
    while (path := folder / f"adapted-{number:03d}{SUFFIX}").exists():
        number += 1
    pack = pack_for_child(parent.path, parent.card, corrections, child.card)
    save_checkpoint(path, child, child.card.updated(name=path.stem))
    pack.write(replay_path(path), overwrite=True)
    facts = {
        "checkpoint": path.name,
        "parent": parent.name,
        "date": now(),
        "decided_by": by,
        "held_out": list(held),
        "dice": {name: {"before": pair[0], "after": pair[1]} for name, pair in dice.items()},
        "lineage": [one.sentence() for one in child.card.lineage],
    }
    write_text(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    return path.name


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _sentence(
    parent: Checkpoint,
    child: str | None,
    learnt: Sequence[Case],
    held: Sequence[Case],
    slices: int,
    before: float,
    after: float,
    scored: bool,
) -> str:
    origin = parent.card.name or parent.name
    where = (
        f"{len(held)} held-out scans" if len(held) > 1 else "1 held-out scan" if held else "held-out slices"
    )
    change = (
        f"mean Dice on {where} {before:.3f} → {after:.3f}" if scored else "too few slices to hold any out"
    )
    if child is None:
        return f"{origin} learnt from {slices} slices of {len(learnt)} cases and did not gain ({change}); it stays."
    return f"{child} learnt from {slices} slices of {len(learnt)} cases; {change}."
