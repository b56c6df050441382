"""What is done so that the window is served first is undone afterwards."""

import gc

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_transunet.viewer.widgets.priority import (
    no_garbage_collection,
    spare_nothing,
    spare_what_is_loaded,
)


def test_garbage_is_collected_again_after_imports_also_where_they_fail_or_overlap() -> None:
    usual = gc.get_threshold()
    assert usual[0]
    with pytest.raises(ImportError), no_garbage_collection():
        raise ImportError
    assert gc.get_threshold() == usual
    with no_garbage_collection(), no_garbage_collection():
        assert not gc.get_threshold()[0]
        assert gc.isenabled(), "dask, imported now, would leave it disabled"
    assert gc.get_threshold() == usual


def test_a_window_that_was_closed_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    monkeypatch.setattr(
        gc, "unfreeze", lambda: found.append(True)
    )  # the real one makes the next search take seconds
    spare_nothing()
    assert found


def test_only_what_is_loaded_before_the_first_layer_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    viewer = ViewerModel()
    viewer.add_image(np.zeros((2, 2)))
    spare_what_is_loaded(viewer)
    assert not frozen
    viewer.layers.clear()
    spare_what_is_loaded(viewer)
    assert frozen
