"""Labelled scans that their checkpoint did not learn from, for the benchmarks that need a truth.

The shipped CT checkpoint learnt from every CT here, so CTs need another: the one that was shipped before it, which is
`git show 3981f85:weights/abdominal-organs-ct.safetensors`, or one of your own.
"""

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


def scans_in(data: Path, ct_checkpoint: str | None = None) -> list[Scan]:
    """The 30 test patients of the hippocampus, and with a checkpoint that did not learn from them, four CTs."""
    more, small = data / "ct_abdomen_more", data / "hippocampus_mr"
    values = {"spleen": 1, "aorta": 8}
    scans = []
    index = json.loads((more / "index.json").read_text("utf-8")) if ct_checkpoint else {}
    for name, about in index.items():
        organs = about["labelled"]
        scans.append(
            Scan(
                name,
                more / "images" / f"{name}.nii.gz",
                more / "labels" / f"{name}.nii.gz",
                str(ct_checkpoint),
                values[organs[0]] if len(organs) == 1 else None,
            )
        )
    names = sorted(path.name.removesuffix(".nii.gz") for path in (small / "labels").glob("*.nii.gz"))
    split = Split.by_seed(names, validation=0.1, test=0.15, seed=0)  # as weights/README.md says
    for name in split.test:
        image, labels = (small / kind / f"{name}.nii.gz" for kind in ("images", "labels"))
        scans.append(Scan(name, image, labels, "hippocampus-mr"))
    return scans
