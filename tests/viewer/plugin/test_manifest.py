"""What the plugin tells napari about itself, and that napari finds it."""

from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest
from npe2 import PluginManifest

import napari_transunet
from napari_transunet.export.formats import FORMATS, VOLUMES
from napari_transunet.io.reading import READABLE_SUFFIXES
from napari_transunet.io.writing import WRITABLE_SUFFIXES
from napari_transunet.viewer.segment.volume_loader import _FILTERS

ROOT = Path(napari_transunet.__file__).parent


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(ROOT / "napari.yaml")


def test_every_command_can_be_imported(manifest):
    manifest.validate_imports()
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_every_readable_suffix_is_claimed(manifest):
    reader = manifest.contributions.readers[0]
    assert reader.accepts_directories
    for suffix in READABLE_SUFFIXES:
        assert any(fnmatch(f"scan{suffix}", pattern) for pattern in reader.filename_patterns), suffix
        assert f"*{suffix}" in _FILTERS or suffix == ".seg.nrrd", suffix


def test_every_writable_suffix_is_offered(manifest):
    writer = manifest.contributions.writers[0]
    assert set(writer.filename_extensions) == set(WRITABLE_SUFFIXES) == {FORMATS[name][0] for name in VOLUMES}
    assert writer.layer_types == ["labels"]
    configuration = manifest.contributions.configurations["display"].properties["export_format"]
    assert set(configuration.enum) == set(WRITABLE_SUFFIXES)


def test_menu_entries_point_at_commands_and_need_an_image(manifest):
    commands = {command.id: command for command in manifest.contributions.commands}
    entries = [item.command for items in manifest.contributions.menus.values() for item in items]
    assert set(entries) <= set(commands)
    assert commands["napari-transunet.segment_selected"].enablement == "num_selected_image_layers > 0"
    assert [item.command for item in manifest.contributions.menus["napari/layers/segment"]] == [
        "napari-transunet.segment_selected"
    ]


def test_installed_package_is_found_by_napari(manifest):
    from npe2 import PluginManager

    manager = PluginManager()
    manager.discover()
    assert "napari-transunet" in manager
    widgets = [w.display_name for w in manager.iter_widgets() if w.plugin_name == "napari-transunet"]
    assert widgets == ["Segment volume", "Review and correct", "Cases"]


def test_layers_menu_docks_the_widget_once_and_chooses_the_selected_image(make_napari_viewer, qtbot):
    import numpy as np
    from napari._app_model import get_app_model
    from qtpy.QtWidgets import QComboBox

    from napari_transunet.viewer.segment.segment_dock import SegmentDock

    viewer = make_napari_viewer()
    for name in ("first", "second"):
        viewer.add_image(np.zeros((3, 8, 8), np.int16), name=name, contrast_limits=(0, 1))
    viewer.layers.selection = {viewer.layers["first"]}
    app = get_app_model()
    for _ in range(2):
        app.commands.execute_command("napari-transunet.segment_selected").result()
    docks = [w for w in viewer.window.dock_widgets.values() if isinstance(w, SegmentDock)]
    assert len(docks) == 1
    assert docks[0].findChild(QComboBox, "volume").currentText() == "first"
    # The layers menu greys the entry where no image is selected.
    rule = next(
        item
        for item in app.menus.get_menu("napari/layers/segment")
        if item.command.id == "napari-transunet.segment_selected"
    )
    assert not rule.command.enablement.eval({"num_selected_image_layers": 0})
    assert rule.command.enablement.eval({"num_selected_image_layers": 1})
