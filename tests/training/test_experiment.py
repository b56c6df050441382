import csv
import dataclasses
import errno
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

from napari_transunet.checkpoints.loading import load_checkpoint
from napari_transunet.errors import DatasetError, ExistsError, FileProblem, InputError, TransUNetError
from napari_transunet.inference.predictor import Predictor
from napari_transunet.metrics.segmentation_metrics import evaluate
from napari_transunet.model import variants
from napari_transunet.training.blank_card import blank_card, classes_of
from napari_transunet.training.callbacks import Progress
from napari_transunet.training.cases import PreparationCancelled
from napari_transunet.training.datasets import open_dataset
from napari_transunet.training.experiment import (
    Experiment,
    HardwareConfig,
    PreprocessingConfig,
    ProgressCallbacks,
    Trained,
    is_first_process,
    run_folder,
    train_checkpoint,
)
from napari_transunet.training.losses import UNKNOWN
from napari_transunet.training.splits import Split
from tests.networks import slim_parts
from tests.training.samples import BRIEF, PLAIN, write_dataset

ON_CPU = HardwareConfig("cpu", "float32")


@pytest.fixture(scope="module", autouse=True)
def _tiny_variant() -> Iterator[None]:
    """A variant that learns something in seconds, and few validations, each of which is written down."""
    with pytest.MonkeyPatch.context() as patch:
        known = MappingProxyType({**variants.VARIANTS, PLAIN.name: PLAIN})
        patch.setattr(variants, "VARIANTS", known)
        patch.setattr("napari_transunet.checkpoints.layout.VARIANTS", known)
        patch.setattr("napari_transunet.training.recipes.MIN_INTERVALS", 3)
        with slim_parts():
            yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("course") / "data")


def course_on(root: Path, *, steps: int = 30, test: float = 0.2, **options: Any) -> Experiment:
    dataset = open_dataset(root)
    fields = {"recipe": BRIEF.with_changes(steps=steps, learning_rate=3e-3)} | options
    preparation = {"variant": PLAIN.name, "img_size": (32, 32)} | fields.pop("preparation", {})
    split = Split.by_seed(dataset.patients, validation=0.2, test=test, seed=0)
    return Experiment(dataset, split, preparation=PreprocessingConfig(**preparation), **fields)


@dataclasses.dataclass
class Run:
    course: Experiment
    trained: Trained
    stages: list[str]
    reports: list[Progress]

    @property
    def folder(self) -> Path:
        return run_folder(self.trained.checkpoint)


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One training, from scratch to the end."""
    stages: list[str] = []
    reports: list[Progress] = []
    course = course_on(root, preparation={"name": "blocks", "limits": "Blocks alone."})
    out = tmp_path_factory.mktemp("trained") / "blocks.safetensors"
    trained = train_checkpoint(
        course, out, machine=ON_CPU, callbacks=ProgressCallbacks(stage=stages.append, progress=reports.append)
    )
    assert trained is not None
    return Run(course, trained, stages, reports)


def test_the_card_tells_what_was_done(run: Run) -> None:
    card = load_checkpoint(run.trained.checkpoint).card
    assert card == run.trained.card.updated(n_skip=card.n_skip)
    assert (card.variant, card.num_classes, card.img_size, card.context) == (PLAIN.name, 3, (32, 32), 3)
    assert card.label_names == {1: "body", 2: "head"}
    assert (card.modality, card.orientation) == ("MR", "LPS")
    assert (card.name, card.title, card.licence, card.source, card.limits) == (
        "blocks", "Blocks", "CC0-1.0", "made up", "Blocks alone.",
    )  # fmt: skip
    training = card.training
    assert training["recipe"] == run.course.recipe.sentence()
    assert (training["steps"], training["seed"], training["start"]) == (30, 0, "from scratch")
    assert (training["patients"], training["device"]) == (4, "cpu (float32)")
    assert training["validation_dice_at_network_size"] == pytest.approx(run.trained.outcome.dice, abs=1e-4)


def test_the_split_is_by_patient_and_told(run: Run) -> None:
    split = run.trained.card.split
    sides = [list(split[part]) for part in ("training", "validation", "test")]
    assert [len(side) for side in sides] == [4, 1, 1]
    assert sorted(itertools.chain(*sides)) == [f"patient{number}" for number in range(6)]
    assert split["how"] == run.course.split.how
    again = Split.from_file(run.folder / "split.json", run.course.dataset.patients)
    assert [list(again.training), list(again.validation), list(again.test)] == sides
    assert list(run.trained.scores) == sides[2]


def test_scores_on_the_card_are_what_evaluate_says_of_the_stored_weights(run: Run) -> None:
    weights = load_file(run.trained.checkpoint)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float16}
    predictor = Predictor(load_checkpoint(run.trained.checkpoint), device="cpu", precision="float32")
    (case,) = run.course.split.part(run.course.dataset.cases, "test")
    image, labels = case.read()
    reference = np.select([labels.data == 3, labels.data == 7], [1, 2], 0).astype(np.uint8)
    expected = evaluate(
        predictor.predict(image), reference, spacing=image.geometry.spacing, labels_to_score=[1, 2]
    )
    assert run.trained.part == "test"
    told = run.trained.card.scores["test"]
    assert told["cases"] == 1
    kept = json.loads((run.folder / "scores.json").read_text())["test"][case.name]
    for value, name in ((1, "body"), (2, "head")):
        for key, metric in (("dice", "dice"), ("hd95_mm", "hd95"), ("nsd_2mm", "nsd")):
            exact = expected[value][metric]
            rounded = pytest.approx(exact, abs=1e-4) if math.isfinite(exact) else None
            assert told["labels"][name][key]["mean"] == rounded
            assert kept[str(value)][metric] == rounded
    assert expected[1]["dice"] > 0.1, "the test says little of a network that learnt nothing"


def test_logs_hold_the_loss_and_the_validation_dice(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with next(run.folder.glob("log/*/metrics.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    dice = [float(row["val_dice"]) for row in rows if row["val_dice"]]
    plan = run.course.recipe.plan(24)
    assert losses
    assert all(map(math.isfinite, losses))
    assert len(dice) == plan.intervals
    assert max(dice) == pytest.approx(run.trained.outcome.dice)

    events = EventAccumulator(str(next(run.folder.glob("tensorboard/*"))))
    events.Reload()
    scalars = [scalar.value for scalar in events.Scalars("val_dice")]
    assert scalars == pytest.approx(dice)
    assert events.Scalars("loss")
    pictures = events.Images("reference, network")
    assert [picture.step for picture in pictures][-1] == plan.steps
    assert (pictures[-1].width, pictures[-1].height) == (64, 32)


@pytest.mark.parametrize("which", ["worst", "median"])
def test_pictures_are_written(run: Run, which: str) -> None:
    picture = sitk.ReadImage(str(run.folder / f"{which}.png"))
    assert picture.GetSize() == (768, 256)
    assert sitk.GetArrayFromImage(picture).std() > 1


def test_what_happens_is_told(run: Run) -> None:
    assert [stage.split()[0] for stage in run.stages] == ["Reading", "Training", "Scoring"]
    assert (
        "4 patients (24 slices of 32×32), 30 steps in 5 validation intervals, on cpu (float32)"
        in run.stages[1]
    )
    assert run.reports[-1].step == run.reports[-1].steps == 30


def test_a_finished_training_can_be_resumed_to_be_scored_again(run: Run, tmp_path: Path) -> None:
    before = load_file(run.trained.checkpoint)
    again = train_checkpoint(run.course, run.trained.checkpoint, machine=ON_CPU, resume=True)
    assert again is not None
    assert again.card.scores == run.trained.card.scores
    after = load_file(run.trained.checkpoint)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda course: dataclasses.replace(course, recipe=course.recipe.with_changes(batch=5)), "recipe"),
        (lambda course: dataclasses.replace(course, others_are_background=True), "others_are_background"),
        (
            lambda course: dataclasses.replace(
                course,
                split=Split.by_seed(course.dataset.patients, validation=0.2, test=0.2, seed=5),
                preparation=dataclasses.replace(course.preparation, resize="pad"),
            ),
            "split and preparation",
        ),
        (
            lambda course: dataclasses.replace(
                course,
                recipe=dataclasses.replace(
                    course.recipe, augmentation=dataclasses.replace(course.recipe.augmentation, mirror=True)
                ),
            ),
            "recipe",
        ),
    ],
)
def test_another_course_is_not_resumed(
    run: Run, change: Callable[[Experiment], Experiment], named: str
) -> None:
    stages: list[str] = []
    with pytest.raises(InputError, match=f"was started with another {named};"):
        train_checkpoint(
            change(run.course),
            run.trained.checkpoint,
            machine=ON_CPU,
            resume=True,
            callbacks=ProgressCallbacks(stages.append),
        )
    assert not stages, "cases were read first"


def _relabel(root: Path) -> None:
    path = root / "labels" / "patient2.nii.gz"
    image = sitk.ReadImage(str(path))
    image[0, 0, 0] = 3
    sitk.WriteImage(image, str(path))


def _redescribe(**changes: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_relabel, "changed since .*: patient2;"),
        (_redescribe(labelled={"patient1": ["body", "head"]}), "another annotated;"),
        (_redescribe(labels={"background": 0, "body": 3, "head": 7, "ignore": 9}), "another unknown;"),
        (_redescribe(channel_names={"0": "CT"}), "prepared its images otherwise"),
    ],
)
def test_a_training_is_not_resumed_with_another_dataset_in_the_same_place(
    tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    root, out = write_dataset(tmp_path / "data", patients=3), tmp_path / "new.safetensors"
    train_checkpoint(course_on(root, steps=2, test=0), out, machine=ON_CPU)
    train_checkpoint(course_on(root, steps=2, test=0), out, machine=ON_CPU, resume=True)
    before = out.read_bytes()
    change(root)
    with pytest.raises(InputError, match=named):
        train_checkpoint(course_on(root, steps=2, test=0), out, machine=ON_CPU, resume=True)
    assert out.read_bytes() == before


def test_a_training_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "data", patients=3), tmp_path / "new.safetensors"
    train_checkpoint(course_on(root, steps=2, test=0), out, machine=ON_CPU)
    file = run_folder(out) / "settings.json"
    settings = json.loads(file.read_text())
    for key in ("annotated", "unknown", "voxels", "prepared"):
        del settings[key]
    file.write_text(json.dumps(settings))
    assert train_checkpoint(course_on(root, steps=2, test=0), out, machine=ON_CPU, resume=True) is not None


def test_a_scan_under_two_names_is_not_both_learnt_from_and_scored(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", patients=4)
    image = sitk.ReadImage(str(root / "images" / "patient0.nii.gz"))
    sitk.WriteImage(image, str(root / "images" / "patient3.nrrd"))
    (root / "images" / "patient3.nii.gz").unlink()
    course = course_on(root, steps=1)
    names = ["patient0", "patient1", "patient2", "patient3"]
    apart = dataclasses.replace(course, split=Split(tuple(names[:2]), (names[2],), (names[3],)))
    with pytest.raises(DatasetError, match=r"patient0 and patient3 are the same scan.*training.*test"):
        train_checkpoint(apart, tmp_path / "new.safetensors", machine=ON_CPU)
    assert not run_folder(tmp_path / "new.safetensors").exists()
    together = dataclasses.replace(course, split=Split((names[0], names[3]), (names[1],), (names[2],)))
    assert train_checkpoint(together, tmp_path / "new.safetensors", machine=ON_CPU) is not None


def test_an_earlier_training_is_not_replaced_unasked(run: Run) -> None:
    stages: list[str] = []
    with pytest.raises(FileProblem, match="holds an earlier training"):
        train_checkpoint(
            run.course, run.trained.checkpoint, machine=ON_CPU, callbacks=ProgressCallbacks(stages.append)
        )
    assert not stages, "cases were read first"


@pytest.mark.parametrize("more", [{}, {"resume": True}, {"overwrite": True}])
def test_of_two_trainings_in_one_folder_the_second_is_refused(
    root: Path, tmp_path: Path, more: dict[str, bool]
) -> None:
    course, out = course_on(root, steps=2, test=0), tmp_path / "new.safetensors"
    refused: list[str] = []

    def begin_another(sentence: str) -> None:
        if sentence.startswith(("Reading", "Training")):  # before and after there is anything in the folder
            with pytest.raises(ExistsError, match=r"Another process is training in .*new\.training"):
                train_checkpoint(course, out, machine=ON_CPU, **more)
            refused.append(sentence)

    assert (
        train_checkpoint(course, out, machine=ON_CPU, callbacks=ProgressCallbacks(begin_another)) is not None
    )
    assert len(refused) == 2
    assert train_checkpoint(course, out, machine=ON_CPU, resume=True) is not None


@pytest.mark.long
def test_a_training_that_was_killed_keeps_nobody_out(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.safetensors"
    code = (
        "import os, sys; from pathlib import Path; from napari_transunet.training.experiment import _alone\n"
        "with _alone(Path(sys.argv[1])): os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(run_folder(out))], check=False)
    assert [path.name for path in run_folder(out).iterdir()] == ["lock"]
    assert train_checkpoint(course_on(root, steps=2, test=0), out, machine=ON_CPU) is not None


@pytest.mark.parametrize("text", [None, "[]", "{"])
def test_nothing_to_resume(root: Path, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        run_folder(tmp_path / "new.safetensors").mkdir()
        (run_folder(tmp_path / "new.safetensors") / "settings.json").write_text(text)
    with pytest.raises(FileProblem, match=r"new\.training"):
        train_checkpoint(course_on(root), tmp_path / "new.safetensors", machine=ON_CPU, resume=True)


def test_cancelled_it_leaves_what_was_learnt_and_can_go_on(root: Path, tmp_path: Path) -> None:
    course, out = course_on(root, steps=6, test=0), tmp_path / "new.safetensors"
    questions = 0

    def cancelled() -> bool:
        nonlocal questions
        questions += 1
        return questions >= 6 + 4  # one a case, then steps and validation cases

    stopped = train_checkpoint(course, out, machine=ON_CPU, callbacks=ProgressCallbacks(cancelled=cancelled))
    assert stopped is not None
    assert stopped.outcome.cancelled
    assert stopped.scores == {}
    card = load_checkpoint(out).card
    assert card.training["steps"] == f"{stopped.outcome.steps} of 6, then it was stopped"
    assert not card.scores

    finished = train_checkpoint(course, out, machine=ON_CPU, resume=True)
    whole = train_checkpoint(course, tmp_path / "whole.safetensors", machine=ON_CPU)
    assert finished is not None
    assert whole is not None
    assert finished.part == "validation"
    assert finished.card.scores == whole.card.scores
    first, second = load_file(out), load_file(whole.checkpoint)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_cancelled_while_reading_nothing_is_left(root: Path, tmp_path: Path) -> None:
    with pytest.raises(PreparationCancelled):
        train_checkpoint(
            course_on(root),
            tmp_path / "new.safetensors",
            machine=ON_CPU,
            callbacks=ProgressCallbacks(cancelled=lambda: True),
        )
    assert list(tmp_path.iterdir()) == []


def test_cancelled_while_scoring_no_scores_of_a_part_are_told(root: Path, tmp_path: Path) -> None:
    stage = ""

    def tell(sentence: str) -> None:
        nonlocal stage
        stage = sentence

    out = tmp_path / "new.safetensors"
    trained = train_checkpoint(
        course_on(root, steps=2), out, machine=ON_CPU,
        callbacks=ProgressCallbacks(stage=tell, cancelled=lambda: stage.startswith("Scoring")),
    )  # fmt: skip
    assert trained is not None
    assert (trained.scores, trained.part, trained.outcome.cancelled) == ({}, None, False)
    assert not load_checkpoint(out).card.scores
    assert not (run_folder(out) / "scores.json").exists()


def test_a_full_disk_is_told_of_the_file_and_leaves_no_half_of_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limits of this kind")
    course, out = course_on(root, steps=2, test=0), tmp_path / "new.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # which may be smaller than the state
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(FileProblem, match=r"^Cannot write .*new\.training/last\.ckpt: File too large\.$"):
            train_checkpoint(course, out, machine=ON_CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in run_folder(out).iterdir() if path.name.startswith(".")]

    def full(_logger: CSVLogger) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(CSVLogger, "save", full)
        with pytest.raises(
            FileProblem, match=r"^Cannot write to .*new\.training: No space left on device\.$"
        ):
            train_checkpoint(course, out, machine=ON_CPU, overwrite=True)
    assert train_checkpoint(course, out, machine=ON_CPU, overwrite=True) is not None


def test_weights_can_be_kept_in_full(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "full.safetensors"
    course = course_on(root, steps=1, init=None)
    train_checkpoint(course, out, machine=ON_CPU, half=False)
    assert {value.dtype for value in load_file(out).values()} <= {torch.float32, torch.int64}


def test_a_training_can_begin_where_another_ended(run: Run, root: Path, tmp_path: Path) -> None:
    course = course_on(root, steps=1, init=str(run.trained.checkpoint))
    trained = train_checkpoint(course, tmp_path / "more.safetensors", machine=ON_CPU)
    assert trained is not None
    assert trained.card.training["start"] != "from scratch"
    before = load_file(run.trained.checkpoint)
    after = load_file(trained.checkpoint)
    moved = max(
        float((after[key].float() - before[key].float()).abs().max()) for key in before if "weight" in key
    )
    assert moved < 0.05


def test_classes_are_the_label_values_in_ascending_order(root: Path) -> None:
    course = course_on(root)
    assert classes_of(course) == ({0: 0, 3: 1, 7: 2, 255: UNKNOWN}, {1: "body", 2: "head"})
    nameless = dataclasses.replace(course, dataset=dataclasses.replace(course.dataset, names={}))
    assert classes_of(nameless) == ({0: 0, 3: 1, 7: 2, 255: UNKNOWN}, {})


def test_without_labels_nothing_can_be_learnt(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, patients=2)
    for path in (root / "labels").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))
    course = course_on(root)
    nameless = dataclasses.replace(course, dataset=dataclasses.replace(course.dataset, names={}))
    with pytest.raises(DatasetError, match="no labels but the background"):
        classes_of(nameless)


def test_the_card_follows_the_data_where_nothing_is_said(root: Path) -> None:
    course = course_on(root, preparation={"img_size": None})
    card = blank_card(course, {1: "body", 2: "head"})
    assert card.img_size == (64, 64)
    unknown = dataclasses.replace(course, dataset=dataclasses.replace(course.dataset, modality=None))
    with pytest.raises(InputError, match=r"Nothing tells the modality of .*; say --modality"):
        blank_card(unknown, {})
    scaled = dataclasses.replace(unknown, preparation=PreprocessingConfig(percentiles=(1.0, 99.0)))
    assert blank_card(scaled, {}).percentiles == (1.0, 99.0)


@pytest.mark.parametrize("preparation", [{"img_size": (40, 32)}, {"window": (5.0, 1.0)}, {"variant": "none"}])
def test_settings_that_no_network_has_are_told_before_the_cases_are_read(
    preparation: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    stages: list[str] = []
    with pytest.raises(TransUNetError):
        train_checkpoint(
            course_on(root, preparation=preparation), tmp_path / "new.safetensors", machine=ON_CPU,
            callbacks=ProgressCallbacks(stages.append),
        )  # fmt: skip
    assert not stages
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_process_writes_and_speaks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_first_process()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_first_process()
    stages: list[str] = []
    with pytest.raises(PreparationCancelled):
        train_checkpoint(
            course_on(root), tmp_path / "new.safetensors", machine=ON_CPU,
            callbacks=ProgressCallbacks(stages.append, cancelled=lambda: True),
        )  # fmt: skip
    assert not stages
