"""Which ratings are held out for testing, and which of several ratings of one pair counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

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
        Hashes of the ratings' ids.
    fraction : float
        Expected share.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    seeded = mixed(np.full(1, seed, dtype=np.uint64) + _SEED_STEP)
    number = mixed(mixed(user_hash ^ seeded) + item_hash)
    return (number >> np.uint64(11)) * 2.0**-53 < fraction


def latest_test(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, *, fraction: float
) -> np.ndarray:
    """Choose each user's last ratings by time; of equal times, the items with higher indices.

    A user keeps at least one rating for training.

    Parameters
    ----------
    user, item, time : ndarray, shape (n,)
        The users ascend.
    fraction : float
        Share of each user's ratings, rounded to the nearest number.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    order = np.lexsort((item, time, user))
    _, first, counts = np.unique(user, return_index=True, return_counts=True)
    held_out = np.minimum(np.floor(counts * fraction + 0.5), counts - 1).astype(np.int64)
    place = np.arange(len(user)) - np.repeat(first, counts)
    is_last = place >= np.repeat(counts - held_out, counts)
    chosen = np.zeros(len(user), dtype=bool)
    chosen[order] = is_last
    return chosen


def sorted_pairs(user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort pairs of indices by user, then item.

    Returns
    -------
    order : ndarray of int64, shape (n,)
        Positions in sorted order.
    starts : ndarray of int64
        Where in that order each distinct pair starts.
    """
    pairs = user.astype(np.int64) << 32 | item.astype(np.int64)
    order = np.argsort(pairs)
    pairs = pairs[order]
    is_first = np.ones(len(pairs), dtype=bool)
    is_first[1:] = pairs[1:] != pairs[:-1]
    return order, np.flatnonzero(is_first)


def last_of_each(order: np.ndarray, starts: np.ndarray, time: np.ndarray | None) -> np.ndarray:
    """Choose, of the ratings of each pair, the latest; without time, the last in the source.

    Parameters
    ----------
    order, starts : ndarray
        From `sorted_pairs`; positions ascend with the source.
    time : ndarray of float64 or None

    Returns
    -------
    ndarray of int64
        Positions, one a pair, in the order of the pairs.
    """
    if len(starts) == len(order):
        return order
    pair = np.repeat(np.arange(len(starts)), np.diff([*starts, len(order)]))
    keys = (order, pair) if time is None else (order, time[order], pair)
    by_pair = order[np.lexsort(keys)]
    return by_pair[np.append(starts[1:], len(order)) - 1]


def mean_of_each(order: np.ndarray, starts: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """Return the mean rating of each pair, the same in whatever order its ratings come.

    Parameters
    ----------
    order, starts : ndarray
        From `sorted_pairs`.
    ratings : ndarray of float32

    Returns
    -------
    ndarray of float32
    """
    pair = np.repeat(np.arange(len(starts)), np.diff([*starts, len(order)]))
    ascending = ratings[order][np.lexsort((ratings[order], pair))]
    sums = np.add.reduceat(ascending.astype(np.float64), starts)
    return (sums / np.diff([*starts, len(order)])).astype(np.float32)
