"""Which label file of one folder belongs to which of another, by their names."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_transunet.errors import InputError, some

_DECORATIONS = ("_0000", " labels", "_labels", "_label", "_seg")
"""What a stem may end in beside the case's name: nnU-Net's channel, and what marks a file as labels."""

_SECOND_FILES = (".img", ".img.gz", ".npz")
"""Endings that yield to another file of the same stem: voxels whose header is a .hdr, and nnU-Net's probabilities."""

DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_SHOWN = 10  # names in a message


@dataclass(frozen=True)
class Pair:
    """A prediction and its reference; the case is called as the reference's file, without its ending."""

    case: str
    prediction: Path
    reference: Path


@dataclass(frozen=True)
class Pairing:
    """The pairs in the order of their names, and the files that have no partner."""

    pairs: tuple[Pair, ...]
    predictions_alone: tuple[Path, ...]
    references_alone: tuple[Path, ...]

    @property
    def sentence_on_unmatched(self) -> str:
        """Which files have no partner; empty where all have one."""
        parts = []
        if self.predictions_alone:
            parts.append(f"predictions without a reference: {_listed(self.predictions_alone)}")
        if self.references_alone:
            parts.append(f"references without a prediction: {_listed(self.references_alone)}")
        return "; ".join(parts)


def label_files(folder: Path) -> list[Path]:
    """The files in `folder` (not below it) that may hold labels, by name.

    Hidden files, what is no volume (JSON files beside labels, tables, logs), and DICOM files are left out: the files
    of a DICOM series are one volume, not a case each.
    """
    from napari_transunet.io.dicom.reading import is_dicom
    from napari_transunet.io.reading import READABLE_SUFFIXES, is_readable

    def may_hold_labels(path: Path) -> bool:
        lower = path.name.lower()
        if lower.startswith(".") or lower.endswith(DICOM_ENDINGS) or not path.is_file():
            return False
        return lower.endswith(READABLE_SUFFIXES) or (is_readable(path) and not is_dicom(path))

    return [path for path in sorted(folder.iterdir()) if may_hold_labels(path)]


def paired(predictions: Iterable[Path], references: Iterable[Path]) -> Pairing:
    """Predictions and references of one stem; where that finds none, of one stem but for what marks labels.

    So ``case_0000.nii.gz`` or ``case labels.nrrd`` belongs to ``case.nii.gz``, unless one with its own stem is there.

    Raises
    ------
    InputError
        Two files of a folder have one stem, or two without a partner of their own would share one.
    """
    first, second = _by_stem(predictions), _by_stem(references)
    pairs = [(stem, first.pop(stem), second.pop(stem)) for stem in sorted(first.keys() & second.keys())]
    alone, others = _by_plain_name(first), _by_plain_name(second)
    for name in sorted(alone.keys() & others.keys()):
        for files in (alone[name], others[name]):
            if len(files) > 1:
                raise InputError(
                    f"{_listed(files)} in {files[0].parent} may all be the case {name!r}; rename or remove some."
                )
        (prediction,), (reference,) = alone.pop(name), others.pop(name)
        pairs.append((_stem(reference), prediction, reference))
    return Pairing(
        tuple(Pair(*pair) for pair in sorted(pairs)),
        tuple(sorted(path for files in alone.values() for path in files)),
        tuple(sorted(path for files in others.values() for path in files)),
    )


def plain_name(stem: str) -> str:
    """The stem without what marks it as labels: ``case_0000 labels`` gives ``case``.

    Letters are spelled in one way: macOS takes an umlaut apart, others do not.
    """
    stem = unicodedata.normalize("NFC", stem)
    for ending in _DECORATIONS:
        if stem.lower().endswith(ending) and len(stem) > len(ending):
            return plain_name(stem[: -len(ending)])
    return stem


def _stem(path: Path) -> str:
    from napari_transunet.io.sidecar import clean, stem_of

    return unicodedata.normalize("NFC", clean(stem_of(path)))


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(_stem(path), []).append(path)
    chosen = {}
    for stem, files in found.items():
        main = [path for path in files if not path.name.lower().endswith(_SECOND_FILES)] or files
        if len(main) > 1:
            raise InputError(
                f"{_listed(main)} in {main[0].parent} have one name but for the ending; keep one of them."
            )
        chosen[stem] = main[0]
    return chosen


def _by_plain_name(files: Mapping[str, Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for stem, path in files.items():
        found.setdefault(plain_name(stem), []).append(path)
    return found


def _listed(paths: Sequence[Path]) -> str:
    return some([path.name for path in paths], _SHOWN)
