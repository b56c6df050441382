"""The error of a file that holds several volumes of which none was chosen, with what there is to choose from."""

from collections.abc import Sequence
from typing import Literal

from napari_transunet.errors import VolumeError

Which = Literal["channel", "time", "key"]
_LONGEST = 80  # characters of a name that are shown


class SeveralVolumesError(VolumeError):
    """One file, or one DICOM series, holds several volumes and none was chosen.

    Attributes
    ----------
    which : the argument of `read_volume` that chooses.
    count : how many there are.
    noun, plural : what one of them, and several, are called: "time point", "channel", "segment", ...
    names : their names, where the file has them; else empty.
    """

    def __init__(
        self,
        text: str,
        which: Which,
        count: int,
        noun: str,
        *,
        plural: str | None = None,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(text)
        self.which: Which = which
        self.count = count
        self.noun = noun
        self.plural = plural or f"{noun}s"
        self.names = tuple(names) if len(names) == count else ()

    def choice(self, index: int) -> int | str:
        """What to give `read_volume` as its argument `which` for the one at `index` (from 0)."""
        return self.names[index] if self.which == "key" else index

    def title(self, index: int) -> str:
        """How to call the one at `index` (from 0): "time point 2", "channel 1 (DAPI)"."""
        name = self._name(index)
        return f"{self.noun} {index + 1}" + (f" ({name})" if name else "")

    def row(self, index: int) -> str:
        """Its line in a list: "Time point 2 of 5", "Channel 1 of 3: DAPI"."""
        name = self._name(index)
        row = f"{self.noun[:1].upper()}{self.noun[1:]} {index + 1:,} of {self.count:,}"
        return f"{row}: {name}" if name else row

    def _name(self, index: int) -> str:
        name = " ".join(self.names[index].split()) if self.names else ""
        return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def overlapping(noun: str, both: Sequence[str], names: Sequence[str]) -> SeveralVolumesError:
    """The error of a file whose segments or regions `both` overlap, of those with these names."""
    return SeveralVolumesError(
        f"its {noun}s {' and '.join(map(repr, both))} overlap, while a voxel can have one label only; choose one with"
        f" channel (0 to {len(names) - 1}).",
        "channel",
        len(names),
        noun,
        names=names,
    )
