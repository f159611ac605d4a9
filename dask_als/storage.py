"""Files on any fsspec path, and directories that are complete or not there."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dask_als.errors import InputError


def join(directory: str, *names: str) -> str:
    """Return the path of something inside a directory."""
    return "/".join([directory.rstrip("/"), *names])


def part_name(number: int, suffix: str = "parquet") -> str:
    """Return the file name of a partition."""
    return f"part-{number:05d}.{suffix}"


def absolute(path: str) -> str:
    """Return the path as every process on the same storage understands it."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    return inner if isinstance(filesystem, LocalFileSystem) else path.rstrip("/")


def exists(path: str) -> bool:
    """Tell whether there is a file or a directory."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    return bool(filesystem.exists(inner))


@contextmanager
def opened(path: str, mode: str = "rb") -> Iterator[IO[Any]]:
    """Open a file; for writing, the folder it is in is made first."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    if "w" in mode:
        filesystem.makedirs(filesystem._parent(inner), exist_ok=True)
    with filesystem.open(inner, mode) as file:
        yield file


def write_json(path: str, value: object) -> None:
    """Write a JSON file, indented, with a line end."""
    with opened(path, "w") as file:
        file.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If the text is not JSON.
    """
    with opened(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is damaged: not JSON ({error})") from None


def write_json_lines(path: str, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with opened(path, "w") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def read_json_lines(path: str) -> list[dict[str, Any]]:
    """Read one JSON object a line."""
    with opened(path) as file:
        return [json.loads(line) for line in file.read().splitlines()]


def write_parquet(path: str, table: pa.Table, *, row_group_size: int = 1 << 20) -> None:
    """Write a Parquet file whose pages carry checksums."""
    with opened(path, "wb") as file:
        pq.write_table(
            table,
            file,
            compression="zstd",
            compression_level=1,
            row_group_size=row_group_size,
            write_page_checksum=True,
        )


def read_parquet(path: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, its pages checked against their checksums.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        with opened(path) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            return parquet.read(columns=columns)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def read_parquet_rows(path: str, rows: range, columns: list[str]) -> pa.Table:
    """Read a range of rows of a Parquet file, opening only the row groups that hold it.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        with opened(path) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            groups: list[int] = []
            first = start = 0
            for group in range(parquet.num_row_groups):
                stop = start + parquet.metadata.row_group(group).num_rows
                if start < rows.stop and stop > rows.start:
                    first = start if not groups else first
                    groups.append(group)
                start = stop
            table = parquet.read_row_groups(groups, columns=columns)
            return table.slice(rows.start - first, len(rows))
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def write_batches(path: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write an Arrow file whose batches can be read one by one."""
    with opened(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_batch(path: str, number: int) -> pa.RecordBatch:
    """Read one batch of an Arrow file."""
    with opened(path) as file:
        return pa.ipc.open_file(file).get_batch(number)


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it, if it is there."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    if isinstance(filesystem, LocalFileSystem) and os.path.isdir(inner):
        shutil.rmtree(inner, ignore_errors=True)
    elif filesystem.exists(inner):
        filesystem.rm(inner, recursive=True)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def staged_directory(path: str, *, manifest: str, overwrite: bool) -> Iterator[str]:
    """Give a new directory to write in, which becomes `path` if the block ends well.

    Parameters
    ----------
    path : str
        The directory to make.
    manifest : str
        The file in it that makes it complete; on storage that cannot rename a directory at once,
        it is the last to arrive.
    overwrite : bool
        Whether a directory that was made by this package (one with a manifest) may be replaced.

    Yields
    ------
    str
        A directory beside `path`; it is removed if the block raises.

    Raises
    ------
    InputError
        If `path` is there and may not be replaced, or cannot be written.
    """
    filesystem, inner = fsspec.core.url_to_fs(path)
    check_free(path, manifest=manifest, overwrite=overwrite)
    parent, name = filesystem._parent(inner), inner.rstrip("/").rsplit("/", 1)[-1]
    staging = join(parent, f".{name}.{uuid.uuid4().hex[:8]}.partial")
    unstripped = filesystem.unstrip_protocol(staging)
    try:
        filesystem.makedirs(staging, exist_ok=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        yield staging if isinstance(filesystem, LocalFileSystem) else unstripped
        if isinstance(filesystem, LocalFileSystem):
            _replace_local(staging, inner)
        else:
            remove(path)
            _move_files(filesystem, staging, inner, last=manifest)
    except BaseException:
        remove(unstripped)
        raise


def check_free(path: str, *, manifest: str, overwrite: bool) -> None:
    """Check that a directory may be made at `path`.

    Raises
    ------
    InputError
        If something is there that may not be replaced.
    """
    if not exists(path):
        return
    if not overwrite:
        raise InputError(f"{path} is there already; choose another or give --overwrite")
    filesystem, inner = fsspec.core.url_to_fs(path)
    is_ours = exists(join(path, manifest))
    if not is_ours and not (filesystem.isdir(inner) and not filesystem.ls(inner)):
        raise InputError(f"{path} holds something else (no {manifest}), so it is not overwritten")


def _replace_local(staging: str, target: str) -> None:
    old = f"{staging}.old"
    if os.path.exists(target):
        os.rename(target, old)
    os.rename(staging, target)
    shutil.rmtree(old, ignore_errors=True)


def _move_files(filesystem: Any, staging: str, target: str, *, last: str) -> None:
    files = [name[len(staging) :].lstrip("/") for name in filesystem.find(staging)]
    for file in sorted(files, key=lambda name: (name == last, name)):
        filesystem.makedirs(filesystem._parent(join(target, file)), exist_ok=True)
        filesystem.mv(join(staging, file), join(target, file))
    filesystem.rm(staging, recursive=True) if filesystem.exists(staging) else None
