"""Files on any fsspec path."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from dask_als.core.limits import check_inside
from dask_als.errors import InputError

STAGING_SUFFIX = ".partial"
"""The end of the names of directories that are not complete."""
# If none of these differs, a file has not changed.
STATE_OF_FILE = ("size", "mtime", "ino", "created", "ETag", "etag")


def join(directory: str, *names: str) -> str:
    """Return the path of something inside a directory."""
    return "/".join([directory.rstrip("/"), *names])


def part_of(directory: str, *names: str) -> str:
    """Return the path of a file that belongs to a directory of ours.

    Raises
    ------
    InputError
        If it is a link that leads out of the directory, or not a file.
    """
    path = join(directory, *names)
    check_inside(path, directory)
    return path


def part_name(number: int, suffix: str = "parquet") -> str:
    """Return the file name of a partition."""
    return f"part-{number:05d}.{suffix}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's name if there is none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def file_system(path: str) -> tuple[Any, str]:
    """Return the file system that a path is on, and the path inside that file system.

    Raises
    ------
    InputError
        If the path is malformed, or the file system is not installed.
    """
    if not path or "\0" in path:
        raise InputError(f"{path!r} is not a path")
    try:
        # A cached listing would lack what other processes have written since.
        filesystem, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
        urlsplit(path)  # It raises on malformed addresses, at which file systems fail later.
    except ImportError as error:
        extra = ": pip install 'dask-als[s3]'" if path.startswith(("s3://", "s3a://")) else ""
        raise InputError(f"{path} cannot be reached: {first_line(error)}{extra}") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be reached: {first_line(error)}") from None
    if not inner:
        raise InputError(f"{path} does not name a file or folder")
    return filesystem, inner


def on_every_process(filesystem: Any, inner: str) -> str:
    """Return the path of a file that is valid in every process on the same storage."""
    is_local = isinstance(filesystem, LocalFileSystem)
    return inner if is_local else str(filesystem.unstrip_protocol(inner))


def absolute(path: str) -> str:
    """Return the absolute path, valid in every process on the same storage."""
    return on_every_process(*file_system(path)).rstrip("/")


def exists(path: str) -> bool:
    """Tell whether there is a file or a directory at a path."""
    filesystem, inner = file_system(path)
    return bool(filesystem.exists(inner))


def list_directory(path: str) -> list[str]:
    """Return the sorted paths of a directory's entries; none if it does not exist."""
    filesystem, inner = file_system(path)
    if not filesystem.isdir(inner):
        return []
    names = filesystem.ls(inner, detail=False)
    return sorted(on_every_process(filesystem, name) for name in names)


def make_directory(path: str) -> None:
    """Make a directory and its parents, if they do not exist."""
    filesystem, inner = file_system(path)
    filesystem.makedirs(inner, exist_ok=True)


def state_of_file(path: str) -> list[Any]:
    """Return values that change with a file: its size, and its time or its tag."""
    filesystem, inner = file_system(path)
    info = filesystem.info(inner)
    changed = next((info[key] for key in ("ETag", "etag", "mtime", "created") if key in info), None)
    return [info["size"], str(changed)]


@contextmanager
def opened(path: str, mode: str = "rb") -> Iterator[IO[Any]]:
    """Open a file; for writing, make its parent directory first, but not the ones above.

    A staging directory is never made here, so that nothing is written into a removed one.
    """
    filesystem, inner = file_system(path)
    parent = filesystem._parent(inner)
    if "w" in mode and not parent.endswith(STAGING_SUFFIX):
        with suppress(FileExistsError):
            filesystem.mkdir(parent, create_parents=False)
    with filesystem.open(inner, mode) as file:
        yield file


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn an error while a file of ours is read into an InputError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def remove(path: str) -> None:
    """Remove a file, or a directory with all its contents, if it exists."""
    filesystem, inner = file_system(path)
    if isinstance(filesystem, LocalFileSystem) and os.path.isdir(inner):
        # Nobody writes into it any more under its new name.
        doomed = f"{inner.rstrip('/')}{STAGING_SUFFIX}"
        os.rename(inner, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    elif filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)
