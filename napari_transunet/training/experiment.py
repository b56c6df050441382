"""One course of training: from a dataset on disk to a checkpoint with a card that says what it scored."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from napari_transunet import __version__
from napari_transunet.checkpoints.info import inspect_checkpoint
from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.checkpoints.pretrained.initialize import initialise, shared_classes
from napari_transunet.checkpoints.reading import CHECKPOINT_SUFFIXES
from napari_transunet.checkpoints.registry import resolve_checkpoint
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.errors import DatasetError, ExistsError, FileProblem, InputError, some
from napari_transunet.files import file_problems, try_lock, write_text
from napari_transunet.inference.devices import resolve_device, resolve_precision
from napari_transunet.inference.predictor import Predictor
from napari_transunet.model.transunet import TransUNet
from napari_transunet.training.blank_card import annotated_classes, blank_card, classes_of
from napari_transunet.training.cases import prepare_cases
from napari_transunet.training.first_network import VARIANT
from napari_transunet.training.fitting import fit, lightning_or_sentence
from napari_transunet.training.pictures import write_png
from napari_transunet.training.recipes import DEFAULT, Recipe
from napari_transunet.training.scoring import card_scores, picture_of, score_volumes, worst_and_median
from napari_transunet.volumes.fingerprint import scan_fingerprint

if TYPE_CHECKING:
    from torch import nn

    from napari_transunet.checkpoints.card import ModelCard
    from napari_transunet.metrics.summary import LabelScores
    from napari_transunet.training.callbacks import Progress
    from napari_transunet.training.datasets import Dataset, LabelledVolume
    from napari_transunet.training.fitting import Outcome
    from napari_transunet.training.splits import Part, Split
    from napari_transunet.volumes.volume import Volume

SETTINGS = "settings.json"
SPLIT = "split.json"
_LOCK = "lock"
_LISTED_PATIENTS = 40
_PARTS: tuple[Part, ...] = ("training", "validation", "test")
_KEPT_LATER = ("annotated", "unknown")  # settings that an earlier version did not write
_PREPARED = ("modality", "normalisation", "window", "percentiles", "orientation", "img_size", "spacing")


@dataclass(frozen=True, slots=True)
class PreprocessingConfig:
    """How volumes become the network's slices; what is None is chosen by the dataset (`blank_card`).

    The fields are those of the model card, except for `crops`: whether the volumes are crops around a structure, so
    that the card's `extent` says how large they are.
    """

    variant: str = VARIANT
    img_size: tuple[int, int] | None = None
    n_skip: int | None = None
    modality: str | None = None
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    orientation: str | None = None
    resize: Literal["squash", "pad"] = "squash"
    spacing: tuple[float, float] | None = None
    planes: Literal[1, 3] = 1
    crops: bool = False
    name: str | None = None
    title: str | None = None
    licence: str | None = None
    source: str | None = None
    limits: str | None = None


@dataclass(frozen=True, slots=True)
class HardwareConfig:
    """Where and how fast a training runs; of no consequence to what it learns. As for `fit`."""

    device: str = "auto"
    precision: str = "auto"
    devices: int = 1
    nodes: int = 1
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class ProgressCallbacks:
    """Whom to tell what: each may be left out.

    Attributes
    ----------
    stage : a sentence at the begin of each part
    done : (done, total) of what is counted: cases that were read, cases that were scored
    progress : of the training
    cancelled : asked often; true ends the training, which keeps what was learnt
    """

    stage: Callable[[str], None] = lambda _: None
    done: Callable[[int, int], None] | None = None
    progress: Callable[[Progress], None] | None = None
    cancelled: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is learnt from what, and how.

    Attributes
    ----------
    dataset, split : the volumes, and which of their patients are for what
    recipe, preparation : how to train, and how volumes become slices
    others_are_background : whether label values without a name become background instead of an error
    init : what `initialise` takes, with its `cnn`; None to start from scratch
    """

    dataset: Dataset
    split: Split
    recipe: Recipe = DEFAULT
    preparation: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    others_are_background: bool = False
    init: str | None = None
    init_cnn: str | None = None

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as JSON can say it."""
        return json.loads(
            json.dumps(
                {
                    "dataset": str(self.dataset.path.resolve()),
                    "cases": [case.name for case in self.dataset.cases],
                    "labels": dict(self.dataset.names),
                    "split": json.loads(self.split.to_json()),
                    "recipe": _plain(self.recipe),
                    "preparation": _plain(self.preparation),
                    "others_are_background": self.others_are_background,
                    "annotated": {
                        case: sorted(values) for case, values in self.dataset.about.annotated.items()
                    },
                    "unknown": self.dataset.about.unknown,
                    "init": self.init,
                    "init_cnn": self.init_cnn,
                }
            )
        )


@dataclass(frozen=True, slots=True)
class Trained:
    """What a course came to.

    Attributes
    ----------
    checkpoint : the file
    card : its card
    outcome : how the training ended
    scores : of each case of `part` ("test", or "validation" where nothing was set aside for testing)
    """

    checkpoint: Path
    card: ModelCard
    outcome: Outcome
    scores: Mapping[str, LabelScores]
    part: str | None


def run_folder(out: Path) -> Path:
    """Where the state, the logs and the scores of a training lie: `model.safetensors` → `model.training`."""
    return out.with_suffix(".training")


def train_checkpoint(
    course: Experiment,
    out: Path,
    *,
    machine: HardwareConfig | None = None,
    half: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: ProgressCallbacks | None = None,
) -> Trained | None:
    """Train, keep the best, score it, and write it with its card; None in a process that is not the main one.

    `out` is written whenever validation finds better weights, so that it can be used however the training ends.
    Beside it `run_folder(out)` holds the state for `resume`, the split, logs, scores and pictures.

    Parameters
    ----------
    out : the checkpoint, `.safetensors`
    half : store the weights as float16; what is scored is what is stored
    resume : go on with a training that was cut off; the course must be the same
    overwrite : replace `out` and what an earlier training left

    Raises
    ------
    DatasetError, InputError
        Cases or settings that cannot be used, said before the training starts; a loss that is not finite.
    ExistsError, FileProblem
        `out` or the folder cannot be written, or is there already, or another process trains there.
    """
    with _alone(run_folder(out)) if is_first_process() else contextlib.nullcontext():
        return _train(
            course,
            out,
            machine or HardwareConfig(),
            callbacks or ProgressCallbacks(),
            dtype="float16" if half else None,
            resume=resume,
            overwrite=overwrite,
        )


def _train(
    course: Experiment,
    out: Path,
    machine: HardwareConfig,
    callbacks: ProgressCallbacks,
    *,
    dtype: Literal["float16"] | None,
    resume: bool,
    overwrite: bool,
) -> Trained | None:
    lightning = lightning_or_sentence()
    if not is_first_process():
        callbacks = ProgressCallbacks(cancelled=callbacks.cancelled)  # the first one tells the same
    folder = run_folder(out)
    if is_first_process():
        _check_folder(folder, course, resume=resume, overwrite=overwrite)
    device = resolve_device(machine.device)
    precision = str(resolve_precision(machine.precision, device)).removeprefix("torch.")
    classes, names = classes_of(course)
    card = blank_card(course, names)
    annotated = annotated_classes(course.dataset, classes)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(course.recipe.seed)
        net = TransUNet(
            card.variant, card.num_classes, card.img_size, card.n_skip, dropout=course.recipe.dropout
        )
        origin = _initialised(net, course, names)
    callbacks.stage(f"Reading {len(course.dataset.cases)} cases.")
    read: dict[str, _Read] = {}

    def loaded(case: LabelledVolume, image: Volume, labels: Volume) -> None:
        read[case.name] = _Read(case.patient, scan_fingerprint(image), scan_fingerprint(labels))

    cases = prepare_cases(
        course.dataset.cases,
        classes,
        card,
        others_are_background=course.others_are_background,
        scaled=course.dataset.scaled,
        annotated=annotated,
        progress=callbacks.done,
        cancelled=callbacks.cancelled,
        noted=callbacks.stage,
        loaded=loaded,
    )
    _check_apart(read, course.split)
    learnt_from = _learnt_from(card, read)
    if resume:
        _check_unchanged(folder, learnt_from)
    training, validation = (course.split.part(cases, part) for part in ("training", "validation"))
    if is_first_process():
        _keep_settings(folder, course, learnt_from, resume=resume)
    plan = course.recipe.plan(sum(len(case) for case in training))
    callbacks.stage(
        f"Training {card.variant} on {len(course.split.training)} patients ({sum(map(len, training))} slices of "
        f"{card.img_size[0]}×{card.img_size[1]}), {plan.steps} steps in {plan.intervals} validation "
        f"intervals, on {device} ({precision})."
    )

    def keep(best: nn.Module, dice: float | None) -> None:
        found = card.updated(
            scores={"validation": {"dice_at_network_size": _rounded(dice)}, "note": "training has not ended"}
        )
        save_checkpoint(out, best, found, dtype=dtype, overwrite=True)

    loggers = [
        lightning.loggers.CSVLogger(folder, name="log"),
        lightning.loggers.TensorBoardLogger(str(folder), name="tensorboard"),
    ]
    with file_problems(f"Cannot write to {folder}"):  # of the loggers; nothing is read any more
        outcome = fit(
            net,
            training,
            course.recipe,
            validation=validation,
            device=machine.device,
            precision=machine.precision,
            devices=machine.devices,
            nodes=machine.nodes,
            folder=folder,
            resume=resume,
            compiled=machine.compiled,
            loggers=loggers,
            on_progress=callbacks.progress,
            on_best=keep,
            cancelled=callbacks.cancelled,
        )
    if not outcome.main:
        return None
    finished = card.updated(
        training=_training_facts(course, plan.steps, outcome, origin, f"{device} ({precision})"),
        split=_split_facts(course),
    )
    save_checkpoint(out, net, finished, dtype=dtype, overwrite=True)
    if outcome.cancelled:
        return Trained(out, finished, outcome, {}, None)
    finished, scores, part = _scored(out, finished, course, classes, names, machine, folder, callbacks)
    # The card alone is new: the weights are those that were scored.
    save_checkpoint(out, load_checkpoint(out).model, finished, dtype=dtype, overwrite=True)
    return Trained(out, finished, outcome, scores, part)


def _initialised(net: TransUNet, course: Experiment, names: Mapping[int, str]) -> str:
    """Set the first weights; what they are, in words."""
    if course.init is None:
        return "from scratch"
    return initialise(
        net, course.init, cnn=course.init_cnn, class_sources=_classes_shared(course.init, names)
    ).sentence


def _classes_shared(init: str, names: Mapping[int, str]) -> dict[int, int] | None:
    """The classes that a checkpoint of ours and this training call by the same names; None where it has no names."""
    try:
        path = resolve_checkpoint(init)
    except (InputError, FileProblem):
        return None
    if path.suffix not in CHECKPOINT_SUFFIXES:
        return None
    card = inspect_checkpoint(path).card
    return shared_classes(names, card.label_names) if card is not None and card.label_names else None


def is_first_process() -> bool:
    """Whether this is not one of the others of a distributed training, which run the same from the start."""
    return all(int(os.environ.get(name, "0") or 0) == 0 for name in ("LOCAL_RANK", "NODE_RANK"))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder, in which nobody else trains meanwhile; one in which nothing was kept is removed again."""
    with file_problems(f"Cannot write to {folder}"):
        folder.mkdir(exist_ok=True)
        lock = (folder / _LOCK).open("ab")
    with lock:
        if not try_lock(lock):
            raise ExistsError(
                f"Another process is training in {folder} now; wait until it has ended, or choose another name for the"
                " checkpoint."
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if not _holds_something(folder):
                    (folder / _LOCK).unlink()
                    folder.rmdir()


def _holds_something(folder: Path) -> bool:
    """Whether there is more in it than the lock, which a process that was killed leaves there."""
    return any(path.name != _LOCK for path in folder.iterdir())


def _check_folder(folder: Path, course: Experiment, *, resume: bool, overwrite: bool) -> None:
    """Fail before the work where an earlier training is in the way, or is another than the one to resume."""
    file = folder / SETTINGS
    if resume:
        settings = course.settings()
        try:
            before = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise FileProblem(
                f"There is no training to resume in {folder}; start it without --resume."
            ) from error
        if not isinstance(before, dict):
            raise FileProblem(f"{file} is damaged; start the training anew with --overwrite.")
        known = {key: settings[key] for key in _KEPT_LATER} | before
        if changed := [key for key in settings if settings[key] != known.get(key)]:
            raise InputError(
                f"The training in {folder} was started with another {' and '.join(changed)}; give the same options "
                "to resume it, or start anew with --overwrite."
            )
    elif not overwrite and _holds_something(folder):
        raise FileProblem(
            f"{folder} holds an earlier training; --resume goes on with it, --overwrite starts anew."
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """A case as it was read: whose it is, and the fingerprints of its image and labels."""

    patient: str
    image: str
    labels: str


def _learnt_from(card: ModelCard, read: Mapping[str, _Read]) -> dict[str, Any]:
    """What training depends on beside `Experiment.settings`, as JSON can say it: the files' contents, and how images
    are prepared, some of which follows from them.
    """
    prepared = {name: getattr(card, name) for name in _PREPARED}
    voxels = {name: [one.image, one.labels] for name, one in read.items()}
    found: dict[str, Any] = json.loads(json.dumps({"prepared": prepared, "voxels": voxels}))
    return found


def _check_unchanged(folder: Path, learnt_from: Mapping[str, Any]) -> None:
    """Refuse to go on with other images or labels, or prepared otherwise, than a training began with."""
    before = json.loads((folder / SETTINGS).read_text())
    known = before.get("voxels")
    if not isinstance(known, dict):  # an earlier version did not keep it
        return
    again = "to resume it, or start anew with --overwrite"
    changed = sorted(name for name, hashes in learnt_from["voxels"].items() if known.get(name) != hashes)
    if changed:
        raise InputError(
            f"Images or labels have changed since the training in {folder} was started: {some(changed)}; put them back"
            f" {again}."
        )
    if before.get("prepared") != learnt_from["prepared"]:
        raise InputError(
            f"The training in {folder} prepared its images otherwise (modality, intensities or orientation); restore"
            f" the dataset {again}."
        )


def _check_apart(read: Mapping[str, _Read], split: Split) -> None:
    """Refuse a scan that is learnt from and judged by as well, under two names.

    Raises
    ------
    DatasetError
        The same voxels on the same grid belong to patients in different parts of the split.
    """
    part_of = {patient: part for part in _PARTS for patient in getattr(split, part)}
    first: dict[str, tuple[str, str]] = {}
    for name, one in read.items():
        part = part_of.get(one.patient)
        if part is None:
            continue
        other, other_part = first.setdefault(one.image, (name, part))
        if other_part != part:
            raise DatasetError(
                f"{other} and {name} are the same scan, but one is for {other_part} and the other for {part}, so scores"
                " would be of what was learnt; take one of them out, or put both into one part with --split or"
                " --patient-pattern."
            )


def _keep_settings(folder: Path, course: Experiment, learnt_from: Mapping[str, Any], *, resume: bool) -> None:
    """In the folder, what the course is and what it learns from, in place of an earlier training."""
    if resume:
        return
    with file_problems(f"Cannot write to {folder}"):
        for state in ("last.ckpt", "best.safetensors"):
            (folder / state).unlink(missing_ok=True)
    write_text(folder / SETTINGS, json.dumps(course.settings() | dict(learnt_from), indent=2), overwrite=True)
    write_text(folder / SPLIT, course.split.to_json(), overwrite=True)


def _training_facts(
    course: Experiment, steps: int, outcome: Outcome, origin: str, where: str
) -> dict[str, Any]:
    return {
        "recipe": course.recipe.sentence(),
        "steps": outcome.steps
        if outcome.steps == steps
        else f"{outcome.steps} of {steps}, then it was stopped",
        "seed": course.recipe.seed,
        "start": origin,
        "patients": len(course.split.training),
        "minutes": round(outcome.seconds / 60, 1),
        "device": where,
        "validation_dice_at_network_size": _rounded(outcome.dice),
        "version": __version__,
    }


def _split_facts(course: Experiment) -> dict[str, Any]:
    parts = {part: list(getattr(course.split, part)) for part in ("training", "validation", "test")}
    few = sum(map(len, parts.values())) <= _LISTED_PATIENTS
    return {"how": course.split.how} | {
        part: patients if few else len(patients) for part, patients in parts.items()
    }


def _scored(
    out: Path,
    card: ModelCard,
    course: Experiment,
    classes: Mapping[int, int],
    names: Mapping[int, str],
    machine: HardwareConfig,
    folder: Path,
    callbacks: ProgressCallbacks,
) -> tuple[ModelCard, Mapping[str, LabelScores], str | None]:
    """The stored checkpoint, scored on the patients that it did not learn from; scores and pictures in the folder."""
    part: Part | None = "test" if course.split.test else "validation" if course.split.validation else None
    if part is None:
        return card, {}, None
    volumes = course.split.part(course.dataset.cases, part)
    callbacks.stage(f"Scoring {len(volumes)} {part} cases on the scans' own grids.")
    used = card.updated(window=(0.0, 1.0), normalisation="window") if course.dataset.scaled else card
    predictor = Predictor(
        load_checkpoint(out).model, device=machine.device, precision=machine.precision, card=used
    )
    scores = score_volumes(
        predictor,
        volumes,
        classes,
        annotated=annotated_classes(course.dataset, classes),
        progress=callbacks.done,
        cancelled=callbacks.cancelled,
    )
    if callbacks.cancelled is not None and callbacks.cancelled():
        return card, {}, None
    finished = card.updated(scores={part: card_scores(scores, names)})
    write_text(folder / "scores.json", json.dumps({part: _plain_scores(scores)}, indent=2), overwrite=True)
    by_name = {case.name: case for case in volumes}
    for what, name in zip(("worst", "median"), worst_and_median(scores), strict=True):
        write_png(folder / f"{what}.png", picture_of(predictor, by_name[name], classes))
    return finished, scores, part


def _plain(value: Any) -> Any:
    """A dataclass as JSON can say it."""
    if hasattr(value, "__dataclass_fields__"):
        return {"kind": type(value).__name__} | {
            name: _plain(getattr(value, name)) for name in value.__dataclass_fields__
        }
    return value


def _plain_scores(scores: Mapping[str, LabelScores]) -> dict[str, Any]:
    return {
        case: {
            str(label): {metric: _rounded(value) for metric, value in of.items()}
            for label, of in labels.items()
        }
        for case, labels in scores.items()
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
