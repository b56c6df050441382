"""What `dataset.json` says about a dataset: label names, modality, licence. File names in it are never used."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_transunet.errors import DatasetError
from napari_transunet.files import unique_keys
from napari_transunet.training.losses import UNKNOWN

FILE_NAME = "dataset.json"
_MAX_BYTES = 1 << 24
_MAX_NAME, _MAX_TEXT = 200, 500
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_MR = re.compile(r"\bMRI?\b|MRI$|^(T1|T2|FLAIR|ADC|DWI|PD)", re.IGNORECASE)
_CT = re.compile(r"\bCTA?\b", re.IGNORECASE)
_OTHERS = {"PET": "PT", "PT": "PT", "US": "US", "NM": "NM"}


@dataclass(frozen=True)
class Description:
    """What a dataset says about itself.

    Attributes
    ----------
    names : foreground label value → name; empty where nothing names them
    channels : channel number → name
    title, licence, source : in the authors' words, each in one line
    codes : label value → SNOMED CT code, from `snomed`, a field of this project's own
    annotated : case → label values that were annotated in it, from `labelled`, a field of this project's own; cases
        that it does not name are annotated throughout
    unknown : the label value of voxels of which nobody says what they are: nnU-Net's label `ignore`, else 255 unless
        an organ has that value
    """

    names: Mapping[int, str] = field(default_factory=dict)
    channels: Mapping[int, str] = field(default_factory=dict)
    title: str | None = None
    licence: str | None = None
    source: str | None = None
    codes: Mapping[int, str] = field(default_factory=dict)
    annotated: Mapping[str, frozenset[int]] = field(default_factory=dict)
    unknown: int | None = UNKNOWN

    def modality(self, channel: int | None) -> str | None:
        """As DICOM calls it ("CT", "MR"): of that channel, or of all where they agree; None where unknown."""
        wanted = self.channels if channel is None else {channel: self.channels.get(channel, "")}
        found = {_modality(name) for name in wanted.values()}
        return found.pop() if len(found) == 1 else None


def read_description(folder: Path) -> Description:
    """What the `dataset.json` in `folder` says, as the Decathlon or nnU-Net write it; nothing without one.

    Raises
    ------
    DatasetError
        It cannot be read or understood, or it holds regions, which cannot be trained on.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return Description()
    content = read_object(path)
    names, ignored = _names(content.get("labels", {}), path)
    return Description(
        names,
        _channels(content.get("channel_names", content.get("modality", {})), path),
        _text(content, "name", "description"),
        _text(content, "licence", "license"),
        _text(content, "reference", "source"),
        _codes(content.get("snomed", {}), path),
        _annotated(content.get("labelled", {}), names, path),
        ignored if ignored is not None else None if UNKNOWN in names else UNKNOWN,
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    DatasetError
        It cannot be read, is longer than 16 MiB, or is no JSON object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        content = json.loads(text, object_pairs_hook=unique_keys) if len(text) <= _MAX_BYTES else None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON ({error}); correct it.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} must hold one JSON object of at most 16 MiB; correct it.")
    return content


def checked_names(names: Mapping[int, str], origin: str) -> dict[int, str]:
    """Names by value in ascending order, the background (0) left out; `origin` begins the sentence of an error.

    Raises
    ------
    DatasetError
        A value is not from 0 to 65535, a name is empty, or two values bear the same name.
    """
    checked: dict[int, str] = {}
    for value, name in sorted(names.items()):
        if not 0 <= value <= 65535:
            raise DatasetError(f"{origin} names the label value {value}; values are from 0 to 65535.")
        line = _CONTROL.sub(" ", name).strip()[:_MAX_NAME]
        if not line:
            raise DatasetError(f"{origin} gives label {value} an empty name; name it.")
        if value == 0:
            continue
        if line in checked.values():
            twin = next(other for other, known in checked.items() if known == line)
            raise DatasetError(
                f"{origin} calls both {twin} and {value} {line!r}; give each label its own name."
            )
        checked[value] = line
    return checked


def _names(labels: object, path: Path) -> tuple[dict[int, str], int | None]:
    """The field `labels`: {"1": "liver"} in the Decathlon, {"liver": 1} in nnU-Net; and the value of `ignore`."""
    if not isinstance(labels, Mapping):
        raise DatasetError(f'{path}: "labels" must be an object such as {{"1": "liver"}}; correct it.')
    by_value = all(_whole(key) is not None and isinstance(text, str) for key, text in labels.items())
    names: dict[int, str] = {}
    ignored: int | None = None
    for key, entry in labels.items():
        if isinstance(entry, list):
            raise DatasetError(
                f"{path}: the label {key!r} is a region of several values, which cannot be trained on;"
                " give every voxel one value and every value one name."
            )
        value, name = (_whole(key), entry) if by_value else (_whole(entry), key)
        if value is None:
            raise DatasetError(
                f'{path}: "labels" holds {key!r}: {entry!r}, where one of them must be a number.'
            )
        if name.strip().lower() == "ignore" and value != 0:
            ignored = value
            continue
        if value != 0 and name.strip().lower() == "background":
            raise DatasetError(f"{path} calls the label {value} 'background', which is 0; correct it.")
        if value in names:
            raise DatasetError(f"{path} names the label {value} twice, {names[value]!r} and {name!r}.")
        names[value] = name
    if ignored in names:
        raise DatasetError(f"{path} names the label {ignored} twice, {names[ignored]!r} and 'ignore'.")
    return checked_names(names, str(path)), ignored


def _annotated(cases: object, names: Mapping[int, str], path: Path) -> dict[str, frozenset[int]]:
    """The field `labelled`: {"case_0001": ["liver", "spleen"]}, or the label values of these."""
    if not isinstance(cases, Mapping):
        raise DatasetError(f'{path}: "labelled" must be an object such as {{"case": ["liver"]}}; correct it.')
    values = {name: value for value, name in names.items()}
    found: dict[str, frozenset[int]] = {}
    for case, organs in cases.items():
        listed = organs if isinstance(organs, list) else [organs]
        known = [
            values.get(organ, _whole(organ)) if isinstance(organ, str) else _whole(organ) for organ in listed
        ]
        for organ, value in zip(listed, known, strict=True):
            if value is None or (names and value not in names):
                raise DatasetError(
                    f'{path}: "labelled" lists {organ!r} for {case}, which is none of its labels; correct it.'
                )
        found[case] = frozenset(value for value in known if value is not None)
    return found


def _codes(codes: object, path: Path) -> dict[int, str]:
    """The field `snomed`: {"1": "10200004"}."""
    if not isinstance(codes, Mapping):
        raise DatasetError(f'{path}: "snomed" must be an object such as {{"1": "10200004"}}; correct it.')
    found: dict[int, str] = {}
    for key, code in codes.items():
        value = _whole(key)
        if value is None or not re.fullmatch(r"[0-9]{6,18}", str(code)):
            raise DatasetError(f'{path}: "snomed" holds {key!r}: {code!r}, not a label value and a code.')
        found[value] = str(code)
    return found


def _channels(channels: object, path: Path) -> dict[int, str]:
    """The field `channel_names` or `modality`: {"0": "CT"}, a list, or one name."""
    if isinstance(channels, str):
        channels = [channels]
    if isinstance(channels, list):
        channels = {str(number): name for number, name in enumerate(channels)}
    if not isinstance(channels, Mapping):
        raise DatasetError(f'{path}: the modality must be an object such as {{"0": "CT"}}; correct it.')
    found: dict[int, str] = {}
    for key, name in channels.items():
        number = _whole(key)
        if number is None or not isinstance(name, str):
            raise DatasetError(f"{path}: the modality holds {key!r}: {name!r}, not a number and a name.")
        found[number] = _CONTROL.sub(" ", name).strip()[:_MAX_NAME]
    return dict(sorted(found.items()))


def _whole(value: object) -> int | None:
    """A whole number, or its text, as an int; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return int(value) if re.fullmatch(r"\s*-?[0-9]{1,9}\s*", str(value)) else None


def _modality(name: str) -> str | None:
    if name.strip().upper() in _OTHERS:
        return _OTHERS[name.strip().upper()]
    if _CT.search(name):
        return "CT"
    return "MR" if _MR.search(name) else None


def _text(content: Mapping[str, Any], *keys: str) -> str | None:
    """The first of these fields that holds text, in one line."""
    for key in keys:
        text = content.get(key)
        if isinstance(text, str) and (line := _CONTROL.sub(" ", text).strip()):
            return line[:_MAX_TEXT]
    return None
