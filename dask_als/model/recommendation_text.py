"""Recommendations as one text file: CSV or JSON lines, compressed if the name says so.

::

    best.csv      user_id,rank,item_id,score,title      header, then one line per recommendation
    best.jsonl    {"user_id": 1, "rank": 1, …}          one object per line
    best.csv.gz   the same, compressed (also .bz2, .zst)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
from fsspec.implementations.local import LocalFileSystem

from dask_als.core import ownership, storage
from dask_als.core.outputs import staged_path_with_scratch
from dask_als.core.table_files import read_parquet
from dask_als.errors import InputError
from dask_als.model.recommend import read_manifest

_NAME = re.compile(r"\.(csv|jsonl)(\.(gz|bz2|zst))?$", re.IGNORECASE)
_ROWS_AT_ONCE = 1 << 16


def text_format(path: str) -> str | None:
    """Return the format that the name of a file selects, ``csv`` or ``jsonl``; None for others."""
    found = _NAME.search(path)
    return None if found is None else found[1].lower()


def check_text_path(path: str, *, overwrite: bool) -> None:
    """Check that a text file may be written.

    Raises
    ------
    InputError
        If the file exists or is not on a local disk.
    """
    if not isinstance(storage.file_system(path)[0], LocalFileSystem):
        raise InputError(
            f"{path} is on an object store; write text to a local file, or Parquet to a folder"
        )
    if overwrite and storage.exists(path):
        raise InputError(
            f"{path} exists, and a text file does not show that dask-als wrote it, so --overwrite "
            "does not replace it; remove it first"
        )
    ownership.check_file(path, None)


@contextmanager
def text_of_recommendations(path: str) -> Iterator[str]:
    """Yield a directory to write recommendations to; then write them as text to `path`.

    The text file is complete or absent. Lines are in the order of the part files.
    """
    with staged_path_with_scratch(path) as (staging, scratch):
        directory = storage.join(scratch, "recommendations")
        yield directory
        _write_text(directory, staging)


def _write_text(directory: str, path: str) -> None:
    write = _WRITERS[text_format(path) or "csv"]
    with pa.output_stream(path, compression="detect") as file:
        write(_tables(directory), file)


def _tables(directory: str) -> Iterator[pa.Table]:
    """Yield the parts of recommendations, of one schema, checked against their manifest."""
    for path, crc32 in read_manifest(directory).files(directory).items():
        yield read_parquet(path, crc32=crc32)


def _write_csv(tables: Iterator[pa.Table], file: IO[bytes]) -> None:
    writer = None
    for table in tables:
        if writer is None:
            writer = pyarrow.csv.CSVWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _write_json_lines(tables: Iterator[pa.Table], file: IO[bytes]) -> None:
    for table in tables:
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            lines = [
                json.dumps(row, ensure_ascii=False, default=_plain) for row in batch.to_pylist()
            ]
            if lines:
                file.write(("\n".join(lines) + "\n").encode("utf-8"))


def _plain(value: Any) -> str | int:
    """Return an id that JSON has no type for: a whole decimal number as it is, others as text."""
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return str(value)


_WRITERS: dict[str, Callable[[Iterator[pa.Table], IO[bytes]], None]] = {
    "csv": _write_csv,
    "jsonl": _write_json_lines,
}
