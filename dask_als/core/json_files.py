"""JSON files: manifests with a format version and a checksum, and JSON lines."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any

from dask_als.core.checksums import content_of, content_with
from dask_als.core.limits import MOST_JSON_BYTES
from dask_als.core.storage import first_line, opened, reading
from dask_als.errors import InputError

MARK_KEYS = ("made_by", "kind", "files")
"""Keys that mark a JSON file as ours: who made it, its kind, the files that belong to it."""
_NOT_CONTENT = {"format_version", *MARK_KEYS}


def write_json(path: str, value: object) -> None:
    """Write a JSON file, indented, with a newline at the end."""
    with opened(path, "w") as file:
        file.write(as_json(value))


def as_json(value: object) -> str:
    """Return a value as JSON text, indented, with a newline at the end."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises
    ------
    InputError
        If the file is missing, too long or not JSON.
    """
    with reading(path), opened(path) as file:
        text = file.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise InputError(f"{path} is damaged: longer than {MOST_JSON_BYTES:,} bytes")
    return parsed(path, text)


def without_marks(value: Any) -> Any:
    """Return the content of a marked JSON file, without the keys that mark it as ours."""
    if not isinstance(value, dict):
        return value
    return {key: entry for key, entry in value.items() if key not in MARK_KEYS}


def parsed(path: str, text: bytes) -> Any:
    """Return the value of the JSON text in the file at `path`.

    Raises
    ------
    InputError
        If it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: not JSON ({first_line(error)})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")  # Python's extension of JSON; we never write it.


def write_manifest(path: str, value: dict[str, Any], *, format_version: int) -> None:
    """Write a JSON object with its format version and a checksum of both."""
    write_with_checksum(path, {"format_version": format_version, **value})


def write_with_checksum(path: str, value: dict[str, Any]) -> None:
    """Write a JSON object with its checksum."""
    write_json(path, with_checksum(value))


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its checksum added."""
    return {**value, "checksum": _checksum(value)}


def has_its_checksum(value: dict[str, Any]) -> bool:
    """Tell whether an object has a format version and its right checksum."""
    rest = {key: entry for key, entry in value.items() if key != "checksum"}
    is_versioned = isinstance(value.get("format_version"), int)
    return is_versioned and value.get("checksum") == _checksum(rest)


def read_manifest(path: str, *, format_version: int) -> dict[str, Any]:
    """Read what `write_manifest` wrote.

    Raises
    ------
    InputError
        If it is missing, damaged, changed after it was written, or of another format version.
    """
    return checked_manifest(path, read_json(path), format_version=format_version)


def checked_manifest(path: str, manifest: Any, *, format_version: int) -> dict[str, Any]:
    """Return the content of a manifest that `path` holds; see `read_manifest`."""
    if not isinstance(manifest, dict):
        raise InputError(f"{path} is damaged: not a JSON object")
    version = manifest.get("format_version")
    if version != format_version:
        raise InputError(
            f"{path} has format version {version}, and this release reads {format_version}; "
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
    """Write one JSON object per line; return the file's CRC-32."""
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with opened(path, "wb") as file:
        file.write(text.encode())
    return zlib.crc32(text.encode())


def read_json_lines(path: str, *, crc32: int | None = None) -> list[Any]:
    """Read one JSON value per line.

    Parameters
    ----------
    crc32 : int, optional
        The file's expected CRC-32; None if it is not known.

    Raises
    ------
    InputError
        If the file is missing, its CRC-32 differs, or a line is not JSON.
    """
    content = content_of(path) if crc32 is None else content_with(path, crc32)
    return [parsed(path, line) for line in content.to_pybytes().splitlines()]
