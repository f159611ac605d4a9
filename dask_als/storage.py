"""Files on any fsspec path, and directories that are complete or not there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dask_als.errors import InputError, JobError

STAGING_SUFFIX = ".partial"
"""How directories are called that are not complete."""

_LOCK = ".lock"
_BYTES_AT_ONCE = 1 << 20
# By which a file that was replaced is told from the one before.
_STATE_OF_FILE = ("size", "mtime", "ino", "created", "ETag", "etag")


def join(directory: str, *names: str) -> str:
    """Return the path of something inside a directory."""
    return "/".join([directory.rstrip("/"), *names])


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
    try:
        # What other processes wrote meanwhile would be missing from a listing that is kept.
        filesystem, inner = fsspec.core.url_to_fs(path, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise InputError(f"{path} cannot be reached: {first_line(error)}") from None
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

    So nothing can be written into a directory that was removed meanwhile.
    """
    filesystem, inner = file_system(path)
    if "w" in mode:
        with suppress(FileExistsError):
            filesystem.mkdir(filesystem._parent(inner), create_parents=False)
    with filesystem.open(inner, mode) as file:
        yield file


def check_writable(path: str) -> None:
    """Check that a file can be written, where that shows before it is.

    Raises
    ------
    InputError
        If it cannot.
    """
    filesystem, inner = file_system(path)
    if not isinstance(filesystem, LocalFileSystem):
        return
    try:
        # What is there already stays as it is until then.
        with open(inner, "ab"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


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
        file.write(_as_json(value))


def _as_json(value: object) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def replace_json(path: str, value: object) -> None:
    """Write a JSON file, or replace it; who reads meanwhile sees the old one or the new one."""
    replace_text(path, _as_json(value))


def replace_text(path: str, text: str) -> None:
    """Write a text file, or replace it; who reads meanwhile sees the old one or the new one."""
    filesystem, inner = file_system(path)
    is_local = isinstance(filesystem, LocalFileSystem)
    # An object appears at once.
    staging = f"{path}.{uuid.uuid4().hex[:8]}{STAGING_SUFFIX}" if is_local else path
    with opened(staging, "w") as file:
        file.write(text)
    if is_local:
        os.replace(file_system(staging)[1], inner)


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If the file is missing, or its text is not JSON.
    """
    with _reading(path), opened(path) as file:
        text = file.read()
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
    versioned = {"format_version": format_version, **value}
    write_json(path, {**versioned, "checksum": _checksum(versioned)})


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
    del manifest["format_version"]
    return manifest


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


def check_parquet(path: str, *, crc32: int, rows: int) -> None:
    """Check that a Parquet file is the one it should be, before memory is taken for its rows.

    Raises
    ------
    InputError
        If the file is missing, damaged or another one, or has not that many rows.
    """
    _check_once(path, crc32)
    with _reading(path), opened(path) as file:
        found = pq.read_metadata(file).num_rows
    _check_rows(path, found, rows)


def _check_rows(path: str, found: int, rows: int) -> None:
    if found != rows:
        raise InputError(
            f"{path} is not what the manifest says: it has {found:,} rows, there should be {rows:,}"
        )


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
    rows: int | None = None,
) -> pa.Table:
    """Read a Parquet file.

    Parameters
    ----------
    columns : list of str, optional
        Those to read, in this order.
    crc32 : int, optional
        What the file's CRC-32 must be. It covers what the checksums of pages do not: the file's
        metadata, and that it is this file and no other.
    rows : int, optional
        How many rows it must have, compared before they take memory.

    Raises
    ------
    InputError
        If the file is missing, damaged or another one.
    """
    content = _content(path) if crc32 is None else _content_with(path, crc32)
    with _reading(path):
        parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if rows is not None:
            _check_rows(path, parquet.metadata.num_rows, rows)
        table = parquet.read(columns=columns)
        return table if columns is None else table.select(columns)


def _content_with(path: str, crc32: int) -> bytes:
    content = _content(path)
    if zlib.crc32(content) != crc32:
        raise _not_the_file(path)
    return content


def _not_the_file(path: str) -> InputError:
    return InputError(f"{path} is damaged, or not the file that belongs there: its CRC-32 differs")


def _content(path: str) -> bytes:
    with _reading(path), opened(path) as file:
        content: bytes = file.read()
    return content


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
        table = parquet.read_row_groups(groups, columns=columns).select(columns)
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
        return pa.ipc.open_file(file).get_batch(number)


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
        A directory beside `path`; it is removed if the block raises. On local storage, what killed
        runs left of the same `path` is removed, too. Object stores have no locks that tell whether
        a run is still alive, so there it stays.

    Raises
    ------
    InputError
        If `path` is there and may not be replaced, or cannot be written.
    JobError
        If the storage fails while the directory is made: no space left, or gone.
    """
    check_free(path, manifest=manifest, overwrite=overwrite)
    filesystem, inner = file_system(path)
    is_local = isinstance(filesystem, LocalFileSystem)
    if is_local:
        inner = os.path.realpath(inner)
    parent, name = filesystem._parent(inner), inner.rstrip("/").rsplit("/", 1)[-1]
    inner_staging = join(parent, f".{name}.{uuid.uuid4().hex[:8]}{STAGING_SUFFIX}")
    staging = on_every_process(filesystem, inner_staging)
    if is_local:
        _remove_abandoned(parent, name)
    try:
        filesystem.makedirs(inner_staging, exist_ok=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        with _locked(inner_staging) if is_local else nullcontext():
            yield staging
        check_free(path, manifest=manifest, overwrite=overwrite)
        if is_local:
            _rename(inner_staging, inner)
        else:
            remove(path)
            _move_files(filesystem, inner_staging, inner, last=manifest)
    except BaseException as error:
        remove(staging)
        if isinstance(error, OSError):
            raise JobError(f"{path} could not be made: {first_line(error)}") from error
        raise


@contextmanager
def _locked(staging: str) -> Iterator[None]:
    """Hold the lock that says that somebody is at work here; it ends with the process."""
    path = join(staging, _LOCK)
    with open(path, "w") as file:
        with suppress(OSError):  # There are file systems without locks.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        os.unlink(path)


def _remove_abandoned(parent: str, name: str) -> None:
    """Remove what killed runs left of a directory: that with a lock which nobody holds."""
    ours = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}({re.escape(STAGING_SUFFIX)})+")
    for entry in os.listdir(parent) if os.path.isdir(parent) else []:
        if ours.fullmatch(entry):
            with suppress(OSError), open(join(parent, entry, _LOCK), "r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(join(parent, entry))


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
    filesystem, inner = file_system(path)
    is_empty = filesystem.isdir(inner) and not filesystem.ls(inner)
    if not is_empty and not _is_ours(join(path, manifest)):
        raise InputError(f"{path} holds something else (no {manifest}), so it is not overwritten")


def _is_ours(manifest: str) -> bool:
    """Tell whether a file is a manifest of this package, of whatever version."""
    with suppress(InputError):
        value = read_json(manifest)
        return isinstance(value, dict) and "format_version" in value
    return False


def _rename(staging: str, target: str) -> None:
    """Rename a local directory, replacing what is there."""
    old = f"{staging}.old"
    is_there = os.path.exists(target)
    if is_there:
        os.rename(target, old)
    try:
        os.rename(staging, target)
    except OSError:
        if is_there:
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _move_files(filesystem: Any, staging: str, target: str, *, last: str) -> None:
    filesystem.invalidate_cache()
    files = [name[len(staging) :].lstrip("/") for name in filesystem.find(staging)]
    for file in sorted(files, key=lambda name: (name == last, name)):
        filesystem.makedirs(filesystem._parent(join(target, file)), exist_ok=True)
        filesystem.mv(join(staging, file), join(target, file))
    if filesystem.exists(staging):
        filesystem.rm(staging, recursive=True)
