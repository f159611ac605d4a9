"""Settings of a dataset: the columns of its source and how it is prepared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from dask_als.settings.checks import plain_numbers, require, require_choice, require_whole

DEFAULT_TIME = "timestamp"
MOST_PARTITIONS = 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the source's columns.

    Attributes
    ----------
    user, item : str
        Columns of the ids.
    rating : str or None
        Column of the rating; None counts every row as an event, a rating of 1.
    time : str or None
        Column of the time; None means ``timestamp``, if the source has that.
    """

    user: str = "userId"
    item: str = "movieId"
    rating: str | None = "rating"
    time: str | None = None

    def __post_init__(self) -> None:
        names = self.names()
        require(len(set(names.values())) == len(names), "columns", list(names.values()), "distinct")

    def names(self) -> dict[str, str]:
        """Return the source's name of each column that is set, by our name."""
        words = {"user": self.user, "item": self.item, "rating": self.rating, "time": self.time}
        return {word: name for word, name in words.items() if name is not None}

    def within(self, there: tuple[str, ...]) -> Columns:
        """Return the same columns, with the default time if the source has that column."""
        found = DEFAULT_TIME if DEFAULT_TIME in there else None
        return replace(self, time=self.time or found)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How a dataset is made from a source.

    Attributes
    ----------
    test_fraction : float
        Fraction of the ratings that is held out: at least 0 (none) and below 1.
    split : {"random", "latest"}
        Hold out ratings chosen by a hash of ids and seed, or each user's latest ratings.
    duplicates : {"last", "mean", "sum", "error"}
        How several ratings of one item by one user are combined.
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
    split: Literal["random", "latest"] = "random"
    duplicates: Literal["last", "mean", "sum", "error"] = "last"
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

    def split_json(self) -> dict[str, Any] | None:
        """Return the split as plain JSON values; None if nothing is held out."""
        if not self.test_fraction:
            return None
        return {"kind": self.split, "test_fraction": self.test_fraction, "seed": self.seed}
