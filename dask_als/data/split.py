"""Choose held-out ratings, and merge several ratings of one pair."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_als.data.partitioning import is_ascending

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIGNED_BITS = 63
_SEED_STEP = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers (the finalizer of splitmix64; Steele, Lea, Flood 2014)."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hashed_ids(ids: pa.Array) -> np.ndarray:
    """Return a hash of each id, the same on every machine; uint64."""
    return pd.util.hash_array(ids.to_pandas().to_numpy(), categorize=False)


def random_test(
    user_hash: np.ndarray, item_hash: np.ndarray, *, fraction: float, seed: int
) -> np.ndarray:
    """Choose held-out ratings by ids and seed alone.

    Parameters
    ----------
    user_hash, item_hash : ndarray of uint64, shape (n,)
        Hashes of the ids of each rating.
    fraction : float
        Expected share of held-out ratings.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    return _uniform(user_hash, item_hash, seed) < fraction


def fold_of(user: np.ndarray, item: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Choose each rating's fold of a cross-validation by its indices and seed alone.

    Parameters
    ----------
    user, item : ndarray of int, shape (n,)
        Row indices, which do not depend on the order of the source or on partitions.
    folds : int
        Number of folds, of about equal size.

    Returns
    -------
    ndarray of int64, shape (n,)
        From 0 to ``folds - 1``.
    """
    uniform = _uniform(mixed(user), item.astype(np.uint64), seed)
    return (uniform * folds).astype(np.int64)


def _uniform(user_hash: np.ndarray, item_hash: np.ndarray, seed: int) -> np.ndarray:
    """Return a random number from 0 to below 1 for each pair."""
    seeded = mixed(np.full(1, seed, dtype=np.uint64) + _SEED_STEP)
    number = mixed(mixed(user_hash ^ seeded) + item_hash)
    return (number >> np.uint64(11)) * 2.0**-53


def latest_test(user: np.ndarray, time: np.ndarray, *, fraction: float) -> np.ndarray:
    """Choose each user's last ratings by time; among equal times, those later in the array.

    A user keeps at least one rating for training.

    Parameters
    ----------
    user, time : ndarray, shape (n,)
        Sorted by user.
    fraction : float
        Share of each user's ratings; the number is rounded to the nearest integer.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    order = np.lexsort((time, user))
    _, first, counts = np.unique(user, return_index=True, return_counts=True)
    held_out = np.minimum(np.floor(counts * fraction + 0.5), counts - 1).astype(np.int64)
    position = np.arange(len(user)) - np.repeat(first, counts)
    is_last = position >= np.repeat(counts - held_out, counts)
    chosen = np.zeros(len(user), dtype=bool)
    chosen[order] = is_last
    return chosen


_UNITS = ((1e11, "seconds", 1), (1e14, "milliseconds", 10**3), (1e17, "microseconds", 10**6))
_NANOSECONDS = ("nanoseconds", 10**9)


def unit_of_times(largest: float) -> tuple[str, int]:
    """Tell the unit of times since 1970 by the size of the largest.

    The largest of seconds is before the year 5138, and the largest of finer units after 1973.

    Returns
    -------
    str
        Its name.
    int
        How many of them are a second.
    """
    fits = ((name, per_second) for most, name, per_second in _UNITS if largest < most)
    return next(fits, _NANOSECONDS)


def first_test_time(test_from: str, largest: float) -> float:
    """Return the first time that is held out, in the unit of the times.

    Parameters
    ----------
    test_from : str
        A number in that unit, or a date of ISO 8601; without a time zone it is UTC.
    largest : float
        The largest absolute value of all times.
    """
    with suppress(ValueError):
        return float(test_from)
    date = datetime.fromisoformat(test_from)
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    microseconds = (date - _EPOCH) // timedelta(microseconds=1)
    return microseconds * unit_of_times(largest)[1] / 10**6


@dataclass(frozen=True)
class Pairs:
    """The order of ratings by pair of user and item, and where each distinct pair starts.

    Attributes
    ----------
    order : ndarray of int64, shape (n_ratings,)
        Positions of the ratings in sorted order; ratings of one pair are in any order.
    starts, counts : ndarray of int64, shape (n_pairs,)
        Where in `order` each pair starts, and its number of ratings.
    """

    order: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    @property
    def n_merged(self) -> int:
        """Number of ratings merged into another one of their pair."""
        return len(self.order) - len(self.starts)

    @property
    def are_rows(self) -> bool:
        """Whether the ratings are sorted already, with one of each pair."""
        return not self.n_merged and is_ascending(self.order)

    @property
    def several(self) -> np.ndarray:
        """The numbers of the pairs with several ratings."""
        return np.flatnonzero(self.counts > 1)

    def last(self, time: np.ndarray | None) -> np.ndarray:
        """Choose the latest rating of each pair; on ties or without times, the last in the source.

        Parameters
        ----------
        time : ndarray of float64 or None
            The time of each rating, in the order of the source.

        Returns
        -------
        ndarray of int64, shape (n_pairs,)
            Positions.
        """
        if not self.n_merged:
            return self.order
        chosen = self.order[self.starts]
        position, pair, ends = self.of_several()
        keys = (position, pair) if time is None else (position, time[position], pair)
        chosen[self.several] = position[np.lexsort(keys)][ends - 1]
        return chosen

    def mean(self, ratings: np.ndarray) -> np.ndarray:
        """Return the mean rating of each pair, independent of the order of its ratings.

        Parameters
        ----------
        ratings : ndarray of float32
            In the order of the source.

        Returns
        -------
        ndarray of float32, shape (n_pairs,)
        """
        means = ratings[self.order[self.starts]]
        means[self.several] = self._sums_of_several(ratings) / self.counts[self.several]
        return means

    def sum(self, ratings: np.ndarray) -> np.ndarray:
        """Return the sum of each pair's ratings, independent of their order.

        Parameters
        ----------
        ratings : ndarray of float32
            In the order of the source.

        Returns
        -------
        ndarray of float32, shape (n_pairs,)
        """
        sums = ratings[self.order[self.starts]]
        sums[self.several] = self._sums_of_several(ratings)
        return sums

    def _sums_of_several(self, ratings: np.ndarray) -> np.ndarray:
        """Return the float64 sum of each pair with several ratings, added in ascending order."""
        if not self.n_merged:
            return np.empty(0)
        position, pair, ends = self.of_several()
        ascending = ratings[position][np.lexsort((ratings[position], pair))]
        starts = ends - self.counts[self.several]
        return np.add.reduceat(ascending.astype(np.float64), starts)

    def of_several(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return position and pair of each rating of a repeated pair, and where the pairs end."""
        counts = self.counts[self.several]
        position = self.order[np.repeat(self.counts > 1, self.counts)]
        return position, np.repeat(np.arange(len(counts)), counts), np.cumsum(counts)


def sorted_pairs(user: np.ndarray, item: np.ndarray) -> Pairs:
    """Sort pairs of indices by user, then item.

    Parameters
    ----------
    user, item : ndarray of int32, shape (n_ratings,)
        Not negative.
    """
    order, pairs = _in_order(user, item)
    is_first = np.ones(len(pairs), bool)
    np.not_equal(pairs[1:], pairs[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    return Pairs(order, starts, np.diff(starts, append=len(pairs)))


def order_of_pairs(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return the positions of pairs of indices, sorted by user, then item; int64."""
    return _in_order(user, item)[0]


def _in_order(user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of pairs of indices, and a number for each pair in this order."""
    places = np.arange(len(user))
    item_bits, place_bits = int(item.max(initial=0)).bit_length(), len(user).bit_length()
    pairs = user.astype(np.int64) << item_bits | item
    if is_ascending(pairs):
        return places, pairs
    first = int(user.min())
    if (int(user.max()) - first).bit_length() + item_bits + place_bits > _SIGNED_BITS:
        order = np.argsort(pairs)
        return order, pairs[order]
    # Sorting numbers is several times as fast as sorting their places.
    keys = (pairs - (first << item_bits)) << place_bits | places
    keys.sort()
    return keys & (1 << place_bits) - 1, keys >> place_bits
