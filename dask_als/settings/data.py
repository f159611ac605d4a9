"""Settings of a dataset: the columns of its source and how it is prepared."""

from __future__ import annotations

import codecs
import math
import re
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Literal

from dask_als.core.typed_tables import EMPTY
from dask_als.settings.checks import (
    plain_numbers,
    require,
    require_choice,
    require_finite,
    require_whole,
)

DEFAULT_TIME = "timestamp"
MOST_PARTITIONS = 2**15 - 1
LEAST_ROWS = 3
"""Of fewer rows with ratings, a category says next to nothing: its weight would stay near 0."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a source, and how they are written where a text file does not tell.

    A column is named as in the header (of CSV), the schema (of Parquet) or the keys (of JSON). A
    number that is no such name is the position of a column, from 0.

    Attributes
    ----------
    user, item : str or int
        Columns of the ids.
    rating : str or int or None
        Column of the number; None counts every row as an event, a rating of 1.
    time : str or int or None
        Column of the time; None takes ``timestamp``, if it is there.
    weight : str or int or None
        Column of the ratings' weights; None weights all alike.
    no_time : bool
        Read no time, even if there is a column ``timestamp``.
    time_format : str or None
        ``seconds`` or ``milliseconds`` since 1970, ``iso``, a pattern like ``dd/mm/yyyy hh:mm`` or
        one of `datetime.strptime`. None takes numbers as they are, and ISO dates.
    id_type : {"text", "int"} or None
        What ids are. None makes them whole numbers if all of them are, else text.
    delimiter : str or None
        Of text files: any characters, ``tab``, or ``space`` for runs of blanks. None finds it.
    header : bool or None
        Whether text files start with the names of the columns. None finds it.
    comment : str or None
        Lines that start so are skipped. None skips lines with # or % before the first record; an
        empty text skips none.
    decimal : {".", ","}
        Decimal mark of text files.
    encoding : str or None
        Of text files; None is UTF-8, for titles also Latin-1 where they are not UTF-8.

    Raises
    ------
    InputError
        If a value is out of its range, or two columns are the same.
    """

    user: str | int = "userId"
    item: str | int = "movieId"
    rating: str | int | None = "rating"
    time: str | int | None = None
    weight: str | int | None = None
    no_time: bool = False
    time_format: str | None = None
    id_type: Literal["text", "int"] | None = None
    delimiter: str | None = None
    header: bool | None = None
    comment: str | None = field(default=None, metadata={EMPTY: True})
    decimal: Literal[".", ","] = "."
    encoding: str | None = None

    def __post_init__(self) -> None:
        names = self.names()
        require(len(set(names.values())) == len(names), "columns", list(names.values()), "distinct")
        require(
            not (self.no_time and self.time is not None), "time", self.time, "left out with no-time"
        )
        require_choice(self, "decimal")
        if self.id_type is not None:
            require(self.id_type in ("text", "int"), "id_type", self.id_type, "text or int")
        if self.time_format is not None:
            strptime_pattern(self.time_format)
        self._check_text()

    def _check_text(self) -> None:
        if self.delimiter is not None:
            delimiter = _DELIMITER_NAMES.get(self.delimiter, self.delimiter)
            is_fit = delimiter and not any(letter in delimiter for letter in '"\r\n\0')
            require(bool(is_fit), "delimiter", self.delimiter, "without quotes and line ends")
            object.__setattr__(self, "delimiter", delimiter)
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
                name = codecs.lookup(self.encoding).name
            except LookupError:
                name = ""
            require(bool(name), "encoding", self.encoding, "an encoding like latin-1 or cp1252")
            object.__setattr__(self, "encoding", name)

    def names(self) -> dict[str, str]:
        """Return field of a rating -> column, for the columns that are read."""
        words = ((word, getattr(self, word)) for word in _COLUMN_FIELDS)
        return {word: str(name) for word, name in words if name is not None}

    def within(self, present: tuple[str, ...]) -> Columns:
        """Return the same for a source with these columns: positions named, the time found."""
        time = self.time
        if time is None and DEFAULT_TIME in present and not self.no_time:
            time = DEFAULT_TIME
        return replace(
            self,
            user=_named(self.user, present),
            item=_named(self.item, present),
            rating=None if self.rating is None else _named(self.rating, present),
            time=None if time is None else _named(time, present),
            weight=None if self.weight is None else _named(self.weight, present),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the columns that are read, and each other field that is not the default."""
        others = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default and field.name not in _COLUMN_FIELDS
        }
        return {**self.names(), **others}


_COLUMN_FIELDS = ("user", "item", "rating", "time", "weight")
_DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "space": " ", "spaces": " "}
_STRPTIME = {"yyyy": "%Y", "yy": "%y", "dd": "%d", "hh": "%H", "ss": "%S"}


def _named(column: str | int, present: tuple[str, ...]) -> str:
    """Return the name of a column that is given by name or position."""
    name = str(column)
    if name not in present and name.isdecimal() and int(name) < len(present):
        return present[int(name)]
    return name


def strptime_pattern(time_format: str) -> str | None:
    """Return the pattern of `datetime.strptime` for a time format; None if it has a name.

    Raises
    ------
    InputError
        If it is neither a name nor a pattern.
    """
    if time_format in ("iso", "seconds", "milliseconds"):
        return None
    if "%" in time_format:
        pattern = time_format
    else:
        # Minutes follow hours, months do not.
        pattern = re.sub(r"(?<=hh.)mm", "%M", time_format.lower())
        pattern = re.sub("yyyy|yy|dd|hh|ss", lambda match: _STRPTIME[match.group()], pattern)
        pattern = pattern.replace("mm", "%m")
    try:
        datetime.strptime(datetime(2024, 2, 29).strftime(pattern), pattern)
        is_pattern = "%" in pattern
    except ValueError:
        is_pattern = False
    require(
        is_pattern,
        "time_format",
        time_format,
        "iso, seconds, milliseconds or a pattern like dd/mm/yyyy",
    )
    return pattern


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How a dataset is made from a source.

    Attributes
    ----------
    test_fraction : float
        Fraction of the ratings that is held out: at least 0 (none) and below 1.
    split : {"random", "latest", "time", "own"}
        Hold out ratings chosen by a hash of ids and seed, each user's latest ratings, all ratings
        from a time on, or those of a test source.
    test_from : str or None
        The time of the split ``time``: an ISO 8601 date, or a number in the unit of the times.
    duplicates : {"last", "mean", "sum", "error"}
        How several ratings of one item by one user are combined.
    half_life : float or None
        Days in which a rating's weight halves: it is 2 ** -(age / half_life), the age counted from
        the newest training rating, times that of a column of weights, if there is one. None weights
        ratings of any age alike.
    least_user_ratings, least_item_ratings : int
        Ratings that a user, and an item, must have to be kept, counted over what is kept: rows are
        left out until all that remain have enough. With a test source, training ratings count.
    partitions : int or None
        Number of partitions of each side; None chooses it by the number of ratings.
    seed : int
        Seed of the random split.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    test_fraction: float = 0.0
    split: Literal["random", "latest", "time", "own"] = "random"
    test_from: str | None = None
    duplicates: Literal["last", "mean", "sum", "error"] = "last"
    half_life: float | None = None
    least_user_ratings: int = 1
    least_item_ratings: int = 1
    partitions: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        plain_numbers(self)
        in_range = math.isfinite(self.test_fraction) and 0 <= self.test_fraction < 1
        require(in_range, "test_fraction", self.test_fraction, "at least 0 and below 1")
        require_choice(self, "split")
        require_choice(self, "duplicates")
        if self.partitions is not None:
            require_whole("partitions", self.partitions, least=1, most=MOST_PARTITIONS)
        require_whole("seed", self.seed, least=0)
        if self.half_life is not None:
            require_finite("half_life", self.half_life, positive=True)
        require_whole("least_user_ratings", self.least_user_ratings, least=1)
        require_whole("least_item_ratings", self.least_item_ratings, least=1)
        self._check_split()

    def _check_split(self) -> None:
        if self.split in ("time", "own"):
            wanted = f"left out with the split {self.split!r}"
            require(not self.test_fraction, "test_fraction", self.test_fraction, wanted)
        if self.split == "time":
            wanted = "a date like 2024-06-30, or a number in the unit of the times, for this split"
            is_time = self.test_from is not None and is_moment(self.test_from)
            require(is_time, "test_from", self.test_from, wanted)
        else:
            wanted = "left out, or given with the split 'time'"
            require(self.test_from is None, "test_from", self.test_from, wanted)

    @property
    def holds_out(self) -> bool:
        """Whether ratings are held out."""
        return self.test_fraction > 0 or self.split in ("time", "own")

    @property
    def filters(self) -> bool:
        """Whether users or items with few ratings are left out."""
        return max(self.least_user_ratings, self.least_item_ratings) > 1

    @property
    def needs_times(self) -> bool:
        """Whether the times of ratings decide anything."""
        return self.rejects_without_time or self.duplicates == "last"

    @property
    def rejects_without_time(self) -> bool:
        """Whether a rating without a time cannot be used, for the split or for its weight."""
        return self.splits_by_time or self.half_life is not None

    @property
    def splits_by_time(self) -> bool:
        """Whether times decide which ratings are held out."""
        return self.split == "time" or (self.test_fraction > 0 and self.split == "latest")

    def split_json(self) -> dict[str, Any] | None:
        """Return the split as plain JSON values; None if nothing is held out."""
        if not self.holds_out:
            return None
        if self.split == "own":
            return {"kind": self.split}
        if self.split == "time":
            return {"kind": self.split, "test_from": self.test_from}
        return {"kind": self.split, "test_fraction": self.test_fraction, "seed": self.seed}


def is_moment(text: str) -> bool:
    """Tell whether a text is a date of ISO 8601 or a finite number."""
    with suppress(ValueError):
        return math.isfinite(float(text))
    with suppress(ValueError):
        return bool(datetime.fromisoformat(text))
    return False
