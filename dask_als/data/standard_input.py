"""Copy standard input or a pipe to a file, which all workers can read, and more than once."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import storage
from dask_als.core.outputs import scratch_beside
from dask_als.data.source_files import STANDARD_INPUT, is_stream
from dask_als.errors import InputError, JobError


def _shown(source: str) -> str:
    return "standard input" if source == STANDARD_INPUT else source


@contextmanager
def as_file(source: str, output: str) -> Iterator[str]:
    """Return the path of a source; of a stream, a temporary copy beside the output.

    Raises
    ------
    InputError
        If the stream cannot be read.
    JobError
        If it cannot be written.
    """
    if not is_stream(source):
        yield source
        return
    is_local = isinstance(storage.file_system(output)[0], LocalFileSystem)
    beside = output if is_local else os.path.join(tempfile.gettempdir(), "dask-als-input")
    with ExitStack() as stack:
        try:
            path = os.path.join(stack.enter_context(scratch_beside(beside)), "input")
            copy = stack.enter_context(open(path, "wb"))
        except OSError as error:
            raise JobError(
                f"standard input cannot be copied: {storage.first_line(error)}"
            ) from None
        with copy:
            try:
                if source == STANDARD_INPUT:
                    shutil.copyfileobj(sys.stdin.buffer, copy)
                else:
                    with open(source, "rb") as stream:
                        shutil.copyfileobj(stream, copy)
            except OSError as error:
                raise InputError(
                    f"{_shown(source)} cannot be read: {storage.first_line(error)}"
                ) from None
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(path, _shown(source))) from None
