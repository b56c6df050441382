"""Label names and colours."""

from typing import Any

import numpy as np
import pytest

from napari_transunet.errors import InputError, VolumeError
from napari_transunet.volumes.labels import Label, LabelSet, color_for, default_color, organ_key


def test_one_organ_has_one_colour_however_it_is_spelled() -> None:
    spellings = ["kidney_left", "Left kidney", "KIDNEY (left)", "left-kidney", "kidney l"]
    assert len({color_for(name, value) for value, name in enumerate(spellings, 1)}) == 1
    assert color_for("kidney_left", 1) != color_for("kidney_right", 1)
    assert color_for("Oesophagus", 1) == color_for("esophagus", 5)


def test_abdominal_organs_can_be_told_apart() -> None:
    names = ["spleen", "kidney right", "kidney left", "gallbladder", "liver", "stomach", "pancreas", "aorta",
             "inferior vena cava", "esophagus"]  # fmt: skip
    colors = np.array([color_for(name, 1) for name in names])
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 9 * np.eye(len(names))
    assert apart.min() > 0.15


def test_unknown_names_get_the_colour_of_their_value() -> None:
    assert color_for("blob", 7) == default_color(7)
    assert len({default_color(value) for value in range(1, 60)}) == 59


def test_set_is_ordered_and_leaves_out_background() -> None:
    labels = LabelSet.from_names({0: "background", 5: "liver", 2: "spleen"})
    assert [label.value for label in labels] == [2, 5]
    assert labels.names == {2: "spleen", 5: "liver"}
    assert labels.get(5) is not None
    assert labels.get(5).name == "liver"  # type: ignore[union-attr]
    assert labels.get(9) is None
    assert len(labels) == 2


@pytest.mark.parametrize(
    ("value", "name", "color"),
    [(0, "a", (0, 0, 0)), (70000, "a", (0, 0, 0)), (1, " ", (0, 0, 0)), (1, "a", (2, 0, 0))],
)
def test_refuses_what_is_no_label(value: int, name: str, color: tuple[float, float, float]) -> None:
    with pytest.raises(VolumeError):
        Label(value, name, color)


def test_refuses_two_names_for_one_value() -> None:
    with pytest.raises(VolumeError, match="named twice"):
        LabelSet((Label(1, "a", (0, 0, 0)), Label(1, "b", (0, 0, 0))))


def test_spellings_of_an_organ_have_one_key() -> None:
    assert (
        len({organ_key(name) for name in ("Left-Kidney", "kidney_left", "Kidney L", " kidney  (lt) ")}) == 1
    )
    assert organ_key("Gall bladder") == organ_key("gallbladder")
    different = ["kidney left", "kidney right", "kidney", "肝臓", "脾臓", "Rate 1", "Rate 2"]
    assert len({organ_key(name) for name in different}) == len(different)


@pytest.mark.parametrize("value", [2, np.uint16(2), 2.0, "2", " 2 "])
def test_values_may_be_of_any_type_that_says_which(value: object) -> None:
    assert LabelSet.from_names({value: "liver"}).names == {2: "liver"}


@pytest.mark.parametrize(
    "names",
    [
        {1.5: "liver"},
        {"liver": 1},
        {"liver": "liver"},
        {1: None},
        {1: 7},
        {True: "a"},
        {None: "a"},
        ["liver"],
    ],
)
def test_names_are_not_guessed_from_something_else(names: Any) -> None:
    with pytest.raises(InputError):
        LabelSet.from_names(names)
