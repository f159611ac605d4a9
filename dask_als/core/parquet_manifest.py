"""Manifests in the metadata of a Parquet file without rows.

Parquet readers read a folder as one table only if all its files are Parquet and have the same
columns. So the manifest of such a folder is a Parquet file, too. It has the columns of the parts,
no rows, and the JSON text of the manifest under the key ``dask_als`` of the schema's metadata.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dask_als.core import json_files
from dask_als.core.limits import MOST_JSON_BYTES
from dask_als.core.storage import opened, reading
from dask_als.errors import InputError

_KEY = b"dask_als"


def write_manifest(
    path: str, value: dict[str, Any], schema: pa.Schema, *, format_version: int
) -> None:
    """Write a manifest with its format version and a checksum, beside parts with a schema."""
    _write(path, {"format_version": format_version, **value}, schema)


def read_manifest(path: str, *, format_version: int) -> dict[str, Any]:
    """Read what `write_manifest` wrote.

    Raises
    ------
    InputError
        If it is missing, damaged, changed after it was written, or of another format version.
    """
    return json_files.checked_manifest(path, read_value(path), format_version=format_version)


def read_value(path: str) -> Any:
    """Read a manifest without checking its checksum.

    Raises
    ------
    InputError
        If the file is missing, too long or not Parquet, or its metadata hold no JSON.
    """
    return _parsed(path, _read(path))


def rewrite_value(path: str, value: dict[str, Any]) -> None:
    """Replace a manifest and its checksum; the columns stay."""
    _write(path, value, _read(path))


def _write(path: str, value: dict[str, Any], schema: pa.Schema) -> None:
    text = json.dumps(json_files.with_checksum(value), allow_nan=False)
    described = schema.with_metadata({**(schema.metadata or {}), _KEY: text.encode()})
    with opened(path, "wb") as file:
        pq.write_table(described.empty_table(), file)


def _read(path: str) -> pa.Schema:
    with reading(path), opened(path) as file:
        content = file.read(MOST_JSON_BYTES + 1)
    if len(content) > MOST_JSON_BYTES:
        raise InputError(f"{path} is damaged: longer than {MOST_JSON_BYTES:,} bytes")
    with reading(path):
        return pq.read_schema(pa.BufferReader(content))


def _parsed(path: str, schema: pa.Schema) -> Any:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise InputError(f"{path} is damaged: its metadata hold no manifest")
    return json_files.parsed(path, text)
