"""Attention by a click, with a real (tiny) network."""

import numpy as np
import pytest
from qtpy.QtWidgets import QCheckBox, QComboBox, QLabel

from napari_transunet.annotation.provenance import RunRecord
from napari_transunet.checkpoints.card import default_card
from napari_transunet.checkpoints.saving import save_checkpoint
from napari_transunet.viewer.layers.layers import add_volume, volume_of
from napari_transunet.viewer.sessions.registry import sessions_of
from napari_transunet.volumes.labels import LabelSet
from napari_transunet.volumes.phantom import synthetic_ct
from tests.networks import SMALL, small_network
from tests.viewer.waiting import TIMEOUT


def test_a_click_shows_what_its_patch_attends_to(make_napari_viewer, qtbot, tmp_path):
    net = small_network(classes=2)
    path = save_checkpoint(tmp_path / "c.safetensors", net, default_card(net, labels={1: "liver"}))
    viewer = make_napari_viewer()
    image = add_volume(viewer, synthetic_ct((8, 48, 56))[0])
    volume = volume_of(image)
    result = sessions_of(viewer).new_result(image, volume, LabelSet.from_names({1: "liver"}))
    viewer.add_layer(result.layer)
    _, dock = viewer.window.add_plugin_dock_widget("napari-transunet", "Review and correct")
    status = dock.findChild(QLabel, "attention_status")
    dock.attention_maps.show((3, 20, 20))
    assert "Segment this volume first" in status.text()

    result.session.add_run(RunRecord("c", None, SMALL.name, "card", "cpu", "float32", "", 1.0, 8, 8))
    result.checkpoints = frozenset({path})
    dock.findChild(QCheckBox, "attention_on").setChecked(True)
    dock.attention_maps.show((3, 20, 20))
    qtbot.waitUntil(lambda: "Brighter" in status.text(), timeout=TIMEOUT)
    layer = next(layer for layer in viewer.layers if "attention" in layer.name)
    assert layer.data.shape == (1, 48, 56)
    assert layer.data.max() == pytest.approx(1)
    assert np.allclose(layer.data_to_world((0, 0, 0)), result.layer.data_to_world((3, 0, 0)))
    blocks = dock.findChild(QComboBox, "attention_block")
    assert blocks.count() == net.variant.blocks + 1
    before = layer.data.copy()
    blocks.setCurrentIndex(1)
    blocks.activated.emit(1)
    qtbot.waitUntil(lambda: not np.array_equal(layer.data, before), timeout=TIMEOUT)
    dock.findChild(QCheckBox, "attention_on").setChecked(False)
    assert not any("attention" in layer.name for layer in viewer.layers)
