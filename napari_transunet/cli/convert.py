"""The command `convert`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from napari_transunet.cli.options import (
    ChannelOption,
    LevelOption,
    OverwriteOption,
    SeriesOption,
    TimeOption,
    WeightsOption,
    check_target,
    option,
    read,
)
from napari_transunet.cli.reporting import one_line, say
from napari_transunet.errors import InputError

if TYPE_CHECKING:
    from napari_transunet.export.writing import ExportRequest

Kind = Literal["auto", "image", "labels"]


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A volume, a DICOM folder, or a checkpoint.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write; its suffix sets the format.")
    ],
    kind: Annotated[
        Kind, typer.Option("--as", help="Whether the volume is an image or labels; auto decides by the file.")
    ] = "auto",
    scan: Annotated[
        Path | None,
        option("FOLDER", "The DICOM series of the labels; OUT.dcm and OUT.rtstruct.dcm refer to it."),
    ] = None,
    series: SeriesOption = None,
    channel: ChannelOption = None,
    time_point: TimeOption = None,
    level: LevelOption = None,
    weights: WeightsOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a volume in another format on the same grid, or a checkpoint as .safetensors with its model card.

    With --scan, labels become a DICOM segmentation (OUT.dcm) or structure set (OUT.rtstruct.dcm) of that series. If
    IN is a structure set, its series must be there, in its folder, or in one beside it.
    """
    from napari_transunet.export.source import provenance_of_file
    from napari_transunet.export.writing import request_referring
    from napari_transunet.files import real_path

    if real_path(source) == real_path(target):
        raise InputError(f"IN and OUT are both {source}; choose another name for OUT.")
    check_target(target, overwrite=overwrite)
    if target.suffix.lower() == ".safetensors":
        from napari_transunet.checkpoints.loading import load_checkpoint
        from napari_transunet.checkpoints.saving import save_checkpoint

        loaded = load_checkpoint(source, weights=weights)
        for note in loaded.notes:
            say(f"Note: {note}")
        written = save_checkpoint(target, loaded.model, loaded.card, overwrite=overwrite)
    elif (request := request_referring(target, overwrite=overwrite)) is not None:
        if scan is None:
            raise InputError(
                f"{target.name} must refer to a DICOM series; name the folder of that series with --scan."
            )
        _refer(request, source, scan, series=series, channel=channel, time_point=time_point)
        written = target
    else:
        from napari_transunet.io.writing import writable_suffix, write_labels, write_volume

        suffix = writable_suffix(target)
        volume = read(source, series=series, channel=channel, time_point=time_point, level=level)
        if kind == "image":
            volume = replace(volume, labels=None)
        if kind == "labels" or volume.labels is not None or suffix == ".seg.nrrd":
            about = provenance_of_file(source, time_point)
            made = {key: told for key, told in about.items() if key != "files"}
            written = write_labels(
                target, volume.data, volume, volume.labels, provenance=made, overwrite=overwrite
            )
        else:
            written = write_volume(target, volume, overwrite=overwrite)
    typer.echo(one_line(written))


def _refer(
    request: ExportRequest,
    source: Path,
    scan: Path,
    *,
    series: str | None,
    channel: int | None,
    time_point: int | None,
) -> None:
    """Write labels as a DICOM object; `series` is that of the scan."""
    from napari_transunet.export.source import provenance_of_file
    from napari_transunet.export.writing import export
    from napari_transunet.io.sidecar import COVERAGE
    from napari_transunet.volumes.grid_part import labels_on_grid
    from napari_transunet.volumes.labels import LabelSet

    volume = read(source, channel=channel, time_point=time_point, scan=scan)
    series_volume = read(scan, series=series)
    # Labels on another grid stay as they are: whoever writes knows what else is wrong with the series.
    placed = labels_on_grid(volume, series_volume)
    made = provenance_of_file(source)
    if placed is not None and not placed.part.is_whole:
        told = f"the labels cover a part of the scan ({placed.part.coverage}); the rest counts as background."
        say(f"Note: {told}")
        made |= {COVERAGE: told}
    export(
        volume.data if placed is None else placed.data,
        volume.geometry if placed is None else series_volume.geometry,
        volume.labels or LabelSet(),
        request,
        source=series_volume.source,
        provenance=made,
        noted=lambda note: say(f"Note: {note}"),
    )
