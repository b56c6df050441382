"""Which patients are trained on, which choose the best weights, and which are scored: split by patient, always."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

import numpy as np

from napari_transunet.errors import DatasetError, some
from napari_transunet.training.dataset_json import read_object

Part = Literal["training", "validation", "test"]


class OfPatient(Protocol):
    """Anything that belongs to a patient: a `LabelledVolume`, or a `Case`."""

    @property
    def patient(self) -> str:
        """Whose it is."""
        ...


_Item = TypeVar("_Item", bound=OfPatient)


@dataclass(frozen=True)
class Split:
    """Patients by what they are used for.

    Attributes
    ----------
    training, validation, test : names of patients, ascending
    how : a sentence for the model card on how they were chosen

    Raises
    ------
    DatasetError
        A patient is named twice, or none is left for training.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    how: str = ""

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in get_args(Part):
            for patient in getattr(self, part):
                if patient in seen:
                    where = (
                        f"twice in {part}" if seen[patient] == part else f"in {seen[patient]} and in {part}"
                    )
                    raise DatasetError(f"The split has the patient {patient!r} {where}; name each once.")
                seen[patient] = part
        if not self.training:
            raise DatasetError("No patient is left for training; set fewer aside, or add labelled cases.")

    @classmethod
    def by_seed(
        cls,
        patients: Iterable[str],
        *,
        validation: float,
        test: float,
        seed: int,
        fixed_test: Iterable[str] = (),
    ) -> Split:
        """Patients drawn at random, the same wherever the same ones are drawn from with the same seed.

        Parameters
        ----------
        patients : all of them, in any order; one named twice counts once
        validation, test : shares of the patients, rounded; together below 1. A share above 0 gets at least one
            patient wherever one is left for training, validation before test.
        seed : of the draw, 0 or more
        fixed_test : patients whom the dataset sets aside. They are the test patients then, whatever `test` says, and
            `validation` is a share of the others.

        Raises
        ------
        DatasetError
            A share or seed that cannot be, a patient in `fixed_test` who does not exist, or nobody to train on.
        """
        shares = (validation, test)
        if not (all(math.isfinite(share) and share >= 0 for share in shares) and sum(shares) < 1):
            raise DatasetError(
                f"The shares for validation and test are {validation:g} and {test:g}; each must be 0 or more, and"
                " both together below 1."
            )
        aside, others = _set_aside(patients, fixed_test)
        shuffled = _shuffled(others, seed)
        spare = max(0, len(shuffled) - 1)
        held = min(_count(validation, len(shuffled)), spare)
        tested = 0 if aside else min(_count(test, len(shuffled)), spare - held)
        return cls._sorted(
            shuffled[held + tested :],
            shuffled[:held],
            aside or shuffled[held : held + tested],
            f"by patient, at random with the seed {seed}" + _aside_in_words(aside),
        )

    @classmethod
    def by_fold(
        cls, patients: Iterable[str], fold: int, folds: int, seed: int, *, fixed_test: Iterable[str] = ()
    ) -> Split:
        """One fold of a cross-validation: patients are shuffled and dealt to `folds` folds, `fold` (from 0) validates.

        `fixed_test` are the test patients, and in no fold.

        Raises
        ------
        DatasetError
            Fewer than two folds, more folds than patients, no such fold, a seed below 0, or a patient in
            `fixed_test` who does not exist.
        """
        aside, others = _set_aside(patients, fixed_test)
        if not 2 <= folds <= len(others):
            raise DatasetError(
                f"{len(others)} patients cannot be dealt to {folds} folds; ask for 2 to {len(others)} folds."
                if len(others) > 1
                else "Cross-validation needs at least two patients; add labelled cases."
            )
        if not 0 <= fold < folds:
            raise DatasetError(f"There is no fold {fold}; of {folds} folds it can be 0 to {folds - 1}.")
        shuffled = _shuffled(others, seed)
        held = shuffled[fold::folds]
        return cls._sorted(
            [patient for patient in shuffled if patient not in set(held)],
            held,
            aside,
            f"by patient, fold {fold} (from 0) of {folds} with the seed {seed}" + _aside_in_words(aside),
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], patients: Iterable[str]) -> Split:
        """The split in a JSON file as `to_json` writes it, for a dataset of these patients.

        Raises
        ------
        DatasetError
            The file cannot be read, lacks one of the three lists, names a patient twice or one that does not exist,
            or leaves one out.
        """
        path = Path(path)
        content = read_object(path)
        parts: dict[str, tuple[str, ...]] = {}
        for part in get_args(Part):
            names = content.get(part)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise DatasetError(
                    f"{path} must hold {part!r} as a list of patients (it may be empty); add it."
                )
            parts[part] = tuple(sorted(names))
        named, known = {name for names in parts.values() for name in names}, set(patients)
        if strangers := named - known:
            raise DatasetError(
                f"{path} names patients whom the dataset does not have: {some(sorted(strangers), 5)}; correct the list."
            )
        if missing := known - named:
            raise DatasetError(
                f"{path} leaves out {some(sorted(missing), 5)}; put every patient of the dataset into one of its lists."
            )
        try:
            return cls._sorted(
                parts["training"], parts["validation"], parts["test"], f"as listed in {path.name}"
            )
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error

    @classmethod
    def _sorted(
        cls, training: Sequence[str], validation: Sequence[str], test: Sequence[str], how: str
    ) -> Split:
        counts = f"{len(training)} for training, {len(validation)} for validation, {len(test)} for testing"
        sentence = f"Split {how}: {counts}."
        return cls(tuple(sorted(training)), tuple(sorted(validation)), tuple(sorted(test)), sentence)

    def to_json(self) -> str:
        """The three lists and how they came about, as `from_file` reads them."""
        parts = {part: list(getattr(self, part)) for part in get_args(Part)}
        return json.dumps({"how": self.how} | parts, indent=2)

    def part(self, items: Iterable[_Item], which: Part) -> list[_Item]:
        """Those of the cases whose patient is in that part, in their order."""
        wanted = set(getattr(self, which))
        return [item for item in items if item.patient in wanted]


def _set_aside(patients: Iterable[str], fixed_test: Iterable[str]) -> tuple[list[str], list[str]]:
    """Test patients of the dataset and all others, each once and in order."""
    known, aside = set(patients), set(fixed_test)
    if strangers := aside - known:
        raise DatasetError(
            f"The dataset has no patients {some(sorted(strangers), 5)}, who are to be tested on; correct the list."
        )
    return sorted(aside), sorted(known - aside)


def _shuffled(patients: Sequence[str], seed: int) -> list[str]:
    if seed < 0:
        raise DatasetError(f"The seed of a split must be 0 or more, not {seed}.")
    return [patients[index] for index in np.random.default_rng(seed).permutation(len(patients))]


def _count(share: float, of: int) -> int:
    """The share of a number, rounded half up; above 0 at least one."""
    return max(1, math.floor(share * of + 0.5)) if share > 0 else 0


def _aside_in_words(aside: Sequence[str]) -> str:
    return "; the test patients are those that the dataset sets aside" if aside else ""
