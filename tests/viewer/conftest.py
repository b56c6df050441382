"""Viewer tests need a display (xvfb-run) and must leave a user's settings alone."""

from __future__ import annotations

import os

os.environ["NAPARI_CONFIG"] = ""
