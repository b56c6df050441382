"""Files that were changed at random, the same way for the same seed, and what reading them may come to."""

import bz2
import gzip
import json
import random
import re
import resource
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from napari_transunet.annotation.session_file import ArraySpec, read_part, write_part
from napari_transunet.checkpoints.card import ModelCard
from napari_transunet.checkpoints.info import inspect_checkpoint
from napari_transunet.checkpoints.reading import open_checkpoint
from napari_transunet.errors import TransUNetError
from napari_transunet.io.reading import is_readable, list_series, read_volume
from napari_transunet.io.writing import write_labels
from napari_transunet.volumes.geometry import Geometry
from tests.io.ome_zarr_samples import write_ome_zarr
from tests.io.test_damaged import MAKERS

SECONDS, BYTES = 20.0, 1_000_000_000
_WORDS = (b"0", b"-1", b"1", b"nan", b"inf", b"-inf", b"1e999", b"2147483648", b"18446744073709551616", b"9" * 400, b"",
          b"\xb5m", b"foo", b"./..", b"%d", b"(", b'"', b"none", b"LIST", b"4294967295", b"0.5", b"1,5")  # fmt: skip
_NUMBERS = (0, 1, -1, 127, 255, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
_FLOATS = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-40, 1e38, -1.0)


@dataclass(frozen=True)
class Subject:
    """Something that is read: `make` writes a good file, `read` reads it. Where `unpack` is there, what lies within the
    compressed file is changed, and `pack`ed again.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    unpack: Callable[[bytes], bytes] | None = None
    pack: Callable[[bytes], bytes] | None = None
    changed: str | None = None  # the file beside `make`'s that is changed in its place


def _volume(path: Path) -> None:
    is_readable(path)
    list_series(path)
    volume = read_volume(path, max_bytes=50_000_000)
    assert volume.data.shape == volume.geometry.shape
    assert all(isinstance(note, str) and note for note in volume.source.notes)


def _labels(suffix: str) -> Callable[[Path], Path]:
    labels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 3
    return lambda folder: write_labels(
        folder / f"a{suffix}", labels, Geometry.default(labels.shape), {1: "liver"}
    )


def _nhdr(encoding: str, pack: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.raw").write_bytes(pack(b"ZZ" + bytes(120)))
        (folder / "a.nhdr").write_text(
            "NRRD0005\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 4 3\nspace directions:"
            " (0.7,0,0) (0,0.8,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\nspace origin: (1,2,3)\n"
            f'encoding: {encoding}\nspace units: "mm" "mm" "mm"\nbyte skip: 2\ndata file: a.raw\n'
        )
        return folder / "a.nhdr"

    return make


def _mhd(folder: Path) -> Path:
    (folder / "a.raw").write_bytes(bytes(130))
    (folder / "a.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 1 1 2\nDimSize = 5 4 3\n"
        "DistanceUnits = mm\nHeaderSize = 10\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
    )
    return folder / "a.mhd"


def _state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.zeros(4, 3, 3, 3), "head.bias": torch.zeros(5), "count": torch.tensor(3)}


def _pth(*, legacy: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        content = {"model": _state(), "model_ema": _state(), "epoch": 3}
        torch.save(content, folder / "a.pth", _use_new_zipfile_serialization=not legacy)
        return folder / "a.pth"

    return make


def _safetensors(folder: Path) -> Path:
    save_file(_state(), folder / "a.safetensors", metadata={"note": "x"})
    return folder / "a.safetensors"


def _checkpoint(path: Path) -> None:
    inspect_checkpoint(path).to_dict()
    tensors = open_checkpoint(path).read()
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())


def _card(folder: Path) -> Path:
    card = ModelCard(
        variant="testing", num_classes=3, img_size=(32, 32), n_skip=3, modality="CT", window=(-160.0, 240.0)
    )
    (folder / "a.card.json").write_text(json.dumps(card.model_dump(mode="json")))
    return folder / "a.card.json"


def _session(folder: Path) -> Path:
    labels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    planes = {"labels": dict(enumerate(labels))}
    write_part(
        folder / "a.part", planes, {"labels": ArraySpec.of(labels)}, {"n": 1}, whole=True, saved_at=1.0
    )
    return folder / "a.part"


def _ome_zarr(name: str, version: str) -> Subject:
    """One file of an OME-Zarr is changed."""

    def make(folder: Path) -> Path:
        values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
        return write_ome_zarr(folder / "a.zarr", values, levels=1, version=version) / name

    def read(path: Path) -> None:
        _volume(next(parent for parent in path.parents if parent.name == "a.zarr"))

    return Subject(make, read)


SUBJECTS: dict[str, Subject] = {
    **{kind: Subject(make, _volume) for kind, make in MAKERS.items()},
    "nii.gz within": Subject(MAKERS["nii.gz"], _volume, gzip.decompress, lambda raw: gzip.compress(raw, 1)),
    "nhdr": Subject(_nhdr("raw", bytes), _volume),
    "nhdr gzip": Subject(_nhdr("gzip", gzip.compress), _volume),
    "nhdr bzip2": Subject(_nhdr("bzip2", bz2.compress), _volume),
    "mhd": Subject(_mhd, _volume),
    **{
        f"labels{suffix}": Subject(_labels(suffix), _volume)
        for suffix in (".nii", ".nrrd", ".seg.nrrd", ".mha")
    },
    "ome-zarr": _ome_zarr("zarr.json", "0.5"),
    "ome-zarr 0.4": _ome_zarr(".zattrs", "0.4"),
    "ome-zarr array": _ome_zarr("s0/zarr.json", "0.5"),
    "ome-zarr array 0.4": _ome_zarr("s0/.zarray", "0.4"),
    "ome-zarr chunk": _ome_zarr("s0/c/0/0/0", "0.5"),
    "sidecar": Subject(_labels(".nii"), _volume, changed="a.json"),
    "pth": Subject(_pth(legacy=False), _checkpoint),
    "pth before 1.6": Subject(_pth(legacy=True), _checkpoint),
    "safetensors": Subject(_safetensors, _checkpoint),
    "card": Subject(_card, ModelCard.read),
    "session": Subject(_session, lambda path: list(read_part(path).planes())),
}


def mutated(content: bytes, dice: random.Random) -> bytes:
    """The bytes with one to four changes of different kinds, mostly near the begin, where headers lie."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        if not data:
            break
        at = dice.randrange(min(len(data), dice.choice((64, 400, 2000, len(data)))))
        what = dice.randrange(8)
        if what == 0:
            data[at] = dice.randrange(256)
        elif what == 1:
            data[at] ^= 1 << dice.randrange(8)
        elif what == 2:
            number = dice.choice(_NUMBERS)
            size = dice.choice((1, 2, 4, 8))
            data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, dice.choice(("little", "big")))
        elif what == 3:
            data[at : at + 4] = struct.pack(dice.choice("<>") + "f", dice.choice(_FLOATS))
        elif what == 4:
            places = list(re.finditer(rb"-?\d+(?:\.\d+)?|[A-Za-z]{2,}", bytes(data[:4000])))
            if places:
                start, end = dice.choice(places).span()
                data[start:end] = dice.choice(_WORDS)
        elif what == 5:
            del data[at : at + dice.choice((1, 4, 16, 200))]
        elif what == 6:
            other = dice.randrange(len(data))
            data[at:at] = data[other : other + dice.choice((1, 4, 16, 200))]
        else:
            lines = bytes(data[:4000]).split(b"\n")
            lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
            data[:4000] = b"\n".join(lines)
    return bytes(data)


def fuzz(kind: str, count: int, seed: int, folder: Path) -> None:
    """Read `count` mutations: each gives a value or one of our errors, in 20 s, and all of it in 1 GB.

    Raises
    ------
    AssertionError
        Anything else came of one; the text tells the seed, and the file stays in `folder`.
    """
    subject = SUBJECTS[kind]
    path = subject.make(folder)
    subject.read(path)  # the good file
    target = path if subject.changed is None else folder / subject.changed
    good = target.read_bytes()
    if subject.unpack is not None:
        good = subject.unpack(good)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        dice = random.Random(f"{kind} {seed} {number}")
        content = mutated(good, dice)
        target.write_bytes(content if subject.pack is None else subject.pack(content))
        started, sentence = time.monotonic(), "a value"
        try:
            subject.read(path)
        except TransUNetError as error:
            sentence = str(error)
        except Exception as error:
            raise AssertionError(f"{kind} {seed} {number}: {type(error).__name__}: {error}") from error
        assert sentence, f"{kind} {seed} {number}: an error without a sentence"
        assert "\n" not in sentence, f"{kind} {seed} {number}: {sentence}"
        seconds = time.monotonic() - started
        assert seconds < SECONDS, f"{kind} {seed} {number}: {seconds:.0f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < BYTES, f"{kind} {seed}: {grown / 1e9:.1f} GB"
