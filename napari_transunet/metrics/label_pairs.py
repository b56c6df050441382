"""Which label of a prediction is compared with which of a reference: as a person says, by name, or by number."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_transunet.errors import InputError, some
from napari_transunet.volumes.label_values import UNKNOWN
from napari_transunet.volumes.labels import given_names, organ_key

MatchedBy = Literal["map", "name", "number"]

_SHOWN = 12


@dataclass(frozen=True)
class LabelPair:
    """Labels that are scored as one organ.

    Attributes
    ----------
    label : what the scores are filed under: the reference's value. A label that the reference lacks has the
        prediction's, or that with a minus where another organ of the reference has it.
    prediction : the values of the prediction that count as this organ, as a rule one; none where it lacks the organ
    reference : the value of the reference; None where it lacks the organ
    by : how they were matched; None where one side lacks the organ
    name, reference_name : as the two files call them, where they do
    occurs : whether any of these values occurs, and so is scored unasked
    """

    label: int
    prediction: tuple[int, ...]
    reference: int | None
    by: MatchedBy | None = None
    name: str | None = None
    reference_name: str | None = None
    occurs: bool = True

    def __str__(self) -> str:
        own = "+".join(map(str, self.prediction)) or "nothing"
        other = "nothing" if self.reference is None else str(self.reference)
        first = f"{self.name} ({own})" if self.name else own
        second = f"{self.reference_name} ({other})" if self.reference_name else other
        return f"{first} with {second}"


@dataclass(frozen=True)
class LabelPairs:
    """All organs to compare, in the order of `LabelPair.label`, and what a person should know about that."""

    pairs: tuple[LabelPair, ...]
    notes: tuple[str, ...] = ()


def parse_match(text: str) -> dict[int | str, int | str]:
    """``5=1,liver=Leber`` as what the prediction calls it -> what the reference calls it.

    Raises
    ------
    InputError
        It is no such list, or says two things of one label of the prediction.
    """
    found: dict[int | str, int | str] = {}
    for entry in text.split(","):
        own, equals, other = (part.strip() for part in entry.partition("="))
        if not (own and equals and other) or "=" in other:
            raise InputError(
                f"--match takes pairs PREDICTION=REFERENCE of values or names, such as 5=1,liver=Leber; not {entry!r}."
            )
        if _token(own) in found:
            raise InputError(f"--match says twice what {own} of the prediction is; say it once.")
        found[_token(own)] = _token(other)
    return found


def pair_labels(
    values: Iterable[int],
    reference_values: Iterable[int],
    names: Mapping[int, str] | None = None,
    reference_names: Mapping[int, str] | None = None,
    match: Mapping[int | str, int | str] | None = None,
) -> LabelPairs:
    """Pair the labels of a prediction with those of a reference.

    What `match` says goes first. Then organs of one name are one, however it is spelled. What is left is paired by
    number, unless both sides name it and so differently.

    Parameters
    ----------
    values, reference_values : that occur in the two, without 0
    names, reference_names : those that the two files give their values; also of values that do not occur
    match : value or name in the prediction -> value or name in the reference. Several of the prediction may be one of
        the reference: a left and a right kidney are "kidney" together.

    Raises
    ------
    InputError
        `match` has a name that the side does not have.
    """
    own, other = _Side("prediction", values, names), _Side("reference", reference_values, reference_names)
    matched: dict[int, tuple[list[int], MatchedBy | None]] = {}
    notes = []
    for first, second in (match or {}).items():
        value, target = own.find(first), other.find(second)
        matched.setdefault(target, ([], "map"))[0].append(value)
        notes += [
            f"Note: the {side.what} neither holds nor names the label {one} of --match."
            for side, one in ((own, value), (other, target))
            if one not in side.known
        ]
    left = own.known - {value for some, _ in matched.values() for value in some}
    free = other.known - matched.keys()
    for spelling in (str, organ_key):  # one name goes before other names of the same organ
        theirs = other.by_key(free, spelling)
        for key, value in own.by_key(left, spelling).items():
            if key in theirs:
                matched[theirs[key]] = ([value], "name")
        left -= {value for some, _ in matched.values() for value in some}
        free -= matched.keys()
    by_number = {value for value in left & free if not (value in own.names and value in other.names)}
    matched |= {value: ([value], "number") for value in by_number}
    alone, taken = sorted(left - by_number), other.known | matched.keys()
    lone: dict[int, tuple[list[int], MatchedBy | None]] = {target: ([], None) for target in free - by_number}
    pairs = [
        LabelPair(
            target,
            tuple(some),
            target,
            by,
            " + ".join(own.names[value] for value in some if value in own.names) or None,
            other.names.get(target),
            not own.present.isdisjoint(some) or target in other.present,
        )
        for target, (some, by) in (matched | lone).items()
    ]
    pairs += [
        LabelPair(
            -value if value in taken else value,
            (value,),
            None,
            name=own.names.get(value),
            occurs=value in own.present,
        )
        for value in alone
    ]
    pairs.sort(key=lambda pair: (pair.label < 0, abs(pair.label)))
    return LabelPairs(tuple(pairs), (*notes, *_notes(own, other, pairs)))


def unknown_voxels(
    reference: NDArray[Any], names: Mapping[int, str], value: int | None = UNKNOWN, *, said: bool = False
) -> NDArray[np.bool_] | None:
    """Where nobody says what is there, by the reference (z, y, x); None where that is nowhere.

    `value` stands for it, unless an organ has that value: one that is named, or, where nobody `said` so, the only one
    there is, as in masks of 0 and 255.
    """
    if value is None or value in names or not (hidden := reference == value).any():
        return None
    return hidden if said or ((reference != 0) & ~hidden).any() else None


class _Side:
    """The labels of one of the two files."""

    def __init__(self, what: str, values: Iterable[int], names: Mapping[int, str] | None) -> None:
        self.what = what
        self.present = {int(value) for value in values} - {0}
        self.names = {value: name for value, name in given_names(names or {}).items() if value}
        self.known = self.present | self.names.keys()

    def find(self, token: int | str) -> int:
        if isinstance(token, int):
            return token
        for key in (str, organ_key):
            found = [value for value, name in self.names.items() if key(name) == key(token)]
            if len(found) == 1:
                return found[0]
        has = f"it names {some(self.names.values(), _SHOWN)}" if self.names else "it names none"
        raise InputError(
            f"The {self.what} has no organ {token!r} to match ({has}); give its name there, or its value."
        )

    def by_key(self, values: set[int], key: Callable[[str], str]) -> dict[str, int]:
        """These values by the keys of their names; names that several share say nothing."""
        found: dict[str, list[int]] = {}
        for value in sorted(values & self.names.keys()):
            found.setdefault(key(self.names[value]), []).append(value)
        return {key: some[0] for key, some in found.items() if len(some) == 1}


def _notes(own: _Side, other: _Side, pairs: Sequence[LabelPair]) -> list[str]:
    notes = []
    unnamed = [side for side in (own, other) if not side.names]
    by_number = [pair for pair in pairs if pair.by == "number"]
    if len(unnamed) == 1 and by_number:
        notes.append(
            f"Note: the {unnamed[0].what} names no organs, so these were compared by number, which may be wrong:"
            f" {some(by_number, _SHOWN)}; --match says which belong together."
        )
    for side, partner in ((own, other), (other, own)):
        lone = [
            f"{side.names[value]} ({value})"
            for pair in pairs
            if pair.by is None and pair.occurs
            for value in (pair.prediction if side is own else _of(pair.reference))
            if value in side.names
        ]
        if lone and partner.names:
            notes.append(
                f"Note: the {partner.what} has no organs of these names of the {side.what}, which count as not agreeing"
                f" at all: {some(lone, _SHOWN)}; --match says which belong together, --labels leaves organs out."
            )
    return notes


def _of(value: int | None) -> tuple[int, ...]:
    return () if value is None else (value,)


def _token(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else text
