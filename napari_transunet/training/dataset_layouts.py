"""The cases in a dataset's folders: which image belongs to which labels, and how they are read.

Files are found by listing folders alone; names in lists and JSON files only choose among those that were found.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_transunet.errors import DatasetError, TransUNetError, VolumeError, some
from napari_transunet.io.ambiguous import SeveralVolumesError
from napari_transunet.io.reading import is_readable, read_volume, series_folder
from napari_transunet.io.sidecar import stem_of
from napari_transunet.volumes.geometry import Geometry
from napari_transunet.volumes.volume import Source, Volume

_LOG = logging.getLogger(__name__)

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")  # nnU-Net's image names
_SLICE = re.compile(r"(?P<case>.+?)_?slice_?(?P<number>[0-9]{1,9})", re.IGNORECASE)
_LIST_FOLDERS = ("", "lists", "lists/lists_Synapse")
_MAX_LIST_BYTES = 1 << 24

PatientOf = Callable[[str], str]


@dataclass(frozen=True)
class FileCase:
    """A case whose image and labels are a file, or a folder of DICOM files, each.

    Attributes
    ----------
    name, patient : as in `LabelledVolume`
    image, labels : what is read; they may be the same file
    channel : which one of an image that holds several, from 0
    channel_names : of the channels, for errors
    keys : which arrays hold image and labels, where the files have several
    """

    name: str
    patient: str
    image: Path
    labels: Path
    channel: int | None = None
    channel_names: Mapping[int, str] = field(default_factory=dict)
    keys: tuple[str | None, str | None] = (None, None)

    def read(self) -> tuple[Volume, Volume]:
        """Image and labels. Raises `DatasetError` where one of them cannot be read."""
        return self._read_image(), self.read_labels()

    def read_labels(self) -> Volume:
        """The labels alone. Raises `DatasetError` where they cannot be read."""
        with _case_named(self.name, self.labels):
            # A structure set has no grid of its own.
            return read_volume(self.labels, key=self.keys[1], scan=series_folder(self.image))

    def _read_image(self) -> Volume:
        """The image, or the channel of it that was asked for."""
        with _case_named(self.name, self.image):
            try:
                volume = read_volume(self.image, key=self.keys[0])
            except SeveralVolumesError as several:
                # The Decathlon stores channels where NIfTI has time, so either axis is meant.
                if several.which == "key":
                    raise
                self._check_channel(several.count)
                if several.which == "time":
                    return read_volume(self.image, time=self.channel)
                return read_volume(self.image, channel=self.channel)
            self._check_channel(1)
            return volume

    def _check_channel(self, count: int) -> None:
        _check_channel(f"{self.name}: its image", range(count), self.channel, self.channel_names)


@dataclass(frozen=True)
class SliceCase:
    """A case in one `.npz` file for each slice, with the arrays `image` and `label` (y, x), in slice order."""

    name: str
    patient: str
    slices: tuple[Path, ...]

    def read(self) -> tuple[Volume, Volume]:
        """Image and labels, stacked. Raises `DatasetError` where a slice cannot be read or has another size."""
        return self._stack("image"), self._stack("label")

    def read_labels(self) -> Volume:
        """The labels alone. Raises `DatasetError` as `read` does."""
        return self._stack("label")

    def _stack(self, key: str) -> Volume:
        volumes = []
        for path in self.slices:
            with _case_named(self.name, path):
                volumes.append(read_volume(path, key=key))
        planes = [volume.data for volume in volumes]
        for path, plane in zip(self.slices, planes, strict=True):
            if plane.shape != (1, *planes[0].shape[1:]):
                raise DatasetError(
                    f"{self.name}: {key!r} in {path.name} has the shape {plane.shape}, the first slice"
                    f" {planes[0].shape[1:]}; all slices of a case must be of one size."
                )
        data = np.concatenate(planes)
        shape = (data.shape[0], data.shape[1], data.shape[2])
        source = Source(self.slices[0].parent, "Synapse slices", self.name, notes=volumes[0].source.notes)
        return Volume(data, Geometry.default(shape), None, source)


@contextmanager
def _case_named(case: str, path: Path) -> Iterator[None]:
    """Names the case where one of its files cannot be read."""
    try:
        yield
    except DatasetError:
        raise
    except TransUNetError as error:
        # Errors of volumes begin with the file's name, which image and labels may share.
        folder = f"{path.parent.name}/" if isinstance(error, VolumeError) else ""
        raise DatasetError(f"{case}: {folder}{error}") from error


def paired_cases(
    images: Path, labels: Path, patient_of: PatientOf, channel: int | None, channel_names: Mapping[int, str]
) -> tuple[FileCase, ...]:
    """The cases of two folders, in which image and labels bear the same name, whatever their formats.

    Images may end in nnU-Net's channel number, as in `liver_12_0000.nii.gz` with the labels `liver_12.nii.gz`.

    Raises
    ------
    DatasetError
        A folder cannot be listed, an image has no labels or the reverse, two files bear the same name, or several
        channels are there and `channel` does not choose one of them.
    """
    by_stem, targets = _volumes_in(images), _volumes_in(labels)
    by_case = _by_case(by_stem, targets)
    _check_matched(images, labels, by_case, targets)
    inside = all(set(files) == {None} for files in by_case.values())
    if inside:  # whatever channels there are lie within the files
        return tuple(
            FileCase(name, patient_of(name), path, targets[name], channel, channel_names)
            for name, path in sorted((name, files[None]) for name, files in by_case.items())
        )
    numbered = {
        name: {number or 0: path for number, path in files.items()} for name, files in by_case.items()
    }
    there = sorted({number for files in numbered.values() for number in files})
    _check_channel(str(images), there, channel, channel_names)
    channel = there[0] if channel is None else channel
    if lacking := [name for name, files in numbered.items() if channel not in files]:
        raise DatasetError(
            f"{images} lacks channel {channel} of {some(sorted(lacking))}; add it, or take the case out."
        )
    return tuple(
        FileCase(name, patient_of(name), files[channel], targets[name])
        for name, files in sorted(numbered.items())
    )


def synapse_cases(
    root: Path, patient_of: PatientOf
) -> tuple[tuple[FileCase | SliceCase, ...], frozenset[str]]:
    """The cases of TransUNet's published layout, and the patients whom it sets aside for testing.

    `train.txt` and `test_vol.txt`, where there are any, say which of the files belong to it.

    Raises
    ------
    DatasetError
        A folder or list cannot be read, a file that a list names is missing, or a case is in both parts.
    """
    folder = root / "train_npz"
    slices = {path.stem: path for path in _entries(folder) if path.suffix.lower() == ".npz"}
    training = _stacked(_listed(root, "train.txt", slices, folder), folder, patient_of)
    folder = root / "test_vol_h5"
    volumes = {stem_of(path): path for path in _entries(folder) if path.suffix.lower() in (".h5", ".hdf5")}
    testing = [
        FileCase(name, patient_of(name), path, path, keys=("image", "label"))
        for name, path in sorted(_listed(root, "test_vol.txt", volumes, folder).items())
    ]
    both = {case.name for case in training} & {case.name for case in testing}
    if both:
        raise DatasetError(
            f"{root} has {some(sorted(both))} both for training and for testing; take it out of one of"
            " train.txt and test_vol.txt."
        )
    return (*training, *testing), frozenset(case.patient for case in testing)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name; hidden files (as macOS leaves them) aside. Empty where there is none."""
    try:
        if not folder.is_dir():
            return []
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror or error}.") from error


def _volumes_in(folder: Path) -> dict[str, Path]:
    """Name without ending → file, or folder of DICOM files. What is no volume is passed over."""
    found: dict[str, Path] = {}
    for entry in _entries(folder):
        if not is_readable(entry):
            continue
        stem = entry.name if entry.is_dir() else stem_of(entry)
        if stem not in found:
            found[stem] = entry
        elif not _is_pair(found[stem], entry):
            raise DatasetError(
                f"{folder} has both {found[stem].name} and {entry.name}; a case can have one of them only,"
                " remove the other."
            )
    return found


def _is_pair(header: Path, data: Path) -> bool:
    """Whether these are the two files of one NIfTI; the header comes first by name."""
    return ".hdr" in header.name.lower() and data.name.lower() == header.name.lower().replace(".hdr", ".img")


def _by_case(images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, dict[int | None, Path]]:
    """Case → its images by the channel in their names (None where they bear none).

    An ending such as `_0012` may belong to the name of a case or be a channel. The labels tell which: they bear
    the names of the cases.
    """

    def grouped(numbered: Collection[str]) -> dict[str, dict[int | None, Path]]:
        groups: dict[str, dict[int | None, Path]] = {}
        for stem, path in images.items():
            match = _NUMBERED.fullmatch(stem) if stem in numbered else None
            case, number = (match["case"], int(match["channel"])) if match else (stem, None)
            groups.setdefault(case, {})[number] = path
        return groups

    for numbered in (set(), set(images)):
        groups = grouped(numbered)
        if groups.keys() == labels.keys():
            return groups
    return grouped(images.keys() - labels.keys())


def _check_matched(
    images: Path, labels: Path, by_case: Mapping[str, Mapping[int | None, Path]], targets: Mapping[str, Path]
) -> None:
    if not by_case and not targets:
        raise DatasetError(f"{images} and {labels} hold no volumes; put each case's image and labels there.")
    if unlabelled := by_case.keys() - targets.keys():
        raise DatasetError(
            f"{images} has images without labels in {labels.name}: {some(sorted(unlabelled))}; add their labels under"
            " the same name, or move the images elsewhere."
        )
    if alone := targets.keys() - by_case.keys():
        raise DatasetError(
            f"{labels} has labels without an image in {images.name}: {some(sorted(alone))}; add their images under the"
            " same name, or move the labels elsewhere."
        )
    for name, files in by_case.items():
        if None in files and len(files) > 1:
            raise DatasetError(
                f"{images} has images of {name} with and without a channel number; keep one kind of names."
            )


def _check_channel(where: str, there: Iterable[int], channel: int | None, names: Mapping[int, str]) -> None:
    """Raises `DatasetError` unless `channel` is one of those, or there is only one and none was asked for."""
    numbers = list(there)
    if channel in numbers or (channel is None and len(numbers) == 1):
        return
    known = ", ".join(f"{number} ({names[number]})" if number in names else str(number) for number in numbers)
    if channel is None:
        raise DatasetError(f"{where} has the channels {known}; choose one with channel.")
    raise DatasetError(
        f"{where} has no channel {channel}; there {'are' if len(numbers) > 1 else 'is'} {known}."
    )


def _stacked(slices: Mapping[str, Path], folder: Path, patient_of: PatientOf) -> list[SliceCase]:
    """Slices put together to cases, in the order of their numbers."""
    groups: dict[str, dict[int, Path]] = {}
    for stem, path in slices.items():
        match = _SLICE.fullmatch(stem)
        if match is None:
            raise DatasetError(
                f"{path} is no slice of a case; name it as in case0005_slice000.npz, or remove it."
            )
        numbers = groups.setdefault(match["case"], {})
        number = int(match["number"])
        if number in numbers:
            raise DatasetError(
                f"{folder} has both {numbers[number].name} and {path.name}; remove one of them."
            )
        numbers[number] = path
    for name, numbers in groups.items():
        missing = max(numbers) - min(numbers) + 1 - len(numbers)
        if missing:
            _LOG.warning("%s: %d slices are missing between the first and the last", name, missing)
    return [
        SliceCase(name, patient_of(name), tuple(numbers[number] for number in sorted(numbers)))
        for name, numbers in sorted(groups.items())
    ]


def _listed(root: Path, file_name: str, found: Mapping[str, Path], folder: Path) -> Mapping[str, Path]:
    """Of what was found, what a list names; all of it where there is no such list."""
    lists = [root / where / file_name for where in _LIST_FOLDERS]
    path = next((one for one in lists if one.is_file()), None)
    if path is None:
        return found
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_LIST_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as a list of names ({error}).") from error
    names = {
        re.sub(r"(\.npz|\.npy)?(\.h5)?$", "", line.strip()) for line in text.splitlines() if line.strip()
    }
    if missing := names - found.keys():
        raise DatasetError(
            f"{path} names {some(sorted(missing))}, which {folder} lacks; copy it there or take it off the list."
        )
    return {name: path for name, path in found.items() if name in names}
