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
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.data import prepare_tasks as tasks
from dask_als.data.kept_rows import write_kept
from dask_als.data.one_rating import RatingColumns, pair_keys
from dask_als.data.prepare_results import BlockNumber
from dask_als.errors import InputError

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


@dataclass(frozen=True)
class ToFilter:
    """The training rows that are filtered, shuffled to partitions of users.

    Attributes
    ----------
    bounds : Bounds
    work : str
        The directory of the shuffled rows.
    blocks : tuple of BlockNumber
    ranges : tuple of range
        The users of each partition.
    dataset : str
        Where rows that are left out are kept.
    """

    bounds: Bounds
    work: str
    blocks: tuple[BlockNumber, ...]
    ranges: tuple[range, ...]
    dataset: str


@dataclass(frozen=True)
class Filtered:
    """What a filter leaves.

    Attributes
    ----------
    core : dict of Side to handle of pyarrow.Table
        The ids that training rows may have, with the count of their distinct pairs.
    ids : dict of Side to handle of pyarrow.Table
        Those and the ids of a test source.
    left_out : tuple of int or None
        CRC-32 of the rows that are left out, for each partition; None if it has none.
    n_rows, n_users, n_items : int
        Rows, users and items that are left out.
    rounds : int
    """

    core: dict[Side, Any]
    ids: dict[Side, Any]
    left_out: tuple[int | None, ...]
    n_rows: int
    n_users: int
    n_items: int
    rounds: int

    def described(self) -> dict[str, int]:
        """Return what the manifest records beside the number of rows."""
        return {
            "filtered_users": self.n_users,
            "filtered_items": self.n_items,
            "filter_rounds": self.rounds,
        }


def leave_out(
    executor: Executor,
    rows: ToFilter,
    ids: dict[Side, Any],
    test_ids: dict[Side, Any] | None,
    progress: Progress,
) -> Filtered:
    """Find the users and items with enough ratings, and keep the rows of the others.

    Parameters
    ----------
    ids : dict of Side to handle of pyarrow.Table
        All ids of training rows.
    test_ids : dict of Side to handle of pyarrow.Table or None
        All ids of a test source.

    Raises
    ------
    InputError
        If nothing is left.
    """
    numbers = range(len(rows.ranges))
    pairs = [
        executor.submit(_read_pairs, rows, number, key=f"read-pairs-{number}") for number in numbers
    ]
    n_rows = executor.submit(n_rows_of, ids[ITEMS], key="count-items-0")
    counts, rounds = core_counts(executor, rows.bounds, n_rows, pairs, progress=progress)
    left = [
        executor.submit(n_left, counts, side, key=f"count-left-{side.name}-0") for side in SIDES
    ]
    users, items = executor.gather(left)
    if not users[0]:
        raise InputError(
            f"no user with {rows.bounds.users:,} ratings of items with {rows.bounds.items:,} "
            "ratings is left; use smaller --least-user-ratings and --least-item-ratings"
        )
    written = [
        executor.submit(_write_left_out, rows, number, ids, counts, key=f"write-left-out-{number}")
        for number in numbers
    ]
    core = {
        side: executor.submit(ids_left, ids[side], counts, side, key=f"ids-left-{side.name}-0")
        for side in SIDES
    }
    with_test = (
        core
        if test_ids is None
        else {
            side: executor.submit(
                tasks.merged_ids, [core[side], test_ids[side]], key=f"merge-test-ids-{side.name}-0"
            )
            for side in SIDES
        }
    )
    kept = executor.gather(written)
    return Filtered(
        core,
        with_test,
        tuple(crc32 for _, crc32 in kept),
        sum(n_rows for n_rows, _ in kept),
        users[1],
        items[1],
        rounds,
    )


def _read_pairs(rows: ToFilter, number: int) -> PartPairs:
    return distinct_pairs(tasks.read_user_rows(rows.work, rows.blocks, number), rows.ranges[number])


def _write_left_out(
    rows: ToFilter, number: int, ids: dict[Side, pa.Table], counts: Counts
) -> tuple[int, int | None]:
    read = tasks.read_user_rows(rows.work, rows.blocks, number)
    return write_left_out(read, ids, counts, rows.dataset, number)


def core_counts(
    executor: Executor, bounds: Bounds, n_items: Any, pairs: list[Any], *, progress: Progress
) -> tuple[Any, int]:
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
    int
        The number of rounds.
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
    return total, rounds


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


def n_left(counts: Counts, side: Side) -> tuple[int, int]:
    """Return how many rows of a side are left, and how many are not."""
    is_left = counts.of(side) > 0
    return int(is_left.sum()), int((~is_left).sum())


def n_rows_of(ids: pa.Table) -> int:
    """Return how many ids there are."""
    return int(ids.num_rows)


def ids_left(ids: pa.Table, counts: Counts, side: Side) -> pa.Table:
    """Return the ids of a side that are left, with the count of their ratings."""
    its = counts.of(side)
    table = pa.table({"id": ids["id"], "count": its})
    return table.filter(pa.array(its > 0)).combine_chunks()


def write_left_out(
    rows: RatingColumns, ids: dict[Side, pa.Table], counts: Counts, dataset: str, number: int
) -> tuple[int, int | None]:
    """Write the rows of a partition of which the user or the item is dropped.

    Returns
    -------
    int
        The number of these rows.
    int or None
        The file's CRC-32; None if there are none.
    """
    is_out = np.logical_or.reduce([counts.of(side)[rows[side.singular]] == 0 for side in SIDES])
    out = {name: values[is_out] for name, values in rows.items()}
    order = np.argsort(pair_keys(out), kind="stable")
    columns = {name: pa.array(values[order]) for name, values in out.items()}
    for side in SIDES:
        all_ids = ids[side]["id"].combine_chunks()
        columns[side.singular] = all_ids.take(columns[side.singular])
    return len(order), write_kept(dataset, "left_out", number, pa.table(columns))
