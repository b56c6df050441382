"""Checkpoints by hash: what names one to a worker, what is sent where it does not lie there, and what a worker keeps.

A network travels as the bytes of a safetensors file, whose hash the worker checks, and never as a pickled object.
"""

import contextlib
import hashlib
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.checkpoints.loading import Checkpoint
from napari_transunet.checkpoints.quantization import ranges_path
from napari_transunet.checkpoints.registry import list_checkpoints, resolve_checkpoint
from napari_transunet.checkpoints.saving import SUFFIX, save_checkpoint
from napari_transunet.errors import CheckpointError, TransUNetError
from napari_transunet.export.segmentation import LoadingOptions, load_for
from napari_transunet.files import known_sha256, sha256
from napari_transunet.inference.options import PredictorOptions
from napari_transunet.inference.predictor import Predictor

_KEPT = 2  # predictors, on a worker
_UNSAFE = re.compile(r"[^\w .()+-]")


@dataclass(frozen=True)
class CheckpointReference:
    """What names a checkpoint to a worker.

    Attributes
    ----------
    name : of the checkpoint
    path : of its file, as the client sees it
    sha256 : of the file's bytes
    card : the model card as JSON, where a worker chooses among several; empty otherwise
    """

    name: str
    path: str
    sha256: str
    card: str = ""


@dataclass(frozen=True)
class SentCheckpoint:
    """A checkpoint on its way to a worker.

    Attributes
    ----------
    reference : which
    content, content_sha256 : a safetensors file and its hash: the checkpoint's own, or one made of it
    ranges : the JSON file of activation ranges beside it, empty where there is none
    """

    reference: CheckpointReference
    content: bytes
    content_sha256: str
    ranges: bytes = b""


def reference_to(name_or_path: str, loading: LoadingOptions) -> tuple[CheckpointReference, Checkpoint]:
    """What names this checkpoint to a worker; it is loaded here once, so that a bad one is found before any work."""
    path = resolve_checkpoint(name_or_path).resolve()
    checkpoint = load_for(path, loading)
    return CheckpointReference(checkpoint.name, str(path), checkpoint.sha256), checkpoint


def shipped_references() -> list[CheckpointReference]:
    """The shipped checkpoints that can be chosen unasked, with their cards."""
    return [
        CheckpointReference(entry.name, str(entry.path.resolve()), sha256(entry.path), entry.card.to_json())
        for entry in list_checkpoints()
        if entry.shipped and entry.ok and entry.card is not None
    ]


def cards_of(references: Sequence[CheckpointReference]) -> dict[str, ModelCard]:
    """The cards of those that have one, by name."""
    return {one.name: ModelCard.model_validate_json(one.card) for one in references if one.card}


def sent(reference: CheckpointReference, loading: LoadingOptions) -> SentCheckpoint:
    """The checkpoint as it travels."""
    path = Path(reference.path)
    if path.suffix == SUFFIX:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != reference.sha256:
            raise CheckpointError(f"{path} has changed since the run began; begin again.")
    else:
        checkpoint = load_for(path, replace(loading, preset=None))
        if checkpoint.sha256 != reference.sha256:
            raise CheckpointError(f"{path} has changed since the run began; begin again.")
        content = file_content(checkpoint)
    ranges = ranges_path(path)
    return SentCheckpoint(
        reference,
        content,
        hashlib.sha256(content).hexdigest(),
        ranges.read_bytes() if ranges.is_file() else b"",
    )


def file_content(checkpoint: Checkpoint) -> bytes:
    """The safetensors file of a checkpoint. Raises as `save_checkpoint`."""
    with tempfile.TemporaryDirectory() as folder:
        return save_checkpoint(Path(folder) / f"sent{SUFFIX}", checkpoint).read_bytes()


def file_name(name: str) -> str:
    """A name for the file of a checkpoint that is called so elsewhere."""
    return f"{_UNSAFE.sub('_', name)[:100].lstrip('.') or 'checkpoint'}{SUFFIX}"


class CheckpointShelf:
    """A worker's checkpoints: predictors that were made of them, and the files that were sent to it.

    Parameters
    ----------
    folder : where files that were sent are kept; it is the worker's own, and goes with it
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: OrderedDict[tuple[str, PredictorOptions, LoadingOptions], Predictor] = OrderedDict()
        self._turn = threading.RLock()

    def predictor(
        self, reference: CheckpointReference, options: PredictorOptions, loading: LoadingOptions
    ) -> Predictor | None:
        """The predictor of this checkpoint, loaded when first needed; None where its file does not lie here."""
        key = (reference.sha256, options, loading)
        with self._turn:
            if key not in self._made:
                checkpoint = self._loaded(reference, loading)
                if checkpoint is None:
                    return None
                while len(self._made) >= _KEPT:
                    self._made.popitem(last=False)
                self._made[key] = Predictor(checkpoint, options)
            self._made.move_to_end(key)
            return self._made[key]

    def checkpoint(self, reference: CheckpointReference, loading: LoadingOptions) -> Checkpoint | None:
        """The checkpoint itself, loaded anew; None where its file does not lie here. Raises `CheckpointError`."""
        with self._turn:
            return self._loaded(reference, loading)

    def receive(self, what: SentCheckpoint) -> None:
        """Keep a checkpoint that was sent."""
        if hashlib.sha256(what.content).hexdigest() != what.content_sha256:
            raise CheckpointError(f"The checkpoint {what.reference.name} arrived damaged; begin again.")
        with self._turn:
            path = self._sent_path(what.reference)
            path.parent.mkdir(parents=True, exist_ok=True)
            if what.ranges:
                ranges_path(path).write_bytes(what.ranges)
            path.write_bytes(what.content)

    def _loaded(self, reference: CheckpointReference, loading: LoadingOptions) -> Checkpoint | None:
        here = self._sent_path(reference)
        if here.is_file():
            # Made with the weights that were asked for; its own hash was checked when it came.
            return replace(load_for(here, replace(loading, weights=None)), sha256=reference.sha256)
        for path in self._places(reference):
            if known_sha256(path) == reference.sha256:
                return load_for(path, loading)
        return None

    def _places(self, reference: CheckpointReference) -> list[Path]:
        """Where the file may lie: at the client's path, or among the checkpoints of this machine."""
        places = [Path(reference.path)]
        with contextlib.suppress(TransUNetError):
            places.append(resolve_checkpoint(reference.name))
        return [path for path in places if path.is_file()]

    def _sent_path(self, reference: CheckpointReference) -> Path:
        return self._folder / re.sub(r"[^0-9a-f]", "", reference.sha256)[:64] / file_name(reference.name)
