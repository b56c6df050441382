"""The command `train`."""

from __future__ import annotations

import math
from functools import partial
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
    option,
)
from napari_transunet.cli.printing import number, print_table, progress_bar
from napari_transunet.cli.reporting import BAD_INPUT, INTERRUPTED, counted, interruptible, one_line, say
from napari_transunet.errors import InputError, TransUNetError

if TYPE_CHECKING:
    from napari_transunet.training.callbacks import Progress as TrainingProgress
    from napari_transunet.training.datasets import Dataset
    from napari_transunet.training.experiment import Trained
    from napari_transunet.training.recipes import Recipe
    from napari_transunet.training.splits import Split

_LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal for a bar

_what = partial(option, panel="Data")
_how = partial(option, panel="Training")
_split_option = partial(option, panel="Split")
_card = partial(option, panel="Model card")
_where = partial(option, panel="Hardware")


def train(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="A folder with images/ and labels/, imagesTr/ and labelsTr/ (Decathlon, nnU-Net), or train_npz/ "
            "(Synapse).",
        ),
    ],
    out: Annotated[Path, option("CHECKPOINT", "The .safetensors file to write.", "--output", "-o")],
    labels: Annotated[
        str | None,
        _what("1=NAME,…|PRESET", "The label values to learn and their names, instead of the dataset's own."),
    ] = None,
    others_are_background: Annotated[
        bool,
        _what(
            None,
            "Treat other label values as background; otherwise they are an error.",
            "--others-are-background",
        ),
    ] = False,
    channel: ChannelOption = None,
    modality: Annotated[
        str | None, _what("CT|MR|…", "The modality, if the dataset does not state it.")
    ] = None,
    window: Annotated[
        str | None, _what("LOW,HIGH", "The intensity range to scale to 0..1, in HU for CT.")
    ] = None,
    percentiles: Annotated[
        str | None, _what("LOW,HIGH", "The intensity range as percentiles of each volume.")
    ] = None,
    orientation: Annotated[
        str | None,
        _what(
            "CODES",
            "Where columns, rows and slice order point, such as LPS. Default: as in the first case.",
        ),
    ] = None,
    resize: Annotated[
        Literal["squash", "pad"], _what(None, "Stretch slices to the image size, or pad them.")
    ] = "squash",
    spacing: Annotated[
        str | None, _what("Y,X", "Pixel spacing of the network's input in mm, with --resize pad.")
    ] = None,
    planes: Annotated[
        str,
        _what("1|3", "Slices along z only, or along x, y and z, averaged, which takes three times as long."),
    ] = "1",
    crops: Annotated[
        bool,
        _what(
            None,
            "The volumes are crops around a structure: the card records their size, and larger ones cause a warning.",
            "--crops",
        ),
    ] = False,
    recipe: Annotated[str, _how("default|paper")] = "default",
    variant: Annotated[str, _how("NAME", "The network; the command variants lists them.")] = "R50-ViT-Ti_16",
    img_size: Annotated[str | None, _how("N|HxW", "The network's input size, 64 to 512 pixels.")] = None,
    n_skip: Annotated[int | None, _how("N", None, "--skips", min=0, max=3)] = None,
    context: Annotated[
        str | None, _how("1|3", "The slice alone, or also its two neighbours as channels.")
    ] = None,
    epochs: Annotated[int | None, _how("N", "Passes over the slices.", min=1)] = None,
    steps: Annotated[int | None, _how("N", "Optimiser steps, instead of passes.", min=1)] = None,
    batch_size: Annotated[int | None, _how("N", min=1)] = None,
    learning_rate: Annotated[float | None, _how("RATE")] = None,
    patience: Annotated[int | None, _how("N", "Stop after N validations without improvement.", min=1)] = None,
    mirror: Annotated[
        bool, _how(None, "Mirror left and right; only for labels without a side (default recipe).")
    ] = False,
    contrast_phases: Annotated[
        bool,
        _how(
            None,
            "Vary the organs' mean intensities, as contrast agents do (default recipe).",
            "--contrast-phases",
        ),
    ] = False,
    slant: Annotated[
        float | None,
        _how(
            "DEGREES",
            "Cut half of the slices obliquely, by up to this angle, with neighbours 1 to 8 mm away (default recipe).",
        ),
    ] = None,
    organs_alike: Annotated[
        bool,
        _how(None, "Show small organs as often as large ones (default recipe).", "--organs-alike"),
    ] = False,
    init: Annotated[
        str | None,
        _how(
            "SOURCE",
            "Initial weights: a checkpoint, an ImageNet .npz, timm's .safetensors, hub:timm/…, or imagenet.",
        ),
    ] = None,
    init_cnn: Annotated[
        str | None, _how("SOURCE", "Initial weights of the ResNet, if --init has none.")
    ] = None,
    seed: Annotated[int, _how("N", "Random seed of the split and the training.", min=0)] = 0,
    validation: Annotated[float, _split_option("SHARE", "Fraction of the patients for validation.")] = 0.15,
    test: Annotated[float, _split_option("SHARE", "Fraction of the patients for the final test.")] = 0.15,
    fold: Annotated[
        str | None, _split_option("K/N", "Validate on fold K of N instead; K counts from 1.")
    ] = None,
    split_file: Annotated[
        Path | None,
        _split_option("F", 'JSON with lists of patients: "training", "validation", "test".', "--split"),
    ] = None,
    patient_pattern: Annotated[
        str | None,
        _split_option(
            "REGEX", "The part of a case's name that identifies the patient. Default: each case is a patient."
        ),
    ] = None,
    title: Annotated[str | None, _card("TEXT")] = None,
    licence: Annotated[str | None, _card("TEXT")] = None,
    source: Annotated[str | None, _card("TEXT")] = None,
    limits: Annotated[str | None, _card("TEXT")] = None,
    half: Annotated[bool, _card(None, "Store weights in half precision, which halves the file.")] = True,
    device: Annotated[str, _where("auto|cpu|cuda|cuda:N|mps")] = "auto",
    precision: Annotated[Literal["auto", "float32", "bfloat16", "float16"], _where()] = "auto",
    devices: Annotated[int, _where("N", "The number of GPUs, or of processes on the CPU.", min=1)] = 1,
    nodes: Annotated[int, _where("N", min=1)] = 1,
    compiled: Annotated[
        bool,
        _where(
            None,
            "Compile the training step; this takes minutes at the start and only pays off in long trainings.",
            "--compile",
        ),
    ] = False,
    resume: Annotated[bool, option(None, "Continue an interrupted training.", "--resume")] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Train a checkpoint on labelled volumes, and score it on patients that it never saw.

    CHECKPOINT is usable from the first validation on. The folder beside it, CHECKPOINT's name with .training, has the
    state for --resume, logs (CSV, TensorBoard), the split, scores, and pictures of the worst and the median case.
    Ctrl-C keeps what was learnt.
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
        raise InputError(f"Checkpoints are written as .safetensors files; give {out.name} that suffix.")
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
            slant=slant,
            organs_alike=organs_alike,
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
        say(
            f"Stopped after {trained.outcome.steps} steps; what was learnt is in {out}. Use --resume to continue."
        )
        raise typer.Exit(INTERRUPTED)
    _report(trained)
    if cancelled():
        say(f"Stopped before {out} was scored; use --resume to score it.")
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
        raise InputError(f"--fold takes a fold and the number of folds, such as 1/5, not {fold!r}.")
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
        raise InputError(f"The recipe {name!r} does not support --mirror and --contrast-phases.")
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
    table = Table("Label", "Name", title=counted(len(trained.scores), f"{trained.part} case"))
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
