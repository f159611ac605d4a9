"""Checksums of files: computed while they are written, compared when they are read."""

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
        If it cannot be read, or its CRC-32 differs.
    """
    content = content_with(source, crc32)
    with opened(target, "wb") as file:
        file.write(content)


class SummedFile:
    """A file that is written to, with the CRC-32 of what was written."""

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
    """Check that a file has a CRC-32.

    Raises
    ------
    InputError
        If the file is missing, or its CRC-32 differs.
    """
    if crc32_of(path) != crc32:
        raise not_the_file(path)


def has_changed(path: str, crc32: int) -> bool:
    """Tell whether a file is missing, cannot be read, or has another CRC-32."""
    try:
        check_crc32(path, crc32)
    except InputError:
        return True
    return False


# The state of each file when this process compared its checksum.
_CHECKED: dict[tuple[str, int], list[Any]] = {}


def check_once(path: str, crc32: int) -> None:
    """Check a file's CRC-32, unless this process did before and the file has not changed since."""
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
