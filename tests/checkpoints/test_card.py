"""The model card: defaults, checks, and the way through JSON and back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_transunet.checkpoints.card import MAX_CARD_BYTES, ModelCard, card_path, default_card
from napari_transunet.errors import CheckpointError
from napari_transunet.model.transunet import TransUNet

NETWORK: dict[str, Any] = {"variant": "R50-ViT-B_16", "num_classes": 9, "img_size": 224}


def card(**fields: Any) -> ModelCard:
    return ModelCard.from_mapping({**NETWORK, **fields})


def test_a_single_image_size_is_a_square() -> None:
    assert card().img_size == (224, 224)
    assert card(img_size=[224, 320]).img_size == (224, 320)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("window", (-125.0, 275.0))),
        ({"modality": "ct"}, ("window", (-125.0, 275.0))),
        ({"modality": "MR"}, ("percentiles", None)),
        ({"modality": "MR", "window": [0, 900]}, ("window", (0.0, 900.0))),
        ({"modality": "CT", "normalisation": "percentiles"}, ("percentiles", None)),
    ],
)
def test_intensity_defaults_follow_the_modality(fields: dict[str, Any], expected: tuple[str, object]) -> None:
    made = card(**fields)
    assert (made.normalisation, made.window) == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"labels": [{"value": 9, "name": "stomach"}]}, "'stomach' has the value 9"),
        ({"labels": [{"value": 1, "name": "a"}, {"value": 1, "name": "b"}]}, "value 1 is named twice"),
        ({"labels": [{"value": 1, "name": " \n"}]}, "labels.0.name"),
        ({"labels": [{"value": 1, "name": "liver", "color": [0, 0, 2]}]}, "labels.0.color"),
        ({"window": [275, -125]}, "window"),
        ({"window": [float("nan"), 1]}, "window"),
        ({"percentiles": [50, 50]}, "percentiles"),
        ({"modality": "MR", "normalisation": "window"}, "no default for MR"),
        ({"orientation": "LLS"}, "orientation"),
        ({"orientation": "LP"}, "orientation"),
        ({"spacing": [0, 1, 1]}, "spacing"),
        ({"context": 2}, "context"),
        ({"resize": "crop"}, "resize"),
        ({"n_skip": 4}, "n_skip"),
        ({"num_classes": 0}, "num_classes"),
        ({"img_size": [224]}, "img_size"),
        ({"img_size": 10**9}, "img_size"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match="The model card is not usable") as caught:
        card(**fields)
    assert named in str(caught.value)


def test_missing_fields_are_named() -> None:
    with pytest.raises(CheckpointError, match="num_classes: Field required; img_size: Field required"):
        ModelCard.from_mapping({"variant": "R50-ViT-B_16"})


def test_unknown_fields_survive_the_way_through_json() -> None:
    made = card(
        labels=[{"value": 1, "name": "liver", "color": "#ff8000", "snomed": "10200004", "group": "solid"}],
        n_skip=3,
        modality="CT",
        orientation="lps",
        spacing=[None, 0.8, 0.8],
        context=3,
        resize="pad",
        training={"cases": 12},
        invented={"here": [1, 2]},
    )
    again = ModelCard.from_json(made.to_json())
    assert again == made
    assert json.loads(made.to_json())["invented"] == {"here": [1, 2]}
    assert again.orientation == "LPS"
    assert again.labels[0].model_dump()["group"] == "solid"
    assert again.labels[0].color == pytest.approx((1.0, 128 / 255, 0.0))


@given(
    lower=st.floats(-2000, 2000),
    width=st.floats(1e-3, 4000),
    names=st.dictionaries(st.integers(1, 8), st.text(st.characters(categories=["L", "N"]), min_size=1)),
    spacing=st.none() | st.tuples(*[st.none() | st.floats(0.1, 10)] * 3),
)
def test_json_gives_the_same_card(
    lower: float, width: float, names: dict[int, str], spacing: tuple[float | None, ...] | None
) -> None:
    labels = [{"value": value, "name": name} for value, name in names.items()]
    made = card(window=[lower, lower + width], labels=labels, spacing=spacing)
    assert ModelCard.from_json(made.to_json(indent=2)) == made


@pytest.mark.parametrize("text", ["", "[1", "null", "3", '{"variant": 1}', "[" * 100_000, "\x00"])
def test_damaged_json_is_one_sentence(text: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelCard.from_json(text)
    assert "\n" not in str(caught.value)


def test_a_giant_card_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "giant.card.json"
    path.write_text(json.dumps({**NETWORK, "training": "x" * MAX_CARD_BYTES}))
    with pytest.raises(CheckpointError, match="longer than 1024 KiB"):
        ModelCard.read(path)


def test_a_missing_card_file_is_an_error_of_the_package(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.card\.json cannot be read"):
        ModelCard.read(tmp_path / "none.card.json")


def test_control_characters_do_not_reach_a_window() -> None:
    made = card(title="liver\n<b>\x1b[31m", labels=[{"value": 1, "name": "li\tver"}])
    assert made.title == "liver <b> [31m"
    assert made.labels[0].name == "li ver"


def test_cards_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        card().num_classes = 3  # type: ignore[misc]


def test_every_class_has_a_label_with_the_colour_of_the_card_or_its_organ() -> None:
    made = card(
        labels=[{"value": 0, "name": "background"}, {"value": 2, "name": "liver", "color": [0, 0, 1]}]
    )
    labels = made.label_set()
    assert list(labels.names) == list(range(1, 9))
    assert labels.names[1] == "class 1"
    assert labels.names[2] == "liver"
    assert labels.colors[2] == (0, 0, 1)
    plain = card(labels=[{"value": 2, "name": "liver"}]).label_set()
    other = card(labels=[{"value": 5, "name": "Liver"}]).label_set()
    assert plain.colors[2] == other.colors[5]


def test_picked_names_replace_labels() -> None:
    made = card().with_labels({1: "aorta", 2: "gallbladder"})
    assert made.label_names == {1: "aorta", 2: "gallbladder"}
    with pytest.raises(CheckpointError, match="has the value 9"):
        card().with_labels({9: "nothing"})


def test_the_default_card_describes_the_network(small_net: TransUNet) -> None:
    made = default_card(small_net, labels={1: "liver"}, title="A test")
    assert (made.variant, made.num_classes, made.img_size, made.n_skip) == ("testing", 4, (48, 48), 0)
    assert (made.window, made.resize, made.context) == ((-125.0, 275.0), "squash", 1)
    assert made.label_names == {1: "liver"}
    assert made.title == "A test"


def test_the_card_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    assert card_path(tmp_path / "weights.pth") == tmp_path / "weights.card.json"
    assert card_path(tmp_path / "liver.v2.safetensors") == tmp_path / "liver.v2.card.json"
