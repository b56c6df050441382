"""What a folder of DICOM files holds, and the error when that is more than one series."""

from collections.abc import Sequence
from dataclasses import dataclass

from napari_transunet.errors import VolumeError


@dataclass(frozen=True)
class SeriesInfo:
    """One DICOM series.

    Attributes
    ----------
    uid : SeriesInstanceUID.
    description : SeriesDescription; empty where there is none.
    modality : "CT", "MR", ...
    slices : images in the series.
    size : (rows, columns) of its images.
    number : place in the list, from 1; `read_volume(series=number)` reads it.
    """

    uid: str
    description: str
    modality: str | None
    slices: int
    size: tuple[int, int]
    number: int = 1

    def __str__(self) -> str:
        text = f"{self.number}: {self.modality or 'unknown modality'}, {self.slices} images of"
        text += f" {self.size[0]}x{self.size[1]}"
        return text + (f", {self.description!r}" if self.description else "") + f" ({self.uid})"


class SeveralSeriesError(VolumeError):
    """A folder holds several DICOM series and none was chosen. `series` lists them."""

    def __init__(self, series: Sequence[SeriesInfo]) -> None:
        shown = "; ".join(str(info) for info in series[:8]) + ("; ..." if len(series) > 8 else "")
        super().__init__(
            f"the folder holds {len(series)} DICOM series, choose one with --series and its number or UID: {shown}"
        )
        self.series = tuple(series)
