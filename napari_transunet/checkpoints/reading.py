"""Reading tensors from checkpoints of strangers: shapes first, numbers only once the shapes fit.

Nothing in a file is ever run. The format is recognised by the first bytes, not by the name; the archive's table of
contents and the pickle's imports are checked before torch sees either; sizes are checked before memory is taken.
"""

import contextlib
import hashlib
import io
import logging
import math
import mmap
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from napari_transunet.checkpoints.archive import Archive, megabytes, read_directory
from napari_transunet.checkpoints.card import CARD_KEY
from napari_transunet.checkpoints.layout import Shape
from napari_transunet.checkpoints.pickles import PickleScan, scan_pickle
from napari_transunet.checkpoints.state_dicts import bare, kind_of, unwrapped, without_prefixes
from napari_transunet.errors import CheckpointError, FileProblem, printable, some
from napari_transunet.files import file_problems, sha256

logger = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt")

_MAX_PICKLE = 16 << 20
_MAX_HEADER = 16 << 20
_PROTOCOL = 2
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, storage keys
_ADVICE = (
    "such files are never run; ask its author for the weights alone, "
    "saved with torch.save(net.state_dict(), …) or as .safetensors"
)
_FOREIGN = (
    (b"\x1f\x8b", 0, "a gzip file (a compressed image?)"),
    (b"\x89HDF", 0, "an HDF5 file"),
    (b"\x93NUMPY", 0, "a NumPy array"),
    (b"n+1\0", 344, "a NIfTI image"),
    (b"ni1\0", 344, "a NIfTI image"),
    (b"NRRD", 0, "an NRRD image"),
    (b"DICM", 128, "a DICOM image"),
    (b"ustar", 257, "a tar file (PyTorch before 0.1.10?)"),
    (b"\x89PNG", 0, "a picture"),
    (b"<", 0, "a web page (a failed download?)"),
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file itself"),
)
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype name ("float32") of a stored tensor."""

    shape: Shape
    dtype: str


@dataclass(frozen=True)
class _SafetensorsLayout:
    """Where the numbers lie: behind `start`, without gaps, in this order of keys, up to the file's `length`."""

    start: bytes
    order: tuple[str, ...]
    length: int


@dataclass(frozen=True)
class StoredTensors:
    """What a checkpoint holds, without its numbers.

    Attributes
    ----------
    format : "safetensors", "pytorch" or "pytorch (before 1.6)"
    tensors : key, without prefixes, → shape and dtype
    unwrapped : what the state dict was found in, e.g. ("state_dict", "model")
    others : names under which the file holds other weights of the same network, e.g. ("model_ema",)
    weights : which of them were asked for; None for those that come first
    prefixes : what was taken off the keys
    card_text : the JSON of the model card in the file's header, if there is one
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorInfo]
    unwrapped: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    card_text: str | None = None
    others: tuple[str, ...] = ()
    weights: str | None = None
    _layout: _SafetensorsLayout | None = field(default=None, repr=False)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Key → shape."""
        return {key: info.shape for key, info in self.tensors.items()}

    @property
    def mapped(self) -> bool:
        """Whether what `read` gives may lie in the file itself or share memory, and has to be copied to be kept."""
        return self._layout is None

    def read(self) -> dict[str, Tensor]:
        """The numbers: key → CPU tensor, as stored."""
        return self.read_hashed()[0]

    def read_hashed(self) -> tuple[dict[str, Tensor], str]:
        """What `read` gives, and the hexadecimal SHA-256 of the file, found on a second core at the same time.

        A safetensors file is read once, straight into the tensors' own memory, and what is hashed are those very
        bytes. It is not mapped: the weights must not change or vanish with the file, and copying them out of a map
        takes longer and holds them twice for that while.
        """
        with ThreadPoolExecutor(max_workers=1) as second:
            if self._layout is not None:
                return self._read_safetensors(self._layout, second)
            digest = second.submit(sha256, self.path)
            return self._read_pytorch(), digest.result()

    def _read_pytorch(self) -> dict[str, Tensor]:
        loaded = _torch_load(self.path, legacy=self.format != "pytorch")
        found, _, _ = unwrapped(loaded, self.path.name, self.weights)
        clean, _ = without_prefixes(found, self.path.name)
        tensors = {key: value for key, value in clean.items() if isinstance(value, Tensor)}
        if {key: tuple(value.shape) for key, value in tensors.items()} != self.shapes:
            raise _changed(self.path)
        return tensors

    def _read_safetensors(
        self, layout: _SafetensorsLayout, second: ThreadPoolExecutor
    ) -> tuple[dict[str, Tensor], str]:
        digest = hashlib.sha256()
        found: dict[str, Tensor] = {}
        try:
            with self.path.open("rb", buffering=0) as file:
                start = bytearray(len(layout.start))
                if os.fstat(file.fileno()).st_size != layout.length or not _fill(file, memoryview(start)):
                    raise _changed(self.path)
                if start != layout.start:
                    raise _changed(self.path)
                digest.update(start)
                for key in layout.order:
                    info = self.tensors[key]
                    dtype = _dtype_of(info, self.path.name)
                    raw = torch.empty(math.prod(info.shape) * dtype.itemsize, dtype=torch.uint8)
                    view = raw.numpy().data
                    if not _fill(file, view):
                        raise _changed(self.path)
                    second.submit(digest.update, view)
                    found[key] = raw.view(dtype).reshape(info.shape)
        except OSError as error:
            raise _damaged(self.path, error) from error
        # One thread takes its work in order, so this comes when every byte is hashed.
        return {key: found[key] for key in self.tensors}, second.submit(digest.hexdigest).result()


def open_checkpoint(path: str | os.PathLike[str], *, weights: str | None = None) -> StoredTensors:
    """What a `.safetensors`, `.pth` or `.pt` file holds. No numbers are read, and nothing in it is run.

    `weights` chooses among several that a training script stored: the name under which they lie, or "ema" for averaged
    ones. Without it, those of the last step are taken.

    Raises
    ------
    FileProblem
        There is no such file, or it cannot be read.
    CheckpointError
        It is no checkpoint, is damaged, declares more than it holds, or would need code to be run; the sentence
        names the code; or it holds no such `weights`.
    """
    path = Path(path)
    if path.is_dir():
        raise FileProblem(f"{path} is a folder; give the checkpoint file in it.")
    with file_problems(f"{path} cannot be read"):
        if not path.exists():
            raise FileProblem(f"There is no file {path}.")
        with path.open("rb") as file:
            start = file.read(512)
    if not path.is_file():
        raise FileProblem(f"{path} is no ordinary file.")
    if not start:
        raise CheckpointError(f"{path.name} is empty.")
    if start.startswith(b"PK\x03\x04"):
        stored = _open_archive(path, weights)
    elif start[8:9] == b"{" and (not _is_pickle(start) or _header_length(start) <= _MAX_HEADER):
        if weights is not None:
            raise CheckpointError(f"{path.name} holds one set of weights, so there are no others to choose.")
        stored = _open_safetensors(path, _header_length(start))
    elif _is_pickle(start):
        stored = _open_legacy(path, weights)
    else:
        raise _not_a_checkpoint(path, start)
    if not stored.tensors:
        raise CheckpointError(f"{path.name} holds no tensors.")
    return stored


# --- safetensors -------------------------------------------------------------------------------------------------


def _header_length(start: bytes) -> int:
    return int.from_bytes(start[:8], "little")


def _is_pickle(start: bytes) -> bool:
    """Whether a file begins as pickles since protocol 2 do, and one safetensors file in 32 (a length of 128, 384, …).

    So it decides only where no header of a credible length follows. PyTorch's pickles are never taken for one: their
    magic number lies where such a length has zeros.
    """
    return start[:1] == b"\x80"


def _open_safetensors(path: Path, header: int) -> StoredTensors:
    length = path.stat().st_size
    if header > min(length - 8, _MAX_HEADER):
        raise CheckpointError(
            f"{path.name} is truncated or damaged: its header of {megabytes(header)} does not fit the file."
        )
    try:
        with path.open("rb") as plain:
            start = plain.read(8 + header)
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            by_offset = file.offset_keys()
            tensors = {}
            for key in file.keys():  # noqa: SIM118 - what safe_open gives is no mapping
                part = file.get_slice(key)
                dtype = str(part.get_dtype())
                tensors[key] = TensorInfo(
                    tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(dtype, dtype.lower())
                )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    clean, prefixes = without_prefixes(tensors, path.name)
    # That there are no gaps and no overlaps is checked by safe_open.
    layout = _SafetensorsLayout(start, tuple(bare(key) for key in by_offset), length)
    return StoredTensors(
        path, "safetensors", clean, prefixes=prefixes, card_text=metadata.get(CARD_KEY), _layout=layout
    )


def _dtype_of(info: TensorInfo, name: str) -> torch.dtype:
    if info.dtype not in _SAFETENSORS_DTYPES.values():
        raise CheckpointError(f"{name} holds numbers of the type {info.dtype}; convert it to float32 first.")
    dtype: torch.dtype = getattr(torch, info.dtype)
    return dtype


def _fill(file: io.FileIO, view: memoryview) -> bool:
    """Read until the view is full; false where the file ends before that."""
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            return False
        done += count
    return True


# --- PyTorch -----------------------------------------------------------------------------------------------------


def _open_archive(path: Path, weights: str | None) -> StoredTensors:
    archive = read_directory(path)
    members = archive.sizes
    if any(name.endswith(".npy") for name in members):
        raise _npz(path, archive)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if any(name.rpartition("/")[2] == "constants.pkl" for name in members):
        raise CheckpointError(f"{path.name} is a TorchScript program, not weights; {_ADVICE}.")
    if len(pickles) != 1:
        raise CheckpointError(
            f"{path.name} is a zip archive but no PyTorch checkpoint: it has no data.pkl"
            f"{' of its own' if pickles else ''}; .pth, .pt and .safetensors files can be read."
        )
    if members[pickles[0]] > _MAX_PICKLE:
        raise CheckpointError(
            f"{path.name} has a table of tensors of {megabytes(members[pickles[0]])}, far more than any network needs."
        )
    with _as_damage(path), zipfile.ZipFile(path) as opened:
        member = opened.getinfo(pickles[0])
        del member.CRC  # torch can save without checksums; the pickle is checked opcode by opcode anyway.
        scan = scan_pickle(io.BytesIO(opened.read(member)))
    _refuse_code(path, scan)
    _check_protocol(path, scan)
    return _describe(path, "pytorch", weights)


def _open_legacy(path: Path, weights: str | None) -> StoredTensors:
    scans: list[PickleScan] = []
    with _as_damage(path), path.open("rb") as file, _mapped(file) as view:
        while len(scans) < _LEGACY_PICKLES and view.tell() < len(view):
            scans.append(scan_pickle(view))
            _refuse_code(path, scans[-1])
    if len(scans) < _LEGACY_PICKLES:
        raise CheckpointError(
            f"{path.name} is a Python pickle but no PyTorch checkpoint, or a truncated one."
        )
    for scan in scans:
        _check_protocol(path, scan)
    return _describe(path, "pytorch (before 1.6)", weights)


def _describe(path: Path, kind: str, weights: str | None) -> StoredTensors:
    """Shapes by way of torch's own restricted unpickler, with all storages on the device without memory."""
    loaded = _torch_load(path, legacy=kind != "pytorch", shapes_only=True)
    found, wrappers, others = unwrapped(loaded, path.name, weights)
    clean, prefixes = without_prefixes(found, path.name)
    length = path.stat().st_size
    tensors = {}
    for key, value in clean.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path.name} holds {kind_of(value)} where a tensor belongs, under {printable(key)}; "
                "it is no state dict."
            )
        _check_extent(path, key, value, length)
        tensors[key] = TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."))
    return StoredTensors(
        path, kind, tensors, unwrapped=wrappers, prefixes=prefixes, others=others, weights=weights
    )


def _check_extent(path: Path, key: str, value: Tensor, length: int) -> None:
    """That a tensor lies in its storage, and both in the file: `set_` grows a storage without a word."""
    storage = value.untyped_storage()
    # torch notes where in the archive a storage begins; files of the old format have it not.
    start: int = getattr(storage, "_checkpoint_offset", None) or 0
    last = int(value.storage_offset()) + sum(
        (size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True)
    )
    needed = (last + 1) * value.element_size() if value.numel() else 0
    dense = math.prod(value.shape) * value.element_size()
    if max(needed, dense) > length or start + max(storage.nbytes(), needed) > length:
        raise CheckpointError(
            f"{path.name} is truncated or damaged: {key} needs {megabytes(max(dense, needed))} "
            f"that the file of {megabytes(length)} does not have."
        )


def _torch_load(path: Path, *, legacy: bool, shapes_only: bool = False) -> Any:
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path.name} is a PyTorch file under the name of another format; rename it to .pth."
        )
    with _as_damage(path):
        if shapes_only:
            with torch.serialization.skip_data():
                return torch.load(path, map_location="meta", weights_only=True)
        mapped = not legacy and not read_directory(path).compressed
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _refuse_code(path: Path, scan: PickleScan) -> None:
    if not scan.blocked:
        return
    raise CheckpointError(
        f"{path.name} was blocked: to open it, {some(scan.blocked)} would have to be run, and {_ADVICE}."
    )


def _check_protocol(path: Path, scan: PickleScan) -> None:
    if scan.protocol > _PROTOCOL:
        raise CheckpointError(
            f"{path.name} was saved with pickle protocol {scan.protocol}; "
            f"save it again with torch.save's own protocol, {_PROTOCOL}."
        )


# --- Sentences ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Whatever reading a stranger's bytes raises, in one sentence."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        # Damaged bytes make torch, zipfile and pickletools raise almost anything: struct.error, KeyError, …
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointError:
    logger.debug("%s cannot be read", path, exc_info=error)
    detail = str(error).strip().split("\n", 1)[0].rstrip(".")[:160]
    reason = f" ({printable(detail)})" if detail and not isinstance(error, pickle.UnpicklingError) else ""
    return CheckpointError(f"{path.name} is truncated or damaged{reason}; copy or download it again.")


def _changed(path: Path) -> CheckpointError:
    return CheckpointError(f"{path.name} changed while it was being read; try again.")


def _npz(path: Path, archive: Archive) -> CheckpointError:
    arrays = [name for name in archive.sizes if name.endswith(".npy")]
    if any(name.startswith("Transformer/") for name in arrays):
        return CheckpointError(
            f"{path.name} holds ImageNet weights to start training from, no trained model; build a TransUNet and give "
            "the file to load_imagenet."
        )
    return CheckpointError(
        f"{path.name} holds NumPy arrays ({some(arrays)}), no checkpoint; "
        ".pth, .pt and .safetensors files can be read."
    )


def _not_a_checkpoint(path: Path, start: bytes) -> CheckpointError:
    # A pickle of protocol 0 or 1 has no mark at its start, so it is looked for in whatever has no other mark.
    scan = None
    with contextlib.suppress(Exception), path.open("rb") as file, _mapped(file) as view:
        scan = scan_pickle(view)
    if scan is not None:
        _refuse_code(path, scan)
    for mark, offset, kind in _FOREIGN:
        if start[offset : offset + len(mark)] == mark:
            return CheckpointError(
                f"{path.name} is {kind}, no checkpoint; .pth, .pt and .safetensors can be read."
            )
    return CheckpointError(
        f"{path.name} is no checkpoint, or its beginning is damaged; .pth, .pt and .safetensors files can be read."
    )


def _mapped(file: IO[bytes]) -> mmap.mmap:
    # pickletools asks for as many bytes as the pickle says a string has; a map never gives more than there are.
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
