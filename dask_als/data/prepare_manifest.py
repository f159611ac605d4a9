"""Compute the manifest of a new dataset from its written partitions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dask_als.core.superaccumulator import as_float
from dask_als.data.attributes import SideAttributes
from dask_als.data.dataset import Partition, SideTable, Weights
from dask_als.data.prepare_results import CheckedPart, CheckedSide, total_weight
from dask_als.data.rating_weights import Decay
from dask_als.errors import JobError


def side_table(
    side: CheckedSide, ranges: list[range], n_columns: int, tests: list[CheckedPart]
) -> SideTable:
    """Return what the manifest records about one side.

    Parameters
    ----------
    ranges : list of range
        The rows of each partition.
    n_columns : int
        Number of rows of the other side.
    tests : list of CheckedPart
        The partitions of held-out ratings; empty without a split.
    """
    partitions = [
        Partition(rows.start, rows.stop, ratings, n_columns=n_columns, crc32=crc32)
        for rows, ratings, crc32 in zip(ranges, side.part_ratings, side.part_crc32, strict=True)
    ]
    if tests:
        partitions = [
            replace(partition, test_ratings=test.n_ratings, test_crc32=test.crc32)
            for partition, test in zip(partitions, tests, strict=True)
        ]
    return SideTable(side.digest, side.crc32, tuple(partitions))


def check_nothing_lost(
    counts: dict[str, int], users: CheckedSide, items: CheckedSide, tests: list[CheckedPart]
) -> None:
    """Compare the ratings written by user and by item with those read.

    Raises
    ------
    JobError
        If a rating is missing or changed.
    """
    written = [
        ("by user", sum(users.part_ratings), counts["train"]),
        ("by item", sum(items.part_ratings), counts["train"]),
        ("as held out", sum(part.n_ratings for part in tests), counts["test"]),
        (
            "in total",
            sum(counts.values()) - counts["rows"],
            counts["rows"],
        ),
    ]
    for where, found, expected in written:
        if found != expected:
            raise JobError(f"{found:,} ratings were written {where}, {expected:,} were read")
    if (users.rating_sum, users.checksum) != (items.rating_sum, items.checksum):
        raise JobError("the ratings written by user and by item differ")


def weights_of(users: CheckedSide, tests: list[CheckedPart], decay: Decay | None) -> Weights | None:
    """Return what the manifest records about weights; None if ratings have none."""
    if users.weight_sum is None:
        return None
    return Weights(
        as_float(users.weight_sum),
        as_float(total_weight(tests) or 0),
        None if decay is None else decay.newest,
    )


def fingerprint(
    users: CheckedSide,
    items: CheckedSide,
    tests: list[CheckedPart],
    attributes: Sequence[SideAttributes | None] = (),
) -> str:
    """Return a digest of ids, ratings and attributes, independent of partitions and order."""
    content: list[Any] = [
        users.digest,
        items.digest,
        sum(users.part_ratings),
        users.checksum,
        sum(part.n_ratings for part in tests),
        sum(part.checksum for part in tests) % 2**64,
    ]
    if any(attributes):
        content += [its and its.crc32 for its in attributes]
    return hashlib.sha256(repr(content).encode()).hexdigest()
