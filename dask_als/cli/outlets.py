"""Standard output and error whose loss does not end the command."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dask_als.errors import JobError


class _Outlet(io.FileIO):
    """A raw stream that keeps the first write error and discards all later output."""

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
    """Let the block continue if a reader closes the standard streams or their disk is full.

    Characters outside the encoding of a stream are written as backslash escapes. A stream that was
    replaced already, for instance by a test, is left alone.
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
    """Check that standard output was written.

    Raises
    ------
    JobError
        If output was lost for another reason than a closed pipe.
    """
    outlet = _outlet()
    if outlet is None:
        return
    sys.stdout.flush()
    if outlet.error and not isinstance(outlet.error, BrokenPipeError):
        raise JobError(f"standard output could not be written: {outlet.error.strerror}")


def is_read() -> bool:
    """Return whether no write to standard output has failed so far."""
    outlet = _outlet()
    return outlet is None or outlet.error is None


def _outlet() -> _Outlet | None:
    """Return the raw stream of standard output if `lasting` replaced it, else None."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Outlet) else None


def _replace(name: str) -> None:
    """Replace a standard stream of this process."""
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
