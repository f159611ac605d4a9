"""Outputs on object stores, which cannot rename a directory: files move one by one.

The manifest moves last. Until then, the file `ownership.MOVING` lists the files of the output, so
that a later run can prove that an incomplete output is ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dask_als.core import ownership, storage
from dask_als.core.ownership import Kind


def staging_of(filesystem: Any, path: str) -> tuple[str, str]:
    """Return a new staging directory beside a path, and the path of the output in it."""
    name = path.rstrip("/").rsplit("/", 1)[-1]
    directory = storage.join(filesystem._parent(path), ownership.new_staging_name(name))
    return directory, storage.join(directory, name)


@contextmanager
def removed_at_end(filesystem: Any, directory: str) -> Iterator[None]:
    """Remove a staging directory after the block, however it ends."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            filesystem.rm(directory, recursive=True)


def move(filesystem: Any, staging: str, target: str, kind: Kind) -> None:
    """Move a staged directory to its path, in place of an output of the same kind.

    Raises
    ------
    InputError
        If `target` holds something that dask-als did not make.
    """
    filesystem.invalidate_cache()
    if filesystem.exists(target):
        path = storage.on_every_process(filesystem, target)
        remove(filesystem, target, kind, ownership.files_of(path, kind))
    files = [str(name)[len(staging) :].lstrip("/") for name in filesystem.find(staging)]
    filesystem.makedirs(target, exist_ok=True)
    _list_files(filesystem, target, kind, files)
    for file in sorted(files, key=lambda name: (name == kind.manifest, name)):
        filesystem.makedirs(filesystem._parent(storage.join(target, file)), exist_ok=True)
        filesystem.mv(storage.join(staging, file), storage.join(target, file))
    filesystem.rm(storage.join(target, ownership.MOVING))


def remove(filesystem: Any, path: str, kind: Kind, files: Sequence[str]) -> None:
    """Remove the listed files of an output; the manifest is the last of the list.

    The manifest is removed first, because nobody reads the rest without it.
    """
    _list_files(filesystem, path, kind, files)
    for file in reversed(files):
        with suppress(FileNotFoundError):
            filesystem.rm(storage.join(path, file))
    with suppress(FileNotFoundError):
        filesystem.rm(storage.join(path, ownership.MOVING))


def _list_files(filesystem: Any, path: str, kind: Kind, files: Sequence[str]) -> None:
    moving = {"made_by": ownership.PROJECT, "kind": kind.name, "files": list(files)}
    filesystem.pipe_file(storage.join(path, ownership.MOVING), json.dumps(moving).encode())
