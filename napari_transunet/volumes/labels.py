"""Names and colours of label values. The same organ has the same colour everywhere, however it is spelled."""

from __future__ import annotations

import colorsys
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from napari_transunet.errors import VolumeError
from napari_transunet.volumes.label_values import whole_number

Color = tuple[float, float, float]

# Chosen for this package: warm reds and browns for solid organs, arteries red, veins blue, hollow organs in
# greens and yellows, bone ivory; left and right of a pair differ in lightness, neighbours in hue.
_ORGANS: Mapping[str, str] = MappingProxyType(
    {
        "liver": "#a8442f",
        "spleen": "#8e4b9c",
        "kidney": "#d98a3d",
        "kidney left": "#e8b04a",
        "kidney right": "#c9702b",
        "gallbladder": "#4fae4a",
        "stomach": "#e58fa6",
        "pancreas": "#b9a7f2",
        "aorta": "#e23b3b",
        "inferior vena cava": "#3f6fd1",
        "superior vena cava": "#5d8be0",
        "portal vein and splenic vein": "#5bb7d9",
        "portal vein": "#5bb7d9",
        "adrenal gland": "#5fd0b5",
        "adrenal gland left": "#74e0c6",
        "adrenal gland right": "#3fae95",
        "esophagus": "#b98a6a",
        "trachea": "#a7d8f0",
        "duodenum": "#9cc25a",
        "small bowel": "#c8b560",
        "colon": "#8f9d3f",
        "rectum": "#6f7f2f",
        "urinary bladder": "#f5e663",
        "prostate": "#c77dba",
        "uterus": "#d46a92",
        "heart": "#c02f4e",
        "atrial appendage left": "#e0708a",
        "heart ventricle left": "#d2344f",
        "heart ventricle right": "#4a61b8",
        "heart atrium left": "#e56a6a",
        "heart atrium right": "#6f86cf",
        "heart myocardium": "#9e2036",
        "pulmonary artery": "#3558a8",
        "pulmonary vein": "#d9646b",
        "lung": "#86b9c7",
        "lung left": "#9ccbd6",
        "lung right": "#6ea6b8",
        "lung upper lobe left": "#a9d4dd",
        "lung lower lobe left": "#84bccb",
        "lung upper lobe right": "#6fa8bd",
        "lung middle lobe right": "#5a93ad",
        "lung lower lobe right": "#467d9b",
        "brain": "#e3c7b0",
        "spinal cord": "#f0e2a0",
        "thyroid gland": "#b0567b",
        "bone": "#ece2c6",
        "vertebrae": "#e6d9b3",
        "rib": "#f3ead2",
        "sternum": "#d9cba0",
        "sacrum": "#dccb98",
        "hip left": "#e9dcb8",
        "hip right": "#cfbf90",
        "femur left": "#f0e4c2",
        "femur right": "#d6c69a",
        "muscle": "#9c5a50",
        "autochthon left": "#b0695d",
        "autochthon right": "#8a4b42",
        "iliopsoas left": "#b87a6c",
        "iliopsoas right": "#96594d",
        "fat": "#f4dc9a",
        "skin": "#e8b796",
        "hippocampus": "#e0a030",
        "hippocampus anterior": "#e0a030",
        "hippocampus posterior": "#3d8fc4",
        "tumor": "#7ddc3c",
        "lesion": "#7ddc3c",
        "cyst": "#39c5d4",
    }
)
_SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "oesophagus": "esophagus",
        "tumour": "tumor",
        "bladder": "urinary bladder",
        "postcava": "inferior vena cava",
        "ivc": "inferior vena cava",
        "gall": "gallbladder",
        "kidneys": "kidney",
        "lungs": "lung",
        "adrenal": "adrenal gland",
        "adrenal left": "adrenal gland left",
        "adrenal right": "adrenal gland right",
        "anterior": "hippocampus anterior",
        "posterior": "hippocampus posterior",
        "anterior hippocampus": "hippocampus anterior",
        "portal and splenic vein": "portal vein and splenic vein",
        "veins": "portal vein and splenic vein",
    }
)


_SIDES: Mapping[str, str] = MappingProxyType({"l": "left", "lt": "left", "r": "right", "rt": "right"})


def organ_words(name: str) -> list[str]:
    """The words of an organ's name, free of their spelling: "Kidney_L" -> ["kidney", "left"]."""
    words = re.findall(r"[^\W_]+", name.casefold().replace("gall bladder", "gallbladder"))
    return [_SIDES.get(word, word) for word in words]


def parted(name: str) -> tuple[str, str]:
    """An organ's words without its side, and the side, "left", "right" or "": "Kidney_L" gives ("kidney", "left")."""
    words = organ_words(name)
    side = next((word for word in words if word in ("left", "right")), "")
    return " ".join(word for word in words if word != side), side


def _spelling_key(name: str) -> str:
    return " ".join(sorted(organ_words(name)))


_CANONICAL: Mapping[str, str] = MappingProxyType(
    {_spelling_key(synonym): _spelling_key(name) for synonym, name in _SYNONYMS.items()}
)


def organ_key(name: str) -> str:
    """The same for every name of an organ: "Left-Kidney" and "Kidney L", "Oesophagus" and "esophagus"."""
    key = _spelling_key(name)
    return _CANONICAL.get(key, key)


_COLORS: Mapping[str, str] = MappingProxyType({organ_key(name): color for name, color in _ORGANS.items()})


def given_names(names: Mapping[int, str]) -> dict[int, str]:
    """The names by value without those that `LabelSet.completed` makes up, which end in files too: "label 3" of 3."""
    return {value: name for value, name in names.items() if name != _made_up(value)}


def _made_up(value: int) -> str:
    return f"label {value}"


def default_color(value: int) -> Color:
    """A clear colour for a value without a known name: hues a golden angle apart, the same every time."""
    red, green, blue = colorsys.hsv_to_rgb(
        (0.33 + value * 0.6180339887498949) % 1.0,
        (0.75, 0.55, 0.9)[value % 3],
        (0.95, 0.85, 0.7)[value // 3 % 3],
    )
    return (red, green, blue)


def color_for(name: str, value: int) -> Color:
    """The fixed colour of a known organ, else the default colour of the value; RGB in 0..1."""
    known = _COLORS.get(organ_key(name))
    if known is None:
        return default_color(value)
    return (int(known[1:3], 16) / 255, int(known[3:5], 16) / 255, int(known[5:7], 16) / 255)


@dataclass(frozen=True)
class Label:
    """One label value: its name, its RGB colour in 0..1 and, where known, its SNOMED CT code.

    Raises
    ------
    VolumeError
        The value is not between 1 and 65535, the name is empty, or the colour is no RGB triple in 0..1.
    """

    value: int
    name: str
    color: Color
    snomed: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= int(self.value) <= 65535 or int(self.value) != self.value:
            raise VolumeError(f"A label value must be a whole number from 1 to 65535, not {self.value}.")
        if not self.name or not self.name.strip():
            raise VolumeError(f"Label {self.value} needs a name.")
        color = tuple(float(part) for part in self.color)
        if len(color) != 3 or not all(0.0 <= part <= 1.0 for part in color):
            raise VolumeError(
                f"The colour of label {self.name!r} must be three numbers from 0 to 1, not {color}."
            )
        object.__setattr__(self, "value", int(self.value))
        object.__setattr__(self, "color", color)

    @property
    def hex(self) -> str:
        """The colour as ``#rrggbb``."""
        return "#" + "".join(f"{round(part * 255):02x}" for part in self.color)


def _value(key: object) -> int:
    """A label value, also from the text that JSON has in its place."""
    is_text = isinstance(key, str) and key.strip().isdecimal()
    return whole_number(int(str(key)) if is_text else key, "A label value")


@dataclass(frozen=True)
class LabelSet:
    """Labels in ascending order of value; background (0) is not among them. Iterates over `Label`.

    Raises
    ------
    VolumeError
        Two labels have the same value.
    """

    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.labels, key=lambda label: label.value))
        for before, after in itertools.pairwise(ordered):
            if before.value == after.value:
                raise VolumeError(
                    f"Label value {after.value} is named twice, {before.name!r} and {after.name!r};"
                    " each value can have one name only."
                )
        object.__setattr__(self, "labels", ordered)

    @classmethod
    def from_names(cls, names: Mapping[int, str]) -> LabelSet:
        """Labels with the fixed colours of their organs; an entry for background (0) is left out.

        Values may be texts, as in JSON.

        Raises
        ------
        InputError
            A value is no whole number from 0 to 65535, has two names or an empty one, or a name is no text.
        """
        if not isinstance(names, Mapping) or any(not isinstance(name, str) for name in names.values()):
            raise VolumeError(f"Names of labels are given as {{1: 'liver', …}}, not as {str(names)[:60]}.")
        known = [(_value(key), name) for key, name in names.items()]
        return cls(tuple(Label(value, name, color_for(name, value)) for value, name in known if value != 0))

    @property
    def names(self) -> dict[int, str]:
        """Names by value."""
        return {label.value: label.name for label in self.labels}

    @property
    def colors(self) -> dict[int, Color]:
        """RGB colours in 0..1 by value."""
        return {label.value: label.color for label in self.labels}

    def get(self, value: int) -> Label | None:
        """The label with this value, or None."""
        return next((label for label in self.labels if label.value == value), None)

    def completed(self, values: Iterable[int]) -> LabelSet:
        """The same with a made-up name for each of these values that has none."""
        known = self.names
        missing = [value for value in values if value and value not in known]
        made = (Label(value, _made_up(value), color_for(_made_up(value), value)) for value in missing)
        return LabelSet((*self, *made))

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)
