"""Find what a text file is: how it is compressed, and the form of its text."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from dask_als.core import storage
from dask_als.data import text_chunks
from dask_als.data.compression import TextFile, compression_of, wide_encoding
from dask_als.data.json_lines import find_json_format
from dask_als.data.source_files import ratings_in_zip
from dask_als.data.text_chunks import TextFormat, TextRange, TextStream
from dask_als.data.text_form import find_format
from dask_als.settings.data import Columns

_START_BYTES = 1 << 20
_PARQUET_MAGIC = b"PAR1"


def is_parquet(path: str) -> bool:
    """Return whether a file starts as Parquet does."""
    with storage.opened(path) as file:
        return bool(file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC)


def found_text(path: str, member: str | None, columns: Columns) -> tuple[TextFile, TextFormat]:
    """Return a text file and its form; of a zip archive without `member`, those of its ratings.

    Raises
    ------
    InputError
        If the file is not text, or its form is ambiguous.
    """
    with storage.opened(path) as opened:
        start = opened.read(_START_BYTES)
    file = TextFile(path, compression_of(path, start), member)
    if file.compression == "zip" and member is None:
        file = TextFile(path, "zip", ratings_in_zip(path))
    if not file.is_seekable:
        start = _start_of(file)
    wide = wide_encoding(start, columns.encoding)
    if wide is not None:
        columns = replace(columns, encoding=None)
        file = replace(file, wide=wide)
        start = _start_of(file)
    name = file.member or path
    text_format = find_json_format(start, name)
    if text_format is not None:
        return file, text_format
    return file, find_format(start, name, columns, is_all=len(start) < _START_BYTES)


def _start_of(file: TextFile) -> bytes:
    with file.opened() as opened:
        return opened.read(_START_BYTES)


def chunks_of(file: TextFile, text_format: TextFormat) -> list[TextRange | TextStream]:
    """Cut a text file into ranges, if its bytes are those of the text."""
    if not file.is_seekable:
        return [TextStream(file, text_format)]
    filesystem, inner = storage.file_system(file.path)
    first, size = text_format.header_bytes, filesystem.size(inner)
    n_bytes = text_chunks.BLOCK_BYTES
    edges = [first, *range((first // n_bytes + 1) * n_bytes, size, n_bytes), size]
    return [
        TextRange(file.path, text_format, start, stop, first if start == first else None)
        for start, stop in pairwise(edges)
    ]
