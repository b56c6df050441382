"""Units of length, as the headers of several formats spell them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

# Case matters in symbols: Mm is a megametre and Pm a petametre.
_SYMBOLS: Mapping[str, float] = MappingProxyType(
    {
        "mm": 1.0,
        "MM": 1.0,
        "cm": 10.0,
        "CM": 10.0,
        "dm": 100.0,
        "m": 1000.0,
        "km": 1e6,
        "um": 1e-3,
        "UM": 1e-3,
        "μ": 1e-3,
        "μm": 1e-3,
        "nm": 1e-6,
        "NM": 1e-6,
        "pm": 1e-9,
        "Å": 1e-7,
        "in": 25.4,
        '"': 25.4,
        "ft": 304.8,
    }
)
_WORDS: Mapping[str, float] = MappingProxyType(
    {
        "meter": 1000.0,
        "metre": 1000.0,
        "kilometer": 1e6,
        "kilometre": 1e6,
        "decimeter": 100.0,
        "decimetre": 100.0,
        "centimeter": 10.0,
        "centimetre": 10.0,
        "millimeter": 1.0,
        "millimetre": 1.0,
        "micrometer": 1e-3,
        "micrometre": 1e-3,
        "micron": 1e-3,
        "micro-meter": 1e-3,
        "nanometer": 1e-6,
        "nanometre": 1e-6,
        "picometer": 1e-9,
        "picometre": 1e-9,
        "angstrom": 1e-7,
        "ångström": 1e-7,
        "inch": 25.4,
        "inche": 25.4,
        "foot": 304.8,
        "feet": 304.8,
    }
)
_UNSAID = frozenset(
    {"", "?", "??", "???", "none", "unknown", "unspecified", "arbitrary", "pixel", "voxel", "px"}
)


def millimetres(unit: str) -> float | None:
    """How many mm one `unit` is; None for what is no unit of length that is known.

    Symbols (mm, µm with either of Unicode's two micro signs, …) and English words, singular or plural.
    """
    text = _plain(unit)
    if text in _SYMBOLS:
        return _SYMBOLS[text]
    word = text.casefold()
    return _WORDS.get(word, _WORDS.get(word.removesuffix("s")))


def is_unsaid(unit: str) -> bool:
    """Whether a field for the unit names none: it is empty, "unknown", "pixel" or the like."""
    word = _plain(unit).casefold()
    return word in _UNSAID or (len(word) > 1 and word.removesuffix("s") in _UNSAID)


def _plain(unit: str) -> str:
    # NFKC makes one letter of the micro sign and the Greek mu. ImageJ escapes what is not ASCII.
    text = (
        unit.replace("\\u00b5", "µ").replace("\\u00B5", "µ").replace("\\u03bc", "µ").replace("\\u03BC", "µ")
    )
    return unicodedata.normalize("NFKC", text).strip().removesuffix(".")
