"""Standard output and error that may go away without taking the work with them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dask_als.errors import JobError


class _Outlet(io.FileIO):
    """What is written here gets lost if nobody can take it; the first error is kept."""

    error: OSError | None = None

    def write(self, data: object) -> int:
        if self.error is None:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes  # type: ignore[arg-type]


@contextmanager
def lasting() -> Iterator[None]:
    """Let the block go on if a reader of the standard streams goes away, or their disk is full.

    Text that the streams' encoding does not know is written with backslashes. A stream that is not
    this process's own, such as that of a test, stays as it is.
    """
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        _replace(name)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.flush()
        sys.stdout, sys.stderr = before


def check_written() -> None:
    """Check that standard output was written, as far as it was wanted.

    Raises
    ------
    JobError
        If it was lost, other than by a reader that wanted no more.
    """
    outlet = _outlet()
    if outlet is None:
        return
    sys.stdout.flush()
    if outlet.error and not isinstance(outlet.error, BrokenPipeError):
        raise JobError(f"standard output could not be written: {outlet.error.strerror}")


def is_read() -> bool:
    """Tell whether standard output still has a reader, as far as is known."""
    outlet = _outlet()
    return outlet is None or outlet.error is None


def _outlet() -> _Outlet | None:
    """Return what standard output is written to, if it is lasting."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Outlet) else None


def _replace(name: str) -> None:
    """Put a lasting stream in the place of one of this process's own."""
    stream = getattr(sys, name)
    if stream is None or stream is not getattr(sys, f"__{name}__"):
        return
    try:
        stream.flush()
        outlet = _Outlet(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError):
        return
    lasting_stream = io.TextIOWrapper(
        io.BufferedWriter(outlet),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or name == "stderr",
    )
    setattr(sys, name, lasting_stream)
