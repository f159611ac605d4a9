"""Bytes in memory that Arrow allocates.

A thread of Arrow's pools may drop the last reference to a buffer while Python shuts down. If Python
allocated the buffer, freeing it then aborts the process; Arrow's own memory can be freed.
"""

from __future__ import annotations

from typing import IO

import pyarrow as pa


def read_all(file: IO[bytes]) -> pa.Buffer:
    """Read a seekable file from start to end."""
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
