"""Outputs that are complete or absent: written beside their path, then moved there in one step.

::

    .NAME.0123456789abcdef.partial/     beside NAME; its name proves that it is ours
      .lock                             locked while its process lives
      NAME                              the new output; after the exchange, the old one
      .replacing                        exists once NAME may be the old output
      .old                              the old output, where two names cannot be exchanged

A process that is killed leaves the old or the new output at its path, and one such directory. The
next run for the same path logs and removes it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import local_files, object_outputs, ownership, storage
from dask_als.core.ownership import FileKind, Kind
from dask_als.errors import InputError, JobError

_LOG = logging.getLogger(__name__)

_LOCK, _REPLACING, _OLD = ".lock", ".replacing", ".old"


@contextmanager
def staged_directory(
    path: str, kind: Kind, *, overwrite: bool, inputs: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a new directory to write into; it becomes `path` if the block succeeds.

    Parameters
    ----------
    path : str
        The directory to make.
    kind : Kind
        The kind of output.
    overwrite : bool
        Whether a directory of the same kind that dask-als made may be replaced; nothing else is.
    inputs : sequence of str, optional
        Paths that are read; none may lie in the directory that is replaced.

    Yields
    ------
    str
        A directory beside `path`; it is removed if the block raises. On local storage, staging
        directories of killed runs for the same `path` are removed, too. Object stores have no locks
        that show whether a run is alive, so there they stay.

    Raises
    ------
    InputError
        If `path` exists and may not be replaced, or cannot be written.
    JobError
        If the storage fails while the directory is made: no space left, or gone.
    """

    def check() -> None:
        check_directory(path, kind, overwrite=overwrite, inputs=inputs)

    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        settle(path)
        check()
        with _staged(path, check, lambda there: _files(there, kind)) as staging:
            os.mkdir(staging)
            yield staging
            check()
            _seal(path, staging, kind)
        return
    check()
    above, inner_staging = object_outputs.staging_of(filesystem, inner)
    with _failures(path), object_outputs.removed_at_end(filesystem, above):
        staging = storage.on_every_process(filesystem, inner_staging)
        yield staging
        check()
        _seal(path, staging, kind)
        object_outputs.move(filesystem, inner_staging, inner, kind)


@contextmanager
def staged_path(path: str, kind: FileKind | None = None) -> Iterator[str]:
    """Yield a path to write a file or a directory to; see `staged_directory`.

    Parameters
    ----------
    path : str
        On local storage.
    kind : FileKind, optional
        An existing file of this kind is replaced; by default, nothing is.
    """
    settle(path)
    ownership.check_file(path, kind)
    with _staged(
        path, lambda: ownership.check_file(path, kind), lambda there: _file(there, kind)
    ) as staging:
        yield staging


@contextmanager
def staged_path_with_scratch(path: str, kind: FileKind | None = None) -> Iterator[tuple[str, str]]:
    """Yield a path to write a file to, and a directory for intermediate files beside it.

    The directory is removed at the end; after a kill, the next run for `path` removes it. See
    `staged_path`.
    """
    with staged_path(path, kind) as staging:
        scratch = local_files.doomed_name(staging)
        os.mkdir(scratch)
        try:
            yield staging, scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def scratch_beside(path: str) -> Iterator[str]:
    """Yield a new directory for intermediate files beside an output, which is not made.

    The directory is removed at the end; after a kill, the next run for `path` removes it.

    Parameters
    ----------
    path : str
        On local storage.
    """
    settle(path)
    parent, name = _placed(storage.file_system(path)[1])
    os.makedirs(parent, exist_ok=True)
    with _staging_beside(parent, name) as staging:
        scratch = os.path.join(staging, local_files.doomed_name(name))
        os.mkdir(scratch)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def replace_text(path: str, kind: FileKind, text: str) -> None:
    """Write a text file that `ownership` has marked, or replace one of the same kind.

    A concurrent reader sees the old file or the new one.

    Raises
    ------
    InputError
        If `path` holds something else, or cannot be written.
    JobError
        If the storage fails during the write.
    """
    if not isinstance(storage.file_system(path)[0], LocalFileSystem):
        ownership.check_file(path, kind)
        # An object appears at once.
        with _failures(path), storage.opened(path, "wb") as file:
            file.write(text.encode("utf-8"))
        return
    with staged_path(path, kind) as staging, open(staging, "wb") as file:
        file.write(text.encode("utf-8"))


def replace_json(path: str, kind: FileKind, value: dict[str, Any]) -> None:
    """Write a JSON file, with a marker, or replace one of ours; see `replace_text`."""
    replace_text(path, kind, ownership.marked_json(kind, value))


def check_file(path: str, kind: FileKind | None) -> None:
    """Check that a file can and may be written, as far as can be known in advance.

    Raises
    ------
    InputError
        If it cannot or may not be written.
    """
    ownership.check_file(path, kind)
    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        parent = os.path.dirname(inner)
        if not os.path.isdir(parent):
            raise InputError(f"{path} cannot be written: there is no folder {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{path} cannot be written: its folder is read-only")


def check_directory(path: str, kind: Kind, *, overwrite: bool, inputs: Sequence[str] = ()) -> None:
    """Check that a directory may be made at `path`.

    Raises
    ------
    InputError
        If `path` holds something that may not be replaced.
    """
    filesystem, inner = storage.file_system(path)
    is_local = isinstance(filesystem, LocalFileSystem)
    inner = inner.rstrip("/")
    if not (os.path.lexists(inner) if is_local else filesystem.exists(inner)):
        return
    if not overwrite:
        raise InputError(f"{path} exists already; choose another or give --overwrite")
    ownership.check_inputs(path, inputs)
    is_plain = filesystem.isdir(inner) and not os.path.islink(inner)
    if is_local and is_plain and not os.listdir(inner):
        return
    ownership.files_of(path, kind)


def remove(path: str, kind: Kind) -> None:
    """Remove a directory of ours in one step, if it exists.

    Raises
    ------
    InputError
        If it is not ours, or holds something else.
    """
    if not storage.exists(path):
        return
    files = ownership.files_of(path, kind)
    filesystem, inner = storage.file_system(path)
    if not isinstance(filesystem, LocalFileSystem):
        object_outputs.remove(filesystem, inner, kind, files)
        return
    parent, name = os.path.split(inner.rstrip("/"))
    with _staging_beside(parent, name) as staging:
        local_files.touch(os.path.join(staging, _REPLACING))
        os.rename(inner, os.path.join(staging, name))
        _discard(staging, name, files)


def settle(path: str) -> None:
    """Remove staging directories of killed runs for an output; restore an old output they moved.

    On local storage only, and only directories whose lock nobody holds.
    """
    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        parent, name = _placed(inner)
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
        is_replacing = os.path.lexists(os.path.join(staging, _REPLACING))
        shutil.rmtree(os.path.join(staging, local_files.doomed_name(name)), ignore_errors=True)
        for place in (name, _OLD):
            if place == name and not is_replacing:
                local_files.remove_whole(os.path.join(staging, place))
            elif os.path.lexists(os.path.join(staging, place)):
                _discard(staging, place, _proven_files(os.path.join(staging, place)))
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


def _seal(path: str, staging: str, kind: Kind) -> None:
    try:
        ownership.seal(staging, kind)
    except InputError as error:
        raise JobError(f"{path} could not be made: {error}") from None


@contextmanager
def _failures(path: str) -> Iterator[None]:
    """Raise an error of the storage as a JobError that names the output."""
    try:
        yield
    except OSError as error:
        raise JobError(f"{path} could not be made: {storage.first_line(error)}") from error


@contextmanager
def _staged(
    path: str, check: Callable[[], None], files_there: Callable[[str], list[str] | None]
) -> Iterator[str]:
    """Yield a path in a staging directory; move the result to `path` at the end.

    Parameters
    ----------
    check : callable
        Raises if `path` may not be written.
    files_there : callable
        Path of what was there -> its files, or None for a single file; raises if it is not ours.
    """
    parent, name = _placed(storage.file_system(path)[1])
    with ExitStack() as stack:
        try:
            os.makedirs(parent, exist_ok=True)
            staging = stack.enter_context(_staging_beside(parent, name))
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise InputError(f"{path} cannot be written: {said}") from None
        stack.enter_context(_failures(path))
        made = os.path.join(staging, name)
        yield made
        # An output inside a staged output is synced with that one.
        is_durable = not any(map(ownership.name_staged_in, parent.split("/")))
        if is_durable:
            local_files.sync_all(made)
        check()
        _put(staging, name, os.path.join(parent, name), files_there)
        if is_durable:
            local_files.sync_directory(parent)


def _placed(inner: str) -> tuple[str, str]:
    """Return the real directory that a path is in, and its name there."""
    parent, name = os.path.split(os.path.abspath(inner))
    return os.path.realpath(parent), name


@contextmanager
def _staging_beside(parent: str, name: str) -> Iterator[str]:
    """Make a staging directory and hold its lock for the block; then remove it with its content."""
    staging, lock = _made_with_lock(parent, name)
    try:
        with suppress(OSError):  # The file system may have no locks.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield staging
    finally:
        with suppress(OSError):
            if not os.path.lexists(os.path.join(staging, _REPLACING)):
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
    notes = [name for name in (_REPLACING, _LOCK) if os.path.lexists(os.path.join(staging, name))]
    others = set(os.listdir(staging)) - set(notes)
    if others:
        _LOG.warning("%s stays: dask-als did not make %s in it", staging, min(others))
        return False
    for name in notes:
        os.unlink(os.path.join(staging, name))
    os.rmdir(staging)
    return True


def _files(path: str, kind: Kind) -> list[str]:
    return [] if not os.listdir(path) else ownership.files_of(path, kind)


def _file(path: str, kind: FileKind | None) -> None:
    ownership.check_file(path, kind)


def _put(
    staging: str, name: str, target: str, files_there: Callable[[str], list[str] | None]
) -> None:
    """Move the new output to its path, in one step where the file system can."""
    made = os.path.join(staging, name)
    if not os.path.lexists(target):
        local_files.rename_to_nothing(made, target)
        return
    replacing, old = os.path.join(staging, _REPLACING), os.path.join(staging, _OLD)
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
    _discard(staging, os.path.basename(old), files)


def _rename_both(made: str, target: str, old: str) -> None:
    """Replace the old output by the new one where two names cannot be exchanged."""
    os.rename(target, old)
    try:
        os.rename(made, target)
    except BaseException:
        os.rename(old, target)
        raise


def _discard(staging: str, name: str, files: list[str] | None) -> None:
    """Remove the listed files of the old output, as far as possible."""
    with suppress(OSError):
        local_files.remove_listed(os.path.join(staging, name), files)
