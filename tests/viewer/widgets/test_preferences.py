"""The Preferences page: declared, read, validated, and followed."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from napari_transunet.inference.options import PredictorOptions
from napari_transunet.viewer.layers.event_links import EventLinks
from napari_transunet.viewer.widgets.docks import PLUGIN
from napari_transunet.viewer.widgets.preferences import Preferences, load_preferences, preference_events


@pytest.fixture
def settings(request, npe2pm):
    napari_settings = pytest.importorskip("napari.settings")
    if not hasattr(napari_settings, "get_plugin_settings"):
        pytest.skip("this napari keeps no preferences for plugins (0.9 and later do)")
    request.getfixturevalue("plugin_settings")
    from napari.settings import get_plugin_settings
    from npe2 import PluginManifest

    npe2pm.register(PluginManifest.from_distribution(PLUGIN))
    return get_plugin_settings(PLUGIN)


def test_defaults_of_the_manifest_are_those_of_the_code(settings):
    assert load_preferences() == Preferences()


def test_unregistered_plugin_has_the_defaults(npe2pm):
    assert load_preferences() == Preferences()
    assert preference_events() == ()


def test_changes_are_read_and_announced(settings):
    calls, links = [], EventLinks()
    links.connect(lambda _event: calls.append(load_preferences()), *preference_events())
    settings.segmentation.device = "cpu"
    settings.segmentation.batch_size = 4
    settings.segmentation.checkpoint_folder = "~/checkpoints"
    settings.display.export_format = ".seg.nrrd"
    assert calls[-1] == Preferences(
        checkpoint_folder=Path.home() / "checkpoints",
        options=PredictorOptions(device="cpu", batch_size=4),
        export_format=".seg.nrrd",
    )
    assert len(calls) == 4
    links.clear()
    settings.segmentation.device = "cuda"
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("segmentation", "device", "tpu"),
        ("segmentation", "batch_size", -1),
        ("display", "label_opacity", 1.5),
        ("display", "export_format", ".png"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, group, name, value):
    with pytest.raises(ValidationError):
        setattr(getattr(settings, group), name, value)
