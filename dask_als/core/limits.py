"""Limits on files of other people, checked before their contents are read.

Such a file must not make us connect to other storage, read outside its own directory, or allocate
memory out of proportion to its size and its manifest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.core import split_protocol

from dask_als.errors import InputError

MOST_JSON_BYTES = 256 << 20
TEXT_BYTES = 1024
"""The greatest length of ids and titles, on average over the rows of a file."""

_SLACK_BYTES = 64 << 20
# Arrow with zstd compresses zeros to a ten-thousandth, and real texts to a fiftieth at best.
_MOST_INFLATION = 1 << 16
_MOST_INFLATION_OF_TEXT = 50
_LOCAL = (None, "file", "local")
_OBJECT_STORES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "abfs": "abfs",
    "abfss": "abfs",
    "az": "abfs",
    "oss": "oss",
}


def is_on_same_storage(path: str, other: str) -> bool:
    """Tell whether two paths are both local, or both in one bucket of an object store."""
    storage = _storage_of(path)
    return storage is not None and storage == _storage_of(other)


def _storage_of(path: str) -> tuple[str, str] | None:
    if "::" in path:  # chained file systems, which may lead anywhere
        return None
    protocol, rest = split_protocol(path)
    if protocol in _LOCAL:
        return "file", ""
    if protocol == "memory":
        return "memory", ""
    store = _OBJECT_STORES.get(protocol)
    return None if store is None else (store, rest.split("/")[0])


def check_inside(path: str, directory: str) -> None:
    """Check that a local path is a regular file inside a directory.

    The directory itself may be a link; links in it must not lead out of it.

    Raises
    ------
    InputError
        If it is a link out of the directory, a device, a pipe or the like.
    """
    if split_protocol(path)[0] not in _LOCAL or not os.path.lexists(path):
        return
    root = os.path.join(os.path.realpath(directory), "")
    if not os.path.realpath(path).startswith(root):
        raise InputError(
            f"{path} is a link that leads out of {directory}, so it is not read; "
            f"copy the directory with the targets of its links: cp -rL"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is not a file")


def read_text(file: IO[bytes], path: str, n_bytes: int) -> bytes:
    """Read a text, compressed or not, unless it is far longer than its file.

    Parameters
    ----------
    n_bytes : int
        Size of the stored file.

    Raises
    ------
    InputError
        If the text is longer than 64 MiB and 50 times the file.
    """
    most = _SLACK_BYTES + _MOST_INFLATION_OF_TEXT * n_bytes
    text = file.read(most + 1)
    if len(text) > most:
        raise InputError(f"{path} has {n_bytes:,} bytes and holds a text of more than {most:,}")
    return text


@dataclass(frozen=True)
class ParquetLimit:
    """The size that a Parquet file may have according to its manifest.

    Attributes
    ----------
    rows : int or None
        The exact number of rows; None if it is not known.
    bytes_a_row : int
        The most bytes that the columns that are read take per row, on average.
    """

    rows: int | None
    bytes_a_row: int

    def check_rows(self, metadata: pq.FileMetaData, path: str, n_bytes: int) -> None:
        """Check the number of rows in a file's metadata.

        Raises
        ------
        InputError
            If it differs from the manifest, or is too large for the size of the file.
        """
        if self.rows is not None and metadata.num_rows != self.rows:
            raise InputError(
                f"{path} is not what the manifest says: it holds {metadata.num_rows:,} rows "
                f"instead of {self.rows:,}"
            )
        if metadata.num_rows * self.bytes_a_row > _SLACK_BYTES + _MOST_INFLATION * n_bytes:
            raise InputError(f"{path} has {n_bytes:,} bytes and claims {metadata.num_rows:,} rows")

    def check(
        self,
        file: IO[bytes] | pa.BufferReader,
        parquet: pq.ParquetFile,
        columns: Sequence[str] | None,
        groups: Sequence[int],
        path: str,
    ) -> None:
        """Check a file before columns of some of its row groups are read.

        Raises
        ------
        InputError
            If they would take more memory than the limit.
        """
        n_bytes = file.seek(0, os.SEEK_END)
        self.check_rows(parquet.metadata, path, n_bytes)
        names = columns or parquet.schema_arrow.names
        chosen = [parquet.metadata.row_group(group) for group in groups]
        rows, size = sum(group.num_rows for group in chosen), _uncompressed(chosen, names)
        most = _SLACK_BYTES + _MOST_INFLATION_OF_TEXT * n_bytes + rows * self.bytes_a_row
        kinds = {name: parquet.schema_arrow.field(name).type for name in names}
        for name, kind in kinds.items():
            if _bytes_of_lists(kind) > self.bytes_a_row:
                raise InputError(f"{path} is not what the manifest says: {name} is {kind}")
        texts = [name for name, kind in kinds.items() if _is_text(kind)]
        # A dictionary stores a text once, even if all rows have it.
        if texts and size <= most < rows * size:
            size = _size_of_texts(file, texts, groups)
        if size > most:
            raise InputError(
                f"{path} has {n_bytes:,} bytes and would take {size:,} in memory, far more than "
                "its manifest allows"
            )


def _uncompressed(groups: Sequence[pq.RowGroupMetaData], names: Sequence[str]) -> int:
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema.split(".")[0] in names
    )


def _bytes_of_lists(kind: pa.DataType) -> float:
    """Return the bytes of a value of a list type; lists of fixed size take them even if null."""
    if not pa.types.is_nested(kind):
        return 0
    is_plain = pa.types.is_fixed_size_list(kind) and pa.types.is_primitive(kind.value_type)
    return kind.list_size * kind.value_type.bit_width / 8 if is_plain else math.inf


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)


def _size_of_texts(
    file: IO[bytes] | pa.BufferReader, columns: list[str], groups: Sequence[int]
) -> int:
    """Return the total length of the texts of some columns, each held in memory only once."""
    file.seek(0)
    parquet = pq.ParquetFile(file, read_dictionary=columns)
    table = parquet.read_row_groups(list(groups), columns=columns)
    size = 0
    for column in table.columns:
        for chunk in column.chunks:
            # Without NumPy: Arrow's conversion imports pandas, which takes 100 ms.
            lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
            size += pc.sum(lengths).as_py() or 0
    return size
