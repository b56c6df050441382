"""Numbers of DICOM headers: one that cannot be read is never taken for one that is absent."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from napari_transunet.errors import VolumeError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Decimal and integer strings (PS3.5, 6.2). Python's own reading also takes "1_024", "nan" and "inf".
_DECIMAL = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[\s\0]*")


def numbers(dataset: Dataset | None, name: str, where: str, count: int | None = None) -> tuple[float, ...]:
    """The values of a field; none where the field is absent or empty.

    Parameters
    ----------
    dataset : header, or item of one; None is one without fields.
    name : keyword of the field.
    where : what the header belongs to, for the message, e.g. the name of the file.
    count : how many values there must be; None for any number.
    """
    # Bytes that do not fill a binary number raise here; `damage_named` of the readers tells of them.
    value = None if dataset is None else dataset.get(name)
    if value is None or (isinstance(value, str) and not value.strip(" \0")):
        return ()
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__")
    found = [_number(one) for one in (value if several else [value])]
    if not found:
        return ()
    if any(one is None for one in found):
        raise VolumeError(_unreadable(name, where, value, "which is no number"))
    if count is not None and len(found) != count:
        wanted = "a single number" if count == 1 else f"{count} numbers"
        raise VolumeError(_unreadable(name, where, value, f"where {wanted} should be"))
    return tuple(one for one in found if one is not None)


def number(dataset: Dataset | None, name: str, where: str) -> float | None:
    """The value of a field with one value; None where the field is absent or empty."""
    return next(iter(numbers(dataset, name, where, 1)), None)


def whole_number(dataset: Dataset | None, name: str, where: str) -> int | None:
    """The same where the value must be a whole number."""
    stored = None if dataset is None else dataset.get(name)
    if type(stored) is int:  # as binary numbers are; each image has a dozen
        return stored
    value = number(dataset, name, where)
    if value is not None and value != int(value):
        assert dataset is not None
        raise VolumeError(_unreadable(name, where, dataset.get(name), "which is no whole number"))
    return None if value is None else int(value)


def _number(value: Any) -> float | None:
    # pydicom keeps the text that it made a number of.
    text = getattr(value, "original_string", None) or value
    if isinstance(text, str) and not _DECIMAL.fullmatch(text):
        return None
    try:
        read = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def _unreadable(name: str, where: str, value: Any, why: str) -> str:
    shown = "\\".join(map(str, value)) if not isinstance(value, str) and hasattr(value, "__iter__") else value
    text = "".join(char for char in str(shown) if char.isprintable())[:40]
    return f"{name} of {where} is {text!r}, {why}; correct the header, or export the images again."
