"""The command `segment` into an OME-Zarr."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_transunet.cli.printing import counting
from napari_transunet.cli.reporting import say
from napari_transunet.errors import InputError, VolumeError

if TYPE_CHECKING:
    from napari_transunet.export.segmentation import ReadingOptions
    from napari_transunet.inference.predictor import Predictor
    from napari_transunet.io.ome_zarr.labels import LabelsPlace, LabelWriter
    from napari_transunet.volumes.volume import Volume


def segment_into(
    source: Path,
    place: LabelsPlace,
    predictor_for: Callable[[Volume], Predictor],
    reading: ReadingOptions,
    *,
    level: int | None,
    options: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Segment the OME-Zarr `source`, a folder or an http(s) address, into the label image at `place`."""
    from napari_transunet.export.ome_zarr_segmentation import segment_ome_zarr
    from napari_transunet.export.segmentation import doubts_about
    from napari_transunet.io.ome_zarr.metadata import web_address
    from napari_transunet.io.ome_zarr.reading import is_ome_zarr, open_ome_zarr

    where = web_address(source) or source
    if isinstance(where, Path) and not is_ome_zarr(where):
        raise InputError(
            f"Only labels of an OME-Zarr image can be written into an OME-Zarr, and {source} is not one; give OUT as a"
            " file, such as labels.nii.gz."
        )
    try:
        image = open_ome_zarr(where, channel=reading.channel, time=reading.time_point, level=level)
    except VolumeError as error:
        error.args = (f"{where}: {error}",)
        raise
    volume = image.volume()
    for note in volume.source.notes:
        say(f"Note on {where}: {note}")
    predictor = predictor_for(volume)
    for doubt in doubts_about(volume, predictor):
        say(f"Note on {volume.source.name}: {doubt}")
    checkpoint = predictor.checkpoint
    name = checkpoint.name if checkpoint is not None else predictor.card.variant
    place = place.named(name, image.time)
    slices = volume.data.shape[predictor.slice_axis(volume)]
    say(
        f"Segmenting {volume.source.name}: {slices} slices with {name} on {predictor.device}"
        f" ({predictor.precision_name}) into {place.folder}."
    )

    def told(writer: LabelWriter) -> None:
        if writer.done:
            say(f"Resuming: {writer.done} of {slices} slices are already written.")

    with counting(volume.source.name) as report:
        made = segment_ome_zarr(
            image,
            volume,
            predictor,
            place,
            options=options,
            overwrite=overwrite,
            began=told,
            progress=report,
        )
    found = ", ".join(f"{organ} {size:,.0f} mL" for organ, size in made.organ_ml)
    done = made.slices - made.resumed_at
    say(f"{made.folder}: {done} slices in {made.seconds:.1f} s. {found or 'No organ was found'}.")
