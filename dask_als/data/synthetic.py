"""Ratings in the shape of MovieLens, generated from known biases and factors.

Ratings are generated in chunks: contiguous ranges of users, balanced by ratings. The random numbers
of a chunk come from a counter-based generator (Philox), keyed by the seed and positioned by the
number of the chunk. So any process can generate any chunk, in any order, with the same bits.

The counts follow MovieLens. A user's count is 20 plus a lognormal number. The popularity of items
decreases as a stretched exponential, from the most popular item, which half of the users rate, to
a long tail of items with few ratings; each item has at least one. A user's items are drawn by
popularity without replacement.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dask_als.core.outputs import staged_path
from dask_als.errors import InputError

GLOBAL_MEAN = 3.5
BIAS_SPREAD = 0.45
AFFINITY_SPREAD = 0.45
"""Standard deviation of u · v, whatever the rank."""

CHUNK_RATINGS = 500_000
FEWEST_RATINGS_OF_A_USER = 20
ACTIVITY_SPREAD = 1.37
"""Standard deviation of the logarithm of a user's count above the fewest."""

POPULARITY_BEND = 0.33
TOP_ITEM_WEIGHT = 1.4
"""Draws of the most popular item per user; without repetition, about half of the users rate it."""

FIRST_SECOND, LAST_SECOND = 820_454_400, 1_577_836_800  # the years 1996 to 2019
SECONDS_A_RATING = 15

SCHEMA = pa.schema(
    [
        ("userId", pa.int64()),
        ("movieId", pa.int64()),
        ("rating", pa.float32()),
        ("timestamp", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """The number of ratings, users and items to generate, and their distribution.

    Parameters
    ----------
    n_users, n_items, n_ratings : int
        Exact numbers of distinct users, distinct items and ratings.
    rank : int, default 8
        Length of the true factors.
    seed : int, default 0
        From 0 to 2**64 - 1. The same settings give the same ratings.
    noise : float, default 0.7
        Standard deviation of the residuals, in stars.

    Raises
    ------
    InputError
        If a value is out of range, or the number of ratings does not fit the users and items.
    """

    n_users: int
    n_items: int
    n_ratings: int
    rank: int = 8
    seed: int = 0
    noise: float = 0.7

    def __post_init__(self) -> None:
        for name in ("n_users", "n_items", "n_ratings", "rank"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name.removeprefix('n_')} is {getattr(self, name)}; give at least 1"
                )
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed}: give an integer from 0 to 2**64 - 1")
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise InputError(f"noise is {self.noise}: give a finite number, 0 or more")
        fewest = max(self.n_users, self.n_items)
        if self.n_ratings < fewest:
            raise InputError(
                f"ratings is {self.n_ratings}: give at least {fewest}, "
                "one for every user and every item"
            )
        most = self.n_users * self.n_items // 2
        if self.n_ratings > max(most, fewest):
            raise InputError(
                f"ratings is {self.n_ratings}: give at most {max(most, fewest)}, "
                "half of all pairs of a user and an item, or more users or items"
            )


MOVIELENS_SMALL = GenerateSettings(n_users=610, n_items=9_724, n_ratings=100_836)
MOVIELENS_25M = GenerateSettings(n_users=162_541, n_items=59_047, n_ratings=25_000_095)


class Chunk(NamedTuple):
    """A contiguous range of users, counted from 0, and their ratings, counted over all users."""

    number: int
    first_user: int
    stop_user: int
    first_rating: int
    stop_rating: int


@dataclass(frozen=True)
class TrueFactors:
    """The terms of the ratings: global mean + user bias + item bias + user · item + noise.

    Attributes
    ----------
    global_mean : float
    user_ids, item_ids : ndarray of int64, shape (n_users,) and (n_items,)
        In ascending order.
    user_bias, item_bias : ndarray of float32, shape (n_users,) and (n_items,)
    user_factors, item_factors : ndarray of float32, shape (n_users, rank) and (n_items, rank)
    """

    global_mean: float
    user_ids: np.ndarray
    item_ids: np.ndarray
    user_bias: np.ndarray
    item_bias: np.ndarray
    user_factors: np.ndarray
    item_factors: np.ndarray


def chunks(settings: GenerateSettings) -> list[Chunk]:
    """Return the chunks, of about ``CHUNK_RATINGS`` ratings each."""
    offsets = _user_offsets(settings)
    n_chunks = -(-settings.n_ratings // CHUNK_RATINGS)
    targets = np.arange(1, n_chunks) * settings.n_ratings // n_chunks
    users = np.unique(np.concatenate([[0], np.searchsorted(offsets, targets), [settings.n_users]]))
    return [
        Chunk(number, int(first), int(stop), int(offsets[first]), int(offsets[stop]))
        for number, (first, stop) in enumerate(pairwise(users))
    ]


def generate_chunk(settings: GenerateSettings, chunk: Chunk) -> pa.Table:
    """Generate the ratings of one chunk, sorted by user and item.

    Returns
    -------
    pyarrow.Table
        ``userId`` and ``movieId`` (int64; items with holes, as in MovieLens), ``rating``
        (float32, half stars from 0.5 to 5) and ``timestamp`` (int64, Unix seconds). Pairs of user
        and item are distinct.
    """
    catalogue = _catalogue(settings)
    counts = np.diff(_user_offsets(settings)[chunk.first_user : chunk.stop_user + 1])
    rng = _random(settings, Purpose.RATINGS, chunk.number)

    user, item = _draw_items(rng, catalogue, counts, _items_never_missing(settings, chunk))
    user_bias, user_factors = _biases_and_factors(
        _random(settings, Purpose.USERS, chunk.number), len(counts), settings.rank
    )
    stars = rng.standard_normal(len(user), dtype=np.float32)
    stars *= np.float32(settings.noise)
    stars += np.float32(GLOBAL_MEAN) + user_bias[user] + catalogue.bias[item]
    for user_column, item_column in zip(user_factors.T, catalogue.factors.T, strict=True):
        stars += user_column[user] * item_column[item]
    return pa.table(
        [
            user + (chunk.first_user + 1),
            catalogue.ids[item],
            np.clip(np.rint(stars * 2) / 2, 0.5, 5).astype(np.float32),
            _timestamps(rng, counts, user),
        ],
        schema=SCHEMA,
    )


def true_factors(settings: GenerateSettings) -> TrueFactors:
    """Return the biases and factors from which the ratings are generated."""
    catalogue = _catalogue(settings)
    users = [
        _biases_and_factors(
            _random(settings, Purpose.USERS, chunk.number),
            chunk.stop_user - chunk.first_user,
            settings.rank,
        )
        for chunk in chunks(settings)
    ]
    return TrueFactors(
        global_mean=GLOBAL_MEAN,
        user_ids=np.arange(1, settings.n_users + 1),
        item_ids=catalogue.ids,
        user_bias=np.concatenate([bias for bias, _ in users]),
        item_bias=catalogue.bias,
        user_factors=np.concatenate([factors for _, factors in users]),
        item_factors=catalogue.factors,
    )


def write_ratings(
    settings: GenerateSettings,
    path: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write all ratings: a CSV file if `path` ends with ``.csv``, else a folder of Parquet files.

    The output appears under its name when it is complete; a run that fails leaves nothing behind.
    `progress` is called with the number of ratings written and the number of all ratings.

    Raises
    ------
    InputError
        If `path` exists.
    """
    path = Path(path)
    with staged_path(str(path)) as staging:
        partial = Path(staging)
        write = _write_csv if path.suffix == ".csv" else _write_parquet
        for chunk in write(settings, partial):
            progress(chunk.stop_rating, settings.n_ratings)


# Shared by the chunks ----------------------------------------------------------------------------


class Purpose(IntEnum):
    """The purpose of a stream of random numbers."""

    ACTIVITY = 0
    CATALOGUE = 1
    USERS = 2
    RATINGS = 3


@dataclass(frozen=True)
class _Catalogue:
    """The items, sorted by id; `threshold` and `alias` draw by popularity (Walker 1977)."""

    ids: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    factors: np.ndarray
    threshold: np.ndarray
    alias: np.ndarray

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        position = rng.random(size) * len(self.ids)
        slot = position.astype(np.int64)
        return np.where(position - slot < self.threshold[slot], slot, self.alias[slot])


def _random(settings: GenerateSettings, purpose: Purpose, number: int = 0) -> np.random.Generator:
    """Return the stream of a purpose and chunk, which are the high words of the counter."""
    return np.random.Generator(np.random.Philox(key=settings.seed, counter=[0, 0, number, purpose]))


@lru_cache(maxsize=4)
def _user_offsets(settings: GenerateSettings) -> np.ndarray:
    """Return the number of each user's first rating, and ``n_ratings`` at the end."""
    fewest = min(FEWEST_RATINGS_OF_A_USER, -(-settings.n_ratings // (2 * settings.n_users)))
    activity = _random(settings, Purpose.ACTIVITY).lognormal(0, ACTIVITY_SPREAD, settings.n_users)
    remaining = settings.n_ratings - fewest * settings.n_users
    above = _scaled_to_sum(activity, remaining, limit=settings.n_items - fewest)
    offsets = np.zeros(settings.n_users + 1, dtype=np.int64)
    np.rint(np.cumsum(above), out=offsets[1:], casting="unsafe")
    offsets += fewest * np.arange(settings.n_users + 1)
    offsets[-1] = settings.n_ratings
    return offsets


def _scaled_to_sum(values: np.ndarray, total: int, *, limit: int) -> np.ndarray:
    """Scale values so that, each clipped to the limit, they add up to the total."""
    low, high = 0.0, max(total, 1) / values.min()
    for _ in range(100):
        middle = (low + high) / 2
        if np.minimum(values * middle, limit).sum() < total:
            low = middle
        else:
            high = middle
    return np.minimum(values * high, limit)


@lru_cache(maxsize=4)
def _catalogue(settings: GenerateSettings) -> _Catalogue:
    rng = _random(settings, Purpose.CATALOGUE)
    weight = rng.permutation(_popularity(settings))
    bias, factors = _biases_and_factors(rng, settings.n_items, settings.rank)
    threshold, alias = _alias_table(weight)
    ids = np.cumsum(rng.geometric(0.3, settings.n_items))
    return _Catalogue(ids, weight, bias, factors, threshold, alias)


def _popularity(settings: GenerateSettings) -> np.ndarray:
    """Return expected draws of items, most popular first: top * exp(-decline * rank ** bend)."""
    popularity_rank = (np.arange(settings.n_items) / settings.n_items) ** POPULARITY_BEND
    top = max(TOP_ITEM_WEIGHT * settings.n_users, settings.n_ratings / settings.n_items)
    low, high = 0.0, 100.0
    for _ in range(100):
        decline = (low + high) / 2
        if top * np.exp(-decline * popularity_rank).sum() > settings.n_ratings:
            low = decline
        else:
            high = decline
    return top * np.exp(-high * popularity_rank)


def _alias_table(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split the weights into equal slots of one item or parts of two items (Vose 1991)."""
    threshold = weight * (len(weight) / weight.sum())
    alias = np.arange(len(weight))
    small = np.flatnonzero(threshold < 1).tolist()
    large = np.flatnonzero(threshold >= 1).tolist()
    size = threshold.tolist()
    while small and large:
        lacking, giving = small.pop(), large[-1]
        alias[lacking] = giving
        size[giving] -= 1 - size[lacking]
        if size[giving] < 1:
            small.append(large.pop())
    # The sizes left in either list differ from 1 by rounding errors only.
    for slot in small + large:
        size[slot] = 1.0
    return np.array(size), alias


def _biases_and_factors(
    rng: np.random.Generator, n: int, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    bias = rng.standard_normal(n, dtype=np.float32) * np.float32(BIAS_SPREAD)
    spread = math.sqrt(AFFINITY_SPREAD / math.sqrt(rank))
    factors = rng.standard_normal((n, rank), dtype=np.float32) * np.float32(spread)
    return bias, factors


# One chunk ---------------------------------------------------------------------------------------


def _items_never_missing(settings: GenerateSettings, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Assign every item to one rating, evenly over all ratings, so that each item has one.

    Returns
    -------
    user, item : ndarray of int64
        The assignments in this chunk, sorted by user; users are counted from the chunk's first.
    """
    items = np.arange(settings.n_items)
    ratings = items * settings.n_ratings // settings.n_items
    first, stop = np.searchsorted(ratings, [chunk.first_rating, chunk.stop_rating])
    users = np.searchsorted(_user_offsets(settings), ratings[first:stop], side="right") - 1
    return users - chunk.first_user, items[first:stop]


def _draw_items(
    rng: np.random.Generator,
    catalogue: _Catalogue,
    counts: np.ndarray,
    assigned: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw each user's items by popularity without replacement, the assigned ones first.

    There are two ways, with the same distribution: draw items one after another and skip
    repetitions, or take the first to finish of an exponential race of all items (Efraimidis and
    Spirakis 2006). A race takes time proportional to the number of items, so it is used for users
    who rate a large part of the items, and for those with too few distinct draws.

    Returns
    -------
    user, item : ndarray of int64, shape (sum of counts,)
        Sorted by user, then item.
    """
    n_items = len(catalogue.ids)
    n_draws = _draws_for_distinct(catalogue, counts)
    n_draws[n_draws > n_items // 4] = 0
    user = np.concatenate([assigned[0], np.repeat(np.arange(len(counts)), n_draws)])
    item = np.concatenate([assigned[1], catalogue.draw(rng, n_draws.sum())])
    by_user = np.argsort(user, kind="stable")
    pairs = (user * n_items + item)[by_user]

    is_first = np.zeros(len(pairs), dtype=bool)
    is_first[np.unique(pairs, return_index=True)[1]] = True
    pairs = pairs[is_first]
    n_distinct = np.bincount(pairs // n_items, minlength=len(counts))
    turn = np.arange(len(pairs)) - np.repeat(np.cumsum(n_distinct) - n_distinct, n_distinct)
    kept = turn < np.repeat(np.where(n_distinct < counts, 0, counts), n_distinct)

    races = [pairs[kept]]
    for racer in np.flatnonzero(n_distinct < counts):
        finish = rng.standard_exponential(n_items) / catalogue.weight
        first, stop = np.searchsorted(assigned[0], [racer, racer + 1])
        finish[assigned[1][first:stop]] = -1
        winners = np.argpartition(finish, counts[racer] - 1)[: counts[racer]]
        races.append(racer * n_items + winners)
    user, item = np.divmod(np.sort(np.concatenate(races)), n_items)
    return user, item


def _draws_for_distinct(catalogue: _Catalogue, counts: np.ndarray) -> np.ndarray:
    """Return numbers of draws with replacement that rarely give too few distinct items."""
    share = catalogue.weight / catalogue.weight.sum()
    draws = np.unique(np.geomspace(1, 4 * len(share), 60).astype(np.int64))
    distinct = [-np.expm1(n * np.log1p(-np.minimum(share, 0.99))).sum() for n in draws]
    wanted = counts + 2 * np.sqrt(counts)
    return np.ceil(np.interp(wanted, distinct, draws)).astype(np.int64)


def _timestamps(rng: np.random.Generator, counts: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Draw a period for each user, proportional to the count, and a second of it per rating."""
    length = counts * SECONDS_A_RATING
    start = rng.integers(FIRST_SECOND, LAST_SECOND - length)
    return start[user] + rng.integers(0, length[user])


# Files -------------------------------------------------------------------------------------------


def _write_parquet(settings: GenerateSettings, folder: Path) -> Iterator[Chunk]:
    """Write a file for each chunk; yield each chunk when it is written."""
    folder.mkdir()
    for chunk in chunks(settings):
        file = folder / f"part-{chunk.number:05d}.parquet"
        pyarrow.parquet.write_table(generate_chunk(settings, chunk), file)
        yield chunk


def _write_csv(settings: GenerateSettings, file: Path) -> Iterator[Chunk]:
    """Write one file; yield each chunk when it is written."""
    options = pyarrow.csv.WriteOptions(quoting_style="none", quoting_header="none")
    with pyarrow.csv.CSVWriter(file, SCHEMA, write_options=options) as writer:
        for chunk in chunks(settings):
            writer.write_table(generate_chunk(settings, chunk))
            yield chunk
