"""Results of the tasks of `prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from dask_als.core.side import Side
from dask_als.data.rating_weights import Decay
from dask_als.settings.data import PrepareSettings

BlockNumber = tuple[int, int]
"""A block of the source: the number of its chunk, and its number within the chunk."""


@dataclass(frozen=True)
class BlockCounts:
    """Number of rows of a block, of rejected rows, and of usable rows without time."""

    n_rows: int
    n_rejected: int
    n_untimed: int = 0

    @property
    def n_usable(self) -> int:
        """Number of usable rows."""
        return self.n_rows - self.n_rejected


@dataclass(frozen=True)
class ChunkSummary:
    """Summary of a chunk, for the plan.

    Attributes
    ----------
    blocks : tuple of BlockCounts
    id_types : dict of Side to frozenset of DataType
        The types of the ids in the chunk's blocks.
    largest_time : float or None
        The largest absolute value of its times; None if it has none.
    span : (int, int) or None
        Of a range of a text file: where its first record starts, and its last one ends.
    """

    blocks: tuple[BlockCounts, ...]
    id_types: dict[Side, frozenset[pa.DataType]]
    largest_time: float | None = None
    span: tuple[int, int] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows read."""
        return sum(block.n_rows for block in self.blocks)

    @property
    def n_rejected(self) -> int:
        """Number of rejected rows."""
        return sum(block.n_rejected for block in self.blocks)

    @property
    def n_untimed(self) -> int:
        """Number of usable rows without time."""
        return sum(block.n_untimed for block in self.blocks)


@dataclass(frozen=True)
class ReadChunk:
    """A chunk that was read; its rows are in the work directory.

    Attributes
    ----------
    summary : ChunkSummary
    ids : dict of Side to pyarrow.Table
        ``id``, ascending, and ``count``. Empty if the ids are of several types: then the chunk has
        to be read again.
    """

    summary: ChunkSummary
    ids: dict[Side, pa.Table]


@dataclass(frozen=True)
class PartBlocks:
    """The blocks with usable rows, in the order of the source.

    Attributes
    ----------
    train : tuple of BlockNumber
    test : tuple of BlockNumber
        Those of a test source.
    """

    train: tuple[BlockNumber, ...]
    test: tuple[BlockNumber, ...]


@dataclass(frozen=True)
class PartRules:
    """How the ratings of a partition are merged, split and kept.

    Attributes
    ----------
    settings : PrepareSettings
    first_test_time : float or None
        The first time that is held out, for the split by time.
    keeps_rows : bool
        Whether what appending needs is kept.
    decay : Decay or None
        How the weights of ratings decay.
    """

    settings: PrepareSettings
    first_test_time: float | None
    keeps_rows: bool
    decay: Decay | None = None


@dataclass(frozen=True)
class UserPart:
    """Summary of a written partition of users.

    Attributes
    ----------
    n_train, n_test, n_merged : int
        Number of training and held-out ratings, and of ratings merged into another of their pair.
    duplicate : (int, int) or None
        User and item index of a pair with several ratings.
    overflow : (int, int) or None
        User and item index of a pair whose ratings add up to more than the largest float32.
    crc32 : int
        CRC-32 of the file of training ratings.
    test_crc32, times, repeated : int or None
        CRC-32 of the file of held-out ratings, and of the files that are kept for appending; None
        if there is no such file.
    """

    n_train: int
    n_test: int
    n_merged: int
    duplicate: tuple[int, int] | None
    overflow: tuple[int, int] | None
    crc32: int
    test_crc32: int | None = None
    times: int | None = None
    repeated: int | None = None


@dataclass(frozen=True)
class CheckedPart:
    """Summary of a written partition, read back.

    Attributes
    ----------
    counts : ndarray of int64
        Number of ratings of each row.
    n_ratings : int
    crc32 : int
        CRC-32 of the file.
    rating_sum : int
        Exact sum.
    checksum : int
        Sum of hashes of (user, item, rating), modulo 2**64: the same by user and by item.
    rating_min, rating_max : float
    weight_sum : int or None
        Exact sum; None without weights. `rating_sum` is weighted, `checksum` covers the weights.
    """

    counts: np.ndarray
    n_ratings: int
    crc32: int
    rating_sum: int
    checksum: int
    rating_min: float
    rating_max: float
    weight_sum: int | None = None


@dataclass(frozen=True)
class CheckedSide:
    """Summary of the written partitions of one side, and the digest and CRC-32 of its ids."""

    digest: str
    crc32: int
    part_ratings: tuple[int, ...]
    part_crc32: tuple[int, ...]
    rating_sum: int
    checksum: int
    rating_min: float
    rating_max: float
    weight_sum: int | None = None


def with_decay(rules: PartRules, newest: float, chunks: Sequence[ChunkSummary]) -> PartRules:
    """Let weights decay from the newest training rating on, by the half-life of the settings."""
    days, largest = rules.settings.half_life, largest_time(chunks)
    assert days is not None, "weights decay"
    assert largest is not None, "a rating without a time was rejected"
    return replace(rules, decay=Decay.of_days(newest, days, largest))


def total_weight(parts: Sequence[CheckedPart]) -> int | None:
    """Return the exact sum of the weights of partitions; None without weights."""
    sums = [part.weight_sum for part in parts if part.weight_sum is not None]
    return sum(sums) if sums else None


def largest_time(chunks: Sequence[ChunkSummary]) -> float | None:
    """Return the largest absolute value of all times; None if there are none."""
    times = [chunk.largest_time for chunk in chunks if chunk.largest_time is not None]
    return max(times, default=None)
