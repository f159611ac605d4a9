"""One run at a time writes into a directory: by a lock, or a lease on object stores."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import outputs, storage
from dask_als.core.locks import try_lock
from dask_als.core.ownership import IN_USE, is_content_of, marked_json
from dask_als.errors import InputError

NAME = ".in-use"
"""The file in a directory that names the run that uses it, or used it last."""

_SECONDS_BETWEEN_BEATS = 5.0
_SECONDS_OF_SILENCE = 20.0
_SECONDS_TO_SETTLE = 1.0


@contextmanager
def held(directory: str, run_id: str) -> Iterator[None]:
    """Hold a directory for one run during the block; make it if it does not exist.

    A killed run holds nothing. Its lock ends with its process. Object stores have no locks: there
    the next run watches for 20 seconds whether the file `NAME` still changes. A run with the same
    id is the same job resumed, and does not wait.

    Raises
    ------
    InputError
        If another run holds the directory, or it is not writable.
    """
    path = storage.join(directory, NAME)
    about = {
        "run_id": run_id,
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with ExitStack() as stack:
        try:
            storage.make_directory(directory)
            filesystem, inner = storage.file_system(path)
            is_local = isinstance(filesystem, LocalFileSystem)
            stack.callback(_lock(inner, about) if is_local else _lease(path, about))
        except OSError as error:
            said = storage.first_line(error)
            raise InputError(f"{directory} cannot be written: {said}") from None
        yield


def _lock(path: str, about: dict[str, Any]) -> Callable[[], None]:
    """Lock a local file; return a function that releases it."""
    file = _opened(path)
    if not try_lock(file.fileno()):
        file.seek(0)
        holder = file.read()
        file.close()
        raise _in_use(path, json.loads(holder or "{}"))
    file.truncate(0)
    file.write(marked_json(IN_USE, about))
    file.flush()
    return file.close


def _opened(path: str) -> IO[str]:
    """Open the file to lock; make it if it does not exist, refuse it if it is not ours."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{path} is a symbolic link, so it is not written; remove it") from None
    file = os.fdopen(descriptor, "a+")
    about = os.fstat(descriptor)
    is_plain = stat.S_ISREG(about.st_mode) and about.st_nlink == 1
    if is_plain:
        file.seek(0)
        is_plain = not about.st_size or is_content_of(file.read(1 << 16).encode(), IN_USE)
    if not is_plain:
        file.close()
        raise InputError(f"{path} was not made by dask-als, so it is not written; move it away")
    return file


def _lease(path: str, about: dict[str, Any]) -> Callable[[], None]:
    """Write a file that changes until the lease is released; return a function that releases it."""
    holder = _read(path)
    if holder and holder.get("run_id") != about["run_id"] and _changes(path, holder):
        raise _in_use(path, holder)
    outputs.replace_json(path, IN_USE, about)
    # If two runs started at once, the one that wrote first now finds the other's file.
    time.sleep(_SECONDS_TO_SETTLE)
    holder = _read(path)
    if not about.items() <= holder.items():
        raise _in_use(path, holder)
    given_back = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, about, given_back), daemon=True)
    beating.start()

    def give_back() -> None:
        given_back.set()
        beating.join()
        storage.remove(path)

    return give_back


def _beat(path: str, about: dict[str, Any], given_back: threading.Event) -> None:
    beats = 0
    while not given_back.wait(_SECONDS_BETWEEN_BEATS):
        beats += 1
        with suppress(OSError):  # It may be transient; a lease outlives a few missed beats.
            outputs.replace_json(path, IN_USE, {**about, "beats": beats})


def _changes(path: str, before: dict[str, Any]) -> bool:
    deadline = time.monotonic() + _SECONDS_OF_SILENCE
    while time.monotonic() < deadline:
        time.sleep(_SECONDS_TO_SETTLE)
        now = _read(path)
        if now != before:
            return bool(now)  # Nothing is left of a lease that was released meanwhile.
    return False


def _read(path: str) -> dict[str, Any]:
    """Return the holder of a lease; empty if there is no such file."""
    filesystem, inner = storage.file_system(path)
    try:
        # In one request: the file may be replaced between two.
        return dict(json.loads(filesystem.cat_file(inner)))
    except (FileNotFoundError, ValueError):
        return {}


def _in_use(path: str, holder: dict[str, Any]) -> InputError:
    directory = path.removesuffix(f"/{NAME}")
    return InputError(
        f"{directory} is in use by run {holder.get('run_id', 'unknown')} on "
        f"{holder.get('host', 'unknown')}, since {holder.get('since', 'unknown')}; "
        "wait until it ends, or choose another output"
    )
