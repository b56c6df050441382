"""Viewer tests need a display (xvfb-run) and must leave a user's settings alone."""

from __future__ import annotations

import os

os.environ["NAPARI_CONFIG"] = ""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def sessions(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the labels of this test are saved; the user's own sessions are left alone."""
    folder = tmp_path_factory.mktemp("sessions")
    monkeypatch.setenv("NAPARI_TRANSUNET_SESSIONS", str(folder))
    return folder
