"""Which colours labels have as they are shown, whoever chose them."""

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Labels

from napari_transunet.viewer.layers.layers import label_colormap
from napari_transunet.viewer.layers.visibility import colors_of, shown_colormap, shows
from napari_transunet.volumes.labels import LabelSet


def drawn(cycle: bool) -> Labels:
    layer = Labels(np.arange(12, dtype=np.uint8).reshape(1, 3, 4))
    if not cycle:
        layer.colormap = label_colormap(LabelSet.from_names({2: "liver"}))
    return layer


@pytest.mark.parametrize("cycle", [True, False])
@pytest.mark.parametrize("selected_alone", [False, True])
def test_colors_are_those_on_the_canvas(cycle, selected_alone):
    layer = drawn(cycle)
    seen = [layer.get_color(value)[:3] for value in (2, 3, 11)]
    layer.selected_label = 3
    layer.show_selected_label = selected_alone
    assert np.allclose(list(colors_of(layer, (2, 3, 11)).values()), seen)
    assert len({tuple(color) for color in seen}) == 3


@pytest.mark.parametrize("cycle", [True, False])
def test_to_hide_a_label_changes_no_other(cycle):
    layer = drawn(cycle)
    seen = {value: layer.get_color(value) for value in range(1, 12)}
    layer.colormap = shown_colormap(layer, {2})
    assert not shows(layer, {2})
    assert shows(layer, {3})
    for value, color in seen.items():
        assert layer.get_color(value)[:3] == pytest.approx(color[:3])
        assert layer.get_color(value)[3] == (value != 2)
    layer.colormap = shown_colormap(layer, ())
    assert layer.get_color(2) == pytest.approx(seen[2])
    assert layer.colormap.map(0)[3] == 0
