"""Read and write Parquet and Arrow files, within limits and with checksums."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from dask_als.core.checksums import SummedFile, check_once, content_of, content_with
from dask_als.core.limits import TEXT_BYTES, ParquetLimit
from dask_als.core.storage import file_system, opened, reading
from dask_als.errors import InputError


def write_parquet(
    path: str,
    table: pa.Table,
    *,
    row_group_size: int = 1 << 20,
    dictionaries: bool | list[str] = True,
    encodings: dict[str, str] | None = None,
) -> int:
    """Write a Parquet file whose pages carry checksums.

    Parameters
    ----------
    dictionaries : bool or list of str, optional
        Columns whose values repeat. Trying dictionaries on other columns takes time.
    encodings : dict of str to str, optional
        Parquet's encodings of columns without dictionaries; plain by default.

    Returns
    -------
    int
        The file's CRC-32.
    """
    return write_parquet_tables(
        path,
        [table],
        table.schema,
        row_group_size=row_group_size,
        dictionaries=dictionaries,
        encodings=encodings,
    )


def write_parquet_tables(
    path: str,
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    *,
    row_group_size: int = 1 << 20,
    dictionaries: bool | list[str] = True,
    encodings: dict[str, str] | None = None,
) -> int:
    """Write tables of one schema to one Parquet file, one after the other; return its CRC-32."""
    with opened(path, "wb") as file:
        summed = SummedFile(file)
        with pq.ParquetWriter(
            summed,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=dictionaries,
            column_encoding=encodings,
            write_page_checksum=True,
        ) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=row_group_size)
    return summed.crc32


def check_parquet(path: str, *, crc32: int, limit: ParquetLimit) -> None:
    """Check a Parquet file's CRC-32 and number of rows, before its rows are read.

    Raises
    ------
    InputError
        If the file is missing or damaged, or its CRC-32 or number of rows differs.
    """
    check_once(path, crc32)
    check_parquet_rows(path, limit)


def read_parquet(
    path: str,
    columns: list[str] | None = None,
    *,
    optional: str | None = None,
    crc32: int | None = None,
    limit: ParquetLimit | None = None,
) -> pa.Table:
    """Read a Parquet file.

    Parameters
    ----------
    columns : list of str, optional
        Those to read, in this order.
    optional : str, optional
        One more column to read after them, if the file has it.
    crc32 : int, optional
        The file's expected CRC-32. Unlike the checksums of pages, it covers the metadata, too, and
        reveals a file that was swapped for another.
    limit : ParquetLimit, optional
        Checked before the columns are read.

    Raises
    ------
    InputError
        If the file is missing or damaged, its CRC-32 differs, or it is beyond the limit.
    """
    content = content_of(path) if crc32 is None else content_with(path, crc32)
    with reading(path):
        parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if columns and optional is not None and optional in parquet.schema_arrow.names:
            columns = [*columns, optional]
        if limit is not None:
            groups = range(parquet.num_row_groups)
            limit.check(pa.BufferReader(content), parquet, columns, groups, path)
        table = parquet.read(columns=columns)
        return table if columns is None else table.select(columns)


def read_parquet_groups(path: str) -> Iterator[pa.Table]:
    """Read a Parquet file one row group after the other."""
    with reading(path), opened(path) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        for group in range(parquet.num_row_groups):
            # No thread of Arrow's may hold a file of Python's when Python ends.
            yield parquet.read_row_group(group, use_threads=False)


def check_parquet_rows(path: str, limit: ParquetLimit) -> None:
    """Check the number of rows of a Parquet file; see `ParquetLimit.check_rows`."""
    with reading(path), opened(path) as file:
        limit.check_rows(pq.ParquetFile(file).metadata, path, file.seek(0, os.SEEK_END))


def read_parquet_rows(path: str, rows: range, columns: list[str], *, crc32: int) -> pa.Table:
    """Read a range of rows of a Parquet file: only the row groups that hold them.

    The first time, the whole file is read, to compare its CRC-32.

    Raises
    ------
    InputError
        If the file is missing, damaged or too short, or its CRC-32 differs.
    """
    check_once(path, crc32)
    with reading(path), opened(path) as file:
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
        # Arrow's threads must not hold Python objects when Python shuts down.
        table = parquet.read_row_groups(groups, columns=columns, use_threads=False)
        table = table.select(columns)
        table = table.slice(rows.start - first, len(rows))
    if table.num_rows != len(rows):
        raise InputError(f"{path} is damaged: it ends before row {rows.stop:,}")
    return table


def write_arrow(path: str, table: pa.Table, *, compression: str | None = None) -> int:
    """Write an Arrow file, which is faster than Parquet; return its CRC-32."""
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with opened(path, "wb") as file:
        summed = SummedFile(file)
        sink = pa.PythonFile(summed, "w")
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    return summed.crc32


def read_arrow(path: str, *, crc32: int) -> pa.Table:
    """Read an Arrow file.

    Raises
    ------
    InputError
        If the file is missing or damaged, or its CRC-32 differs.
    """
    content = content_with(path, crc32)
    with reading(path):
        return pa.ipc.open_file(pa.BufferReader(content)).read_all()


def write_batches(path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write an Arrow file whose batches can be read one by one."""
    with opened(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def read_batch(path: str, number: int) -> pa.RecordBatch:
    """Read one batch of an Arrow file; of a local one, its pages are mapped instead of copied."""
    options = pa.ipc.IpcReadOptions(use_threads=False)  # As in `read_parquet_rows`.
    filesystem, inner = file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        return pa.ipc.open_file(pa.memory_map(inner), options=options).get_batch(number)
    with opened(path) as file:
        return pa.ipc.open_file(file, options=options).get_batch(number)
