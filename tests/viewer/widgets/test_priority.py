"""What is done so that the window is served first is undone afterwards."""

from __future__ import annotations

import gc

import pytest

from napari_transunet.viewer.widgets.priority import no_garbage_collection


def test_garbage_is_collected_again_after_imports_also_where_they_fail_or_overlap() -> None:
    assert gc.isenabled()
    with pytest.raises(ImportError), no_garbage_collection():
        raise ImportError
    assert gc.isenabled()
    with no_garbage_collection(), no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
