"""The task of `prepare` that merges, splits and writes the ratings of one partition of users."""

from __future__ import annotations

import numpy as np

from dask_als.core.side import ITEMS, USERS, Side
from dask_als.data.dataset import TEST_DIRECTORY, ratings_path
from dask_als.data.kept_rows import write_repeated, write_times
from dask_als.data.one_rating import (
    OneRating,
    RatingColumns,
    one_rating_per_pair,
    without_held_out,
)
from dask_als.data.prepare_results import PartBlocks, PartRules, UserPart
from dask_als.data.prepare_tasks import (
    read_user_rows,
    stored_columns,
    to_items_path,
    write_ratings,
    write_shuffled,
)
from dask_als.data.split import latest_test, random_test


def write_user_part(
    number: int,
    blocks: PartBlocks,
    hashes: dict[Side, np.ndarray],
    item_ranges: list[range],
    rules: PartRules,
    dataset: str,
    work: str,
) -> UserPart:
    """Write the training and held-out ratings of one partition of users.

    Parameters
    ----------
    number : int
        The number of the partition.
    blocks : PartBlocks
    hashes : dict of Side to ndarray of uint64
        Hashes of the ids, for the random split.
    """
    settings = rules.settings
    merged, held_out, train, test = _split(number, blocks, hashes, rules, work)
    crc32 = write_ratings(ratings_path(dataset, USERS.ratings_directory, number), train, USERS)
    test_crc32 = None
    if settings.holds_out:
        test_crc32 = write_ratings(ratings_path(dataset, TEST_DIRECTORY, number), test, USERS)
    write_shuffled(to_items_path(work, number), stored_columns(train), ITEMS, item_ranges)
    times = repeated = None
    if rules.keeps_rows:
        if "time" in train:
            times = write_times(dataset, number, train, test)
        own = None if held_out is None else held_out.repeated
        repeated = write_repeated(dataset, number, merged.repeated, own)
    parts = [merged, *([held_out] if held_out is not None else [])]
    return UserPart(
        len(train["user"]),
        len(test["user"]),
        sum(part.n_merged for part in parts),
        next((part.duplicate for part in parts if part.duplicate), None),
        next((part.overflow for part in parts if part.overflow), None),
        crc32,
        test_crc32,
        times,
        repeated,
    )


def newest_training_time(
    number: int, blocks: PartBlocks, hashes: dict[Side, np.ndarray], rules: PartRules, work: str
) -> float:
    """Return the time of a partition's newest training rating; minus infinity if it has none."""
    *_, train, _ = _split(number, blocks, hashes, rules, work)
    return float(train["time"].max(initial=-np.inf))


def _split(
    number: int, blocks: PartBlocks, hashes: dict[Side, np.ndarray], rules: PartRules, work: str
) -> tuple[OneRating, OneRating | None, RatingColumns, RatingColumns]:
    """Return the merged rows, those of a test source, and training and held-out ratings."""
    settings = rules.settings
    rows = read_user_rows(work, blocks.train, number)
    merged = one_rating_per_pair(rows, settings, rules.decay)
    if settings.split == "own":
        rows = read_user_rows(work, blocks.test, number)
        held_out = one_rating_per_pair(rows, settings, rules.decay)
        merged = without_held_out(merged, held_out)
        return merged, held_out, merged.columns, held_out.columns
    if not settings.holds_out:
        none = {name: values[:0] for name, values in merged.columns.items()}
        return merged, None, merged.columns, none
    is_test = _is_test(merged.columns, hashes, rules)
    train, test = (
        {name: values[chosen] for name, values in merged.columns.items()}
        for chosen in (~is_test, is_test)
    )
    return merged, None, train, test


def _is_test(
    columns: RatingColumns, hashes: dict[Side, np.ndarray], rules: PartRules
) -> np.ndarray:
    """Return which of the ratings, sorted by user and item, are held out."""
    settings = rules.settings
    if rules.first_test_time is not None:
        is_late: np.ndarray = columns["time"] >= rules.first_test_time
        return is_late
    if settings.split == "latest":
        return latest_test(columns["user"], columns["time"], fraction=settings.test_fraction)
    return random_test(
        hashes[USERS][columns["user"]],
        hashes[ITEMS][columns["item"]],
        fraction=settings.test_fraction,
        seed=settings.seed,
    )
