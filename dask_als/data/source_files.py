"""Find the files of a source: a file, a folder, a glob, or the members of a zip archive."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from typing import Any
from urllib.parse import unquote

from dask_als.core import storage
from dask_als.data.compression import SUFFIXES, reading
from dask_als.data.grouplens import base_name, ratings_among, titles_beside
from dask_als.errors import InputError

PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv")
KNOWN_TEXT = (*_CSV, *SUFFIXES)
_ABOUT = ("readme", "license")
_OTHER_TEXT = (".psv", ".dat", ".data", ".json", ".jsonl", ".ndjson")
_NULL_IN_HIVE = "__HIVE_DEFAULT_PARTITION__"
STANDARD_INPUT = "-"
_IN_ARCHIVE = re.compile(r"(.+?\.zip)!(.+)", re.IGNORECASE | re.DOTALL)


def is_stream(path: str) -> bool:
    """Return whether a path is standard input or a pipe, which can be read only once."""
    if path == STANDARD_INPUT or path.startswith("/dev/"):
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def archive_and_member(path: str) -> tuple[str, str | None]:
    """Return the archive and the member of a path such as ``ml-100k.zip!ml-100k/u1.base``.

    Any other path has no member.

    Raises
    ------
    InputError
        If the archive has no such member.
    """
    parts = _IN_ARCHIVE.fullmatch(path)
    if parts is None or storage.exists(path):
        return path, None
    archive, member = parts.groups()
    if not storage.exists(archive):
        raise InputError(f"there is no archive at {archive}")
    if member not in (names := names_in_zip(archive)):
        raise InputError(f"{archive} has no file {member!r}; it has {listed(tuple(names))}")
    return archive, member


def files_of(path: str) -> list[str]:
    """Return the files of a source; of a MovieLens folder, only the file of ratings.

    Raises
    ------
    InputError
        If there is none.
    """
    if is_stream(path):
        raise InputError(f"{path} can be read only once; give a file, or use dask-als prepare")
    filesystem, inner = storage.file_system(path)
    if filesystem.isfile(inner):
        return [storage.on_every_process(filesystem, inner)]
    if filesystem.isdir(inner):
        found = filesystem.find(inner)
    elif _is_glob(inner):
        found = [name for name in filesystem.glob(inner) if filesystem.isfile(name)]
    else:
        raise InputError(f"there is no file or folder at {path}")
    names = [storage.on_every_process(filesystem, name) for name in found]
    ratings = ratings_among(names)
    if ratings is not None:
        return [ratings]
    if not (names := data_among(names)):
        raise InputError(f"{path} holds no file of text or Parquet")
    return sorted(names, key=_by_number)


def _is_glob(inner: str) -> bool:
    return any(letter in inner for letter in "*?[")


def data_among(names: list[str]) -> list[str]:
    """Return the files of data: of the first of these kinds of names that occurs.

    CSV, Parquet and compressed files; files with other suffixes of data; text files and files
    without suffix, as Spark's part-00000.
    """
    names = [n for n in names if not base_name(n).lower().startswith(("_", ".", *_ABOUT))]
    for suffixes in ((*KNOWN_TEXT, *PARQUET), _OTHER_TEXT):
        if found := [name for name in names if name.lower().endswith(suffixes)]:
            return found
    return [n for n in names if n.lower().endswith(".txt") or "." not in base_name(n)]


def _by_number(name: str) -> list[Any]:
    """Return a key that sorts part.9 before part.10."""
    return [int(text) if i % 2 else text for i, text in enumerate(re.split(r"([0-9]+)", name))]


def names_in_zip(path: str) -> list[str]:
    """Return the members of a zip archive that are not folders."""
    with reading(path), storage.opened(path) as file, zipfile.ZipFile(file) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def ratings_in_zip(path: str) -> str:
    """Return the member of a zip archive that holds the ratings.

    Raises
    ------
    InputError
        If that is not clear.
    """
    members = names_in_zip(path)
    names = [name for name in data_among(members) if not name.lower().endswith(PARQUET)]
    plain = [name for name in names if base_name(name) == "ratings.csv"]
    chosen = ratings_among(members) or (plain[0] if len(plain) == 1 else None)
    if chosen is not None:
        return chosen
    if len(names) != 1:
        choice = f"; name one of them, like {base_name(path)}!{names[0][:80]}" if names else ""
        raise InputError(
            f"{path} must hold one file of text, or one named ratings.csv; it holds "
            f"{listed(tuple(names)) or 'none'}{choice}"
        )
    return names[0]


def find_titles_beside(path: str, member: str | None) -> tuple[str, str | None] | None:
    """Return path and member of the titles in a MovieLens folder or archive, if any."""
    titles = titles_beside(member or path)
    if titles is None:
        return None
    if member is None:
        return (titles, None) if storage.exists(titles) else None
    return (path, titles) if titles in names_in_zip(path) else None


def hive_columns(root: str, files: list[str]) -> dict[str, tuple[tuple[str, Any], ...]]:
    """Return the columns that are in the names of folders, such as ``year=2024``, of each file.

    A column is of whole numbers or of numbers if all its values are, else text.
    """
    filesystem, inner = storage.file_system(root)
    if filesystem.isfile(inner):
        return dict.fromkeys(files, ())
    if not filesystem.isdir(inner):  # A glob: what its fixed part names are no columns.
        inner = re.split(r"[*?\[]", inner)[0].rpartition("/")[0]
    found = {file: dict(_hive_values(file, inner)) for file in files}
    kinds = {
        key: _kind_of([values[key] for values in found.values() if key in values])
        for key in dict.fromkeys(key for values in found.values() for key in values)
    }
    return {
        file: tuple((key, None if v is None else kinds[key](v)) for key, v in values.items())
        for file, values in found.items()
    }


def _hive_values(file: str, folder: str) -> list[tuple[str, str | None]]:
    _, inner = storage.file_system(file)
    between = inner.removeprefix(folder).split("/")[:-1]
    pairs = [name.split("=", 1) for name in between if "=" in name.strip("=")]
    return [(unquote(key), None if v == _NULL_IN_HIVE else unquote(v)) for key, v in pairs]


def _kind_of(values: list[str | None]) -> Any:
    """Return int, float or str: what all texts can be without change."""
    texts = [value for value in values if value is not None]
    if all(re.fullmatch(r"-?[1-9][0-9]{0,17}|0", text) for text in texts):
        return int
    try:
        [float(text) for text in texts]
    except ValueError:
        return str
    is_padded = any(re.match(r"-?0[0-9]", text) for text in texts)
    return str if is_padded else float


def listed(names: tuple[str, ...], most: int = 20) -> str:
    """Return names for an error message."""
    shown = [name[:80] for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")
