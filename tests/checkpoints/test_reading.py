"""Files of strangers: what is opened, what is refused, and that nothing in them ever runs."""

import contextlib
import gzip
import io
import itertools
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_transunet.checkpoints import pickles
from napari_transunet.checkpoints.pickles import scan_pickle
from napari_transunet.checkpoints.reading import open_checkpoint
from napari_transunet.checkpoints.state_dicts import PREFIXES, WRAPPERS
from napari_transunet.errors import CheckpointError, FileProblem
from napari_transunet.files import sha256

STATE = {
    "transformer.a": torch.arange(6.0).reshape(2, 3),
    "decoder.b": torch.ones(4, dtype=torch.float16),
    "c.num_batches_tracked": torch.tensor(7),
}


class Command:
    """Pickled, it is a call of the operating system's shell."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class Evaluated:
    """Pickled, it is an expression to evaluate."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"open({str(self.marker)!r}, 'w')",)


def one_sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 600
    return text


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == value.dtype and torch.equal(found[key], value) for key, value in expected.items()
    )


# --- What is opened ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ""])
def test_plain_state_dicts_of_both_pytorch_formats(tmp_path: Path, legacy: bool, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    stored = open_checkpoint(path)
    assert stored.format == ("pytorch (before 1.6)" if legacy else "pytorch")
    assert stored.shapes == {key: tuple(value.shape) for key, value in STATE.items()}
    assert stored.tensors["decoder.b"].dtype == "float16"
    assert same(stored.read(), STATE)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(
        {f"module.{key}": value for key, value in STATE.items()}, path, metadata={"transunet_card": "{}"}
    )
    stored = open_checkpoint(path)
    assert stored.format == "safetensors"
    assert stored.card_text == "{}"
    assert stored.tensors["decoder.b"].dtype == "float16"
    assert same(stored.read(), STATE)


def test_safetensors_with_headers_of_every_length(tmp_path: Path) -> None:
    """The length is the file's beginning, and a multiple of 8: one in 32 begins as a pickle does."""
    path = tmp_path / "weights.safetensors"
    beginnings = set()
    for length in range(0, 257, 8):
        save_file(STATE, path, metadata={"transunet_card": "{}", "note": "x" * length})
        beginnings.add(path.read_bytes()[0])
        stored = open_checkpoint(path)
        assert stored.format == "safetensors"
        assert stored.card_text == "{}"
        assert same(stored.read(), STATE)
    assert beginnings == set(range(0, 256, 8))


def test_a_cut_header_that_begins_as_a_pickle_is_called_a_header(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes((0x0280).to_bytes(8, "little") + b'{"transformer.a":{"dtype":"F32"')
    with pytest.raises(CheckpointError, match="its header of") as caught:
        open_checkpoint(path)
    one_sentence(caught)


def test_the_format_is_told_by_the_content(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_file(STATE, path)
    assert open_checkpoint(path).format == "safetensors"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "wrappers", [(name,) for name in WRAPPERS] + list(itertools.permutations(WRAPPERS, 2))
)
def test_every_wrapping(tmp_path: Path, wrappers: tuple[str, ...], legacy: bool) -> None:
    path = tmp_path / "weights.pth"
    loaded: dict[str, Any] = OrderedDict(STATE)
    for name in reversed(wrappers):
        loaded = {"epoch": 150, "loss": torch.tensor(0.3), "optimizer": {"lr": [0.01]}, name: loaded}
    torch.save(loaded, path, _use_new_zipfile_serialization=not legacy)
    stored = open_checkpoint(path)
    assert stored.unwrapped == wrappers
    assert same(stored.read(), STATE)


@given(prefixes=st.lists(st.sampled_from(PREFIXES), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_every_prefix_in_any_order(tmp_path: Path, prefixes: list[str]) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"".join(prefixes) + key: value for key, value in STATE.items()}, path)
    stored = open_checkpoint(path)
    assert stored.prefixes == (("".join(prefixes),) if prefixes else ())
    assert same(stored.read(), STATE)


def test_parameters_shared_and_strided_tensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "a": torch.nn.Parameter(whole),
        "b": whole[1:, 2:],
        "c": whole.t(),
        "d": torch.zeros(0, 3),
        "e": torch.tensor(1.5),
    }
    torch.save(state, path)
    assert same(open_checkpoint(path).read(), {key: value.detach() for key, value in state.items()})


def test_archives_packed_again_are_read(tmp_path: Path) -> None:
    first, path = tmp_path / "first.pth", tmp_path / "packed.pth"
    torch.save(STATE, first)
    with zipfile.ZipFile(first) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert same(open_checkpoint(path).read(), STATE)


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(open_checkpoint(path).read(), STATE)


# --- Code --------------------------------------------------------------------------------------------------------


def bare_pickle(payload: object, path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps(payload, protocol=protocol))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_a_command_is_refused_by_name(tmp_path: Path, protocol: int, suffix: str) -> None:
    path, marker = tmp_path / f"hostile{suffix}", tmp_path / "executed"
    bare_pickle({"state_dict": Command(marker)}, path, protocol)
    with pytest.raises(CheckpointError, match=r"posix\.system") as caught:
        open_checkpoint(path)
    one_sentence(caught)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [Command, Evaluated])
def test_a_command_among_tensors_is_refused_by_name(
    tmp_path: Path, kind: type[Command | Evaluated], legacy: bool, protocol: int
) -> None:
    path, marker = tmp_path / "hostile.pth", tmp_path / "executed"
    state = {"model": {**STATE, "extra": kind(marker)}}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"posix\.system|builtins\.eval") as caught:
        open_checkpoint(path)
    one_sentence(caught)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "named"),
    [
        (b"cos\nsystem\n(S'touch MARKER'\ntR.", "os.system"),
        (b"(S'touch MARKER'\nios\nsystem\n.", "os.system"),
        (b"\x80\x02c__builtin__\nexec\n(X\x02\x00\x00\x0012tR.", "builtins.exec"),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x01x\x85R.", "os.system"),
        (b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93\x8c\x01x\x85R.", "os.system"),
        (b"\x80\x02\x82\x01.", "extension 1"),
        (b"\x80\x02ctorch.jit\nload\n.", "torch.jit.load"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n.", "numpy.core.multiarray._reconstruct"),
        (b"\x80\x02cbuiltins\nbytearray\n.", "builtins.bytearray"),
    ],
)
def test_every_way_to_import_is_seen(tmp_path: Path, program: bytes, named: str) -> None:
    marker = tmp_path / "executed"
    program = program.replace(b"MARKER", str(marker).encode())
    assert scan_pickle(io.BytesIO(program)).blocked == (named,)
    path = tmp_path / "hostile.pth"
    path.write_bytes(program)
    with pytest.raises(CheckpointError, match=named.replace(".", r"\.")):
        open_checkpoint(path)
    # The same program as the table of tensors of an archive.
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3")
    with pytest.raises(CheckpointError, match=named.replace(".", r"\.")):
        open_checkpoint(path)
    assert not marker.exists()


def test_a_whole_pickled_network_is_refused_by_its_class(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*net\.state_dict\(\)"):
        open_checkpoint(path)


def test_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "data.pkl", "code/__torch__.py"):
            archive.writestr(f"archive/{name}", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="TorchScript"):
        open_checkpoint(path)


# --- Numbers and their hash --------------------------------------------------------------------------------------

_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint16,
    torch.uint8,
    torch.bool,
)


@given(
    parts=st.lists(
        st.tuples(st.sampled_from(_DTYPES), st.lists(st.integers(0, 5), max_size=4)), min_size=1, max_size=6
    ),
    seed=st.integers(0, 99),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_what_is_read_once_is_what_the_format_s_own_library_maps(
    tmp_path: Path, parts: list[tuple[torch.dtype, list[int]]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = {
        f"transformer.{number}": torch.randint(
            0, 2 if dtype is torch.bool else 100, shape, generator=generator
        ).to(dtype)
        for number, (dtype, shape) in enumerate(parts)
    }
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    found, digest = open_checkpoint(path).read_hashed()
    assert same(found, load_file(path))
    assert same(found, state)
    assert list(found) == list(open_checkpoint(path).tensors)
    assert digest == sha256(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files_are_hashed_as_well(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    found, digest = open_checkpoint(path).read_hashed()
    assert same(found, STATE)
    assert digest == sha256(path)


def test_numbers_of_a_safetensors_file_are_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    stored = open_checkpoint(path)
    found = stored.read()
    assert not stored.mapped
    os.truncate(path, 0)
    assert same(found, STATE)


@pytest.mark.parametrize("change", ["shorter", "longer", "gone", "other names"])
def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    stored = open_checkpoint(path)
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "shorter": content[:-1],
                "longer": content + b"0",
                "other names": content.replace(b"transformer.a", b"transformer.z"),
            }[change]
        )
    with pytest.raises(CheckpointError) as caught:
        stored.read()
    one_sentence(caught)


def test_numbers_of_an_unknown_type_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"transformer.a": torch.ones(4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(CheckpointError, match="f8_e4m3") as caught:
        open_checkpoint(path).read()
    one_sentence(caught)


# --- Damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pytorch", "legacy", "safetensors"])
def test_a_file_cut_off_anywhere_is_one_sentence(tmp_path: Path, kind: str) -> None:
    whole, path = tmp_path / "whole", tmp_path / "cut.pth"
    if kind == "safetensors":
        save_file(STATE, whole)
    else:
        torch.save(STATE, whole, _use_new_zipfile_serialization=kind == "pytorch")
    content = whole.read_bytes()
    for length in {*range(0, len(content), 11), *range(16), *range(len(content) - 40, len(content))}:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path).read()
        one_sentence(caught)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), kind=st.sampled_from([True, False, None]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_a_wrong_byte_is_an_error_of_the_package_or_harmless(
    tmp_path: Path, position: int, value: int, kind: bool | None
) -> None:
    path = tmp_path / "spoilt.pth"
    if kind is None:
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        open_checkpoint(path).read()


def test_a_zip_bomb_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        for number in range(4):
            archive.writestr(f"archive/data/{number}", bytes(16 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match=r"would unpack to 67\.1 MB from 0\.1 MB"):
        open_checkpoint(path)


def test_a_bomb_in_the_table_of_tensors_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(20 << 20))
    with pytest.raises(CheckpointError, match="so it was not opened"):
        open_checkpoint(path)


def tensor_program(size: int, numel: int = 6, stride: int = 1) -> bytes:
    """A state dict of one tensor that claims `size` numbers of a storage that claims `numel`."""
    parts = [b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"]
    parts.append(b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + long(numel) + b"tQ")
    parts.append(b"K\x00(" + long(size) + b"t(" + long(stride) + b"t\x89ccollections\nOrderedDict\n)Rt")
    return b"".join(parts) + b"Rs."


def long(number: int) -> bytes:
    data = number.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


@pytest.mark.parametrize(
    ("size", "numel", "stride"),
    [
        (6, 6, 1),
        (10**12, 6, 1),
        (6, 10**12, 1),
        (10**12, 10**12, 1),
        (10**11, 6, 0),
        (6, 6, 10**9),
        (7, 6, 1),
        (6, 6, 2),
    ],
)
def test_a_tensor_that_claims_more_than_the_file_holds_takes_no_memory(
    tmp_path: Path, size: int, numel: int, stride: int
) -> None:
    path = tmp_path / "claims.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_program(size, numel, stride))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", np.arange(6, dtype=np.float32).tobytes())
    if (size, numel, stride) == (6, 6, 1):
        assert torch.equal(open_checkpoint(path).read()["a"], torch.arange(6.0))
        return
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).read()
    one_sentence(caught)


def test_an_endless_pickle_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 20_000)
    path = tmp_path / "long.pth"
    path.write_bytes(b"\x80\x02" + b"N0" * 10_001 + b".")
    with pytest.raises(CheckpointError, match="more instructions than any state dict"):
        open_checkpoint(path)


def test_members_named_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pth"
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("twice/data.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="contradicts itself"):
        open_checkpoint(path)


def test_a_header_larger_than_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "claims.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b'{"a":1}')
    with pytest.raises(CheckpointError, match="its header of"):
        open_checkpoint(path)


# --- Other files -------------------------------------------------------------------------------------------------


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="There is no file"):
        open_checkpoint(tmp_path / "none.pth")
    with pytest.raises(FileProblem, match="is a folder"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("empty.pth", b"", "is empty"),
        ("notes.pth", b"These are not weights.\n" * 9, "is no checkpoint"),
        ("page.pth", b"<!doctype html><title>404</title>", "a web page"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        ("ct.nii", bytes(344) + b"n+1\0" + bytes(200), "a NIfTI image"),
        ("ct.nii.gz", gzip.compress(bytes(1000), mtime=0), "a gzip file"),
        ("ct.dcm", bytes(128) + b"DICM" + bytes(100), "a DICOM image"),
        ("zeros.safetensors", bytes(1000), "is no checkpoint"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=named) as caught:
        open_checkpoint(path)
    assert one_sentence(caught).startswith(name)


def test_imagenet_weights_are_sent_to_load_imagenet(tmp_path: Path) -> None:
    path = tmp_path / "R50+ViT-B_16.npz"
    arrays = {"Transformer/encoder_norm/scale": np.ones(3), "cls": np.ones(3)}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"ImageNet.*load_imagenet"):
        open_checkpoint(path)
    np.savez(path, image=np.ones(3))
    with pytest.raises(CheckpointError, match="holds NumPy arrays"):
        open_checkpoint(path)


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "slides.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    with pytest.raises(CheckpointError, match="no PyTorch checkpoint"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("loaded", "named"),
    [
        ([1, 2], "a list"),
        (torch.ones(3), "a Tensor"),
        ({"epoch": 3}, "a dict with epoch"),
        ({}, "a dict with nothing in it"),
        ({"model": {"model": {}}}, "a dict with"),
        ({"a": torch.ones(2), "epoch": 3}, "under epoch"),
        ({1: torch.ones(2)}, "not all names"),
        ({"module.a": torch.ones(2), "a": torch.ones(2)}, "a twice"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_no_state_dict(tmp_path: Path, loaded: object, named: str, legacy: bool) -> None:
    path = tmp_path / "other.pth"
    torch.save(loaded, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=named) as caught:
        open_checkpoint(path)
    one_sentence(caught)


def test_another_pickle_protocol_is_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(STATE, path, pickle_protocol=4)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "pickle protocol 4" in one_sentence(caught)


def test_a_pytorch_file_named_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.save(STATE, path)
    with pytest.raises(CheckpointError, match=r"rename it to \.pth"):
        open_checkpoint(path)
