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
"""How directories are called that are not complete."""
# By which a file that was replaced is told from the one before.
STATE_OF_FILE = ("size", "mtime", "ino", "created", "ETag", "etag")


def join(directory: str, *names: str) -> str:
    """Return the path of something inside a directory."""
    return "/".join([directory.rstrip("/"), *names])


def part_of(directory: str, *names: str) -> str:
    """Return the path of a file that belongs to a directory of ours, and lies in it.

    Raises
    ------
    InputError
        If there is a link in its place that leads out of the directory, or no file.
    """
    path = join(directory, *names)
    check_inside(path, directory)
    return path


def part_name(number: int, suffix: str = "parquet") -> str:
    """Return the file name of a partition."""
    return f"part-{number:05d}.{suffix}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def file_system(path: str) -> tuple[Any, str]:
    """Return the file system that a path is on, and the path as that file system takes it.

    Raises
    ------
    InputError
        If there is no such file system here.
    """
    if not path or "\0" in path:
        raise InputError(f"{path!r} is no path")
    try:
        # What other processes wrote meanwhile would be missing from a listing that is kept.
        filesystem, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
        urlsplit(path)  # It refuses addresses that file systems would trip over later.
    except ImportError as error:
        extra = ": pip install 'dask-als[s3]'" if path.startswith(("s3://", "s3a://")) else ""
        raise InputError(f"{path} cannot be reached: {first_line(error)}{extra}") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be reached: {first_line(error)}") from None
    if not inner:
        raise InputError(f"{path} names no file or folder")
    return filesystem, inner


def on_every_process(filesystem: Any, inner: str) -> str:
    """Return the path of a file as every process on the same storage understands it."""
    is_local = isinstance(filesystem, LocalFileSystem)
    return inner if is_local else str(filesystem.unstrip_protocol(inner))


def absolute(path: str) -> str:
    """Return a path as every process on the same storage understands it."""
    return on_every_process(*file_system(path)).rstrip("/")


def exists(path: str) -> bool:
    """Tell whether there is a file or a directory."""
    filesystem, inner = file_system(path)
    return bool(filesystem.exists(inner))


def list_directory(path: str) -> list[str]:
    """Return the paths of what is in a directory; none if it is not there."""
    filesystem, inner = file_system(path)
    if not filesystem.isdir(inner):
        return []
    names = filesystem.ls(inner, detail=False)
    return sorted(on_every_process(filesystem, name) for name in names)


def make_directory(path: str) -> None:
    """Make a directory, and those above it, if it is not there."""
    filesystem, inner = file_system(path)
    filesystem.makedirs(inner, exist_ok=True)


def state_of_file(path: str) -> list[Any]:
    """Return what differs once a file has been changed: its size, and its time or its tag."""
    filesystem, inner = file_system(path)
    info = filesystem.info(inner)
    changed = next((info[key] for key in ("ETag", "etag", "mtime", "created") if key in info), None)
    return [info["size"], str(changed)]


@contextmanager
def opened(path: str, mode: str = "rb") -> Iterator[IO[Any]]:
    """Open a file; for writing, the folder it is in is made first, but not those above.

    A staging directory is never made here: nothing can be written into one that was removed.
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
    """Turn what goes wrong while a file of ours is read into an InputError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it, if it is there."""
    filesystem, inner = file_system(path)
    if isinstance(filesystem, LocalFileSystem) and os.path.isdir(inner):
        # Under its new name nobody puts anything into it any more.
        doomed = f"{inner.rstrip('/')}{STAGING_SUFFIX}"
        os.rename(inner, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    elif filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)
