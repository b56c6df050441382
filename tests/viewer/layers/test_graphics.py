"""Layers may be removed in any order, and napari goes on drawing."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy")


def test_an_image_under_labels_may_be_removed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.viewer.layers.layer_removal", "2"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]
    assert "still there" in done.stdout
