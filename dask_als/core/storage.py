"""Files on any fsspec path."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dask_als.core.arrow_memory import read_all
from dask_als.core.limits import MOST_JSON_BYTES, TEXT_BYTES, ParquetLimit, check_inside
from dask_als.errors import InputError

STAGING_SUFFIX = ".partial"
"""How directories are called that are not complete."""

MARK_KEYS = ("made_by", "kind", "files")
"""What a manifest says beside its content: who made it, what it is, what belongs to it."""

_NOT_CONTENT = {"format_version", *MARK_KEYS}

_BYTES_AT_ONCE = 1 << 20
# By which a file that was replaced is told from the one before.
_STATE_OF_FILE = ("size", "mtime", "ino", "created", "ETag", "etag")


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
    except (ValueError, ImportError) as error:
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
def _reading(path: str) -> Iterator[None]:
    """Turn what goes wrong while a file of ours is read into an InputError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def copy(source: str, target: str, *, crc32: int) -> None:
    """Copy a file whose CRC-32 is known.

    Raises
    ------
    InputError
        If it cannot be read, or is another one.
    """
    content = _content_with(source, crc32)
    with opened(target, "wb") as file:
        file.write(content)


def write_json(path: str, value: object) -> None:
    """Write a JSON file, indented, with a line end."""
    with opened(path, "w") as file:
        file.write(as_json(value))


def as_json(value: object) -> str:
    """Return a value as JSON text, indented, with a line end."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If the file is missing, or its text is not JSON.
    """
    with _reading(path), opened(path) as file:
        text = file.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise InputError(f"{path} is damaged: longer than {MOST_JSON_BYTES:,} bytes")
    return _from_json(path, text)


def _from_json(path: str, text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: not JSON ({first_line(error)})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")  # Python's own extension, which we never write.


def write_manifest(path: str, value: dict[str, Any], *, format_version: int) -> None:
    """Write a JSON object with its format version and a checksum of all of it."""
    write_with_checksum(path, {"format_version": format_version, **value})


def write_with_checksum(path: str, value: dict[str, Any]) -> None:
    """Write a JSON object with a checksum of all of it."""
    write_json(path, {**value, "checksum": _checksum(value)})


def has_its_checksum(value: dict[str, Any]) -> bool:
    """Tell whether `write_manifest` wrote an object, and nobody changed it since."""
    rest = {key: its for key, its in value.items() if key != "checksum"}
    is_versioned = isinstance(value.get("format_version"), int)
    return is_versioned and value.get("checksum") == _checksum(rest)


def read_manifest(path: str, *, format_version: int) -> dict[str, Any]:
    """Read what `write_manifest` wrote.

    Raises
    ------
    InputError
        If it is missing, damaged, changed since, or of another format version.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is damaged: not a JSON object")
    version = manifest.get("format_version")
    if version != format_version:
        raise InputError(
            f"{path} is of format version {version}, this release reads {format_version}; "
            "make the directory again"
        )
    if manifest.pop("checksum", None) != _checksum(manifest):
        raise InputError(
            f"{path} was changed after it was written (its checksum differs); "
            "make the directory again"
        )
    return {key: value for key, value in manifest.items() if key not in _NOT_CONTENT}


def _checksum(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json_lines(path: str, rows: list[dict[str, Any]]) -> int:
    """Write one JSON object a line; return the file's CRC-32."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with opened(path, "wb") as file:
        file.write(text.encode())
    return zlib.crc32(text.encode())


def read_json_lines(path: str, *, crc32: int | None = None) -> list[Any]:
    """Read one JSON value a line.

    Parameters
    ----------
    crc32 : int, optional
        What the file's CRC-32 must be; None if it is not known.

    Raises
    ------
    InputError
        If the file is missing or another one, or a line is not JSON.
    """
    content = _content(path) if crc32 is None else _content_with(path, crc32)
    return [_from_json(path, line) for line in content.splitlines()]


def write_parquet(
    path: str,
    table: pa.Table,
    *,
    row_group_size: int = 1 << 20,
    dictionaries: bool | list[str] = True,
) -> int:
    """Write a Parquet file whose pages carry checksums.

    Parameters
    ----------
    dictionaries : bool or list of str, optional
        Columns whose values repeat; to try it with others takes time.

    Returns
    -------
    int
        The file's CRC-32.
    """
    return write_parquet_tables(
        path, [table], table.schema, row_group_size=row_group_size, dictionaries=dictionaries
    )


def write_parquet_tables(
    path: str,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    row_group_size: int = 1 << 20,
    dictionaries: bool | list[str] = True,
) -> int:
    """Write tables of one schema to one Parquet file, one after the other; return its CRC-32."""
    with opened(path, "wb") as file:
        summed = _Summed(file)
        with pq.ParquetWriter(
            summed,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=dictionaries,
            write_page_checksum=True,
        ) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=row_group_size)
    return summed.crc32


class _Summed:
    """A file that is written to, and the CRC-32 of what went into it."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.crc32 = 0

    def write(self, data: bytes) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def crc32(path: str) -> int:
    """Return the CRC-32 of a file.

    Raises
    ------
    InputError
        If the file is missing or cannot be read.
    """
    found = 0
    with _reading(path), opened(path) as file:
        while some := file.read(_BYTES_AT_ONCE):
            found = zlib.crc32(some, found)
    return found


def sha256(path: str) -> str:
    """Return the SHA-256 of a file.

    Raises
    ------
    InputError
        If the file is missing or cannot be read.
    """
    return hashlib.sha256(_content(path)).hexdigest()


def check_crc32(path: str, crc32: int) -> None:
    """Compare a file's CRC-32.

    Raises
    ------
    InputError
        If the file is missing or another one.
    """
    if _crc32(path) != crc32:
        raise _not_the_file(path)


def has_changed(path: str, crc32: int) -> bool:
    """Tell whether a file is missing, cannot be read, or is not the one with a CRC-32."""
    try:
        check_crc32(path, crc32)
    except InputError:
        return True
    return False


# Another name: a parameter of the same name hides it elsewhere.
_crc32 = crc32


def check_parquet(path: str, *, crc32: int, limit: ParquetLimit) -> None:
    """Check that a Parquet file is the one it should be, before memory is taken for its rows.

    Raises
    ------
    InputError
        If the file is missing, damaged or another one, or has not that many rows.
    """
    _check_once(path, crc32)
    check_parquet_rows(path, limit)


# Of files that this process has read whole: what they were like then.
_CHECKED: dict[tuple[str, int], list[Any]] = {}


def _check_once(path: str, crc32: int) -> None:
    """Compare a file's CRC-32, unless this process did and the file has not changed since."""
    with _reading(path):
        filesystem, inner = file_system(path)
        info = filesystem.info(inner)
        state = [str(info.get(key)) for key in _STATE_OF_FILE]
    if _CHECKED.get((path, crc32)) == state:
        return
    check_crc32(path, crc32)
    _CHECKED[path, crc32] = state


def read_parquet(
    path: str,
    columns: list[str] | None = None,
    *,
    crc32: int | None = None,
    limit: ParquetLimit | None = None,
) -> pa.Table:
    """Read a Parquet file.

    Parameters
    ----------
    columns : list of str, optional
        Those to read, in this order.
    crc32 : int, optional
        What the file's CRC-32 must be. It covers what the checksums of pages do not: the file's
        metadata, and that it is this file and no other.
    limit : ParquetLimit, optional
        What it may hold; checked before its columns are read.

    Raises
    ------
    InputError
        If the file is missing, damaged or another one, or beyond the limit.
    """
    content = _content(path) if crc32 is None else _content_with(path, crc32)
    with _reading(path):
        parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if limit is not None:
            groups = range(parquet.num_row_groups)
            limit.check(pa.BufferReader(content), parquet, columns, groups, path)
        table = parquet.read(columns=columns)
        return table if columns is None else table.select(columns)


def _content_with(path: str, crc32: int) -> pa.Buffer:
    content = _content(path)
    if zlib.crc32(content) != crc32:
        raise _not_the_file(path)
    return content


def _not_the_file(path: str) -> InputError:
    return InputError(f"{path} is damaged, or not the file that belongs there: its CRC-32 differs")


def _content(path: str) -> pa.Buffer:
    with _reading(path), opened(path) as file:
        return read_all(file)


def check_parquet_rows(path: str, limit: ParquetLimit) -> None:
    """Check how many rows a Parquet file holds; see `ParquetLimit.check_rows`."""
    with _reading(path), opened(path) as file:
        limit.check_rows(pq.ParquetFile(file).metadata, path, file.seek(0, os.SEEK_END))


def read_parquet_rows(path: str, rows: range, columns: list[str], *, crc32: int) -> pa.Table:
    """Read a range of rows of a Parquet file, opening only the row groups that hold it.

    The first time, all of the file is read: its CRC-32 must be the given one.

    Raises
    ------
    InputError
        If the file is missing, damaged or another one, or has not that many rows.
    """
    _check_once(path, crc32)
    with _reading(path), opened(path) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        groups: list[int] = []
        first = start = 0
        for group in range(parquet.num_row_groups):
            stop = start + parquet.metadata.row_group(group).num_rows
            if start < rows.stop and stop > rows.start:
                first = start if not groups else first
                groups.append(group)
            start = stop
        ParquetLimit(None, TEXT_BYTES).check(file, parquet, columns, groups, path)
        # No thread of Arrow's may hold a file of Python's when Python ends.
        table = parquet.read_row_groups(groups, columns=columns, use_threads=False)
        table = table.select(columns)
        table = table.slice(rows.start - first, len(rows))
    if table.num_rows != len(rows):
        raise InputError(f"{path} is damaged: it ends before row {rows.stop:,}")
    return table


def write_arrow(path: str, table: pa.Table) -> int:
    """Write an Arrow file, which is quick to write and to read; return its CRC-32."""
    with opened(path, "wb") as file:
        summed = _Summed(file)
        with pa.ipc.new_file(pa.PythonFile(summed, "w"), table.schema) as writer:
            writer.write_table(table)
    return summed.crc32


def read_arrow(path: str, *, crc32: int) -> pa.Table:
    """Read an Arrow file.

    Raises
    ------
    InputError
        If the file is missing, damaged or another one: its CRC-32 differs.
    """
    content = _content_with(path, crc32)
    with _reading(path):
        return pa.ipc.open_file(pa.BufferReader(content)).read_all()


def write_batches(path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write an Arrow file whose batches can be read one by one."""
    with opened(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_batch(path: str, number: int) -> pa.RecordBatch:
    """Read one batch of an Arrow file."""
    with opened(path) as file:
        options = pa.ipc.IpcReadOptions(use_threads=False)  # As in `read_parquet_rows`.
        return pa.ipc.open_file(file, options=options).get_batch(number)


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
