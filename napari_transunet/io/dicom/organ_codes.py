"""SNOMED CT codes of organs, as DICOM objects name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_transunet.volumes.labels import Label

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
    concept = _CONCEPTS.get(base) or next((c for n, c in _CONCEPTS.items() if n in base.split()), None)
    return getattr(codes.SCT, concept) if concept else codes.SCT.Organ


def parted(name: str) -> tuple[str, str]:
    """A name's words without its side, and the side: "kidney_left" gives ("kidney", "left")."""
    words = [{"l": "left", "r": "right"}.get(word, word) for word in re.findall(r"[a-z0-9]+", name.lower())]
    side = next((word for word in words if word in ("left", "right")), "")
    return " ".join(word for word in words if word != side), side
