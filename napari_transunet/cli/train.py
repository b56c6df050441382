"""The command `train`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import typer
from rich.table import Table
from rich.text import Text

from napari_transunet.cli.options import (
    ChannelOption,
    OverwriteOption,
    check_target,
    image_size,
    one_or_three,
)
from napari_transunet.cli.printing import number, print_table, progress_bar
from napari_transunet.cli.reporting import BAD_INPUT, INTERRUPTED, interruptible, one_line, say
from napari_transunet.errors import InputError, TransUNetError

if TYPE_CHECKING:
    from napari_transunet.training.callbacks import Progress as TrainingProgress
    from napari_transunet.training.datasets import Dataset
    from napari_transunet.training.experiment import Trained
    from napari_transunet.training.recipes import Recipe
    from napari_transunet.training.splits import Split

_LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal for a bar

_WHAT, _HOW, _SPLIT, _CARD, _WHERE = (
    "What it learns from",
    "How it learns",
    "Who is set aside",
    "The model card",
    "Where it runs",
)


def train(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="A folder with images/ and labels/, imagesTr/ and labelsTr/ (Decathlon, nnU-Net), or train_npz/ "
            "(Synapse).",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="CHECKPOINT", help="The .safetensors file to write.")
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="1=NAME,…|PRESET",
            help="The label values to learn, with their names, instead of the dataset's own.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    others_are_background: Annotated[
        bool,
        typer.Option(
            "--others-are-background",
            help="Take other label values for background; without this they are an error.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    channel: ChannelOption = None,
    modality: Annotated[
        str | None,
        typer.Option(
            metavar="CT|MR|…", help="Modality, if the dataset does not state it.", rich_help_panel=_WHAT
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Intensities to scale to 0..1, in HU for CT.", rich_help_panel=_WHAT
        ),
    ] = None,
    percentiles: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="The same, as percentiles of each volume.", rich_help_panel=_WHAT
        ),
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(
            metavar="CODES",
            help="Where the slices' columns, rows and their order point, such as LPS; the first case's if not said.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    resize: Annotated[
        Literal["squash", "pad"],
        typer.Option(help="Stretch slices to the image size, or pad them.", rich_help_panel=_WHAT),
    ] = "squash",
    spacing: Annotated[
        str | None,
        typer.Option(
            metavar="Y,X", help="mm between the network's pixels; with --resize pad.", rich_help_panel=_WHAT
        ),
    ] = None,
    planes: Annotated[
        str,
        typer.Option(
            metavar="1|3",
            help="Slices along z alone, or along x, y and z, averaged: better and three times as slow.",
            rich_help_panel=_WHAT,
        ),
    ] = "1",
    crops: Annotated[
        bool,
        typer.Option(
            "--crops",
            help="The volumes are crops around a structure; the card then says how large, and others are doubted.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    recipe: Annotated[str, typer.Option(metavar="default|paper", rich_help_panel=_HOW)] = "default",
    variant: Annotated[
        str, typer.Option(metavar="NAME", help="See the command variants.", rich_help_panel=_HOW)
    ] = "R50-ViT-Ti_16",
    img_size: Annotated[
        str | None,
        typer.Option("--img-size", metavar="N|HxW", help="64 to 512 pixels.", rich_help_panel=_HOW),
    ] = None,
    n_skip: Annotated[
        int | None, typer.Option("--skips", metavar="N", min=0, max=3, rich_help_panel=_HOW)
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="1|3", help="The slice alone, or its neighbours as channels too.", rich_help_panel=_HOW
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Passes over the slices.", rich_help_panel=_HOW)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Optimiser steps, instead of passes.", rich_help_panel=_HOW),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, rich_help_panel=_HOW)
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="RATE", rich_help_panel=_HOW)
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Stop after so many validations without a better one.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    mirror: Annotated[
        bool,
        typer.Option(
            help="Mirror left and right, where labels have no side (default recipe).", rich_help_panel=_HOW
        ),
    ] = False,
    contrast_phases: Annotated[
        bool,
        typer.Option(
            "--contrast-phases",
            help="Vary the organs' mean intensities, as contrast agents do (default recipe).",
            rich_help_panel=_HOW,
        ),
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="First weights: a checkpoint, an ImageNet .npz, timm's .safetensors, hub:timm/…, or imagenet.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    init_cnn: Annotated[
        str | None,
        typer.Option(
            "--init-cnn",
            metavar="SOURCE",
            help="The ResNet's file, where --init has none.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Random seed of the split and of training.", rich_help_panel=_HOW
        ),
    ] = 0,
    validation: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of the patients for validation.", rich_help_panel=_SPLIT),
    ] = 0.15,
    test: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Share of the patients for the final test.", rich_help_panel=_SPLIT
        ),
    ] = 0.15,
    fold: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Validate on fold K (from 1) of N instead.", rich_help_panel=_SPLIT),
    ] = None,
    split_file: Annotated[
        Path | None,
        typer.Option(
            "--split",
            metavar="F",
            help='JSON with lists of patients: "training", "validation", "test".',
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            "--patient-pattern",
            metavar="REGEX",
            help="The part of a case's name that is the patient's; each case is a patient if not said.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", rich_help_panel=_CARD)] = None,
    licence: Annotated[str | None, typer.Option(metavar="TEXT", rich_help_panel=_CARD)] = None,
    source: Annotated[str | None, typer.Option(metavar="TEXT", rich_help_panel=_CARD)] = None,
    limits: Annotated[str | None, typer.Option(metavar="TEXT", rich_help_panel=_CARD)] = None,
    half: Annotated[
        bool, typer.Option(help="Store weights in half precision: half the size.", rich_help_panel=_CARD)
    ] = True,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps", rich_help_panel=_WHERE)] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(rich_help_panel=_WHERE)
    ] = "auto",
    devices: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="GPUs, or processes on the CPU.", rich_help_panel=_WHERE),
    ] = 1,
    nodes: Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_WHERE)] = 1,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the training step; it takes minutes at the start, and pays on long trainings alone.",
            rich_help_panel=_WHERE,
        ),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a checkpoint on labelled volumes, and score it on patients that it never saw.

    CHECKPOINT can be used from the first validation on. Beside it, in CHECKPOINT's name with .training, are the state
    for --resume, logs (CSV, TensorBoard), the split, scores, and pictures of the worst and the median case. Ctrl-C
    keeps what was learnt.
    """
    from napari_transunet.training.cases import PreparationCancelled
    from napari_transunet.training.datasets import open_dataset
    from napari_transunet.training.experiment import (
        Experiment,
        HardwareConfig,
        PreprocessingConfig,
        ProgressCallbacks,
        train_checkpoint,
    )

    if out.suffix != ".safetensors":
        raise InputError(f"Checkpoints are written as .safetensors, so {out.name} cannot be the name of one.")
    if _is_first():
        check_target(out, overwrite=overwrite or resume)
    opened = open_dataset(
        dataset, channel=channel, patient_pattern=patient_pattern, names=_names(labels) if labels else None
    )
    course = Experiment(
        dataset=opened,
        split=_split(opened, split_file, fold, validation, test, seed),
        recipe=_recipe(
            recipe,
            resize=resize,
            mirror=mirror,
            contrast_phases=contrast_phases,
            context=None if context is None else one_or_three(context, "--context"),
            epochs=epochs,
            steps=steps,
            batch=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            seed=seed,
        ),
        preparation=PreprocessingConfig(
            variant=variant,
            img_size=image_size(img_size),
            n_skip=n_skip,
            modality=modality,
            window=_pair(window, "--window"),
            percentiles=_pair(percentiles, "--percentiles"),
            orientation=orientation,
            resize=resize,
            spacing=_pair(spacing, "--spacing"),
            planes=one_or_three(planes, "--planes"),
            crops=crops,
            name=out.stem,
            title=title,
            licence=licence,
            source=source,
            limits=limits,
        ),
        others_are_background=others_are_background,
        init=init,
        init_cnn=init_cnn,
    )
    with interruptible(told=_is_first()) as cancelled, _Display() as display:
        try:
            trained = train_checkpoint(
                course,
                out,
                machine=HardwareConfig(device, precision, devices, nodes, compiled),
                half=half,
                resume=resume,
                overwrite=overwrite,
                callbacks=ProgressCallbacks(display.stage, display.counted, display.trained, cancelled),
            )
        except PreparationCancelled:
            raise typer.Exit(INTERRUPTED) from None
        except TransUNetError:
            if _is_first():
                raise
            raise typer.Exit(BAD_INPUT) from None  # the first process tells the same
    if trained is None:
        return
    if trained.outcome.cancelled:
        say(f"Stopped after {trained.outcome.steps} steps; what was learnt is in {out}. --resume goes on.")
        raise typer.Exit(INTERRUPTED)
    _report(trained)
    if cancelled():
        say(f"Stopped before {out} was scored; --resume does it.")
        raise typer.Exit(INTERRUPTED)


def _is_first() -> bool:
    from napari_transunet.training.experiment import is_first_process

    return is_first_process()


def _names(text: str) -> dict[int, str]:
    """`1=spleen,52=aorta`, or the name of a preset."""
    from napari_transunet.checkpoints.presets import preset_names

    if "=" not in text:
        return preset_names(text)
    names = {}
    for part in text.split(","):
        value, _, name = part.partition("=")
        if not value.strip().isdecimal() or not name.strip() or not 0 < int(value) < 65536:
            raise InputError(f"--labels takes pairs such as 1=spleen,2=liver, not {part!r}.")
        names[int(value)] = name.strip()
    return names


def _split(
    dataset: Dataset, file: Path | None, fold: str | None, validation: float, test: float, seed: int
) -> Split:
    from napari_transunet.training.splits import Split

    if file is not None:
        return Split.from_file(file, dataset.patients)
    if fold is None:
        return Split.by_seed(
            dataset.patients, validation=validation, test=test, seed=seed, fixed_test=dataset.test
        )
    which, _, folds = fold.partition("/")
    if not (which.isdecimal() and folds.isdecimal()):
        raise InputError(f"--fold takes a fold and their number, such as 1/5, not {fold!r}.")
    return Split.by_fold(dataset.patients, int(which) - 1, int(folds), seed, fixed_test=dataset.test)


def _recipe(name: str, *, resize: str, mirror: bool, contrast_phases: bool, **changes: Any) -> Recipe:
    from dataclasses import replace

    from napari_transunet.training.augmentation import Augmentation
    from napari_transunet.training.recipes import get_recipe

    recipe = get_recipe(name)
    views = recipe.augmentation
    if isinstance(views, Augmentation):
        # Stretched slices fill the image; beyond padded ones lies air.
        views = replace(
            views,
            mirror=mirror,
            phase_chance=0.25 if contrast_phases else 0.0,
            beyond="reflection" if resize == "squash" else "zeros",
        )
    elif mirror or contrast_phases:
        raise InputError(f"--mirror and --contrast-phases are not for the recipe {name!r}.")
    return recipe.with_changes(augmentation=views, **changes)


def _pair(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} takes two numbers, such as 0.5,99.5, not {text!r}.") from None
    return low, high


class _Display:
    """What happens, on stderr: a bar with an ETA on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._bar = progress_bar(wanted=_is_first())
        self._task = self._bar.add_task("", total=None, visible=False)
        self._next_line = _LINE_SECONDS
        self._dice: float | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, sentence: str) -> None:
        """A part of the work begins."""
        say(sentence)
        self._bar.reset(self._task, description="", visible=False)

    def counted(self, done: int, total: int) -> None:
        """So many cases are done."""
        self._bar.update(self._task, completed=done, total=total, description="cases", visible=True)

    def trained(self, progress: TrainingProgress) -> None:
        """The training goes on."""
        dice = (
            ""
            if progress.dice is None
            else f", validation Dice {progress.dice:.3f} (best {progress.best:.3f})"
        )
        text = f"loss {progress.loss:.3f}{dice}"
        self._bar.update(
            self._task, completed=progress.step, total=progress.steps, description=text, visible=True
        )
        if not self._bar.disable and progress.dice == self._dice:
            return
        if (
            progress.dice != self._dice
            or progress.seconds >= self._next_line
            or progress.step == progress.steps
        ):
            self._next_line = progress.seconds + _LINE_SECONDS
            self._dice = progress.dice
            say(f"Step {progress.step} of {progress.steps}: {text}; {_duration(progress.remaining)} left.")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _report(trained: Trained) -> None:
    from napari_transunet.metrics.summary import mean_of_labels, summarise
    from napari_transunet.training.experiment import run_folder

    say(f"{trained.checkpoint}: {trained.outcome.steps} steps in {_duration(trained.outcome.seconds)}.")
    if not trained.scores:
        return
    names = trained.card.label_set().names
    table = Table("Label", "Name", title=_counted(len(trained.scores), f"{trained.part} case"))
    for heading in ("Dice", "± SD", "worst", "HD95 mm", "NSD 2 mm"):
        table.add_column(heading, justify="right")
    summaries = summarise(trained.scores)
    for value, of in summaries.items():
        dice = of["dice"]
        cells = (dice.mean, dice.sd, dice.worst, of["hd95"].mean, of["nsd"].mean)
        table.add_row(str(value), Text(one_line(names.get(value, ""))), *map(number, cells))
    means = mean_of_labels(summaries)
    table.add_section()
    table.add_row("", "mean", number(means["dice"]), "", "", number(means["hd95"]), number(means["nsd"]))
    print_table(table)
    say(f"Scores of each case, the split and pictures are in {run_folder(trained.checkpoint)}.")
