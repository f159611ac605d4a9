"""Operations on local files: atomic renames, removal of listed files only, sync to disk."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress

from dask_als.core.storage import STAGING_SUFFIX
from dask_als.errors import InputError

_AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def rename_to_nothing(source: str, target: str) -> None:
    """Rename a file or a directory; never replace another one.

    Where the file system lacks the flag for that, an empty directory that appears at the same
    moment may be replaced.

    Raises
    ------
    InputError
        If `target` exists.
    """
    try:
        if renameat2(source, target, NOREPLACE):
            return
    except FileExistsError:
        raise InputError(
            f"{target} exists: another process just made it; choose another name"
        ) from None
    os.rename(source, target)


def renameat2(source: str, target: str, flags: int) -> bool:
    """Rename with flags of Linux; return False where the system or the file system lacks them."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), source, None, target)


def remove_listed(path: str, files: list[str] | None) -> None:
    """Remove the listed files of a directory, and the directories that are empty afterwards.

    Parameters
    ----------
    files : list of str or None
        Paths relative to `path`, the manifest last; None if `path` is a single file.
    """
    if files is None:
        os.unlink(path)
        return
    directories = {above for file in files for above in _above(os.path.dirname(file))}
    for file in files[:-1]:
        _unlink_if_there(os.path.join(path, file))
    for each in sorted(directories, key=len, reverse=True):
        with suppress(FileNotFoundError):
            os.rmdir(os.path.join(path, each))
    # The manifest proves that the other files are ours, so it is removed last.
    for file in files[-1:]:
        _unlink_if_there(os.path.join(path, file))
    os.rmdir(path)


def _unlink_if_there(path: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def _above(directory: str) -> Iterator[str]:
    while directory:
        yield directory
        directory = os.path.dirname(directory)


def remove_whole(path: str) -> None:
    """Remove a staged output with all its contents; do not follow links.

    Only for outputs that were never at their final path, so that nobody else's files are in them.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        # Tasks that still run do not write into it under its new name.
        doomed = doomed_name(path)
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    elif os.path.lexists(path):
        os.unlink(path)


def doomed_name(name: str) -> str:
    """Return the name that a directory gets while its files are removed."""
    return f"{name}{STAGING_SUFFIX}"


def touch(path: str) -> None:
    """Make an empty file; fail if the path exists."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def sync_all(path: str) -> None:
    """Wait until a file, or a directory with all its files, is on the disk."""
    if not os.path.isdir(path):
        _sync(path)
        return
    for directory, _, files in os.walk(path, topdown=False):
        for file in files:
            _sync(os.path.join(directory, file))
        _sync(directory)


def sync_directory(path: str) -> None:
    """Wait until the entries of a directory are on the disk, if the file system supports that."""
    with suppress(OSError):
        _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
