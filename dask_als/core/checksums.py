"""Checksums of files: written with them, compared as they are read."""

from __future__ import annotations

import hashlib
import zlib
from typing import IO, Any

import pyarrow as pa

from dask_als.core.arrow_memory import read_all
from dask_als.core.storage import STATE_OF_FILE, file_system, opened, reading
from dask_als.errors import InputError

BYTES_AT_ONCE = 1 << 20


def copy(source: str, target: str, *, crc32: int) -> None:
    """Copy a file whose CRC-32 is known.

    Raises
    ------
    InputError
        If it cannot be read, or is another one.
    """
    content = content_with(source, crc32)
    with opened(target, "wb") as file:
        file.write(content)


class SummedFile:
    """A file that is written to, and the CRC-32 of what went into it."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc32 = 0

    def write(self, data: bytes) -> int:
        """Write bytes and add them to the checksum."""
        self.crc32 = zlib.crc32(data, self.crc32)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def crc32_of(path: str) -> int:
    """Return the CRC-32 of a file.

    Raises
    ------
    InputError
        If the file is missing or cannot be read.
    """
    found = 0
    with reading(path), opened(path) as file:
        while some := file.read(BYTES_AT_ONCE):
            found = zlib.crc32(some, found)
    return found


def sha256(path: str) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    InputError
        If the file is missing or cannot be read.
    """
    return hashlib.sha256(content_of(path)).hexdigest()


def check_crc32(path: str, crc32: int) -> None:
    """Compare a file's CRC-32.

    Raises
    ------
    InputError
        If the file is missing or another one.
    """
    if crc32_of(path) != crc32:
        raise not_the_file(path)


def has_changed(path: str, crc32: int) -> bool:
    """Tell whether a file is missing, cannot be read, or is not the one with a CRC-32."""
    try:
        check_crc32(path, crc32)
    except InputError:
        return True
    return False


# Of files that this process has read whole: what they were like then.
_CHECKED: dict[tuple[str, int], list[Any]] = {}


def check_once(path: str, crc32: int) -> None:
    """Compare a file's CRC-32, unless this process did and the file has not changed since."""
    with reading(path):
        filesystem, inner = file_system(path)
        info = filesystem.info(inner)
        state = [str(info.get(key)) for key in STATE_OF_FILE]
    if _CHECKED.get((path, crc32)) == state:
        return
    check_crc32(path, crc32)
    _CHECKED[path, crc32] = state


def content_with(path: str, crc32: int) -> pa.Buffer:
    """Return the content of a file whose CRC-32 must be the given one."""
    content = content_of(path)
    if zlib.crc32(content) != crc32:
        raise not_the_file(path)
    return content


def not_the_file(path: str) -> InputError:
    """Return the error that a file is not the one its manifest names."""
    return InputError(f"{path} is damaged, or not the file that belongs there: its CRC-32 differs")


def content_of(path: str) -> pa.Buffer:
    """Return the content of a file, in memory that Arrow owns."""
    with reading(path), opened(path) as file:
        return read_all(file)
