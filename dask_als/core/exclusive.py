"""One run at a time: a lock on a file that is only read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import storage
from dask_als.core.locks import try_lock
from dask_als.errors import InputError


@contextmanager
def exclusive(path: str, done: str) -> Iterator[None]:
    """Hold the lock of an existing file for the block; a killed process holds nothing.

    There are no locks on object stores, nor on some file systems: there it does nothing.

    Parameters
    ----------
    path : str
    done : str
        What is done to the directory of the file, for the error.

    Raises
    ------
    InputError
        If another run holds it.
    """
    filesystem, inner = storage.file_system(path)
    if not isinstance(filesystem, LocalFileSystem):
        yield
        return
    with storage.reading(path):
        descriptor = os.open(inner, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if not try_lock(descriptor):
            directory = path.rpartition("/")[0]
            raise InputError(f"{directory} is being {done} by another run; wait for its end")
        yield
    finally:
        os.close(descriptor)
