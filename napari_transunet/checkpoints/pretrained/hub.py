"""Weights from the Hugging Face hub, by way of its own client: an optional dependency, imported when it is needed."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from napari_transunet.errors import FileProblem, InputError

HUB_PREFIX = "hub:"
WEIGHTS = "model.safetensors"

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_TIMEOUT = 10.0
"""Seconds until the hub counts as unreachable."""


def fetch(repository: str) -> Path:
    """The `model.safetensors` of a repository such as "timm/vit_tiny_patch16_224.augreg_in21k".

    A file that was fetched before is taken from the client's cache, without asking the hub.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(
            f"{HUB_PREFIX}{repository} names no repository; it goes {HUB_PREFIX}OWNER/NAME, "
            f"e.g. {HUB_PREFIX}timm/vit_base_r50_s16_224.orig_in21k."
        )
    try:
        # By name, so that types are checked alike with and without the client.
        client, errors = import_module("huggingface_hub"), import_module("huggingface_hub.errors")
    except ImportError as error:
        raise InputError(
            f"Fetching {repository} needs the package huggingface_hub: pip install 'napari-transunet[train]'."
        ) from error
    try:
        return Path(client.hf_hub_download(repository, WEIGHTS, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        pass
    try:
        # The client's download repeats a failed request for half a minute; this asks once.
        client.get_hf_file_metadata(client.hf_hub_url(repository, WEIGHTS), timeout=_TIMEOUT)
        return Path(client.hf_hub_download(repository, WEIGHTS))
    except Exception as error:
        # Which errors come through depends on the version of the client and of the library under it.
        raise FileProblem(_reason(repository, error, errors)) from error


def _reason(repository: str, error: Exception, errors: Any) -> str:
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"There is no repository {repository} on the Hugging Face hub, or it is not public."
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"The repository {repository} on the Hugging Face hub has no {WEIGHTS}."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repository} was not fetched before, and HF_HUB_OFFLINE forbids to fetch it now; unset it."
    detail = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:160]
    return (
        f"{repository} could not be fetched from the Hugging Face hub ({detail}); without a network, "
        f"bring its {WEIGHTS} from elsewhere and give the path of that file."
    )
