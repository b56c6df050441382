"""SNOMED CT codes of organs, as DICOM objects name them."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from napari_transunet.volumes.labels import Label, LabelSet, parted

LONGEST_NAME = 64
"""Characters of DICOM's LO."""

# Names of concepts in pydicom's dictionary of SNOMED CT codes.
_CONCEPTS: Mapping[str, str] = MappingProxyType(
    {
        "liver": "Liver",
        "spleen": "Spleen",
        "kidney": "Kidney",
        "gallbladder": "Gallbladder",
        "stomach": "Stomach",
        "pancreas": "Pancreas",
        "aorta": "Aorta",
        "hippocampus": "Hippocampus",
        "esophagus": "Esophagus",
        "oesophagus": "Esophagus",
        "inferior vena cava": "InferiorVenaCava",
        "postcava": "InferiorVenaCava",
        "portal vein": "PortalVein",
        "adrenal gland": "AdrenalGland",
        "duodenum": "Duodenum",
        "colon": "Colon",
        "small bowel": "SmallIntestine",
        "lung": "Lung",
        "heart": "Heart",
        "brain": "Brain",
        "prostate": "Prostate",
        "trachea": "Trachea",
        "tumor": "Neoplasm",
        "tumour": "Neoplasm",
    }
)


def code_of(label: Label, name: str) -> Any:
    """A `pydicom.sr.coding.Code`: the card's own, else that of a known organ, else "organ"; the name tells which."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if label.snomed and re.fullmatch(r"\d{6,18}", label.snomed):
        return Code(label.snomed, "SCT", name)
    base, _ = parted(name)
    # "liver tumor" and "kidney cyst" are no liver and no kidney.
    concept = _CONCEPTS.get(base) or next(
        (_CONCEPTS[n] for n in ("tumor", "tumour") if n in base.split()), None
    )
    return getattr(codes.SCT, concept) if concept else codes.SCT.Organ


def dicom_names(labels: LabelSet, notes: list[str]) -> dict[int, str]:
    """The names of labels as DICOM's LO holds them, each once: no backslash, no line break, 64 characters."""
    found: dict[int, str] = {}
    for label in labels:
        plain = "".join(char if char.isprintable() else " " for char in label.name.replace("\\", "/")).strip()
        name = plain[:LONGEST_NAME].rstrip() or f"label {label.value}"
        if name in found.values() and name != label.name:
            name = f"{name[: LONGEST_NAME - 8]} ({label.value})"
        if name != label.name:
            notes.append(
                f"DICOM cannot hold the name {label.name[:80]!r} of label {label.value}; it is written as {name!r}."
            )
        found[label.value] = name
    return found
