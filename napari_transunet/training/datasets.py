"""Labelled datasets: volumes with labels, in the folder layouts that public datasets use."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from napari_transunet.errors import DatasetError, VolumeError
from napari_transunet.training.dataset_json import FILE_NAME, Description, checked_names, read_description
from napari_transunet.training.dataset_layouts import PatientOf, paired_cases, synapse_cases
from napari_transunet.volumes.label_values import as_labels, values_in
from napari_transunet.volumes.volume import Volume

Layout = Literal["folder", "decathlon", "synapse"]
_SHOWN_CASES = 20
_FOLDERS: Mapping[Layout, tuple[str, str]] = {
    "decathlon": ("imagesTr", "labelsTr"),
    "folder": ("images", "labels"),
}


class LabelledVolume(Protocol):
    """One case of a dataset."""

    @property
    def name(self) -> str:
        """Unique within the dataset; shown to people."""
        ...

    @property
    def patient(self) -> str:
        """Volumes of one patient bear the same; a split never separates them."""
        ...

    def read(self) -> tuple[Volume, Volume]:
        """Image and labels. Raises `DatasetError` where they cannot be read."""
        ...

    def read_labels(self) -> Volume:
        """The labels alone. Raises `DatasetError` where they cannot be read."""
        ...


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset. Nothing but names was read of its volumes.

    Attributes
    ----------
    path : its folder
    layout : "folder" (`images`, `labels`), "decathlon" (`imagesTr`, `labelsTr`; nnU-Net too) or "synapse"
        (`train_npz`, `test_vol_h5`)
    cases : by name; in Synapse's layout those for testing come last
    names : foreground label value → name; empty where nothing names them
    modality : as DICOM calls it ("CT", "MR"); None where nothing tells it
    scaled : whether the values were scaled to 0..1 already, as in Synapse's layout
    test : patients whom the dataset itself sets aside for testing
    about : what `dataset.json` says, in the authors' words
    """

    path: Path
    layout: Layout
    cases: tuple[LabelledVolume, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    modality: str | None = None
    scaled: bool = False
    test: frozenset[str] = frozenset()
    about: Description = field(default_factory=Description)

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient once, in alphabetical order."""
        return tuple(sorted({case.patient for case in self.cases}))


def open_dataset(
    path: str | os.PathLike[str],
    *,
    channel: int | None = None,
    patient_pattern: str | None = None,
    names: Mapping[int, str] | None = None,
) -> Dataset:
    """The dataset in a folder; its layout is recognised by the folders in it.

    Parameters
    ----------
    path : the folder that holds `images` and `labels`, `imagesTr` and `labelsTr`, or `train_npz`
    channel : which channel of images with several, from 0: a fourth axis, or files such as `case_0001.nii.gz`
    patient_pattern : a regular expression that finds the patient in the name of a case: its first group, or where it
        has none, all that it matches. Without it every case is a patient of its own.
    names : label value → name, in place of those in `dataset.json`

    Raises
    ------
    DatasetError
        There is no such folder or no known layout in it, images and labels do not match, `dataset.json` is bad, or
        one of the other arguments does not fit.
    """
    root = Path(path)
    layout = _layout(root)
    about = read_description(root)
    named = about.names if names is None else checked_names(names, "The list of names")
    patient_of = _patient_rule(patient_pattern)
    cases: tuple[LabelledVolume, ...]
    test: frozenset[str] = frozenset()
    if layout == "synapse":
        if channel:
            raise DatasetError(
                f"{root} has a single channel, so there is no channel {channel}; leave it out."
            )
        cases, test = synapse_cases(root, patient_of)
    else:
        images, labels = (root / name for name in _FOLDERS[layout])
        cases = paired_cases(images, labels, patient_of, channel, about.channels)
    if not cases:
        raise DatasetError(f"{root} holds no cases; put volumes into its folders.")
    if strangers := sorted(set(about.annotated) - {case.name for case in cases}):
        raise DatasetError(
            f'The field "labelled" of {root / FILE_NAME} names {strangers[0]!r},'
            " which is none of its cases; correct it."
        )
    return Dataset(root, layout, cases, named, about.modality(channel), layout == "synapse", test, about)


def label_values(dataset: Dataset) -> dict[int, int]:
    """Label value → number of cases that hold it, ascending, without background (0) and unknown. Reads all labels.

    Raises
    ------
    DatasetError
        Labels cannot be read, or are no whole numbers from 0 to 65535.
    """
    counts: Counter[int] = Counter()
    bad: list[str] = []
    for case in dataset.cases:
        try:
            counts.update(values_in(whole_labels(case.read_labels().data, case.name)))
        except DatasetError as error:
            bad.append(str(error))
    if bad:
        raise DatasetError(all_reasons(bad, len(dataset.cases)))
    return {value: counts[value] for value in sorted(counts) if value != dataset.about.unknown}


def whole_labels(labels: npt.NDArray[Any], case: str) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Labels of any real type, (z, y, x), as uint8 or uint16; `case` is named in errors.

    Raises
    ------
    DatasetError
        A value is not a whole number from 0 to 65535.
    """
    try:
        return as_labels(labels)
    except VolumeError as error:
        raise DatasetError(f"{case}: {error}") from error


def _layout(root: Path) -> Layout:
    """Which layout the folders in `root` are."""
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder; give the folder that holds the dataset.")
    if (root / "train_npz").is_dir() or (root / "test_vol_h5").is_dir():
        return "synapse"
    for layout, parts in _FOLDERS.items():
        there = [name for name in parts if (root / name).is_dir()]
        if len(there) == 2:
            return layout
        if there:
            (missing,) = set(parts) - set(there)
            raise DatasetError(f"{root} has the folder {there[0]} but no folder {missing}; put it beside.")
    raise DatasetError(
        f"{root} has none of the known layouts; it must hold the folders images and labels, imagesTr and labelsTr,"
        " or train_npz."
    )


def _patient_rule(pattern: str | None) -> PatientOf:
    """What finds the patient in the name of a case."""
    if pattern is None:
        return lambda case: case
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(
            f"The pattern for patients {pattern!r} is no regular expression ({error}); correct it."
        ) from error

    def patient_of(case: str) -> str:
        match = expression.search(case)
        patient = match[1 if expression.groups else 0] if match else None
        if not patient:
            raise DatasetError(
                f"The pattern for patients {pattern!r} finds none in the case {case!r}; write one that fits all"
                " names."
            )
        return patient

    return patient_of


def all_reasons(bad: Sequence[str], count: int) -> str:
    """One sentence for all cases that cannot be used; each reason begins with the case's name."""
    if count == 1:
        return bad[0]
    reasons = "; ".join(reason.rstrip(".") for reason in bad[:_SHOWN_CASES])
    more = f"; and {len(bad) - _SHOWN_CASES} more" if len(bad) > _SHOWN_CASES else ""
    return f"{len(bad)} of {count} cases cannot be used: {reasons}{more}."
