"""Settings of a dataset: the columns of its source and how it is prepared."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from dask_als.settings.checks import require, require_choice, require_whole

DEFAULT_TIME = "timestamp"
MOST_PARTITIONS = 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The source's names for what a rating is made of.

    Attributes
    ----------
    user, item : str
        Columns of the ids.
    rating : str or None
        Column of the number; None counts every row as an event, a rating of 1.
    time : str or None
        Column of the time; None takes ``timestamp``, if it is there.
    """

    user: str = "userId"
    item: str = "movieId"
    rating: str | None = "rating"
    time: str | None = None

    def __post_init__(self) -> None:
        names = self.names()
        require(len(set(names.values())) == len(names), "columns", list(names.values()), "distinct")

    def names(self) -> dict[str, str]:
        """Return our word -> the source's word, for the columns that are there."""
        words = {"user": self.user, "item": self.item, "rating": self.rating, "time": self.time}
        return {word: name for word, name in words.items() if name is not None}

    def within(self, there: tuple[str, ...]) -> Columns:
        """Return the same columns for a source that has these; the time may be found there."""
        found = DEFAULT_TIME if DEFAULT_TIME in there else None
        return replace(self, time=self.time or found)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How a dataset is made from a source.

    Attributes
    ----------
    test_fraction : float
        Share of the ratings held out, 0 (none) to below 1.
    split : {"random", "latest", "time", "own"}
        How ratings are held out: by a hash of ids and seed, each user's last ratings by time, all
        ratings from a time on, or those of a test source.
    test_from : str or None
        The time of the split ``time``: an ISO 8601 date, or a number in the unit of the times.
    duplicates : {"last", "mean", "sum", "error"}
        What becomes of several ratings of one item by one user.
    least_user_ratings, least_item_ratings : int
        Ratings that a user, and an item, must have to be kept, counted over what is kept: rows are
        left out until all that remain have enough. With a test source, training ratings count.
    partitions : int or None
        Partitions of each side; None chooses by the number of ratings.
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
    least_user_ratings: int = 1
    least_item_ratings: int = 1
    partitions: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        in_range = math.isfinite(self.test_fraction) and 0 <= self.test_fraction < 1
        require(in_range, "test_fraction", self.test_fraction, "at least 0 and below 1")
        require_choice(self, "split")
        require_choice(self, "duplicates")
        if self.partitions is not None:
            require_whole("partitions", self.partitions, least=1, most=MOST_PARTITIONS)
        require_whole("seed", self.seed, least=0)
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
        by_time = self.split == "time" or (self.test_fraction > 0 and self.split == "latest")
        return by_time or self.duplicates == "last"

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
