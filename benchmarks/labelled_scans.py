"""Labelled scans that no shipped checkpoint learnt from, for the benchmarks that need a truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from napari_transunet.training.splits import Split


@dataclass(frozen=True)
class Scan:
    """A labelled scan, its checkpoint, and the label of the organ if only one is known."""

    name: str
    image: Path
    labels: Path
    checkpoint: str
    organ: int | None = None


def scans_in(data: Path) -> list[Scan]:
    """The scans that no shipped checkpoint learnt from: four CTs, and the 30 test patients of the hippocampus."""
    more, small = data / "ct_abdomen_more", data / "hippocampus_mr"
    values = {"spleen": 1, "aorta": 8}
    scans = []
    for name, about in json.loads((more / "index.json").read_text("utf-8")).items():
        organs = about["labelled"]
        scans.append(
            Scan(
                name,
                more / "images" / f"{name}.nii.gz",
                more / "labels" / f"{name}.nii.gz",
                "abdominal-organs-ct",
                values[organs[0]] if len(organs) == 1 else None,
            )
        )
    names = sorted(path.name.removesuffix(".nii.gz") for path in (small / "labels").glob("*.nii.gz"))
    split = Split.by_seed(names, validation=0.1, test=0.15, seed=0)  # as weights/README.md says
    for name in split.test:
        image, labels = (small / kind / f"{name}.nii.gz" for kind in ("images", "labels"))
        scans.append(Scan(name, image, labels, "hippocampus-mr"))
    return scans
