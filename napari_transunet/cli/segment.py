"""The command `segment`."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_transunet.cli.cluster import ClusterOptions, cluster_options
from napari_transunet.cli.options import (
    ChannelOption,
    ImageSizeOption,
    LevelOption,
    OverwriteOption,
    SeriesOption,
    TimeOption,
    WeightsOption,
    check_named,
    check_target,
    grouped,
    image_size,
    one_or_three,
    option,
    predictor_options,
    read,
    series_of,
)
from napari_transunet.cli.printing import counting
from napari_transunet.cli.reporting import end, say
from napari_transunet.errors import USERS_ERRORS, InputError, sentence_of
from napari_transunet.inference.options import PredictorOptions

if TYPE_CHECKING:
    from napari_transunet.export.segmentation import LoadingOptions
    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.project.report import ReportedCase
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

_WORTH_SAYING = 10  # slices of the order in which they are worth looking at


@dataclass
class _Outcome:
    """What became of the inputs."""

    done: list[Path] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def fail(self, source: Path, sentence: str) -> None:
        self.failed.append(str(source))
        # A reader's sentence begins with the file's name; among several inputs the whole path tells more.
        say(f"Error: {source}: {sentence.removeprefix(f'{source.name}: ')}")


@grouped(options=predictor_options, on=cluster_options)
def segment(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Volumes: files, or folders with a DICOM series.")
    ],
    *,
    out: Annotated[
        Path, option("OUT", "The output: a file, or a folder (needed for several inputs).", "--output", "-o")
    ],
    checkpoint: Annotated[
        str | None,
        option(
            "NAME|PATH",
            "A checkpoint's name or file. Default: the shipped one that fits.",
            "--checkpoint",
            "-c",
        ),
    ] = None,
    weights: WeightsOption = None,
    options: PredictorOptions,
    img_size: ImageSizeOption = None,
    preset: Annotated[
        str | None, option("PRESET", "Names for the classes, if the checkpoint has none.", "--labels")
    ] = None,
    series: SeriesOption = None,
    channel: ChannelOption = None,
    time_point: TimeOption = None,
    level: LevelOption = None,
    overwrite: OverwriteOption = False,
    on: ClusterOptions | None,
    csv_file: Annotated[
        Path | None,
        option(
            "F",
            "With --scheduler: the file for the table of scans. Default: segment.csv, if OUT is a folder.",
            "--csv",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        option("FILE.html", "Also write a report of volumes and key slices, as HTML and CSV.", "--report"),
    ] = None,
    planes: Annotated[str | None, typer.Option("--planes", hidden=True)] = None,
    flips: Annotated[bool, typer.Option("--flips", hidden=True)] = False,
) -> None:
    """Segment volumes and write labels on their grids.

    OUT's suffix sets the format (.nii.gz, .nii, .nrrd, .seg.nrrd, .mha). In a folder, labels are .nii.gz files named
    after their inputs. A JSON file beside the labels records how they were made. If an input fails, the others are
    still segmented, and the exit status is 2.

    OUT can be an OME-Zarr (even the input itself) or IMAGE.ome.zarr/labels/NAME: the labels become a label image in it.
    The input, an OME-Zarr on disk or at an http(s) address, is then read and written a few slices at a time. Run the
    same command again to resume after it was stopped or killed.

    With --scheduler, scans are segmented in parallel. Scans that already have labels from the same source, checkpoint
    and options are skipped, so running the same command again resumes it.
    """
    from napari_transunet.cli.ome_zarr import segment_into
    from napari_transunet.export.segmentation import (
        LoadingOptions,
        ReadingOptions,
        check_no_overlap,
        compared_options,
        unfinished,
    )
    from napari_transunet.io.ome_zarr.labels import LabelsPlace
    from napari_transunet.io.sidecar import sidecar_path
    from napari_transunet.project.report import check_report, reported_file

    if planes is not None:
        options = replace(options, orthogonal_planes=one_or_three(planes, "--planes") == 3)
        say(
            "Note: --planes is called --orthogonal-planes or --one-plane now; the next version drops the old name."
        )
    if flips:
        options = replace(options, mirror_tta=True)
        say("Note: --flips is called --mirror-tta now; the next version drops the old name.")
    if report is not None:
        check_report(report, overwrite=overwrite)
    reported = []
    place = LabelsPlace.of(out)
    targets = [out] if place is not None else _targets(inputs, out)
    loading = LoadingOptions(image_size(img_size), weights, preset)
    reading = ReadingOptions(series_of(series), channel, time_point)
    asked = compared_options(options, loading, reading)
    if place is not None:
        if len(inputs) > 1 or on is not None or report is not None:
            raise InputError(
                f"An OME-Zarr such as {out} takes the labels of a single input, without --scheduler and --report."
            )
        predictors = _Predictors(checkpoint, options, loading)
        segment_into(
            inputs[0], place, predictors.for_volume, reading, level=level, options=asked, overwrite=overwrite
        )
        return
    if on is not None:
        from napari_transunet.cli.cluster_segment import segment_on_cluster

        made = out if targets[0] != out else None
        table = csv_file or (made / "segment.csv" if made is not None else None)
        segment_on_cluster(
            inputs,
            targets,
            checkpoint,
            options,
            loading,
            reading,
            on,
            made=made,
            overwrite=overwrite,
            table=table,
            report=report,
        )
        return
    if csv_file is not None:
        raise InputError(
            "--csv writes the table of a run with --scheduler; add --scheduler, or leave out --csv."
        )
    predictors = _Predictors(checkpoint, options, loading)
    if checkpoint is not None:
        predictors.named(checkpoint)  # a wrong checkpoint, device or precision is the same for all inputs
    if targets[0] != out:
        out.mkdir(parents=True, exist_ok=True)
    outcome = _Outcome()
    for source, target in zip(inputs, targets, strict=True):
        try:
            check_no_overlap(source, target)
            check_target(target, sidecar_path(target), overwrite=overwrite or unfinished(target))
            volume = read(source, series=series, channel=channel, time_point=time_point, level=level)
            predictor = predictors.for_volume(volume)
            written = _segment_one(source, volume, predictor, target, options=asked, overwrite=overwrite)
            if report is not None:
                reported.append(reported_file(volume, written))
        except KeyboardInterrupt:
            if outcome.done:
                say(f"{len(outcome.done)} of {len(inputs)} volumes were segmented before {source}.")
            raise
        except USERS_ERRORS as error:
            outcome.fail(source, sentence_of(error))
        else:
            outcome.done.append(written)
    if len(inputs) > 1:
        failed = f"; failed: {', '.join(outcome.failed)}" if outcome.failed else ""
        say(f"{len(outcome.done)} of {len(inputs)} volumes segmented{failed}.")
    if report is not None and reported:
        report_scans(report, reported, overwrite=overwrite)
    end(failed=bool(outcome.failed))


def report_scans(report: Path, cases: Sequence[ReportedCase], *, overwrite: bool) -> None:
    """Write the report of these scans, and say so."""
    from napari_transunet.project.report import ReportContent, write_report

    write_report(report, ReportContent(report.stem, cases=cases), overwrite=overwrite)
    say(f"Wrote the report {report}, with a table beside it.")


def _targets(inputs: Sequence[Path], out: Path) -> list[Path]:
    """Where the labels of each input go. Raises `InputError` before anything is computed."""
    from napari_transunet.io.sidecar import stem_of
    from napari_transunet.io.writing import WRITABLE_SUFFIXES, writable_suffix

    check_named(out)
    if not out.is_dir():
        if out.exists():
            writable_suffix(out)
        if len(inputs) == 1 and out.suffix:
            writable_suffix(out)
            return [out]
        if out.name.lower().endswith(WRITABLE_SUFFIXES) or out.exists():
            raise InputError(
                f"{out} is a single file, but there are {len(inputs)} inputs; give a folder for their labels."
            )
    # A folder's name is its own, dots and all; a file's loses its suffix. A link has a name of its own, which is the
    # one that people know where the file lies in a store under its hash.
    absolute = [Path(os.path.abspath(path)) for path in inputs]  # noqa: PTH100  resolving would follow links
    names = [path.name if path.is_dir() else stem_of(path) for path in absolute]
    targets = [out / f"{name}.nii.gz" for name in names]
    # Many file systems tell neither cases apart nor the ways in which Unicode spells a letter.
    alike = [unicodedata.normalize("NFC", name).casefold() for name in names]
    counts = Counter(alike)
    for target, name in zip(targets, alike, strict=True):
        if counts[name] > 1:
            raise InputError(f"Several inputs would be written to {target}; segment them one at a time.")
    return targets


class _Predictors:
    """One predictor a checkpoint, made when first needed and kept for the other inputs."""

    def __init__(self, checkpoint: str | None, options: PredictorOptions, loading: LoadingOptions) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._loading = loading
        self._made: dict[str, Predictor] = {}

    def for_volume(self, volume: Volume) -> Predictor:
        """The predictor of the checkpoint asked for, else of the only shipped one that fits the volume."""
        return self.named(self._checkpoint or _fitting_checkpoint(volume))

    def named(self, name: str) -> Predictor:
        """The predictor of this checkpoint (a name, or a path)."""
        if name not in self._made:
            from napari_transunet.checkpoints.registry import resolve_checkpoint
            from napari_transunet.export.segmentation import load_for
            from napari_transunet.inference.predictor import Predictor

            checkpoint = load_for(resolve_checkpoint(name), self._loading)
            for note in checkpoint.notes:
                say(f"Note: {note}")
            self._made[name] = Predictor(checkpoint, self._options)
        return self._made[name]


def _fitting_checkpoint(volume: Volume) -> str:
    """The path of the one shipped checkpoint that fits the volume."""
    from napari_transunet.inference.compatibility import fitting_checkpoint

    entry, reason = fitting_checkpoint(volume)
    say(
        f"Using the checkpoint {entry.name} ({entry.title}) for {volume.source.name}: {reason}; "
        "--checkpoint selects another."
    )
    return str(entry.path)


def _segment_one(
    source: Path,
    volume: Volume,
    predictor: Predictor,
    target: Path,
    *,
    options: Mapping[str, Any],
    overwrite: bool,
) -> Path:
    from napari_transunet.export.segmentation import doubts_about, segment_volume, write_segmentation
    from napari_transunet.export.source import source_hash

    checkpoint, card = predictor.checkpoint, predictor.card
    for doubt in doubts_about(volume, predictor):
        say(f"Note on {volume.source.name}: {doubt}")
    name = checkpoint.name if checkpoint is not None else card.variant
    slices = volume.data.shape[predictor.slice_axis(volume)]
    where = f"{predictor.device} ({predictor.precision_name})"
    say(f"Segmenting {volume.source.name}: {slices} slices with {name} on {where}.")
    digest = source_hash(source)
    with counting(volume.source.name) as report:
        made = segment_volume(volume, predictor, source_sha256=digest, options=options, progress=report)
    written = write_segmentation(target, made, volume.geometry, overwrite=overwrite)
    found = ", ".join(f"{organ} {size:,.0f} mL" for organ, size in made.organ_ml)
    say(f"{written}: {slices} slices in {made.seconds:.1f} s. {found or 'No organ was found'}.")
    if made.order:
        first = ", ".join(map(str, made.order[:_WORTH_SAYING]))
        say(f"Slices to check first, numbered as in napari ({_ends(volume, made.axis)}): {first}.")
    return written


def _ends(volume: Volume, axis: int) -> str:
    """Which ends of the patient the first and the last slice along an array axis lie at: "0 feet, 39 head"."""
    towards = volume.geometry.axis_codes[2 - axis]
    before, after = _ENDS[towards]
    return f"0 {before}, {volume.data.shape[axis] - 1} {after}"
