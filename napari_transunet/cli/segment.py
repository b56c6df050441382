"""The command `segment`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from napari_transunet.cli.options import (
    BackendOption,
    BatchSizeOption,
    ChannelOption,
    DeviceOption,
    ImageSizeOption,
    MirrorOption,
    OrthogonalPlanesOption,
    OverwriteOption,
    PipelineOption,
    PrecisionOption,
    SeriesOption,
    TimeOption,
    WeightsOption,
    check_target,
    image_size,
    one_or_three,
    option,
    read,
)
from napari_transunet.cli.printing import progress_bar
from napari_transunet.cli.reporting import BAD_INPUT, one_line, say
from napari_transunet.errors import InputError, sentence_of
from napari_transunet.inference.options import PredictorOptions

if TYPE_CHECKING:
    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.volumes.volume import Volume

_ENDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "S": ("feet", "head"),
        "I": ("head", "feet"),
        "P": ("front", "back"),
        "A": ("back", "front"),
        "L": ("right", "left"),
        "R": ("left", "right"),
    }
)
"""Where the first and the last slice lie, by the side of the patient that the axis points to."""

_WORTH_SAYING, _WORTH_KEEPING = 10, 50  # slices of the order in which they are worth looking at


@dataclass
class _Outcome:
    """What became of the inputs."""

    done: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def fail(self, source: Path, sentence: str) -> None:
        self.failed.append(str(source))
        # A reader's sentence begins with the file's name; among several inputs the whole path tells more.
        say(f"Error: {source}: {sentence.removeprefix(f'{source.name}: ')}")


def segment(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Volumes: files, or folders with a DICOM series.")
    ],
    out: Annotated[
        Path, option("OUT", "A file, or a folder (always, for several inputs).", "--output", "-o")
    ],
    checkpoint: Annotated[
        str | None, option("NAME|PATH", "A checkpoint's name or file; see inspect.", "--checkpoint", "-c")
    ] = None,
    weights: WeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    pipeline: PipelineOption = "card",
    backend: BackendOption = "auto",
    orthogonal_planes: OrthogonalPlanesOption = None,
    mirror_tta: MirrorOption = False,
    img_size: ImageSizeOption = None,
    preset: Annotated[
        str | None, option("PRESET", "Names of the classes, where the checkpoint has none.", "--labels")
    ] = None,
    series: SeriesOption = None,
    channel: ChannelOption = None,
    time_point: TimeOption = None,
    overwrite: OverwriteOption = False,
    report: Annotated[
        Path | None, option("FILE.html", "Also report volumes and key slices, as HTML and CSV.", "--report")
    ] = None,
    planes: Annotated[str | None, typer.Option("--planes", hidden=True)] = None,
    flips: Annotated[bool, typer.Option("--flips", hidden=True)] = False,
) -> None:
    """Segment volumes and write labels on their grids.

    The format follows OUT's suffix (.nii.gz, .nii, .nrrd, .seg.nrrd, .mha); in a folder, labels are .nii.gz files
    named after their inputs. A JSON file beside the labels says what made them. Where an input fails, the others
    are still done, and the exit status is 2.
    """
    from napari_transunet.io.sidecar import is_ours, sidecar_path
    from napari_transunet.project.report import ReportContent, check_report, reported_file, write_report

    if planes is not None:
        orthogonal_planes = one_or_three(planes, "--planes") == 3
        say(
            "Note: --planes is called --orthogonal-planes or --one-plane now; the next version drops the old name."
        )
    if flips:
        mirror_tta = True
        say("Note: --flips is called --mirror-tta now; the next version drops the old name.")
    if report is not None:
        check_report(report, overwrite=overwrite)
    reported = []
    targets = _targets(inputs, out)
    predictors = _Predictors(
        checkpoint,
        PredictorOptions(
            device=device,
            precision=precision,
            batch_size=batch_size,
            pipeline=pipeline,
            backend=backend,
            orthogonal_planes=orthogonal_planes,
            mirror_tta=mirror_tta,
        ),
        preset=preset,
        weights=weights,
        img_size=image_size(img_size),
    )
    if checkpoint is not None:
        predictors.named(checkpoint)  # a wrong checkpoint, device or precision is the same for all inputs
    if targets[0] != out:
        out.mkdir(parents=True, exist_ok=True)
    outcome = _Outcome()
    for source, target in zip(inputs, targets, strict=True):
        try:
            beside = sidecar_path(target)
            if target.resolve() == source.resolve():
                raise InputError(f"The labels would replace the input; choose another name than {target}.")
            if beside.exists() and beside.resolve() == sidecar_path(source).resolve():
                raise InputError(
                    f"{beside} belongs to the input, and labels have such a file too; choose another name."
                )
            if beside.exists() and not is_ours(target):
                raise InputError(
                    f"{beside} does not describe labels, and labels have a file of that name; choose another name."
                )
            check_target(target, beside, overwrite=overwrite)
            volume = read(source, series=series, channel=channel, time_point=time_point)
            written = _segment_one(volume, predictors.for_volume(volume), target, overwrite=overwrite)
            if report is not None:
                reported.append(reported_file(volume, written))
        except KeyboardInterrupt:
            if outcome.done:
                say(f"{len(outcome.done)} of {len(inputs)} volumes were segmented before {source}.")
            raise
        except Exception as error:
            if (sentence := sentence_of(error)) is None:
                raise
            outcome.fail(source, sentence)
        else:
            outcome.done.append(written)
    if len(inputs) > 1:
        failed = f"; failed: {', '.join(outcome.failed)}" if outcome.failed else ""
        say(f"{len(outcome.done)} of {len(inputs)} volumes segmented{failed}.")
    if report is not None and reported:
        write_report(report, ReportContent(report.stem, cases=reported), overwrite=overwrite)
        say(f"{report}: the report, with a table beside it.")
    if outcome.failed:
        raise typer.Exit(BAD_INPUT)


def _targets(inputs: Sequence[Path], out: Path) -> list[Path]:
    """Where the labels of each input go. Raises `InputError` before anything is computed."""
    from napari_transunet.io.sidecar import stem_of
    from napari_transunet.io.writing import WRITABLE_SUFFIXES, writable_suffix

    if not out.is_dir():
        if out.exists():
            writable_suffix(out)
        if len(inputs) == 1 and out.suffix:
            writable_suffix(out)
            return [out]
        if out.name.lower().endswith(WRITABLE_SUFFIXES) or out.exists():
            raise InputError(
                f"{out} is one file, but there are {len(inputs)} inputs; give a folder for their labels."
            )
    # A folder's name is its own, dots and all; a file's loses its suffix. A link has a name of its own, which is the
    # one that people know where the file lies in a store under its hash.
    absolute = [Path(os.path.abspath(path)) for path in inputs]  # noqa: PTH100  resolving would follow links
    names = [path.name if path.is_dir() else stem_of(path) for path in absolute]
    targets = [out / f"{name}.nii.gz" for name in names]
    for target in targets:
        if targets.count(target) > 1:
            raise InputError(f"Several inputs would be written to {target}; segment them one by one.")
    return targets


class _Predictors:
    """One predictor a checkpoint, made when first needed and kept for the other inputs."""

    def __init__(
        self,
        checkpoint: str | None,
        options: PredictorOptions,
        *,
        preset: str | None,
        weights: str | None,
        img_size: tuple[int, int] | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._preset = preset
        self._weights = weights
        self._img_size = img_size
        self._options = options
        self._made: dict[str, Predictor] = {}

    def for_volume(self, volume: Volume) -> Predictor:
        """The predictor of the checkpoint asked for, else of the only shipped one that fits the volume."""
        return self.named(self._checkpoint or _fitting_checkpoint(volume))

    def named(self, name: str) -> Predictor:
        """The predictor of this checkpoint (a name, or a path)."""
        if name not in self._made:
            from napari_transunet.checkpoints.loading import load_checkpoint
            from napari_transunet.checkpoints.presets import preset_names
            from napari_transunet.checkpoints.registry import resolve_checkpoint
            from napari_transunet.inference.predictor import Predictor

            checkpoint = load_checkpoint(
                resolve_checkpoint(name), img_size=self._img_size, weights=self._weights
            )
            for note in checkpoint.notes:
                say(f"Note: {note}")
            if self._preset is not None:
                checkpoint = checkpoint.with_labels(preset_names(self._preset))
            self._made[name] = Predictor(checkpoint, self._options)
        return self._made[name]


def _fitting_checkpoint(volume: Volume) -> str:
    """The path of the one shipped checkpoint that fits the volume."""
    from napari_transunet.inference.choosing import fitting_checkpoint

    entry, reason = fitting_checkpoint(volume)
    say(
        f"Using the checkpoint {entry.name} ({entry.title}) for {volume.source.name}: {reason}; "
        "--checkpoint chooses another."
    )
    return str(entry.path)


def _segment_one(volume: Volume, predictor: Predictor, target: Path, *, overwrite: bool) -> Path:
    import numpy as np

    from napari_transunet.annotation.provenance import RunRecord, now, provenance_of
    from napari_transunet.annotation.review_order import review_order
    from napari_transunet.annotation.uncertainty import SliceUncertainties
    from napari_transunet.inference.compatibility import doubt_about, doubt_about_augmentation
    from napari_transunet.io.writing import write_labels
    from napari_transunet.volumes.geometry import voxel_ml

    checkpoint, card = predictor.checkpoint, predictor.card
    found_doubts = (doubt_about(volume, card), doubt_about_augmentation(card, predictor.options))
    doubts = [doubt for doubt in found_doubts if doubt is not None]
    for doubt in doubts:
        say(f"Note on {volume.source.name}: {doubt}")
    name = checkpoint.name if checkpoint is not None else card.variant
    axis = predictor.slice_axis(volume)
    slices = volume.data.shape[axis]
    unsure = SliceUncertainties(axis, slices)
    where = f"{predictor.device} ({predictor.precision_name})"
    say(f"Segmenting {volume.source.name}: {slices} slices with {name} on {where}.")
    started, date = time.perf_counter(), now()
    with _progress(volume.source.name) as report:
        labels = predictor.predict(volume, progress=report, unsure=unsure.put)
    seconds = time.perf_counter() - started
    record = RunRecord.from_predictor(
        predictor, date=date, seconds=seconds, slices=slices, total=slices, axis=axis
    )
    names = card.label_set()
    provenance = provenance_of([record])
    order = review_order(unsure.expected_error())
    provenance["review_order"] = order[:_WORTH_KEEPING]
    notes = {"reading_notes": list(volume.source.notes), "compatibility_notes": doubts}
    if checkpoint is not None and checkpoint.weights is not None:
        provenance["checkpoint_weights"] = checkpoint.weights
    provenance |= {key: sentences for key, sentences in notes.items() if sentences}
    written = write_labels(target, labels, volume, names, provenance=provenance, overwrite=overwrite)

    one = voxel_ml(volume.geometry.spacing)
    counts = np.bincount(labels.ravel(), minlength=1)
    found = [
        f"{names.names.get(int(value), f'label {value}')} {counts[value] * one:,.0f} mL"
        for value in np.flatnonzero(counts)
        if value
    ]
    say(f"{written}: {slices} slices in {seconds:.1f} s. {', '.join(found) or 'Nothing was found'}.")
    if order:
        first = ", ".join(map(str, order[:_WORTH_SAYING]))
        say(f"Check first, as napari numbers slices ({_ends(volume, axis)}): {first}.")
    return written


def _ends(volume: Volume, axis: int) -> str:
    """Which ends of the patient the first and the last slice along an array axis lie at: "0 feet, 39 head"."""
    towards = volume.geometry.axis_codes[2 - axis]
    before, after = _ENDS[towards]
    return f"0 {before}, {volume.data.shape[axis] - 1} {after}"


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with an ETA on stderr; nothing where stderr is no terminal."""
    with progress_bar() as bar:
        task = bar.add_task(one_line(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
