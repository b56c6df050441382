"""Units of length, as the headers of several formats spell them."""

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

_PREFIXES: Mapping[str, float] = MappingProxyType(
    {
        "kilo": 1e6,
        "": 1000.0,
        "deci": 100.0,
        "centi": 10.0,
        "milli": 1.0,
        "micro": 1e-3,
        "micro-": 1e-3,
        "nano": 1e-6,
        "pico": 1e-9,
    }
)
_WORDS: Mapping[str, float] = MappingProxyType(
    {prefix + metre: size for prefix, size in _PREFIXES.items() for metre in ("meter", "metre")}
    | {"micron": 1e-3, "angstrom": 1e-7, "ångström": 1e-7, "inch": 25.4, "inche": 25.4}
    | {"foot": 304.8, "feet": 304.8}
)
# Case matters in symbols: Mm is a megametre and Pm a petametre.
_SYMBOLS: Mapping[str, float] = MappingProxyType(
    {"km": 1e6, "m": 1000.0, "dm": 100.0, "cm": 10.0, "mm": 1.0, "um": 1e-3, "nm": 1e-6, "pm": 1e-9}
    | {"CM": 10.0, "MM": 1.0, "UM": 1e-3, "NM": 1e-6}
    | {"μ": 1e-3, "μm": 1e-3, "Å": 1e-7, "in": 25.4, '"': 25.4, "ft": 304.8}
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
