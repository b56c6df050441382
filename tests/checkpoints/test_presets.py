"""Label presets are offered, never guessed."""

import pytest

from napari_transunet.checkpoints.presets import LABEL_PRESETS, preset_names, presets_for
from napari_transunet.errors import CheckpointError


def test_nine_classes_fit_two_orders_of_the_same_organs() -> None:
    found = presets_for(9)
    assert set(found) == {"synapse-table", "synapse-btcv-order"}
    table, btcv = (preset.names for preset in found.values())
    assert sorted(table.values()) == sorted(btcv.values())
    assert table != btcv


def test_the_eight_organs_keep_the_order_of_the_thirteen() -> None:
    thirteen = LABEL_PRESETS["btcv"].organs
    eight = LABEL_PRESETS["synapse-btcv-order"].organs
    in_order = [organ for organ in thirteen if organ in set(eight) - {"pancreas"}]
    assert in_order == [organ for organ in eight if organ != "pancreas"]


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(CheckpointError, match="synapse-table, synapse-btcv-order"):
        preset_names("synapse")
    assert preset_names("synapse-table")[1] == "aorta"
