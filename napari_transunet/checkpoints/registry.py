"""Checkpoints by name: those that come with the package and those in the user's folder."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import platformdirs

from napari_transunet.checkpoints.info import CheckpointInfo
from napari_transunet.checkpoints.reading import CHECKPOINT_SUFFIXES
from napari_transunet.errors import FileProblem, InputError

FOLDER_VARIABLE = "NAPARI_TRANSUNET_CHECKPOINTS"
MAX_LISTED = 500

DEFAULT_CHECKPOINT = "abdominal-organs-ct"
"""The shipped checkpoint that is taken before anything is known of the volume, and for the demo's CT."""

_PACKAGE = Path(__file__).parents[1]


def shipped_folder() -> Path | None:
    """Where the package's own checkpoints lie: in the installed package, else in the checkout around it."""
    installed = _PACKAGE / "weights"
    if installed.is_dir():
        return installed
    checkout = _PACKAGE.parent / "weights"
    return checkout if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file() else None


def user_checkpoint_folder() -> Path:
    """Where users put checkpoints of their own; `NAPARI_TRANSUNET_CHECKPOINTS` names another. May not exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    return platformdirs.user_data_path("napari-transunet", appauthor=False) / "checkpoints"


def list_checkpoints(user_folder: str | os.PathLike[str] | None = None) -> list[CheckpointInfo]:
    """Shipped checkpoints, then the user's, by name. Those that cannot be loaded are listed with the reason."""
    entries = []
    for name, (path, shipped) in _named_files(user_folder).items():
        try:
            found = CheckpointInfo.from_file(path)
        except FileProblem as error:
            found = CheckpointInfo(path, 0, problems=(str(error),))
        entries.append(replace(found, name=name, shipped=shipped))
    return entries


def default_checkpoint() -> Path | None:
    """The file of the shipped `DEFAULT_CHECKPOINT`; None where it is not shipped.

    Which one suits a volume is `inference.choosing`'s business.
    """
    path, shipped = _named_files().get(DEFAULT_CHECKPOINT, (None, False))
    return path if shipped else None


def resolve_checkpoint(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint given by name or path. Whether it can be loaded is not looked at.

    Raises
    ------
    FileProblem
        It looks like a path, and there is no such file.
    InputError
        It looks like a name, and there is none so called; the sentence lists those there are.
    """
    named = _named_files()
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str):
        if text in named:
            return named[text][0]
        folded = [path for name, (path, _) in named.items() if name.casefold() == text.casefold()]
        if len(folded) == 1:
            return folded[0]
    path = Path(text).expanduser()
    if path.is_file():
        return path
    if not isinstance(name_or_path, str) or path.suffix in CHECKPOINT_SUFFIXES or path.name != text:
        raise FileProblem(f"There is no checkpoint file {path}.")
    known = f"there are {', '.join(named)}" if named else "none is installed"
    raise InputError(f"There is no checkpoint called {text!r}; {known}; or give the path of a file.")


def _named_files(user_folder: str | os.PathLike[str] | None = None) -> dict[str, tuple[Path, bool]]:
    """Name → (file, whether shipped). Where a name is taken, the later file goes by its full name or path."""
    user = Path(user_folder) if user_folder is not None else user_checkpoint_folder()
    named: dict[str, tuple[Path, bool]] = {}
    shipped = shipped_folder()
    for folder, is_shipped in ((shipped, True), (user, False)):
        for path in _checkpoint_files(folder):
            name = next(name for name in (path.stem, path.name, str(path)) if name not in named)
            named[name] = (path, is_shipped)
    return named


def _checkpoint_files(folder: Path | None) -> Iterable[Path]:
    if folder is None:
        return []
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in CHECKPOINT_SUFFIXES)
    except OSError:
        return []
    return [path for path in found if path.is_file() and not path.name.startswith(".")][:MAX_LISTED]
