"""Bytes in memory that Arrow allocates itself.

A thread of Arrow's pools may drop the last reference to a buffer while Python ends. Python's bytes
cannot be freed then, and the process aborts; Arrow's own memory can.
"""

from __future__ import annotations

from typing import IO

import pyarrow as pa


def read_all(file: IO[bytes]) -> pa.Buffer:
    """Read a file that can be sought, from its start to its end."""
    size = file.seek(0, 2)
    file.seek(0)
    buffer = pa.allocate_buffer(size)
    into = memoryview(buffer).cast("B")
    done = 0
    while done < size:
        if not (n_bytes := file.readinto(into[done:])):  # type: ignore[attr-defined]
            raise OSError(f"it ended after {done:,} of {size:,} bytes")
        done += n_bytes
    return buffer


def copied(content: bytes) -> pa.Buffer:
    """Copy bytes."""
    buffer = pa.allocate_buffer(len(content))
    memoryview(buffer).cast("B")[:] = content
    return buffer
