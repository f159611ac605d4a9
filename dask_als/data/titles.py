"""Files of item titles, in any form of text that ratings may have."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from dask_als.core import storage
from dask_als.core.limits import read_text
from dask_als.data import csv_text
from dask_als.data.compression import TextFile, reading
from dask_als.data.json_lines import JsonFormat, parse_json
from dask_als.data.source_files import listed
from dask_als.data.text_chunks import TextFormat
from dask_als.data.text_source import found_text
from dask_als.errors import InputError
from dask_als.settings.data import Columns


@dataclass(frozen=True)
class TitleFile:
    """A file of item titles, or such a member of a zip archive, and its columns.

    Attributes
    ----------
    path : str
    member : str or None
    item, title : str
        The columns: names, or positions from 0.
    encoding : str or None
        Of titles that are not UTF-8. None takes Windows-1252, which includes Latin-1's letters.
    """

    path: str
    member: str | None
    item: str
    title: str
    encoding: str | None = None

    @property
    def columns(self) -> Columns:
        """The columns as those of a source of events."""
        is_by_position = self.item.isdecimal() and self.title.isdecimal()
        header = False if is_by_position else None
        return Columns(user=self.item, item=self.title, rating=None, no_time=True, header=header)


def check_titles(titles: TitleFile) -> None:
    """Check that a file of titles exists and has its two columns.

    Raises
    ------
    InputError
        If not.
    """
    if not storage.exists(titles.path):
        raise InputError(f"there is no file of titles at {titles.path}")
    with reading(titles.path):
        names = _format_of(titles)[1].names
    found = titles.columns.within(names)
    for name, option in ((found.user, "--title-id-col"), (found.item, "--title-col")):
        if name not in names:
            raise InputError(
                f"{titles.path} has no column {name!r}; it has {listed(names)}; name yours with "
                f"{option}"
            )


def read_titles(titles: TitleFile) -> pa.Table:
    """Read the titles of items; malformed lines are skipped.

    Returns
    -------
    pyarrow.Table
        Columns ``id`` and ``title``, as bytes.
    """
    with reading(titles.path):
        file, text_format = _format_of(titles)
        filesystem, inner = storage.file_system(titles.path)
        with file.opened() as opened:
            text = read_text(opened, titles.path, filesystem.size(inner))
    text = text[text_format.header_bytes :]
    if not _is_utf8(text):
        text = _decoded(text, titles.encoding).encode()
    found = titles.columns.within(text_format.names)
    columns = {"id": str(found.user), "title": str(found.item)}
    if isinstance(text_format, JsonFormat):
        table = parse_json(text, text_format, columns, frozenset()).table
        return table.cast(pa.schema([(name, pa.string()) for name in columns])).cast(
            pa.schema([(name, pa.binary()) for name in columns])
        )
    return csv_text.parse(text, text_format, columns, frozenset()).table


def _format_of(titles: TitleFile) -> tuple[TextFile, TextFormat]:
    return found_text(titles.path, titles.member, titles.columns)


def _is_utf8(text: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        text.decode()
        return True
    return False


def _decoded(text: bytes, encoding: str | None) -> str:
    """Return text in an encoding, by default Windows-1252, or else Latin-1, which has any byte."""
    for name in (encoding or "cp1252", "latin-1"):
        with suppress(UnicodeDecodeError):
            return text.decode(name)
    raise AssertionError("Latin-1 decodes all bytes")
