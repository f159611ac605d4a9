"""Outputs that are complete or absent: written beside their path, then moved there in one step.

On local storage, `staging` has the directory that they are written in. A process that is killed
leaves the old or the new output at its path, and one such directory. The next run for the same path
logs and removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import local_files, object_outputs, ownership, storage
from dask_als.core.ownership import FileKind, Kind
from dask_als.core.staging import REPLACING, discard, placed, put, settle, staging_beside
from dask_als.errors import InputError, JobError


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
    parent, name = placed(storage.file_system(path)[1])
    os.makedirs(parent, exist_ok=True)
    with staging_beside(parent, name) as staging:
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
    _files_of(path, kind)


def remove(path: str, kind: Kind) -> None:
    """Remove a directory of ours in one step, if it exists.

    Raises
    ------
    InputError
        If it is not ours, or holds something else.
    """
    if not storage.exists(path):
        return
    files = _files_of(path, kind)
    filesystem, inner = storage.file_system(path)
    if not isinstance(filesystem, LocalFileSystem):
        object_outputs.remove(filesystem, inner, kind, files)
        return
    parent, name = os.path.split(inner.rstrip("/"))
    with staging_beside(parent, name) as staging:
        local_files.touch(os.path.join(staging, REPLACING))
        os.rename(inner, os.path.join(staging, name))
        discard(staging, name, files)


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
    parent, name = placed(storage.file_system(path)[1])
    with ExitStack() as stack:
        try:
            os.makedirs(parent, exist_ok=True)
            staging = stack.enter_context(staging_beside(parent, name))
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
        put(staging, name, os.path.join(parent, name), files_there)
        if is_durable:
            local_files.sync_directory(parent)


def _files(path: str, kind: Kind) -> list[str]:
    return [] if not os.listdir(path) else _files_of(path, kind)


def _files_of(path: str, kind: Kind) -> list[str]:
    """Remove a half-written step note of a killed job; return `ownership.files_of`."""
    listed = ownership.listed_files(path, kind)  # Raises if the directory is not ours.
    settle(storage.join(path, ownership.STEP_NOTE_NAME))
    ownership.check_nothing_else(path, listed)
    return listed


def _file(path: str, kind: FileKind | None) -> None:
    ownership.check_file(path, kind)
