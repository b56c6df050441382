"""SNOMED CT codes of organs, as DICOM objects name them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_transunet.volumes.labels import Label, LabelSet

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


def code_of(label: Label | None, name: str) -> Any:
    """A `pydicom.sr.coding.Code`: the card's own, else that of a known organ, else "organ"; the name tells which."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if label is not None and label.snomed and re.fullmatch(r"\d{6,18}", label.snomed):
        return Code(label.snomed, "SCT", name[:LONGEST_NAME])
    base, _ = parted(name)
    # "liver tumor" and "kidney cyst" are no liver and no kidney.
    concept = _CONCEPTS.get(base) or next(
        (_CONCEPTS[n] for n in ("tumor", "tumour") if n in base.split()), None
    )
    return getattr(codes.SCT, concept) if concept else codes.SCT.Organ


def dicom_names(label_set: LabelSet, values: Sequence[int], notes: list[str]) -> dict[int, str]:
    """The names of these labels as DICOM's LO holds them, each once: no backslash, no line break, 64 characters."""
    found: dict[int, str] = {}
    for value in values:
        label = label_set.get(value)
        full = label.name if label is not None else f"label {value}"
        plain = "".join(char if char.isprintable() else " " for char in full.replace("\\", "/")).strip()
        name = plain[:LONGEST_NAME].rstrip() or f"label {value}"
        if name in found.values() and name != full:
            name = f"{name[: LONGEST_NAME - 8]} ({value})"
        if name != full:
            notes.append(
                f"DICOM cannot hold the name {full[:80]!r} of label {value}; it is written as {name!r}."
            )
        found[value] = name
    return found


def parted(name: str) -> tuple[str, str]:
    """A name's words without its side, and the side: "kidney_left" gives ("kidney", "left")."""
    words = [{"l": "left", "r": "right"}.get(word, word) for word in re.findall(r"[a-z0-9]+", name.lower())]
    side = next((word for word in words if word in ("left", "right")), "")
    return " ".join(word for word in words if word != side), side
