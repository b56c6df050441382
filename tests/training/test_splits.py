import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.errors import DatasetError
from napari_transunet.training.splits import Split

TEN = tuple(f"p{number}" for number in range(10))
names = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=30, unique=True)


@dataclass(frozen=True)
class Scan:
    name: str
    patient: str


def everyone(split: Split) -> list[str]:
    return [*split.training, *split.validation, *split.test]


@given(
    names,
    st.floats(0, 0.49),
    st.floats(0, 0.49),
    st.integers(0, 1000),
    st.lists(st.integers(0, 29), max_size=60),
)
def test_a_patient_is_never_on_two_sides(
    patients: list[str], validation: float, test: float, seed: int, owners: list[int]
) -> None:
    scans = [Scan(str(number), patients[owner % len(patients)]) for number, owner in enumerate(owners)] + [
        Scan("own " + patient, patient) for patient in patients
    ]
    split = Split.by_seed((scan.patient for scan in scans), validation=validation, test=test, seed=seed)
    assert sorted(everyone(split)) == sorted(patients)
    parts = [split.part(scans, part) for part in ("training", "validation", "test")]
    assert sum(map(len, parts)) == len(scans)
    sides = [{scan.patient for scan in part} for part in parts]
    assert all(not one & other for one, other in itertools.combinations(sides, 2))
    assert split.training
    assert bool(split.validation) == (validation > 0 and len(patients) >= 2)
    assert bool(split.test) <= (test > 0)


@given(names.filter(lambda patients: len(patients) >= 2), st.integers(0, 99), st.data())
def test_folds_validate_every_patient_once(patients: list[str], seed: int, data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, len(patients)))
    splits = [Split.by_fold(patients, fold, folds, seed) for fold in range(folds)]
    assert sorted(patient for split in splits for patient in split.validation) == sorted(patients)
    assert all(sorted(everyone(split)) == sorted(patients) for split in splits)
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1


def test_shares_are_kept() -> None:
    split = Split.by_seed(TEN, validation=0.2, test=0.3, seed=1)
    assert [len(split.training), len(split.validation), len(split.test)] == [5, 2, 3]
    assert split.how == (
        "Split by patient, at random with the seed 1: 5 for training, 2 for validation, 3 for testing."
    )


def test_the_draw_is_the_same_everywhere() -> None:
    split = Split.by_seed(TEN, validation=0.2, test=0.2, seed=7)
    # Written down once: another numpy, machine or order of listing must give it too.
    assert (split.validation, split.test) == (("p0", "p8"), ("p1", "p7"))
    assert Split.by_seed(reversed(TEN + TEN), validation=0.2, test=0.2, seed=7) == split
    assert Split.by_seed(TEN, validation=0.2, test=0.2, seed=8) != split


def test_few_patients_train_first_then_validate() -> None:
    sizes = []
    for count in (1, 2, 3):
        split = Split.by_seed(TEN[:count], validation=0.1, test=0.1, seed=0)
        sizes.append((len(split.training), len(split.validation), len(split.test)))
    assert sizes == [(1, 0, 0), (1, 1, 0), (1, 1, 1)]


def test_patients_that_the_dataset_tests_on_stay_there() -> None:
    split = Split.by_seed(TEN, validation=0.25, test=0.5, seed=0, fixed_test=["p3", "p4"])
    assert split.test == ("p3", "p4")
    assert len(split.validation) == 2
    assert "sets aside" in split.how
    for fold in range(4):
        split = Split.by_fold(TEN, fold, 4, 0, fixed_test=["p3", "p4"])
        assert split.test == ("p3", "p4")
        assert len(split.validation) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation": 0.5, "test": 0.5}, "shares for validation and test are 0.5 and 0.5"),
        ({"validation": -0.1}, "must be 0 or more"),
        ({"validation": float("nan")}, "must be 0 or more"),
        ({"seed": -1}, "0 or more, not -1"),
        ({"fixed_test": ["nobody"]}, "no patients nobody"),
        ({"fixed_test": TEN}, "No patient is left for training"),
    ],
)
def test_draws_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        Split.by_seed(TEN, **({"validation": 0.1, "test": 0.1, "seed": 0} | options))


@pytest.mark.parametrize(
    ("patients", "fold", "folds", "sentence"),
    [
        (TEN, 0, 11, "ask for 2 to 10 folds"),
        (TEN, 0, 1, "ask for 2 to 10 folds"),
        (TEN[:1], 0, 2, "at least two patients"),
        (TEN, 5, 5, "no fold 5; of 5 folds it can be 0 to 4"),
    ],
)
def test_folds_that_cannot_be(patients: tuple[str, ...], fold: int, folds: int, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        Split.by_fold(patients, fold, folds, 0)


def test_a_split_is_read_back(tmp_path: Path) -> None:
    split = Split.by_seed((*TEN, "Ä\udc80"), validation=0.2, test=0.2, seed=0)
    file = tmp_path / "split.json"
    file.write_text(split.to_json())
    again = Split.from_file(file, (*TEN, "Ä\udc80"))
    assert (again.training, again.validation, again.test) == (split.training, split.validation, split.test)
    assert again.how == ("Split as listed in split.json: 7 for training, 2 for validation, 2 for testing.")


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"training": ["a", "x"], "validation": ["b"], "test": []}, "does not have: x"),
        ({"training": ["a"], "validation": [], "test": []}, "leaves out b"),
        ({"training": ["a", "b"], "validation": ["b"], "test": []}, "'b' in training and in validation"),
        ({"training": ["a", "a"], "validation": ["b"], "test": []}, "'a' twice in training"),
        ({"training": [], "validation": ["a", "b"], "test": []}, "No patient is left"),
        ({"training": ["a"], "validation": ["b"]}, "'test' as a list"),
        ({"training": ["a", 3], "validation": ["b"], "test": []}, "'training' as a list"),
        (["a", "b"], "one JSON object"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, lists: Any, sentence: str) -> None:
    file = tmp_path / "split.json"
    file.write_text(json.dumps(lists))
    with pytest.raises(DatasetError, match=f"(?s)split.json.*{sentence}"):
        Split.from_file(file, ["a", "b"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        Split.from_file(tmp_path / "none.json", ["a"])
    broken = tmp_path / "broken.json"
    broken.write_text("{" * 100_000)
    with pytest.raises(DatasetError, match="not valid JSON"):
        Split.from_file(broken, ["a"])
