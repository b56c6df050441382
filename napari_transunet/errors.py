"""Errors that a user can cause. Each carries one sentence: what is wrong and what to do about it.

What a class is for holds everywhere: every reader refuses a damaged file by a `VolumeError`, whatever its format. So
functions that a package offers to others list what they raise, and those inside it only what is special about that.
"""

from collections.abc import Collection


class TransUNetError(Exception):
    """Base of every error that the package raises on purpose; the command line turns it into exit status 2."""


class InputError(TransUNetError, ValueError):
    """A value, option or array that cannot be used."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, is unsafe, or does not fit the network."""


class VolumeError(InputError):
    """A file or array that is no volume, or one whose geometry cannot be trusted."""


class SizeError(VolumeError):
    """A file that would need more memory than there is, or than was allowed."""


class DatasetError(InputError):
    """A labelled dataset that cannot be trained on, or a split that does not fit it."""


class FileProblem(TransUNetError, OSError):
    """A file or folder that cannot be read or written."""


class ExistsError(FileProblem):
    """A file that exists already and may not be replaced without being asked."""


def some(names: Collection[object], most: int = 3) -> str:
    """The first few of the names, for a sentence, and how many more there are: "a, b, c and 4 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join([printable(str(name)) for name in names][:most]) + more


_LONGEST = 120  # letters of what a file calls something


def printable(text: str) -> str:
    """What a file calls something, such that it can neither steer a terminal nor drown a sentence."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 3] + "..."


USERS_ERRORS = (TransUNetError, OSError, MemoryError)
"""What a person can mend; any other error is a fault of the program."""


def sentence_of(
    error: TransUNetError | OSError | MemoryError, memory: str = "close other programs or use a smaller one"
) -> str:
    """What to tell a person about one of `USERS_ERRORS`; `memory` is what to do where there is not enough of it."""
    if isinstance(error, TransUNetError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}."
    return f"There is not enough memory for this volume; {memory}."
