"""Gzip and zlib streams: read checked to their end, never holding more than was asked for; and written."""

import gzip
import importlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from napari_transunet.errors import VolumeError

_PIECE = 1 << 18
_SKIPPED = 1 << 20
# zlib's names for what wraps the data.
_GZIP, _GZIP_OR_ZLIB = 31, 47


def inflater() -> Any:
    """The module that inflates: `isal_zlib`, the same interface about twice as fast, where it is installed."""
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return zlib


@contextmanager
def damage_as_volume_error() -> Iterator[None]:
    """Turns what decompressors raise on damaged or short data into a `VolumeError`."""
    try:
        yield
    except (EOFError, zlib.error, inflater().error, gzip.BadGzipFile) as error:
        raise VolumeError("the compressed data is damaged or ends early; copy the file again.") from error


class Inflated:
    """The bytes of a compressed stream that begins where the file stands, from front to back.

    A gzip stream may have several members, one after the other; what follows the last is left alone. Checksums are
    compared once a member has been read to its end.

    Parameters
    ----------
    file : open for reading
    gzip_only : refuse a bare zlib stream, which has one member
    """

    def __init__(self, file: IO[bytes], *, gzip_only: bool = True) -> None:
        self._file = file
        self._module = inflater()
        self._first = _GZIP if gzip_only else _GZIP_OR_ZLIB
        self._inflate: Any = None
        self._pending = b""
        self._at = 0

    def read(self, count: int, /) -> bytes:
        """The next `count` bytes, fewer only at the end."""
        pieces = []
        while piece := self.read1(count):
            pieces.append(piece)
            count -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read1(self, count: int, /) -> bytes:
        """As many of the next `count` bytes as are at hand, at least one, none at the end."""
        if count < 1:
            return b""
        with damage_as_volume_error():
            while self._begun():
                piece = self._pending or self._file.read(_PIECE)
                out: bytes = self._inflate.decompress(piece, count)
                if self._inflate.eof:
                    self._pending = self._inflate.unused_data
                else:
                    self._pending = self._inflate.unconsumed_tail
                    if not out and not piece:
                        raise EOFError("the compressed data ends early")
                if out:
                    self._at += len(out)
                    return out
        return b""

    def seek(self, position: int, /) -> int:
        """Goes forward to a position counted in inflated bytes, or to the end; returns where it stands.

        Raises
        ------
        ValueError
            The position lies behind.
        """
        if position < self._at:
            raise ValueError("A compressed stream is read from front to back.")
        while self._at < position and self.read1(min(_SKIPPED, position - self._at)):
            pass
        return self._at

    def _begun(self) -> bool:
        """Whether there is a member to read on; begins the next one where the last has ended."""
        if self._inflate is None:
            self._inflate = self._module.decompressobj(wbits=self._first)
        elif self._inflate.eof:
            # Zeros may pad a member, as they do on tapes.
            while not (rest := self._pending.lstrip(b"\0")) and (more := self._file.read(_PIECE)):
                self._pending = more
            if len(rest) == 1:
                rest += self._file.read(1)
            self._pending = rest
            if rest[:2] != b"\x1f\x8b":
                return False
            self._inflate = self._module.decompressobj(wbits=_GZIP)
        return True


def write_gzip(file: IO[bytes], pieces: Iterable[bytes]) -> None:
    """Compress into a file, without time stamp or name: the same pieces give the same bytes."""
    with gzip.GzipFile("", "wb", compresslevel=4, fileobj=file, mtime=0) as stream:
        stream.writelines(pieces)
