"""Options that several commands share, and what they do."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from napari_transunet.cli.reporting import say
from napari_transunet.errors import InputError
from napari_transunet.files import is_taken, real_path
from napari_transunet.inference.options import (
    BackendChoice,
    Pipeline,
    Precision,
    PredictorOptions,
    option_text,
)

if TYPE_CHECKING:
    from napari_transunet.project.project import Project
    from napari_transunet.volumes.volume import Volume


def option(
    metavar: str | None = None, text: str | None = None, *names: str, panel: str | None = None, **more: Any
) -> Any:
    """An option of a command: what its value is called, its help, other names than the parameter's; as typer's."""
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, **more)


SeriesOption = Annotated[
    str | None,
    option("UID|N", "The series of a DICOM folder: its UID, or its number, from 1.", "--series"),
]
ChannelOption = Annotated[
    int | None, option("N", "The channel, from 0, of a volume with several.", "--channel", min=0)
]
TimeOption = Annotated[int | None, option("N", "The time point, from 0, of a time series.", "--time", min=0)]
LevelOption = Annotated[
    int | None, option("N", "The resolution of an OME-Zarr; 0 is the finest.", "--level", min=0)
]
WeightsOption = Annotated[
    str | None,
    option(
        "ema|NAME",
        "The weights to use from a checkpoint with several sets: the averaged ones (ema), or those of a name.",
        "--weights",
    ),
]
DeviceOption = Annotated[str, option("auto|cpu|cuda|cuda:N|mps", option_text("device").usage, "--device")]
OverwriteOption = Annotated[bool, option(None, "Replace existing files.", "--overwrite")]
JsonOption = Annotated[bool, option(None, "Print JSON on stdout instead of a table.", "--json")]
ImageSizeOption = Annotated[
    str | None, option("N|HxW", "The network's input size in pixels, instead of its own.", "--img-size")
]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="The project's folder.")]
CaseArgument = Annotated[
    str, typer.Argument(metavar="CASE", help="A case's name or id, or a unique prefix of it.")
]
AnnotatorOption = Annotated[
    str | None,
    option("NAME", "The annotator's name. Default: the system's user name.", "--annotator"),
]
CheckpointArgument = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's file or name.")]

_LARGEST = 16384  # pixels along a side


def predictor_options(
    device: DeviceOption = "auto",
    precision: Annotated[Precision, option(None, option_text("precision").usage)] = "auto",
    batch_size: Annotated[int | None, option("N", option_text("batch_size").usage, min=1)] = None,
    pipeline: Annotated[Pipeline, option(None, option_text("pipeline").usage)] = "card",
    backend: Annotated[BackendChoice, option(None, option_text("backend").usage)] = "auto",
    orthogonal_planes: Annotated[
        bool | None, option(None, option_text("orthogonal_planes").usage, "--orthogonal-planes/--one-plane")
    ] = None,
    mirror_tta: Annotated[bool, option(None, option_text("mirror_tta").usage, "--mirror-tta")] = False,
) -> PredictorOptions:
    """How to predict, of its options; for `grouped`."""
    return PredictorOptions(device, precision, batch_size, pipeline, backend, orthogonal_planes, mirror_tta)


def grouped(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that takes, in place of each of these parameters, the options of the function that makes its value."""

    def spread(command: Callable[..., None]) -> Callable[..., None]:
        parameters = []
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            own = {name: parameter}
            group = inspect.signature(groups[name], eval_str=True).parameters if name in groups else own
            parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in group.values()]

        def run(**given: Any) -> None:
            for name, make in groups.items():
                given[name] = make(**{one: given.pop(one) for one in inspect.signature(make).parameters})
            command(**given)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return spread


def series_of(series: str | None) -> str | int | None:
    """`--series` as `read_volume` takes it: a number where it is one, else a UID."""
    return int(series) if series is not None and series.isdecimal() and len(series) < 6 else series


def check_named(target: Path) -> None:
    """Refuse `-`: what other programs take for standard output would become a file or folder of that name."""
    if str(target) == "-":
        raise InputError("Files cannot be written to standard output; give a file name instead of “-”.")


def check_not_input(target: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that would replace an input, or a volume in a folder that is one: --overwrite means neither."""
    from napari_transunet.io.reading import is_readable

    check_named(target)
    place = real_path(target)
    for source in inputs:
        within = source.is_dir() and place.is_relative_to(real_path(source)) and is_readable(target)
        if real_path(source) == place or within:
            raise InputError(f"{target} is an input and would be replaced; choose another name.")


def check_target(target: Path, *beside: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Fail now rather than after the work, where `target` or a file that goes with it is in the way, or an input."""
    inputs = list(inputs)
    for file in (target, *beside):
        check_not_input(file, inputs)
        if file.is_dir():
            raise InputError(f"{file} is a folder; give a file name.")
        if is_taken(file) and not overwrite:
            raise InputError(f"{file} exists already; choose another name or add --overwrite.")
    if not target.parent.is_dir():
        raise InputError(f"There is no folder {target.parent} to write to; create it first.")
    try:
        # Rights alone do not tell: a file system may be read-only or full.
        with tempfile.TemporaryFile(dir=target.parent, prefix=".writing-"):
            pass
    except OSError as error:
        raise InputError(
            f"Cannot write to {target.parent} ({error.strerror or error}); choose another folder."
        ) from error


def read(
    source: Path,
    *,
    series: str | None = None,
    channel: int | None = None,
    time_point: int | None = None,
    level: int | None = None,
    scan: Path | None = None,
) -> Volume:
    """The volume at `source`, with the choices that the options made; says what the reader had to assume.

    `scan` is what a structure set was drawn on, where that is known.
    """
    from napari_transunet.io.reading import read_volume, series_folder

    volume = read_volume(
        source,
        series=series_of(series),
        channel=channel,
        time=time_point,
        level=level,
        scan=series_folder(scan),
    )
    for note in volume.source.notes:
        say(f"Note on {source}: {note}")
    return volume


def listed(text: str | None) -> list[str] | None:
    """`liver,spleen` as names; None where nothing was said."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def one_or_three(text: str, option: str) -> Literal[1, 3]:
    """How many axes slices are taken along, or slices the network sees at once, as a number."""
    if text not in ("1", "3"):
        raise InputError(f"{option} must be 1 or 3, not {text}.")
    return 1 if text == "1" else 3


def image_size(text: str | None) -> tuple[int, int] | None:
    """`512` or `224x320` (height x width) as numbers."""
    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 0 < int(part) <= _LARGEST for part in parts):
        raise InputError(
            f"The image size must be a number of pixels, or height x width, such as 224x320; not {text!r}."
        )
    return int(parts[0]), int(parts[-1])


def open_project(folder: Path) -> Project:
    """The project in this folder."""
    from napari_transunet.project.project import Project

    return Project.open(folder)
