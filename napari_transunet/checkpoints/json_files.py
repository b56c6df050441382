"""JSON beside a checkpoint, from outside: never more than so many bytes, and one sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_transunet.errors import CheckpointError

if TYPE_CHECKING:
    from pydantic import ValidationError


def read_text(path: Path, most: int, origin: str) -> bytes:
    """A file's bytes.

    Parameters
    ----------
    most : bytes that it may have
    origin : how a sentence calls it, with a capital: "The model card weights.card.json"
    """
    try:
        with path.open("rb") as file:
            text = file.read(most + 1)
    except OSError as error:
        raise CheckpointError(f"{origin} cannot be read: {error.strerror or error}.") from error
    check_length(text, most, origin)
    return text


def check_length(text: str | bytes, most: int, origin: str) -> None:
    """Raise `CheckpointError` for a text longer than `most`."""
    if len(text) > most:
        raise CheckpointError(f"{origin} is longer than {most // 1024} KiB, so it was not read.")


def what_is_wrong(error: ValidationError) -> str:
    """The first few fields that are wrong, and how many more."""
    parts = []
    details = error.errors(include_url=False, include_context=False, include_input=False)
    for detail in details[:3]:
        where = ".".join(str(step) for step in detail["loc"])
        what = detail["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {what}" if where else what)
    more = f" (and {len(details) - 3} more)" if len(details) > 3 else ""
    return f"{'; '.join(parts)}{more}"
