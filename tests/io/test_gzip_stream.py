"""Compressed streams: any cut into members, pieces and requests gives the same bytes, and damage is noticed."""

import gzip
import importlib.util
import io
import zlib
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_transunet.errors import VolumeError
from napari_transunet.io import gzip_stream as inflating
from napari_transunet.io.gzip_stream import Inflated

DATA = b"".join(number.to_bytes(2, "little") for number in range(40_000))


@pytest.fixture(params=["zlib", "isal.isal_zlib"])
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Every module that may inflate, in turn."""
    if importlib.util.find_spec(request.param.split(".")[0]) is None:
        pytest.skip(f"{request.param} is not installed")
    chosen = importlib.import_module(request.param)
    monkeypatch.setattr(inflating, "inflater", lambda: chosen)
    return chosen


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    padding=st.integers(0, 3),
    after=st.sampled_from([b"", b"\0 more", b"\x1f", b"PK"]),
    count=st.integers(1, 5000),
    piece=st.integers(1, 700),
)
def test_any_members_and_requests_give_the_same(
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    members: list[bytes],
    padding: int,
    after: bytes,
    count: int,
    piece: int,
) -> None:
    monkeypatch.setattr(inflating, "_PIECE", piece)
    packed = (b"\0" * padding).join(gzip.compress(member) for member in members) + after
    stream = Inflated(io.BytesIO(packed))
    found = b""
    while got := stream.read(count):
        assert len(got) == count or found + got == b"".join(members)
        found += got
    assert found == b"".join(members)
    assert stream.read(count) == b""


def test_positions_ahead_are_found(module: ModuleType) -> None:
    stream = Inflated(io.BytesIO(gzip.compress(DATA)))
    assert stream.seek(50_000) == 50_000
    assert stream.read(10) == DATA[50_000:50_010]
    with pytest.raises(ValueError, match="front to back"):
        stream.seek(3)
    assert stream.seek(10**9) == len(DATA)
    assert stream.read(1) == b""


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_truncated_anywhere(module: ModuleType, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(DATA)
    assert Inflated(io.BytesIO(packed), gzip_only=False).read(len(DATA) + 1) == DATA
    for length in (0, 1, 9, 500, len(packed) // 2, len(packed) - 5, len(packed) - 1):
        with pytest.raises(VolumeError, match="damaged or ends early"):
            Inflated(io.BytesIO(packed[:length]), gzip_only=False).read(len(DATA) + 1)


def test_a_wrong_checksum_is_noticed_at_the_end(module: ModuleType) -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[-8] ^= 1
    stream = Inflated(io.BytesIO(bytes(packed)))
    with pytest.raises(VolumeError, match="damaged"):
        stream.read(len(DATA) + 1)


def test_a_bare_zlib_stream_is_no_gzip(module: ModuleType) -> None:
    with pytest.raises(VolumeError, match="damaged"):
        Inflated(io.BytesIO(zlib.compress(DATA))).read(1)
