"""Put the shipped checkpoints of `weights/` into wheels as `napari_transunet/weights`.

An editable install reads them from the checkout, so a copy there would only go stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SHIPPED = ("*.safetensors", "*.card.json", "*.ranges.json", "*.replay.npz", "README.md")


class ShippedCheckpoints(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        folder = Path(self.root, "weights")
        for pattern in _SHIPPED:
            for path in sorted(folder.glob(pattern)):
                build_data["force_include"][str(path)] = f"napari_transunet/weights/{path.name}"
