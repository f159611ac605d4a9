"""The directories that outputs are written in on local storage, and what killed runs leave of them.

::

    .NAME.0123456789abcdef.partial/     beside NAME; its name proves that it is ours
      .lock                             locked while its process lives
      NAME                              the new output; after the exchange, the old one
      .replacing                        exists once NAME may be the old output
      .old                              the old output, where two names cannot be exchanged
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import local_files, ownership, storage
from dask_als.core.ownership import FileKind, Kind
from dask_als.errors import InputError

_LOG = logging.getLogger(__name__)

_LOCK, REPLACING, _OLD = ".lock", ".replacing", ".old"


def settle(path: str) -> None:
    """Remove staging directories of killed runs for an output; restore an old output they moved.

    On local storage only, and only directories whose lock nobody holds.
    """
    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        parent, name = placed(inner)
        settle_all(parent, lambda staged: staged == name)


def settle_all(directory: str, is_wanted: Callable[[str], object]) -> None:
    """Settle all outputs of a directory whose names satisfy a predicate; see `settle`.

    Object stores have no locks, so there the caller must know that no run is alive.
    """
    filesystem, inner = storage.file_system(directory)
    is_local = isinstance(filesystem, LocalFileSystem)
    if not filesystem.isdir(inner):
        return
    names = [
        str(name).rstrip("/").rsplit("/", 1)[-1] for name in filesystem.ls(inner, detail=False)
    ]
    for entry in sorted(names):
        name = ownership.name_staged_in(entry)
        if name is None or not is_wanted(name):
            continue
        staging = storage.join(inner, entry)
        if not is_local:
            filesystem.rm(staging, recursive=True)
        else:
            with suppress(OSError):
                _settle_one(inner, name, staging)


def _settle_one(parent: str, name: str, staging: str) -> None:
    if os.path.islink(staging):
        return
    try:
        lock = os.open(os.path.join(staging, _LOCK), os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        os.rmdir(staging)  # Its run was killed before it made the lock, or after it removed it.
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        target, old = os.path.join(parent, name), os.path.join(staging, _OLD)
        if os.path.lexists(old) and not os.path.lexists(target):
            os.rename(old, target)
            local_files.sync_directory(parent)
            _LOG.warning("restored %s, which a killed run had moved away", target)
        is_replacing = os.path.lexists(os.path.join(staging, REPLACING))
        shutil.rmtree(os.path.join(staging, local_files.doomed_name(name)), ignore_errors=True)
        for place in (name, _OLD):
            if place == name and not is_replacing:
                local_files.remove_whole(os.path.join(staging, place))
            elif os.path.lexists(os.path.join(staging, place)):
                discard(staging, place, _proven_files(os.path.join(staging, place)))
        if _end(staging):
            _LOG.warning("removed %s, which a killed run had left", staging)
    finally:
        os.close(lock)


_KINDS = [kind for kind in vars(ownership).values() if isinstance(kind, Kind)]
_FILE_KINDS = [kind for kind in vars(ownership).values() if isinstance(kind, FileKind)]


def _proven_files(path: str) -> list[str] | None:
    """Return the files of an old output of any kind; None if it is a single file."""
    if not os.path.isdir(path):
        for file_kind in _FILE_KINDS:
            with suppress(InputError):
                ownership.check_file(path, file_kind)
                return None
        return []
    for kind in _KINDS:
        with suppress(InputError):
            return ownership.listed_files(path, kind)
    return []


def placed(inner: str) -> tuple[str, str]:
    """Return the real directory that a path is in, and its name there."""
    parent, name = os.path.split(os.path.abspath(inner))
    return os.path.realpath(parent), name


@contextmanager
def staging_beside(parent: str, name: str) -> Iterator[str]:
    """Make a staging directory and hold its lock for the block; then remove it with its content."""
    staging, lock = _made_with_lock(parent, name)
    try:
        with suppress(OSError):  # The file system may have no locks.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
    finally:
        with suppress(OSError):
            if not os.path.lexists(os.path.join(staging, REPLACING)):
                local_files.remove_whole(os.path.join(staging, name))
            _end(staging)
        os.close(lock)


def _made_with_lock(parent: str, name: str) -> tuple[str, int]:
    while True:
        staging = os.path.join(parent, ownership.new_staging_name(name))
        os.mkdir(staging)
        # Another run may have removed it while it was empty, as one that a killed run left.
        with suppress(FileNotFoundError):
            path = os.path.join(staging, _LOCK)
            return staging, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _end(staging: str) -> bool:
    """Remove a staging directory that holds nothing but its lock and marker."""
    notes = [name for name in (REPLACING, _LOCK) if os.path.lexists(os.path.join(staging, name))]
    others = set(os.listdir(staging)) - set(notes)
    if others:
        _LOG.warning("%s stays: dask-als did not make %s in it", staging, min(others))
        return False
    for name in notes:
        os.unlink(os.path.join(staging, name))
    os.rmdir(staging)
    return True


def put(
    staging: str, name: str, target: str, files_there: Callable[[str], list[str] | None]
) -> None:
    """Move the new output to its path, in one step where the file system can."""
    made = os.path.join(staging, name)
    if not os.path.lexists(target):
        local_files.rename_to_nothing(made, target)
        return
    replacing, old = os.path.join(staging, REPLACING), os.path.join(staging, _OLD)
    local_files.touch(replacing)
    try:
        if local_files.renameat2(made, target, local_files.EXCHANGE):
            old = made
        else:
            _rename_both(made, target, old)
    except BaseException:
        os.unlink(replacing)
        raise
    try:
        files = files_there(old)
    except InputError:  # Somebody else has put something into it meanwhile.
        if old == made:
            local_files.renameat2(made, target, local_files.EXCHANGE)
        else:
            os.rename(target, made)
            os.rename(old, target)
        os.unlink(replacing)
        raise
    local_files.sync_directory(os.path.dirname(target))
    discard(staging, os.path.basename(old), files)


def _rename_both(made: str, target: str, old: str) -> None:
    """Replace the old output by the new one where two names cannot be exchanged."""
    os.rename(target, old)
    try:
        os.rename(made, target)
    except BaseException:
        os.rename(old, target)
        raise


def discard(staging: str, name: str, files: list[str] | None) -> None:
    """Remove the listed files of the old output, as far as possible."""
    with suppress(OSError):
        local_files.remove_listed(os.path.join(staging, name), files)
