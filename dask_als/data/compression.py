"""Open compressed files, known by their first bytes or else by their names."""

from __future__ import annotations

import codecs
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa

from dask_als.core import storage
from dask_als.errors import DaskALSError, InputError

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
SUFFIXES = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".zip": "zip",
}
# Those of UTF-32 first: one of them starts with one of UTF-16.
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_READ_ERRORS = (
    pa.ArrowException,
    OSError,
    EOFError,
    RuntimeError,  # an encrypted archive
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Convert errors of reading a file to an InputError that names the file."""
    try:
        yield
    except DaskALSError:
        raise
    except _READ_ERRORS as error:
        raise InputError(f"{path} cannot be read: {storage.first_line(error)}") from None


def compression_of(path: str, start: bytes) -> str | None:
    """Return how a file is compressed; None if it is not."""
    for magic, compression in _MAGIC.items():
        if start.startswith(magic):
            return compression
    return next((how for end, how in SUFFIXES.items() if path.lower().endswith(end)), None)


@dataclass(frozen=True)
class TextFile:
    """A file whose content is text.

    Attributes
    ----------
    path : str
    compression : str or None
    member : str or None
        The file in a zip archive.
    wide : str or None
        An encoding in which line ends are not single bytes, as UTF-16; the text is read as UTF-8.
    """

    path: str
    compression: str | None = None
    member: str | None = None
    wide: str | None = None

    @property
    def is_seekable(self) -> bool:
        """Whether the bytes of the file are those of the text."""
        return self.compression is None and self.wide is None

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the text, decompressed."""
        with self._decompressed() as file:
            yield file if self.wide is None else io.BufferedReader(_Recoded(file, self.wide))

    @contextmanager
    def _decompressed(self) -> Iterator[IO[bytes]]:
        if self.compression == "zip":
            with (
                storage.opened(self.path) as file,
                zipfile.ZipFile(file) as archive,
                archive.open(self.member or "") as text,
            ):
                yield text
        elif self.compression == "zstd":
            with (
                storage.opened(self.path) as file,
                pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") as text,
            ):
                yield io.BufferedReader(text)
        else:
            with fsspec.open(self.path, "rb", compression=self.compression) as text:
                yield text


class _Recoded(io.RawIOBase):
    """Text of any encoding, read as UTF-8."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            data = self._file.read(1 << 16)
            self._rest = self._decoder.decode(data, final=not data).encode()
            if not data and not self._rest:
                return 0
        n_bytes = min(len(buffer), len(self._rest))
        buffer[:n_bytes] = self._rest[:n_bytes]
        self._rest = self._rest[n_bytes:]
        return n_bytes


def wide_encoding(start: bytes, encoding: str | None) -> str | None:
    """Return an encoding in which line ends are not single bytes; None for all others."""
    if encoding is None:
        return next((name for mark, name in _WIDE_MARKS.items() if start.startswith(mark)), None)
    return None if "\r\n,0".encode(encoding) == b"\r\n,0" else encoding
