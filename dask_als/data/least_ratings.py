"""The users and items that have a least number of ratings among each other: a k-core.

To drop an item takes ratings from users, who may have too few then, and the other way round. So
rows are dropped in rounds until a round drops none. What is left does not depend on the order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dask_als.core.executor import Executor, reduce_by_tree
from dask_als.core.side import SIDES, USERS, Side
from dask_als.data.kept_rows import write_kept
from dask_als.data.one_rating import RatingColumns, pair_keys

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bounds:
    """The least number of ratings that a user and an item must have."""

    users: int
    items: int


@dataclass(frozen=True)
class PartPairs:
    """The distinct pairs of one partition of users.

    Attributes
    ----------
    rows : range
        The partition's users.
    user, item : ndarray of int32, shape (n_pairs,)
    """

    rows: range
    user: np.ndarray
    item: np.ndarray

    def __sizeof__(self) -> int:
        return self.user.nbytes + self.item.nbytes


@dataclass(frozen=True)
class Counts:
    """The ratings among the users and items that are left, of consecutive partitions of users.

    Attributes
    ----------
    users : ndarray of int64, shape (n_rows,)
        Of each of their users; 0 for those that are dropped.
    items : ndarray of int64, shape (n_items,)
        That these users have of each item; 0 for items that are dropped.
    """

    users: np.ndarray
    items: np.ndarray

    def __sizeof__(self) -> int:
        return self.users.nbytes + self.items.nbytes

    def of(self, side: Side) -> np.ndarray:
        """Return the counts of one side."""
        return self.users if side is USERS else self.items


def core_counts(
    executor: Executor, bounds: Bounds, n_items: Any, pairs: list[Any], *, progress: Progress
) -> Any:
    """Drop users and items with too few ratings until all that are left have enough.

    Parameters
    ----------
    n_items : handle of int
    pairs : list of handle of PartPairs
        Of each partition of users.
    progress : callable
        Called with the number of rounds that have ended, and of those that are known to come.

    Returns
    -------
    handle of Counts
        Of all users.
    """
    total, n_dropped, rounds = None, 1, 0
    while n_dropped:
        progress(rounds, rounds + 1)
        parts = [
            executor.submit(
                count_part, part, n_items, total, bounds, key=f"count-ratings-{rounds}-{number}"
            )
            for number, part in enumerate(pairs)
        ]
        total = reduce_by_tree(executor, added, parts, name=f"add-counts-{rounds}")
        dropped = executor.submit(items_to_drop, total, bounds, key=f"items-to-drop-{rounds}")
        (n_dropped,) = executor.gather([dropped])
        rounds += 1
    progress(rounds, rounds)
    return total


def distinct_pairs(rows: RatingColumns, its: range) -> PartPairs:
    """Return the distinct pairs of a partition of users."""
    keys = np.unique(pair_keys(rows))
    return PartPairs(its, (keys >> 32).astype(np.int32), (keys & 0x7FFFFFFF).astype(np.int32))


def count_part(pairs: PartPairs, n_items: int, before: Counts | None, bounds: Bounds) -> Counts:
    """Drop the items that had too few ratings before, then the users that have too few now."""
    user, item = pairs.user - np.int32(pairs.rows.start), pairs.item
    if before is not None:
        is_left = before.items[item] >= bounds.items
        user, item = user[is_left], item[is_left]
    users = np.bincount(user, minlength=len(pairs.rows))
    users[users < bounds.users] = 0
    return Counts(users, np.bincount(item[users[user] > 0], minlength=n_items))


def added(parts: list[Counts]) -> Counts:
    """Join the counts of consecutive partitions."""
    return Counts(
        np.concatenate([part.users for part in parts]),
        np.sum([part.items for part in parts], axis=0),
    )


def items_to_drop(counts: Counts, bounds: Bounds) -> int:
    """Return how many items have ratings left, but too few."""
    return int(((counts.items > 0) & (counts.items < bounds.items)).sum())


def n_rows_of(ids: pa.Table) -> int:
    """Return how many ids there are."""
    return int(ids.num_rows)


def ids_left(ids: pa.Table, counts: Counts, side: Side) -> pa.Table:
    """Return the ids of a side that are left, with the count of their ratings."""
    its = counts.of(side)
    table = pa.table({"id": ids["id"], "count": its})
    return table.filter(pa.array(its > 0)).combine_chunks()


def write_left_out(
    rows: RatingColumns, ids: dict[str, pa.Table], counts: Counts, dataset: str, number: int
) -> int | None:
    """Write the rows of a partition of which the user or the item is dropped.

    Returns
    -------
    int or None
        The file's CRC-32; None if there are no such rows.
    """
    is_out = np.logical_or.reduce([counts.of(side)[rows[side.singular]] == 0 for side in SIDES])
    out = {name: values[is_out] for name, values in rows.items()}
    order = np.argsort(pair_keys(out), kind="stable")
    columns = {name: pa.array(values[order]) for name, values in out.items()}
    for side in SIDES:
        all_ids = ids[side.name]["id"].combine_chunks()
        columns[side.singular] = all_ids.take(columns[side.singular])
    return write_kept(dataset, "left-out", number, pa.table(columns))
